/* Row operations of every instruction set this machine has, against the double-sum oracle: odd
 * lengths at a guard page, extremes, in place; and the bits of an element do not depend on where it
 * lies or what lies beside it. */
#include "base/rng.h"
#include "engine/kernels/vector.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_MAX = 1100 };

static uint64_t g_seed = 42;

static const struct vec_ops *g_ops;
static const struct vec_ops *g_ref;

static bool have(const char *name)
{
    enum kern_isa got;
    return kern_isa_by_name(name, &got, NULL) == ERR_OK;
}

/* n floats that end where readable memory ends, and begin after a page that is not readable when
 * they fill the page. */
static float *guarded(size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t len = (n * sizeof(float) + page - 1) / page * page;
    char *m = mmap(NULL, len + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(m != MAP_FAILED);
    assert_int_equal(mprotect(m + page, len, PROT_READ | PROT_WRITE), 0);
    return (float *)(m + page + len - n * sizeof(float));
}

static void guarded_free(float *p, size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t len = (n * sizeof(float) + page - 1) / page * page;
    char *end = (char *)p + n * sizeof(float);
    assert_int_equal(munmap(end - len - page, len + 2 * page), 0);
}

static float *random_row(size_t n, float scale)
{
    float *x = guarded(n);
    for (size_t i = 0; i < n; i++) {
        double u = (double)(rng_next(&g_seed) >> 11) * 0x1p-53;
        x[i] = (float)((u * 2 - 1) * scale);
    }
    return x;
}

/* |got - want| <= rel · |want| + abs, equal infinities and NaNs included. */
static void check(const char *what, size_t n, const float *got, const float *want, double rel,
                  double abs)
{
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);
        bool same = got[i] == want[i] || (isnan(got[i]) && isnan(want[i]));
        if (!same && !(d <= rel * fabs(want[i]) + abs)) {
            fail_msg("%s n=%zu: element %zu is %.9g, the oracle has %.9g", what, n, i, got[i],
                     want[i]);
        }
    }
}

static const size_t lengths[] = {1,  2,  3,  7,  8,  15, 16,  17,  31,  32,  33,   47,
                                 48, 49, 63, 64, 65, 96, 127, 128, 130, 255, 1000, N_MAX};
#define N_LENGTHS (sizeof lengths / sizeof *lengths)

static void test_norms(void **state)
{
    (void)state;
    for (size_t k = 0; k < N_LENGTHS; k++) {
        size_t n = lengths[k];
        float *x = random_row(n, 3);
        float *w = random_row(n, 2);
        float *b = random_row(n, 1);
        float *y = guarded(n);
        float want[N_MAX];
        for (int with = 0; with < 2; with++) {
            g_ref->rmsnorm(want, x, with ? w : NULL, n, 1e-5F);
            g_ops->rmsnorm(y, x, with ? w : NULL, n, 1e-5F);
            check("rmsnorm", n, y, want, 2e-6, 0);
            g_ref->layernorm(want, x, with ? w : NULL, with ? b : NULL, n, 1e-5F);
            g_ops->layernorm(y, x, with ? w : NULL, with ? b : NULL, n, 1e-5F);
            check("layernorm", n, y, want, 1e-5, n == 1 ? 1e-6 : 5e-6);
        }
        g_ref->rmsnorm(want, x, w, n, 1e-5F);
        memcpy(y, x, n * sizeof *y);
        g_ops->rmsnorm(y, y, w, n, 1e-5F);
        check("rmsnorm in place", n, y, want, 2e-6, 0);
        guarded_free(x, n);
        guarded_free(w, n);
        guarded_free(b, n);
        guarded_free(y, n);
    }
}

