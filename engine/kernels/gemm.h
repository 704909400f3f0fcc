/* Matrix products of packed weights with f32 activations: y[t][o] = sum over i of w[o][i] ·
 * x[t][i].
 *
 * A weight is packed once, at load, into the order the kernel streams it, with no byte more than
 * its GGUF type has (block padding aside). One arithmetic per kind of weight and machine, whatever
 * the number of rows: the bits of y[t] depend on w and x[t] alone, not on n_tok, neighbours, slices
 * or threads.
 *
 * F32, F16 weights: f32, one fused multiply-add per element in K order, the same bits on each ISA.
 *
 * Others on AMX: weights as bf16 (gemm_amx_unpack.c says how), activations rounded
 * to bf16, f32 sums in the order of the tile product.
 *
 * Quantised types of gemm_int8.h on AVX-512 and AVX2: activations rounded to int8 in steps of 32,
 * exact integer dot products, f32 sums of the steps in K order: the same bits on both.
 *
 * BF16 and the rarer quantised types there, and all on scalar: f32 activations on dequantised
 * weights, one fused multiply-add per element in K order. Scalar is the oracle of accuracy.
 *
 * Threads: packing and running use the pool; one call at a time. Weights are read-only after load.
 */
#ifndef ENGINE_KERNELS_GEMM_H
#define ENGINE_KERNELS_GEMM_H

#include "base/err.h"
#include "engine/gguf.h"
#include "engine/kernels/cpu.h"
#include "engine/threads.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gemm_ctx; /* kernel table and scratch of one engine */

enum err_code gemm_ctx_create(enum kern_isa isa, struct eng_pool *pool, struct gemm_ctx **ret_c,
                              struct err *e);
void gemm_ctx_destroy(struct gemm_ctx *c); /* NULL is legal */

struct gemm_weight {
    enum gguf_type type;
    uint32_t n_out;
    uint32_t n_in;
    size_t n_byte;      /* packed */
    size_t group_bytes; /* packed, of one group of rows; gemm.c's own */
    void *data;         /* packed; the weight's own, on huge pages, freed by gemm_weight_finish */
    const void *kernel; /* what runs it; gemm.c's own */
    void *slab;         /* what data lies in; gemm.c's own */
};

/* Packs n_out rows of n_in elements from GGUF bytes (row-major, n_in a multiple of the type's
 * block). ERR_UNSUPPORTED names a type without a kernel. src may be released afterwards. */
enum err_code gemm_weight_pack(struct gemm_ctx *c, enum gguf_type type, uint32_t n_out,
                               uint32_t n_in, const void *src, struct gemm_weight *ret_w,
                               struct err *e);
void gemm_weight_finish(struct gemm_weight *w);
/* One row as exact dequantised f32 [n_in]: the embedding gather of a tied output matrix. */
void gemm_weight_row(const struct gemm_ctx *c, const struct gemm_weight *w, uint32_t row,
                     float *dst);

/* Activations made ready once for every weight that reads them (Q, K and V; gate and up). */
struct gemm_act {
    uint32_t n_tok;
    uint32_t n_in;
    uint32_t rank;
    void *data; /* grown as needed, kept between calls */
    size_t cap;
    const float *x; /* f32 rows, for weights that read them as they are; must outlive the run */
    size_t ldx;
};

/* What a weight wants made of activations, in ascending order: one that wants less runs with what
 * was made for one that wants more. */
uint32_t gemm_weight_act_rank(const struct gemm_weight *w);
/* x: [n_tok, n_in] f32, row stride ldx floats. `w`: one of the weights that will read it, of the
 * highest rank; all share n_in. */
enum err_code gemm_act_prepare(struct gemm_ctx *c, const struct gemm_weight *w, const float *x,
                               size_t ldx, uint32_t n_tok, struct gemm_act *act, struct err *e);
void gemm_act_finish(struct gemm_act *act);

struct gemm_job {
    const struct gemm_weight *w;
    const struct gemm_act *act;
    float *y; /* [act->n_tok, w->n_out] f32, row stride ldy floats */
    size_t ldy;
    const float *bias; /* [n_out] added to each row, or NULL */
    bool add;          /* y += instead of y = */
};

/* All jobs as one parallel phase: work is cut by output rows (and by token blocks for large n_tok).
 */
void gemm_run(struct gemm_ctx *c, const struct gemm_job *jobs, uint32_t n_job);

#endif
