/* Command R and R7B: LayerNorm without bias, attention and FFN side by side, scaled logits; R7B
 * has three windowed layers with rotary positions to each one that sees all without positions.
 * Source: the models' published configurations. */
#include "engine/arch/arch.h"
#include "engine/arch/families.h"

#define WINDOW_MAX (1u << 27)

void arch_read_command_r(struct meta *k, struct model *m)
{
    arch_use_layernorm(k, m);
    m->parallel = true;
    m->ffn_norm_shared = true;
    m->qk_norm = MODEL_QK_NORM_HEAD;
    m->logit_scale = (float)meta_f64(k, "logit_scale", -1e9, 1e9);
}

void arch_read_cohere2(struct meta *k, struct model *m)
{
    arch_read_command_r(k, m);
    arch_set_window(m, meta_u32(k, "attention.sliding_window", 1, WINDOW_MAX), 4);
    for (uint32_t i = 0; i < m->n_layer; i++) {
        m->layers[i].rope = m->layers[i].window ? 0 : -1;
    }
}
