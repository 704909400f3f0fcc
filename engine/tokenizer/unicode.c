#include "engine/tokenizer/unicode.h"

/* Hangul syllables decompose by arithmetic (Unicode 3.12). */
#define HANGUL_FIRST    0xac00u
#define HANGUL_COUNT    11172u
#define HANGUL_LEAD     0x1100u
#define HANGUL_PER_LEAD 588u

static const struct uni_pair *find(const struct uni_pair *pairs, size_t n, uint32_t cp)
{
    size_t lo = 0;
    while (lo < n) {
        size_t mid = lo + (n - lo) / 2;
        if (pairs[mid].cp == cp) {
            return &pairs[mid];
        }
        if (pairs[mid].cp < cp) {
            lo = mid + 1;
        } else {
            n = mid;
        }
    }
    return NULL;
}

uint32_t uni_lower(uint32_t cp)
{
    if (cp < 0x80) {
        return cp >= 'A' && cp <= 'Z' ? cp + ('a' - 'A') : cp;
    }
    const struct uni_pair *p = find(uni_lower_pairs, uni_n_lower_pair, cp);
    return p ? p->to : cp;
}

uint32_t uni_base(uint32_t cp)
{
    if (cp < 0x80) {
        return cp;
    }
    if (cp >= HANGUL_FIRST && cp < HANGUL_FIRST + HANGUL_COUNT) {
        return HANGUL_LEAD + (cp - HANGUL_FIRST) / HANGUL_PER_LEAD;
    }
    const struct uni_pair *p = find(uni_base_pairs, uni_n_base_pair, cp);
    return p ? p->to : cp;
}
