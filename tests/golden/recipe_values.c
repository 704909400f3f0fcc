#include "tests/golden/recipe_values.h"

#include "base/rng.h"
#include "engine/quant/blocks.h"
#include "engine/quant/blocks_iq.h"
#include "engine/quant/formats.h"
#include "engine/quant/quantize.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static double rms(const float *v, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)v[i] * (double)v[i];
    }
    return sqrt(sum / (double)n);
}

/* Sets the block's scale: exact where the type has an f16, else the nearest power of two. */
static void set_scale(enum gguf_type type, uint8_t *block, double d)
{
    uint16_t h = quant_f32_to_f16((float)d);
    int power = (int)lround(log2(d));
    switch (type) {
    case GGUF_TYPE_MXFP4: block[0] = (uint8_t)(127 + power); break;
    case GGUF_TYPE_NVFP4:
        power = power < -6 ? -6 : power > 7 ? 7 : power;
        memset(block, (7 + power) << 3, 4);
        break;
    case GGUF_TYPE_IQ1_M: /* a nibble atop each of four words */
        for (int i = 0; i < 4; i++) {
            uint8_t *top = &block[offsetof(struct quant_iq1_m, scales) + 2 * (size_t)i + 1];
            *top = (uint8_t)((*top & 15) | ((h >> (4 * i) & 15) << 4));
        }
        break;
    case GGUF_TYPE_TQ1_0: memcpy(block + offsetof(struct quant_tq1_0, d), &h, 2); break;
    case GGUF_TYPE_TQ2_0: memcpy(block + offsetof(struct quant_tq2_0, d), &h, 2); break;
    case GGUF_TYPE_Q8_1: memcpy(block, &h, 2); break;
    default: memcpy(block, &h, 2); break; /* most begin with it */
    }
}

static void random_blocks(enum gguf_type type, double spread, uint64_t key, uint8_t *out, size_t n)
{
    const struct quant_format *f = quant_format_of(type);
    float *v = malloc(f->n_block_elem * sizeof *v);
    uint64_t at = 0;
    for (; n >= f->n_block_elem; n -= f->n_block_elem, out += f->n_block_byte) {
        for (uint32_t i = 0; i < f->n_block_byte; i++) {
            out[i] = (uint8_t)(rng_mix(key, at++) >> 32);
        }
        set_scale(type, out, 1);
        f->dequant(out, v, f->n_block_elem);
        double unit = rms(v, f->n_block_elem);
        set_scale(type, out, unit > 0 ? spread / unit : 1);
    }
    free(v);
}

void recipe_blocks(enum gguf_type type, const float *values, uint64_t key, void *out, size_t n)
{
    /* Codebook and FP4 types stay random whatever the quantiser learns: their numbers are kept. */
    bool by_value = quant_can_quantize(type) && quant_format_of(type)->name[0] != 'I' &&
                    type != GGUF_TYPE_MXFP4 && type != GGUF_TYPE_NVFP4;
    if (by_value) {
        (void)quant_quantize(type, values, out, n);
    } else {
        random_blocks(type, rms(values, n), key, out, n);
    }
}
