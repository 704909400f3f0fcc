/* Llama and the models that share its block: RMSNorm before attention and FFN, grouped-query
 * attention with rotary positions, SwiGLU; Mixtral's experts. Source: arXiv:2302.13971,
 * arXiv:2401.04088. */
#include "engine/arch/families.h"

void arch_read_llama(struct meta *k, struct model *m)
{
    /* The plain block is what every reader starts from. */
    (void)k;
    (void)m;
}
