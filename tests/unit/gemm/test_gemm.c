/* Every kernel of this machine against sums in double over exactly dequantised weights, on odd
 * shapes, and to the bit against itself: whatever runs beside a row must not change it. */
#include "fixture.h"
#include "int8_oracle.h"

#include "base/rng.h"
#include "engine/kernels/pack_block.h"
#include "engine/quant/formats.h"
#include "engine/threads.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>

#include <cmocka.h>

struct machine {
    struct eng_pool *pool;
    struct gemm_ctx *ctx[KERN_ISA_END]; /* NULL: not on this machine */
    bool all;                           /* every number of rows: suite slow */
};

static bool want_all; /* set by main alone */

static int setup(void **state)
{
    struct machine *m = calloc(1, sizeof *m);
    struct err e;
    m->all = want_all;
    assert_int_equal(eng_pool_create(2, &m->pool, &e), ERR_OK);
    for (int i = 0; i < KERN_ISA_END; i++) {
        enum kern_isa isa;
        if (kern_isa_by_name(kern_isa_name((enum kern_isa)i), &isa, &e) == ERR_OK) {
            assert_int_equal(gemm_ctx_create(isa, m->pool, &m->ctx[i], &e), ERR_OK);
        } else {
            print_message("not tested: %s\n", e.msg);
        }
    }
    *state = m;
    return 0;
}

static int teardown(void **state)
{
    struct machine *m = *state;
    for (int i = 0; i < KERN_ISA_END; i++) {
        gemm_ctx_destroy(m->ctx[i]);
    }
    eng_pool_destroy(m->pool);
    free(m);
    return 0;
}

/* y = w x for n_tok rows; every buffer ends at an unreadable page. */
static void multiply(struct gemm_ctx *c, const struct gemm_weight *w, const float *x,
                     uint32_t n_tok, const float *bias, bool add, float *y)
{
    struct err e;
    struct gemm_act act = {0};
    size_t n_x = (size_t)n_tok * w->n_in * sizeof *x;
    size_t n_y = (size_t)n_tok * w->n_out * sizeof *y;
    float *gx = fix_guard_alloc(n_x), *gy = fix_guard_alloc(n_y);
    memcpy(gx, x, n_x);
    memcpy(gy, y, n_y);
    assert_int_equal(gemm_act_prepare(c, w, gx, w->n_in, n_tok, &act, &e), ERR_OK);
    struct gemm_job job = {.w = w, .act = &act, .y = gy, .ldy = w->n_out, .bias = bias, .add = add};
    gemm_run(c, &job, 1);
    memcpy(y, gy, n_y);
    gemm_act_finish(&act);
    fix_guard_free(gx, n_x);
    fix_guard_free(gy, n_y);
}

static struct gemm_weight pack(struct gemm_ctx *c, enum gguf_type type, uint32_t n_out,
                               uint32_t n_in, const uint8_t *src)
{
    struct gemm_weight w;
    struct err e;
    if (gemm_weight_pack(c, type, n_out, n_in, src, &w, &e) != ERR_OK) {
        fail_msg("pack %s: %s", quant_format_of(type)->name, e.msg);
    }
    return w;
}

static bool is_int8(enum kern_isa isa, enum gguf_type type)
{
    return (isa == KERN_AVX2 || isa == KERN_AVX512 || isa == KERN_NEON) && pack_block_known(type);
}

/* Relative to the sum of |w x|: what rounding in f32, and of weights to bf16, may add. */
static double tolerance(enum kern_isa isa, enum gguf_type type, uint32_t n_in)
{
    double f32 = 1.2e-7 * sqrt((double)n_in) + 2.4e-7;
    if (is_int8(isa, type)) {
        return 8 * f32; /* codes are sums of larger parts */
    }
    return isa != KERN_AMX || type == GGUF_TYPE_F32 || type == GGUF_TYPE_F16 ? f32 : f32 + 0x1p-8;
}

static const struct shape {
    uint32_t n_out, n_in, n_tok;
} shapes[] = {
    {1, 1, 1},  {16, 1, 3},  {33, 2, 5},   {70, 3, 2},  {32, 4, 16}, {31, 5, 17},
    {64, 7, 1}, {17, 8, 33}, {48, 28, 13}, {5, 19, 70}, {96, 9, 64}, {40, 6, 150},
};

