#include "base/log.h"
#include "engine/arch/arch.h"
#include "engine/model.h"
#include "engine/quant/formats.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_BYTES 96
#define SHOWN_MAX      64

/* Loading in progress. The first fault is kept and everything after it does nothing, so that a list
 * of tensors reads as a list. */
struct loader {
    struct model *m;
    const struct gguf *f;
    struct gemm_ctx *gemm;
    const struct eng_options *options;
    bool *used; /* [n_tensor] */
    uint64_t done_bytes;
    uint64_t total_bytes;
    enum err_code code;
    struct err *e;
};

/* The name of a tensor of block il, or of the whole model when il < 0. */
static const char *tensor_name(char out[NAME_MAX_BYTES], int il, const char *name,
                               const char *suffix)
{
    if (il < 0) {
        snprintf(out, NAME_MAX_BYTES, "%s%s", name, suffix);
    } else {
        snprintf(out, NAME_MAX_BYTES, "blk.%d.%s%s", il, name, suffix);
    }
    return out;
}

static bool has(const struct loader *L, int il, const char *name)
{
    char full[NAME_MAX_BYTES];
    return gguf_find_tensor(L->f, tensor_name(full, il, name, "")) != NULL;
}

static void mark_used(struct loader *L, const struct gguf_tensor *t)
{
    L->used[t - gguf_tensor_at(L->f, 0)] = true;
}

/* Finds a tensor and checks its shape: rows of ne0 values, ne1 of them, ne2 such matrices. NULL
 * when it is not there or something is wrong already. */
static const struct gguf_tensor *take(struct loader *L, const char *full, uint64_t ne0,
                                      uint64_t ne1, uint64_t ne2, bool required)
{
    if (L->code) {
        return NULL;
    }
    const struct gguf_tensor *t = gguf_find_tensor(L->f, full);
    if (!t) {
        if (required) {
            L->code = err_set(L->e, ERR_CORRUPT, "missing tensor %s", full);
        }
        return NULL;
    }
    if (t->ne[0] != ne0 || t->ne[1] != ne1 || t->ne[2] != ne2 || t->ne[3] != 1) {
        L->code = err_set(L->e, ERR_CORRUPT,
                          "tensor %s has shape [%llu, %llu, %llu], expected [%llu, %llu, %llu]",
                          full, (unsigned long long)t->ne[0], (unsigned long long)t->ne[1],
                          (unsigned long long)t->ne[2], (unsigned long long)ne0,
                          (unsigned long long)ne1, (unsigned long long)ne2);
        return NULL;
    }
    const struct quant_format *format = quant_format_of(t->type);
    if (!format || !format->dequant) {
        L->code = err_set(L->e, ERR_UNSUPPORTED, "tensor %s has type %s, which is not supported",
                          full, format ? format->name : "of an unknown number");
        return NULL;
    }
    mark_used(L, t);
    return t;
}

/* The tensor's bytes are packed or copied: its pages may go. */
static void done_with(struct loader *L, const struct gguf_tensor *t)
{
    gguf_release_pages(L->f, t);
    L->done_bytes += t->n_byte;
    if (L->options->progress) {
        L->options->progress(L->options->progress_arg, L->done_bytes, L->total_bytes);
    }
}

/* n values from `from` on, as f32 of the caller's. */
static float *copy_f32(struct loader *L, const struct gguf_tensor *t, uint64_t from, uint64_t n)
{
    const struct quant_format *format = quant_format_of(t->type);
    if (from % format->n_block_elem || n % format->n_block_elem) {
        L->code = err_set(L->e, ERR_CORRUPT, "tensor %.*s cannot be split within a block",
                          (int)t->name.n, t->name.s);
        return NULL;
    }
    float *v = malloc(n * sizeof *v);
    if (!v) {
        L->code = err_set(L->e, ERR_NOMEM, "out of memory for %llu values of tensor %.*s",
                          (unsigned long long)n, (int)t->name.n, t->name.s);
        return NULL;
    }
    const char *src = t->data;
    format->dequant(src + from / format->n_block_elem * format->n_block_byte, v, n);
    return v;
}

/* [n] f32, or NULL when optional and absent. */
static float *load_vector(struct loader *L, const char *full, uint64_t n, bool required)
{
    const struct gguf_tensor *t = take(L, full, n, 1, 1, required);
    float *v = t ? copy_f32(L, t, 0, n) : NULL;
    if (v) {
        done_with(L, t);
    }
    return v;
}

