#define ATT_KERNEL     att_kernel_avx2
#define ATT_ARITHMETIC 2
#define ATT_WRITE16(t) NULL
#define ATT_QK_GROUPS  1
#define ATT_PV_TILES   1
#include "engine/kernels/attention_lanes.h"
