#include "engine/kernels/vector.h"

#include "engine/kernels/vector_impl.h"

const struct vec_ops *vec_ops_of(enum kern_isa isa)
{
    switch (isa) {
#if defined(__x86_64__)
    case KERN_AVX2: return &vec_ops_avx2;
    case KERN_AVX512:
    case KERN_AMX: return &vec_ops_avx512;
#endif
    default: return &vec_ops_ref;
    }
}
