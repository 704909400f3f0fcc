/* Inside attention: the layout of a chunk, and what one instruction set brings.
 *
 * Layout. Everything is rows of 64 bytes: 16 lanes of 4 bytes, so of q = 1 f32, 2 bf16 or 4 int8
 * values each.
 *   K of 16 tokens and one head: row i holds dimensions [i·q, i·q + q), one token per lane, padded
 *     with zeros to 32 dimensions (bf16, int8). For bf16 that is a B tile of AMX.
 *   V of 32 tokens and one head: for each 16 columns (one per lane) 32/q rows, row j holding tokens
 *     [j·q, j·q + q), zeros in the columns beyond d_v.
 *   int8: one bf16 scale per token for K, one for V.
 * A chunk is [layer][kv head]{K groups, V groups, K scales, V scales}, each for chunk_tok tokens.
 *
 * Work. The rows of one KV head (tokens × the query heads that share it, token-major) are taken in
 * blocks of up to ATT_ROWS, the keys in parts of ATT_SPLIT_TOK. A part gives each row the maximum m
 * of its scores (times log2 e), l = sum of 2^(score - m) and o = the values under those weights;
 * parts are merged in index order. What a row gets depends on its own visible range alone: masked
 * keys have weight exactly 0, and adding 0 · v changes no bit (v is finite: see att_kv_write). */
#ifndef ENGINE_KERNELS_ATTENTION_IMPL_H
#define ENGINE_KERNELS_ATTENTION_IMPL_H

#include "engine/engine.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ATT_SPLIT_TOK 512
#define ATT_ROWS      32
#define ATT_K_GROUP   16
#define ATT_V_GROUP   32
#define ATT_ROW_BYTES 64
/* The largest bf16: V is kept within. */
#define ATT_V_MAX 3.3895314e38F
#define ATT_LDS   (ATT_SPLIT_TOK + 16) /* row stride of scores: not a power of two */

/* One layer of one chunk. */
struct att_layer {
    uint32_t n_kv_head;
    uint32_t d_k;
    uint32_t d_v;
    uint32_t k_pad;    /* d_k with its padding */
    uint32_t k_rows;   /* 64-byte rows of a K group */
    uint32_t v_tiles;  /* of 16 columns */
    size_t off;        /* of the layer in its chunk */
    size_t head_bytes; /* from one head to the next */
    size_t v_off;      /* in a head; K is at 0 */
    size_t k_scale_off;
    size_t v_scale_off;
    size_t k_group_bytes; /* 16 tokens */
    size_t v_group_bytes; /* 32 tokens */
};

/* One block of rows against one part of the keys. Token indices are relative to the part. */
struct att_part {
    const struct att_layer *layer;
    const void *k[ATT_SPLIT_TOK / ATT_K_GROUP];
    const void *v[ATT_SPLIT_TOK / ATT_V_GROUP]; /* finite everywhere, also beyond the length */
    const uint16_t *k_scale[ATT_SPLIT_TOK / ATT_V_GROUP];
    const uint16_t *v_scale[ATT_SPLIT_TOK / ATT_V_GROUP];
    uint32_t tok0; /* position of token 0 */

    uint32_t n_row;          /* 1…ATT_ROWS */
    const void *q;           /* as prep_q made them */
    uint32_t pos[ATT_ROWS];  /* of each row's token */
    uint32_t lo[ATT_ROWS];   /* row i sees tokens [lo, hi); none where lo >= hi */
    uint32_t hi[ATT_ROWS];   /* at most ATT_SPLIT_TOK */
    float slope[ATT_ROWS];   /* alibi */
    uint32_t lo_min, hi_max; /* over the rows that see any */
    float scale;
    float softcap;
    bool alibi;

    float *m; /* out: [n_row], -INFINITY where nothing is seen */
    float *l; /* out: [n_row], 0 where nothing is seen */
    float *o; /* out: [n_row, v_tiles · 16] */
    void *scratch;
};

/* Lays one layer out; the offsets within a chunk of chunk_tok tokens. */
void att_layer_init(struct att_layer *layer, enum eng_kv_type type, uint32_t n_kv_head,
                    uint32_t d_k, uint32_t d_v, uint32_t chunk_tok);
/* Bytes of one token of one head, both planes. */
size_t att_layer_tok_bytes(const struct att_layer *layer, enum eng_kv_type type);
/* Writes K [d_k] and V [d_v] of token t of a chunk at `head` and touches that token's bytes alone.
 * bf16 rounds to nearest even. int8: scale = the largest magnitude / 127, rounded up to bf16.
 * What is not finite in V becomes ±3.39e38 (NaN: minus), so that weight 0 makes it 0. */
void att_kv_write(const struct att_layer *layer, enum eng_kv_type type, uint8_t *head, uint32_t t,
                  const float *k, const float *v);
/* 1 / the scale of an int8 row, and that scale as bf16: at least max |x| / 127; both 0 when it
 * would be denormal. */
float att_int8_inverse(const float *x, uint32_t n, uint16_t *ret_scale);
/* Copies a V group with tokens [n_tok, 32) zeroed. */
void att_v_group_copy(const struct att_layer *layer, enum eng_kv_type type, void *dst,
                      const void *src, uint32_t n_tok);

struct att_kernel {
    uint32_t arithmetic;   /* changes with the bits it gives */
    uint32_t q_elem_bytes; /* of prepared queries */
    /* Bytes of att_part.scratch, a multiple of 64. */
    size_t (*scratch_bytes)(const struct att_layer *layer);
    /* Called once before the blocks of a part, for tokens [lo, hi) of it: may make copies of K and
     * V in scratch and point the part there. NULL: nothing to do. */
    void (*stage)(struct att_part *a, uint32_t lo, uint32_t hi);
    /* Called after the parts of one item: switches the matrix unit off. */
    void (*release)(void);
    /* One row of d_k floats, padded with zeros to n_pad. */
    void (*prep_q)(void *dst, const float *q, uint32_t d_k, uint32_t n_pad);
    /* att_kv_write of tokens [t, t + 16), t a multiple of 16, with the same bytes; row strides ldk,
     * ldv floats. NULL: token by token. */
    void (*write16)(const struct att_layer *layer, uint8_t *head, uint32_t t, const float *k,
                    size_t ldk, const float *v, size_t ldv);
    void (*part)(const struct att_part *a);
    /* (m, l, o) += part, for n_row rows of n_col columns (a multiple of 16). */
    void (*merge)(uint32_t n_row, uint32_t n_col, float *m, float *l, float *o, const float *part_m,
                  const float *part_l, const float *part_o);
    /* One row: out[d_v] = o / l, with a sink (times log2 e; -INFINITY: none) in the sum. */
    void (*finish)(float *out, uint32_t d_v, float m, float l, const float *o, float sink);
};

/* NULL where the machine's family has none. */
const struct att_kernel *att_kernel_scalar(enum eng_kv_type type);
const struct att_kernel *att_kernel_avx2(enum eng_kv_type type);
const struct att_kernel *att_kernel_avx512(enum eng_kv_type type);
const struct att_kernel *att_kernel_amx(enum eng_kv_type type);

#endif
