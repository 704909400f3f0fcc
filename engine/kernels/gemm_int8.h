/* Quantised weights without AMX: integer dot products of weight codes with activations in int8.
 *
 * The arithmetic, for every number of rows and every instruction set:
 *   A row of activations is cut into steps of 32 elements of K. With a the largest |x| of a step,
 *   scale = a / 127, q = x · (127 / a) rounded to nearest even; a step of less than 2^-100 counts
 *   as zero, one with an infinity or NaN has scale NaN.
 *   A step of weights has one group of 32 or two groups of 16; a group has a scale ws and, where
 *   codes are unsigned, an offset wm: w = ws · code + wm. dot = sum of code · q, exact in int32;
 *   sum = sum of q, exact in f32.
 *   signed codes:   f = ws · dot
 *   unsigned codes: f = fma(wm, sum, ws · dot); a second group: f = fma(wm, sum, fma(ws, dot, f))
 *   y = fma(f, scale, y), steps in ascending order of K from y = 0.
 * Each operation rounds to nearest f32, denormals are zero. So what is exact is free to be computed
 * in any way, and every instruction set gives the same bits.
 *
 * Packed: groups of 16 rows; a group is a sequence of units of 8 steps (fewer in the last). A unit
 * is the codes of its steps, then the scales of all: the bytes its blocks cost in the file. The
 * codes of a step are planes of 4, 2, 1 or 8 bits: eight vectors of 64 bytes, of 16 rows x 4 K, lie
 * at consecutive bits of the plane's vectors (vector j at bits of vector j mod n of the n vectors
 * of the plane when 4 bits, else at vector j / (8 / n)). */
#ifndef ENGINE_KERNELS_GEMM_INT8_H
#define ENGINE_KERNELS_GEMM_INT8_H

#include "engine/kernels/gemm_impl.h"
#include "engine/kernels/pack_block.h"

#define INT8_ROWS       16
#define INT8_STEP_K     32
#define INT8_UNIT_STEP  8
#define INT8_STEP_CODES (INT8_ROWS * INT8_STEP_K) /* bytes of a step's codes, unpacked */

/* How the scale bytes of a unit are laid out; [16] is over rows. */
enum int8_scales {
    INT8_SCALES_D,  /* per step: f16 d [16] */
    INT8_SCALES_DM, /* per step: f16 d [16], f16 m [16] */
    INT8_SCALES_E8, /* per step: E8M0 [16] */
    INT8_SCALES_K4, /* f16 d [16], f16 dmin [16], sixes of 8 scales, sixes of 8 mins */
    INT8_SCALES_K2, /* f16 d [16], f16 dmin [16], [16 groups][16] scale | min << 4 */
    INT8_SCALES_K6, /* f16 d [16], int8 [16 groups][16] */
    INT8_SCALES_K3, /* f16 d [16], sixes of 16 scales, less 32 */
    INT8_SCALES_XS, /* f16 d [16], sixes of 8 scales, less 32 */
};
/* Sixes: n_group values of 6 bits: low nibbles [n_group / 2][16], group i beside i + n_group / 2;
 * then upper pairs [n_group / 4][16], group i at bits 2 (i / (n_group / 4)) of i mod (n_group / 4).
 */

struct int8_format {
    const char *name;
    enum gguf_type type;
    uint16_t block_k; /* elements of a block in the file */
    uint8_t n_bit;    /* of a code: 2, 3, 4, 5, 6 or 8 */
    uint8_t n_group;  /* of a step: 1 or 2 */
    bool is_signed;
    int8_t offset;         /* unsigned codes: wm = -offset · ws, or 0: the file has its own */
    const uint8_t *values; /* [16] what codes of 4 bits stand for, signed ones plus 128; or NULL */
    enum int8_scales scales;
    uint16_t scale_bytes; /* of a step, or of a unit for blocks of 256 */
};

/* NULL: the generic kernel runs this type. */
const struct int8_format *int8_format_of(enum gguf_type type);
size_t int8_code_bytes(const struct int8_format *f, uint32_t n_step);
size_t int8_scale_bytes(const struct int8_format *f, uint32_t n_step);

/* Activations: rows in tiles of a size that the instruction set likes, a power of two up to
 * ACT_TOK_BLOCK, the rest in tiles of smaller ones. A tile of n rows is a record a step: 32-bit
 * words [INT8_REC][n]. */
enum {
    INT8_REC_SCALE = 8, /* after 8 words of 4 q */
    INT8_REC_SUM,       /* f32 sum of q */
    INT8_REC_SUM_LOW,   /* of elements 0…15 */
    INT8_REC_SUM_HIGH,  /* of elements 16…31 */
    INT8_REC_SUM_INT,   /* int32 -128 · sum */
    INT8_REC,
};

size_t int8_group_bytes(enum gguf_type type, uint32_t n_in);
void int8_pack(const struct gemm_weight *w, const uint8_t *src, uint32_t group, uint8_t *dst);
void int8_row(const struct gemm_weight *w, uint32_t row, float *dst);
size_t int8_act_bytes(uint32_t n_in, uint32_t n_tok);

#define INT8_TOK_MAX 256 /* rows of one item */

#define INT8_KERNEL(TYPE, NAME, RUN, ACT_MAKE)                                                     \
    [GGUF_TYPE_##TYPE] = {.name = #TYPE "/" NAME,                                                  \
                          .act = GEMM_ACT_INT8,                                                    \
                          .group_out = INT8_ROWS,                                                  \
                          .n_group_max = 16,                                                       \
                          .n_group_few = 4,                                                        \
                          .n_tok_max = INT8_TOK_MAX,                                               \
                          .tok_block = ACT_TOK_BLOCK,                                              \
                          .group_bytes = int8_group_bytes,                                         \
                          .pack = int8_pack,                                                       \
                          .row = int8_row,                                                         \
                          .run = RUN,                                                              \
                          .act_bytes = int8_act_bytes,                                             \
                          .act_make = ACT_MAKE}

#endif
