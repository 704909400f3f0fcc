/* The K types' part of quantize.c: n elements, a multiple of 256, all finite; false when a scale
 * does not fit into f16. Private to quant/. */
#ifndef ENGINE_QUANT_QUANTIZE_K_H
#define ENGINE_QUANT_QUANTIZE_K_H

#include <stdbool.h>
#include <stddef.h>

bool quant_put_q2_k(const float *x, void *dst, size_t n);
bool quant_put_q3_k(const float *x, void *dst, size_t n);
bool quant_put_q4_k(const float *x, void *dst, size_t n);
bool quant_put_q5_k(const float *x, void *dst, size_t n);
bool quant_put_q6_k(const float *x, void *dst, size_t n);

#endif
