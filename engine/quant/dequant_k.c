/* The K types: blocks of 256 in groups of 16 or 32, scales of groups quantised themselves. The
 * order of each product is part of the format's meaning: scales first, then the element. */
#include "engine/quant/blocks.h"
#include "engine/quant/dequant.h"
#include "engine/quant/formats.h"

#include <string.h>

void quant_dequant_q2_k(const void *src, float *dst, size_t n)
{
    const struct quant_q2_k *b = src;
    for (; n >= QUANT_SUPER; n -= QUANT_SUPER, b++, dst += QUANT_SUPER) {
        float d = quant_f16_to_f32(b->d);
        float dmin = quant_f16_to_f32(b->dmin);
        for (unsigned i = 0; i < QUANT_SUPER; i++) {
            uint8_t scale = b->scales[i / 16];
            int q = (b->qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3;
            dst[i] = d * (float)(scale & 15) * (float)q - dmin * (float)(scale >> 4);
        }
    }
}

void quant_dequant_q3_k(const void *src, float *dst, size_t n)
{
    const struct quant_q3_k *b = src;
    for (; n >= QUANT_SUPER; n -= QUANT_SUPER, b++, dst += QUANT_SUPER) {
        float d = quant_f16_to_f32(b->d);
        for (unsigned g = 0; g < 16; g++) {
            float scale = d * (float)quant_q3_scale(b->scales, g);
            for (unsigned i = g * 16; i < g * 16 + 16; i++) {
                int q = (b->qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3;
                int high = (b->hmask[i % 32] >> (i / 32)) & 1;
                dst[i] = scale * (float)(q + high * 4 - 4);
            }
        }
    }
}

void quant_dequant_q4_k(const void *src, float *dst, size_t n)
{
    const struct quant_q4_k *b = src;
    for (; n >= QUANT_SUPER; n -= QUANT_SUPER, b++, dst += QUANT_SUPER) {
        float d = quant_f16_to_f32(b->d);
        float dmin = quant_f16_to_f32(b->dmin);
        for (unsigned g = 0; g < 8; g++) {
            uint8_t scale;
            uint8_t min;
            quant_k4_scale(b->scales, g, &scale, &min);
            float d_group = d * (float)scale;
            float m_group = dmin * (float)min;
            const uint8_t *qs = b->qs + g / 2 * 32;
            for (unsigned i = 0; i < 32; i++) {
                int q = (qs[i] >> (g % 2 * 4)) & 15;
                dst[g * 32 + i] = d_group * (float)q - m_group;
            }
        }
    }
}

void quant_dequant_q5_k(const void *src, float *dst, size_t n)
{
    const struct quant_q5_k *b = src;
    for (; n >= QUANT_SUPER; n -= QUANT_SUPER, b++, dst += QUANT_SUPER) {
        float d = quant_f16_to_f32(b->d);
        float dmin = quant_f16_to_f32(b->dmin);
        for (unsigned g = 0; g < 8; g++) {
            uint8_t scale;
            uint8_t min;
            quant_k4_scale(b->scales, g, &scale, &min);
            float d_group = d * (float)scale;
            float m_group = dmin * (float)min;
            const uint8_t *qs = b->qs + g / 2 * 32;
            for (unsigned i = 0; i < 32; i++) {
                int q = ((qs[i] >> (g % 2 * 4)) & 15) | (((b->qh[i] >> g) & 1) << 4);
                dst[g * 32 + i] = d_group * (float)q - m_group;
            }
        }
    }
}

void quant_dequant_q6_k(const void *src, float *dst, size_t n)
{
    const struct quant_q6_k *b = src;
    for (; n >= QUANT_SUPER; n -= QUANT_SUPER, b++, dst += QUANT_SUPER) {
        float d = quant_f16_to_f32(b->d);
        for (unsigned i = 0; i < QUANT_SUPER; i++) {
            /* Each half of 128 is four runs of 32: runs 0 and 1 take the low nibbles of 64 bytes,
             * 2 and 3 the high ones; run r finds its upper bits at bits 2r of 32 bytes. */
            unsigned half = i / 128;
            unsigned run = i % 128 / 32;
            int low = (b->ql[half * 64 + run % 2 * 32 + i % 32] >> (run / 2 * 4)) & 15;
            int high = (b->qh[half * 32 + i % 32] >> (run * 2)) & 3;
            dst[i] = d * (float)b->scales[i / 16] * (float)((low | (high << 4)) - 32);
        }
    }
}

void quant_dequant_q8_k(const void *src, float *dst, size_t n)
{
    const struct quant_q8_k *b = src;
    for (; n >= QUANT_SUPER; n -= QUANT_SUPER, b++, dst += QUANT_SUPER) {
        float d;
        memcpy(&d, b->d, sizeof d);
        for (unsigned i = 0; i < QUANT_SUPER; i++) {
            dst[i] = d * (float)b->qs[i];
        }
    }
}
