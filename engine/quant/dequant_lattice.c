/* The codebook types of one to three bits: runs of elements are lattice points (lattice.h) with a
 * sign for each element. */
#include "engine/quant/blocks.h"
#include "engine/quant/dequant.h"
#include "engine/quant/formats.h"
#include "engine/quant/lattice.h"

#include <stdbool.h>
#include <string.h>

#define N_GROUP    8 /* of 32 elements in a block */
#define IQ1_DELTA  0.125f
#define RUN_POINTS 4 /* points of 8 in a group */

static const float iq2_values[4] = {8, 25, 43, 0};
static const float iq3_xxs_values[8] = {4, 12, 20, 28, 36, 44, 52, 62};

static uint32_t load_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Seven signs; the eighth makes the number of minuses even. */
static unsigned even_signs(unsigned seven)
{
    seven &= 127;
    return seven | (unsigned)__builtin_parity(seven) << 7;
}

static void put_point2(uint16_t point, float scale, unsigned signs, float *dst)
{
    for (unsigned i = 0; i < 8; i++) {
        float v = scale * iq2_values[point >> (2 * i) & 3];
        dst[i] = signs >> i & 1 ? -v : v;
    }
}

void quant_dequant_iq2_xxs(const void *src, float *dst, size_t n)
{
    const struct quant_iq2_xxs *b = src;
    for (; n >= QUANT_SUPER; n -= QUANT_SUPER, b++) {
        const float d = quant_f16_to_f32(b->d);
        for (unsigned g = 0; g < N_GROUP; g++) {
            const uint8_t *q = b->qs + 8 * (size_t)g;
            const uint32_t signs = load_u32(q + 4);
            const float scale = d * (0.5f + (float)(signs >> 28)) * 0.25f;
            for (unsigned i = 0; i < RUN_POINTS; i++, dst += 8) {
                put_point2(quant_lattice_iq2_xxs[q[i]], scale, even_signs(signs >> (7 * i)), dst);
            }
        }
    }
}

/* Scales of 4 bits for 16 elements: two a byte. */
static float iq2_scale(float d, const uint8_t *scales, unsigned run)
{
    return d * (0.5f + (float)(scales[run / 4] >> (run / 2 % 2 * 4) & 15)) * 0.25f;
}

void quant_dequant_iq2_xs(const void *src, float *dst, size_t n)
{
    const struct quant_iq2_xs *b = src;
    for (; n >= QUANT_SUPER; n -= QUANT_SUPER, b++) {
        const float d = quant_f16_to_f32(b->d);
        for (unsigned run = 0; run < N_GROUP * RUN_POINTS; run++, dst += 8) {
            const unsigned q = b->qs[run];
            put_point2(quant_lattice_iq2_xs[q & 511], iq2_scale(d, b->scales, run),
                       even_signs(q >> 9), dst);
        }
    }
}

void quant_dequant_iq2_s(const void *src, float *dst, size_t n)
{
    const struct quant_iq2_s *b = src;
    for (; n >= QUANT_SUPER; n -= QUANT_SUPER, b++) {
        const float d = quant_f16_to_f32(b->d);
        for (unsigned run = 0; run < N_GROUP * RUN_POINTS; run++, dst += 8) {
            const unsigned high = b->qh[run / 4] >> (run % 4 * 2) & 3;
            put_point2(quant_lattice_iq2_s[b->qs[run] | high << 8], iq2_scale(d, b->scales, run),
                       b->signs[run], dst);
        }
    }
}

void quant_dequant_iq3_xxs(const void *src, float *dst, size_t n)
{
    const struct quant_iq3_xxs *b = src;
    for (; n >= QUANT_SUPER; n -= QUANT_SUPER, b++) {
        const float d = quant_f16_to_f32(b->d);
        for (unsigned g = 0; g < N_GROUP; g++) {
            const uint32_t signs = load_u32(b->signs_scales + 4 * (size_t)g);
            const float scale = d * (0.5f + (float)(signs >> 28)) * 0.5f;
            for (unsigned i = 0; i < 32; i++, dst++) {
                const unsigned point = quant_lattice_iq3_xxs[b->qs[8 * g + i / 4]];
                const float v = scale * iq3_xxs_values[point >> (i % 4 * 3) & 7];
                *dst = even_signs(signs >> (i / 8 * 7)) >> i % 8 & 1 ? -v : v;
            }
        }
    }
}

void quant_dequant_iq3_s(const void *src, float *dst, size_t n)
{
    const struct quant_iq3_s *b = src;
    for (; n >= QUANT_SUPER; n -= QUANT_SUPER, b++) {
        const float d = quant_f16_to_f32(b->d);
        for (unsigned g = 0; g < N_GROUP; g++) {
            const unsigned s = b->scales[g / 2] >> (g % 2 * 4) & 15;
            const float scale = d * (float)(1 + 2 * s);
            for (unsigned i = 0; i < 32; i++, dst++) {
                const unsigned high = b->qh[g] >> i / 4 & 1;
                const unsigned point = quant_lattice_iq3_s[b->qs[8 * g + i / 4] | high << 8];
                const float v = scale * (float)(1 + 2 * (point >> (i % 4 * 3) & 7));
                *dst = b->signs[4 * g + i / 8] >> i % 8 & 1 ? -v : v;
            }
        }
    }
}

/* A shift of an eighth, up or down, for all elements of a point. */
static void put_point1(unsigned point, float scale, bool down, float *dst)
{
    const float delta = down ? -IQ1_DELTA : IQ1_DELTA;
    for (unsigned i = 0; i < 8; i++) {
        dst[i] = scale * ((float)(point >> (2 * i) & 3) - 1.0f + delta);
    }
}

void quant_dequant_iq1_s(const void *src, float *dst, size_t n)
{
    const struct quant_iq1_s *b = src;
    for (; n >= QUANT_SUPER; n -= QUANT_SUPER, b++) {
        const float d = quant_f16_to_f32(b->d);
        for (unsigned g = 0; g < N_GROUP; g++) {
            const unsigned qh = b->qh[g];
            const float scale = d * (float)(2 * (qh >> 12 & 7) + 1);
            for (unsigned i = 0; i < RUN_POINTS; i++, dst += 8) {
                const unsigned index = b->qs[4 * g + i] | (qh >> (3 * i) & 7) << 8;
                put_point1(quant_lattice_iq1_s[index], scale, qh >> 15, dst);
            }
        }
    }
}

void quant_dequant_iq1_m(const void *src, float *dst, size_t n)
{
    const struct quant_iq1_m *b = src;
    for (; n >= QUANT_SUPER; n -= QUANT_SUPER, b++) {
        uint16_t words[4];
        unsigned bits = 0;
        memcpy(words, b->scales, sizeof words);
        for (unsigned i = 0; i < 4; i++) {
            bits |= (unsigned)(words[i] >> 12) << (4 * i);
        }
        const float d = quant_f16_to_f32((uint16_t)bits);
        for (unsigned run = 0; run < N_GROUP * RUN_POINTS; run++, dst += 8) {
            const unsigned s = words[run / 8] >> (run / 2 % 4 * 3) & 7;
            const unsigned h = b->qh[run / 2] >> (run % 2 * 4) & 15;
            put_point1(quant_lattice_iq1_s[b->qs[run] | (h & 7) << 8], d * (float)(2 * s + 1),
                       h >> 3, dst);
        }
    }
}
