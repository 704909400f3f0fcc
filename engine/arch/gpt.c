/* The GPT line: LayerNorm, MLPs without a gate, residuals in sequence or side by side; and gpt-oss.
 * Source: GPT-2 (Radford et al. 2019), arXiv:2204.06745 (GPT-NeoX), arXiv:2402.19173 (StarCoder 2),
 * arXiv:2402.17834 (StableLM 2), arXiv:2311.16867 (Falcon), arXiv:2402.16819 (Nemotron-4),
 * arXiv:2108.12409 (ALiBi, used by MPT), arXiv:2508.10925 (gpt-oss). */
#include "engine/arch/arch.h"
#include "engine/arch/families.h"

#define WINDOW_MAX (1u << 27)

/* Every second layer sees a window; each head may put part of its attention on nothing (sinks). */
void arch_read_gpt_oss(struct meta *k, struct model *m)
{
    arch_use_rope_halves(m);
    m->ffn_norm_name = "post_attention_norm";
    m->act = MODEL_ACT_SWIGLU_OAI;
    m->gating = MODEL_GATING_SOFTMAX_SELECTED;
    m->expert_weights_norm = false;
    arch_set_window(m, meta_u32_or(k, "attention.sliding_window", 0, WINDOW_MAX, 0), 2);
}

/* LayerNorm and a GELU MLP without a gate. */
static void use_gelu_mlp(struct meta *k, struct model *m)
{
    arch_use_layernorm(k, m);
    m->ffn_gated = false;
    m->act = MODEL_ACT_GELU;
}

static void use_no_rope(struct model *m)
{
    for (uint32_t i = 0; i < m->n_layer; i++) {
        m->layers[i].rope = -1;
    }
}

void arch_read_gpt2(struct meta *k, struct model *m)
{
    use_gelu_mlp(k, m);
    use_no_rope(m);
    m->learned_positions = true;
}

void arch_read_gptneox(struct meta *k, struct model *m)
{
    use_gelu_mlp(k, m);
    arch_use_rope_halves(m);
    m->parallel = meta_bool_or(k, "use_parallel_residual", true);
}

void arch_read_starcoder2(struct meta *k, struct model *m)
{
    use_gelu_mlp(k, m);
    arch_use_rope_halves(m);
}

/* Without a norm of its own the FFN stands beside attention and reads the same rows. */
void arch_read_stablelm(struct meta *k, struct model *m)
{
    arch_use_layernorm(k, m);
    arch_use_rope_halves(m);
    m->qk_norm = MODEL_QK_NORM_HEAD;
    m->parallel = !gguf_find_tensor(k->f, "blk.0.ffn_norm.weight");
    m->ffn_norm_shared = m->parallel;
}

void arch_read_falcon(struct meta *k, struct model *m)
{
    use_gelu_mlp(k, m);
    arch_use_rope_halves(m);
    m->parallel = true;
    m->ffn_norm_shared = true;
}

/* Positions are a penalty on distance, a different one for each head. */
void arch_read_mpt(struct meta *k, struct model *m)
{
    use_gelu_mlp(k, m);
    use_no_rope(m);
    m->alibi_bias_max = (float)meta_f64_or(k, "attention.max_alibi_bias", 0, 1e3, 0);
    m->attn_clamp = (float)meta_f64_or(k, "attention.clamp_kqv", 0, 1e9, 0);
    m->learned_positions = gguf_find_tensor(k->f, "position_embd.weight") != NULL;
}

void arch_read_nemotron(struct meta *k, struct model *m)
{
    arch_use_layernorm(k, m);
    arch_use_rope_halves(m);
    m->ffn_gated = false;
    m->act = MODEL_ACT_RELU_SQR;
}