static void test_elementwise(void **state)
{
    (void)state;
    for (size_t k = 0; k < N_LENGTHS; k++) {
        size_t n = lengths[k];
        float *a = random_row(n, 5);
        float *b = random_row(n, 5);
        float *y = guarded(n);
        float want[N_MAX];
        g_ref->add(want, a, b, n);
        g_ops->add(y, a, b, n);
        check("add", n, y, want, 0, 0);
        g_ref->mul(want, a, b, n);
        g_ops->mul(y, a, b, n);
        check("mul", n, y, want, 0, 0);
        g_ref->scale(want, a, 0.3F, n);
        g_ops->scale(y, a, 0.3F, n);
        check("scale", n, y, want, 0, 0);
        memcpy(want, b, n * sizeof *b);
        memcpy(y, b, n * sizeof *b);
        g_ref->axpy(want, a, 0.3F, n);
        g_ops->axpy(y, a, 0.3F, n);
        check("axpy", n, y, want, 0, 1e-6);
        g_ref->softcap(want, a, 30, n);
        g_ops->softcap(y, a, 30, n);
        check("softcap", n, y, want, 5e-7, 0);
        g_ref->softcap(want, a, 0.7F, n);
        g_ops->softcap(y, a, 0.7F, n);
        check("softcap", n, y, want, 5e-7, 0);
        guarded_free(a, n);
        guarded_free(b, n);
        guarded_free(y, n);
    }
}

static void test_activations(void **state)
{
    (void)state;
    static const float extremes[] = {0,     -0.0F,  1e-30F,   -1e-30F, 88.7F, -88.7F,
                                     87.3F, -87.4F, 104.0F,   -104.F,  1e4F,  -1e4F,
                                     3e38F, -3e38F, INFINITY, NAN};
    enum { N_EXTREME = sizeof extremes / sizeof *extremes };
    for (int kind = VEC_SILU; kind <= VEC_RELU_SQR; kind++) {
        for (size_t k = 0; k < N_LENGTHS; k++) {
            size_t n = lengths[k];
            float *x = random_row(n, k % 2 ? 12 : 1);
            float *up = random_row(n, 2);
            float *y = guarded(n);
            float want[N_MAX];
            if (n >= N_EXTREME) {
                memcpy(x + n - N_EXTREME, extremes, sizeof extremes);
            }
            g_ref->act(want, x, kind, n);
            g_ops->act(y, x, kind, n);
            check("act", n, y, want, 3e-6, 2e-7);
            g_ref->act_mul(want, x, up, kind, n);
            g_ops->act_mul(y, x, up, kind, n);
            check("act_mul", n, y, want, 3e-6, 4e-7);
            guarded_free(x, n);
            guarded_free(up, n);
            guarded_free(y, n);
        }
    }
}

static void test_softmax(void **state)
{
    (void)state;
    for (size_t k = 0; k < N_LENGTHS; k++) {
        size_t n = lengths[k];
        float *x = random_row(n, k % 3 ? 10 : 200);
        float *y = guarded(n);
        float want[N_MAX];
        if (n > 20) {
            x[3] = -INFINITY;
        }
        g_ref->softmax(want, x, n);
        g_ops->softmax(y, x, n);
        check("softmax", n, y, want, 2e-6, 1e-37);
        guarded_free(x, n);
        guarded_free(y, n);
    }
}

static void test_rope(void **state)
{
    (void)state;
    static const struct {
        uint32_t head_dim;
        uint32_t n_rot;
    } shapes[] = {{8, 8},    {64, 64},   {80, 80},   {80, 32}, {96, 96},
                  {128, 64}, {128, 128}, {256, 256}, {40, 2},  {112, 112}};
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        for (uint32_t n_head = 1; n_head <= 4; n_head += 3) {
            for (int neox = 0; neox < 2; neox++) {
                uint32_t dim = shapes[k].head_dim;
                uint32_t n_rot = shapes[k].n_rot;
                size_t n = (size_t)n_head * dim;
                float *x = random_row(n, 3);
                float *cs = guarded(n_rot);
                float want[N_MAX];
                for (uint32_t i = 0; i < n_rot / 2; i++) {
                    cs[2 * i] = cosf((float)i * 0.7F + 1);
                    cs[2 * i + 1] = sinf((float)i * 0.7F + 1);
                }
                memcpy(want, x, n * sizeof *x);
                g_ref->rope(want, n_head, dim, n_rot, cs, neox);
                g_ops->rope(x, n_head, dim, n_rot, cs, neox);
                check("rope", n, x, want, 1e-6, 1e-6);
                guarded_free(x, n);
                guarded_free(cs, n_rot);
            }
        }
    }
}

