/* The fake engine keeps engine.h's promises: otherwise what rests on it shows nothing. */
#include "base/rng.h"
#include "base/utf8.h"
#include "tests/fake/fake_engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N_TOK 300

static struct eng *open_fake(void)
{
    struct eng *g = NULL;
    struct err e;
    struct fake_options o = {.n_ctx = 512, .seed = 5};
    assert_int_equal(fake_engine_create(&o, &g, &e), ERR_OK);
    return g;
}

static void *kv_alloc(const struct eng *g)
{
    size_t n_chunk = g->info.n_ctx / g->info.chunk_tok + 1;
    void *kv = malloc(n_chunk * g->info.chunk_bytes);
    assert_non_null(kv);
    memset(kv, 0xff, n_chunk * g->info.chunk_bytes);
    return kv;
}

static void test_slicing_does_not_matter(void **state)
{
    (void)state;
    struct eng *g = open_fake();
    struct err e;
    uint32_t n_vocab = g->info.n_vocab;
    float *want = malloc(n_vocab * sizeof *want);
    int32_t tokens[N_TOK];
    uint64_t seed = 1;
    for (int i = 0; i < N_TOK; i++) {
        tokens[i] = (int32_t)(rng_next(&seed) % n_vocab);
    }
    void *kv[2] = {kv_alloc(g), kv_alloc(g)};
    for (int round = 0; round < 20; round++) {
        uint32_t at[2] = {0, 0};
        while (at[0] < N_TOK || at[1] < N_TOK) {
            struct eng_slice slices[2];
            uint32_t n = 0;
            for (int q = 0; q < 2; q++) {
                uint32_t left = N_TOK - at[q];
                if (left) {
                    uint32_t n_tok = 1 + (uint32_t)(rng_next(&seed) % (left < 70 ? left : 70));
                    slices[n++] = (struct eng_slice){.tokens = tokens + at[q],
                                                     .n_tok = n_tok,
                                                     .pos = at[q],
                                                     .kv = kv[q],
                                                     .out_from = n_tok / 2};
                    at[q] += n_tok;
                }
            }
            assert_int_equal(eng_step(g, slices, n, &e), ERR_OK);
            for (uint32_t i = 0; i < n; i++) {
                for (uint32_t k = slices[i].out_from; k < slices[i].n_tok; k++) {
                    fake_logits(g, tokens, slices[i].pos + k + 1, want);
                    assert_memory_equal(slices[i].logits + (k - slices[i].out_from) * n_vocab, want,
                                        n_vocab * sizeof *want);
                }
            }
        }
    }
    assert_int_equal(fake_engine_counts(g).n_bad_read, 0);

    /* One byte of KV changed shows in the answer and in the count. */
    ((char *)kv[0])[3 * g->info.kv_bytes_per_tok + 4] ^= 1;
    struct eng_slice s = {.tokens = tokens + N_TOK - 1, .n_tok = 1, .pos = N_TOK - 1, .kv = kv[0]};
    assert_int_equal(eng_step(g, &s, 1, &e), ERR_OK);
    assert_int_equal(fake_engine_counts(g).n_bad_read, 1);
    ((char *)kv[0])[3 * g->info.kv_bytes_per_tok] ^= 1;
    assert_int_equal(eng_step(g, &s, 1, &e), ERR_OK);
    fake_logits(g, tokens, N_TOK, want);
    assert_memory_not_equal(s.logits, want, n_vocab * sizeof *want);
    free(kv[0]);
    free(kv[1]);
    free(want);
    eng_close(g);
}

static void test_greedy_text_is_utf8(void **state)
{
    (void)state;
    struct eng *g = open_fake();
    int32_t tokens[2000] = {FAKE_BOS};
    struct eng_detok detok = {0};
    struct buf text = {0};
    float *logits = malloc(g->info.n_vocab * sizeof *logits);
    size_t n_cut = 0;
    for (size_t n = 1; n < sizeof tokens / sizeof *tokens; n++) {
        tokens[n] = fake_next(g, tokens, n);
        fake_logits(g, tokens, n, logits);
        for (uint32_t i = 0; i < g->info.n_vocab; i++) {
            assert_true(logits[i] <= logits[tokens[n]]);
        }
        eng_detokenize(g, &detok, tokens[n], false, &text);
        n_cut += utf8_incomplete_tail(buf_str(&text), text.len) > 0;
    }
    text.len -= utf8_incomplete_tail(buf_str(&text), text.len);
    assert_true(utf8_valid(buf_str(&text), text.len));
    assert_true(n_cut > 100);
    free(logits);
    buf_free(&text);
    eng_close(g);
}

static void test_bad_slices_fail_as_a_whole(void **state)
{
    (void)state;
    struct eng *g = open_fake();
    struct err e;
    void *kv = kv_alloc(g);
    int32_t token = 7;
    int32_t bad_token = (int32_t)g->info.n_vocab;
    struct eng_slice s = {.tokens = &token, .n_tok = 1, .pos = 512, .kv = kv};
    assert_int_equal(eng_step(g, &s, 1, &e), ERR_LIMIT);
    s = (struct eng_slice){.tokens = &bad_token, .n_tok = 1, .kv = kv};
    assert_int_equal(eng_step(g, &s, 1, &e), ERR_INVALID);
    s.tokens = &token;
    struct eng_slice twice[2] = {s, s};
    assert_int_equal(eng_step(g, twice, 2, &e), ERR_INVALID);
    assert_int_equal(eng_step(g, &s, 0, &e), ERR_LIMIT);
    fake_engine_fail_next(g, 1);
    assert_int_equal(eng_step(g, &s, 1, &e), ERR_INTERNAL);
    assert_int_equal(*(unsigned char *)kv, 0xff);
    assert_int_equal(eng_step(g, &s, 1, &e), ERR_OK);
    free(kv);
    eng_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slicing_does_not_matter),
        cmocka_unit_test(test_greedy_text_is_utf8),
        cmocka_unit_test(test_bad_slices_fail_as_a_whole),
    };
    return cmocka_run_group_tests_name("fake", tests, NULL, NULL);
}
