/* Inside the forward pass: the step's state and the parts that blocks are made of. Private to
 * engine/forward*.c.
 *
 * Rows are the tokens of all slices, one after the other. After the last layer that writes KV, rows
 * that nobody wants logits of are dropped: n_row shrinks and the rest moves together. */
#ifndef ENGINE_FORWARD_PARTS_H
#define ENGINE_FORWARD_PARTS_H

#include "engine/forward.h"

struct fwd_slice {
    void *kv;
    void *state;
    uint32_t pos;  /* of its first row */
    uint32_t row0; /* index of its first row */
    uint32_t n_row;
    uint32_t n_out; /* its last n_out rows get logits */
    uint32_t adapter;
};

/* Scratch of a mixture of experts. A slot is one row's visit to one expert; slots are sorted by
 * expert, then by row. */
struct fwd_moe {
    float *router;         /* [n_tok, n_expert] scores */
    uint32_t *expert;      /* [n_tok, n_used] ids, ascending */
    float *weight;         /* [n_tok, n_used] */
    uint32_t *slot;        /* [n_tok, n_used] where that visit's result lies */
    uint32_t *slot_row;    /* [n_slot] */
    uint32_t *first;       /* [n_expert + 1] first slot of each expert */
    uint32_t *next;        /* [n_expert] while slots are laid */
    float *in;             /* [n_slot, n_embd]; n_slot is n_tok · n_used */
    float *gate;           /* [n_slot, n_ff_expert] */
    float *up;             /* [n_slot, n_ff_expert] */
    float *out;            /* [n_slot, n_embd] */
    struct gemm_act *acts; /* [n_expert] */
    struct gemm_job *jobs; /* [2 · n_expert] */
};

/* Scratch of layers with a state, [n_tok, …] each. */
struct fwd_ssm {
    float *in;   /* ld_in */
    float *conv; /* n_channel */
    float *gate; /* d_inner */
    float *dbc;  /* dt_rank + 2 · d_state */
    float *dt;   /* d_inner or n_head */
    float *beta; /* 2 · n_head */
    float *y;    /* d_inner: the layer's result before its last product */
};

/* Scratch of latent attention. */
struct fwd_mla {
    float *q_a;            /* [n_tok, q_rank] */
    float *q;              /* [n_tok, n_head · (d_nope + n_rot)] */
    float *out;            /* [n_tok, n_head · d_v] */
    struct gemm_act *acts; /* [n_head] */
    struct gemm_job *jobs; /* [n_head] */
};

/* y [n_row, n_out] = W x + b for up to FWD_JOB_MAX matrices that read the same x, one phase. */
#define FWD_JOB_MAX 4
struct fwd_product {
    const struct model_linear *lin;
    float *y;
    bool add; /* y += */
};

#define FWD_LORA_JOB_MAX 64

/* Scratch of adapters' products, in pairs: t = A x, which runs beside the products themselves, then
 * y += B t. */
struct fwd_lora {
    float *t; /* what goes between the two */
    size_t n_t;
    size_t n_t_max;
    uint32_t n_job;
    struct gemm_job down[FWD_LORA_JOB_MAX + FWD_JOB_MAX]; /* the products' own behind them */
    struct gemm_job up[FWD_LORA_JOB_MAX];
    struct gemm_act down_acts[FWD_LORA_JOB_MAX];
    struct gemm_act up_acts[FWD_LORA_JOB_MAX];
};

struct fwd {
    struct fwd_env env;
    uint32_t n_tok_max;
    uint32_t n_out_max;
    uint32_t last_memory_layer; /* the last that writes KV or a state */
    void *memory;               /* all scratch below, mapped */
    uint64_t memory_bytes;

    struct fwd_slice *slices;     /* [n_tok_max] */
    struct att_slice *att_slices; /* [n_tok_max] */
    uint32_t n_slice;
    uint32_t n_row;
    int32_t *token;                 /* [n_tok_max] */
    uint32_t *pos;                  /* [n_tok_max] */
    float *cos_sin[MODEL_ROPE_MAX]; /* [n_tok_max, n_rot] */

