/* Loops of one instruction that depend on nothing but each other: about ten microseconds each. */
#ifndef ENGINE_KERNELS_ROOFLINE_IMPL_H
#define ENGINE_KERNELS_ROOFLINE_IMPL_H

typedef double roof_probe_fn(void); /* returns how many operations it did */

roof_probe_fn roof_f32_avx2;
roof_probe_fn roof_i8_avx2;
roof_probe_fn roof_f32_avx512;
roof_probe_fn roof_i8_avx512;
roof_probe_fn roof_bf16_amx;

#endif
