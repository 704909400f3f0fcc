/* lanes.h in two ymm registers. */
#ifndef ENGINE_KERNELS_LANES_AVX2_H
#define ENGINE_KERNELS_LANES_AVX2_H

#include <immintrin.h>
#include <stdint.h>

typedef struct {
    __m256 a; /* lanes 0…7 */
    __m256 b; /* lanes 8…15 */
} v16;

/* All ones in lanes [0, n) of eight; n outside 0…8 is clipped. */
static inline __m256i v16_mask_(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline v16 v16_set1(float x)
{
    return (v16){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}

static inline v16 v16_load(const float *p)
{
    return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

static inline v16 v16_load_n(const float *p, uint32_t n)
{
    return (v16){_mm256_maskload_ps(p, v16_mask_((int)n)),
                 _mm256_maskload_ps(p + 8, v16_mask_((int)n - 8))};
}

static inline void v16_store(float *p, v16 x)
{
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}

static inline void v16_store_n(float *p, v16 x, uint32_t n)
{
    _mm256_maskstore_ps(p, v16_mask_((int)n), x.a);
    _mm256_maskstore_ps(p + 8, v16_mask_((int)n - 8), x.b);
}

static inline v16 v16_add(v16 x, v16 y)
{
    return (v16){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}

static inline v16 v16_sub(v16 x, v16 y)
{
    return (v16){_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}

static inline v16 v16_mul(v16 x, v16 y)
{
    return (v16){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}

static inline v16 v16_div(v16 x, v16 y)
{
    return (v16){_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}

static inline v16 v16_fma(v16 x, v16 y, v16 z)
{
    return (v16){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}

static inline v16 v16_fnma(v16 x, v16 y, v16 z)
{
    return (v16){_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)};
}

static inline v16 v16_max(v16 x, v16 y)
{
    return (v16){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}

static inline v16 v16_min(v16 x, v16 y)
{
    return (v16){_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}

static inline v16 v16_abs(v16 x)
{
    const __m256 sign = _mm256_set1_ps(-0.0F);
    return (v16){_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}

static inline v16 v16_copysign(v16 x, v16 s)
{
    const __m256 sign = _mm256_set1_ps(-0.0F);
    return (v16){_mm256_blendv_ps(_mm256_andnot_ps(sign, x.a),
                                  _mm256_or_ps(_mm256_andnot_ps(sign, x.a), sign), s.a),
                 _mm256_blendv_ps(_mm256_andnot_ps(sign, x.b),
                                  _mm256_or_ps(_mm256_andnot_ps(sign, x.b), sign), s.b)};
}

static inline v16 v16_if_lt(v16 x, v16 y, v16 p, v16 q)
{
    return (v16){_mm256_blendv_ps(q.a, p.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
                 _mm256_blendv_ps(q.b, p.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))};
}

static inline uint32_t v16_eq_bits(v16 x, v16 y)
{
    uint32_t lo = (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ));
    uint32_t hi = (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ));
    return lo | hi << 8;
}

static inline v16 v16_keep(v16 x, uint32_t lo, uint32_t hi, v16 fill)
{
    __m256i ma = _mm256_andnot_si256(v16_mask_((int)lo), v16_mask_((int)hi));
    __m256i mb = _mm256_andnot_si256(v16_mask_((int)lo - 8), v16_mask_((int)hi - 8));
    return (v16){_mm256_blendv_ps(fill.a, x.a, _mm256_castsi256_ps(ma)),
                 _mm256_blendv_ps(fill.b, x.b, _mm256_castsi256_ps(mb))};
}

static inline v16 v16_round(v16 x)
{
    return (v16){_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                 _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

/* In two factors, since 2^128 is not a float. */
static inline __m256 v8_scale2_(__m256 x, __m256 n)
{
    const __m256i bias = _mm256_set1_epi32(127);
    __m256i k = _mm256_cvtps_epi32(n);
    __m256i half = _mm256_srai_epi32(k, 1);
    __m256i rest = _mm256_sub_epi32(k, half);
    x = _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    return _mm256_mul_ps(x,
                         _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
}

static inline v16 v16_scale2(v16 x, v16 n)
{
    return (v16){v8_scale2_(x.a, n.a), v8_scale2_(x.b, n.b)};
}

static inline void v16_load_bf16x2(const void *p, v16 out[2])
{
    const __m256i top = _mm256_set1_epi32((int)0xffff0000U);
    __m256i x = _mm256_loadu_si256((const __m256i *)p);
    __m256i y = _mm256_loadu_si256((const __m256i *)p + 1);
    out[0].a = _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
    out[0].b = _mm256_castsi256_ps(_mm256_slli_epi32(y, 16));
    out[1].a = _mm256_castsi256_ps(_mm256_and_si256(x, top));
    out[1].b = _mm256_castsi256_ps(_mm256_and_si256(y, top));
}

static inline void v16_load_i8x4(const void *p, v16 out[4])
{
    __m256i x = _mm256_loadu_si256((const __m256i *)p);
    __m256i y = _mm256_loadu_si256((const __m256i *)p + 1);
    out[0].a = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(x, 24), 24));
    out[0].b = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(y, 24), 24));
    out[1].a = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(x, 16), 24));
    out[1].b = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(y, 16), 24));
    out[2].a = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(x, 8), 24));
    out[2].b = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(y, 8), 24));
    out[3].a = _mm256_cvtepi32_ps(_mm256_srai_epi32(x, 24));
    out[3].b = _mm256_cvtepi32_ps(_mm256_srai_epi32(y, 24));
}

static inline v16 v16_load_bf16(const uint16_t *p)
{
    __m256i x = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    __m256i y = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p + 1));
    return (v16){_mm256_castsi256_ps(_mm256_slli_epi32(x, 16)),
                 _mm256_castsi256_ps(_mm256_slli_epi32(y, 16))};
}

static inline void v8_load_pairs_(const float *p, __m256 *first, __m256 *second)
{
    __m256 x = _mm256_loadu_ps(p);
    __m256 y = _mm256_loadu_ps(p + 8);
    __m256 even = _mm256_shuffle_ps(x, y, 0x88); /* x0 x2 y0 y2 | x4 x6 y4 y6 */
    __m256 odd = _mm256_shuffle_ps(x, y, 0xdd);
    *first = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(even), 0xd8));
    *second = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(odd), 0xd8));
}

static inline void v16_load_pairs(const float *p, v16 out[2])
{
    v8_load_pairs_(p, &out[0].a, &out[1].a);
    v8_load_pairs_(p + 16, &out[0].b, &out[1].b);
}

static inline void v8_store_pairs_(float *p, __m256 first, __m256 second)
{
    __m256 lo = _mm256_unpacklo_ps(first, second);
    __m256 hi = _mm256_unpackhi_ps(first, second);
    _mm256_storeu_ps(p, _mm256_permute2f128_ps(lo, hi, 0x20));
    _mm256_storeu_ps(p + 8, _mm256_permute2f128_ps(lo, hi, 0x31));
}

static inline void v16_store_pairs(float *p, const v16 in[2])
{
    v8_store_pairs_(p, in[0].a, in[1].a);
    v8_store_pairs_(p + 16, in[0].b, in[1].b);
}

#endif
