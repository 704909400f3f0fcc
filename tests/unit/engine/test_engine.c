/* Opening models that are wrong in one way each, and steps that ask for what cannot be. */
#include "engine/engine.h"
#include "tests/unit/engine/tiny.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define NUMBER(key, v)                                                                             \
    {                                                                                              \
        .kind = TINY_NUMBER, .name = "llama." key, .number = v                                     \
    }
#define REAL(key, v)                                                                               \
    {                                                                                              \
        .kind = TINY_REAL, .name = "llama." key, .real = v                                         \
    }
#define TEXT(key, v)                                                                               \
    {                                                                                              \
        .kind = TINY_TEXT, .name = key, .text = v                                                  \
    }
#define NO_KEY(key)                                                                                \
    {                                                                                              \
        .kind = TINY_DROP_KEY, .name = "llama." key                                                \
    }
#define TENSOR(t, n_0, n_1)                                                                        \
    {                                                                                              \
        .kind = TINY_TENSOR, .name = t, .ne0 = n_0, .ne1 = n_1                                     \
    }

static char path[256];

static enum err_code open_changed(const struct tiny_change *c, struct eng **ret_g, struct err *e)
{
    assert_true(tiny_write(path, c));
    struct eng_options o = {.model_path = path, .n_thread = 1, .isa = "scalar"};
    enum err_code code = eng_open(&o, ret_g, e);
    (void)unlink(path);
    return code;
}

static const struct {
    struct tiny_change change;
    enum err_code code;
    const char *says; /* what the message must hold */
} hostile[] = {
    {NUMBER("attention.head_count", 0), ERR_CORRUPT, "attention.head_count is 0"},
    {NUMBER("attention.head_count", -4), ERR_CORRUPT, "attention.head_count is -4"},
    {NUMBER("attention.head_count", 3), ERR_CORRUPT, "3 heads"},
    {NUMBER("attention.head_count_kv", 0), ERR_CORRUPT, "attention.head_count_kv is 0"},
    {NUMBER("attention.head_count_kv", 3), ERR_CORRUPT, "4 heads"},
    {NUMBER("attention.key_length", 0), ERR_CORRUPT, "attention.key_length is 0"},
    {NUMBER("attention.key_length", 4096), ERR_CORRUPT, "attention.key_length is 4096"},
    {NUMBER("attention.value_length", INT64_MAX), ERR_CORRUPT, "attention.value_length"},
    {NUMBER("block_count", 0), ERR_CORRUPT, "block_count is 0"},
    {NUMBER("block_count", 1ll << 31), ERR_CORRUPT, "block_count is 2147483648"},
    {NUMBER("block_count", 3), ERR_CORRUPT, "missing tensor blk.2."},
    {NUMBER("block_count", 1), ERR_OK, NULL}, /* later blocks predict further tokens */
    {NUMBER("nextn_predict_layers", 2), ERR_CORRUPT, "nextn_predict_layers is 2"},
    {NUMBER("embedding_length", 0), ERR_CORRUPT, "embedding_length is 0"},
    {NUMBER("embedding_length", 64), ERR_CORRUPT, "expected [64, "},
    {NUMBER("embedding_length", 1ll << 40), ERR_CORRUPT, "embedding_length"},
    {NUMBER("feed_forward_length", 0), ERR_CORRUPT, "feed_forward_length"},
    {NUMBER("feed_forward_length", 1ll << 32), ERR_CORRUPT, "feed_forward_length"},
    {NUMBER("context_length", 0), ERR_CORRUPT, "context_length is 0"},
    {NUMBER("rope.dimension_count", 7), ERR_CORRUPT, "must be even"},
    {NUMBER("rope.dimension_count", 16), ERR_CORRUPT, "rotates 16 values of heads of 8"},
    {REAL("rope.freq_base", 0), ERR_CORRUPT, "rope.freq_base is 0"},
    {REAL("rope.freq_base", -1e30), ERR_CORRUPT, "rope.freq_base"},
    {REAL("attention.layer_norm_rms_epsilon", -1), ERR_CORRUPT, "layer_norm_rms_epsilon is -1"},
    {NO_KEY("attention.layer_norm_rms_epsilon"), ERR_CORRUPT, "layer_norm_rms_epsilon"},
    {NO_KEY("block_count"), ERR_CORRUPT, "missing metadata key llama.block_count"},
    {NO_KEY("attention.head_count"), ERR_CORRUPT, "missing metadata key llama.attention.head"},
    {TEXT("llama.block_count", "two"), ERR_CORRUPT, "llama.block_count is not an integer"},
    {TEXT("llama.rope.freq_base", "x"), ERR_CORRUPT, "llama.rope.freq_base is not a number"},
    {TEXT("llama.rope.scaling.type", "spiral"), ERR_UNSUPPORTED, "\"spiral\""},
    {TEXT("general.architecture", "sphinx"), ERR_UNSUPPORTED, "\"sphinx\" is not supported"},
    {NUMBER("expert_count", 4), ERR_CORRUPT, "missing metadata key llama.expert_used_count"},
    {NUMBER("expert_count", 1ll << 20), ERR_CORRUPT, "expert_count is 1048576"},
    {TENSOR("blk.1.attn_q.weight", 0, 0), ERR_CORRUPT, "missing tensor blk.1.attn_q.weight"},
    {TENSOR("output_norm.weight", 0, 0), ERR_CORRUPT, "missing tensor output_norm.weight"},
    {TENSOR("token_embd.weight", 0, 0), ERR_CORRUPT, "missing tensor token_embd.weight"},
    {TENSOR("token_embd.weight", 32, 8), ERR_CORRUPT, "token_embd.weight has 8 rows"},
    {TENSOR("blk.0.attn_k.weight", 32, 32), ERR_CORRUPT,
     "blk.0.attn_k.weight has shape [32, 32, 1], expected [32, 16, 1]"},
    {TENSOR("blk.1.ffn_down.weight", 32, 48), ERR_CORRUPT, "blk.1.ffn_down.weight has shape"},
    {TENSOR("blk.0.attn_norm.weight", 31, 1), ERR_CORRUPT, "blk.0.attn_norm.weight has shape"},
    {TENSOR("rope_freqs.weight", 5, 1), ERR_CORRUPT, "rope_freqs.weight has shape"},
    {TENSOR("blk.0.attn_q_norm.weight", 8, 1), ERR_UNSUPPORTED, "blk.0.attn_q_norm.weight"},
    {TENSOR("mystery.weight", 8, 8), ERR_UNSUPPORTED, "mystery.weight"},
};

