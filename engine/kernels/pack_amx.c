/* The layout of AMX units: see gemm_amx.h. Every put has a get that gives the blocks back to the
 * bit, so a packed weight is as exact as the file it came from. */
#include "engine/kernels/gemm_amx.h"

#include <string.h>

#define BLOCK_K 32

/* Codes of 16 rows x 32 K. */
typedef uint8_t codes_t[AMX_ROWS][BLOCK_K];

static void set_u16(uint8_t *dst, unsigned i, unsigned v)
{
    uint16_t h = (uint16_t)v;
    memcpy(dst + 2 * (size_t)i, &h, sizeof h);
}

static unsigned get_u16(const uint8_t *src, unsigned i)
{
    uint16_t h;
    memcpy(&h, src + 2 * (size_t)i, sizeof h);
    return h;
}

/* Which K of a run of 32 is in word w of a tile's row. */
static unsigned k_of_word(unsigned w)
{
    return w / 2 + w % 2 * (BLOCK_K / 2);
}

/* n_word words of n_row codes of n_bit bits; the top bits of the words that this leaves over hold
 * the last row, when there is one more, from its highest bit down. */
static inline void plane_put(codes_t c, unsigned n_bit, unsigned n_word, uint8_t *dst)
{
    const unsigned n_row = 16 / n_bit;
    for (unsigned w = 0; w < n_word; w++) {
        for (unsigned at = 0; at < BLOCK_K; at++) {
            const unsigned k = k_of_word(at);
            unsigned v = 0;
            for (unsigned i = 0; i < n_row; i++) {
                v |= (unsigned)c[w * n_row + i][k] << (i * n_bit);
            }
            if (n_row * n_word < AMX_ROWS) {
                v |= ((unsigned)c[AMX_ROWS - 1][k] >> (n_word - 1 - w) & 1) << 15;
            }
            set_u16(dst, w * BLOCK_K + at, v);
        }
    }
}

static inline void plane_get(const uint8_t *src, unsigned n_bit, unsigned n_word, codes_t c)
{
    const unsigned n_row = 16 / n_bit, mask = (1u << n_bit) - 1;
    for (unsigned at = 0; at < BLOCK_K; at++) {
        const unsigned k = k_of_word(at);
        unsigned last = 0;
        for (unsigned w = 0; w < n_word; w++) {
            unsigned v = get_u16(src, w * BLOCK_K + at);
            for (unsigned i = 0; i < n_row; i++) {
                c[w * n_row + i][k] = (uint8_t)(v >> (i * n_bit) & mask);
            }
            last = last << 1 | v >> 15;
        }
        if (n_row * n_word < AMX_ROWS) {
            c[AMX_ROWS - 1][k] = (uint8_t)last;
        }
    }
}

/* Byte 4j + i of a pair of rows: K j of the first row, K 16 + j of it, then the second row's. */
static inline uint8_t *byte_at(codes_t c, unsigned pair, unsigned i)
{
    return &c[2 * pair + i % 4 / 2][i / 4 + i % 2 * 16];
}

/* The 64 bytes of a pair of rows, as 16 dwords. */
static inline void pair_bytes(codes_t c, unsigned p, uint32_t v[16])
{
    for (unsigned k = 0; k < 16; k++) {
        v[k] = (uint32_t)c[2 * p][k] | (uint32_t)c[2 * p][16 + k] << 8 |
               (uint32_t)c[2 * p + 1][k] << 16 | (uint32_t)c[2 * p + 1][16 + k] << 24;
    }
}

static void bytes_put(codes_t c, uint8_t *dst)
{
    for (unsigned p = 0; p < AMX_ROWS / 2; p++) {
        uint32_t v[16];
        pair_bytes(c, p, v);
        memcpy(dst + 64 * p, v, sizeof v);
    }
}

static void bytes_get(const uint8_t *src, codes_t c)
{
    for (unsigned p = 0; p < AMX_ROWS / 2; p++) {
        for (unsigned i = 0; i < 64; i++) {
            *byte_at(c, p, i) = src[64 * p + i];
        }
    }
}

/* Four pairs of rows in three vectors of bytes: the fourth lies in the upper two bits of the
 * others, from its highest bits down. */
