/* The layout of gemm_int8.h. Packing loses nothing: int8_row gives the file's blocks back. */
#include "engine/kernels/gemm_int8.h"

#include <assert.h>
#include <string.h>

#define UNIT_K   (INT8_UNIT_STEP * INT8_STEP_K)
#define N_VECTOR 8  /* of a step's codes */
#define VECTOR   64 /* bytes: 16 rows x 4 K */

static_assert(UNIT_K == PACK_ELEM_MAX, "one block of 256 or eight of 32 fill a unit");

/* The values of quant_iq4_values and quant_fp4_values with an offset that makes them unsigned. */
static const uint8_t iq4_codes[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                      129, 141, 153, 166, 181, 197, 217, 241};
static const uint8_t fp4_codes[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

#define FORMAT(TYPE, BLOCK, BITS, GROUPS, SIGNED, OFFSET, VALUES, SCALES, BYTES)                   \
    [GGUF_TYPE_##TYPE] = {.name = #TYPE,                                                           \
                          .type = GGUF_TYPE_##TYPE,                                                \
                          .block_k = BLOCK,                                                        \
                          .n_bit = BITS,                                                           \
                          .n_group = GROUPS,                                                       \
                          .is_signed = SIGNED,                                                     \
                          .offset = OFFSET,                                                        \
                          .values = VALUES,                                                        \
                          .scales = INT8_SCALES_##SCALES,                                          \
                          .scale_bytes = BYTES}

static const struct int8_format formats[GGUF_TYPE_END] = {
    FORMAT(Q4_0, 32, 4, 1, false, 8, NULL, D, 32),
    FORMAT(Q4_1, 32, 4, 1, false, 0, NULL, DM, 64),
    FORMAT(Q5_0, 32, 5, 1, false, 16, NULL, D, 32),
    FORMAT(Q5_1, 32, 5, 1, false, 0, NULL, DM, 64),
    FORMAT(Q8_0, 32, 8, 1, true, 0, NULL, D, 32),
    FORMAT(IQ4_NL, 32, 4, 1, true, 0, iq4_codes, D, 32),
    FORMAT(MXFP4, 32, 4, 1, false, 12, fp4_codes, E8, 16),
    FORMAT(Q2_K, 256, 2, 2, false, 0, NULL, K2, 320),
    FORMAT(Q3_K, 256, 3, 2, false, 4, NULL, K3, 224),
    FORMAT(Q4_K, 256, 4, 1, false, 0, NULL, K4, 256),
    FORMAT(Q5_K, 256, 5, 1, false, 0, NULL, K4, 256),
    FORMAT(Q6_K, 256, 6, 2, false, 32, NULL, K6, 288),
    FORMAT(IQ4_XS, 256, 4, 1, true, 0, iq4_codes, XS, 128),
};

const struct int8_format *int8_format_of(enum gguf_type type)
{
    return (unsigned)type < GGUF_TYPE_END && formats[type].name ? &formats[type] : NULL;
}

size_t int8_code_bytes(const struct int8_format *f, uint32_t n_step)
{
    return (size_t)VECTOR * f->n_bit * n_step;
}

size_t int8_scale_bytes(const struct int8_format *f, uint32_t n_step)
{
    return f->block_k == UNIT_K ? f->scale_bytes : (size_t)f->scale_bytes * n_step;
}

static size_t unit_bytes(const struct int8_format *f, uint32_t n_step)
{
    return int8_code_bytes(f, n_step) + int8_scale_bytes(f, n_step);
}

size_t int8_group_bytes(enum gguf_type type, uint32_t n_in)
{
    const struct int8_format *f = int8_format_of(type);
    uint32_t n_step = n_in / INT8_STEP_K, n_unit = n_step / INT8_UNIT_STEP;
    uint32_t rest = n_step % INT8_UNIT_STEP;
    return unit_bytes(f, INT8_UNIT_STEP) * n_unit + (rest ? unit_bytes(f, rest) : 0);
}

/* ---- codes ------------------------------------------------------------------------------------
 */

/* Where bits [bit, bit + width) of vector v lie in a plane of `width` bits: its vector, its shift.
 */
static inline unsigned plane_vector(unsigned v, unsigned width)
{
    return width == 4 ? v % 4 : width == 8 ? v : v * width / 8;
}

static inline unsigned plane_shift(unsigned v, unsigned width)
{
    return width == 4 ? v / 4 * 4 : width == 8 ? 0 : v * width % 8;
}

/* The vectors as words of 8 bytes: a code fits its byte, so shifts never reach the next. */
typedef uint64_t vectors_t[N_VECTOR][VECTOR / 8];

static inline __attribute__((always_inline)) void plane_put(const vectors_t v, const unsigned bit,
                                                            const unsigned width, uint8_t *dst)
{
    vectors_t plane = {{0}};
#pragma GCC unroll 8
    for (unsigned j = 0; j < N_VECTOR; j++) {
        uint64_t *d = plane[plane_vector(j, width)];
        const unsigned shift = plane_shift(j, width);
        for (unsigned i = 0; i < VECTOR / 8; i++) {
            d[i] |= (v[j][i] >> bit & 0x0101010101010101ULL * ((1u << width) - 1)) << shift;
        }
    }
    memcpy(dst, plane, (size_t)VECTOR * width);
}

static unsigned plane_get(const uint8_t *src, unsigned j, unsigned i, unsigned width)
{
    unsigned byte = src[(size_t)VECTOR * plane_vector(j, width) + i];
    return byte >> plane_shift(j, width) & ((1u << width) - 1);
}

/* The planes of a code of n_bit bits, from its lowest bit up. */
static inline unsigned first_width(unsigned n_bit)
{
    return n_bit == 8 ? 8 : n_bit >= 4 ? 4 : 2;
}

static inline __attribute__((always_inline)) void planes_put(const vectors_t v,
                                                             const unsigned n_bit, uint8_t *dst)
{
    const unsigned low = first_width(n_bit);
    plane_put(v, 0, low, dst);
    if (n_bit > low) {
        plane_put(v, low, n_bit - low, dst + (size_t)VECTOR * low);
    }
}

static void step_put(const vectors_t v, unsigned n_bit, uint8_t *dst)
{
    switch (n_bit) {
    case 2: planes_put(v, 2, dst); break;
    case 3: planes_put(v, 3, dst); break;
    case 4: planes_put(v, 4, dst); break;
    case 5: planes_put(v, 5, dst); break;
    case 6: planes_put(v, 6, dst); break;
    default: planes_put(v, 8, dst); break;
    }
}

static uint8_t step_get(const uint8_t *src, unsigned n_bit, unsigned j, unsigned i)
{
    unsigned low = first_width(n_bit), code = plane_get(src, j, i, low);
    if (n_bit > low) {
        code |= plane_get(src + (size_t)VECTOR * low, j, i, n_bit - low) << low;
    }
    return (uint8_t)code;
}

/* ---- scales -----------------------------------------------------------------------------------
 */

static void sixes_put(const uint8_t *value, unsigned n_group, unsigned row, uint8_t *dst)
{
    uint8_t *high = dst + (size_t)n_group / 2 * INT8_ROWS;
    for (unsigned g = 0; g < n_group; g++) {
        dst[g % (n_group / 2) * INT8_ROWS + row] |=
            (uint8_t)((value[g] & 15) << (g / (n_group / 2) * 4));
        high[g % (n_group / 4) * INT8_ROWS + row] |=
            (uint8_t)((value[g] >> 4) << (g / (n_group / 4) * 2));
    }
}

static void sixes_get(const uint8_t *src, unsigned n_group, unsigned row, uint8_t *value)
{
    const uint8_t *high = src + (size_t)n_group / 2 * INT8_ROWS;
    for (unsigned g = 0; g < n_group; g++) {
        unsigned low = src[g % (n_group / 2) * INT8_ROWS + row] >> (g / (n_group / 2) * 4) & 15;
        unsigned top = high[g % (n_group / 4) * INT8_ROWS + row] >> (g / (n_group / 4) * 2) & 3;
        value[g] = (uint8_t)(low | top << 4);
    }
}

static void half_put(uint8_t *dst, unsigned i, uint16_t h)
{
    memcpy(dst + 2 * (size_t)i, &h, sizeof h);
}

static uint16_t half_get(const uint8_t *src, unsigned i)
{
    uint16_t h;
    memcpy(&h, src + 2 * (size_t)i, sizeof h);
    return h;
}

enum { AT_M = 2 * INT8_ROWS, AT_K_DM = 4 * INT8_ROWS, AT_K_D = 2 * INT8_ROWS, SIXES_8 = 96 };

/* The scales of one row; dst was zeroed. For blocks of 32: of step `step`. */
static void scales_put(const struct int8_format *f, const struct pack_block *b, unsigned step,
                       unsigned row, uint8_t *dst)
{
    dst += f->block_k == UNIT_K ? 0 : (size_t)f->scale_bytes * step;
    if (f->scales == INT8_SCALES_E8) {
        dst[row] = (uint8_t)b->d;
        return;
    }
    half_put(dst, row, b->d);
    switch (f->scales) {
    case INT8_SCALES_DM: half_put(dst + AT_M, row, b->m); break;
    case INT8_SCALES_K4:
        half_put(dst + AT_M, row, b->m);
        sixes_put(b->scale, 8, row, dst + AT_K_DM);
        sixes_put(b->min, 8, row, dst + AT_K_DM + SIXES_8);
        break;
    case INT8_SCALES_K2:
        half_put(dst + AT_M, row, b->m);
        for (unsigned g = 0; g < 16; g++) {
            dst[AT_K_DM + INT8_ROWS * g + row] = (uint8_t)(b->scale[g] | b->min[g] << 4);
        }
        break;
    case INT8_SCALES_K6:
        for (unsigned g = 0; g < 16; g++) {
            dst[AT_K_D + INT8_ROWS * g + row] = b->scale[g];
        }
        break;
    case INT8_SCALES_K3: sixes_put(b->scale, 16, row, dst + AT_K_D); break;
    case INT8_SCALES_XS: sixes_put(b->scale, 8, row, dst + AT_K_D); break;
    default: break;
    }
}

static void scales_get(const struct int8_format *f, const uint8_t *src, unsigned step, unsigned row,
                       struct pack_block *b)
{
    src += f->block_k == UNIT_K ? 0 : (size_t)f->scale_bytes * step;
    if (f->scales == INT8_SCALES_E8) {
        b->d = src[row];
        return;
    }
    b->d = half_get(src, row);
    switch (f->scales) {
    case INT8_SCALES_DM: b->m = half_get(src + AT_M, row); break;
    case INT8_SCALES_K4:
        b->m = half_get(src + AT_M, row);
        sixes_get(src + AT_K_DM, 8, row, b->scale);
        sixes_get(src + AT_K_DM + SIXES_8, 8, row, b->min);
        break;
    case INT8_SCALES_K2:
        b->m = half_get(src + AT_M, row);
        for (unsigned g = 0; g < 16; g++) {
            b->scale[g] = src[AT_K_DM + INT8_ROWS * g + row] & 15;
            b->min[g] = src[AT_K_DM + INT8_ROWS * g + row] >> 4;
        }
        break;
    case INT8_SCALES_K6:
        for (unsigned g = 0; g < 16; g++) {
            b->scale[g] = src[AT_K_D + INT8_ROWS * g + row];
        }
        break;
    case INT8_SCALES_K3: sixes_get(src + AT_K_D, 16, row, b->scale); break;
    case INT8_SCALES_XS: sixes_get(src + AT_K_D, 8, row, b->scale); break;
    default: break;
    }
}

/* ---- units ------------------------------------------------------------------------------------
 */

/* code: [16][UNIT_K]. */
static void unit_put_codes(const struct int8_format *f, const uint8_t *code, uint32_t n_step,
                           uint8_t *dst)
{
    for (uint32_t s = 0; s < n_step; s++) {
        vectors_t v;
        for (unsigned r = 0; r < INT8_ROWS; r++) {
            for (unsigned j = 0; j < N_VECTOR; j++) {
                memcpy((uint8_t *)v[j] + 4 * (size_t)r,
                       code + (size_t)UNIT_K * r + INT8_STEP_K * s + 4 * j, 4);
            }
        }
        step_put((const uint64_t(*)[VECTOR / 8]) v, f->n_bit, dst + int8_code_bytes(f, s));
    }
}

void int8_pack(const struct gemm_weight *w, const uint8_t *src, uint32_t group, uint8_t *dst)
{
    const struct int8_format *f = int8_format_of(w->type);
    const size_t row_bytes = gemm_row_bytes(w->type, w->n_in);
    const size_t block_bytes = quant_format_of(w->type)->n_block_byte;
    uint8_t code[INT8_ROWS][UNIT_K] = {{0}};
    for (uint32_t k = 0; k < w->n_in; k += UNIT_K) {
        uint32_t n_k = w->n_in - k < UNIT_K ? w->n_in - k : UNIT_K, n_step = n_k / INT8_STEP_K;
        uint8_t *scales = dst + int8_code_bytes(f, n_step);
        memset(scales, 0, int8_scale_bytes(f, n_step));
        for (uint32_t r = 0; r < INT8_ROWS && group * INT8_ROWS + r < w->n_out; r++) {
            const uint8_t *s = src + row_bytes * (group * INT8_ROWS + r);
            for (uint32_t i = 0; i < n_k; i += f->block_k) {
                struct pack_block b;
                pack_block_read(w->type, s + (k + i) / f->block_k * block_bytes, &b);
                memcpy(code[r] + i, b.code, f->block_k);
                scales_put(f, &b, i / INT8_STEP_K, r, scales);
            }
        }
        unit_put_codes(f, code[0], n_step, dst);
        dst += unit_bytes(f, n_step);
    }
}

void int8_row(const struct gemm_weight *w, uint32_t row, float *dst)
{
    const struct int8_format *f = int8_format_of(w->type);
    const struct quant_format *qf = quant_format_of(w->type);
    const uint8_t *unit = gemm_group_data(w, row / INT8_ROWS);
    const unsigned r = row % INT8_ROWS;
    _Alignas(8) uint8_t bytes[512];
    assert(qf->n_block_byte <= sizeof bytes);
    for (uint32_t k = 0; k < w->n_in; k += UNIT_K) {
        uint32_t n_k = w->n_in - k < UNIT_K ? w->n_in - k : UNIT_K, n_step = n_k / INT8_STEP_K;
        for (uint32_t i = 0; i < n_k; i += f->block_k) {
            struct pack_block b;
            for (uint32_t j = 0; j < f->block_k; j++) {
                uint32_t at = (i + j) % INT8_STEP_K, step = (i + j) / INT8_STEP_K;
                b.code[j] =
                    step_get(unit + int8_code_bytes(f, step), f->n_bit, at / 4, 4 * r + at % 4);
            }
            scales_get(f, unit + int8_code_bytes(f, n_step), i / INT8_STEP_K, r, &b);
            pack_block_write(w->type, &b, bytes);
            qf->dequant(bytes, dst + k + i, f->block_k);
        }
        unit += unit_bytes(f, n_step);
    }
}

size_t int8_act_bytes(uint32_t n_in, uint32_t n_tok)
{
    return (size_t)n_tok * (n_in / INT8_STEP_K) * INT8_REC * sizeof(uint32_t);
}