/* What a kernel's y must be and the size of the sums behind it, [n_tok][n_out] each. */
static void reference(struct shape s, const float *w, const float *x, const float *bias,
                      double *want, double *size)
{
    for (uint32_t t = 0; t < s.n_tok; t++) {
        for (uint32_t o = 0; o < s.n_out; o++) {
            double sum = 1.5 + (double)bias[o], abs = fabs(sum);
            for (uint32_t k = 0; k < s.n_in; k++) {
                double v = (double)w[(size_t)o * s.n_in + k] * (double)x[(size_t)t * s.n_in + k];
                sum += v;
                abs += fabs(v);
            }
            want[(size_t)t * s.n_out + o] = sum;
            size[(size_t)t * s.n_out + o] = abs;
        }
    }
}

static void check_rows(struct gemm_ctx *c, const struct gemm_weight *w, const float *w_f32)
{
    float *row = malloc(sizeof *row * w->n_in);
    for (uint32_t o = 0; o < w->n_out; o++) {
        gemm_weight_row(c, w, o, row);
        assert_memory_equal(row, w_f32 + (size_t)o * w->n_in, sizeof *row * w->n_in);
    }
    free(row);
}

static void check_shape(struct machine *m, enum gguf_type type, struct shape s)
{
    s.n_in = s.n_in * (fix_block(type) > 32 ? fix_block(type) : 32);
    const size_t n_y = (size_t)s.n_tok * s.n_out;
    uint8_t *src = fix_weights(type, s.n_out, s.n_in, FIX_NORMAL, s.n_out * 31 + s.n_in);
    float *x = malloc(sizeof *x * s.n_tok * s.n_in);
    float *wf = malloc(sizeof *wf * s.n_out * s.n_in);
    float *bias = malloc(sizeof *bias * s.n_out), *y = malloc(sizeof *y * n_y);
    double *want = malloc(sizeof *want * n_y), *size = malloc(sizeof *size * n_y);
    fix_activations(x, (size_t)s.n_tok * s.n_in, s.n_tok);
    fix_activations(bias, s.n_out, 5);
    quant_format_of(type)->dequant(src, wf, (size_t)s.n_out * s.n_in);
    reference(s, wf, x, bias, want, size);
    for (int i = 0; i < KERN_ISA_END; i++) {
        if (!m->ctx[i]) {
            continue;
        }
        struct gemm_weight w = pack(m->ctx[i], type, s.n_out, s.n_in, src);
        for (size_t j = 0; j < n_y; j++) {
            y[j] = 1.5f;
        }
        multiply(m->ctx[i], &w, x, s.n_tok, bias, true, y);
        double tol = tolerance((enum kern_isa)i, type, s.n_in);
        for (size_t j = 0; j < n_y; j++) {
            double off = fabs((double)y[j] - want[j]);
            if (is_int8((enum kern_isa)i, type)) {
                off -=
                    int8_oracle_error(wf + j % s.n_out * s.n_in, s.n_in, x + j / s.n_out * s.n_in);
            }
            if (!(off <= tol * size[j])) {
                fail_msg("%s %s %ux%u, %u rows: y[%zu] is %.9g, not %.9g (off by %.3g of %.3g)",
                         kern_isa_name((enum kern_isa)i), quant_format_of(type)->name, s.n_out,
                         s.n_in, s.n_tok, j, (double)y[j], want[j], off / size[j], tol);
            }
        }
        check_rows(m->ctx[i], &w, wf);
        gemm_weight_finish(&w);
    }
    free(src);
    free(x);
    free(wf);
    free(bias);
    free(y);
    free(want);
    free(size);
}

static void test_values(void **state)
{
    for (size_t t = 0; fix_types[t] != GGUF_TYPE_END; t++) {
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            check_shape(*state, fix_types[t], shapes[s]);
        }
    }
}

