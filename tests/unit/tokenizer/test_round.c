/* Text to ids and back gives the text: every Unicode scalar value, alone and in company, where the
 * vocabulary can spell it; and what is said of detokenizing: the first space, control tokens, bytes
 * of a character one by one, ids out of range, invalid UTF-8. */
#include "golden.h"
#include "small_vocab.h"

#include "base/rng.h"
#include "base/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CODE_POINTS 0x110000u
#define LOWER_BLOCK 0x2581u /* a space to SentencePiece */

static bool is_scalar(uint32_t cp)
{
    return cp < 0xd800 || cp > 0xdfff;
}

static void round_trip(const struct vocab *v, const char *text, size_t n, unsigned flags)
{
    struct eng_ids ids = golden_ids(v, text, n, flags);
    struct buf back = golden_text(v, ids.ids, ids.n);
    if (back.len != n || (n && memcmp(back.data, text, n) != 0)) {
        fail_msg("'%.*s' (%zu bytes) came back as '%s'", (int)(n < 40 ? n : 40), text, n,
                 buf_str(&back));
    }
    buf_free(&back);
    eng_ids_free(&ids);
}

/* Whether the vocabulary can say each byte of cp, and does not take it for something else. */
struct spoken {
    bool byte[256];
    bool spaces;
};

static struct spoken spoken_by(const struct vocab *v)
{
    struct spoken k = {.spaces = vocab_facts(v)->kind == VOCAB_SPM};
    for (uint32_t i = 0; i < vocab_n(v); i++) {
        struct gguf_str piece = vocab_piece(v, (int32_t)i);
        if (piece.n == 1) {
            k.byte[(unsigned char)*piece.s] = true;
        }
    }
    return k;
}

static size_t speak(const struct spoken *k, uint32_t cp, char *out)
{
    if (!is_scalar(cp) || (k->spaces && cp == LOWER_BLOCK)) {
        return 0;
    }
    size_t n = utf8_encode(cp, out);
    for (size_t i = 0; i < n; i++) {
        if (!k->byte[(unsigned char)out[i]]) {
            return 0;
        }
    }
    return n;
}

/* All scalar values: one text of all, one text each (of every step-th), and random company. */
static void check_scalars(const struct vocab *v, uint32_t step)
{
    struct spoken spoken = spoken_by(v);
    uint32_t n_spoken = 0;
    struct buf all = {0};
    uint64_t seed = 5;
    for (uint32_t cp = 0; cp < CODE_POINTS; cp++) {
        char s[4];
        size_t n = speak(&spoken, cp, s);
        if (!n) {
            continue;
        }
        n_spoken++;
        buf_append(&all, s, n);
        if (cp % step == 0 || cp < 0x3000) {
            round_trip(v, s, n, 0);
        }
    }
    round_trip(v, all.data, all.len, 0);
    assert_true(n_spoken > 500000);
    for (int round = 0; round < 3000; round++) {
        char text[64];
        size_t n = 0;
        while (n < 40) {
            uint32_t cp = (uint32_t)(rng_next(&seed) % (rng_next(&seed) % 2 ? 0x250 : CODE_POINTS));
            n += speak(&spoken, cp, text + n);
        }
        round_trip(v, text, n, ENG_TOKENIZE_ADD_SPECIAL);
    }
    buf_free(&all);
}

static struct vocab *load(const struct small *small)
{
    struct vocab *v = NULL;
    struct err e = {0};
    if (small_load(small, &v, &e)) {
        fail_msg("%s", e.msg);
    }
    return v;
}

