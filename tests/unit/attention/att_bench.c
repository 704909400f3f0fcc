/* test_attention --bench [isa [kv-type [threads [decode|prefill]]]]: decode at 4k and prefill,
 * beside the read bandwidth of the same memory by the same threads. Best of N_ROUND; one thread is
 * timed by its CPU time, so that a busy machine changes little. */
#include "att_bench.h"

#include "engine/kernels/attention.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

struct model {
    const char *name;
    uint32_t n_layer, n_head, n_kv_head, d;
};

struct bench {
    const struct model *m;
    struct eng_pool *pool;
    struct att_ctx *c;
    uint8_t *kv;
    size_t kv_bytes;
    float *q, *k, *v, *out;
};

enum { N_CTX = 4096, N_SLICE = 512, N_ROUND = 15 };

static uint64_t now_ns(const struct bench *b)
{
    struct timespec t;
    (void)clock_gettime(
        eng_pool_n_thread(b->pool) == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

static double best(const double *x, int n)
{
    double min = x[0];
    for (int i = 1; i < n; i++) {
        min = x[i] < min ? x[i] : min;
    }
    return min;
}

struct read_job {
    const uint8_t *p;
    size_t bytes;
    uint32_t n_item;
};

#if defined(__x86_64__)
__attribute__((target("avx2")))
#endif
static void
read_item(void *arg, uint32_t item, uint32_t worker)
{
    (void)worker;
    const struct read_job *j = arg;
    size_t from = j->bytes / j->n_item * item;
    size_t to = j->bytes / j->n_item * (item + 1);
#if defined(__x86_64__)
    __m256i x = _mm256_setzero_si256();
    for (size_t i = from; i + 64 <= to; i += 64) {
        x = _mm256_xor_si256(x, _mm256_loadu_si256((const __m256i *)(const void *)(j->p + i)));
        x = _mm256_xor_si256(x, _mm256_loadu_si256((const __m256i *)(const void *)(j->p + i + 32)));
    }
    volatile int sink = _mm256_testz_si256(x, x);
#else
    uint64_t x = 0;
    for (size_t i = from; i + 8 <= to; i += 8) {
        uint64_t y;
        memcpy(&y, j->p + i, 8);
        x ^= y;
    }
    volatile uint64_t sink = x;
#endif
    (void)sink;
}

static double read_gb_s(const struct bench *b)
{
    struct read_job j = {b->kv, b->kv_bytes, 64};
    double s[N_ROUND];
    for (int i = 0; i < N_ROUND; i++) {
        uint64_t from = now_ns(b);
        eng_pool_run(b->pool, j.n_item, read_item, &j);
        s[i] = (double)(now_ns(b) - from);
    }
    return (double)b->kv_bytes / best(s, N_ROUND);
}

static struct att_slice slice_at(const struct bench *b, uint32_t pos, uint32_t n_tok)
{
    const struct model *m = b->m;
    return (struct att_slice){
        .kv = b->kv,
        .pos = pos,
        .n_tok = n_tok,
        .q = b->q,
        .k = b->k,
        .v = b->v,
        .out = b->out,
        .ldq = (size_t)m->n_head * m->d,
        .ldk = (size_t)m->n_kv_head * m->d,
        .ldv = (size_t)m->n_kv_head * m->d,
        .ldo = (size_t)m->n_head * m->d,
    };
}

static void forward(const struct bench *b, uint32_t layer, uint32_t pos, uint32_t n_tok)
{
    const struct att_params p = {
        .kv_layer = layer, .n_head = b->m->n_head, .scale = 1 / sqrtf((float)b->m->d)};
    const struct att_slice s = slice_at(b, pos, n_tok);
    struct err e;
    if (att_forward(b->c, &p, &s, 1, &e) != ERR_OK) {
        (void)fprintf(stderr, "%s\n", e.msg);
        exit(1);
    }
}

/* One token through all layers. */
static void bench_decode(const struct bench *b)
{
    double s[N_ROUND];
    for (int i = 0; i < N_ROUND; i++) {
        uint64_t from = now_ns(b);
        for (uint32_t l = 0; l < b->m->n_layer; l++) {
            forward(b, l, N_CTX - 1, 1);
        }
        s[i] = (double)(now_ns(b) - from);
    }
    double ns = best(s, N_ROUND);
    double bytes = (double)att_bytes_per_tok(b->c) * N_CTX;
    double roof = read_gb_s(b);
    printf("  decode at %d: %7.1f us, %5.1f GB/s of %5.1f read = %3.0f %%\n", N_CTX, ns / 1e3,
           bytes / ns, roof, 100 * bytes / ns / roof);
}

static void bench_prefill(const struct bench *b, uint32_t n_ctx)
{
    double s[N_ROUND];
    for (int i = 0; i < N_ROUND; i++) {
        uint64_t from = now_ns(b);
        for (uint32_t pos = 0; pos < n_ctx; pos += N_SLICE) {
            forward(b, (uint32_t)i % b->m->n_layer, pos, N_SLICE);
        }
        s[i] = (double)(now_ns(b) - from);
    }
    double flop = 4.0 * b->m->d * b->m->n_head * ((double)n_ctx * (n_ctx + 1) / 2);
    double ns = best(s, N_ROUND);
    printf("  prefill %4u: %7.1f us a layer, %6.3f TFLOP/s, %6.3f a thread\n", n_ctx, ns / 1e3,
           flop / ns / 1e3, flop / ns / 1e3 / eng_pool_n_thread(b->pool));
}

static void bench_model(const struct model *m, enum kern_isa isa, enum eng_kv_type type,
                        struct eng_pool *pool, const char *only)
{
    struct att_kv_shape shapes[64];
    for (uint32_t i = 0; i < m->n_layer; i++) {
        shapes[i] = (struct att_kv_shape){m->n_kv_head, m->d, m->d};
    }
    struct bench b = {.m = m, .pool = pool};
    struct err e;
    if (att_ctx_create(isa, type, shapes, m->n_layer, pool, &b.c, &e) != ERR_OK) {
        (void)fprintf(stderr, "%s\n", e.msg);
        exit(1);
    }
    b.kv_bytes = N_CTX / att_chunk_tok(b.c) * att_chunk_bytes(b.c);
    const size_t huge = (size_t)2 << 20;
    b.kv = aligned_alloc(huge, (b.kv_bytes + huge - 1) / huge * huge);
    (void)madvise(b.kv, b.kv_bytes, MADV_HUGEPAGE);
    memset(b.kv, 0, b.kv_bytes);
    size_t n = (size_t)N_SLICE * m->n_head * m->d;
    b.q = malloc(n * sizeof(float));
    b.k = malloc(n * sizeof(float));
    b.v = malloc(n * sizeof(float));
    b.out = malloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++) {
        b.q[i] = sinf((float)i * 1.7F);
        b.k[i] = cosf((float)i * 0.9F);
        b.v[i] = sinf((float)i * 0.3F);
    }
    for (uint32_t l = 0; l < m->n_layer; l++) {
        for (uint32_t pos = 0; pos < N_CTX; pos += N_SLICE) {
            struct att_params p = {.kv_layer = l, .n_head = m->n_head, .scale = 0.1F, .window = 1};
            struct att_slice s = slice_at(&b, pos, N_SLICE);
            (void)att_forward(b.c, &p, &s, 1, NULL);
        }
    }
    printf("%s, %u thread(s), %zu bytes a token:\n", m->name, eng_pool_n_thread(pool),
           att_bytes_per_tok(b.c));
    if (!only || strcmp(only, "decode") == 0) {
        bench_decode(&b);
    }
    if (!only || strcmp(only, "prefill") == 0) {
        bench_prefill(&b, 512);
        bench_prefill(&b, N_CTX);
    }
    free(b.kv);
    free(b.q);
    free(b.k);
    free(b.v);
    free(b.out);
    att_ctx_destroy(b.c);
}

int att_bench(int argc, char **argv)
{
    static const struct model models[] = {
        {"tinyllama (22 layers, 32/4 heads of 64)", 22, 32, 4, 64},
        {"llama-3.1-8b (8 of 32 layers, 32/8 heads of 128)", 8, 32, 8, 128},
    };
    enum kern_isa isa;
    struct err e;
    if (kern_isa_by_name(argc > 0 ? argv[0] : NULL, &isa, &e) != ERR_OK) {
        (void)fprintf(stderr, "%s\n", e.msg);
        return 2;
    }
    const char *name = argc > 1 ? argv[1] : "bf16";
    enum eng_kv_type type = strcmp(name, "f32") == 0    ? ENG_KV_F32
                            : strcmp(name, "int8") == 0 ? ENG_KV_INT8
                                                        : ENG_KV_BF16;
    uint32_t n_max = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 2;
    printf("%s, %s KV\n", kern_isa_name(isa), name);
    for (uint32_t n_thread = 1; n_thread <= n_max; n_thread++) {
        struct eng_pool *pool = NULL;
        if (eng_pool_create(n_thread, &pool, &e) != ERR_OK) {
            (void)fprintf(stderr, "%s\n", e.msg);
            return 1;
        }
        for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
            bench_model(&models[i], isa, type, pool, argc > 3 ? argv[3] : NULL);
        }
        eng_pool_destroy(pool);
    }
    return 0;
}
