/* Encoders for embeddings: BERT, Nomic BERT, ModernBERT, EmbeddingGemma. Every token sees every
 * other, or those within half a window to both sides. Source: arXiv:1810.04805, arXiv:2402.01613,
 * arXiv:2412.13663, arXiv:2509.20354. */
#include "engine/arch/arch.h"
#include "engine/arch/families.h"

#define WINDOW_MAX (1u << 27)

static void use_encoder(struct meta *k, struct model *m)
{
    m->encoder = true;
    if (!meta_has(k, "pooling_type")) {
        m->pooling = ENG_POOLING_MEAN;
    } else if (meta_u32(k, "pooling_type", 0, 4) == 4) {
        meta_fail(k, ERR_UNSUPPORTED, "reranking models are not supported");
    }
    if (meta_bool_or(k, "attention.causal", false)) {
        meta_fail(k, ERR_UNSUPPORTED, "%s with causal attention is not supported", k->prefix);
    }
}

/* Norms follow the residual sums instead of preceding attention and FFN. */
static void use_sum_norms(struct meta *k, struct model *m)
{
    use_encoder(k, m);
    arch_use_layernorm(k, m);
    m->pre_norm = false;
    m->sum_norm = true;
}

void arch_read_bert(struct meta *k, struct model *m)
{
    use_sum_norms(k, m);
    m->learned_positions = true;
    m->ffn_gated = false;
    m->act = MODEL_ACT_GELU;
    for (uint32_t i = 0; i < m->n_layer; i++) {
        m->layers[i].rope = -1;
    }
}

void arch_read_nomic_bert(struct meta *k, struct model *m)
{
    use_sum_norms(k, m);
    arch_use_rope_halves(m);
}

/* One layer in `period` sees all, counting from the first; the others turn by a base of their own.
 */
static void use_two_ropes(struct meta *k, struct model *m, double local_base)
{
    m->n_rope = 2;
    m->rope_params[1] = m->rope_params[0];
    m->rope_params[1].freq_base =
        meta_f64_or(k, "rope.freq_base_swa", 1.0 + 1e-6, 1e12, local_base);
    arch_use_rope_halves(m);
    for (uint32_t i = 0; i < m->n_layer; i++) {
        m->layers[i].rope = m->layers[i].window ? 1 : 0;
    }
}

void arch_read_modern_bert(struct meta *k, struct model *m)
{
    use_encoder(k, m);
    arch_use_layernorm(k, m);
    m->first_layer_unnormed = true;
    m->gate_up_fused = true;
    m->act = MODEL_ACT_GELU;
    uint32_t window = meta_u32_or(k, "attention.sliding_window", 0, WINDOW_MAX, 0);
    uint32_t period = meta_u32_or(k, "attention.sliding_window_pattern", 1, MODEL_LAYER_MAX, 3);
    for (uint32_t i = 0; i < m->n_layer; i++) {
        m->layers[i].window = i % period ? window : 0;
    }
    use_two_ropes(k, m, 10000);
}

void arch_read_gemma_embedding(struct meta *k, struct model *m)
{
    arch_read_gemma3(k, m);
    use_encoder(k, m);
}
