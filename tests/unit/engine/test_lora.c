/* Adapters: the model with one is the model with its product added to the weights; rows of several
 * adapters and of none share a step without changing a bit of each other; files that are wrong in
 * one way each. */
#include "base/rng.h"
#include "engine/engine.h"
#include "engine/gguf_write.h"
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

#define RANK  3
#define ALPHA 6.0F
#define SCALE 0.125F
#define N     24 /* tokens of a sequence */
#define N_SEQ 48

static char base_path[256];
static char merged_path[256];
static char lora_paths[2][256];

/* One of the adapter's halves of matrix `name`, [n] f32 of the caller's; the same on every call. */
static float *half(const char *name, const char *which, uint64_t seed, uint64_t n)
{
    float *v = malloc(n * sizeof *v);
    assert_non_null(v);
    for (const char *c = name; *c; c++) {
        seed = rng_mix(seed, (uint64_t)(unsigned char)*c);
    }
    seed = rng_mix(seed, (uint64_t)(unsigned char)which[6]);
    for (uint64_t i = 0; i < n; i++) {
        v[i] = (float)((double)(rng_next(&seed) >> 40) / (1 << 24) - 0.5);
    }
    return v;
}

static bool is_target(const struct gguf_tensor *t, char name[64])
{
    snprintf(name, 64, "%.*s", (int)(t->name.n < 63 ? t->name.n : 63), t->name.s);
    return t->n_dim == 2 && strcmp(name, "token_embd.weight") != 0;
}

/* What one adapter file may have wrong. */
struct fault {
    const char *says;
    const char *arch;
    const char *type;
    uint64_t n_in_more;
    uint64_t n_out_more;
    uint64_t rank_b_more;
    const char *extra; /* a further tensor's name */
    bool only_a;
    bool not_finite;
};

static void put_half(struct gguf_writer *w, const char *name, const char *suffix, uint64_t ne0,
                     uint64_t ne1)
{
    char full[96];
    uint64_t ne[2] = {ne0, ne1};
    snprintf(full, sizeof full, "%s%s", name, suffix);
    gguf_put_tensor(w, (struct gguf_str){full, strlen(full)}, GGUF_TYPE_F32, 2, ne);
}

static void write_half(struct gguf_writer *w, uint32_t idx, const char *name, const char *suffix,
                       uint64_t seed, bool not_finite)
{
    struct err e;
    size_t n_byte = gguf_writer_tensor_bytes(w, idx);
    float *v = half(name, suffix, seed, n_byte / sizeof(float));
    v[0] = not_finite ? NAN : v[0];
    assert_int_equal(gguf_writer_data(w, idx, 0, v, n_byte, &e), ERR_OK);
    free(v);
}

static void write_adapter(const char *path, uint64_t seed, const struct fault *x)
{
    struct gguf *f = NULL;
    struct gguf_writer *w = NULL;
    struct err e;
    char name[64];
    assert_int_equal(gguf_open(base_path, &f, &e), ERR_OK);
    assert_int_equal(gguf_writer_create(&w, &e), ERR_OK);
    gguf_put_str(w, "general.architecture", x && x->arch ? x->arch : "llama");
    gguf_put_str(w, "general.type", x && x->type ? x->type : "adapter");
    gguf_put_str(w, "adapter.type", "lora");
    gguf_put_f32(w, "adapter.lora.alpha", ALPHA);
    for (uint64_t i = 0; i < gguf_n_tensor(f); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(f, i);
        if (is_target(t, name)) {
            put_half(w, name, ".lora_a", t->ne[0] + (x ? x->n_in_more : 0), RANK);
            if (!x || !x->only_a) {
                put_half(w, name, ".lora_b", RANK + (x ? x->rank_b_more : 0),
                         t->ne[1] + (x ? x->n_out_more : 0));
            }
        }
    }
    if (x && x->extra) {
        put_half(w, x->extra, "", 2, 2);
    }
    assert_int_equal(gguf_writer_open(w, path, &e), ERR_OK);
    uint32_t idx = 0;
    for (uint64_t i = 0; i < gguf_n_tensor(f); i++) {
        if (is_target(gguf_tensor_at(f, i), name)) {
            write_half(w, idx++, name, ".lora_a", seed, x && x->not_finite);
            if (!x || !x->only_a) {
                write_half(w, idx++, name, ".lora_b", seed, false);
            }
        }
    }
    assert_int_equal(gguf_writer_finish(w, &e), ERR_OK);
    gguf_writer_destroy(w);
    gguf_close(f);
}

