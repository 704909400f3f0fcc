/* Models with fixed multipliers on embeddings, residual branches, attention and logits:
 * Granite 3 and MiniCPM. Source: arXiv:2404.06395 (MiniCPM). */
#include "engine/arch/families.h"

#include <math.h>

/* Logits are divided by logit_scale. */
static void read_scales(struct meta *k, struct model *m, double embed, double residual,
                        double logit)
{
    m->embed_scale = (float)meta_f64_or(k, "embedding_scale", 1e-9, 1e9, embed);
    m->residual_scale = (float)meta_f64_or(k, "residual_scale", 1e-9, 1e9, residual);
    m->logit_scale = (float)(1.0 / meta_f64_or(k, "logit_scale", 1e-9, 1e9, logit));
}

/* granite, granitemoe */
void arch_read_granite(struct meta *k, struct model *m)
{
    read_scales(k, m, 1, 1, 1);
    if (!meta_bool_or(k, "rope.scaling.finetuned", true)) {
        for (uint32_t i = 0; i < m->n_layer; i++) {
            m->layers[i].rope = -1;
        }
    }
}

void arch_read_minicpm(struct meta *k, struct model *m)
{
    /* What the first MiniCPM had and its files do not say: 12, 1.4 and a base width of 256. */
    read_scales(k, m, 12, 1.4 / sqrt(m->n_layer), m->n_embd / 256.0);
}