/* The same bits from one row alone as from any number beside it, at any place, by any thread. */
static void test_bits_of_a_row(void **state)
{
    struct machine *m = *state;
    enum { N_OUT = 70, N_TOK = 70 };
    struct eng_pool *one;
    struct err e;
    assert_int_equal(eng_pool_create(1, &one, &e), ERR_OK);
    for (size_t t = 0; fix_types[t] != GGUF_TYPE_END; t++) {
        uint32_t n_in = fix_block(fix_types[t]) > 32 ? 1024 : 896;
        uint8_t *src = fix_weights(fix_types[t], N_OUT, n_in, FIX_NORMAL, 99);
        float *x = malloc(sizeof *x * N_TOK * n_in);
        float *want = calloc(N_TOK * N_OUT, sizeof *want), *y = calloc(N_TOK * N_OUT, sizeof *y);
        fix_activations(x, (size_t)N_TOK * n_in, 7);
        for (int i = 0; i < KERN_ISA_END; i++) {
            if (!m->ctx[i]) {
                continue;
            }
            struct gemm_ctx *alone;
            assert_int_equal(gemm_ctx_create((enum kern_isa)i, one, &alone, &e), ERR_OK);
            struct gemm_weight w = pack(m->ctx[i], fix_types[t], N_OUT, n_in, src);
            for (uint32_t r = 0; r < N_TOK; r++) {
                multiply(alone, &w, x + (size_t)r * n_in, 1, NULL, false, want + (size_t)r * N_OUT);
            }
            for (uint32_t n = 1; n <= N_TOK; n = m->all || n < 4 ? n + 1 : n + 1 + n % 14) {
                uint32_t first = (n * 13) % (N_TOK - n + 1);
                multiply(n & 1 ? m->ctx[i] : alone, &w, x + (size_t)first * n_in, n, NULL, false,
                         y);
                if (memcmp(y, want + (size_t)first * N_OUT, sizeof *y * n * N_OUT) != 0) {
                    fail_msg("%s %s: bits differ among %u rows from row %u",
                             kern_isa_name((enum kern_isa)i), quant_format_of(fix_types[t])->name,
                             n, first);
                }
            }
            gemm_weight_finish(&w);
            gemm_ctx_destroy(alone);
        }
        free(src);
        free(x);
        free(want);
        free(y);
    }
    eng_pool_destroy(one);
}

/* F32 and F16 weights give the same bits on every instruction set. */
static void test_float_bits_across_isas(void **state)
{
    struct machine *m = *state;
    enum { N_OUT = 45, N_IN = 259, N_TOK = 23 };
    const enum gguf_type types[] = {GGUF_TYPE_F32, GGUF_TYPE_F16};
    for (size_t t = 0; t < 2; t++) {
        uint8_t *src = fix_weights(types[t], N_OUT, N_IN, FIX_NORMAL, 3);
        float *x = malloc(sizeof *x * N_TOK * N_IN);
        float *want = calloc(N_TOK * N_OUT, sizeof *want), *y = calloc(N_TOK * N_OUT, sizeof *y);
        fix_activations(x, (size_t)N_TOK * N_IN, 8);
        for (int i = 0; i < KERN_ISA_END; i++) {
            if (m->ctx[i]) {
                struct gemm_weight w = pack(m->ctx[i], types[t], N_OUT, N_IN, src);
                multiply(m->ctx[i], &w, x, N_TOK, NULL, false, i == KERN_SCALAR ? want : y);
                if (i != KERN_SCALAR) {
                    assert_memory_equal(y, want, sizeof *y * N_TOK * N_OUT);
                }
                gemm_weight_finish(&w);
            }
        }
        free(src);
        free(x);
        free(want);
        free(y);
    }
}

/* Integer dot products give the oracle's bits on every instruction set. */
static void test_int8_bits(void **state)
{
    struct machine *m = *state;
    enum { N_OUT = 35, N_TOK = 15 };
    float *y = calloc(N_TOK * N_OUT, sizeof *y);
    for (size_t t = 0; fix_types[t] != GGUF_TYPE_END; t++) {
        const enum gguf_type type = fix_types[t];
        const uint32_t n_in = fix_block(type) > 32 ? 768 : 352;
        if (!pack_block_known(type)) {
            continue;
        }
        uint8_t *src = fix_weights(type, N_OUT, n_in, FIX_NORMAL, 17);
        float *x = malloc(sizeof *x * N_TOK * n_in);
        fix_activations(x, (size_t)N_TOK * n_in, 23);
        for (int i = 0; i < KERN_ISA_END; i++) {
            if (!m->ctx[i] || !is_int8((enum kern_isa)i, type)) {
                continue;
            }
            struct gemm_weight w = pack(m->ctx[i], type, N_OUT, n_in, src);
            multiply(m->ctx[i], &w, x, N_TOK, NULL, false, y);
            for (uint32_t j = 0; j < N_TOK * N_OUT; j++) {
                float want = int8_oracle(type, src + fix_row_bytes(type, n_in) * (j % N_OUT), n_in,
                                         x + (size_t)(j / N_OUT) * n_in);
                if (memcmp(&y[j], &want, sizeof want) != 0) {
                    fail_msg("%s %s: y[%u] is %a, not %a", kern_isa_name((enum kern_isa)i),
                             quant_format_of(type)->name, j, (double)y[j], (double)want);
                }
            }
            gemm_weight_finish(&w);
        }
        free(src);
        free(x);
    }
    free(y);
}

