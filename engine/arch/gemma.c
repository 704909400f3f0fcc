/* Gemma 1 to 4: embeddings scaled by sqrt(width), GeGLU; norms on what attention and FFN give
 * (2, 3), capped scores (2), layers that see a window between layers that see all.
 * Source: arXiv:2403.08295, arXiv:2408.00118, arXiv:2503.19786. */
#include "engine/arch/arch.h"
#include "engine/arch/families.h"

#include <math.h>

#define WINDOW_MAX (1u << 27)

void arch_read_gemma(struct meta *k, struct model *m)
{
    (void)k;
    arch_use_rope_halves(m);
    m->act = MODEL_ACT_GELU;
    m->embed_scale = sqrtf((float)m->n_embd);
}

/* The largest model of each generation, told by its depth, scales by width per head. */
static void scale_by_width(struct model *m, uint32_t n_layer_largest)
{
    if (m->n_layer == n_layer_largest && m->attn_scale == 0.0f) {
        m->attn_scale = 1.0f / sqrtf((float)m->n_embd / (float)m->layers[0].n_head);
    }
}

void arch_read_gemma2(struct meta *k, struct model *m)
{
    arch_read_gemma(k, m);
    m->post_norm = true;
    m->attn_softcap = (float)meta_f64_or(k, "attn_logit_softcapping", 0, 1e6, 50);
    m->final_softcap = (float)meta_f64_or(k, "final_logit_softcapping", 0, 1e6, 30);
    arch_set_window(m, meta_u32_or(k, "attention.sliding_window", 0, WINDOW_MAX, 4096), 2);
    scale_by_width(m, 46);
}

/* Windowed layers turn by a base of their own, without the context's extension. */
void arch_read_gemma3(struct meta *k, struct model *m)
{
    m->n_rope = 2;
    m->rope_params[1] = m->rope_params[0];
    m->rope_params[1].freq_base = meta_f64_or(k, "rope.freq_base_swa", 1.0 + 1e-6, 1e12, 10000);
    m->rope_params[1].scaling = ROPE_SCALING_NONE;
    m->rope_params[1].magnitude = 1;
    arch_read_gemma(k, m);
    m->post_norm = true;
    m->qk_norm = MODEL_QK_NORM_HEAD;
    m->final_softcap = (float)meta_f64_or(k, "final_logit_softcapping", 0, 1e6, 0);
    uint32_t window = meta_u32_or(k, "attention.sliding_window", 0, WINDOW_MAX, 0);
    uint32_t period = meta_u32_or(k, "attention.sliding_window_pattern", 1, MODEL_LAYER_MAX, 6);
    arch_set_window(m, window, period);
    for (uint32_t i = 0; i < m->n_layer; i++) {
        m->layers[i].rope = m->layers[i].window ? 1 : 0;
    }
    scale_by_width(m, 62);
}

/* Layers from n_own on read the KV of the last layer before it that sees as they do. */
static void share_kv(struct meta *k, struct model *m, const bool *windowed, uint32_t n_own)
{
    for (uint32_t i = n_own; i < m->n_layer; i++) {
        uint32_t from = n_own;
        while (from > 0 && windowed[from - 1] != windowed[i]) {
            from--;
        }
        if (from == 0 || m->layers[from - 1].n_head_kv != m->layers[i].n_head_kv) {
            meta_fail(k, ERR_CORRUPT, "layer %u shares K and V, but no layer before fits it", i);
            return;
        }
        m->layers[i].kv_layer = from - 1;
    }
}

/* Windowed and global layers differ in head size, base and turning values; V is normed, scores are
 * not scaled, the last layers read the K and V of earlier ones, and each layer has an input of its
 * own. */
void arch_read_gemma4(struct meta *k, struct model *m)
{
    bool windowed[MODEL_LAYER_MAX];
    uint32_t window = meta_u32(k, "attention.sliding_window", 1, WINDOW_MAX);
    uint32_t d_k = meta_u32(k, "attention.key_length_swa", 1, 1024);
    uint32_t d_v = meta_u32(k, "attention.value_length_swa", 1, 1024);
    meta_bool_each(k, "attention.sliding_window_pattern", false, windowed, m->n_layer);
    m->n_rope = 2;
    m->rope_params[1] = m->rope_params[0];
    m->rope_params[1].freq_base = meta_f64_or(k, "rope.freq_base_swa", 1.0 + 1e-6, 1e12, 10000);
    m->rope_params[1].n_rot = meta_u32_or(k, "rope.dimension_count_swa", 0, 1024, d_k);
    arch_read_gemma(k, m);
    m->post_norm = true;
    m->qk_norm = MODEL_QK_NORM_HEAD;
    m->v_norm = true;
    m->attn_scale = 1;
    m->final_softcap = (float)meta_f64_or(k, "final_logit_softcapping", 0, 1e6, 0);
    m->n_embd_layer = meta_u32_or(k, "embedding_length_per_layer_input", 0, 1u << 14, 0);
    uint32_t n_shared = meta_u32_or(k, "attention.shared_kv_layers", 0, m->n_layer - 1, 0);
    if (m->n_expert) {
        meta_fail(k, ERR_UNSUPPORTED, "gemma4 with experts is not supported");
    }
    for (uint32_t i = 0; i < m->n_layer; i++) {
        struct model_layer *l = &m->layers[i];
        l->window = windowed[i] ? window : 0;
        l->rope = windowed[i] ? 1 : 0;
        l->d_k = windowed[i] ? d_k : l->d_k;
        l->d_v = windowed[i] ? d_v : l->d_v;
    }
    share_kv(k, m, windowed, m->n_layer - n_shared);
}
