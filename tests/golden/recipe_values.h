/* Parts of recipe.c. */
#ifndef TESTS_GOLDEN_RECIPE_VALUES_H
#define TESTS_GOLDEN_RECIPE_VALUES_H

#include "engine/gguf.h"

#include <stddef.h>
#include <stdint.h>

/* [n] values as blocks of a type. Types that cannot be made from values get random blocks of the
 * same root mean square, which is as good: what matters is how they are read. */
void recipe_blocks(enum gguf_type type, const float *values, uint64_t key, void *out, size_t n);

const char *recipe_type_name(enum gguf_value_type type);

#endif
