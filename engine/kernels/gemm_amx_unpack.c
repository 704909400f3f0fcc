/* From packed units to tiles of bf16. A weight is its f32 value times 1 + 3/1024, cut to the upper
 * half word. Cutting alone would make weights smaller by half a bf16 step on average; the factor,
 * which comes with the scale and costs nothing, takes that back (0.72 / 256 would be exact for
 * values spread evenly over their logarithm). The error of a weight is then 1.06 times that of
 * rounding to the nearest, with no bias, values that bf16 can hold stay as they are, and no
 * instruction rounds: VCVTNE2PS2BF16 would be half the cost of an eight-bit weight. Nothing depends
 * on how many rows are multiplied.
 *
 * What it costs (Golden Cove, two vector ports 0 and 5 of 512 bits): VPERMW one slot on each,
 * VCVTNE2PS2BF16 two on each, shifts and GF2P8AFFINEQB port 0, byte shuffles port 5, arithmetic
 * either; a tile load and a tile product some six more each. 32 codes of four bits: four slots; of
 * eight: five. */
#include "engine/kernels/gemm_amx.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

/* The compiler must neither drop nor delay stores that tile loads and reloads depend on. */
#define MEMORY_BARRIER() __asm__ volatile("" ::: "memory")

INLINE __m512 f16_load(const uint8_t *src)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)src));
}

INLINE __m512i u8_load(const uint8_t *src)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)src));
}

/* Scales as they meet a weight: see above. */
INLINE __m512 lifted(__m512 scale)
{
    return _mm512_mul_ps(scale, _mm512_set1_ps(1.0F + 3.0F / 1024));
}

/* The same to 14 bits, so that products with small numbers are exact. */
INLINE __m512 lifted_short(__m512 scale)
{
    const __m512i bits = _mm512_castps_si512(lifted(scale));
    return _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(-1024)));
}

/* The upper half words of 16 pairs of floats, those of `even` first. */
INLINE __m512i halves_of_pairs(__m512 even, __m512 odd)
{
    const __m512i down = _mm512_set4_epi32(0x0f0e0f0e, 0x0b0a0b0a, 0x07060706, 0x03020302);
    return _mm512_mask_shuffle_epi8(_mm512_castps_si512(odd), 0x3333333333333333,
                                    _mm512_castps_si512(even), down);
}

/* One row's values of a table: q · s, or q · s + m. */
INLINE __m512 scaled(__m512 q, const float *s, const float *m)
{
    return m ? _mm512_fmadd_ps(q, _mm512_set1_ps(*s), _mm512_set1_ps(*m))
             : _mm512_mul_ps(q, _mm512_set1_ps(*s));
}

/* Nibbles of 16 rows through tables of 16 values: s [16], m [16] or NULL. 16 floats are a table of
 * 32 words for VPERMW: word 2q + 1 is value q cut to bf16. */
INLINE void tile_of_nibbles(const uint8_t *codes, __m512 q, const float *s, const float *m,
                            uint16_t *tile)
{
    /* Bit matrices that bring the low and the high nibble of a byte to bits 1…4; bit 0 is set. */
    const __m512i low = _mm512_set1_epi64(0x0001020408000000);
    const __m512i high = _mm512_set1_epi64(0x0010204080000000);
    MEMORY_BARRIER(); /* broadcast scales from memory: from registers it takes port 5 */
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
        const __m512i words = _mm512_loadu_si512(codes + 64 * v);
        const __m512i a = _mm512_gf2p8affine_epi64_epi8(words, low, 1);
        const __m512i b = _mm512_gf2p8affine_epi64_epi8(words, high, 1);
        const __m512i idx[4] = {a, b, _mm512_bsrli_epi128(a, 1), _mm512_bsrli_epi128(b, 1)};
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            int r = 4 * v + i;
            const __m512i table = _mm512_castps_si512(scaled(q, s + r, m ? m + r : NULL));
            _mm512_store_si512(tile + 32 * r, _mm512_permutexvar_epi16(idx[i], table));
        }
    }
}