/* Each wrong model gives its own error and nothing else. */
static void test_hostile_models(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
        struct eng *g = NULL;
        struct err e = {0};
        enum err_code code = open_changed(&hostile[i].change, &g, &e);
        if (code != hostile[i].code || (hostile[i].says && !strstr(e.msg, hostile[i].says)) ||
            !code != (g != NULL)) {
            fail_msg("case %zu (%s): %s \"%s\", expected %s \"%s\"", i, hostile[i].change.name,
                     err_code_name(code), e.msg, err_code_name(hostile[i].code), hostile[i].says);
        }
        eng_close(g);
    }
}

static struct eng *open_plain(uint32_t n_thread)
{
    struct eng *g = NULL;
    struct err e;
    assert_true(tiny_write(path, NULL));
    struct eng_options o = {.model_path = path, .n_thread = n_thread};
    if (eng_open(&o, &g, &e)) {
        fail_msg("%s", e.msg);
    }
    (void)unlink(path);
    return g;
}

static void *kv_for(const struct eng *g)
{
    size_t n_chunk = (g->info.n_ctx + g->info.chunk_tok - 1) / g->info.chunk_tok;
    void *kv = aligned_alloc(4096, n_chunk * g->info.chunk_bytes);
    memset(kv, 0xff, n_chunk * g->info.chunk_bytes);
    return kv;
}

