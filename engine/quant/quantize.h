/* From f32 to the types a model is stored in. Pure; rows of one tensor may be quantised by several
 * threads. A scale is found by weighted least squares over a range of candidates, so that large
 * elements, which matter most, are kept best. */
#ifndef ENGINE_QUANT_QUANTIZE_H
#define ENGINE_QUANT_QUANTIZE_H

#include "engine/gguf.h"

#include <stdbool.h>
#include <stddef.h>

/* F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS,
 * MXFP4. */
bool quant_can_quantize(enum gguf_type type);
/* src [n] f32 to blocks of `type`, n a multiple of its block. Quantised types: false when an
 * element is not finite or too large for the type's scale; dst then holds nothing of use. */
bool quant_quantize(enum gguf_type type, const float *src, void *dst, size_t n);

#endif