static void test_argmax(void **state)
{
    (void)state;
    for (size_t k = 0; k < N_LENGTHS; k++) {
        size_t n = lengths[k];
        float *x = random_row(n, 3);
        assert_int_equal(g_ops->argmax(x, n), g_ref->argmax(x, n));
        x[n / 2] = NAN;
        x[0] = n == 1 ? NAN : x[0];
        assert_int_equal(g_ops->argmax(x, n), g_ref->argmax(x, n));
        x[n - 1] = 9;
        assert_int_equal(g_ops->argmax(x, n), n - 1);
        x[n / 3] = 9; /* a tie: the lowest wins */
        assert_int_equal(g_ops->argmax(x, n), n / 3);
        for (size_t i = 0; i < n; i++) {
            x[i] = i < 2 ? NAN : -INFINITY;
        }
        assert_int_equal(g_ops->argmax(x, n), n > 2 ? 2 : 0);
        guarded_free(x, n);
    }
}

/* The same row at every alignment and between other neighbours gives the same bits. */
static void test_bits_do_not_depend_on_place(void **state)
{
    (void)state;
    float row[200];
    float first[4][200];
    for (size_t i = 0; i < 200; i++) {
        row[i] = (float)((double)(rng_next(&g_seed) >> 11) * 0x1p-53 * 8 - 4);
    }
    for (size_t n = 1; n <= 200; n += 13) {
        for (size_t shift = 0; shift < 17; shift++) {
            float x[240];
            float y[4][200];
            for (size_t i = 0; i < 240; i++) {
                x[i] = shift % 2 ? NAN : 1e30F;
            }
            memcpy(x + shift, row, n * sizeof *row);
            g_ops->rmsnorm(y[0], x + shift, row, n, 1e-6F);
            g_ops->softmax(y[1], x + shift, n);
            g_ops->act(y[2], x + shift, VEC_SILU, n);
            g_ops->layernorm(y[3], x + shift, row, row, n, 1e-6F);
            for (int f = 0; f < 4; f++) {
                if (!shift) {
                    memcpy(first[f], y[f], n * sizeof(float));
                }
                assert_memory_equal(first[f], y[f], n * sizeof(float));
            }
        }
    }
    /* an element of an elementwise function: its place in the vector does not matter */
    for (int kind = VEC_SILU; kind <= VEC_RELU_SQR; kind++) {
        float whole[200];
        g_ops->act(whole, row, kind, 200);
        for (size_t i = 0; i < 200; i++) {
            float one;
            g_ops->act(&one, row + i, kind, 1);
            assert_memory_equal(&one, &whole[i], sizeof one);
        }
    }
}

int main(void)
{
    static const struct {
        enum kern_isa isa;
        const char *name;
    } isas[] = {{KERN_SCALAR, "scalar"}, {KERN_AVX2, "avx2"}, {KERN_AVX512, "avx512"}};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms),
        cmocka_unit_test(test_elementwise),
        cmocka_unit_test(test_softmax),
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_argmax),
        cmocka_unit_test(test_bits_do_not_depend_on_place),
    };
    int n_failed = 0;
    g_ref = vec_ops_of(KERN_SCALAR);
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        if (!have(isas[i].name)) {
            print_message("%s: not on this machine\n", isas[i].name);
            continue;
        }
        g_ops = vec_ops_of(isas[i].isa);
        n_failed += cmocka_run_group_tests_name(isas[i].name, tests, NULL, NULL);
    }
    return n_failed ? 1 : 0;
}
