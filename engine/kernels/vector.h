/* Row operations of a transformer outside the matrix products. Each works on one row (or the heads
 * of one row) and is called from pool items. Sums run in one fixed order, so that a row's bits do
 * not depend on its neighbours. In place (y == x) is legal everywhere.
 * A table per ISA; vec_ops_of(KERN_SCALAR) is the oracle (double sums, libm). The others agree with
 * each other to the bit and never call libm; exp and tanh are within 3 ulp, erfc within 3e-7. */
#ifndef ENGINE_KERNELS_VECTOR_H
#define ENGINE_KERNELS_VECTOR_H

#include "engine/kernels/cpu.h"

#include <stddef.h>
#include <stdint.h>

enum vec_act { VEC_SILU, VEC_GELU_TANH, VEC_GELU_ERF, VEC_GELU_QUICK, VEC_RELU, VEC_RELU_SQR };

struct vec_ops {
    /* y = x / sqrt(mean(x²) + eps) · w; w NULL: no weight. */
    void (*rmsnorm)(float *y, const float *x, const float *w, size_t n, float eps);
    /* y = (x - mean) / sqrt(var + eps) · w + b; w and b may be NULL. */
    void (*layernorm)(float *y, const float *x, const float *w, const float *b, size_t n,
                      float eps);
    void (*add)(float *y, const float *a, const float *b, size_t n);    /* y = a + b */
    void (*mul)(float *y, const float *a, const float *b, size_t n);    /* y = a · b */
    void (*scale)(float *y, const float *x, float s, size_t n);         /* y = x · s */
    void (*axpy)(float *y, const float *x, float s, size_t n);          /* y += x · s */
    void (*act)(float *y, const float *x, enum vec_act kind, size_t n); /* y = f(x) */
    void (*act_mul)(float *y, const float *gate, const float *up, enum vec_act kind, size_t n);
    /* Rotates n_head heads of head_dim values, the first n_rot of each, by cos_sin [n_rot/2][2].
     * neox: pairs (i, i + n_rot/2); else pairs (2i, 2i+1). */
    void (*rope)(float *x, uint32_t n_head, uint32_t head_dim, uint32_t n_rot, const float *cos_sin,
                 int neox);
    void (*softmax)(float *y, const float *x, size_t n);
    void (*softcap)(float *y, const float *x, float cap, size_t n); /* y = cap · tanh(x / cap) */
    uint32_t (*argmax)(const float *x, size_t n); /* lowest index on ties; NaN never wins */
};

const struct vec_ops *vec_ops_of(enum kern_isa isa);

#endif
