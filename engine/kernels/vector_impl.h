/* The tables behind vector.h, one per translation unit. */
#ifndef ENGINE_KERNELS_VECTOR_IMPL_H
#define ENGINE_KERNELS_VECTOR_IMPL_H

#include "engine/kernels/vector.h"

extern const struct vec_ops vec_ops_ref;
extern const struct vec_ops vec_ops_avx2;
extern const struct vec_ops vec_ops_avx512;

#endif
