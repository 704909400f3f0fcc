/* Sixteen f32 lanes, whatever the machine: one zmm, two ymm, four NEON registers or a plain array,
 * chosen by the flags of the translation unit that includes this. Kernels written once in these
 * terms give each lane the same operations in the same order everywhere, so their sums do not
 * depend on alignment, tails or neighbours. A tail is a load of n < 16 lanes, the rest zero.
 * NaN and infinities pass as IEEE arithmetic has them unless said. v16 is a typedef because it
 * stands for a register, passed by value and never looked into outside these files. */
#ifndef ENGINE_KERNELS_LANES_H
#define ENGINE_KERNELS_LANES_H

#include <stdint.h>

#define V16_N 16

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include "engine/kernels/lanes_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__)
#include "engine/kernels/lanes_avx2.h"
#else
#include "engine/kernels/lanes_c.h"
#endif

/* Halves added crosswise: the same tree on every machine. */
static inline float v16_sum(v16 a)
{
    float f[V16_N];
    v16_store(f, a);
    for (int half = 8; half; half /= 2) {
        for (int i = 0; i < half; i++) {
            f[i] += f[i + half];
        }
    }
    return f[0];
}

/* Largest lane; a NaN lane may or may not win. */
static inline float v16_max_lane(v16 a)
{
    float f[V16_N];
    v16_store(f, a);
    for (int half = 8; half; half /= 2) {
        for (int i = 0; i < half; i++) {
            f[i] = f[i] > f[i + half] ? f[i] : f[i + half];
        }
    }
    return f[0];
}

/* e^x: within 2 ulp of the true value (1.2e-7 relative); 0 below ln(FLT_MIN) = -87.3365, where the
 * true value is denormal; infinity above 88.7228; exactly 1 at 0; NaN stays NaN.
 * x = n ln 2 + r with |r| <= ln 2 / 2; e^r = 1 + r + r² P(r), P minimax of degree 4 with a relative
 * error of 3.2e-9 in e^r (Remez). */
static inline v16 v16_exp(v16 x)
{
    const v16 min = v16_set1(-87.336544F);
    v16 c = v16_max(v16_set1(-88.0F), v16_min(v16_set1(89.0F), x)); /* NaN passes: it is second */
    v16 n = v16_round(v16_mul(c, v16_set1(1.44269504F)));
    v16 r = v16_fnma(n, v16_set1(0.693359375F), c); /* ln 2 in two parts, the first of 9 bits */
    r = v16_fnma(n, v16_set1(-2.12194440e-4F), r);
    v16 p = v16_set1(1.381419096e-3F);
    p = v16_fma(p, r, v16_set1(8.368913684e-3F));
    p = v16_fma(p, r, v16_set1(4.166840718e-2F));
    p = v16_fma(p, r, v16_set1(1.666651901e-1F));
    p = v16_fma(p, r, v16_set1(4.999999334e-1F));
    p = v16_fma(p, v16_mul(r, r), r);
    p = v16_add(p, v16_set1(1.0F));
    return v16_if_lt(x, min, v16_set1(0.0F), v16_scale2(p, n));
}

/* tanh x within 3 ulp. Below 0.625 an odd polynomial (relative error 4.2e-9, Remez), above
 * 1 - 2 / (e^2|x| + 1). */
static inline v16 v16_tanh(v16 x)
{
    v16 a = v16_abs(x);
    v16 u = v16_mul(x, x);
    v16 p = v16_set1(-5.717045059e-3F);
    p = v16_fma(p, u, v16_set1(2.06505873e-2F));
    p = v16_fma(p, u, v16_set1(-5.374349808e-2F));
    p = v16_fma(p, u, v16_set1(1.333149129e-1F));
    p = v16_fma(p, u, v16_set1(-3.333328393e-1F));
    v16 small = v16_fma(v16_mul(p, u), x, x);
    v16 e = v16_exp(v16_add(a, a));
    v16 big = v16_sub(v16_set1(1.0F), v16_div(v16_set1(2.0F), v16_add(e, v16_set1(1.0F))));
    return v16_if_lt(a, v16_set1(0.625F), small, v16_copysign(big, x));
}

/* erfc z = 1 - erf z for any z: e^-z² t P(t) with t = 1 / (1 + 0.3275911 z), the form of Hastings
 * (1955), P minimax of degree 7 with a relative error of 1.4e-7 (Remez); 2 - erfc(-z) below 0. */
static inline v16 v16_erfc(v16 z)
{
    v16 a = v16_abs(z);
    v16 t = v16_div(v16_set1(1.0F), v16_fma(a, v16_set1(0.3275911F), v16_set1(1.0F)));
    v16 p = v16_set1(-0.1406465067F);
    p = v16_fma(p, t, v16_set1(0.49450702F));
    p = v16_fma(p, t, v16_set1(-0.4017734625F));
    p = v16_fma(p, t, v16_set1(0.4490201366F));
    p = v16_fma(p, t, v16_set1(0.02793142312F));
    p = v16_fma(p, t, v16_set1(0.2050342316F));
    p = v16_fma(p, t, v16_set1(0.1808860582F));
    p = v16_fma(p, t, v16_set1(0.1850412337F));
    p = v16_mul(v16_mul(p, t), v16_exp(v16_mul(a, v16_sub(v16_set1(0.0F), a))));
    return v16_if_lt(z, v16_set1(0.0F), v16_sub(v16_set1(2.0F), p), p);
}

#endif
