/* The 4-bit types whose codes stand for sixteen uneven values. */
#include "engine/quant/quantize_iq4.h"

#include "engine/quant/blocks.h"
#include "engine/quant/formats.h"

#include <math.h>

#define N_VALUE    16
#define N_GROUP    8
#define SCALE_MAX  32 /* of an IQ4_XS group: -32…31 */
#define N_WIDER    10 /* candidate scales to either side of the one that just holds the largest */
#define STEP_WIDER 0.0125f
#define FP4_MAX    12.0f
#define E8M0_MAX   254

/* The code whose value is nearest to v; values ascend. */
static unsigned nearest_code(float v)
{
    unsigned code = 0;
    for (unsigned i = 0; i + 1 < N_VALUE; i++) {
        code += v > (float)(quant_iq4_values[i] + quant_iq4_values[i + 1]) * 0.5f;
    }
    return code;
}

/* Weighted least squares of x ~ d · values[code], code the nearest for 1 / d = inverse. Returns how
 * much of the squares d explains. */
static float fit_codes(const float *x, const float *w, float inverse, float *ret_d)
{
    float xq = 0, qq = 0;
    for (int i = 0; i < QUANT_BLOCK; i++) {
        float q = (float)quant_iq4_values[nearest_code(x[i] * inverse)];
        xq += w[i] * x[i] * q;
        qq += w[i] * q * q;
    }
    *ret_d = qq > 0 ? xq / qq : 0;
    return qq > 0 ? xq * *ret_d : 0;
}

/* The scale of 32 elements. The values are not symmetric, so that either sign may be better. */
static float fit_scale(const float *x)
{
    float part[QUANT_BLOCK], w[QUANT_BLOCK], square = 0, largest = 0, best = 0, best_d = 0;
    for (int i = 0; i < QUANT_BLOCK; i++) {
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    }
    if (!(largest > 1e-30f)) {
        return 0;
    }
    for (int i = 0; i < QUANT_BLOCK; i++) { /* of the largest, so that no square overflows */
        part[i] = x[i] / largest;
        square += part[i] * part[i];
    }
    for (int i = 0; i < QUANT_BLOCK; i++) {
        w[i] = sqrtf(square / QUANT_BLOCK) + fabsf(part[i]);
    }
    for (int c = -N_WIDER; c <= N_WIDER; c++) {
        float inverse = 120.0f * (1.0f + STEP_WIDER * (float)c), d;
        for (int sign = 0; sign < 2; sign++, inverse = -inverse) {
            float got = fit_codes(part, w, inverse, &d);
            if (got > best) {
                best = got;
                best_d = d;
            }
        }
    }
    return best_d * largest;
}

static void put_codes(const float *x, float d, uint8_t qs[16])
{
    const float inverse = d != 0 ? 1.0f / d : 0;
    for (int i = 0; i < 16; i++) {
        qs[i] = (uint8_t)(nearest_code(x[i] * inverse) | nearest_code(x[i + 16] * inverse) << 4);
    }
}

bool quant_put_iq4_nl(const float *x, void *dst, size_t n)
{
    struct quant_iq4_nl *b = dst;
    bool ok = true;
    for (; n; n -= QUANT_BLOCK, x += QUANT_BLOCK, b++) {
        b->d = quant_f32_to_f16(fit_scale(x));
        put_codes(x, quant_f16_to_f32(b->d), b->qs);
        ok = ok && isfinite(quant_f16_to_f32(b->d));
    }
    return ok;
}

bool quant_put_iq4_xs(const float *x, void *dst, size_t n)
{
    struct quant_iq4_xs *b = dst;
    bool ok = true;
    for (; n; n -= QUANT_SUPER, x += QUANT_SUPER, b++) {
        float scale[N_GROUP], largest = 0;
        for (int g = 0; g < N_GROUP; g++) {
            scale[g] = fit_scale(x + (size_t)QUANT_BLOCK * (size_t)g);
            largest = fabsf(scale[g]) > fabsf(largest) ? scale[g] : largest;
        }
        *b = (struct quant_iq4_xs){.d = quant_f32_to_f16(largest / -SCALE_MAX)};
        const float d = quant_f16_to_f32(b->d);
        ok = ok && isfinite(d);
        unsigned high = 0;
        for (unsigned g = 0; ok && g < N_GROUP; g++) {
            float s = d != 0 ? rintf(scale[g] / d) : 0;
            s = s < -SCALE_MAX ? -SCALE_MAX : s > SCALE_MAX - 1 ? SCALE_MAX - 1 : s;
            const unsigned code = (unsigned)((int)s + SCALE_MAX);
            b->scales_l[g / 2] |= (uint8_t)((code & 15) << (g % 2 * 4));
            high |= code >> 4 << (2 * g);
            put_codes(x + (size_t)QUANT_BLOCK * g, d * s, b->qs + 16 * (size_t)g);
        }
        b->scales_h = (uint16_t)high;
    }
    return ok;
}

/* Codes of E2M1 for 1 / scale = inverse; returns the squares of what they miss. */
static float put_fp4(const float *x, float scale, uint8_t code[QUANT_BLOCK])
{
    const float inverse = 1.0f / scale;
    float missed = 0;
    for (int i = 0; i < QUANT_BLOCK; i++) {
        const float v = fabsf(x[i]) * inverse;
        unsigned c = 0;
        for (unsigned k = 0; k < 7; k++) {
            c += v > (float)(quant_fp4_values[k] + quant_fp4_values[k + 1]) * 0.5f;
        }
        const float off = fabsf(x[i]) - scale * (float)quant_fp4_values[c];
        missed += off * off;
        code[i] = (uint8_t)(x[i] < 0 && c ? c | 8 : c);
    }
    return missed;
}

/* The exponent of the three about the largest element that misses least. */
bool quant_put_mxfp4(const float *x, void *dst, size_t n)
{
    struct quant_mxfp4 *b = dst;
    for (; n; n -= QUANT_BLOCK, x += QUANT_BLOCK, b++) {
        uint8_t code[QUANT_BLOCK] = {0};
        float largest = 0, best = INFINITY;
        for (int i = 0; i < QUANT_BLOCK; i++) {
            largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
        }
        b->e = 0;
        if (largest > 0x1p-110f) {
            int exponent;
            (void)frexpf(largest / FP4_MAX, &exponent);
            for (int e = 128 + exponent - 1; e <= 128 + exponent + 1 && e <= E8M0_MAX; e++) {
                uint8_t trial[QUANT_BLOCK];
                float missed = put_fp4(x, quant_e8m0_half((uint8_t)e), trial);
                if (missed < best) {
                    best = missed;
                    b->e = (uint8_t)e;
                    for (int i = 0; i < QUANT_BLOCK; i++) {
                        code[i] = trial[i];
                    }
                }
            }
        }
        for (int i = 0; i < 16; i++) {
            b->qs[i] = (uint8_t)(code[i] | code[i + 16] << 4);
        }
    }
    return true;
}
