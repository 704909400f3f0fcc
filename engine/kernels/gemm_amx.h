/* AMX: weights are the A operand (16 output rows x 32 K of bf16 a tile), activations the B operand
 * (pairs of K), sums f32 in tiles.
 *
 * The arithmetic, for every number of rows:
 *   w = bf16 of the dequantised f32 as gemm_amx_unpack.c makes it, x = bf16(x) to nearest even,
 * denormals zero; s = 0; for each run of 32 elements of K in ascending order: s = s +
 * TDPBF16PS(run) where TDPBF16PS sums the first and the last 16 elements of the run apart, in
 * order, and adds both (Intel SDM; element j and 16 + j make a pair). K is padded with zeros to a
 * multiple of 64 on both sides.
 *
 * Packed: groups of 16 rows; a group is a sequence of units of unit_k elements of K (64, or 256
 * for the K types), so that a unit holds whole blocks and costs the bytes its blocks cost in the
 * file. Codes of 16 rows x 32 K lie as planes of 16-bit words, one word a K, several rows in it, so
 * that shifting a vector by a constant leaves one row's codes where VPERMW takes its index. */
#ifndef ENGINE_KERNELS_GEMM_AMX_H
#define ENGINE_KERNELS_GEMM_AMX_H

#include "engine/kernels/gemm_impl.h"
#include "engine/kernels/pack_block.h"

#include <stdalign.h>

#define AMX_ROWS  16
#define AMX_TILE  512 /* bf16 of a tile: 16 rows x 32 K */
#define AMX_SUB_K 64  /* K of one unpacking: two tiles */

struct amx_scales { /* [group of 16 or 32 K][row]: factors, and what is added */
    alignas(64) float s[4][AMX_ROWS];
    alignas(64) float m[4][AMX_ROWS];
};

typedef void amx_scales_fn(const uint8_t *unit, unsigned sub, struct amx_scales *x);
typedef void amx_unpack_fn(const uint8_t *unit, unsigned sub, const struct amx_scales *x,
                           uint16_t *tiles);

struct amx_format {
    const char *name;
    enum gguf_type type;
    uint16_t block_k; /* elements of a block in the file */
    uint16_t unit_k;
    uint16_t unit_bytes;
    /* Scales of elements [64 sub, 64 sub + 64) of a unit, and these elements as two tiles
     * [2][16][32]. Two steps, since the first is a chain of latencies that other work can hide.
     * NULL: the packed bytes are the tiles. */
    amx_scales_fn *scales;
    amx_unpack_fn *unpack;
    /* One unit from and to the blocks of 16 rows: [16][unit_k / block_k]. */
    void (*put)(const struct pack_block *b, uint8_t *unit);
    void (*get)(const uint8_t *unit, struct pack_block *b);
};

/* NULL: rows of this type stay as the file has them and are dequantised whole (gemm_amx.c). */
const struct amx_format *amx_format_of(enum gguf_type type);

amx_scales_fn amx_scales_d, amx_scales_dm, amx_scales_q8_0, amx_scales_mxfp4, amx_scales_q45_k,
    amx_scales_q3_k, amx_scales_q6_k, amx_scales_iq4_xs, amx_scales_none;
amx_unpack_fn amx_unpack_q4_0, amx_unpack_q4_1, amx_unpack_q5_0, amx_unpack_q5_1, amx_unpack_q8_0,
    amx_unpack_q2_k, amx_unpack_q3_k, amx_unpack_q4_k, amx_unpack_q5_k, amx_unpack_q6_k,
    amx_unpack_iq4_nl, amx_unpack_iq4_xs, amx_unpack_mxfp4;

/* Byte offsets in a unit of 256 elements; see pack_amx.c. Sections of a sub-unit are consecutive.
 */
enum {
    AMX_Q4K_SCALES = 64, /* 4 x 48 bytes after d [16], dmin [16] */
    AMX_Q4K_CODES = 256,
    AMX_Q6K_SCALES = 3072, /* 4 x 64 bytes after 4 x 768 of codes */
    AMX_Q3K_SCALES = 1536, /* 4 x 48 bytes after 4 x 384 of codes */
    AMX_Q2K_SCALES = 64,   /* 4 x 64 bytes after d [16], dmin [16] */
    AMX_Q2K_CODES = 320,
    AMX_XS_SCALES = 2048, /* 4 x 16, 2 x 16 bytes after 4 x 512 of codes */
    AMX_XS_D = 2144,
    AMX_MXFP4_BYTES = 544,
    AMX_Q3K_BYTES = 1760,
    AMX_Q6K_BYTES = 3360,
};

/* Some units are whole cache lines and a half, 32 bytes. Where such a unit begins in the middle of
 * a line, the half comes first, so that all else lies on whole lines (the weight begins on one). */
static inline size_t amx_lines_at(const uint8_t *unit)
{
    return (size_t)unit & 32;
}

static inline size_t amx_half_at(const uint8_t *unit, size_t unit_bytes)
{
    return (size_t)unit & 32 ? 0 : unit_bytes - 32;
}

#endif
