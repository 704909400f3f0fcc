/* DeepSeek V2, V3 and R1: latent attention, leading dense layers, then experts in groups beside
 * shared ones. Source: arXiv:2405.04434, arXiv:2412.19437. */
#include "engine/arch/families.h"

#include <math.h>
#include <string.h>

#define RANK_MAX 8192

/* YaRN sharpens attention by the square of its growth; files hold a tenth of the multiplier. */
static void read_yarn(struct meta *k, struct model *m, uint32_t d_q)
{
    struct rope_params *p = &m->rope_params[0];
    double grow = p->scaling == ROPE_SCALING_YARN ? log(p->factor) : 0;
    double log_mul = meta_f64_or(k, "rope.scaling.yarn_log_multiplier", -1e3, 1e3, 0) / 0.1;
    double attn_factor = meta_f64_or(k, "rope.scaling.attn_factor", 0, 1e3, 1);
    double sharpen = attn_factor * (1.0 + 0.1 * log_mul * grow);
    if (log_mul != 0) {
        p->magnitude = attn_factor;
    } else {
        sharpen *= 1.0 + 0.1 * grow;
    }
    m->attn_scale = (float)(sharpen * sharpen / sqrt(d_q));
}

void arch_read_deepseek2(struct meta *k, struct model *m)
{
    m->q_rank = meta_u32_or(k, "attention.q_lora_rank", 0, RANK_MAX, 0);
    m->kv_rank = meta_u32(k, "attention.kv_lora_rank", 1, RANK_MAX);
    /* Files from before the split of attn_kv_b tell the sizes of decompressed heads. */
    uint32_t d_q = meta_u32_or(k, "attention.key_length_mla", 1, RANK_MAX, m->layers[0].d_k);
    uint32_t d_v = meta_u32_or(k, "attention.value_length_mla", 1, RANK_MAX, m->layers[0].d_v);
    uint32_t n_rot = m->rope_params[0].n_rot;
    if (n_rot >= d_q) {
        meta_fail(k, ERR_CORRUPT, "%u values rotated of heads of %u leave none for the content",
                  n_rot, d_q);
        return;
    }
    m->d_nope = d_q - n_rot;
    m->d_v_mla = d_v;
    for (uint32_t i = 0; i < m->n_layer; i++) {
        m->layers[i].n_head_kv = 1;
        m->layers[i].d_k = m->kv_rank + n_rot;
        m->layers[i].d_v = m->kv_rank;
    }
    m->expert_weights_norm = meta_bool_or(k, "expert_weights_norm", false);
    read_yarn(k, m, d_q);
}
