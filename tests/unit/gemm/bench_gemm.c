/* Speed of the matrix products beside this machine's limits, measured in turns so that both see
 * the same neighbours; the best of several turns counts.
 * bench_gemm [-t threads] [-i isa] [-m MiB of weights] [-r turns] [TYPE ...] */
#include "fixture.h"

#include "base/clock.h"
#include "engine/kernels/roofline.h"
#include "engine/quant/formats.h"
#include "engine/threads.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_IN      2048
#define N_OUT     4096 /* of one matrix; there are as many as the bytes asked for need */
#define N_OUT_BIG 1024 /* for many rows */

struct bench {
    struct eng_pool *pool;
    struct gemm_ctx *ctx;
    struct roof *roof;
    enum kern_isa isa;
    size_t n_byte;
    int n_turn;
    float *x;
    float *y;
};

static void die(const struct err *e)
{
    fprintf(stderr, "bench_gemm: %s\n", e->msg);
    exit(1);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds for one of n_w matrices with n_tok rows: the fastest decile of n_turn passes over all, so
 * that moments in which another program had the cores do not count. */
static double pass(struct bench *b, const struct gemm_weight *w, size_t n_w, uint32_t n_tok,
                   int n_turn)
{
    struct gemm_act act = {0};
    struct err e;
    double *s = calloc(n_w * (size_t)n_turn, sizeof *s);
    for (size_t i = 0; i < n_w * (size_t)n_turn; i++) {
        uint64_t t = clock_mono_ns();
        if (gemm_act_prepare(b->ctx, w, b->x, N_IN, n_tok, &act, &e) != ERR_OK) {
            die(&e);
        }
        const struct gemm_weight *one = &w[i % n_w];
        struct gemm_job job = {.w = one, .act = &act, .y = b->y, .ldy = one->n_out};
        gemm_run(b->ctx, &job, 1);
        s[i] = (double)(clock_mono_ns() - t) * 1e-9;
    }
    qsort(s, n_w * (size_t)n_turn, sizeof *s, by_value);
    double best = s[n_w * (size_t)n_turn / 10];
    gemm_act_finish(&act);
    free(s);
    return best;
}

static void few_rows(struct bench *b, enum gguf_type type)
{
    static const uint32_t n_toks[] = {1, 8, 16, 32};
    uint8_t *src = fix_weights(type, N_OUT, N_IN, FIX_NORMAL, 1);
    size_t one = fix_row_bytes(type, N_IN) * N_OUT, n_w = b->n_byte / one + 1;
    struct gemm_weight *w = calloc(n_w, sizeof *w);
    struct err e;
    uint64_t t = clock_mono_ns();
    for (size_t i = 0; i < n_w; i++) {
        if (gemm_weight_pack(b->ctx, type, N_OUT, N_IN, src, &w[i], &e) != ERR_OK) {
            die(&e);
        }
    }
    t = clock_mono_ns() - t;
    printf("%-8s pack %5.2f GB/s ", quant_format_of(type)->name, (double)(one * n_w) / (double)t);
    for (size_t i = 0; i < sizeof n_toks / sizeof *n_toks; i++) {
        double best = 1e9, read = 0;
        for (int turn = 0; turn < b->n_turn; turn++) {
            double r = roof_read_bytes_per_s(b->roof);
            double s = pass(b, w, n_w, n_toks[i], 1);
            read = r > read ? r : read;
            best = s < best ? s : best;
        }
        double rate = (double)w->n_byte / best;
        printf("| %2u: %5.1f GB/s %3.0f%% of %4.1f, %5.0f GF ", n_toks[i], rate * 1e-9,
               rate / read * 100, read * 1e-9, 2e-9 * N_OUT * N_IN * n_toks[i] / best);
        fflush(stdout);
    }
    for (size_t i = 0; i < n_w; i++) {
        gemm_weight_finish(&w[i]);
    }
    free(w);
    free(src);
}

static void many_rows(struct bench *b, enum gguf_type type)
{
    static const uint32_t n_toks[] = {64, 128, 512};
    uint8_t *src = fix_weights(type, N_OUT_BIG, N_IN, FIX_NORMAL, 1);
    struct gemm_weight w;
    struct err e;
    if (gemm_weight_pack(b->ctx, type, N_OUT_BIG, N_IN, src, &w, &e) != ERR_OK) {
        die(&e);
    }
    for (size_t i = 0; i < sizeof n_toks / sizeof *n_toks; i++) {
        double best = 1e9, peak = 0, flop = 2.0 * N_OUT_BIG * N_IN * n_toks[i];
        enum roof_unit unit = b->isa == KERN_AMX && type != GGUF_TYPE_F32 && type != GGUF_TYPE_F16
                                  ? ROOF_BF16
                                  : ROOF_F32;
        for (int turn = 0; turn < b->n_turn; turn++) {
            double p = roof_flop_per_s(b->roof, b->isa, unit);
            double s = pass(b, &w, 1, n_toks[i], 20);
            peak = p > peak ? p : peak;
            best = s < best ? s : best;
        }
        printf("| %3u: %4.2f TF %2.0f%% of %4.2f ", n_toks[i], flop / best * 1e-12,
               flop / best / peak * 100, peak * 1e-12);
        fflush(stdout);
    }
    printf("\n");
    gemm_weight_finish(&w);
    free(src);
}

int main(int argc, char **argv)
{
    struct bench b = {.n_byte = (size_t)512 << 20, .n_turn = 5, .isa = kern_isa_detect()};
    struct err e;
    uint32_t n_thread = 2;
    int opt;
    while ((opt = getopt(argc, argv, "t:i:m:r:")) != -1) {
        switch (opt) {
        case 't': n_thread = (uint32_t)atoi(optarg); break;
        case 'm': b.n_byte = (size_t)atoi(optarg) << 20; break;
        case 'r': b.n_turn = atoi(optarg); break;
        case 'i':
            if (kern_isa_by_name(optarg, &b.isa, &e) != ERR_OK) {
                die(&e);
            }
            break;
        default: return 2;
        }
    }
    if (eng_pool_create(n_thread, &b.pool, &e) != ERR_OK ||
        gemm_ctx_create(b.isa, b.pool, &b.ctx, &e) != ERR_OK ||
        roof_create(b.pool, b.n_byte, &b.roof, &e) != ERR_OK) {
        die(&e);
    }
    b.x = malloc(sizeof *b.x * N_IN * 512);
    b.y = malloc(sizeof *b.y * N_OUT * 512);
    fix_activations(b.x, (size_t)N_IN * 512, 1);
    printf("%s, %u threads; %u x %u\n", kern_isa_name(b.isa), n_thread, N_OUT, N_IN);
    for (size_t t = 0; fix_types[t] != GGUF_TYPE_END; t++) {
        bool wanted = optind == argc;
        for (int i = optind; i < argc; i++) {
            wanted |= quant_type_by_name(argv[i]) == fix_types[t];
        }
        if (wanted) {
            few_rows(&b, fix_types[t]);
            many_rows(&b, fix_types[t]);
        }
    }
    free(b.x);
    free(b.y);
    roof_destroy(b.roof);
    gemm_ctx_destroy(b.ctx);
    eng_pool_destroy(b.pool);
    return 0;
}
