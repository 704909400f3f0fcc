/* Exact dequantisation, one function a type, as quant_format.dequant: src [n / block] blocks to
 * dst [n] f32, n a multiple of the block. Private to quant/; the table in formats.c names them. */
#ifndef ENGINE_QUANT_DEQUANT_H
#define ENGINE_QUANT_DEQUANT_H

#include <stddef.h>

void quant_dequant_f32(const void *src, float *dst, size_t n);
void quant_dequant_f64(const void *src, float *dst, size_t n);
void quant_dequant_f16(const void *src, float *dst, size_t n);
void quant_dequant_bf16(const void *src, float *dst, size_t n);
void quant_dequant_q4_0(const void *src, float *dst, size_t n);
void quant_dequant_q4_1(const void *src, float *dst, size_t n);
void quant_dequant_q5_0(const void *src, float *dst, size_t n);
void quant_dequant_q5_1(const void *src, float *dst, size_t n);
void quant_dequant_q8_0(const void *src, float *dst, size_t n);
void quant_dequant_q8_1(const void *src, float *dst, size_t n);
void quant_dequant_q2_k(const void *src, float *dst, size_t n);
void quant_dequant_q3_k(const void *src, float *dst, size_t n);
void quant_dequant_q4_k(const void *src, float *dst, size_t n);
void quant_dequant_q5_k(const void *src, float *dst, size_t n);
void quant_dequant_q6_k(const void *src, float *dst, size_t n);
void quant_dequant_q8_k(const void *src, float *dst, size_t n);
void quant_dequant_iq1_s(const void *src, float *dst, size_t n);
void quant_dequant_iq1_m(const void *src, float *dst, size_t n);
void quant_dequant_iq2_xxs(const void *src, float *dst, size_t n);
void quant_dequant_iq2_xs(const void *src, float *dst, size_t n);
void quant_dequant_iq2_s(const void *src, float *dst, size_t n);
void quant_dequant_iq3_xxs(const void *src, float *dst, size_t n);
void quant_dequant_iq3_s(const void *src, float *dst, size_t n);
void quant_dequant_iq4_nl(const void *src, float *dst, size_t n);
void quant_dequant_iq4_xs(const void *src, float *dst, size_t n);
void quant_dequant_mxfp4(const void *src, float *dst, size_t n);
void quant_dequant_nvfp4(const void *src, float *dst, size_t n);
void quant_dequant_q1_0(const void *src, float *dst, size_t n);
void quant_dequant_q2_0(const void *src, float *dst, size_t n);
void quant_dequant_tq1_0(const void *src, float *dst, size_t n);
void quant_dequant_tq2_0(const void *src, float *dst, size_t n);

#endif
