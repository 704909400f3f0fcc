/* A model: what its metadata says (struct model, struct model_layer) and its tensors, ready to run.
 * Metadata and the tensors that are there decide everything; a model's name decides nothing. Built
 * by one thread at load, read-only afterwards.
 *
 * Shapes in comments are row-major, [out, in] for matrices: a GGUF tensor with ne = [in, out]. */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include "base/err.h"
#include "base/hash.h"
#include "engine/engine.h"
#include "engine/gguf.h"
#include "engine/kernels/attention.h"
#include "engine/kernels/gemm.h"
#include "engine/kernels/vector.h"
#include "engine/rope.h"

#include <stdbool.h>
#include <stdint.h>

#define MODEL_LAYER_MAX  1024
#define MODEL_HEAD_MAX   1024
#define MODEL_EXPERT_MAX 1024
#define MODEL_ROPE_MAX   2

/* y = norm(x) · w + b. */
struct model_norm {
    float *w; /* [n] or [n_group, n]; NULL: no weight */
    float *b; /* [n]; NULL: no bias */
    bool present;
    bool per_group; /* w is [n_group, n]: each head has its own */
};

/* y = W x + b. */
struct model_linear {
    struct gemm_weight w; /* [n_out, n_in]; data NULL: absent */
    float *b;             /* [n_out] or NULL */
    uint32_t lora_id;     /* 1 + its place in an adapter's pairs; 0: no adapter changes it */
};

enum model_act { MODEL_ACT_SILU, MODEL_ACT_GELU, MODEL_ACT_RELU_SQR, MODEL_ACT_SWIGLU_OAI };

/* down(act(gate x) · up x), or down(act(up x)) without a gate. */
struct model_ffn {
    uint32_t n_ff;
    struct model_linear gate; /* [n_ff, n_embd] or absent */
    struct model_linear up;   /* [n_ff, n_embd] */
    struct model_linear down; /* [n_embd, n_ff] */
};

enum model_gating {
    MODEL_GATING_SOFTMAX,          /* over all experts, then the best are taken */
    MODEL_GATING_SIGMOID,          /* each expert by itself */
    MODEL_GATING_SOFTMAX_SELECTED, /* the best are taken, then softmax over those */
};

/* A mixture of experts: the router scores all, each row runs through n_used of them. */
struct model_moe {
    struct model_linear router; /* [n_expert, n_embd] */

    float *select_bias;        /* [n_expert] added for the selection alone, or NULL */
    struct model_linear *gate; /* [n_expert] of [n_ff, n_embd] */
    struct model_linear *up;   /* [n_expert] of [n_ff, n_embd] */
    struct model_linear *down; /* [n_expert] of [n_embd, n_ff] */

    struct model_ffn shared;         /* runs for every row; up absent: none */
    struct model_linear shared_gate; /* [1, n_embd]: sigmoid of it scales the shared part */
};

/* Multi-head latent attention: K and V of all heads are read from one latent row per token. */
struct model_mla {
    struct model_linear q_a;   /* [q_rank, n_embd] or absent: then q alone */
    struct model_norm q_norm;  /* [q_rank] */
    struct model_linear kv_a;  /* [kv_rank + n_rot, n_embd] */
    struct model_norm kv_norm; /* [kv_rank] */
    struct model_linear *k_b;  /* [n_head] of [kv_rank, d_nope]: carries q into the latent space */
    struct model_linear *v_b;  /* [n_head] of [d_v, kv_rank]: carries the result out of it */
    uint32_t n_head;
    uint32_t d_nope; /* values of a head of Q that do not turn; n_rot that do follow */
    uint32_t d_v;    /* values of one head of the result */
};

enum model_ssm_kind {
    MODEL_SSM_MAMBA,
    MODEL_SSM_MAMBA2,
    MODEL_SSM_SHORT_CONV,
    MODEL_SSM_DELTA_NET
};

#define SSM_STATE_MAX 1024