/* W + s · B A, in double. */
static void merge(const struct gguf_tensor *t, const char *name, uint64_t seed, float *out)
{
    const float *in = t->data;
    uint64_t n_in = t->ne[0];
    uint64_t n_out = t->ne[1];
    float *a = half(name, ".lora_a", seed, n_in * RANK);
    float *b = half(name, ".lora_b", seed, n_out * RANK);
    for (uint64_t o = 0; o < n_out; o++) {
        for (uint64_t i = 0; i < n_in; i++) {
            double sum = 0;
            for (uint64_t r = 0; r < RANK; r++) {
                sum += (double)b[o * RANK + r] * (double)a[r * n_in + i];
            }
            double s = (double)SCALE * (double)ALPHA / RANK;
            out[o * n_in + i] = (float)((double)in[o * n_in + i] + s * sum);
        }
    }
    free(a);
    free(b);
}

static void write_merged(uint64_t seed)
{
    struct gguf *f = NULL;
    struct gguf_writer *w = NULL;
    struct err e;
    char name[64];
    assert_int_equal(gguf_open(base_path, &f, &e), ERR_OK);
    assert_int_equal(gguf_writer_create(&w, &e), ERR_OK);
    for (uint64_t i = 0; i < gguf_n_kv(f); i++) {
        gguf_put_kv(w, gguf_kv_at(f, i));
    }
    for (uint64_t i = 0; i < gguf_n_tensor(f); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(f, i);
        gguf_put_tensor(w, t->name, t->type, t->n_dim, t->ne);
    }
    assert_int_equal(gguf_writer_open(w, merged_path, &e), ERR_OK);
    for (uint64_t i = 0; i < gguf_n_tensor(f); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(f, i);
        float *v = malloc(t->n_byte);
        assert_non_null(v);
        memcpy(v, t->data, t->n_byte);
        if (is_target(t, name)) {
            merge(t, name, seed, v);
        }
        assert_int_equal(gguf_writer_data(w, (uint32_t)i, 0, v, t->n_byte, &e), ERR_OK);
        free(v);
    }
    assert_int_equal(gguf_writer_finish(w, &e), ERR_OK);
    gguf_writer_destroy(w);
    gguf_close(f);
}

/* ---- running */

static struct eng *open_with(const char *path, uint32_t n_adapter, const char *isa)
{
    const struct eng_adapter_file files[2] = {{"one", lora_paths[0], SCALE},
                                              {"two", lora_paths[1], SCALE}};
    struct eng_options o = {
        .model_path = path, .n_thread = 2, .isa = isa, .adapters = files, .n_adapter = n_adapter};
    struct eng *g = NULL;
    struct err e;
    if (eng_open(&o, &g, &e) != ERR_OK) {
        fail_msg("%s", e.msg);
    }
    return g;
}

static void *kv_for(const struct eng *g)
{
    size_t n_chunk = (N + g->info.chunk_tok - 1) / g->info.chunk_tok;
    void *kv = aligned_alloc(64, n_chunk * g->info.chunk_bytes);
    assert_non_null(kv);
    return kv;
}

static void tokens_of(uint32_t seq, int32_t tokens[N])
{
    for (uint32_t i = 0; i < N; i++) {
        tokens[i] = (int32_t)(rng_mix(seq, i) % TINY_N_VOCAB);
    }
}

