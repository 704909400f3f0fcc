/* The default model's shape and its training step: a llama block forward and backward, bf16
 * products, f32 sums. */
#ifndef DEMO_MODEL_H
#define DEMO_MODEL_H

#include "mm.h"

enum {
    DIM = 256,
    HEAD = 64,
    N_HEAD = 4,
    N_KV = 2,
    QKV = (N_HEAD + 2 * N_KV) * HEAD,
    OUT = N_HEAD * HEAD,
    FFN = 640,
    GATE_UP = 2 * FFN,
    N_LAYER = 6,
    VOCAB = 3072,
    MAX_LEN = 4096,
    MAX_UNIT = 4096, /* tokens of one unit of work */
    PAD_T = 32,      /* columns added to transposed copies, against cache aliasing */
};

#define ROPE_BASE 1e6
#define NORM_EPS  1e-5f

/* Offsets into one flat array of f32: weights, gradients and moments share this layout. */
struct layer_at {
    size_t norm1, qkv, out, norm2, gate_up, down;
};
struct model_at {
    size_t embed, norm, n_param;
    struct layer_at layer[N_LAYER];
};
struct model_at model_layout(void);

/* The weights of one step as operands: w for y = x W^T, wt for dx = dy W. */
struct packed {
    uint32_t *w, *wt;
};
struct model {
    struct model_at at;
    float *param;
    uint32_t *w, *wt;     /* by the same offsets, two weights per word */
    float *cosine, *sine; /* [MAX_LEN, HEAD / 2] */
};
int model_alloc(struct model *m);
void model_init(struct model *m, uint64_t seed);
/* Rounds and packs one matrix [rows, cols] at an offset, after the optimizer changed it. */
void model_pack(struct model *m, size_t at, size_t rows, size_t cols, bf16 *scratch);
void model_pack_all(struct model *m);

/* What a thread needs for one unit: rows of len tokens, rows * len <= MAX_UNIT, a multiple of 256.
 */
struct unit {
    uint32_t n_row, len, tag;
    uint16_t *token; /* [n_row * len] */
    uint8_t
        *weight; /* [n_row * len]: loss for predicting this token from those before it, in 1/16 */
};
struct work;
struct work *work_new(void);
/* Adds the gradient of sum(weight * loss) / denom to grad; returns the sums of loss, weight, and
 * right guesses. */
struct loss {
    double loss, weight, right;
};
struct loss model_step(const struct model *m, struct work *w, const struct unit *u, float *grad,
                       float scale);

/* attn.c: one row of len tokens. q, k, v are columns of qkv [len, QKV] bf16, rotated. */
struct attn_work;
struct attn_work *attn_work_new(void);
void attn_forward(struct attn_work *w, const bf16 *qkv, size_t len, bf16 *out, float *lse);
void attn_backward(struct attn_work *w, const bf16 *qkv, const bf16 *out, const bf16 *d_out,
                   const float *lse, size_t len, float *d_qkv);

void *must_alloc(size_t bytes);

#endif
