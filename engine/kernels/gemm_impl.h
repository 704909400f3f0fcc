/* Between gemm.c and the kernels behind it. A kernel packs weights of one type in groups of
 * group_out output rows, and computes any range of groups for any range of tokens; gemm.c cuts the
 * work, owns memory and hands out scratch. */
#ifndef ENGINE_KERNELS_GEMM_IMPL_H
#define ENGINE_KERNELS_GEMM_IMPL_H

#include "engine/kernels/gemm.h"
#include "engine/quant/formats.h"

/* What a kernel reads as activations; no machine has kernels of both BF16 and INT8. */
enum gemm_act_kind {
    GEMM_ACT_F32,  /* the caller's rows as they are */
    GEMM_ACT_BF16, /* pairs of K for AMX: gemm_amx.h */
    GEMM_ACT_INT8, /* steps of 32 in int8: gemm_int8.h */
};

/* Scratch of one worker while it computes one item, 64-byte aligned. */
#define GEMM_SCRATCH_BYTES ((size_t)2 << 20)

/* What one pool item computes: outputs of groups [group, group + n_group), rows [tok, tok + n_tok).
 */
struct gemm_part {
    const struct gemm_job *job;
    uint32_t group;
    uint32_t n_group;
    uint32_t tok;
    uint32_t n_tok;
    void *scratch;
    /* A guess at the packed groups this worker will read after this part, or NULL: to ask memory
     * for their first bytes, each next_group_bytes after the other. */
    const uint8_t *next;
    size_t next_group_bytes;
};

struct gemm_kernel {
    const char *name;
    enum gemm_act_kind act;
    uint32_t group_out;   /* outputs of one group; the last group of a weight may hold fewer */
    uint32_t n_group_max; /* groups of one item at most, for many rows */
    uint32_t n_group_few; /* groups that work together on few rows */
    uint32_t n_tok_max;   /* rows of one item at most; a multiple of tok_block */
    uint32_t tok_block;   /* row ranges begin at multiples of this */
    /* Packed bytes of one full group. Rows missing from the last group are there as zeros. */
    size_t (*group_bytes)(enum gguf_type type, uint32_t n_in);
    /* Packs group number `group` of the GGUF rows at src into dst. */
    void (*pack)(const struct gemm_weight *w, const uint8_t *src, uint32_t group, uint8_t *dst);
    void (*row)(const struct gemm_weight *w, uint32_t row, float *dst);
    void (*run)(const struct gemm_part *p);
    /* Bytes of act.data for so many rows, and the making of rows [ACT_TOK_BLOCK i, + ACT_TOK_BLOCK)
     * of it. NULL for GEMM_ACT_F32. */
    size_t (*act_bytes)(uint32_t n_in, uint32_t n_tok);
    void (*act_make)(const struct gemm_act *act, uint32_t i);
};

#define ACT_TOK_BLOCK 16

/* Tables of what each translation unit offers; NULL: no kernel for the type there. */
const struct gemm_kernel *gemm_generic_kernel(enum kern_isa isa, enum gguf_type type);
#if defined(__x86_64__)
const struct gemm_kernel *gemm_float_kernel_avx2(enum gguf_type type);
const struct gemm_kernel *gemm_float_kernel_avx512(enum gguf_type type);
const struct gemm_kernel *gemm_int8_kernel_avx2(enum gguf_type type);
const struct gemm_kernel *gemm_int8_kernel_avx512(enum gguf_type type);
const struct gemm_kernel *gemm_amx_kernel(enum gguf_type type);
#endif

static inline const uint8_t *gemm_group_data(const struct gemm_weight *w, uint32_t group)
{
    return (const uint8_t *)w->data + w->group_bytes * group;
}

static inline size_t gemm_row_bytes(enum gguf_type type, uint32_t n_in)
{
    const struct quant_format *f = quant_format_of(type);
    return (size_t)n_in / f->n_block_elem * f->n_block_byte;
}

/* Puts one row's sums where the job wants them: bias and add last, in this order on every path. */
static inline void gemm_emit(const struct gemm_job *job, uint32_t tok, uint32_t out,
                             const float *sum, uint32_t n)
{
    float *y = job->y + (size_t)tok * job->ldy + out;
    for (uint32_t i = 0; i < n; i++) {
        float v = job->bias ? sum[i] + job->bias[out + i] : sum[i];
        y[i] = job->add ? y[i] + v : v;
    }
}

/* acc[t][o] = fma(w[g][k][o], x[t][k], acc[t][o]) for k ascending: one fused multiply-add per
 * element, so that every instruction set gives the same bits. w: n_group panels of [n_k][16] f32,
 * w_stride floats apart; acc: [n_tok][n_group * 16]. n_group is 1 or 2. */
typedef void gemm_panel_fn(const float *w, size_t w_stride, uint32_t n_group, size_t n_k,
                           const float *x, size_t ldx, uint32_t n_tok, float *acc);

gemm_panel_fn gemm_panel_scalar;
#if defined(__x86_64__)
gemm_panel_fn gemm_panel_scalar_fma;
gemm_panel_fn gemm_panel_avx2;
gemm_panel_fn gemm_panel_avx512;
#endif

#endif
