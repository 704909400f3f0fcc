#include "engine/kernels/roofline_impl.h"

#define N_LOOP 2000

double roof_f32_avx2(void)
{
    for (int i = 0; i < N_LOOP; i++) {
        __asm__ volatile(".irp r,2,3,4,5,6,7,8,9,10,11\n"
                         "vfmadd231ps %%ymm0, %%ymm1, %%ymm\\r\n"
                         ".endr" ::
                             : "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                               "xmm10", "xmm11");
    }
    return 10.0 * 16 * N_LOOP;
}

/* Bytes times bytes to words, words to dwords, sum: three instructions for 32 products. */
double roof_i8_avx2(void)
{
    for (int i = 0; i < N_LOOP; i++) {
        __asm__ volatile(".irp r,2,3,4,5,6,7\n"
                         "vpmaddubsw %%ymm0, %%ymm1, %%ymm12\n"
                         "vpmaddwd %%ymm12, %%ymm1, %%ymm12\n"
                         "vpaddd %%ymm12, %%ymm\\r, %%ymm\\r\n"
                         ".endr" ::
                             : "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm12");
    }
    return 6.0 * 64 * N_LOOP;
}