/* A layer with a state in place of attention. Channels are what its convolution runs over. */
struct model_ssm {
    enum model_ssm_kind kind;
    uint32_t d_conv; /* taps */
    uint32_t d_inner;
    uint32_t d_state;
    uint32_t dt_rank;
    uint32_t n_head;    /* Mamba 2, delta net (of V) */
    uint32_t n_group;   /* heads that share B and C; delta net: heads of Q and K */
    uint32_t n_channel; /* of the convolution */
    uint32_t ld_in;     /* values of a row of `in` */
    uint32_t conv_at;   /* where the channels begin in it */
    bool conv_silu;
    bool norm_dbc; /* Mamba: dt, B and C are normed */
    bool
        heads_tiled; /* delta net: V head i goes with K head i mod n_group, not i / (n / n_group) */
    size_t conv_offset;       /* bytes into a sequence's state: [d_conv - 1, n_channel] f32 */
    size_t scan_offset;       /* [n_head, d_state, d_head] or [d_state, d_inner] f32 */
    struct model_linear in;   /* [ld_in, n_embd] */
    struct model_linear gate; /* delta net [d_inner, n_embd] */
    struct model_linear beta; /* delta net [n_head, n_embd]; without alpha: [2 · n_head, n_embd] */
    struct model_linear alpha; /* delta net [n_head, n_embd] or absent */
    struct model_linear x;     /* Mamba [dt_rank + 2 · d_state, d_inner] */
    struct model_linear dt;    /* Mamba [d_inner, dt_rank] */
    float *conv;               /* [d_conv, n_channel] */
    float *conv_b;             /* [n_channel] or NULL */
    float *dt_b;               /* [n_head] */
    float *a;                  /* [n_head], or Mamba [d_state, d_inner] */
    float *d;                  /* [n_head], or Mamba [d_inner] */
    struct model_norm norm;  /* Mamba 2: each group's, of d_inner / n_group; delta net: [d_state] */
    struct model_linear out; /* [n_embd, d_inner] */
};

/* Per-layer input embeddings (Gemma 3n and 4). */
struct model_layer_input {
    struct model_linear gate; /* [n_embd_layer, n_embd] */
    struct model_linear proj; /* [n_embd, n_embd_layer] */
    struct model_norm norm;   /* [n_embd] */
};

struct model_layer {
    /* from metadata */
    uint32_t n_head;
    uint32_t n_head_kv;
    uint32_t d_k; /* values of one head of Q and K */
    uint32_t d_v; /* values of one head of V */
    uint32_t n_ff;
    uint32_t window;   /* 0: sees all before it */
    int rope;          /* index into model.ropes; -1: none */
    uint32_t kv_layer; /* whose K and V it reads: its own index unless shared */
    bool is_moe;
    /* tensors */
    struct model_norm attn_norm; /* [n_embd] */
    struct model_linear q;       /* [n_head · d_k, n_embd] */
    struct model_linear k;       /* [n_head_kv · d_k, n_embd] */
    struct model_linear v;       /* [n_head_kv · d_v, n_embd]; absent: V is K before its norm */
    struct model_norm q_norm;    /* [d_k] of each head, or [n_head · d_k] at once */
    struct model_norm k_norm;    /* [d_k] of each head, or [n_head_kv · d_k] at once */
    struct model_linear o;       /* [n_embd, n_head · d_v] */
    float *sinks;                /* [n_head] or NULL */
    struct model_norm post_attn_norm; /* [n_embd], on attention's result */
    struct model_norm attn_sum_norm;  /* [n_embd], on the residual after attention (BERT) */
    struct model_norm ffn_norm;       /* [n_embd] */
    struct model_ffn ffn;
    struct model_norm post_ffn_norm; /* [n_embd], on the FFN's result */
    struct model_norm ffn_sum_norm;  /* [n_embd], on the residual after the FFN (BERT) */
    struct model_moe *moe;           /* NULL unless is_moe */
    struct model_mla *mla;           /* NULL unless the architecture has it */
    struct model_ssm *ssm;           /* in place of attention, or NULL */
    struct model_linear attn_gate;   /* [n_head · d_v, n_embd]: sigmoid of it scales attention's
                                        result; absent: none */
    struct model_layer_input *input; /* NULL unless the architecture has it */
    float out_scale;                 /* multiplies the block's result; 1: none */
};

enum model_qk_norm { MODEL_QK_NORM_NONE, MODEL_QK_NORM_HEAD, MODEL_QK_NORM_FULL };

struct arch;