/* The bf16 at or below the magnitude of f. */
static float bf16_below(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return quant_bf16_to_f32((uint16_t)(u >> 16));
}

/* May a weight of this value be read as got? Unpackers cut after a factor of 1 + 3/1024: one of the
 * two bf16 beside it, the value itself where that is a bf16. Other types round to nearest. */
static bool amx_may_read(enum gguf_type type, float f, float got)
{
    if (fabsf(f) < 0x1p-123f) {
        return fabsf(got) < 0x1p-122f;
    }
    if (isnan(f)) {
        return isnan(got);
    }
    if (!pack_block_known(type)) {
        const float want = quant_bf16_to_f32(quant_f32_to_bf16(f));
        return got == want || (isinf(want) && isnan(got));
    }
    const float above = f * 1.0029297f;
    if (isinf(above)) {
        return isinf(got) || isnan(got); /* 0 x inf beside it */
    }
    return got == bf16_below(f) || (got == bf16_below(above) && bf16_below(f) != f);
}

static void test_amx_weights_are_near(void **state)
{
    struct machine *m = *state;
    enum { N_OUT = 33, N_IN = 512 };
    if (!m->ctx[KERN_AMX]) {
        skip();
    }
    float *x = calloc((size_t)N_IN * N_IN, sizeof *x),
          *w_f32 = malloc(sizeof *w_f32 * N_OUT * N_IN);
    float *y = calloc((size_t)N_IN * N_OUT, sizeof *y);
    for (int k = 0; k < N_IN; k++) {
        x[k * N_IN + k] = 1.0f;
    }
    for (size_t t = 0; fix_types[t] != GGUF_TYPE_END; t++) {
        enum gguf_type type = fix_types[t];
        for (int flavour = FIX_NORMAL; flavour <= FIX_ZERO; flavour++) {
            if (type == GGUF_TYPE_F32 || type == GGUF_TYPE_F16) {
                continue;
            }
            uint8_t *src = fix_weights(type, N_OUT, N_IN, (enum fix_flavour)flavour, 5);
            struct gemm_weight w = pack(m->ctx[KERN_AMX], type, N_OUT, N_IN, src);
            quant_format_of(type)->dequant(src, w_f32, (size_t)N_OUT * N_IN);
            multiply(m->ctx[KERN_AMX], &w, x, N_IN, NULL, false, y);
            double bias = 0, size = 0;
            for (int o = 0; o < N_OUT; o++) {
                for (int k = 0; k < N_IN; k++) {
                    float f = w_f32[o * N_IN + k], got = y[k * N_OUT + o];
                    bias += (double)(fabsf(got) - fabsf(f));
                    size += (double)fabsf(f);
                    if (!amx_may_read(type, f, got)) {
                        fail_msg("%s flavour %d: w[%d][%d] is %a, read as %a",
                                 quant_format_of(type)->name, flavour, o, k, (double)f,
                                 (double)got);
                    }
                }
            }
            if (flavour == FIX_NORMAL && fabs(bias) > size / 2500) {
                fail_msg("%s: weights are %g of their size too large on average",
                         quant_format_of(type)->name, bias / size);
            }
            gemm_weight_finish(&w);
            free(src);
        }
    }
    free(x);
    free(y);
    free(w_f32);
}

/* A scale that is NaN or infinite spoils its own row of the weight and no other. */
static void test_special_scales_stay_in_their_row(void **state)
{
    struct machine *m = *state;
    enum { N_OUT = 21, N_IN = 512, N_TOK = 19 };
    float *x = malloc(sizeof *x * N_TOK * N_IN);
    float *y = calloc(N_TOK * N_OUT, sizeof *y), *clean = calloc(N_TOK * N_OUT, sizeof *clean);
    fix_activations(x, (size_t)N_TOK * N_IN, 11);
    for (size_t t = 0; fix_types[t] != GGUF_TYPE_END; t++) {
        enum gguf_type type = fix_types[t];
        size_t row = fix_row_bytes(type, N_IN);
        uint8_t *src = fix_weights(type, N_OUT, N_IN, FIX_NORMAL, 6);
        uint8_t *bad = fix_weights(type, N_OUT, N_IN, FIX_SPECIAL, 6);
        for (int i = 0; i < KERN_ISA_END; i++) {
            if (!m->ctx[i]) {
                continue;
            }
            struct gemm_weight w = pack(m->ctx[i], type, N_OUT, N_IN, src);
            multiply(m->ctx[i], &w, x, N_TOK, NULL, false, clean);
            gemm_weight_finish(&w);
            memcpy(bad, src, row * 5); /* rows 5 and 17 stay spoilt */
            memcpy(bad + 6 * row, src + 6 * row, row * 11);
            memcpy(bad + 18 * row, src + 18 * row, row * 3);
            w = pack(m->ctx[i], type, N_OUT, N_IN, bad);
            multiply(m->ctx[i], &w, x, N_TOK, NULL, false, y);
            gemm_weight_finish(&w);
            for (int j = 0; j < N_TOK * N_OUT; j++) {
                if (j % N_OUT == 5 || j % N_OUT == 17) {
                    continue;
                }
                if (memcmp(&y[j], &clean[j], sizeof *y) != 0) {
                    fail_msg("%s %s: output %d changed", kern_isa_name((enum kern_isa)i),
                             quant_format_of(type)->name, j);
                }
            }
        }
        free(src);
        free(bad);
    }
    free(x);
    free(y);
    free(clean);
}