/* Five-bit codes of 16 rows: the values of codes 0, 2 … 30 are q, of 1, 3 … 31 one more. */
INLINE void tile_of_fives(const uint8_t *codes, __m512 q, const float *s, const float *m,
                          uint16_t *tile)
{
    const __m512 q_odd = _mm512_add_ps(q, _mm512_set1_ps(1));
    __m512i last = _mm512_setzero_si512();
    MEMORY_BARRIER();
#pragma GCC unroll 5
    for (int v = 0; v < 5; v++) {
        const __m512i words = _mm512_loadu_si512(codes + 64 * v);
        const __m512i idx[3] = {words, _mm512_srli_epi16(words, 5), _mm512_srli_epi16(words, 10)};
        last = _mm512_shldi_epi16(last, words, 1); /* the top bits make up row 15's codes */
#pragma GCC unroll 3
        for (int i = 0; i < 3; i++) {
            int r = 3 * v + i;
            const __m512i table = halves_of_pairs(scaled(q, s + r, m ? m + r : NULL),
                                                  scaled(q_odd, s + r, m ? m + r : NULL));
            _mm512_store_si512(tile + 32 * r, _mm512_permutexvar_epi16(idx[i], table));
        }
    }
    const __m512i table = halves_of_pairs(scaled(q, s + 15, m ? m + 15 : NULL),
                                          scaled(q_odd, s + 15, m ? m + 15 : NULL));
    _mm512_store_si512(tile + 32 * 15, _mm512_permutexvar_epi16(last, table));
}

INLINE __m512 values_from(float first, float step)
{
    const __m512 i = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return _mm512_fmadd_ps(i, _mm512_set1_ps(step), _mm512_set1_ps(first));
}

/* d [2][16] f16 as scales. */
INLINE void scales_of(const uint8_t *src, float s[][AMX_ROWS])
{
    _mm512_store_ps(s[0], lifted(f16_load(src)));
    _mm512_store_ps(s[1], lifted(f16_load(src + 32)));
}

void amx_scales_d(const uint8_t *unit, unsigned sub, struct amx_scales *x)
{
    (void)sub;
    scales_of(unit, x->s);
}

void amx_scales_dm(const uint8_t *unit, unsigned sub, struct amx_scales *x)
{
    (void)sub;
    scales_of(unit, x->s);
    scales_of(unit + 64, x->m);
}

/* x = d (q - 8). */
void amx_unpack_q4_0(const uint8_t *unit, unsigned sub, const struct amx_scales *x, uint16_t *tiles)
{
    (void)sub;
    tile_of_nibbles(unit + 64, values_from(-8, 1), x->s[0], NULL, tiles);
    tile_of_nibbles(unit + 320, values_from(-8, 1), x->s[1], NULL, tiles + AMX_TILE);
}

/* x = d q + m. */
void amx_unpack_q4_1(const uint8_t *unit, unsigned sub, const struct amx_scales *x, uint16_t *tiles)
{
    (void)sub;
    tile_of_nibbles(unit + 128, values_from(0, 1), x->s[0], x->m[0], tiles);
    tile_of_nibbles(unit + 384, values_from(0, 1), x->s[1], x->m[1], tiles + AMX_TILE);
}

void amx_unpack_q5_0(const uint8_t *unit, unsigned sub, const struct amx_scales *x, uint16_t *tiles)
{
    (void)sub;
    for (int k = 0; k < 2; k++) {
        tile_of_fives(unit + 64 + 320 * k, values_from(-16, 2), x->s[k], NULL,
                      tiles + AMX_TILE * k);
    }
}

void amx_unpack_q5_1(const uint8_t *unit, unsigned sub, const struct amx_scales *x, uint16_t *tiles)
{
    (void)sub;
    for (int k = 0; k < 2; k++) {
        tile_of_fives(unit + 128 + 320 * k, values_from(0, 2), x->s[k], x->m[k],
                      tiles + AMX_TILE * k);
    }
}

/* x = d v. */
INLINE __m512 iq4_values(void)
{
    return _mm512_set_ps(113, 89, 69, 53, 38, 25, 13, 1, -10, -22, -35, -49, -65, -83, -104, -127);
}

void amx_unpack_iq4_nl(const uint8_t *unit, unsigned sub, const struct amx_scales *x,
                       uint16_t *tiles)
{
    (void)sub;
    tile_of_nibbles(unit + 64, iq4_values(), x->s[0], NULL, tiles);
    tile_of_nibbles(unit + 320, iq4_values(), x->s[1], NULL, tiles + AMX_TILE);
}