    float *x;            /* [n_tok_max, n_embd] the residual stream */
    float *h;            /* [n_tok_max, n_embd] normed, what attention reads */
    float *h_ffn;        /* [n_tok_max, n_embd] normed, what the FFN reads */
    float *y;            /* [n_tok_max, n_embd] what a part gives, before it is added */
    float *q;            /* [n_tok_max, n_head · d_k] */
    float *k;            /* [n_tok_max, n_head_kv · d_k] */
    float *v;            /* [n_tok_max, n_head_kv · d_v] */
    float *att;          /* [n_tok_max, n_head · d_v] */
    float *gate;         /* [n_tok_max, n_ff] */
    float *up;           /* [n_tok_max, n_ff] */
    float *logits;       /* [n_out_max, n_vocab] */
    struct gemm_act act; /* of whatever the next product reads */
    struct fwd_moe moe;
    struct fwd_mla mla;
    struct fwd_ssm ssm;
    struct fwd_lora *lora; /* NULL: no adapters were loaded */
    float *att_gate;       /* [n_tok_max, n_head · d_v] */
    float *layer_in;       /* [n_tok_max, n_layer · n_embd_layer] per-layer inputs */
    float *layer_embed;    /* the same, while they are made */
};

/* Runs fn for rows [0, n_row), spread over the pool by how many values a row has. */
typedef void (*fwd_row_fn)(const struct fwd *f, const void *arg, uint32_t row);
void fwd_rows(const struct fwd *f, uint32_t n_row, size_t n_value, fwd_row_fn fn, const void *arg);

/* y[g] = norm(x[g]) for n_group groups of n values of one row. */
void fwd_norm_row(const struct fwd *f, const struct model_norm *norm, float *y, const float *x,
                  uint32_t n, uint32_t n_group);
/* dst [n_row, n_embd] = norm(src). */
void fwd_norm(const struct fwd *f, const struct model_norm *norm, float *dst, const float *src);

enum err_code fwd_products(struct fwd *f, const float *x, uint32_t n_row,
                           const struct fwd_product *products, uint32_t n_product, struct err *e);

/* Runs jobs, the products of rows [row0, row0 + n_row), and adds what those rows' adapters give. x
 * and y begin with row0. */
enum err_code fwd_lora_products(struct fwd *f, const float *x, uint32_t row0, uint32_t n_row,
                                const struct fwd_product *products, const struct gemm_job *jobs,
                                uint32_t n_product, struct err *e);
enum err_code fwd_lora_create(struct fwd *f, struct err *e);
void fwd_lora_destroy(struct fwd *f);

/* y [n_row, n_out] = W x + b, rows of x ldx floats apart. */
enum err_code fwd_product_strided(struct fwd *f, const struct model_linear *lin, const float *x,
                                  size_t ldx, uint32_t n_row, float *y, struct err *e);

/* Keeps the rows that get logits, n values of each of `rows` among them: nothing after the last
 * layer with a memory reads the others. */
void fwd_drop_rows(struct fwd *f, float *rows, size_t n);
/* A layer with a state on h: its result, before its last product, in f->ssm.y. */
enum err_code fwd_ssm_layer(struct fwd *f, uint32_t il, const float *h, struct err *e);

/* Softmax attention of f->q on each sequence's KV, which f->k and v (rows ldv floats apart) join
 * first; results in f->att. Drops rows after the last layer that writes KV. */
enum err_code fwd_attend(struct fwd *f, uint32_t il, const float *v, size_t ldv, struct err *e);
/* Attention of layer il on h: its heads' results in f->att; latent attention's in f->mla.out. */
enum err_code fwd_attention(struct fwd *f, uint32_t il, const float *h, struct err *e);
enum err_code fwd_mla_attention(struct fwd *f, uint32_t il, const float *h, struct err *e);
/* dst [n_row, n_embd] = FFN(h); add: += instead. */
enum err_code fwd_ffn(struct fwd *f, const struct model_ffn *ffn, const float *h, float *dst,
                      bool add, struct err *e);
/* f->y = the experts' weighted sum, shared expert included. */
enum err_code fwd_moe(struct fwd *f, const struct model_layer *l, const float *h, struct err *e);
/* Per-layer inputs of all rows from f->x, the embeddings; then, after each block, its share. */
enum err_code fwd_layer_inputs(struct fwd *f, struct err *e);
enum err_code fwd_layer_input(struct fwd *f, uint32_t il, struct err *e);
/* One row of a matrix that stayed in the mapped file, as f32. */
void fwd_file_row(const struct gguf_tensor *t, uint64_t row, float *dst);
/* f->x = block il of f->x. */
enum err_code fwd_block(struct fwd *f, uint32_t il, struct err *e);

/* gate = act(gate) · up for n values; up NULL: gate = act(gate). up may change. */
void fwd_activate(const struct fwd *f, float *gate, float *up, uint32_t n);

#endif