static void sixes_put(codes_t c, uint8_t *dst)
{
    for (unsigned h = 0; h < 2; h++) {
        uint32_t last[16];
        pair_bytes(c, 4 * h + 3, last);
        for (unsigned p = 0; p < 3; p++) {
            uint32_t v[16];
            pair_bytes(c, 4 * h + p, v);
            for (unsigned k = 0; k < 16; k++) { /* bits 4 - 2p and above go to bits 6 and 7 */
                v[k] |= (last[k] >> (4 - 2 * p) & 0x03030303u) << 6;
            }
            memcpy(dst + 192 * h + 64 * p, v, sizeof v);
        }
    }
}

static void sixes_get(const uint8_t *src, codes_t c)
{
    for (unsigned h = 0; h < 2; h++) {
        for (unsigned i = 0; i < 64; i++) {
            unsigned last = 0;
            for (unsigned p = 0; p < 3; p++) {
                unsigned v = src[192 * h + 64 * p + i];
                *byte_at(c, 4 * h + p, i) = v & 63;
                last = last << 2 | v >> 6;
            }
            *byte_at(c, 4 * h + 3, i) = (uint8_t)last;
        }
    }
}

static size_t codes_put(codes_t c, unsigned n_bit, uint8_t *dst)
{
    switch (n_bit) {
    case 2: plane_put(c, 2, 2, dst); break;
    case 3: plane_put(c, 3, 3, dst); break;
    case 4: plane_put(c, 4, 4, dst); break;
    case 5: plane_put(c, 5, 5, dst); break;
    case 6: sixes_put(c, dst); break;
    default: bytes_put(c, dst); break;
    }
    return 64 * (size_t)n_bit;
}

static size_t codes_get(const uint8_t *src, unsigned n_bit, codes_t c)
{
    switch (n_bit) {
    case 2: plane_get(src, 2, 2, c); break;
    case 3: plane_get(src, 3, 3, c); break;
    case 4: plane_get(src, 4, 4, c); break;
    case 5: plane_get(src, 5, 5, c); break;
    case 6: sixes_get(src, c); break;
    default: bytes_get(src, c); break;
    }
    return 64 * (size_t)n_bit;
}

/* Blocks of 32, two side by side: d [2][16], m [2][16] where the type has one, codes. */
static inline void simple_put(const struct pack_block *b, unsigned n_bit, bool has_m, uint8_t *unit)
{
    uint8_t *dst = unit + (has_m ? 128 : 64);
    for (unsigned k = 0; k < 2; k++) {
        codes_t c;
        for (unsigned r = 0; r < AMX_ROWS; r++) {
            set_u16(unit, AMX_ROWS * k + r, b[2 * r + k].d);
            if (has_m) {
                set_u16(unit + 64, AMX_ROWS * k + r, b[2 * r + k].m);
            }
            memcpy(c[r], b[2 * r + k].code, BLOCK_K);
        }
        dst += codes_put(c, n_bit, dst);
    }
}

static inline void simple_get(const uint8_t *unit, unsigned n_bit, bool has_m, struct pack_block *b)
{
    const uint8_t *src = unit + (has_m ? 128 : 64);
    for (unsigned k = 0; k < 2; k++) {
        codes_t c;
        src += codes_get(src, n_bit, c);
        for (unsigned r = 0; r < AMX_ROWS; r++) {
            b[2 * r + k].d = (uint16_t)get_u16(unit, AMX_ROWS * k + r);
            if (has_m) {
                b[2 * r + k].m = (uint16_t)get_u16(unit + 64, AMX_ROWS * k + r);
            }
            memcpy(b[2 * r + k].code, c[r], BLOCK_K);
        }
    }
}

#define SIMPLE(NAME, N_BIT, HAS_M)                                                                 \
    static void NAME##_put(const struct pack_block *b, uint8_t *unit)                              \
    {                                                                                              \
        simple_put(b, N_BIT, HAS_M, unit);                                                         \
    }                                                                                              \
    static void NAME##_get(const uint8_t *unit, struct pack_block *b)                              \
    {                                                                                              \
        simple_get(unit, N_BIT, HAS_M, b);                                                         \
    }

SIMPLE(four, 4, false)
SIMPLE(four_m, 4, true)
SIMPLE(five, 5, false)
SIMPLE(five_m, 5, true)
SIMPLE(eight, 8, false)

/* Nibbles; exponents [2][16] in the half line. */
static void mxfp4_put(const struct pack_block *b, uint8_t *unit)
{
    uint8_t *e = unit + amx_half_at(unit, AMX_MXFP4_BYTES);
    uint8_t *dst = unit + amx_lines_at(unit);
    for (unsigned k = 0; k < 2; k++) {
        codes_t c;
        for (unsigned r = 0; r < AMX_ROWS; r++) {
            e[AMX_ROWS * k + r] = (uint8_t)b[2 * r + k].d;
            memcpy(c[r], b[2 * r + k].code, BLOCK_K);
        }
        dst += codes_put(c, 4, dst);
    }
}