/* x = 2^(e - 127) (v / 2): the exponent byte is the exponent field of a float. Blocks of the
 * smallest exponent, 0, count as zero (their values are below 2^-124), those of 255 as infinite. */
void amx_scales_mxfp4(const uint8_t *unit, unsigned sub, struct amx_scales *x)
{
    const uint8_t *exponents = unit + amx_half_at(unit, AMX_MXFP4_BYTES);
    (void)sub;
    for (int k = 0; k < 2; k++) {
        const __m512i e = u8_load(exponents + 16 * k);
        _mm512_store_ps(x->s[k], lifted(_mm512_castsi512_ps(_mm512_slli_epi32(e, 23))));
    }
}

void amx_unpack_mxfp4(const uint8_t *unit, unsigned sub, const struct amx_scales *x,
                      uint16_t *tiles)
{
    const __m512 q =
        _mm512_set_ps(-6, -4, -3, -2, -1.5f, -1, -0.5f, 0, 6, 4, 3, 2, 1.5f, 1, 0.5f, 0);
    const uint8_t *codes = unit + amx_lines_at(unit);
    (void)sub;
    tile_of_nibbles(codes, q, x->s[0], NULL, tiles);
    tile_of_nibbles(codes + 256, q, x->s[1], NULL, tiles + AMX_TILE);
}

/* Scales and negated mins of the two groups of 32 in a Q4_K or Q5_K unit's sub. */
void amx_scales_q45_k(const uint8_t *unit, unsigned sub, struct amx_scales *x)
{
    const uint8_t *at = unit + AMX_Q4K_SCALES + 48 * sub;
    const __m512 d = lifted(f16_load(unit));
    const __m512 dmin = lifted(_mm512_sub_ps(_mm512_setzero_ps(), f16_load(unit + 32)));
    const __m512i high = u8_load(at + 32);
#pragma GCC unroll 2
    for (int k = 0; k < 2; k++) {
        const __m512i low = u8_load(at + 16 * k);
        const __m512i scale = _mm512_and_si512(low, _mm512_set1_epi32(63));
        const __m512i upper = k ? _mm512_srli_epi32(high, 2) : _mm512_slli_epi32(high, 2);
        const __m512i min = _mm512_ternarylogic_epi32(_mm512_srli_epi32(low, 6), upper,
                                                      _mm512_set1_epi32(60), 0xf8); /* a | b & c */
        _mm512_store_ps(x->s[k], _mm512_mul_ps(d, _mm512_cvtepi32_ps(scale)));
        _mm512_store_ps(x->m[k], _mm512_mul_ps(dmin, _mm512_cvtepi32_ps(min)));
    }
}

/* x = (d scale) q - dmin min. */
void amx_unpack_q4_k(const uint8_t *unit, unsigned sub, const struct amx_scales *x, uint16_t *tiles)
{
    const uint8_t *codes = unit + AMX_Q4K_CODES + 512 * (size_t)sub;
    tile_of_nibbles(codes, values_from(0, 1), x->s[0], x->m[0], tiles);
    tile_of_nibbles(codes + 256, values_from(0, 1), x->s[1], x->m[1], tiles + AMX_TILE);
}

void amx_unpack_q5_k(const uint8_t *unit, unsigned sub, const struct amx_scales *x, uint16_t *tiles)
{
    const uint8_t *codes = unit + AMX_Q4K_CODES + 640 * (size_t)sub;
    for (int k = 0; k < 2; k++) {
        tile_of_fives(codes + 320 * k, values_from(0, 2), x->s[k], x->m[k], tiles + AMX_TILE * k);
    }
}

/* x = (d (scale - 32)) v. */
void amx_scales_iq4_xs(const uint8_t *unit, unsigned sub, struct amx_scales *x)
{
    const __m512 d = lifted(f16_load(unit + AMX_XS_D));
    const __m512i low = u8_load(unit + AMX_XS_SCALES + 16 * (size_t)sub);
    const __m512i high =
        _mm512_srl_epi32(u8_load(unit + AMX_XS_SCALES + 64 + 16 * (size_t)(sub / 2)),
                         _mm_cvtsi32_si128((int)(sub % 2 * 4)));
#pragma GCC unroll 2
    for (int k = 0; k < 2; k++) {
        const __m512i lo =
            k ? _mm512_srli_epi32(low, 4) : _mm512_and_si512(low, _mm512_set1_epi32(15));
        const __m512i hi = k ? _mm512_slli_epi32(high, 2) : _mm512_slli_epi32(high, 4);
        const __m512i scale =
            _mm512_ternarylogic_epi32(lo, hi, _mm512_set1_epi32(48), 0xf8); /* a | b & c */
        const __m512 f = _mm512_cvtepi32_ps(_mm512_sub_epi32(scale, _mm512_set1_epi32(32)));
        _mm512_store_ps(x->s[k], _mm512_mul_ps(d, f));
    }
}

