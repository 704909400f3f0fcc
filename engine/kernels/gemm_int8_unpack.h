/* Units of packed weights to codes of a byte and scales in f32, in a panel that the products read:
 * a part of gemm_int8_body.h, which says what the including file defines. */
#include <string.h>

#define PANEL_STEP     (2 * INT8_UNIT_STEP)
#define PREFETCH_AHEAD 2048
#define CACHE_LINE     64
#define N_CODE_VECTOR  8
#define CODE_VECTOR    64

/* Some steps of 16 rows, unpacked, in the scratch of a worker. */
struct int8_panel {
    uint8_t code[PANEL_STEP][N_CODE_VECTOR][CODE_VECTOR];
    float ws[2 * PANEL_STEP][INT8_ROWS]; /* per group of a step */
    float wm[2 * PANEL_STEP][INT8_ROWS];
};

static_assert(sizeof(struct int8_panel) + sizeof(float) * INT8_TOK_MAX * INT8_ROWS <=
                  GEMM_SCRATCH_BYTES,
              "scratch holds a panel and the sums");

/* ---- codes ------------------------------------------------------------------------------------
 */

typedef uint64_t wide __attribute__((vector_size(WIDE), aligned(1), may_alias));

#define BYTES(B) (UINT64_C(0x0101010101010101) * (B))

/* One step, WIDE bytes of each vector at a time. n_bit is a constant where this is inlined. */
static inline __attribute__((always_inline)) void unpack_step(const uint8_t *src,
                                                              const unsigned n_bit,
                                                              const uint8_t *values, unsigned flip,
                                                              uint8_t *dst)
{
    const unsigned low = n_bit == 8 ? 8 : n_bit >= 4 ? 4 : 2, high = n_bit - low;
    const uint64_t flips = BYTES((uint64_t)flip);
    for (unsigned at = 0; at < CODE_VECTOR; at += WIDE) {
#pragma GCC unroll 8
        for (unsigned j = 0; j < N_CODE_VECTOR; j++) {
            const unsigned lv = low == 4 ? j % 4 : low == 8 ? j : j / 4;
            const unsigned ls = low == 4 ? j / 4 * 4 : low == 8 ? 0 : j % 4 * 2;
            wide c = *(const wide *)(src + at + (size_t)CODE_VECTOR * lv) >> ls;
            if (low < 8) {
                c &= BYTES((1u << low) - 1);
            }
            if (high) {
                const unsigned hv = low + j * high / 8, hs = j * high % 8;
                wide h = *(const wide *)(src + at + (size_t)CODE_VECTOR * hv);
                h = hs > low ? h >> (hs - low) : h << (low - hs);
                c |= h & BYTES(((1u << high) - 1) << low);
            }
            if (values) {
                c = wide_lookup(values, c);
            }
            *(wide *)(dst + at + (size_t)CODE_VECTOR * j) = c ^ flips;
        }
    }
}

/* The codes of n_step steps, and lines asked for of what comes after. */
static inline __attribute__((always_inline)) void unpack_steps(const uint8_t *src, uint32_t n_step,
                                                               const unsigned n_bit,
                                                               const uint8_t *values, unsigned flip,
                                                               uint8_t *dst)
{
    for (uint32_t s = 0; s < n_step; s++) {
        for (unsigned i = 0; i < n_bit; i++) {
            __builtin_prefetch(src + PREFETCH_AHEAD + (size_t)CACHE_LINE * i);
        }
        unpack_step(src, n_bit, values, flip, dst);
        src += (size_t)CODE_VECTOR * n_bit;
        dst += INT8_STEP_CODES;
    }
}

static void unpack_codes(const struct int8_format *f, const uint8_t *src, uint32_t n_step,
                         uint8_t *dst)
{
    switch (f->n_bit) {
    case 2: unpack_steps(src, n_step, 2, NULL, 0, dst); break;
    case 3: unpack_steps(src, n_step, 3, NULL, 0, dst); break;
    case 4:
        if (f->values) {
            unpack_steps(src, n_step, 4, f->values, f->is_signed ? CODE_FLIP : 0, dst);
        } else {
            unpack_steps(src, n_step, 4, NULL, 0, dst);
        }
        break;
    case 5: unpack_steps(src, n_step, 5, NULL, 0, dst); break;
    case 6: unpack_steps(src, n_step, 6, NULL, 0, dst); break;
    default: unpack_steps(src, n_step, 8, NULL, CODE_FLIP, dst); break;
    }
}

/* ---- scales -----------------------------------------------------------------------------------
 */

typedef uint64_t wide32 __attribute__((vector_size(32), aligned(1), may_alias));

/* Values of 6 bits, n_group times 16: a quarter of the groups at a time. */
static inline __attribute__((always_inline)) void sixes(const uint8_t *src, const unsigned n_group,
                                                        uint8_t *dst)
{
    const size_t n_byte = (size_t)n_group / 4 * INT8_ROWS; /* of a quarter */
    const uint8_t *high = src + 2 * n_byte;
    for (size_t at = 0; at < n_byte; at += sizeof(wide32)) {
        const wide32 h = *(const wide32 *)(high + at);
#pragma GCC unroll 4
        for (unsigned q = 0; q < 4; q++) {
            wide32 low = *(const wide32 *)(src + q % 2 * n_byte + at) >> (q / 2 * 4);
            wide32 top = q < 2 ? h << (4 - 2 * q) : h >> (2 * q - 4);
            *(wide32 *)(dst + q * n_byte + at) = (low & BYTES(15)) | (top & BYTES(48));
        }
    }
}

