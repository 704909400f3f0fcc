/* Random weights of every type and matrices to multiply them with, for the tests of the kernels. */
#ifndef TESTS_GEMM_FIXTURE_H
#define TESTS_GEMM_FIXTURE_H

#include "engine/kernels/gemm.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum fix_flavour {
    FIX_NORMAL,  /* scales that give weights of about ±1 */
    FIX_TINY,    /* scales at and below the smallest normal f16 */
    FIX_LARGE,   /* scales near the largest f16 */
    FIX_ZERO,    /* every scale zero */
    FIX_SPECIAL, /* a NaN or infinite scale in every seventh block */
};

/* n_row rows of n_in elements as a GGUF file would hold them; free() it. */
uint8_t *fix_weights(enum gguf_type type, uint32_t n_row, uint32_t n_in, enum fix_flavour flavour,
                     uint64_t seed);
size_t fix_row_bytes(enum gguf_type type, uint32_t n_in);
/* Values like a layer's activations: mostly of size 1, some large. */
void fix_activations(float *x, size_t n, uint64_t seed);
/* The smallest row length that the type's blocks allow. */
uint32_t fix_block(enum gguf_type type);
/* Every type that weights can have. Ends at GGUF_TYPE_END. */
extern const enum gguf_type fix_types[];

/* n_byte bytes that end where an unreadable page begins. fix_guard_free gives them back. */
void *fix_guard_alloc(size_t n_byte);
void fix_guard_free(void *p, size_t n_byte);

#endif
