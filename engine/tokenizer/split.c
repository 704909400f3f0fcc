#include "engine/tokenizer/split.h"

#include "engine/tokenizer/unicode.h"

#include <string.h>

/* Sets of SPLIT_CASED. */
#define UPPER (UNI_BIT(UNI_LU) | UNI_BIT(UNI_LT) | UNI_BIT(UNI_LM) | UNI_BIT(UNI_LO) | UNI_M)
#define LOWER (UNI_BIT(UNI_LL) | UNI_BIT(UNI_LM) | UNI_BIT(UNI_LO) | UNI_M)

/* Word characters of \b: letters, marks, decimal digits, connectors, letter-like numbers. */
#define WORD (UNI_L | UNI_M | UNI_BIT(UNI_ND) | UNI_BIT(UNI_NL) | UNI_BIT(UNI_PC))

#define BLOCK_MAX 512

#define LONG_S 0x17f /* its upper case is S, so (?i:'s) takes it */

/* Category bit of the character at s and its length; 0 at the end. */
static inline uint32_t peek(const char *s, const char *end, size_t *ret_len)
{
    if (s >= end) {
        *ret_len = 0;
        return 0;
    }
    if ((unsigned char)*s < 0x80) {
        *ret_len = 1;
        return UNI_BIT(uni_class_text[0][(unsigned char)*s] - '@');
    }
    const char *next = s;
    uint32_t cp = uni_next(&next);
    *ret_len = (size_t)(next - s);
    return uni_bit(cp);
}

/* End of the run of characters in set that starts at s, at most n_max characters. */
static inline const char *run(const char *s, const char *end, uint32_t set, uint32_t n_max)
{
    for (uint32_t i = 0; i < n_max; i++) {
        size_t len;
        if (!(peek(s, end, &len) & set)) {
            break;
        }
        s += len;
    }
    return s;
}

static const char *run_of(const char *s, const char *end, const char *set)
{
    while (s < end && *s && strchr(set, *s)) {
        s++;
    }
    return s;
}

/* Length of 's|'t|'re|'ve|'m|'ll|'d at s, whatever the case if fold; 0 if none. */
static size_t contraction(const char *s, const char *end, bool fold)
{
    if (end - s < 2 || *s != '\'') {
        return 0;
    }
    int lower = fold ? 0x20 : 0;
    int a = s[1] | lower;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') {
        return 2;
    }
    if (end - s < 3) {
        return 0;
    }
    const char *next = s + 1;
    if (fold && (s[1] & 0x80) && uni_next(&next) == LONG_S) {
        return 3;
    }
    int b = s[2] | lower;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/* \s+(?!\S)|\s+ : white space but for its last character where something follows. */
