#define VEC_TABLE vec_ops_avx512
#include "engine/kernels/vector_lanes.h"
