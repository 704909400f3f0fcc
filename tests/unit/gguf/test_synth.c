/* Made-up models: every tensor the shape needs, in the mix's types, with sane values; the same
 * bytes for the same options and any number of threads. */
#include "engine/gguf_write.h"
#include "engine/quant/formats.h"
#include "engine/synth.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char dir[] = "/tmp/kvasir-synth-XXXXXX";
static char vocab[128];

static void make_vocab(void)
{
    enum { N = 512 };
    static struct gguf_str tokens[N];
    static char text[N][8];
    struct err e;
    struct gguf_writer *w;
    for (int i = 0; i < N; i++) {
        int n = snprintf(text[i], sizeof text[i], "t%d", i);
        tokens[i] = (struct gguf_str){text[i], (size_t)n};
    }
    assert_int_equal(gguf_writer_create(&w, &e), ERR_OK);
    gguf_put_str(w, "general.architecture", "llama");
    gguf_put_str(w, "tokenizer.ggml.model", "llama");
    gguf_put_array(w, "tokenizer.ggml.tokens",
                   &(struct gguf_array){.type = GGUF_STRING, .n = N, .strings = tokens});
    (void)snprintf(vocab, sizeof vocab, "%s/vocab.gguf", dir);
    assert_int_equal(gguf_writer_open(w, vocab, &e), ERR_OK);
    assert_int_equal(gguf_writer_finish(w, &e), ERR_OK);
    gguf_writer_destroy(w);
}

static struct gguf *synth(const char *shape, const char *mix, uint64_t seed, uint32_t n_thread)
{
    char out[128];
    struct err e;
    struct gguf *f = NULL;
    (void)snprintf(out, sizeof out, "%s/out-%llu-%u.gguf", dir, (unsigned long long)seed, n_thread);
    struct synth_options o = {.shape = synth_shape_by_name(shape),
                              .mix = quant_mix_by_name(mix),
                              .vocab_path = vocab,
                              .out_path = out,
                              .seed = seed,
                              .n_thread = n_thread};
    if (synth_write(&o, &e) || gguf_open(out, &f, &e)) {
        fail_msg("%s", e.msg);
    }
    return f;
}

/* Mean and standard deviation of a tensor's values. */
static void measure(const struct gguf *f, const char *name, double *ret_mean, double *ret_spread)
{
    const struct gguf_tensor *t = gguf_find_tensor(f, name);
    if (!t) {
        fail_msg("no tensor %s", name);
    }
    float *v = malloc(t->n_elem * sizeof *v);
    double sum = 0;
    double squares = 0;
    assert_non_null(v);
    quant_format_of(t->type)->dequant(t->data, v, t->n_elem);
    for (uint64_t i = 0; i < t->n_elem; i++) {
        sum += (double)v[i];
        squares += (double)v[i] * (double)v[i];
    }
    free(v);
    *ret_mean = sum / (double)t->n_elem;
    *ret_spread = sqrt(squares / (double)t->n_elem - *ret_mean * *ret_mean);
}

static void check_spread(const struct gguf *f, const char *name, double spread)
{
    double mean;
    double got;
    measure(f, name, &mean, &got);
    if (fabs(mean) > 0.02 * spread || fabs(got / spread - 1) > 0.03) {
        fail_msg("%s: mean %g, spread %g, should be 0 and %g", name, mean, got, spread);
    }
}

static void test_values(void **state)
{
    (void)state;
    static const char *const mixes[] = {"F32", "BF16", "Q8_0", "Q4_0", "Q4_K_M"};
    for (size_t i = 0; i < sizeof mixes / sizeof *mixes; i++) {
        struct gguf *f = synth("tiny", mixes[i], 1, 2);
        double mean;
        double spread;
        assert_int_equal(gguf_n_tensor(f), 2 * 9 + 3);
        check_spread(f, "blk.0.attn_q.weight", 1 / sqrt(256));
        check_spread(f, "blk.1.ffn_down.weight", 1 / sqrt(512)); /* 2 / sqrt(2 · 2 layers) = 1 */
        check_spread(f, "output.weight", 2.5 / sqrt(256));
        measure(f, "blk.1.ffn_norm.weight", &mean, &spread);
        assert_true(fabs(mean - 1) < 0.05 && spread > 0.05 && spread < 0.2);
        assert_int_equal(gguf_find_tensor(f, "blk.1.ffn_norm.weight")->type, GGUF_TYPE_F32);
        gguf_close(f);
    }
}

static void test_moe(void **state)
{
    (void)state;
    struct gguf *f = synth("tiny-moe", "Q4_K_S", 1, 2);
    const struct gguf_tensor *t = gguf_find_tensor(f, "blk.0.ffn_up_exps.weight");
    uint64_t n;
    assert_int_equal(t->n_dim, 3);
    assert_int_equal(t->ne[2], 8);
    assert_int_equal(t->type, GGUF_TYPE_Q4_K);
    assert_int_equal(gguf_find_tensor(f, "blk.0.ffn_gate_inp.weight")->type, GGUF_TYPE_F32);
    assert_true(gguf_get_u64(f, "qwen3moe.expert_used_count", &n) && n == 2);
    check_spread(f, "blk.1.ffn_gate_exps.weight", 1 / sqrt(256));
    gguf_close(f);
}

/* All tensors' bytes as one number. */
static uint64_t digest(const struct gguf *f)
{
    uint64_t h = 1469598103934665603u;
    for (uint64_t i = 0; i < gguf_n_tensor(f); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(f, i);
        for (uint64_t k = 0; k < t->n_byte; k++) {
            h = (h ^ ((const uint8_t *)t->data)[k]) * 1099511628211u;
        }
    }
    return h;
}

static void test_same_bytes(void **state)
{
    (void)state;
    struct gguf *f[3] = {synth("tiny", "Q4_K_M", 5, 1), synth("tiny", "Q4_K_M", 5, 3),
                         synth("tiny", "Q4_K_M", 6, 1)};
    assert_true(digest(f[0]) == digest(f[1]));
    assert_true(digest(f[0]) != digest(f[2]));
    for (int i = 0; i < 3; i++) {
        gguf_close(f[i]);
    }
}

/* Each shape is consistent in itself: its tables of heads and widths fit together. */
static void test_shapes(void **state)
{
    (void)state;
    for (uint32_t i = 0; synth_shape_at(i); i++) {
        const struct synth_shape *s = synth_shape_at(i);
        assert_ptr_equal(synth_shape_by_name(s->name), s);
        assert_int_equal(s->n_head % s->n_head_kv, 0);
        assert_true(s->n_layer && s->n_embd % 32 == 0 && s->n_ff % 32 == 0 && s->head_dim % 2 == 0);
        assert_true(!s->n_expert || (s->n_expert_used <= s->n_expert && s->n_ff_expert));
    }
    assert_null(synth_shape_by_name("gpt-5"));
}

static void test_faults(void **state)
{
    (void)state;
    struct err e;
    struct synth_options o = {.shape = synth_shape_by_name("tiny"),
                              .mix = quant_mix_by_name("Q8_0"),
                              .vocab_path = "/nonexistent.gguf",
                              .out_path = "/nonexistent/out.gguf"};
    assert_int_equal(synth_write(&o, &e), ERR_NOT_FOUND);
    o.vocab_path = vocab;
    assert_int_equal(synth_write(&o, &e), ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),     cmocka_unit_test(test_moe),
        cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_faults),
    };
    if (!mkdtemp(dir)) {
        return 1;
    }
    make_vocab();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    char clean[64];
    (void)snprintf(clean, sizeof clean, "rm -r %s", dir);
    return rc + (system(clean) != 0);
}
