/* Llama and the models that share its block: RMSNorm before attention and FFN, grouped-query
 * attention with rotary positions, SwiGLU; Mixtral's experts. Source: arXiv:2302.13971,
 * arXiv:2401.04088. */
#include "engine/arch/arch.h"
#include "engine/arch/families.h"

#include <math.h>

#define CTX_MAX (1u << 27)

void arch_read_llama(struct meta *k, struct model *m)
{
    /* The plain block is what every reader starts from. */
    (void)k;
    (void)m;
}

/* Queries far into the text are made sharper: 1 + scale · ln(1 + floor(pos / trained length)). */
void arch_read_mistral3(struct meta *k, struct model *m)
{
    m->attn_temp_scale = (float)meta_f64_or(k, "attention.temperature_scale", -1e3, 1e3, 0);
    m->attn_temp_len =
        meta_u32_or(k, "rope.scaling.original_context_length", 1, CTX_MAX, m->n_ctx_train);
}

/* Every fourth layer has no positions at all. */
void arch_read_smollm3(struct meta *k, struct model *m)
{
    (void)k;
    for (uint32_t i = 3; i < m->n_layer; i += 4) {
        m->layers[i].rope = -1;
    }
}

/* EXAONE 3 and 3.5. */
void arch_read_exaone(struct meta *k, struct model *m)
{
    (void)k;
    arch_use_rope_halves(m);
}

void arch_read_seed_oss(struct meta *k, struct model *m)
{
    (void)k;
    arch_use_rope_halves(m);
    m->ffn_norm_name = "post_attention_norm";
}

/* The rotary base grows with the context's extension: base · alpha^(n / (n - 2)). */
void arch_read_hunyuan_dense(struct meta *k, struct model *m)
{
    arch_use_rope_halves(m);
    m->qk_norm = MODEL_QK_NORM_HEAD;
    m->qk_norm_after_rope = true;
    double alpha = meta_f64_or(k, "rope.scaling.alpha", 0, 1e9, 0);
    double n = m->rope_params[0].n_rot;
    if (alpha > 0 && n > 2) {
        m->rope_params[0].freq_base *= pow(alpha, n / (n - 2));
    }
}

void arch_read_minimax_m2(struct meta *k, struct model *m)
{
    arch_use_rope_halves(m);
    m->qk_norm = MODEL_QK_NORM_FULL;
    if (!meta_has(k, "expert_gating_func")) {
        m->gating = MODEL_GATING_SIGMOID;
    }
}