/* out[g] = d · (v[g] - less). */
static inline void scale_by(v16 d, const uint8_t *v, unsigned n_group, float less,
                            float (*out)[INT8_ROWS])
{
    for (unsigned g = 0; g < n_group; g++) {
        v16 f = v16_sub(load_bytes(v + (size_t)INT8_ROWS * g), v16_set1(less));
        v16_store(out[g], v16_mul(d, f));
    }
}

/* The offsets that follow from scales. */
static inline void offsets_of(const struct int8_format *f, float (*ws)[INT8_ROWS], uint32_t n,
                              float (*wm)[INT8_ROWS])
{
    const v16 offset = v16_set1(-(float)f->offset);
    for (uint32_t i = 0; i < n; i++) {
        v16_store(wm[i], v16_mul(offset, v16_load(ws[i])));
    }
}

/* 2^(e - 128), denormals zero. */
static inline void e8m0_to_f32(const uint8_t *e, float *dst)
{
    uint32_t bits[INT8_ROWS];
    for (unsigned r = 0; r < INT8_ROWS; r++) {
        bits[r] = e[r] < 2 ? 0 : (uint32_t)(e[r] - 1) << 23;
    }
    memcpy(dst, bits, sizeof bits);
}

/* Blocks of 32: one group a step. */
static void unpack_step_scales(const struct int8_format *f, const uint8_t *src, uint32_t n_step,
                               float (*ws)[INT8_ROWS], float (*wm)[INT8_ROWS])
{
    for (uint32_t s = 0; s < n_step; s++, src += f->scale_bytes) {
        if (f->scales == INT8_SCALES_E8) {
            e8m0_to_f32(src, ws[s]);
        } else {
            v16_store(ws[s], load_halves(src));
        }
        if (f->scales == INT8_SCALES_DM) {
            v16_store(wm[s], load_halves(src + 2 * INT8_ROWS));
        }
    }
}

/* Blocks of 256. */
static void unpack_unit_scales(const struct int8_format *f, const uint8_t *src,
                               float (*ws)[INT8_ROWS], float (*wm)[INT8_ROWS])
{
    uint8_t v[16 * INT8_ROWS], low[16 * INT8_ROWS];
    const uint8_t *after_d = src + 2 * INT8_ROWS, *after_m = after_d + 2 * INT8_ROWS;
    const v16 d = load_halves(src);
    switch (f->scales) {
    case INT8_SCALES_K4:
        sixes(after_m, 8, v);
        scale_by(d, v, 8, 0, ws);
        sixes(after_m + 96, 8, v);
        scale_by(v16_sub(v16_set1(-0.0f), load_halves(after_d)), v, 8, 0, wm);
        break;
    case INT8_SCALES_K2:
        for (unsigned i = 0; i < sizeof v; i++) {
            low[i] = after_m[i] & 15;
            v[i] = after_m[i] >> 4;
        }
        scale_by(d, low, 16, 0, ws);
        scale_by(v16_sub(v16_set1(-0.0f), load_halves(after_d)), v, 16, 0, wm);
        break;
    case INT8_SCALES_K6:
        for (unsigned i = 0; i < sizeof v; i++) {
            v[i] = after_d[i] ^ 0x80;
        }
        scale_by(d, v, 16, 128, ws);
        break;
    case INT8_SCALES_K3:
        sixes(after_d, 16, v);
        scale_by(d, v, 16, 32, ws);
        break;
    default:
        sixes(after_d, 8, v);
        scale_by(d, v, 8, 32, ws);
        break;
    }
}

/* The steps of one unit to the panel from step `at` on. Returns where the next unit begins. */
static const uint8_t *unpack_unit(const struct int8_format *f, const uint8_t *unit, uint32_t n_step,
                                  struct int8_panel *p, uint32_t at)
{
    const uint8_t *scales = unit + int8_code_bytes(f, n_step);
    const size_t n_byte = int8_scale_bytes(f, n_step);
    float(*ws)[INT8_ROWS] = p->ws + (size_t)at * f->n_group;
    float(*wm)[INT8_ROWS] = p->wm + (size_t)at * f->n_group;
    unpack_codes(f, unit, n_step, p->code[at][0]);
    for (size_t i = 0; i < n_byte; i += CACHE_LINE) {
        __builtin_prefetch(scales + PREFETCH_AHEAD + i);
    }
    if (f->block_k == INT8_STEP_K) {
        unpack_step_scales(f, scales, n_step, ws, wm);
    } else {
        unpack_unit_scales(f, scales, ws, wm);
    }
    if (f->offset) {
        offsets_of(f, ws, n_step * f->n_group, wm);
    }
    return scales + n_byte;
}
