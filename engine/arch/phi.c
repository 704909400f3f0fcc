/* Phi 2, 3 and 3.5-MoE. Source: arXiv:2404.14219; LongRoPE arXiv:2402.13753. */
#include "engine/arch/arch.h"
#include "engine/arch/families.h"

/* Attention and a plain GELU MLP side by side, behind one LayerNorm. */
void arch_read_phi2(struct meta *k, struct model *m)
{
    arch_use_layernorm(k, m);
    arch_use_rope_halves(m);
    m->parallel = true;
    m->ffn_norm_shared = true;
    m->ffn_gated = false;
    m->act = MODEL_ACT_GELU;
}

/* A llama with fused matrices. A window given in its metadata is not used. */
void arch_read_phi3(struct meta *k, struct model *m)
{
    (void)k;
    arch_use_rope_halves(m);
    m->gate_up_fused = true;
}

void arch_read_phimoe(struct meta *k, struct model *m)
{
    (void)k;
    arch_use_rope_halves(m);
}
