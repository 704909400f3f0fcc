/* KV layout and attention over contiguous ranges.
 *
 * A chunk holds chunk_tok tokens of all layers, K and V, laid out as the attention kernel of this
 * machine wants to read them (tile-ready bf16 on AMX). Token t of a sequence is in chunk
 * t / chunk_tok of its range; the bytes of tokens not yet written may hold anything, NaN included.
 * One arithmetic for 1…n rows: KV is split at absolute multiples of ATT_SPLIT_TOK tokens, the parts
 * are merged in index order whoever computed them, rescaling is decided per row.
 * Threads: att_forward is called by one thread and uses the pool. */
#ifndef ENGINE_KERNELS_ATTENTION_H
#define ENGINE_KERNELS_ATTENTION_H

#include "base/err.h"
#include "engine/engine.h"
#include "engine/kernels/cpu.h"
#include "engine/threads.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What one layer keeps per token; n_kv_head 0: this layer has no KV of its own. */
struct att_kv_shape {
    uint32_t n_kv_head;
    uint32_t d_k;
    uint32_t d_v;
};

struct att_ctx; /* layout, kernel table and scratch of one engine */

/* shapes: [n_layer]. kv_type is not AUTO here. n_step_tok_max bounds the rows of one att_forward.
 * The chunk length follows design.md: the power of two in 64…256 that makes whole 2 MiB, else 64.
 */
enum err_code att_ctx_create(enum kern_isa isa, enum eng_kv_type kv_type,
                             const struct att_kv_shape *shapes, uint32_t n_layer,
                             struct eng_pool *pool, struct att_ctx **ret_c, struct err *e);
void att_ctx_destroy(struct att_ctx *c); /* NULL is legal */
uint32_t att_chunk_tok(const struct att_ctx *c);
size_t att_chunk_bytes(const struct att_ctx *c);   /* a multiple of 4 KiB */
size_t att_bytes_per_tok(const struct att_ctx *c); /* without padding */
/* A word that changes whenever the bytes a chunk holds would mean something else. */
uint64_t att_layout_id(const struct att_ctx *c);

/* The rows of one sequence in one layer of one step. */
struct att_slice {
    void *kv;     /* base of the sequence's range */
    uint32_t pos; /* position of row 0 */
    uint32_t n_tok;
    const float *q; /* [n_tok, n_head, d_k] f32 after RoPE, row stride ldq floats */
    const float *k; /* [n_tok, n_kv_head, d_k] f32 after RoPE; NULL: reuse what kv_layer holds */
    const float *v; /* [n_tok, n_kv_head, d_v] f32 */
    float *out;     /* [n_tok, n_head, d_v] f32, row stride ldo floats */
    size_t ldq;
    size_t ldk;
    size_t ldv;
    size_t ldo;
};

struct att_params {
    uint32_t kv_layer;  /* whose KV is read (and written when k is given) */
    uint32_t n_head;    /* a multiple of the layer's n_kv_head */
    float scale;        /* of q·k */
    float softcap;      /* 0: none; else cap · tanh(s / cap) before the mask */
    uint32_t window;    /* 0: full; else row i sees j with i - window < j <= i */
    const float *sinks; /* [n_head] logits that join the softmax without a value, or NULL */
    const float *alibi; /* [n_head] slopes: + slope · (j - i), or NULL */
    bool bidirectional; /* every row of the slice sees every row (encoders); window then is |i-j| <=
                           window/2 */
};

/* Writes the new rows' K and V, then computes attention for all slices. */
enum err_code att_forward(struct att_ctx *c, const struct att_params *p,
                          const struct att_slice *slices, uint32_t n_slice, struct err *e);

#endif
