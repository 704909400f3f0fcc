/* Packed F32 and F16 weights, shared by the vector paths: groups of 32 outputs as two panels
 * [n_in][16] in the file's own type. What differs per instruction set is the inner block. */
#ifndef ENGINE_KERNELS_GEMM_FLOAT_H
#define ENGINE_KERNELS_GEMM_FLOAT_H

#include "engine/kernels/gemm_impl.h"

#define FLOAT_PANEL_OUT 16
#define FLOAT_N_PANEL   2
#define FLOAT_GROUP_OUT (FLOAT_PANEL_OUT * FLOAT_N_PANEL)
/* Rows that stream over one group before the next: their sums stay in the first-level cache. */
#define FLOAT_TOK_STEP 96
#define FLOAT_TOK_MAX  (4 * FLOAT_TOK_STEP)

/* As gemm_panel_fn, over panels of elem-byte weights. */
typedef void gemm_float_block_fn(const void *w, size_t w_stride_bytes, uint32_t n_panel, size_t n_k,
                                 const float *x, size_t ldx, uint32_t n_tok, float *acc);

size_t gemm_float_group_bytes(enum gguf_type type, uint32_t n_in);
void gemm_float_pack(const struct gemm_weight *w, const uint8_t *src, uint32_t group, uint8_t *dst);
void gemm_float_row(const struct gemm_weight *w, uint32_t row, float *dst);
void gemm_float_run(const struct gemm_part *p, gemm_float_block_fn *block);

#define GEMM_FLOAT_KERNEL(NAME, RUN)                                                               \
    {                                                                                              \
        .name = NAME, .act = GEMM_ACT_F32, .group_out = FLOAT_GROUP_OUT, .n_group_max = 8,         \
        .n_group_few = 1, .n_tok_max = FLOAT_TOK_MAX, .tok_block = 1,                              \
        .group_bytes = gemm_float_group_bytes, .pack = gemm_float_pack, .row = gemm_float_row,     \
        .run = RUN,                                                                                \
    }

#endif
