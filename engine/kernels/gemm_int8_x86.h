/* Parts of gemm_int8_body.h in AVX2, for AVX-512 too. */
#ifndef ENGINE_KERNELS_GEMM_INT8_X86_H
#define ENGINE_KERNELS_GEMM_INT8_X86_H

#include "engine/kernels/gemm_int8.h"

#include <immintrin.h>
#include <string.h>

/* Unrolled as far as they are, tiles take minutes to compile with checks of each index: the
 * sanitizers see their addresses alone. */
#define INT8_TILE __attribute__((no_sanitize("undefined")))

#define INT8_TINY_BITS     0x0d800000 /* 2^-100 */
#define INT8_INFINITE_BITS 0x7f800000

static inline int32_t int8_max_of(__m256i v)
{
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
}

static inline uint32_t int8_bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

/* One step of one row to a record of a tile of n rows. */
static inline void quantize_step(const float *x, uint32_t *rec, size_t n)
{
    const __m256i mask = _mm256_set1_epi32(0x7fffffff),
                  in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i v[4], max = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_si256((const __m256i *)(x + 8 * i));
        max = _mm256_max_epi32(max, _mm256_and_si256(v[i], mask));
    }
    const int32_t bits = int8_max_of(max); /* as integers they are ordered as the values are */
    if (bits < INT8_TINY_BITS || bits >= INT8_INFINITE_BITS) {
        for (size_t j = 0; j < INT8_REC; j++) {
            rec[j * n] = 0;
        }
        rec[INT8_REC_SCALE * n] = bits < INT8_TINY_BITS ? 0 : 0x7fc00000u;
        return;
    }
    float a;
    memcpy(&a, &bits, sizeof a);
    const __m256 inverse = _mm256_set1_ps(127.0f / a);
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_castsi256_ps(v[i]), inverse));
    }
    __m256i q = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    q = _mm256_permutevar8x32_epi32(q, in_order);
    /* Sums of four neighbours; then of the four in each half. */
    __m256i sum = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);
    sum = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
    sum = _mm256_add_epi32(sum, _mm256_shuffle_epi32(sum, 0x4e));
    sum = _mm256_add_epi32(sum, _mm256_shuffle_epi32(sum, 0xb1));
    const int low = _mm256_extract_epi32(sum, 0), high = _mm256_extract_epi32(sum, 4);
    uint32_t q4[INT8_REC_SCALE];
    _mm256_storeu_si256((__m256i *)q4, q);
    for (size_t j = 0; j < INT8_REC_SCALE; j++) {
        rec[j * n] = q4[j];
    }
    rec[INT8_REC_SCALE * n] = int8_bits_of(a / 127.0f);
    rec[INT8_REC_SUM * n] = int8_bits_of((float)(low + high));
    rec[INT8_REC_SUM_LOW * n] = int8_bits_of((float)low);
    rec[INT8_REC_SUM_HIGH * n] = int8_bits_of((float)high);
    rec[INT8_REC_SUM_INT * n] = (uint32_t)(-128 * (low + high));
}

static inline __m256 int8_half8(const uint8_t *src)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)src));
}

#endif