void amx_unpack_iq4_xs(const uint8_t *unit, unsigned sub, const struct amx_scales *x,
                       uint16_t *tiles)
{
    const uint8_t *codes = unit + 512 * (size_t)sub;
    tile_of_nibbles(codes, iq4_values(), x->s[0], NULL, tiles);
    tile_of_nibbles(codes + 256, iq4_values(), x->s[1], NULL, tiles + AMX_TILE);
}

/* Byte `from` of each dword as byte `to` of the float `base`: its value is base + byte times a
 * power of two. */
INLINE __m512 mantissa(__m512i bytes, const int from, const int to, __m512i base)
{
    if (from == to) {
        const __m512i mask = _mm512_set1_epi32((int)(0xffu << (8 * to)));
        return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(bytes, mask, base, 0xea)); /* a&b|c */
    }
    const __m512i order = _mm512_add_epi32(_mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0),
                                           _mm512_set1_epi32(from * 0x01010101));
    const __mmask64 place = 0x1111111111111111ULL << to;
    return _mm512_castsi512_ps(_mm512_mask_shuffle_epi8(base, place, bytes, order));
}

/* Two rows from 64 bytes of codes (see byte_at in pack_amx.c), put into byte `to` of a float:
 * x = f s + c. Scales of K 0…15 and 16…31 are s_low and s_high. */
INLINE void rows_of_bytes(__m512i bytes, const int to, __m512i base, const float *s_low,
                          const float *c_low, const float *s_high, const float *c_high,
                          uint16_t *tile)
{
#pragma GCC unroll 2
    for (int r = 0; r < 2; r++) {
        const __m512 low = mantissa(bytes, 2 * r, to, base);
        const __m512 high = mantissa(bytes, 2 * r + 1, to, base);
        _mm512_store_si512(
            tile + 32 * r,
            halves_of_pairs(
                _mm512_fmadd_ps(low, _mm512_set1_ps(s_low[r]), _mm512_set1_ps(c_low[r])),
                _mm512_fmadd_ps(high, _mm512_set1_ps(s_high[r]), _mm512_set1_ps(c_high[r]))));
    }
}

/* x = d (u - 128): f = 32768 + u, c = -32896 d (9 bits times 14), and d (u - 128) is exact. */
void amx_scales_q8_0(const uint8_t *unit, unsigned sub, struct amx_scales *x)
{
    (void)sub;
#pragma GCC unroll 2
    for (int k = 0; k < 2; k++) {
        const __m512 d = lifted_short(f16_load(unit + 32 * k));
        _mm512_store_ps(x->s[k], d);
        _mm512_store_ps(x->m[k], _mm512_mul_ps(d, _mm512_set1_ps(-32896.0f)));
    }
}

void amx_unpack_q8_0(const uint8_t *unit, unsigned sub, const struct amx_scales *x, uint16_t *tiles)
{
    const __m512i base = _mm512_set1_epi32(0x47000000);
    (void)sub;
    MEMORY_BARRIER();
#pragma GCC unroll 2
    for (int k = 0; k < 2; k++) {
#pragma GCC unroll 8
        for (int r = 0; r < AMX_ROWS; r += 2) {
            const __m512i bytes = _mm512_loadu_si512(unit + 64 + 512 * k + 32 * r);
            const float *s = x->s[k] + r, *c = x->m[k] + r;
            rows_of_bytes(bytes, 1, base, s, c, s, c, tiles + AMX_TILE * k + 32 * r);
        }
    }
}

/* x = (d scale) (u - 32): f = 128 + u, c = -160 (d scale) (3 bits times 21), and the value is
 * exact before it is cut. */
