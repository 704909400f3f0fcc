/* Our F32 and F16 products against OpenBLAS, an oracle that shares no line with us. */
#include "base/rng.h"
#include "engine/kernels/gemm.h"
#include "engine/quant/formats.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cblas.h>
#include <cmocka.h>

static float *random_floats(size_t n, uint64_t *seed)
{
    float *v = malloc(n * sizeof *v);
    assert_non_null(v);
    for (size_t i = 0; i < n; i++) {
        v[i] = (float)(rng_next(seed) >> 40) * 0x1.0p-23f - 1.0f;
    }
    return v;
}

/* Rounds w to halves in place and gives their bits. */
static uint16_t *to_halves(float *w, size_t n)
{
    uint16_t *h = malloc(n * sizeof *h);
    assert_non_null(h);
    for (size_t i = 0; i < n; i++) {
        h[i] = quant_f32_to_f16(w[i]);
        w[i] = quant_f16_to_f32(h[i]);
    }
    return h;
}

static void check(enum kern_isa isa, enum gguf_type type, uint32_t n_out, uint32_t n_in,
                  uint32_t n_tok)
{
    uint64_t seed = n_out * 1000003u + n_in * 101u + n_tok;
    struct eng_pool *pool = NULL;
    struct gemm_ctx *c = NULL;
    struct gemm_weight weight = {0};
    struct gemm_act act = {0};
    struct err e;
    float *w = random_floats((size_t)n_out * n_in, &seed);
    float *x = random_floats((size_t)n_tok * n_in, &seed);
    float *want = calloc((size_t)n_tok * n_out, sizeof *want);
    float *got = calloc((size_t)n_tok * n_out, sizeof *got);
    uint16_t *halves = type == GGUF_TYPE_F16 ? to_halves(w, (size_t)n_out * n_in) : NULL;
    assert_true(want && got);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n_tok, (int)n_out, (int)n_in, 1.0f, x,
                (int)n_in, w, (int)n_in, 0.0f, want, (int)n_out);

    assert_int_equal(eng_pool_create(2, &pool, &e), ERR_OK);
    assert_int_equal(gemm_ctx_create(isa, pool, &c, &e), ERR_OK);
    const void *src = halves ? (const void *)halves : w;
    assert_int_equal(gemm_weight_pack(c, type, n_out, n_in, src, &weight, &e), ERR_OK);
    assert_int_equal(gemm_act_prepare(c, &weight, x, n_in, n_tok, &act, &e), ERR_OK);
    const struct gemm_job job = {.w = &weight, .act = &act, .y = got, .ldy = n_out};
    gemm_run(c, &job, 1);
    /* Sums of n_in products of values below 1, in two orders. */
    float tolerance = 4 * sqrtf((float)n_in) * 0x1.0p-24f * (float)n_in / 8;
    for (size_t i = 0; i < (size_t)n_tok * n_out; i++) {
        if (!(fabsf(got[i] - want[i]) <= tolerance)) {
            fail_msg("%s %ux%u, %u rows: element %zu is %g, OpenBLAS has %g", kern_isa_name(isa),
                     n_out, n_in, n_tok, i, (double)got[i], (double)want[i]);
        }
    }
    gemm_act_finish(&act);
    gemm_weight_finish(&weight);
    gemm_ctx_destroy(c);
    eng_pool_destroy(pool);
    free(halves);
    free(got);
    free(want);
    free(x);
    free(w);
}

static void test_against_openblas(void **state)
{
    (void)state;
    static const uint32_t shapes[][3] = {
        {1, 32, 1}, {17, 64, 3}, {70, 96, 33}, {256, 896, 1}, {300, 512, 70}};
    openblas_set_num_threads(1);
    for (int isa = KERN_SCALAR; isa < KERN_ISA_END; isa++) {
        enum kern_isa available;
        if (kern_isa_by_name(kern_isa_name((enum kern_isa)isa), &available, NULL)) {
            continue;
        }
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            check((enum kern_isa)isa, GGUF_TYPE_F32, shapes[i][0], shapes[i][1], shapes[i][2]);
            check((enum kern_isa)isa, GGUF_TYPE_F16, shapes[i][0], shapes[i][1], shapes[i][2]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_openblas)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