static void mxfp4_get(const uint8_t *unit, struct pack_block *b)
{
    const uint8_t *e = unit + amx_half_at(unit, AMX_MXFP4_BYTES);
    const uint8_t *src = unit + amx_lines_at(unit);
    for (unsigned k = 0; k < 2; k++) {
        codes_t c;
        src += codes_get(src, 4, c);
        for (unsigned r = 0; r < AMX_ROWS; r++) {
            b[2 * r + k].d = e[AMX_ROWS * k + r];
            memcpy(b[2 * r + k].code, c[r], BLOCK_K);
        }
    }
}

/* The codes of a block of 256, at dst; eight runs of 32. */
static void super_codes_put(const struct pack_block *b, unsigned n_bit, uint8_t *dst)
{
    for (unsigned g = 0; g < PACK_ELEM_MAX / BLOCK_K; g++) {
        codes_t c;
        for (unsigned r = 0; r < AMX_ROWS; r++) {
            memcpy(c[r], b[r].code + BLOCK_K * g, BLOCK_K);
        }
        dst += codes_put(c, n_bit, dst);
    }
}

static void super_codes_get(const uint8_t *src, unsigned n_bit, struct pack_block *b)
{
    for (unsigned g = 0; g < PACK_ELEM_MAX / BLOCK_K; g++) {
        codes_t c;
        src += codes_get(src, n_bit, c);
        for (unsigned r = 0; r < AMX_ROWS; r++) {
            memcpy(b[r].code + BLOCK_K * g, c[r], BLOCK_K);
        }
    }
}

/* Q4_K, Q5_K: d [16], dmin [16]; for each 64 elements, scales of its two groups: bytes scale +
 * (min & 3) << 6 [2][16], then min >> 2 of both as nibbles [16]; codes. */
static void q45_k_put(const struct pack_block *b, unsigned n_bit, uint8_t *unit)
{
    for (unsigned r = 0; r < AMX_ROWS; r++) {
        set_u16(unit, r, b[r].d);
        set_u16(unit, AMX_ROWS + r, b[r].m);
        for (unsigned s = 0; s < 4; s++) {
            uint8_t *at = unit + AMX_Q4K_SCALES + 48 * s + r;
            const uint8_t *sc = b[r].scale + 2 * s, *mn = b[r].min + 2 * s;
            at[0] = (uint8_t)(sc[0] | (mn[0] & 3) << 6);
            at[16] = (uint8_t)(sc[1] | (mn[1] & 3) << 6);
            at[32] = (uint8_t)(mn[0] >> 2 | mn[1] >> 2 << 4);
        }
    }
    super_codes_put(b, n_bit, unit + AMX_Q4K_CODES);
}

static void q45_k_get(const uint8_t *unit, unsigned n_bit, struct pack_block *b)
{
    for (unsigned r = 0; r < AMX_ROWS; r++) {
        b[r].d = (uint16_t)get_u16(unit, r);
        b[r].m = (uint16_t)get_u16(unit, AMX_ROWS + r);
        for (unsigned s = 0; s < 4; s++) {
            const uint8_t *at = unit + AMX_Q4K_SCALES + 48 * s + r;
            b[r].scale[2 * s] = at[0] & 63;
            b[r].scale[2 * s + 1] = at[16] & 63;
            b[r].min[2 * s] = (uint8_t)(at[0] >> 6 | (at[32] & 15) << 2);
            b[r].min[2 * s + 1] = (uint8_t)(at[16] >> 6 | at[32] >> 4 << 2);
        }
    }
    super_codes_get(unit + AMX_Q4K_CODES, n_bit, b);
}

static void q4_k_put(const struct pack_block *b, uint8_t *unit)
{
    q45_k_put(b, 4, unit);
}

static void q4_k_get(const uint8_t *unit, struct pack_block *b)
{
    q45_k_get(unit, 4, b);
}

static void q5_k_put(const struct pack_block *b, uint8_t *unit)
{
    q45_k_put(b, 5, unit);
}

static void q5_k_get(const uint8_t *unit, struct pack_block *b)
{
    q45_k_get(unit, 5, b);
}