static struct vocab *small_bpe(const char *pre)
{
    struct small small = {.model = "gpt2", .pre = pre};
    small_bytes(&small);
    static const char *const pairs[][2] = {
        {"t", "h"}, {"th", "e"}, {"\xc4\xa0", "the"}, {"\xc3\xa2", "\xc4\xa2"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char both[32];
        int n = snprintf(both, sizeof both, "%s%s", pairs[i][0], pairs[i][1]);
        small_merge(&small, pairs[i][0], pairs[i][1]);
        (void)small_token(&small, both, (size_t)n, 0, VOCAB_NORMAL);
    }
    struct vocab *v = load(&small);
    small_free(&small);
    return v;
}

static void test_small_scalars(void **state)
{
    (void)state;
    static const char *const pres[] = {"gpt-2",          "llama-bpe", "qwen35",  "gpt-4o",
                                       "deepseek-v3",    "falcon",    "kimi-k2", "deepseek-llm",
                                       "deepseek-coder", "superbpe",  "tiny_aya"};
    for (size_t i = 0; i < sizeof pres / sizeof *pres; i++) {
        struct vocab *v = small_bpe(pres[i]);
        check_scalars(v, 97);
        vocab_destroy(v);
    }
    struct small small = {.model = "llama", .no_merges = true};
    small_spm(&small, true);
    (void)small_token(&small, "\xe2\x96\x81", 3, -1, VOCAB_NORMAL);
    (void)small_token(&small, "\xe2\x96\x81t", 4, -1, VOCAB_NORMAL);
    struct vocab *v = load(&small);
    check_scalars(v, 97);
    vocab_destroy(v);
    small_free(&small);
}

static void test_golden_scalars(void **state)
{
    (void)state;
    static const char *const names[] = {"deepseek-llm", "gpt-2",     "llama-bpe",
                                        "llama-spm",    "starcoder", "qwen2"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        (void)snprintf(path, sizeof path, "vocab/%s.gguf", names[i]);
        struct vocab *v = golden_vocab(path);
        check_scalars(v, 13);
        vocab_destroy(v);
    }
}

static void expect_text(const struct vocab *v, bool started, bool special, const int32_t *ids,
                        size_t n, const char *want)
{
    struct eng_detok state = {.started = started};
    struct buf out = {0};
    for (size_t i = 0; i < n; i++) {
        vocab_detokenize(v, &state, ids[i], special, &out);
    }
    assert_string_equal(buf_str(&out), want);
    buf_free(&out);
}

static void test_detokenize(void **state)
{
    (void)state;
    struct small small = {.model = "llama", .no_merges = true};
    small_spm(&small, true);
    int32_t space = small_token(&small, "\xe2\x96\x81", 3, -1, VOCAB_NORMAL);
    int32_t hi = small_token(&small, "\xe2\x96\x81hi", 5, -2, VOCAB_NORMAL);
    int32_t user = small_token(&small, "[user]", 6, 0, VOCAB_USER_DEFINED);
    int32_t unused = small_token(&small, "<unused0>", 9, 0, VOCAB_UNUSED);
    int32_t empty = small_token(&small, "", 0, 0, VOCAB_NORMAL);
    struct vocab *v = load(&small);
    expect_text(v, false, false, (int32_t[]){empty, hi, empty, hi}, 4, "hi hi");
    expect_text(v, false, false, (int32_t[]){hi, hi}, 2, "hi hi");
    expect_text(v, true, false, (int32_t[]){hi, hi}, 2, " hi hi"); /* after a prompt */
    expect_text(v, false, false, (int32_t[]){1, hi, 2}, 3, "hi");
    expect_text(v, false, true, (int32_t[]){1, hi, 2}, 3, "<s>hi</s>");
    expect_text(v, false, false, (int32_t[]){space, space, hi}, 3, "  hi");
    expect_text(v, false, false, (int32_t[]){user, unused, hi}, 3, "[user] hi");
    expect_text(v, false, false, (int32_t[]){3 + 0xc3, 3 + 0xa9}, 2, "\xc3\xa9");
    expect_text(v, false, false, (int32_t[]){3 + ' ', hi}, 2, "  hi"); /* a byte is itself */
    expect_text(v, false, true, (int32_t[]){-1, ENG_TOKEN_NONE, INT32_MAX, INT32_MIN}, 4, "");
    assert_int_equal(vocab_type(v, user), VOCAB_USER_DEFINED);
    assert_int_equal(vocab_find(v, "\xe2\x96\x81hi", 5), hi);
    assert_int_equal(vocab_find(v, " hi", 3), ENG_TOKEN_NONE);
    assert_int_equal(vocab_piece(v, hi).n, 3);
    assert_int_equal(vocab_text(v, hi).n, 5);
    assert_int_equal(vocab_text(v, -7).n, 0);
    vocab_destroy(v);
    small_free(&small);
}

static void test_invalid_utf8(void **state)
{
    (void)state;
    struct vocab *v = small_bpe("gpt-2");
    const char text[] = "a\xff\xc3(\xed\xa0\x80z";
    struct eng_ids ids = golden_ids(v, text, sizeof text - 1, 0);
    struct buf back = golden_text(v, ids.ids, ids.n);
    assert_string_equal(back.data,
                        "a\xef\xbf\xbd\xef\xbf\xbd(\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz");
    buf_free(&back);
    eng_ids_free(&ids);
    vocab_destroy(v);
}

/* Ids that were there stay, and what the vocabulary cannot say is left out. */
static void test_appends(void **state)
{
    (void)state;
    struct small small = {.model = "gpt2", .pre = "gpt-2"};
    (void)small_token(&small, "a", 1, 0, VOCAB_NORMAL);
    struct vocab *v = load(&small);
    struct eng_ids ids = golden_ids(v, "aa", 2, 0);
    assert_int_equal(vocab_tokenize(v, "bab", 3, 0, &ids, NULL), ERR_OK);
    assert_int_equal(ids.n, 3);
    eng_ids_free(&ids);
    vocab_destroy(v);
    small_free(&small);
}

int main(void)
{
    const struct CMUnitTest alone[] = {
        cmocka_unit_test(test_small_scalars),
        cmocka_unit_test(test_detokenize),
        cmocka_unit_test(test_invalid_utf8),
        cmocka_unit_test(test_appends),
    };
    const struct CMUnitTest with_data[] = {cmocka_unit_test(test_golden_scalars)};
    int rc = cmocka_run_group_tests(alone, NULL, NULL);
    bool have_data = golden_present();
    rc += have_data ? cmocka_run_group_tests(with_data, NULL, NULL) : 0;
    return rc || have_data ? rc : 77;
}
