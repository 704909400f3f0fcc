/* The same operations in the same order as AVX2, hence the same bits. */
#define ATT_KERNEL     att_kernel_avx512
#define ATT_ARITHMETIC 2
#define ATT_QK_GROUPS  4
#define ATT_PV_TILES   4
#include "engine/kernels/attention_lanes.h"