/* Q6_K: codes; scales [16 groups][16 rows]; d [16] in the half line. */
static void q6_k_put(const struct pack_block *b, uint8_t *unit)
{
    uint8_t *lines = unit + amx_lines_at(unit), *half = unit + amx_half_at(unit, AMX_Q6K_BYTES);
    for (unsigned r = 0; r < AMX_ROWS; r++) {
        set_u16(half, r, b[r].d);
        for (unsigned g = 0; g < 16; g++) {
            lines[AMX_Q6K_SCALES + 16 * g + r] = b[r].scale[g];
        }
    }
    super_codes_put(b, 6, lines);
}

static void q6_k_get(const uint8_t *unit, struct pack_block *b)
{
    const uint8_t *lines = unit + amx_lines_at(unit);
    const uint8_t *half = unit + amx_half_at(unit, AMX_Q6K_BYTES);
    for (unsigned r = 0; r < AMX_ROWS; r++) {
        b[r].d = (uint16_t)get_u16(half, r);
        for (unsigned g = 0; g < 16; g++) {
            b[r].scale[g] = lines[AMX_Q6K_SCALES + 16 * g + r];
        }
    }
    super_codes_get(lines, 6, b);
}

/* Q3_K: codes; for each 64 elements, the low nibbles of its four scales [2][16], their upper two
 * bits [16]; d [16] in the half line. */
static void q3_k_put(const struct pack_block *b, uint8_t *unit)
{
    uint8_t *lines = unit + amx_lines_at(unit), *half = unit + amx_half_at(unit, AMX_Q3K_BYTES);
    for (unsigned r = 0; r < AMX_ROWS; r++) {
        set_u16(half, r, b[r].d);
        for (unsigned s = 0; s < 4; s++) {
            uint8_t *at = lines + AMX_Q3K_SCALES + 48 * s + r;
            const uint8_t *sc = b[r].scale + 4 * s;
            at[0] = (uint8_t)((sc[0] & 15) | (sc[1] & 15) << 4);
            at[16] = (uint8_t)((sc[2] & 15) | (sc[3] & 15) << 4);
            at[32] = (uint8_t)(sc[0] >> 4 | sc[1] >> 4 << 2 | sc[2] >> 4 << 4 | sc[3] >> 4 << 6);
        }
    }
    super_codes_put(b, 3, lines);
}

static void q3_k_get(const uint8_t *unit, struct pack_block *b)
{
    const uint8_t *lines = unit + amx_lines_at(unit);
    const uint8_t *half = unit + amx_half_at(unit, AMX_Q3K_BYTES);
    for (unsigned r = 0; r < AMX_ROWS; r++) {
        b[r].d = (uint16_t)get_u16(half, r);
        for (unsigned s = 0; s < 4; s++) {
            const uint8_t *at = lines + AMX_Q3K_SCALES + 48 * s + r;
            for (unsigned i = 0; i < 4; i++) {
                b[r].scale[4 * s + i] = (uint8_t)((at[16 * (i / 2)] >> (i % 2 * 4) & 15) |
                                                  (at[32] >> (2 * i) & 3) << 4);
            }
        }
    }
    super_codes_get(lines, 3, b);
}

/* Q2_K: d [16], dmin [16]; for each 64 elements scale + min << 4 of its four groups, [16 rows][4];
 * codes. */
static void q2_k_put(const struct pack_block *b, uint8_t *unit)
{
    for (unsigned r = 0; r < AMX_ROWS; r++) {
        set_u16(unit, r, b[r].d);
        set_u16(unit, AMX_ROWS + r, b[r].m);
        for (unsigned g = 0; g < 16; g++) {
            unit[AMX_Q2K_SCALES + 64 * (g / 4) + 4 * r + g % 4] =
                (uint8_t)(b[r].scale[g] | b[r].min[g] << 4);
        }
    }
    super_codes_put(b, 2, unit + AMX_Q2K_CODES);
}

static void q2_k_get(const uint8_t *unit, struct pack_block *b)
{
    for (unsigned r = 0; r < AMX_ROWS; r++) {
        b[r].d = (uint16_t)get_u16(unit, r);
        b[r].m = (uint16_t)get_u16(unit, AMX_ROWS + r);
        for (unsigned g = 0; g < 16; g++) {
            unsigned v = unit[AMX_Q2K_SCALES + 64 * (g / 4) + 4 * r + g % 4];
            b[r].scale[g] = v & 15;
            b[r].min[g] = (uint8_t)(v >> 4);
        }
    }
    super_codes_get(unit + AMX_Q2K_CODES, 2, b);
}

