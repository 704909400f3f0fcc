#include "engine/arch/arch.h"

#include "engine/arch/families.h"

#include <stdlib.h>
#include <string.h>

static const struct arch table[] = {
    {"llama", arch_read_llama},
    {"mistral3", arch_read_mistral3},
    {"qwen2", arch_read_qwen2},
    {"qwen2moe", arch_read_qwen2moe},
    {"qwen2vl", arch_read_qwen2},
    {"qwen3", arch_read_qwen3},
    {"qwen3moe", arch_read_qwen3},
    {"qwen3vl", arch_read_qwen3},
    {"gemma", arch_read_gemma},
    {"gemma2", arch_read_gemma2},
    {"gemma3", arch_read_gemma3},
    {"gemma4", arch_read_gemma4},
    {"deepseek2", arch_read_deepseek2},
    {"bert", arch_read_bert},
    {"nomic-bert", arch_read_nomic_bert},
    {"modern-bert", arch_read_modern_bert},
    {"gemma-embedding", arch_read_gemma_embedding},
    {"mamba", arch_read_mamba, true},
    {"mamba2", arch_read_mamba2, true},
    {"granitehybrid", arch_read_granitehybrid, true},
    {"lfm2", arch_read_lfm2, true},
    {"lfm2moe", arch_read_lfm2moe, true},
    {"qwen3next", arch_read_qwen3next, true},
    {"qwen35", arch_read_qwen35, true},
    {"qwen35moe", arch_read_qwen35, true},
    {"phi2", arch_read_phi2},
    {"phi3", arch_read_phi3},
    {"phimoe", arch_read_phimoe},
    {"gpt-oss", arch_read_gpt_oss},
    {"granite", arch_read_granite},
    {"granitemoe", arch_read_granite},
    {"minicpm", arch_read_minicpm},
    {"olmo2", arch_read_olmo2},
    {"olmoe", arch_read_olmoe},
    {"exaone", arch_read_exaone},
    {"exaone4", arch_read_exaone4},
    {"smollm3", arch_read_smollm3},
    {"glm4", arch_read_glm4},
    {"glm4moe", arch_read_glm4moe},
    {"starcoder2", arch_read_starcoder2},
    {"stablelm", arch_read_stablelm},
    {"command-r", arch_read_command_r},
    {"cohere2", arch_read_cohere2},
    {"falcon", arch_read_falcon},
    {"gpt2", arch_read_gpt2},
    {"gptneox", arch_read_gptneox},
    {"mpt", arch_read_mpt},
    {"nemotron", arch_read_nemotron},
    {"ernie4_5", arch_read_llama},
    {"hunyuan-dense", arch_read_hunyuan_dense},
    {"minimax-m2", arch_read_minimax_m2},
    {"seed_oss", arch_read_seed_oss},
};

const struct arch *arch_find(const char *name, size_t n)
{
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strlen(table[i].name) == n && memcmp(table[i].name, name, n) == 0) {
            return &table[i];
        }
    }
    return NULL;
}

const struct arch *arch_at(uint32_t i)
{
    return i < sizeof table / sizeof table[0] ? &table[i] : NULL;
}

void arch_list(struct buf *out)
{
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        buf_printf(out, "%s%s", i ? ", " : "", table[i].name);
    }
}

void arch_use_layernorm(struct meta *k, struct model *m)
{
    m->layernorm = true;
    m->norm_eps = (float)meta_f64(k, "attention.layer_norm_epsilon", 0, 1);
}

void arch_use_rope_halves(struct model *m)
{
    for (uint32_t i = 0; i < m->n_rope; i++) {
        m->rope_params[i].pairs = ROPE_PAIRS_HALVES;
    }
}

struct model_ssm *arch_add_ssm(struct meta *k, struct model *m, uint32_t il)
{
    struct model_ssm *a = calloc(1, sizeof *a);
    if (!a) {
        meta_fail(k, ERR_NOMEM, "out of memory for layer %u", il);
    }
    free(m->layers[il].ssm);
    m->layers[il].ssm = a;
    return a;
}

void arch_set_window(struct model *m, uint32_t window, uint32_t period)
{
    for (uint32_t i = 0; i < m->n_layer; i++) {
        m->layers[i].window = i % period < period - 1 ? window : 0;
    }
}
