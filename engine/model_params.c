#include "base/units.h"
#include "engine/arch/arch.h"
#include "engine/meta.h"
#include "engine/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EMBD_MAX   (1u << 17)
#define FF_MAX     (1u << 20)
#define VOCAB_MAX  (1u << 22)
#define CTX_MAX    (1u << 27)
#define HEAD_D_MAX 1024

/* Heads, their sizes and FFN widths: one number for all layers, or one for each. */
static void read_layer_sizes(struct meta *k, struct model *m)
{
    uint32_t *v = calloc((size_t)m->n_layer, sizeof *v);
    if (!v) {
        meta_fail(k, ERR_NOMEM, "out of memory for %u layers", m->n_layer);
        return;
    }
    uint32_t least = m->arch->has_state ? 0 : 1;
    if (!meta_has(k, "attention.head_count")) {
        meta_u32(k, "attention.head_count", least, MODEL_HEAD_MAX);
    }
    meta_u32_each(k, "attention.head_count", least, MODEL_HEAD_MAX, 1, v, m->n_layer);
    for (uint32_t i = 0; i < m->n_layer; i++) {
        m->layers[i].n_head = v[i];
        m->layers[i].n_head_kv = v[i];
    }
    if (meta_has(k, "attention.head_count_kv")) {
        meta_u32_each(k, "attention.head_count_kv", least, MODEL_HEAD_MAX, 1, v, m->n_layer);
        for (uint32_t i = 0; i < m->n_layer; i++) {
            m->layers[i].n_head_kv = v[i];
        }
    }
    meta_u32_each(k, "feed_forward_length", 0, FF_MAX, 0, v, m->n_layer);
    for (uint32_t i = 0; i < m->n_layer; i++) {
        m->layers[i].n_ff = v[i];
    }
    free(v);

    for (uint32_t i = 0; i < m->n_layer; i++) {
        struct model_layer *l = &m->layers[i];
        uint32_t d = m->n_embd / (l->n_head ? l->n_head : 1);
        l->d_k = meta_u32_or(k, "attention.key_length", 1, HEAD_D_MAX, d);
        l->d_v = meta_u32_or(k, "attention.value_length", 1, HEAD_D_MAX, d);
        l->kv_layer = i;
        l->out_scale = 1.0f;
    }
}

/* A rotation that no layer uses turns nothing: no angles are computed for it. */
static void forget_unused_ropes(struct model *m)
{
    for (uint32_t i = 0; i < m->n_rope; i++) {
        bool used = false;
        for (uint32_t il = 0; il < m->n_layer; il++) {
            used |= !m->layers[il].ssm && m->layers[il].rope == (int)i;
        }
        m->rope_params[i].n_rot = used ? m->rope_params[i].n_rot : 0;
    }
}

static void check_layer_sizes(struct meta *k, const struct model *m)
{
    for (uint32_t i = 0; i < m->n_layer; i++) {
        const struct model_layer *l = &m->layers[i];
        if (!l->is_moe && !m->no_ffn && l->n_ff == 0) {
            meta_fail(k, ERR_CORRUPT, "metadata key %s.feed_forward_length is missing or 0",
                      k->prefix);
        }
        if (l->ssm) {
            continue;
        }
        if (l->n_head == 0 || l->n_head_kv == 0) {
            meta_fail(k, ERR_CORRUPT, "layer %u has %u heads and %u KV heads", i, l->n_head,
                      l->n_head_kv);
            return;
        }
        if (l->n_head % l->n_head_kv != 0) {
            meta_fail(k, ERR_CORRUPT, "layer %u has %u heads, not a multiple of its %u KV heads", i,
                      l->n_head, l->n_head_kv);
        }
        if (l->d_k == 0 || l->d_v == 0 || l->d_k > HEAD_D_MAX || l->d_v > HEAD_D_MAX) {
            meta_fail(k, ERR_CORRUPT, "layer %u has heads of %u and %u values, must be 1 to %d", i,
                      l->d_k, l->d_v, HEAD_D_MAX);
        }
        if (l->rope >= 0 && m->rope_params[l->rope].n_rot > l->d_k) {
            meta_fail(k, ERR_CORRUPT, "layer %u rotates %u values of heads of %u", i,
                      m->rope_params[l->rope].n_rot, l->d_k);
        }
    }
    for (uint32_t i = 0; i < m->n_rope; i++) {
        if (m->rope_params[i].n_rot % 2 != 0) {
            meta_fail(k, ERR_CORRUPT, "rope dimension count is %u, must be even",
                      m->rope_params[i].n_rot);
        }
    }
}

