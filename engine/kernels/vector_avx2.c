#define VEC_TABLE vec_ops_avx2
#include "engine/kernels/vector_lanes.h"
