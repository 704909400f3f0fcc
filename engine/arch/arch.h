/* The architectures this engine runs, one row each. An architecture is what its metadata reader
 * makes of a struct model that starts out as a plain llama; the blocks themselves are shared
 * (engine/forward.h). One that is not in the table is not supported, and says so.
 *
 * To add one: a reader in the file of its family, a row in arch.c, a golden model in tests/golden.
 */
#ifndef ENGINE_ARCH_ARCH_H
#define ENGINE_ARCH_ARCH_H

#include "base/buf.h"
#include "engine/meta.h"
#include "engine/model.h"

struct arch {
    const char *name; /* general.architecture */
    /* Sets what differs from llama. Called once the common keys are read; faults go to k. */
    void (*read)(struct meta *k, struct model *m);
    bool has_state; /* layers may have a state instead of attention: no heads, or no KV heads */
};

/* NULL when there is none of that name. */
const struct arch *arch_find(const char *name, size_t n);
const struct arch *arch_at(uint32_t i); /* NULL past the last */
/* "command-r, gemma, …" into out, for messages. */
void arch_list(struct buf *out);

/* Shared by several readers. */
void arch_use_layernorm(struct meta *k, struct model *m);
/* NeoX pairs in every rope variant. */
void arch_use_rope_halves(struct model *m);
/* Puts a layer with a state in the place of attention in layer il, sizes still to be filled; NULL
 * when memory is out. */
struct model_ssm *arch_add_ssm(struct meta *k, struct model *m, uint32_t il);

/* The same window on every layer but each `period`-th (the last of its period). */
void arch_set_window(struct model *m, uint32_t window, uint32_t period);

#endif
