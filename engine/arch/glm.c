/* GLM 4 and GLM 4.5 (experts). Source: arXiv:2406.12793, arXiv:2508.06471. */
#include "engine/arch/arch.h"
#include "engine/arch/families.h"

void arch_read_glm4(struct meta *k, struct model *m)
{
    (void)k;
    m->post_norm = true;
    m->gate_up_fused = true;
}

/* Trailing blocks that predict further tokens are counted in block_count and not run. */
void arch_read_glm4moe(struct meta *k, struct model *m)
{
    arch_use_rope_halves(m);
    m->qk_norm = MODEL_QK_NORM_HEAD;
    m->ffn_norm_name = "post_attention_norm";
    if (!meta_has(k, "expert_gating_func")) {
        m->gating = MODEL_GATING_SIGMOID;
    }
}
