/* vector.h in sixteen lanes, compiled once per instruction set: VEC_TABLE names the table.
 * Sums take 32 elements a turn in two accumulators, the tail as masked vectors, then the fixed tree
 * of v16_sum: their order depends on n alone. */
#include "engine/kernels/lanes.h"
#include "engine/kernels/vector.h"
#include "engine/kernels/vector_impl.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Vector i of n elements: whole, or the tail with zeros behind it. */
static inline v16 load_at(const float *x, size_t i, size_t n)
{
    return i + V16_N <= n ? v16_load(x + i) : v16_load_n(x + i, (uint32_t)(n - i));
}

static inline void store_at(float *y, v16 v, size_t i, size_t n)
{
    if (i + V16_N <= n) {
        v16_store(y + i, v);
    } else {
        v16_store_n(y + i, v, (uint32_t)(n - i));
    }
}

/* Sum of (x - mean)². */
static inline float sum_squares(const float *x, size_t n, float mean)
{
    v16 m = v16_set1(mean);
    v16 zero = v16_set1(0);
    v16 acc[2] = {zero, zero};
    size_t i = 0;
    for (; i + 2 * V16_N <= n; i += 2 * V16_N) {
        v16 a = v16_sub(v16_load(x + i), m);
        v16 b = v16_sub(v16_load(x + i + V16_N), m);
        acc[0] = v16_fma(a, a, acc[0]);
        acc[1] = v16_fma(b, b, acc[1]);
    }
    for (int k = 0; i < n; i += V16_N, k ^= 1) {
        uint32_t n_left = n - i < V16_N ? (uint32_t)(n - i) : V16_N;
        v16 a = v16_keep(v16_sub(v16_load_n(x + i, n_left), m), 0, n_left, zero);
        acc[k] = v16_fma(a, a, acc[k]);
    }
    return v16_sum(v16_add(acc[0], acc[1]));
}

static inline float sum(const float *x, size_t n)
{
    v16 acc[2] = {v16_set1(0), v16_set1(0)};
    size_t i = 0;
    for (; i + 2 * V16_N <= n; i += 2 * V16_N) {
        acc[0] = v16_add(acc[0], v16_load(x + i));
        acc[1] = v16_add(acc[1], v16_load(x + i + V16_N));
    }
    for (int k = 0; i < n; i += V16_N, k ^= 1) {
        acc[k] = v16_add(acc[k], load_at(x, i, n));
    }
    return v16_sum(v16_add(acc[0], acc[1]));
}

static void lanes_rmsnorm(float *y, const float *x, const float *w, size_t n, float eps)
{
    v16 s = v16_set1(1.0F / sqrtf(sum_squares(x, n, 0) / (float)n + eps));
    for (size_t i = 0; i < n; i += V16_N) {
        v16 v = v16_mul(load_at(x, i, n), s);
        store_at(y, w ? v16_mul(v, load_at(w, i, n)) : v, i, n);
    }
}

static void lanes_layernorm(float *y, const float *x, const float *w, const float *b, size_t n,
                            float eps)
{
    float mean = sum(x, n) / (float)n;
    v16 m = v16_set1(mean);
    v16 s = v16_set1(1.0F / sqrtf(sum_squares(x, n, mean) / (float)n + eps));
    for (size_t i = 0; i < n; i += V16_N) {
        v16 v = v16_mul(v16_sub(load_at(x, i, n), m), s);
        v = w ? v16_mul(v, load_at(w, i, n)) : v;
        store_at(y, b ? v16_add(v, load_at(b, i, n)) : v, i, n);
    }
}

static void lanes_add(float *y, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i += V16_N) {
        store_at(y, v16_add(load_at(a, i, n), load_at(b, i, n)), i, n);
    }
}

static void lanes_mul(float *y, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i += V16_N) {
        store_at(y, v16_mul(load_at(a, i, n), load_at(b, i, n)), i, n);
    }
}

static void lanes_scale(float *y, const float *x, float s, size_t n)
{
    v16 f = v16_set1(s);
    for (size_t i = 0; i < n; i += V16_N) {
        store_at(y, v16_mul(load_at(x, i, n), f), i, n);
    }
}

static void lanes_axpy(float *y, const float *x, float s, size_t n)
{
    v16 f = v16_set1(s);
    for (size_t i = 0; i < n; i += V16_N) {
        store_at(y, v16_fma(load_at(x, i, n), f, load_at(y, i, n)), i, n);
    }
}

/* x / (1 + e^-ax) */
static inline v16 swish(v16 x, float a)
{
    v16 one = v16_set1(1.0F);
    return v16_div(x, v16_add(one, v16_exp(v16_mul(x, v16_set1(-a)))));
}

static inline v16 gelu_tanh(v16 x)
{
    v16 cube = v16_mul(v16_mul(x, x), v16_mul(x, v16_set1(0.044715F)));
    v16 t = v16_tanh(v16_mul(v16_add(x, cube), v16_set1(0.797884561F)));
    return v16_mul(v16_mul(x, v16_set1(0.5F)), v16_add(v16_set1(1.0F), t));
}

static inline v16 gelu_erf(v16 x)
{
    return v16_mul(v16_mul(x, v16_set1(0.5F)), v16_erfc(v16_mul(x, v16_set1(-0.707106781F))));
}

