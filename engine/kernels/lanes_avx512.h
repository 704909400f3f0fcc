/* lanes.h in one zmm register. */
#ifndef ENGINE_KERNELS_LANES_AVX512_H
#define ENGINE_KERNELS_LANES_AVX512_H

#include <immintrin.h>
#include <stdint.h>

typedef struct {
    __m512 v;
} v16;

static inline __mmask16 v16_mask_(uint32_t n)
{
    return (__mmask16)((1U << n) - 1);
}

static inline v16 v16_set1(float x)
{
    return (v16){_mm512_set1_ps(x)};
}

static inline v16 v16_load(const float *p)
{
    return (v16){_mm512_loadu_ps(p)};
}

static inline v16 v16_load_n(const float *p, uint32_t n)
{
    return (v16){_mm512_maskz_loadu_ps(v16_mask_(n), p)};
}

static inline void v16_store(float *p, v16 a)
{
    _mm512_storeu_ps(p, a.v);
}

static inline void v16_store_n(float *p, v16 a, uint32_t n)
{
    _mm512_mask_storeu_ps(p, v16_mask_(n), a.v);
}

static inline v16 v16_add(v16 a, v16 b)
{
    return (v16){_mm512_add_ps(a.v, b.v)};
}

static inline v16 v16_sub(v16 a, v16 b)
{
    return (v16){_mm512_sub_ps(a.v, b.v)};
}

static inline v16 v16_mul(v16 a, v16 b)
{
    return (v16){_mm512_mul_ps(a.v, b.v)};
}

static inline v16 v16_div(v16 a, v16 b)
{
    return (v16){_mm512_div_ps(a.v, b.v)};
}

/* a · b + c */
static inline v16 v16_fma(v16 a, v16 b, v16 c)
{
    return (v16){_mm512_fmadd_ps(a.v, b.v, c.v)};
}

/* c - a · b */
static inline v16 v16_fnma(v16 a, v16 b, v16 c)
{
    return (v16){_mm512_fnmadd_ps(a.v, b.v, c.v)};
}

/* The larger lane; b where either is NaN. */
static inline v16 v16_max(v16 a, v16 b)
{
    return (v16){_mm512_max_ps(a.v, b.v)};
}

static inline v16 v16_min(v16 a, v16 b)
{
    return (v16){_mm512_min_ps(a.v, b.v)};
}

static inline v16 v16_abs(v16 a)
{
    return (v16){_mm512_abs_ps(a.v)};
}

/* |a| with the sign of s */
static inline v16 v16_copysign(v16 a, v16 s)
{
    const __m512 sign = _mm512_set1_ps(-0.0F);
    return (v16){_mm512_or_ps(_mm512_andnot_ps(sign, a.v), _mm512_and_ps(sign, s.v))};
}

/* x < y ? a : b, lane by lane */
static inline v16 v16_if_lt(v16 x, v16 y, v16 a, v16 b)
{
    return (v16){_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, y.v, _CMP_LT_OQ), b.v, a.v)};
}

/* Bit i set where lane i of a equals that of b. */
static inline uint32_t v16_eq_bits(v16 a, v16 b)
{
    return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ);
}

/* Lanes [lo, hi) of a, `fill` in the others; 0 <= lo, hi <= 16. */
static inline v16 v16_keep(v16 a, uint32_t lo, uint32_t hi, v16 fill)
{
    __mmask16 m = (__mmask16)(v16_mask_(hi) & ~(uint32_t)v16_mask_(lo));
    return (v16){_mm512_mask_blend_ps(m, fill.v, a.v)};
}

static inline v16 v16_round(v16 a)
{
    return (v16){_mm512_roundscale_ps(a.v, 0)};
}

/* a · 2^n for whole n in [-126, 128]. */
static inline v16 v16_scale2(v16 a, v16 n)
{
    return (v16){_mm512_scalef_ps(a.v, n.v)};
}

/* 64 bytes of bf16 pairs: the first and the second of each of 16 pairs. */
static inline void v16_load_bf16x2(const void *p, v16 out[2])
{
    __m512i x = _mm512_loadu_si512(p);
    out[0].v = _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
    out[1].v = _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32((int)0xffff0000U)));
}

/* 64 bytes of int8 quadruples: the four members of each of 16. */
static inline void v16_load_i8x4(const void *p, v16 out[4])
{
    __m512i x = _mm512_loadu_si512(p);
    out[0].v = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(x, 24), 24));
    out[1].v = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(x, 16), 24));
    out[2].v = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(x, 8), 24));
    out[3].v = _mm512_cvtepi32_ps(_mm512_srai_epi32(x, 24));
}

/* 16 bf16 values. */
static inline v16 v16_load_bf16(const uint16_t *p)
{
    __m512i x = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return (v16){_mm512_castsi512_ps(_mm512_slli_epi32(x, 16))};
}

/* 32 floats as 16 pairs: firsts and seconds. */
static inline void v16_load_pairs(const float *p, v16 out[2])
{
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd =
        _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    __m512 a = _mm512_loadu_ps(p);
    __m512 b = _mm512_loadu_ps(p + 16);
    out[0].v = _mm512_permutex2var_ps(a, even, b);
    out[1].v = _mm512_permutex2var_ps(a, odd, b);
}

static inline void v16_store_pairs(float *p, const v16 in[2])
{
    const __m512i lo = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i hi =
        _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    _mm512_storeu_ps(p, _mm512_permutex2var_ps(in[0].v, lo, in[1].v));
    _mm512_storeu_ps(p + 16, _mm512_permutex2var_ps(in[0].v, hi, in[1].v));
}

#endif
