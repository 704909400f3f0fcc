/* The arithmetic of engine/kernels/gemm_int8.h, one element at a time, from the file's blocks. */
#ifndef TESTS_GEMM_INT8_ORACLE_H
#define TESTS_GEMM_INT8_ORACLE_H

#include "engine/gguf.h"

#include <stddef.h>
#include <stdint.h>

/* One output of one row: w is a row of n_in elements as the file has it. Denormals are kept: they
 * must not occur. */
float int8_oracle(enum gguf_type type, const uint8_t *w, uint32_t n_in, const float *x);
/* The most that rounding n_in activations to int8 can add to a sum of w[k] · x[k]. */
double int8_oracle_error(const float *w, uint32_t n_in, const float *x);

#endif
