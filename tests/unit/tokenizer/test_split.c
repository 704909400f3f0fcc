/* The hand-written splitters and the category tables against PCRE2, on random text. Code points
 * that the PCRE2 at hand is too old to know are left out. */
#define PCRE2_CODE_UNIT_WIDTH 8

#include "base/rng.h"
#include "base/utf8.h"
#include "engine/tokenizer/split.h"
#include "engine/tokenizer/unicode.h"

#include <pcre2.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CODE_POINTS 0x110000u
#define ROUNDS      60000
#define CHARS_MAX   24
#define DRAW_MAX    17 /* bytes */

/* The script itself; from 10.40 on \p{Han} alone means its extensions. */
#if PCRE2_MAJOR > 10 || PCRE2_MINOR >= 40
#define HAN "\\p{sc:Han}"
#else
#define HAN "\\p{Han}"
#endif

#define WS       "\\t-\\r\\x{85}\\p{Z}"
#define SPACE    "[" WS "]"
#define REST     SPACE "*[\\r\\n]+|" SPACE "+(?![^" WS "])|" SPACE "+"
#define BLOCK(n) SPACE "{" n "}(?![^" WS "])|"
#define QUOTE    "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define UPPER    "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER    "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define LEAD     "[^\\r\\n\\p{L}\\p{N}]?"
#define MARKS    " ?[^" WS "\\p{L}\\p{N}]+"
#define HAN_U    "(?:(?!" HAN ")" UPPER ")"
#define HAN_L    "(?:(?!" HAN ")" LOWER ")"
#define WORD     "[\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}]"

static const struct {
    const char *regex;
    struct split_rule rule;
} cases[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|" MARKS "|" SPACE "+(?![^" WS "])|" SPACE "+",
     {.form = SPLIT_GPT2}},
    {QUOTE "|" LEAD "\\p{L}+|\\p{N}{1,3}|" MARKS "[\\r\\n]*|" REST,
     {.form = SPLIT_WORDS,
      .letters = UNI_L,
      .n_digit_max = 3,
      .contractions = true,
      .tail = "\r\n"}},
    {QUOTE "|" LEAD "\\p{L}+|\\p{N}|" MARKS "[\\r\\n]*|" REST,
     {.form = SPLIT_WORDS,
      .letters = UNI_L,
      .n_digit_max = 1,
      .contractions = true,
      .tail = "\r\n"}},
    {QUOTE "|" LEAD "[\\p{L}\\p{M}]+|\\p{N}| ?[^" WS "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" REST,
     {.form = SPLIT_WORDS,
      .letters = UNI_L | UNI_M,
      .n_digit_max = 1,
      .contractions = true,
      .tail = "\r\n"}},
    {QUOTE "|" LEAD "\\p{L}+|\\p{N}+|" MARKS "[\\r\\n]*|" REST,
     {.form = SPLIT_WORDS,
      .letters = UNI_L,
      .n_digit_max = UINT32_MAX,
      .contractions = true,
      .tail = "\r\n"}},
    {QUOTE "|" LEAD "\\p{L}+|\\p{N}{1}| ?[^" WS "\\p{L}\\p{N}\\r\\n]+|" REST,
     {.form = SPLIT_WORDS, .letters = UNI_L, .n_digit_max = 1, .contractions = true, .tail = ""}},
    {LEAD "\\p{L}+|\\p{N}|" MARKS "[\\r\\n]*|" REST,
     {.form = SPLIT_WORDS, .letters = UNI_L, .n_digit_max = 1, .tail = "\r\n"}},
    {QUOTE "|" LEAD "\\p{L}+|\\p{N}{1,3}|" MARKS "[\\r\\n]*|" SPACE "*[\\r\\n]+|" BLOCK("512")
         BLOCK("256") BLOCK("128") BLOCK("64") BLOCK("32") BLOCK("16") BLOCK("8") BLOCK("4")
             BLOCK("1,2") SPACE,
     {.form = SPLIT_BLOCKS,
      .letters = UNI_L,
      .n_digit_max = 3,
      .contractions = true,
      .tail = "\r\n"}},
    /* bailingmoe's own spelling: possessive, and one line break at a time */
    {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^" WS
     "\\p{L}\\p{N}]++[\\r\\n]*|" SPACE "*[\\r\\n]|" SPACE "+(?![^" WS "])|" SPACE "+",
     {.form = SPLIT_WORDS,
      .letters = UNI_L,
      .n_digit_max = 1,
      .contractions = true,
      .tail = "\r\n"}},
    {LEAD UPPER "*" LOWER "+" QUOTE "?|" LEAD UPPER "+" LOWER "*" QUOTE "?|\\p{N}{1,3}|" MARKS
                "[\\r\\n/]*|" REST,
     {.form = SPLIT_CASED, .n_digit_max = 3, .contractions = true, .tail = "\r\n/"}},
    {LEAD UPPER "*" LOWER "+|" LEAD UPPER "+" LOWER "*|\\p{N}|" MARKS "[\\r\\n/]*|" REST,
     {.form = SPLIT_CASED, .n_digit_max = 1, .tail = "\r\n/"}},
    {HAN "+|" LEAD HAN_U "*" HAN_L "+" QUOTE "?|" LEAD HAN_U "+" HAN_L "*" QUOTE
         "?|\\p{N}{1,3}|" MARKS "[\\r\\n]*|" REST,
     {.form = SPLIT_CASED, .n_digit_max = 3, .contractions = true, .han = true, .tail = "\r\n"}},
    {"[^\\n]+|[\\n]+", {.form = SPLIT_LINES}},
    {" *[^ ]+| +", {.form = SPLIT_SPACES}},
    {"(?s).(?:(?!(?<!^)(?=(?:\\p{Nd}{3})+(?!\\p{Nd}))).)*",
     {.form = SPLIT_CUTS, .letters = UNI_BIT(UNI_ND)}},
    {"\\p{Nd}{1,3}(?=(?:\\p{Nd}{3})*(?!\\p{Nd}))",
     {.form = SPLIT_THREES, .letters = UNI_BIT(UNI_ND)}},
    {"\\p{N}{1,3}(?=(?:\\p{N}{3})*(?!\\p{N}))", {.form = SPLIT_THREES, .letters = UNI_N}},
    {"\\p{Nd}{1,3}(?=(?:\\p{Nd}{3})*(?!" WORD "))",
     {.form = SPLIT_GROUPS, .letters = UNI_BIT(UNI_ND)}},
};
#define N_CASE (sizeof cases / sizeof *cases)

