/* lanes.h in plain C. */
#ifndef ENGINE_KERNELS_LANES_C_H
#define ENGINE_KERNELS_LANES_C_H

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    float f[V16_N];
} v16;

#define V16_EACH_(expr)                                                                            \
    v16 r_;                                                                                        \
    for (int i = 0; i < V16_N; i++) {                                                              \
        r_.f[i] = (expr);                                                                          \
    }                                                                                              \
    return r_

static inline v16 v16_set1(float x)
{
    V16_EACH_(x);
}

static inline v16 v16_load(const float *p)
{
    V16_EACH_(p[i]);
}

static inline v16 v16_load_n(const float *p, uint32_t n)
{
    V16_EACH_((uint32_t)i < n ? p[i] : 0.0F);
}

static inline void v16_store(float *p, v16 a)
{
    memcpy(p, a.f, sizeof a.f);
}

static inline void v16_store_n(float *p, v16 a, uint32_t n)
{
    memcpy(p, a.f, n * sizeof *p);
}

static inline v16 v16_add(v16 a, v16 b)
{
    V16_EACH_(a.f[i] + b.f[i]);
}

static inline v16 v16_sub(v16 a, v16 b)
{
    V16_EACH_(a.f[i] - b.f[i]);
}

static inline v16 v16_mul(v16 a, v16 b)
{
    V16_EACH_(a.f[i] * b.f[i]);
}

static inline v16 v16_div(v16 a, v16 b)
{
    V16_EACH_(a.f[i] / b.f[i]);
}

/* Rounded twice: a fused one would be a library call here. */
static inline v16 v16_fma(v16 a, v16 b, v16 c)
{
    V16_EACH_(a.f[i] * b.f[i] + c.f[i]);
}

static inline v16 v16_fnma(v16 a, v16 b, v16 c)
{
    V16_EACH_(c.f[i] - a.f[i] * b.f[i]);
}

static inline v16 v16_max(v16 a, v16 b)
{
    V16_EACH_(a.f[i] > b.f[i] ? a.f[i] : b.f[i]);
}

static inline v16 v16_min(v16 a, v16 b)
{
    V16_EACH_(a.f[i] < b.f[i] ? a.f[i] : b.f[i]);
}

static inline v16 v16_abs(v16 a)
{
    V16_EACH_(fabsf(a.f[i]));
}

static inline v16 v16_copysign(v16 a, v16 s)
{
    V16_EACH_(copysignf(a.f[i], s.f[i]));
}

static inline v16 v16_if_lt(v16 x, v16 y, v16 a, v16 b)
{
    V16_EACH_(x.f[i] < y.f[i] ? a.f[i] : b.f[i]);
}

static inline uint32_t v16_eq_bits(v16 a, v16 b)
{
    uint32_t bits = 0;
    for (int i = 0; i < V16_N; i++) {
        bits |= (uint32_t)(a.f[i] == b.f[i]) << i;
    }
    return bits;
}

static inline v16 v16_keep(v16 a, uint32_t lo, uint32_t hi, v16 fill)
{
    V16_EACH_((uint32_t)i >= lo && (uint32_t)i < hi ? a.f[i] : fill.f[i]);
}

static inline v16 v16_round(v16 a)
{
    V16_EACH_(rintf(a.f[i]));
}

static inline v16 v16_scale2(v16 a, v16 n)
{
    V16_EACH_(n.f[i] != n.f[i] ? n.f[i] : ldexpf(a.f[i], (int)n.f[i]));
}

static inline float v16_bf16_(uint32_t bits)
{
    float f;
    bits <<= 16;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline void v16_load_bf16x2(const void *p, v16 out[2])
{
    uint16_t x[32];
    memcpy(x, p, sizeof x);
    for (int i = 0; i < V16_N; i++) {
        out[0].f[i] = v16_bf16_(x[2 * i]);
        out[1].f[i] = v16_bf16_(x[2 * i + 1]);
    }
}

static inline void v16_load_i8x4(const void *p, v16 out[4])
{
    const int8_t *x = p;
    for (int i = 0; i < 4 * V16_N; i++) {
        out[i % 4].f[i / 4] = x[i];
    }
}

static inline v16 v16_load_bf16(const uint16_t *p)
{
    V16_EACH_(v16_bf16_(p[i]));
}

static inline void v16_load_pairs(const float *p, v16 out[2])
{
    for (int i = 0; i < V16_N; i++) {
        out[0].f[i] = p[2 * i];
        out[1].f[i] = p[2 * i + 1];
    }
}

static inline void v16_store_pairs(float *p, const v16 in[2])
{
    for (int i = 0; i < V16_N; i++) {
        p[2 * i] = in[0].f[i];
        p[2 * i + 1] = in[1].f[i];
    }
}

#undef V16_EACH_

#endif