/* A norm over n values: weight, and bias where there is one. */
static void load_norm(struct loader *L, int il, const char *name, uint32_t n,
                      struct model_norm *norm, bool required)
{
    char full[NAME_MAX_BYTES];
    norm->w = load_vector(L, tensor_name(full, il, name, ".weight"), n, required);
    norm->b = load_vector(L, tensor_name(full, il, name, ".bias"), n, false);
    norm->present = norm->w != NULL;
}

/* Packs rows [row0, row0 + n_out) of matrix `slab` of t. */
static void pack_rows(struct loader *L, const struct gguf_tensor *t, uint32_t slab, uint32_t row0,
                      uint32_t n_out, struct gemm_weight *w)
{
    if (L->code) {
        return;
    }
    const struct quant_format *format = quant_format_of(t->type);
    size_t row_bytes = t->ne[0] / format->n_block_elem * format->n_block_byte;
    const char *src = t->data;
    src += (slab * t->ne[1] + row0) * row_bytes;
    struct err cause;
    enum err_code code =
        gemm_weight_pack(L->gemm, t->type, n_out, (uint32_t)t->ne[0], src, w, &cause);
    if (code) {
        L->code = err_set(L->e, code, "tensor %.*s: %s", (int)t->name.n, t->name.s, cause.msg);
        return;
    }
    if (t->type != GGUF_TYPE_F32 && t->type != GGUF_TYPE_F16) {
        L->m->floats_only = false;
    }
}

static void load_linear(struct loader *L, int il, const char *name, uint32_t n_out, uint32_t n_in,
                        struct model_linear *lin, bool required)
{
    char full[NAME_MAX_BYTES];
    tensor_name(full, il, name, ".weight");
    const struct gguf_tensor *t = take(L, full, n_in, n_out, 1, required);
    if (!t) {
        return;
    }
    pack_rows(L, t, 0, 0, n_out, &lin->w);
    if (!L->code) {
        done_with(L, t);
    }
    lin->b = load_vector(L, tensor_name(full, il, name, ".bias"), n_out, false);
}

/* One tensor that holds the rows of several matrices, in order; its bias likewise. */
static void load_fused(struct loader *L, int il, const char *name, const uint32_t *n_outs,
                       struct model_linear *const *lins, uint32_t n_lin, uint32_t n_in)
{
    uint32_t n_out = 0;
    for (uint32_t i = 0; i < n_lin; i++) {
        n_out += n_outs[i];
    }
    char full[NAME_MAX_BYTES];
    const struct gguf_tensor *t =
        take(L, tensor_name(full, il, name, ".weight"), n_in, n_out, 1, true);
    const struct gguf_tensor *b = take(L, tensor_name(full, il, name, ".bias"), n_out, 1, 1, false);
    uint32_t row0 = 0;
    for (uint32_t i = 0; t && i < n_lin; i++) {
        pack_rows(L, t, 0, row0, n_outs[i], &lins[i]->w);
        if (b && !L->code) {
            lins[i]->b = copy_f32(L, b, row0, n_outs[i]);
        }
        row0 += n_outs[i];
    }
    if (t && !L->code) {
        done_with(L, t);
    }
    if (b && !L->code) {
        done_with(L, b);
    }
}

/* Q or K norm: of each head (shared or its own weights), or over the whole projection. */
static void load_qk_norm(struct loader *L, int il, const char *name, uint32_t n_head, uint32_t d,
                         struct model_norm *norm)
{
    char full[NAME_MAX_BYTES];
    if (L->m->qk_norm == MODEL_QK_NORM_NONE) {
        return;
    }
    if (L->m->qk_norm == MODEL_QK_NORM_FULL) {
        load_norm(L, il, name, n_head * d, norm, true);
        return;
    }
    const struct gguf_tensor *t = gguf_find_tensor(L->f, tensor_name(full, il, name, ".weight"));
    if (!t || t->ne[1] == 1) {
        load_norm(L, il, name, d, norm, false);
        return;
    }
    t = take(L, full, d, n_head, 1, true);
    norm->w = t ? copy_f32(L, t, 0, t->n_elem) : NULL;
    norm->present = norm->w != NULL;
    norm->per_group = true;
    if (norm->w) {
        done_with(L, t);
    }
}

