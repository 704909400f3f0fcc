/* Qwen 2, 2.5 and 3: rotary pairs in halves, biases on Q, K and V (2) or norms on Q and K (3).
 * The vision-language models share the text part: with text alone their three position channels
 * are equal, which is the plain rotation. Source: arXiv:2407.10671, arXiv:2505.09388. */
#include "engine/arch/arch.h"
#include "engine/arch/families.h"

/* qwen2, qwen2vl */
void arch_read_qwen2(struct meta *k, struct model *m)
{
    (void)k;
    arch_use_rope_halves(m);
}

/* The weights of the chosen experts are not made to sum to 1; a gated expert is shared by all. */
void arch_read_qwen2moe(struct meta *k, struct model *m)
{
    arch_use_rope_halves(m);
    m->expert_weights_norm = meta_bool_or(k, "expert_weights_norm", false);
    if (!m->n_ff_shared) {
        m->n_ff_shared = m->layers[0].n_ff;
    }
}

/* qwen3, qwen3moe, qwen3vl */
void arch_read_qwen3(struct meta *k, struct model *m)
{
    arch_use_rope_halves(m);
    m->qk_norm = MODEL_QK_NORM_HEAD;
    if (meta_u32_or(k, "n_deepstack_layers", 0, MODEL_LAYER_MAX, 0) > m->n_layer) {
        meta_fail(k, ERR_CORRUPT, "metadata key %s.n_deepstack_layers is more than the layers",
                  k->prefix);
    }
}
