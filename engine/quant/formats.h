/* What each tensor type of a GGUF file looks like, one row a type, and its exact meaning as f32.
 * Pure tables and functions. Source: the GGUF specification and the reference values that the
 * golden tests compare with. */
#ifndef ENGINE_QUANT_FORMATS_H
#define ENGINE_QUANT_FORMATS_H

#include "base/err.h"
#include "engine/gguf.h"

#include <stddef.h>
#include <stdint.h>

struct quant_format {
    const char *name;      /* "Q4_K"; NULL: no such type */
    uint32_t n_block_elem; /* elements in a block */
    uint32_t n_block_byte; /* bytes in a block */
    /* Exact dequantisation of n elements, n a multiple of n_block_elem. NULL: integers only. */
    void (*dequant)(const void *src, float *dst, size_t n);
};

/* NULL for numbers outside the table. */
const struct quant_format *quant_format_of(uint32_t type);
/* By name, any case. GGUF_TYPE_END when there is none. */
enum gguf_type quant_type_by_name(const char *name);

float quant_f16_to_f32(uint16_t h);
uint16_t quant_f32_to_f16(float f); /* round to nearest even */
float quant_bf16_to_f32(uint16_t h);
uint16_t quant_f32_to_bf16(float f); /* round to nearest even, NaN stays NaN */

#endif