struct model {
    const struct arch *arch;
    /* sizes */
    uint32_t n_layer;
    uint32_t n_embd;
    uint32_t n_vocab;
    uint32_t n_ctx_train;
    uint32_t n_ctx; /* the longest sequence of this run */
    /* how blocks are put together; the architecture's own reader sets what differs from llama */
    bool layernorm;            /* LayerNorm instead of RMSNorm */
    float norm_eps;            /* of either */
    bool pre_norm;             /* attention and FFN read a normed residual */
    bool sum_norm;             /* attn_sum_norm and ffn_sum_norm on the residual after each */
    bool encoder;              /* attention sees both ways; there are no logits */
    bool first_layer_unnormed; /* block 0 may lack attn_norm: the embedding is normed already */
    enum eng_pooling pooling;
    bool post_norm;       /* post_attn_norm and post_ffn_norm on what they give */
    bool parallel;        /* attention and FFN read the same residual */
    bool ffn_norm_shared; /* a parallel FFN without a norm of its own reads attention's */
    bool ffn_gated;       /* the FFN has a gate */
    bool gate_up_fused;   /* ffn_up holds gate rows, then up rows */
    enum model_act act;   /* of the FFN */
    enum model_qk_norm qk_norm;
    bool qk_norm_after_rope;
    bool v_norm;            /* weightless RMSNorm on each head of V */
    float attn_scale;       /* of q·k; 0: 1/sqrt(d_k) */
    float attn_softcap;     /* 0: none */
    float attn_clamp;       /* Q, K, V are clamped to ± this; 0: none */
    bool learned_positions; /* a row per position is added to the embedding */
    float alibi_bias_max;   /* 0: no ALiBi */
    float attn_temp_scale; /* Q grows by 1 + scale · ln(1 + floor(pos / attn_temp_len)); 0: none */
    uint32_t attn_temp_len;
    float embed_scale;           /* of token embeddings */
    float residual_scale;        /* of what attention and FFN add */
    float logit_scale;           /* of logits */
    float final_softcap;         /* 0: none */
    const char *final_norm_name; /* tensor of the last norm */
    const char *ffn_norm_name;   /* tensor of the FFN's norm, in a block */
    struct rope_params rope_params[MODEL_ROPE_MAX];
    uint32_t n_rope;
    /* mixture of experts */
    uint32_t n_expert; /* 0: none */
    uint32_t n_expert_used;
    uint32_t n_ff_expert;
    uint32_t n_ff_shared; /* 0: no shared expert */
    uint32_t n_expert_group;
    uint32_t n_expert_group_used;
    enum model_gating gating;
    bool expert_weights_norm;   /* divide by their sum */
    float expert_weights_scale; /* then multiply */
    /* layers with a state */
    bool q_gated;       /* Q's projection holds, head by head, Q and attn_gate */
    bool no_ffn;        /* blocks are one part alone */
    size_t state_bytes; /* of one sequence */
    /* latent attention */
    uint32_t q_rank;  /* 0: Q is projected in one step */
    uint32_t kv_rank; /* 0: no latent attention */
    uint32_t d_nope;
    uint32_t d_v_mla;
    /* per-layer inputs */
    uint32_t n_embd_layer; /* 0: none */
    /* tensors */
    struct model_layer *layers; /* [n_layer] */
    struct rope ropes[MODEL_ROPE_MAX];
    const struct gguf_tensor *embed;       /* [n_vocab, n_embd], in the mapped file */
    bool tied;                             /* the output matrix is the embedding */
    float *pos_embed;                      /* [n_ctx_train, n_embd] learned positions, or NULL */
    float *type_embed;                     /* [n_embd] of the first token type, or NULL */
    struct model_norm embed_norm;          /* [n_embd], on embeddings */
    struct model_norm final_norm;          /* [n_embd] */
    struct model_linear output;            /* [n_vocab, n_embd] */
    float *alibi;                          /* [n_head] slopes or NULL */
    const struct gguf_tensor *layer_embed; /* [n_vocab, n_layer · n_embd_layer], in the file */
    struct model_linear layer_embed_proj;  /* [n_layer · n_embd_layer, n_embd] */
    struct model_norm layer_embed_norm;    /* [n_embd_layer] */
    /* facts */
    uint64_t n_param;
    uint64_t weights_bytes;
    bool floats_only;             /* every matrix is F32 or F16 */
    bool rope_is_long;            /* the long of two sets of factors was chosen, for n_ctx */
    uint8_t digest[SHA256_BYTES]; /* of all that shapes K and V */
};

/* Reads and checks the metadata alone. n_ctx 0: the trained length. */
enum err_code model_read_params(const struct gguf *f, uint32_t n_ctx, struct model **ret_m,
                                struct err *e);
/* Packs the tensors; source pages are given back one by one. Every tensor of the file must have
 * found its place: what this engine does not know is an error, never ignored. */
enum err_code model_load_tensors(struct model *m, const struct gguf *f, struct gemm_ctx *gemm,
                                 struct eng_pool *pool, const struct eng_options *options,
                                 struct err *e);
void model_destroy(struct model *m); /* NULL is legal */

#endif