static void load_qkv(struct loader *L, int il, struct model_layer *l)
{
    struct model *m = L->m;
    uint32_t n_q = l->n_head * l->d_k;
    uint32_t n_k = l->n_head_kv * l->d_k;
    uint32_t n_v = l->n_head_kv * l->d_v;
    if (has(L, il, "attn_qkv.weight")) {
        load_fused(L, il, "attn_qkv", (const uint32_t[]){n_q, n_k, n_v},
                   (struct model_linear *const[]){&l->q, &l->k, &l->v}, 3, m->n_embd);
    } else {
        load_linear(L, il, "attn_q", n_q, m->n_embd, &l->q, true);
        if (l->kv_layer == (uint32_t)il) {
            load_linear(L, il, "attn_k", n_k, m->n_embd, &l->k, true);
            load_linear(L, il, "attn_v", n_v, m->n_embd, &l->v, !m->v_norm);
        }
    }
    load_qk_norm(L, il, "attn_q_norm", l->n_head, l->d_k, &l->q_norm);
    if (l->kv_layer == (uint32_t)il) {
        load_qk_norm(L, il, "attn_k_norm", l->n_head_kv, l->d_k, &l->k_norm);
    }
}

static void load_ffn(struct loader *L, int il, const char *suffix, uint32_t n_ff,
                     struct model_ffn *ffn)
{
    struct model *m = L->m;
    char gate[32];
    char up[32];
    char down[32];
    snprintf(gate, sizeof gate, "ffn_gate%s", suffix);
    snprintf(up, sizeof up, "ffn_up%s", suffix);
    snprintf(down, sizeof down, "ffn_down%s", suffix);
    ffn->n_ff = n_ff;
    if (m->gate_up_fused) {
        load_fused(L, il, up, (const uint32_t[]){n_ff, n_ff},
                   (struct model_linear *const[]){&ffn->gate, &ffn->up}, 2, m->n_embd);
    } else {
        load_linear(L, il, gate, n_ff, m->n_embd, &ffn->gate, m->ffn_gated);
        load_linear(L, il, up, n_ff, m->n_embd, &ffn->up, true);
    }
    load_linear(L, il, down, m->n_embd, n_ff, &ffn->down, true);
}

/* n_expert matrices in one tensor, and their biases. */
static void load_expert_stack(struct loader *L, int il, const char *name, uint32_t n_out,
                              uint32_t n_in, struct model_linear *lins)
{
    uint32_t n = L->m->n_expert;
    char full[NAME_MAX_BYTES];
    const struct gguf_tensor *t =
        take(L, tensor_name(full, il, name, ".weight"), n_in, n_out, n, true);
    const struct gguf_tensor *b = take(L, tensor_name(full, il, name, ".bias"), n_out, n, 1, false);
    for (uint32_t i = 0; i < n && !L->code; i++) {
        pack_rows(L, t, i, 0, n_out, &lins[i].w);
        if (b && !L->code) {
            lins[i].b = copy_f32(L, b, (uint64_t)i * n_out, n_out);
        }
    }
    if (!L->code) {
        done_with(L, t);
    }
    if (b && !L->code) {
        done_with(L, b);
    }
}

static void load_moe(struct loader *L, int il, struct model_layer *l)
{
    struct model *m = L->m;
    struct model_moe *moe = calloc(1, sizeof *moe);
    struct model_linear *lins = calloc(3ull * m->n_expert, sizeof *lins);
    if (!moe || !lins) {
        free(moe);
        free(lins);
        L->code = L->code ? L->code : err_set(L->e, ERR_NOMEM, "out of memory for experts");
        return;
    }
    l->moe = moe;
    moe->gate = lins;
    moe->up = lins + m->n_expert;
    moe->down = lins + 2ull * m->n_expert;
    char full[NAME_MAX_BYTES];
    load_linear(L, il, "ffn_gate_inp", m->n_expert, m->n_embd, &moe->router, true);
    moe->select_bias =
        load_vector(L, tensor_name(full, il, "exp_probs_b", ".bias"), m->n_expert, false);
    load_expert_stack(L, il, "ffn_gate_exps", m->n_ff_expert, m->n_embd, moe->gate);
    load_expert_stack(L, il, "ffn_up_exps", m->n_ff_expert, m->n_embd, moe->up);
    load_expert_stack(L, il, "ffn_down_exps", m->n_embd, m->n_ff_expert, moe->down);
    if (m->n_ff_shared) {
        load_ffn(L, il, "_shexp", m->n_ff_shared, &moe->shared);
        load_linear(L, il, "ffn_gate_inp_shexp", 1, m->n_embd, &moe->shared_gate, false);
    }
}

