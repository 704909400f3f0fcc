/* Every type against the golden tensors: their files hold one tensor `w` and beside them lie its
 * exact values. quant/ was quantised from data, quant/random/ has random bits in every field. */
#include "base/buf.h"
#include "engine/gguf.h"
#include "engine/quant/formats.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char golden[512];

static float *read_floats(const char *path, size_t n)
{
    FILE *f = fopen(path, "rb");
    float *v = malloc(n * sizeof *v);
    assert_non_null(f);
    assert_non_null(v);
    assert_int_equal(fread(v, sizeof *v, n, f), n);
    assert_int_equal(fgetc(f), EOF);
    assert_int_equal(fclose(f), 0);
    return v;
}

/* False when the set has no file of this type. */
static bool check_type(const char *set, const char *name, enum gguf_type type)
{
    char path[700];
    struct err e;
    struct gguf *f = NULL;
    (void)snprintf(path, sizeof path, "%s/%s/%s.gguf", golden, set, name);
    enum err_code rc = gguf_open(path, &f, &e);
    if (rc == ERR_NOT_FOUND) {
        return false;
    }
    if (rc) {
        fail_msg("%s", e.msg);
    }
    const struct gguf_tensor *t = gguf_find_tensor(f, "w");
    assert_non_null(t);
    assert_int_equal(t->type, type);
    (void)snprintf(path, sizeof path, "%s/%s/%s.expected.bin", golden, set, name);
    float *want = read_floats(path, t->n_elem);
    float *got = malloc(t->n_elem * sizeof *got);
    assert_non_null(got);
    quant_format_of(type)->dequant(t->data, got, t->n_elem);
    for (uint64_t i = 0; i < t->n_elem; i++) {
        if (memcmp(&got[i], &want[i], sizeof *got) != 0) {
            fail_msg("%s/%s: element %llu is %a, should be %a", set, name, (unsigned long long)i,
                     (double)got[i], (double)want[i]);
        }
    }
    free(got);
    free(want);
    gguf_close(f);
    return true;
}

static void test_golden(void **state)
{
    (void)state;
    int n_file = 0;
    for (uint32_t type = 0; type < GGUF_TYPE_END; type++) {
        const struct quant_format *fmt = quant_format_of(type);
        if (fmt && fmt->dequant) {
            n_file += check_type("quant", fmt->name, (enum gguf_type)type);
            n_file += check_type("quant/random", fmt->name, (enum gguf_type)type);
        }
    }
    print_message("%d golden tensors match to the bit\n", n_file);
    assert_int_equal(n_file, 52);
}

/* All 65536 halves: to f32 and back is the identity (NaN stays NaN), and the value is right. */
static void test_f16(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = quant_f16_to_f32((uint16_t)h);
        int exp = (int)(h >> 10) & 31;
        double man = h & 1023;
        double want = exp == 0 ? ldexp(man, -24) : ldexp(man + 1024, exp - 25);
        if (exp == 31) {
            assert_true(man != 0 ? isnan(f) : isinf(f));
        } else {
            assert_true((double)f == (h & 0x8000 ? -want : want));
        }
        uint16_t back = quant_f32_to_f16(f);
        if (isnan(f)) {
            assert_true((back & 0x7c00) == 0x7c00 && (back & 0x3ff));
        } else {
            assert_int_equal(back, h);
        }
    }
}

/* Between two neighbours a and b: nearest wins, the middle goes to the even one. */
static void check_middle(float a, float b, uint16_t (*round)(float), uint16_t at)
{
    float mid = (float)(((double)a + (double)b) / 2);
    assert_int_equal(round(mid), at % 2 ? at + 1 : at);
    assert_int_equal(round(nextafterf(mid, a)), at);
    assert_int_equal(round(nextafterf(mid, b)), at + 1);
}

static void test_rounding(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7bff; h++) {
        check_middle(quant_f16_to_f32((uint16_t)h), quant_f16_to_f32((uint16_t)(h + 1)),
                     quant_f32_to_f16, (uint16_t)h);
    }
    assert_int_equal(quant_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(quant_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(quant_f32_to_f16(-INFINITY), 0xfc00);
    assert_int_equal(quant_f32_to_f16(1e-30f), 0);
    for (uint32_t h = 1; h < 0x7f7f; h++) {
        check_middle(quant_bf16_to_f32((uint16_t)h), quant_bf16_to_f32((uint16_t)(h + 1)),
                     quant_f32_to_bf16, (uint16_t)h);
    }
    assert_int_equal(quant_f32_to_bf16(3.4e38f), 0x7f80);
    float tiny_nan; /* its payload lies in the bits that are cut */
    memcpy(&tiny_nan, &(uint32_t){0xff800001u}, sizeof tiny_nan);
    assert_true(isnan(quant_bf16_to_f32(quant_f32_to_bf16(tiny_nan))));
    assert_true(isnan(quant_f16_to_f32(quant_f32_to_f16(tiny_nan))));
}

static void test_table(void **state)
{
    (void)state;
    assert_null(quant_format_of(4));
    assert_null(quant_format_of(GGUF_TYPE_END));
    assert_null(quant_format_of(UINT32_MAX));
    assert_int_equal(quant_type_by_name("q4_k"), GGUF_TYPE_Q4_K);
    assert_int_equal(quant_type_by_name("Q4"), GGUF_TYPE_END);
    for (uint32_t type = 0; type < GGUF_TYPE_END; type++) {
        const struct quant_format *fmt = quant_format_of(type);
        if (fmt) {
            assert_int_equal(quant_type_by_name(fmt->name), type);
            assert_true(fmt->n_block_elem && fmt->n_block_byte);
        }
    }
}

int main(void)
{
    const char *shared = getenv("KVASIR_SHARED");
    (void)snprintf(golden, sizeof golden, "%s/data/golden", shared ? shared : ".");
    const struct CMUnitTest pure[] = {
        cmocka_unit_test(test_f16),
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_table),
    };
    const struct CMUnitTest with_data[] = {cmocka_unit_test(test_golden)};
    int rc = cmocka_run_group_tests(pure, NULL, NULL);
    char index[600];
    (void)snprintf(index, sizeof index, "%s/quant/index.json", golden);
    FILE *f = fopen(index, "r");
    if (!f) {
        print_message("skipped: no golden data at %s\n", golden);
        return rc ? rc : 77;
    }
    (void)fclose(f);
    return rc + cmocka_run_group_tests(with_data, NULL, NULL);
}