/* IQ4_XS: codes; low nibbles of the scales of two groups [4][16]; their upper two bits, four groups
 * a byte [2][16]; d [16]. */
static void iq4_xs_put(const struct pack_block *b, uint8_t *unit)
{
    for (unsigned r = 0; r < AMX_ROWS; r++) {
        set_u16(unit + AMX_XS_D, r, b[r].d);
        for (unsigned p = 0; p < 2; p++) {
            const uint8_t *sc = b[r].scale + 4 * p;
            uint8_t *at = unit + AMX_XS_SCALES + r;
            at[32 * p] = (uint8_t)((sc[0] & 15) | (sc[1] & 15) << 4);
            at[32 * p + 16] = (uint8_t)((sc[2] & 15) | (sc[3] & 15) << 4);
            at[64 + 16 * p] =
                (uint8_t)(sc[0] >> 4 | sc[1] >> 4 << 2 | sc[2] >> 4 << 4 | sc[3] >> 4 << 6);
        }
    }
    super_codes_put(b, 4, unit);
}

static void iq4_xs_get(const uint8_t *unit, struct pack_block *b)
{
    for (unsigned r = 0; r < AMX_ROWS; r++) {
        const uint8_t *at = unit + AMX_XS_SCALES + r;
        b[r].d = (uint16_t)get_u16(unit + AMX_XS_D, r);
        for (unsigned g = 0; g < 8; g++) {
            b[r].scale[g] = (uint8_t)((at[16 * (g / 2)] >> (g % 2 * 4) & 15) |
                                      (at[64 + 16 * (g / 4)] >> (g % 4 * 2) & 3) << 4);
        }
    }
    super_codes_get(unit, 4, b);
}

#define FORMAT(TYPE, BLOCK, UNIT_K, UNIT_BYTES, SCALES, UNPACK, NAME)                              \
    [GGUF_TYPE_##TYPE] = {.name = #TYPE "/amx",                                                    \
                          .type = GGUF_TYPE_##TYPE,                                                \
                          .block_k = BLOCK,                                                        \
                          .unit_k = UNIT_K,                                                        \
                          .unit_bytes = UNIT_BYTES,                                                \
                          .scales = SCALES,                                                        \
                          .unpack = UNPACK,                                                        \
                          .put = NAME##_put,                                                       \
                          .get = NAME##_get}

static const struct amx_format formats[GGUF_TYPE_END] = {
    FORMAT(Q4_0, 32, 64, 576, amx_scales_d, amx_unpack_q4_0, four),
    FORMAT(IQ4_NL, 32, 64, 576, amx_scales_d, amx_unpack_iq4_nl, four),
    FORMAT(Q4_1, 32, 64, 640, amx_scales_dm, amx_unpack_q4_1, four_m),
    FORMAT(Q5_0, 32, 64, 704, amx_scales_d, amx_unpack_q5_0, five),
    FORMAT(Q5_1, 32, 64, 768, amx_scales_dm, amx_unpack_q5_1, five_m),
    FORMAT(Q8_0, 32, 64, 1088, amx_scales_q8_0, amx_unpack_q8_0, eight),
    FORMAT(MXFP4, 32, 64, AMX_MXFP4_BYTES, amx_scales_mxfp4, amx_unpack_mxfp4, mxfp4),
    FORMAT(Q2_K, 256, 256, 1344, amx_scales_none, amx_unpack_q2_k, q2_k),
    FORMAT(Q3_K, 256, 256, AMX_Q3K_BYTES, amx_scales_q3_k, amx_unpack_q3_k, q3_k),
    FORMAT(Q4_K, 256, 256, 2304, amx_scales_q45_k, amx_unpack_q4_k, q4_k),
    FORMAT(Q5_K, 256, 256, 2816, amx_scales_q45_k, amx_unpack_q5_k, q5_k),
    FORMAT(Q6_K, 256, 256, AMX_Q6K_BYTES, amx_scales_q6_k, amx_unpack_q6_k, q6_k),
    FORMAT(IQ4_XS, 256, 256, 2176, amx_scales_iq4_xs, amx_unpack_iq4_xs, iq4_xs),
    [GGUF_TYPE_BF16] = {.name = "BF16/amx",
                        .type = GGUF_TYPE_BF16,
                        .block_k = 1,
                        .unit_k = 64,
                        .unit_bytes = 2048},
};

const struct amx_format *amx_format_of(enum gguf_type type)
{
    return (unsigned)type < GGUF_TYPE_END && formats[type].name ? &formats[type] : NULL;
}
