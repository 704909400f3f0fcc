#include "engine/tokenizer/special.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b)
{
    const struct special_entry *x = a;
    const struct special_entry *y = b;
    uint32_t n = x->text.n < y->text.n ? x->text.n : y->text.n;
    int c = memcmp(x->text.s, y->text.s, n);
    if (c) {
        return c;
    }
    if (x->text.n != y->text.n) {
        return x->text.n < y->text.n ? -1 : 1;
    }
    return (x->id > y->id) - (x->id < y->id);
}

enum err_code special_init(struct special *s, const struct span *texts, const int32_t *ids,
                           size_t n, struct err *e)
{
    struct special_entry *entries = malloc((n ? n : 1) * sizeof *entries);
    if (!entries) {
        return err_set(e, ERR_NOMEM, "out of memory for %zu added tokens", n);
    }
    *s = (struct special){.entries = entries};
    for (size_t i = 0; i < n; i++) {
        if (texts[ids[i]].n && utf8_valid(texts[ids[i]].s, texts[ids[i]].n)) {
            entries[s->n++] = (struct special_entry){.text = texts[ids[i]], .id = ids[i]};
        }
    }
    qsort(entries, s->n, sizeof *entries, compare);
    size_t at = 0;
    for (size_t b = 0; b < 256; b++) {
        s->first[b] = (uint32_t)at;
        while (at < s->n && (unsigned char)entries[at].text.s[0] == b) {
            at++;
        }
    }
    s->first[256] = (uint32_t)at;
    return ERR_OK;
}

void special_finish(struct special *s)
{
    free(s->entries);
    *s = (struct special){0};
}

/* First entry of [lo, hi) whose byte at `depth` is at least b; all of them are longer than depth.
 */
static uint32_t lower_bound(const struct special *s, uint32_t lo, uint32_t hi, uint32_t depth,
                            unsigned b)
{
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if ((unsigned char)s->entries[mid].text.s[depth] < b) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

/* The longest entry that text[0…n) begins with, or NULL: the range of entries that agree so far
 * narrows byte by byte. An entry that ends comes first in its range. */
static const struct special_entry *longest(const struct special *s, const char *text, size_t n)
{
    unsigned b = (unsigned char)text[0];
    uint32_t lo = s->first[b];
    uint32_t hi = s->first[b + 1];
    const struct special_entry *best = NULL;
    for (uint32_t depth = 1; lo < hi; depth++) {
        if (s->entries[lo].text.n == depth) {
            best = &s->entries[lo];
        }
        while (lo < hi && s->entries[lo].text.n == depth) {
            lo++;
        }
        if (depth >= n) {
            break;
        }
        b = (unsigned char)text[depth];
        lo = lower_bound(s, lo, hi, depth, b);
        hi = lower_bound(s, lo, hi, depth, b + 1);
    }
    return best;
}

size_t special_find(const struct special *s, const char *text, size_t n, int32_t *ret_id,
                    size_t *ret_len)
{
    if (!s->n) {
        return n;
    }
    for (size_t i = 0; i < n; i++) {
        unsigned b = (unsigned char)text[i];
        if (s->first[b] == s->first[b + 1]) {
            continue;
        }
        const struct special_entry *found = longest(s, text + i, n - i);
        if (found) {
            *ret_id = found->id;
            *ret_len = found->text.n;
            return i;
        }
    }
    return n;
}
