/* OLMo 2 and 3, OLMoE and EXAONE 4: norms on Q and K, and (but for OLMoE) on what attention and FFN
 * give instead of on what they read. Source: arXiv:2501.00656, arXiv:2409.02060. */
#include "engine/arch/arch.h"
#include "engine/arch/families.h"

#define WINDOW_MAX (1u << 27)

/* OLMo 3 is the same with three windowed layers in four, which turn without the context's
 * extension. */
void arch_read_olmo2(struct meta *k, struct model *m)
{
    m->n_rope = 2;
    m->rope_params[1] = m->rope_params[0];
    m->rope_params[1].scaling = ROPE_SCALING_NONE;
    m->rope_params[1].magnitude = 1;
    arch_use_rope_halves(m);
    m->qk_norm = MODEL_QK_NORM_FULL;
    m->pre_norm = false;
    m->post_norm = true;
    arch_set_window(m, meta_u32_or(k, "attention.sliding_window", 0, WINDOW_MAX, 0), 4);
    for (uint32_t i = 0; i < m->n_layer; i++) {
        m->layers[i].rope = m->layers[i].window ? 1 : 0;
    }
}

void arch_read_olmoe(struct meta *k, struct model *m)
{
    arch_use_rope_halves(m);
    m->qk_norm = MODEL_QK_NORM_FULL;
    m->expert_weights_norm = meta_bool_or(k, "expert_weights_norm", false);
}

/* The 64-layer model has three windowed layers in four; those that see all have no positions. */
void arch_read_exaone4(struct meta *k, struct model *m)
{
    arch_use_rope_halves(m);
    m->qk_norm = MODEL_QK_NORM_HEAD;
    m->pre_norm = false;
    m->post_norm = true;
    if (m->n_layer == 64) {
        arch_set_window(m, meta_u32_or(k, "attention.sliding_window", 1, WINDOW_MAX, 4096), 4);
        for (uint32_t i = 0; i < m->n_layer; i++) {
            m->layers[i].rope = m->layers[i].window ? 0 : -1;
        }
    }
}
