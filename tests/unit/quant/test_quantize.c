/* Quantising the golden source: errors against those the golden README records for the same rows,
 * and inputs at the edges. */
#include "base/rng.h"
#include "engine/quant/formats.h"
#include "engine/quant/quantize.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ROWS     16
#define ROW_LEN  512
#define ROW_FROM 7 /* rows 7…15 hold weights like a model's */

/* Relative RMS error over rows 7…15 of the files in golden/quant (column of its README). */
static const struct {
    enum gguf_type type;
    double error;
} recorded[] = {
    {GGUF_TYPE_F16, 0.0002},    {GGUF_TYPE_BF16, 0.0016},   {GGUF_TYPE_Q4_0, 0.1234},
    {GGUF_TYPE_Q4_1, 0.0967},   {GGUF_TYPE_Q5_0, 0.0622},   {GGUF_TYPE_Q5_1, 0.0480},
    {GGUF_TYPE_Q8_0, 0.0077},   {GGUF_TYPE_Q2_K, 0.3586},   {GGUF_TYPE_Q3_K, 0.1962},
    {GGUF_TYPE_Q4_K, 0.0914},   {GGUF_TYPE_Q5_K, 0.0458},   {GGUF_TYPE_Q6_K, 0.0235},
    {GGUF_TYPE_IQ4_NL, 0.0991}, {GGUF_TYPE_IQ4_XS, 0.1000}, {GGUF_TYPE_MXFP4, 0.1372},
};

static float source[ROWS * ROW_LEN];

static double relative_rms(const float *x, const float *y, size_t n)
{
    double err = 0;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)x[i] - (double)y[i];
        err += d * d;
        sum += (double)x[i] * (double)x[i];
    }
    return sqrt(err / sum);
}

static void round_trip(enum gguf_type type, const float *x, float *y, size_t n)
{
    const struct quant_format *fmt = quant_format_of(type);
    uint8_t *blocks = malloc(n / fmt->n_block_elem * fmt->n_block_byte);
    assert_non_null(blocks);
    assert_true(quant_quantize(type, x, blocks, n));
    fmt->dequant(blocks, y, n);
    free(blocks);
}

static void test_error(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof recorded / sizeof *recorded; i++) {
        float back[ROWS * ROW_LEN];
        size_t from = ROW_FROM * ROW_LEN;
        round_trip(recorded[i].type, source, back, ROWS * ROW_LEN);
        double got = relative_rms(source + from, back + from, ROWS * ROW_LEN - from);
        double limit = recorded[i].error * 1.05 + 0.00005; /* the record has four decimals */
        print_message("%-5s %.4f (recorded %.4f, %+.1f %%)\n",
                      quant_format_of(recorded[i].type)->name, got, recorded[i].error,
                      100 * (got / recorded[i].error - 1));
        assert_true(got <= limit);
    }
}

/* The first rows are edges: zeros stay zeros, a constant stays nearly one, outliers stay. */
static void test_edge_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof recorded / sizeof *recorded; i++) {
        float back[ROWS * ROW_LEN];
        round_trip(recorded[i].type, source, back, ROWS * ROW_LEN);
        for (size_t k = 0; k < ROW_LEN; k++) {
            assert_true(back[k] == 0);
            assert_true(fabsf(back[ROW_LEN + k] - 0.5f) < 0.01f);
        }
        for (size_t row = 3; row < ROW_FROM; row++) {
            double e = relative_rms(source + row * ROW_LEN, back + row * ROW_LEN, ROW_LEN);
            assert_true(e < 1.5 * recorded[i].error + 0.01);
        }
    }
}

static void test_refuses(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX};
    uint8_t out[1024];
    for (uint32_t type = 0; type < GGUF_TYPE_END; type++) {
        bool plain = type == GGUF_TYPE_F32 || type == GGUF_TYPE_F16 || type == GGUF_TYPE_BF16;
        for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
            float x[256] = {0.25f};
            x[77] = bad[k];
            bool fits = plain || (type == GGUF_TYPE_MXFP4 && isfinite(bad[k]));
            assert_int_equal(quant_quantize((enum gguf_type)type, x, out, 256), fits);
        }
    }
    float ones[256] = {1};
    assert_false(quant_quantize(GGUF_TYPE_Q4_K, ones, out, 128));
    assert_false(quant_quantize(GGUF_TYPE_Q4_0, ones, out, 33));
    assert_false(quant_can_quantize(GGUF_TYPE_IQ2_XS));
    assert_false(quant_can_quantize(GGUF_TYPE_END));
}

/* Magnitudes from denormal to the f16 scale's end: never far off, never NaN. */
static void test_magnitudes(void **state)
{
    (void)state;
    uint64_t seed = 7;
    for (size_t i = 0; i < sizeof recorded / sizeof *recorded; i++) {
        for (int exp = -140; exp <= 15; exp += 5) {
            float x[256];
            float back[256];
            for (int k = 0; k < 256; k++) {
                x[k] = ldexpf((float)(rng_next(&seed) % 2001) / 1000 - 1, exp);
            }
            round_trip(recorded[i].type, x, back, 256);
            for (int k = 0; k < 256; k++) {
                assert_true(fabsf(back[k]) <= ldexpf(1.3f, exp) + 0x1p-14f);
            }
            if (exp >= -5) {
                assert_true(relative_rms(x, back, 256) < 1.2 * recorded[i].error + 0.001);
            }
        }
    }
}

int main(void)
{
    char path[600];
    const char *shared = getenv("KVASIR_SHARED");
    const struct CMUnitTest pure[] = {
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_magnitudes),
    };
    const struct CMUnitTest with_data[] = {
        cmocka_unit_test(test_error),
        cmocka_unit_test(test_edge_rows),
    };
    int rc = cmocka_run_group_tests(pure, NULL, NULL);
    (void)snprintf(path, sizeof path, "%s/data/golden/quant/source.f32.bin", shared ? shared : ".");
    FILE *f = fopen(path, "rb");
    if (!f) {
        print_message("skipped: no golden data at %s\n", path);
        return rc ? rc : 77;
    }
    size_t n = fread(source, sizeof *source, ROWS * ROW_LEN, f);
    (void)fclose(f);
    return rc + (n != ROWS * ROW_LEN) + cmocka_run_group_tests(with_data, NULL, NULL);
}
