/* The metadata readers of all architectures, by the file of their family. */
#ifndef ENGINE_ARCH_FAMILIES_H
#define ENGINE_ARCH_FAMILIES_H

#include "engine/meta.h"
#include "engine/model.h"

/* llama.c */
void arch_read_llama(struct meta *k, struct model *m);

#endif
