#include "engine/arch/arch.h"

#include "engine/arch/families.h"

#include <string.h>

static const struct arch table[] = {
    {"llama", arch_read_llama},
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

void arch_set_window(struct model *m, uint32_t window, uint32_t period)
{
    for (uint32_t i = 0; i < m->n_layer; i++) {
        m->layers[i].window = i % period < period - 1 ? window : 0;
    }
}
