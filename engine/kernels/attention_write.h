/* Sixteen tokens at once into a chunk, by AVX-512: the bytes of att_kv_write, a cache line at a
 * time. Included by the files compiled for it; WRITE16(name, type) defines a function. */
#ifndef ENGINE_KERNELS_ATTENTION_WRITE_H
#define ENGINE_KERNELS_ATTENTION_WRITE_H

#include "engine/kernels/attention_impl.h"
#include "engine/kernels/attention_rows.h"

#include <immintrin.h>
#include <string.h>

/* Values per 16 dwords. */
INLINE uint32_t per_pack(enum eng_kv_type type)
{
    return type == ENG_KV_INT8 ? 64 : type == ENG_KV_BF16 ? 32 : 16;
}

INLINE __m512 finite16(__m512 x)
{
    const __m512 max = _mm512_set1_ps(ATT_V_MAX);
    const __m512 min = _mm512_set1_ps(-ATT_V_MAX);
    return _mm512_min_ps(_mm512_max_ps(x, min), max); /* NaN: the second, min */
}

/* Rounded to bf16, in the upper half of each lane; the lower is anything. NaN stays one. */
INLINE __m512i bf16_high(__m512 x)
{
    __m512i u = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
}

INLINE __m512i int8_low(__m512 x, __m512 inverse)
{
    __m512i i = _mm512_cvtps_epi32(_mm512_mul_ps(finite16(x), inverse));
    i = _mm512_min_epi32(_mm512_max_epi32(i, _mm512_set1_epi32(-127)), _mm512_set1_epi32(127));
    return _mm512_and_si512(i, _mm512_set1_epi32(0xff));
}

/* The first n (at most per_pack) values of x as 16 dwords, zeros behind. */
INLINE __m512i pack(enum eng_kv_type type, const float *x, uint32_t n, float inverse)
{
    __m512 v[4];
    for (uint32_t i = 0; i < per_pack(type) / 16; i++) {
        uint32_t left = n > 16 * i ? (n - 16 * i < 16 ? n - 16 * i : 16) : 0;
        v[i] = v16_load_n(x + (size_t)16 * i, left).v;
    }
    if (type == ENG_KV_F32) {
        return _mm512_castps_si512(v[0]);
    }
    if (type == ENG_KV_BF16) {
        __m256i lo = _mm512_cvtepi32_epi16(_mm512_srli_epi32(bf16_high(v[0]), 16));
        __m256i hi = _mm512_cvtepi32_epi16(_mm512_srli_epi32(bf16_high(v[1]), 16));
        return _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1);
    }
    const __m512 f = _mm512_set1_ps(inverse);
    __m512i r = _mm512_castsi128_si512(_mm512_cvtepi32_epi8(int8_low(v[0], f)));
    r = _mm512_inserti32x4(r, _mm512_cvtepi32_epi8(int8_low(v[1], f)), 1);
    r = _mm512_inserti32x4(r, _mm512_cvtepi32_epi8(int8_low(v[2], f)), 2);
    return _mm512_inserti32x4(r, _mm512_cvtepi32_epi8(int8_low(v[3], f)), 3);
}