static const char *blanks(const char *s, const char *end)
{
    const char *last = s;
    const char *at = s;
    for (;;) {
        size_t len;
        if (!(peek(at, end, &len) & UNI_SPACE)) {
            break;
        }
        last = at;
        at += len;
    }
    return at == end || last == s ? at : last;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ : up to the last line break, if there is one. */
static const char *blanks_or_lines(const char *s, const char *end)
{
    const char *last = s;
    const char *at = s;
    const char *line = NULL;
    for (;;) {
        size_t len;
        if (!(peek(at, end, &len) & UNI_SPACE)) {
            break;
        }
        line = *at == '\n' || *at == '\r' ? at + 1 : line;
        last = at;
        at += len;
    }
    if (line) {
        return line;
    }
    return at == end || last == s ? at : last;
}

/* The same with \s+(?!\S)|\s+ in powers of two: \s{512}(?!\S)|…|\s{4}(?!\S)|\s{1,2}(?!\S)|\s */
static const char *blocks_or_lines(struct split_memo *memo, const char *s, const char *end)
{
    if (memo->until <= s) {
        const char *stop = run(s, end, UNI_SPACE, UINT32_MAX);
        const char *line = stop;
        while (line > s && line[-1] != '\n' && line[-1] != '\r') {
            line--;
        }
        if (line > s) {
            return line;
        }
        memo->until = stop;
    }
    for (uint32_t n = BLOCK_MAX; n; n /= 2) {
        uint32_t left = n;
        const char *at = s;
        for (size_t len; left && peek(at, memo->until, &len) & UNI_SPACE; at += len) {
            left--;
        }
        if (!left && (at < memo->until || at == end)) {
            return at;
        }
    }
    return run(s, end, UNI_SPACE, 1);
}

static const char *next_gpt2(const char *s, const char *end)
{
    size_t len = contraction(s, end, false);
    if (len) {
        return s + len;
    }
    const char *at = *s == ' ' ? s + 1 : s;
    uint32_t bit = peek(at, end, &len);
    if (bit & UNI_L) {
        return run(at + len, end, UNI_L, UINT32_MAX);
    }
    if (bit & UNI_N) {
        return run(at + len, end, UNI_N, UINT32_MAX);
    }
    if (bit & ~UNI_SPACE) {
        return run(at + len, end, ~(UNI_SPACE | UNI_L | UNI_N), UINT32_MAX);
    }
    return blanks(s, end);
}

/* What SPLIT_WORDS and SPLIT_CASED share, after words:
 * \p{N}{1,DIGITS}| ?[^\s\p{N}LETTERS]+[TAIL]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
static const char *next_other(const struct split_rule *rule, struct split_memo *memo,
                              uint32_t letters, const char *s, const char *end)
{
    size_t len;
    if (peek(s, end, &len) & UNI_N) {
        return run(s + len, end, UNI_N, rule->n_digit_max - 1);
    }
    uint32_t marks = ~(UNI_SPACE | UNI_N | letters);
    const char *at = *s == ' ' ? s + 1 : s;
    if (peek(at, end, &len) & marks) {
        return run_of(run(at + len, end, marks, UINT32_MAX), end, rule->tail);
    }
    return rule->form == SPLIT_BLOCKS ? blocks_or_lines(memo, s, end) : blanks_or_lines(s, end);
}

/* Where letters may start: after [^\r\n\p{L}\p{N}]?, taken if there is one. */
static const char *after_lead(const char *s, const char *end)
{
    size_t len;
    uint32_t bit = peek(s, end, &len);
    return bit & (UNI_L | UNI_N) || *s == '\r' || *s == '\n' ? s : s + len;
}

static const char *next_words(const struct split_rule *rule, struct split_memo *memo, const char *s,
                              const char *end)
{
    size_t len = rule->contractions ? contraction(s, end, true) : 0;
    if (len) {
        return s + len;
    }
    const char *at = after_lead(s, end);
    if (peek(at, end, &len) & rule->letters) {
        return run(at + len, end, rule->letters, UINT32_MAX);
    }
    if (peek(s, end, &len) & rule->letters) {
        return run(s + len, end, rule->letters, UINT32_MAX);
    }
    return next_other(rule, memo, rule->letters, s, end);
}

/* peek for SPLIT_CASED: letters and marks of the Han script are none. */
static inline uint32_t peek_cased(const struct split_rule *rule, const char *s, const char *end,
                                  size_t *ret_len)
{
    uint32_t bit = peek(s, end, ret_len);
    if (rule->han && *ret_len > 1) {
        const char *next = s;
        bit = uni_class(uni_next(&next)) & UNI_CLASS_HAN ? 0 : bit;
    }
    return bit;
}

/* U*W+ at s, or NULL: the longest run of U, then of W, giving back what W needs. */
static const char *upper_lower(const struct split_rule *rule, const char *s, const char *end)
{
    const char *both = NULL; /* end of the last character of the run that is in W too */
    size_t len;
    uint32_t bit;
    while ((bit = peek_cased(rule, s, end, &len)) & UPPER) {
        s += len;
        both = bit & LOWER ? s : both;
    }
    if (!(bit & LOWER)) {
        return both;
    }
    while (peek_cased(rule, s, end, &len) & LOWER) {
        s += len;
    }
    return s;
}

/* U+W* at s, or NULL. Only asked where upper_lower failed, so W* is empty. */
static const char *upper_only(const struct split_rule *rule, const char *s, const char *end)
{
    size_t len;
    const char *at = s;
    while (peek_cased(rule, at, end, &len) & UPPER) {
        at += len;
    }
    return at == s ? NULL : at;
}

static const char *next_cased(const struct split_rule *rule, struct split_memo *memo, const char *s,
                              const char *end)
{
    const char *at = s;
    while (rule->han && at < end) {
        const char *next = at;
        if (!(uni_class(uni_next(&next)) & UNI_CLASS_HAN)) {
            break;
        }
        at = next;
    }
    if (at > s) {
        return at;
    }
    const char *led = after_lead(s, end);
    const char *stop = upper_lower(rule, led, end);
    stop = stop || led == s ? stop : upper_lower(rule, s, end);
    stop = stop ? stop : upper_only(rule, led, end);
    stop = stop || led == s ? stop : upper_only(rule, s, end);
    if (stop) {
        return stop + (rule->contractions ? contraction(stop, end, true) : 0);
    }
    return next_other(rule, memo, UNI_L, s, end);
}

static const char *next_line(const char *s, const char *end)
{
    if (*s == '\n') {
        while (s < end && *s == '\n') {
            s++;
        }
        return s;
    }
    const char *line = memchr(s, '\n', (size_t)(end - s));
    return line ? line : end;
}

static const char *next_spaced(const char *s, const char *end)
{
    while (s < end && *s == ' ') {
        s++;
    }
    const char *space = s < end ? memchr(s, ' ', (size_t)(end - s)) : NULL;
    return space ? space : end;
}

/* Text up to the next run of digits that is in groups, else that run's first group. */
static const char *next_group(const struct split_rule *rule, struct split_memo *memo, const char *s,
                              const char *end)
{
    const uint32_t digits = rule->letters;
    if (memo->until > s) {
        return run(s, end, digits, 3);
    }
    for (const char *at = s;;) {
        const char *from = run(at, end, ~digits, UINT32_MAX);
        uint32_t n_digit = 0;
        size_t len = 0;
        at = from;
        while (peek(at, end, &len) & digits) {
            at += len;
            n_digit++;
        }
        if (rule->form == SPLIT_GROUPS && peek(at, end, &len) & WORD) {
            continue;
        }
        if (from > s) {
            return from;
        }
        memo->until = at;
        return run(s, end, digits, n_digit % 3 ? n_digit % 3 : 3);
    }
}

/* Up to the next place that whole threes of digits follow up to the end of their run. */
static const char *next_cut(const struct split_rule *rule, struct split_memo *memo, const char *s,
                            const char *end)
{
    const uint32_t digits = rule->letters;
    const char *at = s;
    if (memo->until > s) {
        at = run(s, end, digits, 3);
        if (at < memo->until) {
            return at;
        }
    }
    while (at < end) {
        const char *from = run(at, end, ~digits, UINT32_MAX);
        uint32_t n_digit = 0;
        size_t len = 0;
        at = from;
        while (peek(at, end, &len) & digits) {
            at += len;
            n_digit++;
        }
        if (n_digit < 3) {
            continue;
        }
        memo->until = at;
        const char *cut = run(from, end, digits, n_digit % 3);
        cut = cut > s ? cut : run(s, end, digits, 3);
        if (cut < at) {
            return cut;
        }
    }
    return end;
}

size_t split_next(const struct split_rule *rule, struct split_memo *memo, const char *s, size_t n)
{
    const char *end = s + n;
    const char *stop = end;
    switch (rule->form) {
    case SPLIT_GPT2: stop = next_gpt2(s, end); break;
    case SPLIT_WORDS:
    case SPLIT_BLOCKS: stop = next_words(rule, memo, s, end); break;
    case SPLIT_CASED: stop = next_cased(rule, memo, s, end); break;
    case SPLIT_LINES: stop = next_line(s, end); break;
    case SPLIT_SPACES: stop = next_spaced(s, end); break;
    case SPLIT_CUTS: stop = next_cut(rule, memo, s, end); break;
    case SPLIT_THREES:
    case SPLIT_GROUPS: stop = next_group(rule, memo, s, end); break;
    }
    return (size_t)(stop - s);
}
