/* The same operations in the same order as AVX2, hence the same bits. */
#define ATT_KERNEL     att_kernel_avx512
#define ATT_ARITHMETIC 2
#define ATT_WRITE16(t) write16_##t
#define ATT_QK_GROUPS  4
#define ATT_PV_TILES   4
#include "engine/kernels/attention_write.h"

WRITE16(write16_f32, ENG_KV_F32)
WRITE16(write16_bf16, ENG_KV_BF16)
WRITE16(write16_int8, ENG_KV_INT8)

#include "engine/kernels/attention_lanes.h"