/* YaRN's attention magnitude. With a log multiplier the model has its own idea of the growth that
 * YaRN would give by itself; the ratio of the two remains. */
static double yarn_magnitude(double factor, double log_mul)
{
    double grow = log(factor);
    double wanted = 0.1 * grow + 1.0;
    return log_mul != 0 ? wanted / (0.1 * log_mul * grow + 1.0) : wanted;
}

static void read_scaling(struct meta *k, struct model *m, struct rope_params *p)
{
    struct gguf_str type = {"linear", 6};
    meta_str(k, "rope.scaling.type", &type);
    p->factor = meta_f64_or(k, "rope.scaling.factor", 0, 1e6, 0);
    if (p->factor == 0) { /* as files wrote it before 2023-10 */
        p->factor = meta_f64_or(k, "rope.scale_linear", 0, 1e6, 0);
    }
    if (p->factor == 0) {
        p->factor = 1;
    }
    p->n_ctx_orig =
        meta_u32_or(k, "rope.scaling.original_context_length", 1, CTX_MAX, m->n_ctx_train);
    double attn_factor = meta_f64_or(k, "rope.scaling.attn_factor", 0, 1e3, 1);
    p->magnitude = attn_factor;
    p->beta_fast = meta_f64_or(k, "rope.scaling.yarn_beta_fast", 1e-6, 1e6, 32);
    p->beta_slow = meta_f64_or(k, "rope.scaling.yarn_beta_slow", 1e-6, 1e6, 1);
    p->ext_factor = meta_f64_or(k, "rope.scaling.yarn_ext_factor", -1, 1, -1);
    if (p->ext_factor < 0) {
        p->ext_factor = 1;
    }
    if (type.n == 6 && memcmp(type.s, "linear", 6) == 0) {
        p->scaling = ROPE_SCALING_LINEAR;
    } else if (type.n == 4 && memcmp(type.s, "yarn", 4) == 0) {
        p->scaling = ROPE_SCALING_YARN;
        double log_mul = meta_f64_or(k, "rope.scaling.yarn_log_multiplier", -1e3, 1e3, 0);
        p->magnitude = attn_factor * yarn_magnitude(p->factor, log_mul);
    } else if ((type.n == 4 && memcmp(type.s, "none", 4) == 0) ||
               (type.n == 8 && memcmp(type.s, "longrope", 8) == 0)) {
        p->scaling = ROPE_SCALING_NONE; /* longrope: its factors arrive as a tensor */
    } else {
        meta_fail(k, ERR_UNSUPPORTED,
                  "rope scaling type \"%.*s\" is not supported (none, linear, yarn, longrope are)",
                  (int)(type.n < 40 ? type.n : 40), type.s);
    }
}

static void read_rope(struct meta *k, struct model *m)
{
    struct rope_params *p = &m->rope_params[0];
    p->pairs = ROPE_PAIRS_ADJACENT;
    p->n_rot = meta_u32_or(k, "rope.dimension_count", 0, HEAD_D_MAX, m->layers[0].d_k);
    p->freq_base = meta_f64_or(k, "rope.freq_base", 1.0 + 1e-6, 1e12, 10000);
    read_scaling(k, m, p);
    m->n_rope = 1;
}