static pcre2_code *compile(const char *regex)
{
    int code = 0;
    size_t at = 0;
    pcre2_code *c = pcre2_compile((PCRE2_SPTR)regex, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP,
                                  &code, &at, NULL);
    if (!c) {
        fail_msg("%s: error %d at %zu", regex, code, at);
    }
    (void)pcre2_jit_compile(c, PCRE2_JIT_COMPLETE);
    return c;
}

/* Which code points are in a class, by PCRE2. */
static void fill(const char *regex, uint8_t value, uint8_t *table)
{
    pcre2_code *c = compile(regex);
    pcre2_match_data *m = pcre2_match_data_create(1, NULL);
    for (uint32_t cp = 0; cp < CODE_POINTS; cp++) {
        char s[4];
        size_t n = cp >= 0xd800 && cp <= 0xdfff ? 0 : utf8_encode(cp, s);
        if (n && pcre2_match(c, (PCRE2_SPTR)s, n, 0, PCRE2_NO_UTF_CHECK, m, NULL) >= 0) {
            table[cp] = value;
        }
    }
    pcre2_match_data_free(m);
    pcre2_code_free(c);
}

static uint8_t known[CODE_POINTS]; /* assigned for PCRE2, and of the same class */

static void test_categories(void **state)
{
    (void)state;
    static const char *const names[] = {"Cn", "Cc", "Cf", "Co", "Cs", "Ll", "Lm", "Lo", "Lt", "Lu",
                                        "Mc", "Me", "Mn", "Nd", "Nl", "No", "Pc", "Pd", "Pe", "Pf",
                                        "Pi", "Po", "Ps", "Sc", "Sk", "Sm", "So", "Zl", "Zp", "Zs"};
    static uint8_t cat[CODE_POINTS];
    static uint8_t han[CODE_POINTS];
    for (uint8_t i = 0; i < sizeof names / sizeof *names; i++) {
        char regex[16] = "\\p{";
        strcat(regex, names[i]);
        strcat(regex, "}");
        if (i != UNI_CS) {
            fill(regex, i, cat);
        }
    }
    fill(HAN, 1, han);
    unsigned n_new = 0;
    unsigned n_changed = 0;
    for (uint32_t cp = 0; cp < CODE_POINTS; cp++) {
        unsigned class = uni_class(cp);
        unsigned mine = class & UNI_CLASS_CAT_MASK;
        bool white = (cp >= 9 && cp <= 13) || cp == 0x85;
        assert_int_equal(mine == UNI_WHITE, white);
        bool same = (white ? UNI_CC : mine) == cat[cp] && !(class & UNI_CLASS_HAN) == !han[cp];
        known[cp] = same && cat[cp] != UNI_CN && !(cp >= 0xd800 && cp <= 0xdfff);
        n_new += !same && cat[cp] == UNI_CN && !(cp >= 0xd800 && cp <= 0xdfff);
        n_changed += !same && cat[cp] != UNI_CN;
    }
    print_message("%u code points are new to this PCRE2, %u were reclassified\n", n_new, n_changed);
    assert_true(n_changed < 64);
    assert_true(n_new < 30000);
}

