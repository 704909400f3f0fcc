/* The uneven 4-bit types' part of quantize.c, as quantize_k.h. Private to quant/. */
#ifndef ENGINE_QUANT_QUANTIZE_IQ4_H
#define ENGINE_QUANT_QUANTIZE_IQ4_H

#include <stdbool.h>
#include <stddef.h>

bool quant_put_iq4_nl(const float *x, void *dst, size_t n);
bool quant_put_iq4_xs(const float *x, void *dst, size_t n);
bool quant_put_mxfp4(const float *x, void *dst, size_t n); /* any finite element fits */

#endif