static inline v16 activate(v16 x, enum vec_act kind)
{
    v16 zero = v16_set1(0);
    v16 positive = v16_if_lt(x, zero, zero, x); /* NaN stays */
    switch (kind) {
    case VEC_SILU: return swish(x, 1.0F);
    case VEC_GELU_TANH: return gelu_tanh(x);
    case VEC_GELU_ERF: return gelu_erf(x);
    case VEC_GELU_QUICK: return swish(x, 1.702F);
    case VEC_RELU: return positive;
    case VEC_RELU_SQR: return v16_mul(positive, positive);
    }
    return x;
}

static void lanes_act(float *y, const float *x, enum vec_act kind, size_t n)
{
    for (size_t i = 0; i < n; i += V16_N) {
        store_at(y, activate(load_at(x, i, n), kind), i, n);
    }
}

static void lanes_act_mul(float *y, const float *gate, const float *up, enum vec_act kind, size_t n)
{
    for (size_t i = 0; i < n; i += V16_N) {
        store_at(y, v16_mul(activate(load_at(gate, i, n), kind), load_at(up, i, n)), i, n);
    }
}

/* (a, b) turned by the angle whose cosine and sine are cs. */
static inline void rotate(v16 ab[2], const v16 cs[2])
{
    v16 a = v16_fnma(ab[1], cs[1], v16_mul(ab[0], cs[0]));
    ab[1] = v16_fma(ab[0], cs[1], v16_mul(ab[1], cs[0]));
    ab[0] = a;
}

/* Sixteen pairs at a time, the same cosines for all heads. A tail of pairs goes through a padded
 * copy, so that its arithmetic is that of the rest. */
static void lanes_rope(float *x, uint32_t n_head, uint32_t head_dim, uint32_t n_rot,
                       const float *cos_sin, int neox)
{
    uint32_t half = n_rot / 2;
    for (uint32_t i = 0; i < half; i += V16_N) {
        uint32_t n = half - i < V16_N ? half - i : V16_N;
        float padded[2 * V16_N] = {0};
        memcpy(padded, cos_sin + (size_t)2 * i, (size_t)2 * n * sizeof *padded);
        v16 cs[2];
        v16_load_pairs(padded, cs);
        for (uint32_t h = 0; h < n_head; h++) {
            float *at = x + (size_t)h * head_dim;
            v16 ab[2];
            if (neox) {
                ab[0] = v16_load_n(at + i, n);
                ab[1] = v16_load_n(at + half + i, n);
                rotate(ab, cs);
                v16_store_n(at + i, ab[0], n);
                v16_store_n(at + half + i, ab[1], n);
                continue;
            }
            at += (size_t)2 * i;
            if (n == V16_N) {
                v16_load_pairs(at, ab);
                rotate(ab, cs);
                v16_store_pairs(at, ab);
                continue;
            }
            memcpy(padded, at, (size_t)2 * n * sizeof *padded);
            v16_load_pairs(padded, ab);
            rotate(ab, cs);
            v16_store_pairs(padded, ab);
            memcpy(at, padded, (size_t)2 * n * sizeof *padded);
        }
    }
}

/* The largest element, NaN apart; -INFINITY when there is none. */
static inline float max_of(const float *x, size_t n)
{
    v16 low = v16_set1(-INFINITY);
    v16 max = low;
    size_t i = 0;
    for (; i + V16_N <= n; i += V16_N) {
        max = v16_max(v16_load(x + i), max); /* max is second: it stays where x is NaN */
    }
    if (i < n) {
        uint32_t n_left = (uint32_t)(n - i);
        max = v16_max(v16_keep(v16_load_n(x + i, n_left), 0, n_left, low), max);
    }
    return v16_max_lane(max);
}

static void lanes_softmax(float *y, const float *x, size_t n)
{
    v16 max = v16_set1(max_of(x, n));
    v16 zero = v16_set1(0);
    v16 acc = zero;
    for (size_t i = 0; i < n; i += V16_N) {
        v16 p = v16_exp(v16_sub(load_at(x, i, n), max));
        p = n - i < V16_N ? v16_keep(p, 0, (uint32_t)(n - i), zero) : p;
        acc = v16_add(acc, p);
        store_at(y, p, i, n);
    }
    lanes_scale(y, y, 1.0F / v16_sum(acc), n);
}

static void lanes_softcap(float *y, const float *x, float cap, size_t n)
{
    v16 c = v16_set1(cap);
    for (size_t i = 0; i < n; i += V16_N) {
        store_at(y, v16_mul(c, v16_tanh(v16_div(load_at(x, i, n), c))), i, n);
    }
}

static uint32_t lanes_argmax(const float *x, size_t n)
{
    v16 max = v16_set1(max_of(x, n));
    for (size_t i = 0; i < n; i += V16_N) {
        uint32_t bits = v16_eq_bits(load_at(x, i, n), max);
        bits &= n - i < V16_N ? (1U << (n - i)) - 1 : 0xffffU;
        if (bits) {
            return (uint32_t)i + (uint32_t)__builtin_ctz(bits);
        }
    }
    return 0;
}

const struct vec_ops VEC_TABLE = {
    .rmsnorm = lanes_rmsnorm,
    .layernorm = lanes_layernorm,
    .add = lanes_add,
    .mul = lanes_mul,
    .scale = lanes_scale,
    .axpy = lanes_axpy,
    .act = lanes_act,
    .act_mul = lanes_act_mul,
    .rope = lanes_rope,
    .softmax = lanes_softmax,
    .softcap = lanes_softcap,
    .argmax = lanes_argmax,
};