/* A character: mostly of the few that make the rules differ, at times any that both know. */
static size_t draw(uint64_t *seed, char *out)
{
    /* clang-format off */
    static const char *const picks[] = {
        "                 ", "     ", " ", " ", " ", "\n", "\r", "\t", "a", "b", "Z", "Q", "'",
        "'s", "'S", "'ll", "'Re", "'ve", "'\xc5\xbf", "1", "2", "33", "4444", ".", "/", "!", "_",
        "(", "\xc2\xa0", "\xe3\x80\x80", "\xc3\xa9", "\xc3\x89", "\xcc\x81", "\xe4\xb8\xad",
        "\xe3\x80\x87", "\xe3\x80\x85", "\xc7\x85", "\xca\xb0", "\xd9\xa3", "\xe2\x85\xa7",
        "\xc2\xb2", "\xf0\x9f\x98\x80", "\xe1\xa0\x8e", "\xc2\x85", "\xe2\x80\xa8",
        "\xe2\xba\x80", "\xe0\xa4\xbe", "\xe2\x80\xbf",
    };
    /* clang-format on */
    if (rng_next(seed) % 4) {
        const char *s = picks[rng_next(seed) % (sizeof picks / sizeof *picks)];
        size_t n = strlen(s);
        memcpy(out, s, n);
        return n;
    }
    for (;;) {
        uint32_t cp = (uint32_t)(rng_next(seed) % (rng_next(seed) % 2 ? CODE_POINTS : 0x3000));
        if (known[cp]) {
            return utf8_encode(cp, out);
        }
    }
}

static void compare(const struct split_rule *rule, const pcre2_code *code, pcre2_match_data *m,
                    const char *s, size_t n)
{
    struct split_memo memo = {0};
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(m);
    size_t done = 0;
    while (done < n) {
        int rc = pcre2_match(code, (PCRE2_SPTR)s, n, done, PCRE2_NO_UTF_CHECK, m, NULL);
        assert_true(rc >= 0 || rc == PCRE2_ERROR_NOMATCH);
        size_t from = rc < 0 ? n : at[0];
        size_t to = rc < 0 ? n : at[1];
        for (int gap = from > done ? 0 : 1; gap < 2 && done < n; gap++) {
            size_t want = gap ? to - done : from - done;
            size_t got = split_next(rule, &memo, s + done, n - done);
            if (want && got != want) {
                fail_msg("form %d: '%.*s' at %zu: %zu bytes, expected %zu", rule->form, (int)n, s,
                         done, got, want);
            }
            done += want;
        }
    }
}

static void test_rules(void **state)
{
    (void)state;
    uint64_t seed = 7;
    pcre2_match_data *m = pcre2_match_data_create(1, NULL);
    for (size_t i = 0; i < N_CASE; i++) {
        pcre2_code *code = compile(cases[i].regex);
        for (int round = 0; round < ROUNDS; round++) {
            char s[CHARS_MAX * DRAW_MAX];
            size_t n = 0;
            for (uint64_t k = rng_next(&seed) % CHARS_MAX; k > 0; k--) {
                n += draw(&seed, s + n);
            }
            compare(&cases[i].rule, code, m, s, n);
        }
        pcre2_code_free(code);
    }
    pcre2_match_data_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_categories),
        cmocka_unit_test(test_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