void amx_scales_q6_k(const uint8_t *unit, unsigned sub, struct amx_scales *x)
{
    const uint8_t *scales = unit + amx_lines_at(unit) + AMX_Q6K_SCALES + 64 * (size_t)sub;
    const __m512 d = lifted_short(f16_load(unit + amx_half_at(unit, AMX_Q6K_BYTES)));
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) {
        const __m512i scale =
            _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(scales + 16 * g)));
        const __m512 f = _mm512_mul_ps(d, _mm512_cvtepi32_ps(scale));
        _mm512_store_ps(x->s[g], f);
        _mm512_store_ps(x->m[g], _mm512_mul_ps(f, _mm512_set1_ps(-160.0f)));
    }
}

void amx_unpack_q6_k(const uint8_t *unit, unsigned sub, const struct amx_scales *x, uint16_t *tiles)
{
    const __m512i base = _mm512_set1_epi32(0x43000000), six = _mm512_set1_epi8(0x3f);
    const uint8_t *codes = unit + amx_lines_at(unit) + 768 * (size_t)sub;
    MEMORY_BARRIER();
#pragma GCC unroll 2
    for (int k = 0; k < 2; k++) {
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            const uint8_t *at = codes + 384 * k + 192 * h;
            const __m512i p[3] = {_mm512_loadu_si512(at), _mm512_loadu_si512(at + 64),
                                  _mm512_loadu_si512(at + 128)};
            /* Bits 6 and 7 of the three: the fourth pair's codes; other bits are masked later. */
            __m512i last =
                _mm512_ternarylogic_epi32(_mm512_srli_epi16(p[1], 4), _mm512_srli_epi16(p[2], 6),
                                          _mm512_set1_epi8(0x03), 0xd8);
            last = _mm512_ternarylogic_epi32(_mm512_srli_epi16(p[0], 2), last,
                                             _mm512_set1_epi8(0x0f), 0xd8);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                int r = 8 * h + 2 * i;
                rows_of_bytes(_mm512_and_si512(i < 3 ? p[i] : last, six), 2, base, x->s[2 * k] + r,
                              x->m[2 * k] + r, x->s[2 * k + 1] + r, x->m[2 * k + 1] + r,
                              tiles + AMX_TILE * k + 32 * r);
            }
        }
    }
}

void amx_scales_q3_k(const uint8_t *unit, unsigned sub, struct amx_scales *x)
{
    const uint8_t *at = unit + amx_lines_at(unit) + AMX_Q3K_SCALES + 48 * (size_t)sub;
    const __m512 d = lifted(f16_load(unit + amx_half_at(unit, AMX_Q3K_BYTES)));
    const __m512i high = u8_load(at + 32);
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) {
        const __m512i low = u8_load(at + 16 * (g / 2));
        const __m512i lo =
            g % 2 ? _mm512_srli_epi32(low, 4) : _mm512_and_si512(low, _mm512_set1_epi32(15));
        const __m512i hi = g < 2 ? _mm512_slli_epi32(high, 4 - 2 * (unsigned)(g & 1))
                                 : _mm512_srli_epi32(high, 2 * (unsigned)(g & 1));
        const __m512i scale = _mm512_ternarylogic_epi32(lo, hi, _mm512_set1_epi32(48), 0xf8);
        const __m512 f = _mm512_cvtepi32_ps(_mm512_sub_epi32(scale, _mm512_set1_epi32(32)));
        _mm512_store_ps(x->s[g], _mm512_mul_ps(d, f));
    }
}