static void load_block(struct loader *L, int il)
{
    struct model *m = L->m;
    struct model_layer *l = &m->layers[il];
    char full[NAME_MAX_BYTES];
    load_norm(L, il, "attn_norm", m->n_embd, &l->attn_norm, m->pre_norm);
    load_qkv(L, il, l);
    load_linear(L, il, "attn_output", m->n_embd, l->n_head * l->d_v, &l->o, true);
    l->sinks = load_vector(L, tensor_name(full, il, "attn_sinks", ".weight"), l->n_head, false);
    if (m->post_norm) {
        load_norm(L, il, "post_attention_norm", m->n_embd, &l->post_attn_norm, true);
        load_norm(L, il, "post_ffw_norm", m->n_embd, &l->post_ffn_norm, true);
    }
    load_norm(L, il, m->ffn_norm_name, m->n_embd, &l->ffn_norm, m->pre_norm && !m->ffn_norm_shared);
    if (l->is_moe) {
        load_moe(L, il, l);
    } else {
        load_ffn(L, il, "", l->n_ff, &l->ffn);
    }
}

/* The one-per-model tensors before the blocks. */
static void load_embeddings(struct loader *L)
{
    struct model *m = L->m;
    m->embed = take(L, "token_embd.weight", m->n_embd, m->n_vocab, 1, true);
    m->tied = !has(L, -1, "output.weight");
}

static void load_ropes(struct loader *L)
{
    struct model *m = L->m;
    uint32_t n_pair = m->rope_params[0].n_rot / 2;
    bool is_long = m->n_ctx > m->rope_params[0].n_ctx_orig;
    float *llama3 = load_vector(L, "rope_freqs.weight", n_pair, false);
    float *longs = load_vector(L, "rope_factors_long.weight", n_pair, false);
    float *shorts = load_vector(L, "rope_factors_short.weight", n_pair, false);
    m->rope_params[0].freq_factors = llama3 ? llama3 : is_long ? longs : shorts;
    for (uint32_t i = 0; i < m->n_rope && !L->code; i++) {
        L->code = rope_init(&m->ropes[i], &m->rope_params[i], L->e);
    }
    m->rope_params[0].freq_factors = NULL;
    free(llama3);
    free(longs);
    free(shorts);
}

static void load_output(struct loader *L)
{
    struct model *m = L->m;
    char full[NAME_MAX_BYTES];
    load_norm(L, -1, m->final_norm_name, m->n_embd, &m->final_norm, true);
    if (!m->tied) {
        load_linear(L, -1, "output", m->n_vocab, m->n_embd, &m->output, true);
        return;
    }
    if (!L->code) {
        pack_rows(L, m->embed, 0, 0, m->n_vocab, &m->output.w);
    }
    if (!L->code) {
        done_with(L, m->embed);
    }
    m->output.b = load_vector(L, tensor_name(full, -1, "output", ".bias"), m->n_vocab, false);
}

/* What the engine does not know could change every answer: refuse it. */
static void refuse_unused(struct loader *L)
{
    unsigned n_layer = L->m->n_layer;
    for (uint64_t i = 0; i < gguf_n_tensor(L->f) && !L->code; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(L->f, i);
        char name[SHOWN_MAX];
        snprintf(name, sizeof name, "%.*s", (int)(t->name.n < SHOWN_MAX ? t->name.n : SHOWN_MAX),
                 t->name.s);
        unsigned il;
        if (L->used[i] || (sscanf(name, "blk.%u.", &il) == 1 && il >= n_layer)) {
            continue; /* blocks beyond the last predict further tokens; not run */
        }
        L->code = err_set(L->e, ERR_UNSUPPORTED,
                          "tensor %s has no place in architecture %s as this version knows it",
                          name, L->m->arch->name);
    }
}

static void count_weights(struct loader *L)
{
    for (uint64_t i = 0; i < gguf_n_tensor(L->f); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(L->f, i);
        L->total_bytes += t->n_byte;
        L->m->n_param += t->n_elem;
    }
    L->m->weights_bytes = L->total_bytes;
}

enum err_code model_load_tensors(struct model *m, const struct gguf *f, struct gemm_ctx *gemm,
                                 const struct eng_options *options, struct err *e)
{
    struct loader L = {.m = m, .f = f, .gemm = gemm, .options = options, .e = e};
    L.used = calloc(gguf_n_tensor(f) + 1, sizeof *L.used);
    if (!L.used) {
        return err_set(e, ERR_NOMEM, "out of memory for the tensor table");
    }
    m->floats_only = true;
    count_weights(&L);
    load_embeddings(&L);
    load_ropes(&L);
    for (uint32_t il = 0; il < m->n_layer && !L.code; il++) {
        load_block(&L, (int)il);
    }
    load_output(&L);
    refuse_unused(&L);
    free(L.used);
    return L.code;
}
