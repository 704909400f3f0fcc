/* Micro-scaled FP4, ternary and one- or two-bit types. */
#include "engine/quant/blocks.h"
#include "engine/quant/dequant.h"
#include "engine/quant/formats.h"

#include <math.h>

/* E2M1 values, doubled; block scales are halved to match. */
const int8_t quant_fp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

float quant_e8m0_half(uint8_t e)
{
    return ldexpf(1.0f, (int)e - 128);
}

float quant_ue4m3_half(uint8_t x)
{
    int exp = (x >> 3) & 15;
    int man = x & 7;
    if (x == 0x7f) {
        return 0.0f; /* NaN in E4M3; a block of it counts as zero */
    }
    return exp ? ldexpf((float)(8 + man), exp - 11) : ldexpf((float)man, -10);
}

void quant_dequant_mxfp4(const void *src, float *dst, size_t n)
{
    const struct quant_mxfp4 *b = src;
    for (; n >= QUANT_BLOCK; n -= QUANT_BLOCK, b++, dst += QUANT_BLOCK) {
        float d = quant_e8m0_half(b->e);
        for (unsigned i = 0; i < 16; i++) {
            dst[i] = (float)quant_fp4_values[b->qs[i] & 15] * d;
            dst[i + 16] = (float)quant_fp4_values[b->qs[i] >> 4] * d;
        }
    }
}

void quant_dequant_nvfp4(const void *src, float *dst, size_t n)
{
    const struct quant_nvfp4 *b = src;
    for (; n >= 64; n -= 64, b++, dst += 64) {
        for (unsigned g = 0; g < 4; g++) {
            float d = quant_ue4m3_half(b->d[g]);
            for (unsigned i = 0; i < 8; i++) {
                uint8_t q = b->qs[8 * g + i];
                dst[16 * g + i] = (float)quant_fp4_values[q & 15] * d;
                dst[16 * g + i + 8] = (float)quant_fp4_values[q >> 4] * d;
            }
        }
    }
}

void quant_dequant_q1_0(const void *src, float *dst, size_t n)
{
    const struct quant_q1_0 *b = src;
    for (; n >= 128; n -= 128, b++, dst += 128) {
        float d = quant_f16_to_f32(b->d);
        for (unsigned i = 0; i < 128; i++) {
            dst[i] = (b->qs[i / 8] >> (i % 8)) & 1 ? d : -d;
        }
    }
}

void quant_dequant_q2_0(const void *src, float *dst, size_t n)
{
    const struct quant_q2_0 *b = src;
    for (; n >= 64; n -= 64, b++, dst += 64) {
        float d = quant_f16_to_f32(b->d);
        for (unsigned i = 0; i < 64; i++) {
            dst[i] = (float)(((b->qs[i / 4] >> (i % 4 * 2)) & 3) - 1) * d;
        }
    }
}

/* Digit k of a byte that holds a fraction of 3^5: the digit is the integer part after k shifts. */
static int ternary_digit(uint8_t byte, unsigned k)
{
    static const uint8_t pow3[5] = {1, 3, 9, 27, 81};
    uint8_t shifted = (uint8_t)(byte * pow3[k]);
    return (shifted * 3) >> 8;
}

void quant_dequant_tq1_0(const void *src, float *dst, size_t n)
{
    const struct quant_tq1_0 *b = src;
    for (; n >= QUANT_SUPER; n -= QUANT_SUPER, b++, dst += QUANT_SUPER) {
        float d = quant_f16_to_f32(b->d);
        for (unsigned i = 0; i < 160; i++) { /* digit 0 of 32 bytes, digit 1 of them, … */
            dst[i] = (float)(ternary_digit(b->qs[i % 32], i / 32) - 1) * d;
        }
        for (unsigned i = 0; i < 80; i++) { /* 16 more bytes of five */
            dst[160 + i] = (float)(ternary_digit(b->qs[32 + i % 16], i / 16) - 1) * d;
        }
        for (unsigned i = 0; i < 16; i++) { /* 4 bytes of four */
            dst[240 + i] = (float)(ternary_digit(b->qh[i % 4], i / 4) - 1) * d;
        }
    }
}

void quant_dequant_tq2_0(const void *src, float *dst, size_t n)
{
    const struct quant_tq2_0 *b = src;
    for (; n >= QUANT_SUPER; n -= QUANT_SUPER, b++, dst += QUANT_SUPER) {
        float d = quant_f16_to_f32(b->d);
        for (unsigned i = 0; i < QUANT_SUPER; i++) {
            int q = (b->qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3;
            dst[i] = (float)(q - 1) * d;
        }
    }
}