/* Logits of every row of sequences 0 … n_seq, each with its adapter, n_step tokens at a time. */
static void run(struct eng *g, const uint32_t *adapters, uint32_t n_seq, uint32_t n_step,
                float *out)
{
    struct eng_slice slices[N_SEQ];
    int32_t tokens[N_SEQ][N];
    void *kv[N_SEQ];
    struct err e;
    for (uint32_t i = 0; i < n_seq; i++) {
        tokens_of(i, tokens[i]);
        kv[i] = kv_for(g);
    }
    for (uint32_t at = 0; at < N; at += n_step) {
        uint32_t n = N - at < n_step ? N - at : n_step;
        for (uint32_t i = 0; i < n_seq; i++) {
            slices[i] = (struct eng_slice){.tokens = tokens[i] + at,
                                           .n_tok = n,
                                           .pos = at,
                                           .kv = kv[i],
                                           .adapter = adapters[i]};
        }
        assert_int_equal(eng_step(g, slices, n_seq, &e), ERR_OK);
        for (uint32_t i = 0; i < n_seq; i++) {
            memcpy(out + ((size_t)i * N + at) * TINY_N_VOCAB, slices[i].logits,
                   (size_t)n * TINY_N_VOCAB * sizeof *out);
        }
    }
    for (uint32_t i = 0; i < n_seq; i++) {
        free(kv[i]);
    }
}

#define SEQ_FLOATS ((size_t)N * TINY_N_VOCAB)

static void test_merged(void **state)
{
    (void)state;
    static float with[SEQ_FLOATS];
    static float merged[SEQ_FLOATS];
    static float plain[SEQ_FLOATS];
    const uint32_t one = 1;
    const uint32_t none = 0;
    static const char *const isas[] = {"scalar", NULL};
    for (size_t k = 0; k < 2; k++) {
        struct eng *g = open_with(base_path, 2, isas[k]);
        struct eng *m = open_with(merged_path, 0, isas[k]);
        assert_string_equal(g->info.adapters[0].name, "one");
        assert_memory_not_equal(g->info.adapters[0].digest, g->info.adapters[1].digest, 32);
        run(g, &one, 1, N, with);
        run(g, &none, 1, N, plain);
        run(m, &none, 1, N, merged);
        double diff = 0;
        double moved = 0;
        for (size_t i = 0; i < SEQ_FLOATS; i++) {
            diff = fmax(diff, fabs((double)with[i] - (double)merged[i]));
            moved = fmax(moved, fabs((double)with[i] - (double)plain[i]));
        }
        print_message("%s: %.2g from the merged weights, %.2g from the base\n", g->info.isa, diff,
                      moved);
        assert_true(diff < 1e-4 && moved > 100 * diff);
        eng_close(g);
        eng_close(m);
    }
}

static float all[N_SEQ * SEQ_FLOATS];
static float alone[N_SEQ * SEQ_FLOATS];

/* The sequences together give what each gives alone; without an adapter, what `bare` gives. */
static void check_mixed(struct eng *g, struct eng *bare, const uint32_t *adapters, uint32_t n_seq,
                        uint32_t n_step)
{
    run(g, adapters, n_seq, n_step, all);
    for (uint32_t i = 0; i < n_seq; i++) {
        uint32_t just[N_SEQ] = {0};
        just[i] = adapters[i];
        run(adapters[i] ? g : bare, just, i + 1, 5, alone);
        assert_memory_equal(all + i * SEQ_FLOATS, alone + i * SEQ_FLOATS, SEQ_FLOATS * sizeof *all);
    }
}

/* Neighbours with the same adapter, and many that take turns: more pairs of products than run at
 * once. */
