#include "engine/kernels/roofline_impl.h"

#define N_LOOP 2000

double roof_f32_avx512(void)
{
    for (int i = 0; i < N_LOOP; i++) {
        __asm__ volatile(".irp r,2,3,4,5,6,7,8,9,10,11\n"
                         "vfmadd231ps %%zmm0, %%zmm1, %%zmm\\r\n"
                         ".endr" ::
                             : "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                               "xmm10", "xmm11");
    }
    return 10.0 * 32 * N_LOOP;
}

double roof_i8_avx512(void)
{
    for (int i = 0; i < N_LOOP; i++) {
        __asm__ volatile(".irp r,2,3,4,5,6,7,8,9,10,11\n"
                         "vpdpbusd %%zmm0, %%zmm1, %%zmm\\r\n"
                         ".endr" ::
                             : "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                               "xmm10", "xmm11");
    }
    return 10.0 * 128 * N_LOOP;
}
