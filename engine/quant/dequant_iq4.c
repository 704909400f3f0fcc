/* The non-linear 4-bit types: sixteen values that are denser near zero. */
#include "engine/quant/blocks.h"
#include "engine/quant/dequant.h"
#include "engine/quant/formats.h"

const int8_t quant_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};

void quant_dequant_iq4_nl(const void *src, float *dst, size_t n)
{
    const struct quant_iq4_nl *b = src;
    for (; n >= QUANT_BLOCK; n -= QUANT_BLOCK, b++, dst += QUANT_BLOCK) {
        float d = quant_f16_to_f32(b->d);
        for (unsigned i = 0; i < 16; i++) {
            dst[i] = d * (float)quant_iq4_values[b->qs[i] & 15];
            dst[i + 16] = d * (float)quant_iq4_values[b->qs[i] >> 4];
        }
    }
}

void quant_dequant_iq4_xs(const void *src, float *dst, size_t n)
{
    const struct quant_iq4_xs *b = src;
    for (; n >= QUANT_SUPER; n -= QUANT_SUPER, b++, dst += QUANT_SUPER) {
        float d = quant_f16_to_f32(b->d);
        for (unsigned g = 0; g < 8; g++) {
            float scale = d * (float)quant_iq4_xs_scale(b, g);
            for (unsigned i = 0; i < 16; i++) {
                uint8_t q = b->qs[16 * g + i];
                dst[32 * g + i] = scale * (float)quant_iq4_values[q & 15];
                dst[32 * g + i + 16] = scale * (float)quant_iq4_values[q >> 4];
            }
        }
    }
}
