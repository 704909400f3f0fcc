/* Floats and the types with blocks of 32. */
#include "engine/quant/blocks.h"
#include "engine/quant/dequant.h"
#include "engine/quant/formats.h"

#include <string.h>

void quant_dequant_f32(const void *src, float *dst, size_t n)
{
    memcpy(dst, src, n * sizeof *dst);
}

void quant_dequant_f64(const void *src, float *dst, size_t n)
{
    const double *x = src;
    for (size_t i = 0; i < n; i++) {
        dst[i] = (float)x[i];
    }
}

void quant_dequant_f16(const void *src, float *dst, size_t n)
{
    const quant_f16 *x = src;
    for (size_t i = 0; i < n; i++) {
        dst[i] = quant_f16_to_f32(x[i]);
    }
}

void quant_dequant_bf16(const void *src, float *dst, size_t n)
{
    const uint16_t *x = src;
    for (size_t i = 0; i < n; i++) {
        dst[i] = quant_bf16_to_f32(x[i]);
    }
}

/* Element i of 32 nibbles: the low ones first. */
static int nibble(const uint8_t qs[16], unsigned i)
{
    return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
}

static int fifth_bit(const uint8_t qh[4], unsigned i)
{
    return ((qh[i / 8] >> (i % 8)) & 1) << 4;
}

void quant_dequant_q4_0(const void *src, float *dst, size_t n)
{
    const struct quant_q4_0 *b = src;
    for (; n >= QUANT_BLOCK; n -= QUANT_BLOCK, b++, dst += QUANT_BLOCK) {
        float d = quant_f16_to_f32(b->d);
        for (unsigned i = 0; i < QUANT_BLOCK; i++) {
            dst[i] = (float)(nibble(b->qs, i) - 8) * d;
        }
    }
}

void quant_dequant_q4_1(const void *src, float *dst, size_t n)
{
    const struct quant_q4_1 *b = src;
    for (; n >= QUANT_BLOCK; n -= QUANT_BLOCK, b++, dst += QUANT_BLOCK) {
        float d = quant_f16_to_f32(b->d);
        float m = quant_f16_to_f32(b->m);
        for (unsigned i = 0; i < QUANT_BLOCK; i++) {
            dst[i] = (float)nibble(b->qs, i) * d + m;
        }
    }
}

void quant_dequant_q5_0(const void *src, float *dst, size_t n)
{
    const struct quant_q5_0 *b = src;
    for (; n >= QUANT_BLOCK; n -= QUANT_BLOCK, b++, dst += QUANT_BLOCK) {
        float d = quant_f16_to_f32(b->d);
        for (unsigned i = 0; i < QUANT_BLOCK; i++) {
            dst[i] = (float)((nibble(b->qs, i) | fifth_bit(b->qh, i)) - 16) * d;
        }
    }
}

void quant_dequant_q5_1(const void *src, float *dst, size_t n)
{
    const struct quant_q5_1 *b = src;
    for (; n >= QUANT_BLOCK; n -= QUANT_BLOCK, b++, dst += QUANT_BLOCK) {
        float d = quant_f16_to_f32(b->d);
        float m = quant_f16_to_f32(b->m);
        for (unsigned i = 0; i < QUANT_BLOCK; i++) {
            dst[i] = (float)(nibble(b->qs, i) | fifth_bit(b->qh, i)) * d + m;
        }
    }
}

void quant_dequant_q8_0(const void *src, float *dst, size_t n)
{
    const struct quant_q8_0 *b = src;
    for (; n >= QUANT_BLOCK; n -= QUANT_BLOCK, b++, dst += QUANT_BLOCK) {
        float d = quant_f16_to_f32(b->d);
        for (unsigned i = 0; i < QUANT_BLOCK; i++) {
            dst[i] = (float)b->qs[i] * d;
        }
    }
}

void quant_dequant_q8_1(const void *src, float *dst, size_t n)
{
    const struct quant_q8_1 *b = src;
    for (; n >= QUANT_BLOCK; n -= QUANT_BLOCK, b++, dst += QUANT_BLOCK) {
        float d = quant_f16_to_f32(b->d);
        for (unsigned i = 0; i < QUANT_BLOCK; i++) {
            dst[i] = (float)b->qs[i] * d;
        }
    }
}