/* Activations from zero through denormal to very large, and none of them finite in one row. */
static void test_extreme_activations(void **state)
{
    struct machine *m = *state;
    enum { N_OUT = 18, N_IN = 512, N_TOK = 6 };
    float *x = malloc(sizeof *x * N_TOK * N_IN), *y = calloc(N_TOK * N_OUT, sizeof *y);
    for (int k = 0; k < N_IN; k++) {
        x[k] = 0.0f;
        x[N_IN + k] = 1e-41f;
        x[2 * N_IN + k] = k % 2 ? 1e30f : -1e30f;
        x[3 * N_IN + k] = k == 77 ? __builtin_nanf("") : 1.0f;
        x[4 * N_IN + k] = 1.0f;
        x[5 * N_IN + k] = k == 5 ? 1e38f : 1e-38f;
    }
    for (size_t t = 0; fix_types[t] != GGUF_TYPE_END; t++) {
        uint8_t *src = fix_weights(fix_types[t], N_OUT, N_IN, FIX_NORMAL, 8);
        for (int i = 0; i < KERN_ISA_END; i++) {
            if (!m->ctx[i]) {
                continue;
            }
            struct gemm_weight w = pack(m->ctx[i], fix_types[t], N_OUT, N_IN, src);
            multiply(m->ctx[i], &w, x, N_TOK, NULL, false, y);
            for (int o = 0; o < N_OUT; o++) {
                assert_true(y[o] == 0.0f);
                assert_true(fabsf(y[N_OUT + o]) < 1e-36f);
                assert_true(isfinite(y[2 * N_OUT + o]));
                assert_true(isnan(y[3 * N_OUT + o]));
                assert_true(isfinite(y[4 * N_OUT + o]) && y[4 * N_OUT + o] != 0.0f);
                assert_false(isnan(y[5 * N_OUT + o]));
            }
            gemm_weight_finish(&w);
        }
        free(src);
    }
    free(x);
    free(y);
}

static void test_refusals(void **state)
{
    struct machine *m = *state;
    struct gemm_weight w;
    struct err e;
    uint8_t byte = 0;
    assert_int_equal(gemm_weight_pack(m->ctx[KERN_SCALAR], GGUF_TYPE_I32, 1, 1, &byte, &w, &e),
                     ERR_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "I32"));
    assert_int_equal(gemm_weight_pack(m->ctx[KERN_SCALAR], GGUF_TYPE_Q4_0, 1, 33, &byte, &w, &e),
                     ERR_INVALID);
    assert_int_equal(gemm_weight_pack(m->ctx[KERN_SCALAR], GGUF_TYPE_Q4_0, 0, 32, &byte, &w, &e),
                     ERR_INVALID);
    enum kern_isa isa;
    assert_int_equal(kern_isa_by_name("z80", &isa, &e), ERR_UNSUPPORTED);
    assert_int_equal(kern_isa_by_name(NULL, &isa, &e), ERR_OK);
    assert_int_equal(isa, kern_isa_detect());
}

int main(int argc, char **argv)
{
    want_all = argc > 1 && strcmp(argv[1], "--all") == 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_bits_of_a_row),
        cmocka_unit_test(test_float_bits_across_isas),
        cmocka_unit_test(test_int8_bits),
        cmocka_unit_test(test_amx_weights_are_near),
        cmocka_unit_test(test_special_scales_stay_in_their_row),
        cmocka_unit_test(test_extreme_activations),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("gemm", tests, setup, teardown);
}