/* Dword j of vector i becomes dword i of vector j. */
INLINE void transpose(__m512i v[16])
{
    __m512i w[16];
    for (int i = 0; i < 16; i += 2) {
        w[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        w[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) { /* v[i + k]: dword k of each 128 bits, rows i…i + 3 */
        v[i] = _mm512_unpacklo_epi64(w[i], w[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(w[i], w[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(w[i + 1], w[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(w[i + 1], w[i + 3]);
    }
    for (int k = 0; k < 4; k++) {
        __m512i a = _mm512_shuffle_i32x4(v[k], v[k + 4], 0x88);
        __m512i b = _mm512_shuffle_i32x4(v[k], v[k + 4], 0xdd);
        __m512i c = _mm512_shuffle_i32x4(v[k + 8], v[k + 12], 0x88);
        __m512i d = _mm512_shuffle_i32x4(v[k + 8], v[k + 12], 0xdd);
        w[k] = _mm512_shuffle_i32x4(a, c, 0x88);
        w[k + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
        w[k + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
        w[k + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
    memcpy(v, w, sizeof w);
}

/* Rows of V: per_lane tokens of 16 columns each. */
INLINE __m512i v_row(enum eng_kv_type type, const float *v, size_t ldv, uint32_t n,
                     const float *inverse)
{
    if (type == ENG_KV_F32) {
        return _mm512_castps_si512(finite16(v16_load_n(v, n).v));
    }
    if (type == ENG_KV_BF16) {
        __m512i a = bf16_high(finite16(v16_load_n(v, n).v));
        __m512i b = bf16_high(finite16(v16_load_n(v + ldv, n).v));
        return _mm512_mask_blend_epi16(0xaaaaaaaaU, _mm512_srli_epi32(a, 16), b);
    }
    __m512i r = _mm512_setzero_si512();
    for (int j = 3; j >= 0; j--) {
        __m512i x = int8_low(v16_load_n(v + (size_t)j * ldv, n).v, _mm512_set1_ps(inverse[j]));
        r = _mm512_or_si512(_mm512_slli_epi32(r, 8), x);
    }
    return r;
}

/* Tokens [t, t + 16) of a chunk, t a multiple of 16, at one head. */
INLINE void write16_of_type(const struct att_layer *layer, enum eng_kv_type type, uint8_t *head,
                            uint32_t t, const float *k, size_t ldk, const float *v, size_t ldv)
{
    const uint32_t n_lane = per_pack(type) / 16;
    float k_inverse[16] = {0};
    float v_inverse[16] = {0};
    if (type == ENG_KV_INT8) {
        uint16_t *k_scale = (uint16_t *)(void *)(head + layer->k_scale_off) + t;
        uint16_t *v_scale = (uint16_t *)(void *)(head + layer->v_scale_off) + t;
        for (uint32_t i = 0; i < 16; i++) {
            k_inverse[i] = att_int8_inverse(k + i * ldk, layer->d_k, &k_scale[i]);
            v_inverse[i] = att_int8_inverse(v + i * ldv, layer->d_v, &v_scale[i]);
        }
    }
    uint8_t *k_at = head + t / ATT_K_GROUP * layer->k_group_bytes;
    for (uint32_t row = 0; row < layer->k_rows; row += 16) {
        __m512i x[16];
        const uint32_t dim = row * n_lane;
        const uint32_t left = layer->d_k > dim ? layer->d_k - dim : 0;
        for (uint32_t i = 0; i < 16; i++) {
            x[i] = pack(type, k + i * ldk + dim, left, k_inverse[i]);
        }
        transpose(x);
        for (uint32_t i = 0; i < 16 && row + i < layer->k_rows; i++) {
            _mm512_storeu_si512(k_at + (size_t)(row + i) * ATT_ROW_BYTES, x[i]);
        }
    }
    const uint32_t rows = ATT_V_GROUP / n_lane;
    uint8_t *v_at = head + layer->v_off + t / ATT_V_GROUP * layer->v_group_bytes +
                    (size_t)(t % ATT_V_GROUP / n_lane) * ATT_ROW_BYTES;
    for (uint32_t tile = 0; tile < layer->v_tiles; tile++) {
        const uint32_t col = tile * 16;
        const uint32_t n = layer->d_v - col < 16 ? layer->d_v - col : 16;
        for (uint32_t i = 0; i < 16; i += n_lane) {
            _mm512_storeu_si512(v_at + (size_t)(tile * rows + i / n_lane) * ATT_ROW_BYTES,
                                v_row(type, v + i * ldv + col, ldv, n, v_inverse + i));
        }
    }
}

#define WRITE16(name, type)                                                                        \
    static void name(const struct att_layer *layer, uint8_t *head, uint32_t t, const float *k,     \
                     size_t ldk, const float *v, size_t ldv)                                       \
    {                                                                                              \
        write16_of_type(layer, type, head, t, k, ldk, v, ldv);                                     \
    }

#endif