static void read_experts(struct meta *k, struct model *m)
{
    m->n_expert = meta_u32_or(k, "expert_count", 0, MODEL_EXPERT_MAX, 0);
    if (m->n_expert == 0) {
        return;
    }
    m->n_expert_used = meta_u32(k, "expert_used_count", 1, m->n_expert);
    m->n_ff_expert = meta_u32_or(k, "expert_feed_forward_length", 1, FF_MAX, m->layers[0].n_ff);
    uint32_t n_shared = meta_u32_or(k, "expert_shared_count", 0, 64, 0);
    m->n_ff_shared =
        meta_u32_or(k, "expert_shared_feed_forward_length", 0, FF_MAX, n_shared * m->n_ff_expert);
    m->n_expert_group = meta_u32_or(k, "expert_group_count", 0, m->n_expert, 0);
    m->n_expert_group_used = meta_u32_or(k, "expert_group_used_count", 0, m->n_expert, 0);
    m->expert_weights_norm = meta_bool_or(k, "expert_weights_norm", true);
    m->expert_weights_scale = (float)meta_f64_or(k, "expert_weights_scale", -1e6, 1e6, 1);
    if (m->expert_weights_scale == 0) {
        m->expert_weights_scale = 1;
    }
    switch (meta_u32_or(k, "expert_gating_func", 0, 3, 0)) {
    case 2: m->gating = MODEL_GATING_SIGMOID; break;
    case 3: m->gating = MODEL_GATING_SOFTMAX_SELECTED; break;
    default: m->gating = MODEL_GATING_SOFTMAX; break;
    }
    uint32_t n_dense = meta_u32_or(k, "leading_dense_block_count", 0, m->n_layer, 0);
    for (uint32_t i = 0; i < m->n_layer; i++) {
        m->layers[i].is_moe = i >= n_dense;
    }
}

static void check_experts(struct meta *k, const struct model *m)
{
    uint32_t n_group = m->n_expert_group;
    if (n_group > 1 && (m->n_expert % n_group != 0 || m->n_expert_group_used == 0 ||
                        m->n_expert_group_used > n_group ||
                        m->n_expert_group_used * (m->n_expert / n_group) < m->n_expert_used)) {
        meta_fail(k, ERR_CORRUPT, "%u experts in %u groups, %u groups used, do not give %u experts",
                  m->n_expert, n_group, m->n_expert_group_used, m->n_expert_used);
    }
    if (m->n_expert && m->n_ff_expert == 0) {
        meta_fail(k, ERR_CORRUPT, "metadata key %s.expert_feed_forward_length is missing or 0",
                  k->prefix);
    }
}

static bool ssm_is_sound(const struct model_ssm *a)
{
    bool ok = a->d_conv >= 2 && a->n_channel && a->d_inner;
    if (a->kind == MODEL_SSM_MAMBA) {
        ok = ok && a->dt_rank && a->d_state;
    } else if (a->kind == MODEL_SSM_MAMBA2 || a->kind == MODEL_SSM_DELTA_NET) {
        ok = ok && a->n_head && a->n_group && a->d_state && a->n_head % a->n_group == 0 &&
             a->d_inner % a->n_head == 0 && a->d_inner % a->n_group == 0;
    }
    return ok && (a->kind != MODEL_SSM_DELTA_NET || a->d_inner == a->n_head * a->d_state);
}

/* Checks the sizes of layers with a state, and gives each its place in a sequence's. */
static void lay_states(struct meta *k, struct model *m)
{
    for (uint32_t i = 0; i < m->n_layer; i++) {
        struct model_ssm *a = m->layers[i].ssm;
        if (!a) {
            continue;
        }
        if (!ssm_is_sound(a)) {
            meta_fail(
                k, ERR_CORRUPT,
                "layer %u: %u taps, inner size %u, state size %u, rank or heads %u and groups "
                "%u do not fit together",
                i, a->d_conv, a->d_inner, a->d_state, a->n_head ? a->n_head : a->dt_rank,
                a->n_group);
            return;
        }
        size_t n_scan = a->kind == MODEL_SSM_SHORT_CONV ? 0 : (size_t)a->d_inner * a->d_state;
        a->conv_offset = m->state_bytes;
        m->state_bytes += units_align((a->d_conv - 1) * (size_t)a->n_channel * sizeof(float), 64);
        a->scan_offset = m->state_bytes;
        m->state_bytes += units_align(n_scan * sizeof(float), 64);
    }
}

/* A plain llama: what every architecture starts from. */
static void set_defaults(struct model *m)
{
    m->pre_norm = true;
    m->ffn_gated = true;
    m->embed_scale = 1;
    m->residual_scale = 1;
    m->logit_scale = 1;
    m->final_norm_name = "output_norm";
    m->ffn_norm_name = "ffn_norm";
}

#define POOLING_RANK 4 /* a classifier's: encoders refuse it, for others it says nothing */

