/* The metadata readers of all architectures, by the file of their family. */
#ifndef ENGINE_ARCH_FAMILIES_H
#define ENGINE_ARCH_FAMILIES_H

#include "engine/meta.h"
#include "engine/model.h"

/* llama.c */
void arch_read_llama(struct meta *k, struct model *m);
void arch_read_mistral3(struct meta *k, struct model *m);
void arch_read_smollm3(struct meta *k, struct model *m);
void arch_read_exaone(struct meta *k, struct model *m);
void arch_read_seed_oss(struct meta *k, struct model *m);
void arch_read_hunyuan_dense(struct meta *k, struct model *m);
void arch_read_minimax_m2(struct meta *k, struct model *m);
/* granite.c */
void arch_read_granite(struct meta *k, struct model *m);
void arch_read_minicpm(struct meta *k, struct model *m);
/* qwen.c */
void arch_read_qwen2(struct meta *k, struct model *m);
void arch_read_qwen2moe(struct meta *k, struct model *m);
void arch_read_qwen3(struct meta *k, struct model *m);
/* gemma.c */
void arch_read_gemma(struct meta *k, struct model *m);
void arch_read_gemma2(struct meta *k, struct model *m);
void arch_read_gemma3(struct meta *k, struct model *m);
void arch_read_gemma4(struct meta *k, struct model *m);
/* encoders.c */
void arch_read_bert(struct meta *k, struct model *m);
void arch_read_nomic_bert(struct meta *k, struct model *m);
void arch_read_modern_bert(struct meta *k, struct model *m);
void arch_read_gemma_embedding(struct meta *k, struct model *m);
/* recurrent.c */
void arch_read_mamba(struct meta *k, struct model *m);
void arch_read_mamba2(struct meta *k, struct model *m);
void arch_read_granitehybrid(struct meta *k, struct model *m);
void arch_read_lfm2(struct meta *k, struct model *m);
void arch_read_lfm2moe(struct meta *k, struct model *m);
void arch_read_qwen3next(struct meta *k, struct model *m);
void arch_read_qwen35(struct meta *k, struct model *m);
/* deepseek.c */
void arch_read_deepseek2(struct meta *k, struct model *m);
/* phi.c */
void arch_read_phi2(struct meta *k, struct model *m);
void arch_read_phi3(struct meta *k, struct model *m);
void arch_read_phimoe(struct meta *k, struct model *m);
/* postnorm.c */
void arch_read_olmo2(struct meta *k, struct model *m);
void arch_read_olmoe(struct meta *k, struct model *m);
void arch_read_exaone4(struct meta *k, struct model *m);
/* glm.c */
void arch_read_glm4(struct meta *k, struct model *m);
void arch_read_glm4moe(struct meta *k, struct model *m);
/* gpt.c */
void arch_read_gpt_oss(struct meta *k, struct model *m);
void arch_read_gpt2(struct meta *k, struct model *m);
void arch_read_gptneox(struct meta *k, struct model *m);
void arch_read_starcoder2(struct meta *k, struct model *m);
void arch_read_stablelm(struct meta *k, struct model *m);
void arch_read_falcon(struct meta *k, struct model *m);
void arch_read_mpt(struct meta *k, struct model *m);
void arch_read_nemotron(struct meta *k, struct model *m);
/* cohere.c */
void arch_read_command_r(struct meta *k, struct model *m);
void arch_read_cohere2(struct meta *k, struct model *m);

#endif