static void test_mixed(void **state)
{
    (void)state;
    static const uint32_t some[8] = {0, 1, 1, 2, 0, 2, 1, 0};
    uint32_t turns[N_SEQ];
    for (uint32_t i = 0; i < N_SEQ; i++) {
        turns[i] = i % 3;
    }
    struct eng *g = open_with(base_path, 2, NULL);
    struct eng *bare = open_with(base_path, 0, NULL);
    check_mixed(g, bare, some, 8, N);
    check_mixed(g, bare, some, 8, 5);
    check_mixed(g, bare, some, 8, 1);
    check_mixed(g, bare, turns, N_SEQ, 4);
    struct err e;
    int32_t token = 1;
    void *kv = kv_for(g);
    struct eng_slice s = {.tokens = &token, .n_tok = 1, .kv = kv, .adapter = 3};
    assert_int_equal(eng_step(g, &s, 1, &e), ERR_INVALID);
    s.adapter = 1;
    assert_int_equal(eng_step(bare, &s, 1, &e), ERR_INVALID);
    free(kv);
    eng_close(g);
    eng_close(bare);
}

static void test_hostile(void **state)
{
    (void)state;
    static const struct fault faults[] = {
        {.says = "is an adapter for qwen2", .arch = "qwen2"},
        {.says = "is no LoRA adapter", .type = "model"},
        {.says = "lora_a is [", .n_in_more = 1},
        {.says = "lora_a is [", .n_out_more = 1},
        {.says = "lora_a is [", .rank_b_more = 1},
        {.says = "one of lora_a and lora_b", .only_a = true},
        {.says = "not finite", .not_finite = true},
        {.says = "token_embd.weight.lora_a", .extra = "token_embd.weight.lora_a"},
        {.says = "blk.9.attn_q.weight.lora_a", .extra = "blk.9.attn_q.weight.lora_a"},
        {.says = "tensor x changes nothing", .extra = "x"},
    };
    char path[256];
    snprintf(path, sizeof path, "%.240s.bad", base_path);
    const struct eng_adapter_file file = {"bad", path, 1};
    struct eng_options o = {
        .model_path = base_path, .n_thread = 1, .adapters = &file, .n_adapter = 1};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        struct eng *g = NULL;
        struct err e = {0};
        write_adapter(path, 5, &faults[i]);
        enum err_code code = eng_open(&o, &g, &e);
        (void)unlink(path);
        if (code == ERR_OK || !strstr(e.msg, faults[i].says) || !strstr(e.msg, path)) {
            fail_msg("%s: code %d, %s", faults[i].says, (int)code, e.msg);
        }
        assert_null(g);
    }
    struct eng *g = NULL;
    struct err e = {0};
    assert_int_equal(eng_open(&o, &g, &e), ERR_NOT_FOUND); /* no file */
    o.adapters = &(struct eng_adapter_file){"model", base_path, 1};
    assert_int_equal(eng_open(&o, &g, &e), ERR_INVALID);
}

static int make_files(void **state)
{
    (void)state;
    const char *dir = getenv("TMPDIR");
    int n = snprintf(base_path, sizeof base_path - 16, "%s/kvasir-lora-%d.gguf", dir ? dir : "/tmp",
                     (int)getpid());
    assert_true(n > 0 && n < 240);
    snprintf(merged_path, sizeof merged_path, "%.240s.merged", base_path);
    snprintf(lora_paths[0], sizeof lora_paths[0], "%.240s.one", base_path);
    snprintf(lora_paths[1], sizeof lora_paths[1], "%.240s.two", base_path);
    assert_true(tiny_write(base_path, NULL));
    write_adapter(lora_paths[0], 1, NULL);
    write_adapter(lora_paths[1], 2, NULL);
    write_merged(1);
    return 0;
}

static int remove_files(void **state)
{
    (void)state;
    (void)unlink(base_path);
    (void)unlink(merged_path);
    (void)unlink(lora_paths[0]);
    (void)unlink(lora_paths[1]);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_merged), cmocka_unit_test(test_mixed),
                                       cmocka_unit_test(test_hostile)};
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