/* x = (d (scale - 32)) (q - 4). A row's table holds 8 values for K 0…15, then 8 for K 16…31. */
void amx_unpack_q3_k(const uint8_t *unit, unsigned sub, const struct amx_scales *x, uint16_t *tiles)
{
    const __m512 q = _mm512_set_ps(3, 2, 1, 0, -1, -2, -3, -4, 3, 2, 1, 0, -1, -2, -3, -4);
    const __m512i code = _mm512_set1_epi16(14); /* an index is (8 upper + code) 2 + 1 */
    const __m512i rest = _mm512_set1_epi32(17 << 16 | 1);
    const uint8_t *lines = unit + amx_lines_at(unit);
    MEMORY_BARRIER();
    for (int k = 0; k < 2; k++) {
        const uint8_t *codes = lines + 384 * (size_t)sub + 192 * k;
        __m512i last = _mm512_setzero_si512();
#pragma GCC unroll 16
        for (int r = 0; r < AMX_ROWS; r++) {
            const __m512i words = _mm512_loadu_si512(codes + 64 * (r < 15 ? r / 5 : 2));
            if (r % 5 == 0 && r < 15) {
                last = _mm512_shldi_epi16(last, words, 1); /* the top bits make up row 15 */
            }
            const __m512i w = r == 15      ? _mm512_slli_epi16(last, 1)
                              : r % 5 == 0 ? _mm512_slli_epi16(words, 1)
                                           : _mm512_srli_epi16(words, 3 * (unsigned)(r % 5) - 1);
            __m512 v = _mm512_mul_ps(q, _mm512_set1_ps(x->s[2 * k][r]));
            v = _mm512_mask_mul_ps(v, 0xff00, q, _mm512_set1_ps(x->s[2 * k + 1][r]));
            _mm512_store_si512(
                tiles + AMX_TILE * k + 32 * r,
                _mm512_permutexvar_epi16(_mm512_ternarylogic_epi32(w, code, rest, 0xea),
                                         _mm512_castps_si512(v)));
        }
    }
}

/* x = (d scale) q - dmin min. A table holds the four values of each of two groups of 16 K, for two
 * rows; scales stay in registers. */
void amx_scales_none(const uint8_t *unit, unsigned sub, struct amx_scales *x)
{
    (void)unit;
    (void)sub;
    (void)x;
}

void amx_unpack_q2_k(const uint8_t *unit, unsigned sub, const struct amx_scales *x, uint16_t *tiles)
{
    (void)x;
    const __m512 q = _mm512_set_ps(3, 2, 1, 0, 3, 2, 1, 0, 3, 2, 1, 0, 3, 2, 1, 0);
    const __m512 d = lifted(f16_load(unit));
    const __m512 dmin = lifted(_mm512_sub_ps(_mm512_setzero_ps(), f16_load(unit + 32)));
    const __m512i code = _mm512_set1_epi16(6); /* an index is (8 row + 4 upper + code) 2 + 1 */
    /* Lanes of a scale vector [4 rows][4 groups]: rows 2p and 2p + 1, groups 2k and 2k + 1. */
    const __m512i spread = _mm512_set_epi32(5, 5, 5, 5, 4, 4, 4, 4, 1, 1, 1, 1, 0, 0, 0, 0);
    const __m512i fours = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) { /* rows 4v … 4v + 3 */
        const __m512i row = _mm512_add_epi32(fours, _mm512_set1_epi32(4 * v));
        const __m512i both = u8_load(unit + AMX_Q2K_SCALES + 64 * (size_t)sub + 16 * v);
        const __m512 scale = _mm512_cvtepi32_ps(_mm512_and_si512(both, _mm512_set1_epi32(15)));
        const __m512 s = _mm512_mul_ps(_mm512_permutexvar_ps(row, d), scale);
        const __m512 m = _mm512_mul_ps(_mm512_permutexvar_ps(row, dmin),
                                       _mm512_cvtepi32_ps(_mm512_srli_epi32(both, 4)));
#pragma GCC unroll 4
        for (int kp = 0; kp < 4; kp++) {
            const int k = kp / 2, p = kp % 2;
            const __m512i from = _mm512_add_epi32(spread, _mm512_set1_epi32(8 * p + 2 * k));
            const __m512i table = _mm512_castps_si512(
                _mm512_fmadd_ps(q, _mm512_permutexvar_ps(from, s), _mm512_permutexvar_ps(from, m)));
            const __m512i words = _mm512_loadu_si512(unit + AMX_Q2K_CODES + 256 * (size_t)sub +
                                                     128 * k + 64 * (v / 2));
#pragma GCC unroll 2
            for (int i = 0; i < 2; i++) {
                const unsigned bit = 2 * (unsigned)(4 * (v % 2) + 2 * p + i);
                const __m512i w =
                    bit ? _mm512_srli_epi16(words, bit - 1) : _mm512_slli_epi16(words, 1);
                const __m512i rest = _mm512_set1_epi32((16 * i + 9) << 16 | (16 * i + 1));
                _mm512_store_si512(tiles + AMX_TILE * k + 32 * (4 * v + 2 * p + i),
                                   _mm512_permutexvar_epi16(
                                       _mm512_ternarylogic_epi32(w, code, rest, 0xea), table));
            }
        }
    }
}