/* What cannot be run is refused before any KV is written. */
static void test_bad_steps(void **state)
{
    (void)state;
    struct eng *g = open_plain(1);
    unsigned char *kv = kv_for(g);
    int32_t good[] = {1, 3, 4};
    int32_t low[] = {1, -1};
    int32_t high[] = {1, TINY_N_VOCAB};
    const struct {
        struct eng_slice slice;
        enum err_code code;
        const char *says;
    } cases[] = {
        {{.tokens = low, .n_tok = 2, .kv = kv}, ERR_INVALID, "token 1 of slice 1 is -1"},
        {{.tokens = high, .n_tok = 2, .kv = kv}, ERR_INVALID, "is 24, the vocabulary is 0 to 23"},
        {{.tokens = good, .n_tok = 0, .kv = kv}, ERR_INVALID, "no tokens"},
        {{.tokens = good, .n_tok = 3, .kv = NULL}, ERR_INVALID, "no KV memory"},
        {{.tokens = good, .n_tok = 3, .kv = kv, .out_from = 4}, ERR_INVALID, "row 4 of 3"},
        {{.tokens = good, .n_tok = 3, .kv = kv, .pos = TINY_N_CTX - 2}, ERR_LIMIT, "context is 64"},
        {{.tokens = good, .n_tok = 3, .kv = kv, .pos = UINT32_MAX}, ERR_LIMIT, "context is 64"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct eng_slice slices[2] = {{.tokens = good, .n_tok = 3, .kv = kv}, cases[i].slice};
        struct err e = {0};
        assert_int_equal(eng_step(g, slices, 2, &e), cases[i].code);
        if (!strstr(e.msg, cases[i].says)) {
            fail_msg("case %zu: \"%s\", expected \"%s\"", i, e.msg, cases[i].says);
        }
        for (size_t b = 0; b < g->info.chunk_bytes; b++) {
            assert_int_equal(kv[b], 0xff);
        }
    }
    free(kv);
    eng_close(g);
}

/* More rows, or rows with logits, than a step takes. */
static void test_step_limits(void **state)
{
    (void)state;
    struct eng *g = open_plain(1);
    void *kv = kv_for(g);
    int32_t tokens[TINY_N_CTX];
    for (int i = 0; i < TINY_N_CTX; i++) {
        tokens[i] = 3 + i % 20;
    }
    uint32_t n_slice = g->info.n_step_tok_max / TINY_N_CTX + 1;
    struct eng_slice *slices = calloc(n_slice, sizeof *slices);
    for (uint32_t i = 0; i < n_slice; i++) {
        slices[i] = (struct eng_slice){
            .tokens = tokens, .n_tok = TINY_N_CTX, .kv = kv, .out_from = TINY_N_CTX};
    }
    struct err e;
    assert_int_equal(eng_step(g, slices, n_slice, &e), ERR_LIMIT);
    assert_int_equal(eng_step(g, slices, 0, &e), ERR_OK);
    for (uint32_t i = 0; i < n_slice; i++) {
        slices[i].out_from = 0;
    }
    uint32_t n_out = g->info.n_step_out_max / TINY_N_CTX + 1;
    if (n_out < n_slice) {
        assert_int_equal(eng_step(g, slices, n_out, &e), ERR_LIMIT);
    }
    assert_int_equal(eng_step(g, slices, 1, &e), ERR_OK);
    free(slices);
    free(kv);
    eng_close(g);
}

/* A row's logits are the same bits whatever the slicing, the neighbours and the threads. */
static void test_same_bits(void **state)
{
    (void)state;
    enum { N = 40 };
    int32_t tokens[N];
    for (int i = 0; i < N; i++) {
        tokens[i] = (i * 7 + 1) % TINY_N_VOCAB;
    }
    float want[N * TINY_N_VOCAB];
    for (uint32_t n_thread = 1; n_thread <= 3; n_thread++) {
        struct eng *g = open_plain(n_thread);
        for (uint32_t step = N; step > 0; step /= 3) {
            void *kv = kv_for(g);
            void *other = kv_for(g);
            for (uint32_t at = 0; at < N; at += step) {
                uint32_t n = N - at < step ? N - at : step;
                struct eng_slice s[2] = {{.tokens = tokens + 3, .n_tok = 2, .kv = other},
                                         {.tokens = tokens + at, .n_tok = n, .pos = at, .kv = kv}};
                struct err e;
                assert_int_equal(eng_step(g, s, 2, &e), ERR_OK);
                size_t n_byte = (size_t)n * TINY_N_VOCAB * sizeof(float);
                if (n_thread == 1 && step == N) {
                    memcpy(want, s[1].logits, n_byte);
                }
                assert_memory_equal(s[1].logits, want + (size_t)at * TINY_N_VOCAB, n_byte);
            }
            free(kv);
            free(other);
        }
        eng_close(g);
    }
}

/* vocab_only: no weights, no steps, and models the engine cannot run. */
/* What the file says of how it wants to be run. */
static void test_hints(void **state)
{
    (void)state;
    struct eng *g = NULL;
    struct err e;
    const struct tiny_change temp = {
        .kind = TINY_REAL, .name = "general.sampling.temp", .real = 0.5};
    const struct tiny_change top_k = {
        .kind = TINY_NUMBER, .name = "general.sampling.top_k", .number = 20};
    const struct tiny_change pooling = NUMBER("pooling_type", 3);
    assert_int_equal(open_changed(&temp, &g, &e), ERR_OK);
    assert_true(g->info.sampling.temperature == 0.5 && isnan(g->info.sampling.top_k));
    assert_int_equal(g->info.n_ctx, TINY_N_CTX);
    assert_int_equal(g->info.n_ctx_train, TINY_N_CTX);
    assert_int_equal(g->info.pooling, ENG_POOLING_NONE);
    assert_true(eng_is_eog(g, g->info.eos_id));
    eng_close(g);
    assert_int_equal(open_changed(&top_k, &g, &e), ERR_OK);
    assert_true(g->info.sampling.top_k == 20 && isnan(g->info.sampling.temperature));
    eng_close(g);
    assert_int_equal(open_changed(&pooling, &g, &e), ERR_OK);
    assert_int_equal(g->info.pooling, ENG_POOLING_LAST);
    eng_close(g);
}

static void test_vocab_only(void **state)
{
    (void)state;
    struct tiny_change c = TEXT("general.architecture", "sphinx");
    assert_true(tiny_write(path, &c));
    struct eng_options o = {.model_path = path, .vocab_only = true};
    struct eng *g = NULL;
    struct err e;
    assert_int_equal(eng_open(&o, &g, &e), ERR_OK);
    (void)unlink(path);
    assert_string_equal(g->info.arch, "sphinx");
    assert_int_equal(g->info.n_vocab, TINY_N_VOCAB);
    struct eng_ids ids = {0};
    assert_int_equal(eng_tokenize(g, "abc", 3, ENG_TOKENIZE_ADD_SPECIAL, &ids, &e), ERR_OK);
    assert_int_equal(ids.ids[0], 1);
    assert_int_equal(ids.ids[ids.n - 1], 5);
    eng_ids_free(&ids);
    struct eng_slice s = {.n_tok = 0};
    assert_int_equal(eng_step(g, &s, 1, &e), ERR_INVALID);
    eng_close(g);
}

static void test_missing_file(void **state)
{
    (void)state;
    struct eng_options o = {.model_path = "/nonexistent/model.gguf"};
    struct eng *g = NULL;
    struct err e;
    assert_int_equal(eng_open(&o, &g, &e), ERR_NOT_FOUND);
    assert_null(g);
    assert_non_null(strstr(e.msg, "/nonexistent/model.gguf"));
}

int main(void)
{
    const char *dir = getenv("KVASIR_BUILD");
    snprintf(path, sizeof path, "%s/test_engine.%d.gguf", dir ? dir : "/tmp", (int)getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hostile_models), cmocka_unit_test(test_bad_steps),
        cmocka_unit_test(test_step_limits),    cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_hints),          cmocka_unit_test(test_vocab_only),
        cmocka_unit_test(test_missing_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