static void read_pooling(struct meta *k, struct model *m)
{
    static const enum eng_pooling kinds[POOLING_RANK + 1] = {ENG_POOLING_NONE, ENG_POOLING_MEAN,
                                                             ENG_POOLING_CLS, ENG_POOLING_LAST};
    m->pooling = kinds[meta_u32_or(k, "pooling_type", 0, POOLING_RANK, 0)];
}

static void read_common(struct meta *k, struct model *m, uint32_t n_ctx)
{
    set_defaults(m);
    m->n_embd = meta_u32(k, "embedding_length", 1, EMBD_MAX);
    m->n_ctx_train = meta_u32(k, "context_length", 1, CTX_MAX);
    m->n_ctx = n_ctx ? n_ctx : m->n_ctx_train;
    if (m->n_ctx > CTX_MAX) {
        meta_fail(k, ERR_INVALID, "a context of %u tokens is too long, at most %u", m->n_ctx,
                  CTX_MAX);
    }
    uint32_t n_block = meta_u32(k, "block_count", 1, MODEL_LAYER_MAX);
    uint32_t n_next = meta_u32_or(k, "nextn_predict_layers", 0, n_block - 1, 0);
    m->n_layer = n_block - n_next;
    m->layers = calloc(n_block, sizeof *m->layers);
    if (!m->layers) {
        meta_fail(k, ERR_NOMEM, "out of memory for %u layers", n_block);
    }
    if (k->code) {
        return;
    }
    read_layer_sizes(k, m);
    read_pooling(k, m);
    m->attn_scale = (float)meta_f64_or(k, "attention.scale", 0, 1e3, 0);
    read_rope(k, m);
    read_experts(k, m);
}

/* The vocabulary is as long as the embedding, which the tokenizer's list must fit. */
static void read_vocab_size(struct meta *k, struct model *m)
{
    const struct gguf_tensor *t = gguf_find_tensor(k->f, "token_embd.weight");
    struct gguf_array tokens = {0};
    gguf_get_array(k->f, "tokenizer.ggml.tokens", &tokens);
    uint64_t n = t ? t->ne[1] : tokens.n;
    if (n == 0 || n > VOCAB_MAX || tokens.n > n) {
        meta_fail(k, ERR_CORRUPT,
                  "token_embd.weight has %llu rows for %llu tokens, must be at least as many and "
                  "at most %u",
                  (unsigned long long)n, (unsigned long long)tokens.n, VOCAB_MAX);
        return;
    }
    m->n_vocab = (uint32_t)n;
}

enum err_code model_read_params(const struct gguf *f, uint32_t n_ctx, struct model **ret_m,
                                struct err *e)
{
    struct gguf_str name;
    if (!gguf_get_str(f, "general.architecture", &name)) {
        return err_set(e, ERR_CORRUPT, "missing metadata key general.architecture");
    }
    const struct arch *arch = arch_find(name.s, name.n);
    if (!arch) {
        struct buf known = {0};
        arch_list(&known);
        err_set(e, ERR_UNSUPPORTED, "architecture \"%.*s\" is not supported; supported are %s",
                (int)(name.n < 40 ? name.n : 40), name.s, buf_str(&known));
        buf_free(&known);
        return ERR_UNSUPPORTED;
    }
    struct model *m = calloc(1, sizeof *m);
    if (!m) {
        return err_set(e, ERR_NOMEM, "out of memory for a model");
    }
    struct err local;
    struct meta k = {.f = f, .prefix = arch->name, .e = e ? e : &local};
    m->arch = arch;
    read_common(&k, m, n_ctx);
    if (!k.code) {
        read_vocab_size(&k, m);
        arch->read(&k, m);
    }
    if (!k.code && m->learned_positions && m->n_ctx > m->n_ctx_train) {
        meta_fail(&k, ERR_LIMIT, "a context of %u tokens is too long, the model has %u positions",
                  m->n_ctx, m->n_ctx_train);
    }
    if (!k.code && !m->layernorm) {
        m->norm_eps = (float)meta_f64(&k, "attention.layer_norm_rms_epsilon", 0, 1);
    }
    if (!k.code) {
        forget_unused_ropes(m);
        check_layer_sizes(&k, m);
        check_experts(&k, m);
        lay_states(&k, m);
    }
    if (k.code) {
        model_destroy(m);
        return k.code;
    }
    *ret_m = m;
    return ERR_OK;
}
