/* Blocks of 256 in groups. First each group's best scale (and offset) alone, then the scales are
 * quantised themselves, then the block's f16 scales are solved for once more with everything else
 * fixed, and elements are rounded with what the file will really hold. */
#include "engine/quant/quantize_k.h"

#include "engine/quant/blocks.h"
#include "engine/quant/fit.h"
#include "engine/quant/formats.h"

#include <math.h>
#include <string.h>

#define GROUPS_MAX 16

/* A block as integers, the way all K types see it: x ~ d * scale[g] * q - dmin * min[g]. */
struct coded {
    int n_group;
    int group_len;
    quant_f16 d;
    quant_f16 dmin;
    int scale[GROUPS_MAX];
    int min[GROUPS_MAX];
    int8_t q[QUANT_SUPER];
};

static void weigh(const float *x, int n, float *w)
{
    float sum = 0;
    for (int i = 0; i < n; i++) {
        sum += x[i] * x[i];
    }
    float rms = sqrtf(sum / (float)n);
    for (int i = 0; i < n; i++) {
        w[i] = rms + fabsf(x[i]);
    }
}

static int clamp_round(float v, int lo, int hi)
{
    v = v < (float)lo ? (float)lo : v;
    v = v > (float)hi ? (float)hi : v;
    return (int)lrintf(v);
}

static void round_elements(struct coded *c, const float *x, int q_min, int q_max)
{
    float d = quant_f16_to_f32(c->d);
    float dmin = quant_f16_to_f32(c->dmin);
    for (int g = 0; g < c->n_group; g++) {
        int at = g * c->group_len;
        quant_fit_round(c->group_len, x + at, d * (float)c->scale[g], -dmin * (float)c->min[g],
                        q_min, q_max, c->q + at);
    }
}

/* d and dmin by least squares with scales, mins and elements as they are. */
static void refit_block(struct coded *c, const float *x, const float *w)
{
    double aa = 0;
    double ab = 0;
    double bb = 0;
    double xa = 0;
    double xb = 0;
    for (int i = 0; i < QUANT_SUPER; i++) {
        int g = i / c->group_len;
        double a = (double)(c->scale[g] * c->q[i]);
        double b = -(double)c->min[g];
        double wi = (double)w[i];
        aa += wi * a * a;
        ab += wi * a * b;
        bb += wi * b * b;
        xa += wi * a * (double)x[i];
        xb += wi * b * (double)x[i];
    }
    double det = aa * bb - ab * ab;
    double d = aa > 0 ? xa / aa : 0;
    double dmin = 0;
    if (det > 1e-9 * aa * bb) {
        d = (xa * bb - xb * ab) / det;
        dmin = (xb * aa - xa * ab) / det;
    }
    if (dmin >= 0 && (bb == 0 || dmin > 0)) {
        c->d = quant_f32_to_f16((float)d);
        c->dmin = quant_f32_to_f16((float)dmin);
    }
}

static double error_of(const struct coded *c, const float *x, const float *w)
{
    double sum = 0;
    float d = quant_f16_to_f32(c->d);
    float dmin = quant_f16_to_f32(c->dmin);
    for (int i = 0; i < QUANT_SUPER; i++) {
        int g = i / c->group_len;
        float diff = x[i] - (d * (float)c->scale[g] * (float)c->q[i] - dmin * (float)c->min[g]);
        sum += (double)(w[i] * diff * diff);
    }
    return sum;
}

/* Rounds elements, then tries once whether a refitted block scale serves better. */
static bool settle(struct coded *c, const float *x, const float *w, int q_min, int q_max)
{
    round_elements(c, x, q_min, q_max);
    struct coded again = *c;
    refit_block(&again, x, w);
    round_elements(&again, x, q_min, q_max);
    if (error_of(&again, x, w) < error_of(c, x, w)) {
        *c = again;
    }
    return isfinite(quant_f16_to_f32(c->d)) && isfinite(quant_f16_to_f32(c->dmin));
}

/* Groups with scale and min, both stored in 0…s_max, q in 0…q_max. */
static bool code_affine(struct coded *c, const float *x, int q_max, int s_max)
{
    float w[QUANT_SUPER];
    float scale[GROUPS_MAX];
    float min[GROUPS_MAX];
    float scale_max = 0;
    float min_max = 0;
    for (int g = 0; g < c->n_group; g++) {
        int at = g * c->group_len;
        float m;
        weigh(x + at, c->group_len, w + at);
        quant_fit_affine(c->group_len, x + at, w + at, q_max, 1, &scale[g], &m);
        min[g] = -m;
        scale_max = scale[g] > scale_max ? scale[g] : scale_max;
        min_max = min[g] > min_max ? min[g] : min_max;
    }
    c->d = quant_f32_to_f16(scale_max / (float)s_max);
    c->dmin = quant_f32_to_f16(min_max / (float)s_max);
    float d = quant_f16_to_f32(c->d);
    float dmin = quant_f16_to_f32(c->dmin);
    for (int g = 0; g < c->n_group; g++) {
        c->scale[g] = d > 0 ? clamp_round(scale[g] / d, 0, s_max) : 0;
        c->min[g] = dmin > 0 ? clamp_round(min[g] / dmin, 0, s_max) : 0;
    }
    return settle(c, x, w, 0, q_max);
}

/* Groups with a signed scale in s_min…s_max and no min, q in q_min…q_max. */
static bool code_symmetric(struct coded *c, const float *x, int q_min, int q_max, int s_min,
                           int s_max)
{
    float w[QUANT_SUPER];
    float scale[GROUPS_MAX];
    float largest = 0;
    for (int g = 0; g < c->n_group; g++) {
        int at = g * c->group_len;
        weigh(x + at, c->group_len, w + at);
        scale[g] = quant_fit_scale(c->group_len, x + at, w + at, q_min, q_max);
        largest = fabsf(scale[g]) > fabsf(largest) ? scale[g] : largest;
    }
    c->d = quant_f32_to_f16(largest / (float)s_min);
    c->dmin = 0;
    float d = quant_f16_to_f32(c->d);
    for (int g = 0; g < c->n_group; g++) {
        c->scale[g] = d != 0 ? clamp_round(scale[g] / d, s_min, s_max) : 0;
        c->min[g] = 0;
    }
    return settle(c, x, w, q_min, q_max);
}

/* Inverse of quant_k4_scale. */
static void pack_k4_scales(const struct coded *c, uint8_t out[12])
{
    for (int g = 0; g < 4; g++) {
        out[g] = (uint8_t)(c->scale[g] | (c->scale[g + 4] >> 4 << 6));
        out[g + 4] = (uint8_t)(c->min[g] | (c->min[g + 4] >> 4 << 6));
        out[g + 8] = (uint8_t)((c->scale[g + 4] & 15) | ((c->min[g + 4] & 15) << 4));
    }
}

/* Two bits of each element, four runs of 32 to 32 bytes. */
static void pack_crumbs(const int8_t q[QUANT_SUPER], int shift, uint8_t qs[64])
{
    for (int i = 0; i < 64; i++) {
        unsigned byte = 0;
        for (int run = 0; run < 4; run++) {
            byte |= ((unsigned)q[i / 32 * 128 + run * 32 + i % 32] >> shift & 3) << (2 * run);
        }
        qs[i] = (uint8_t)byte;
    }
}

bool quant_put_q2_k(const float *x, void *dst, size_t n)
{
    struct quant_q2_k *b = dst;
    bool ok = true;
    for (; n; n -= QUANT_SUPER, x += QUANT_SUPER, b++) {
        struct coded c = {.n_group = 16, .group_len = 16};
        ok = code_affine(&c, x, 3, 15) && ok;
        b->d = c.d;
        b->dmin = c.dmin;
        for (int g = 0; g < 16; g++) {
            b->scales[g] = (uint8_t)(c.scale[g] | (c.min[g] << 4));
        }
        pack_crumbs(c.q, 0, b->qs);
    }
    return ok;
}

bool quant_put_q3_k(const float *x, void *dst, size_t n)
{
    struct quant_q3_k *b = dst;
    bool ok = true;
    for (; n; n -= QUANT_SUPER, x += QUANT_SUPER, b++) {
        struct coded c = {.n_group = 16, .group_len = 16};
        ok = code_symmetric(&c, x, -4, 3, -32, 31) && ok;
        b->d = c.d;
        memset(b->hmask, 0, sizeof b->hmask);
        memset(b->scales, 0, sizeof b->scales);
        for (int i = 0; i < QUANT_SUPER; i++) {
            c.q[i] = (int8_t)(c.q[i] + 4);
            b->hmask[i % 32] |= (uint8_t)((c.q[i] >> 2) << (i / 32));
        }
        for (int g = 0; g < 16; g++) {
            int s = c.scale[g] + 32;
            b->scales[g & 7] |= (uint8_t)((s & 15) << (g < 8 ? 0 : 4));
            b->scales[8 + (g & 3)] |= (uint8_t)((s >> 4) << (2 * (g >> 2)));
        }
        pack_crumbs(c.q, 0, b->qs);
    }
    return ok;
}

/* Nibbles of groups 2k and 2k + 1 to 32 bytes. */
static void pack_k4_elements(const int8_t q[QUANT_SUPER], uint8_t qs[128])
{
    for (int i = 0; i < 128; i++) {
        int at = i / 32 * 64 + i % 32;
        qs[i] = (uint8_t)((q[at] & 15) | ((q[at + 32] & 15) << 4));
    }
}

bool quant_put_q4_k(const float *x, void *dst, size_t n)
{
    struct quant_q4_k *b = dst;
    bool ok = true;
    for (; n; n -= QUANT_SUPER, x += QUANT_SUPER, b++) {
        struct coded c = {.n_group = 8, .group_len = 32};
        ok = code_affine(&c, x, 15, 63) && ok;
        b->d = c.d;
        b->dmin = c.dmin;
        pack_k4_scales(&c, b->scales);
        pack_k4_elements(c.q, b->qs);
    }
    return ok;
}

bool quant_put_q5_k(const float *x, void *dst, size_t n)
{
    struct quant_q5_k *b = dst;
    bool ok = true;
    for (; n; n -= QUANT_SUPER, x += QUANT_SUPER, b++) {
        struct coded c = {.n_group = 8, .group_len = 32};
        ok = code_affine(&c, x, 31, 63) && ok;
        b->d = c.d;
        b->dmin = c.dmin;
        pack_k4_scales(&c, b->scales);
        pack_k4_elements(c.q, b->qs);
        memset(b->qh, 0, sizeof b->qh);
        for (int i = 0; i < QUANT_SUPER; i++) {
            b->qh[i % 32] |= (uint8_t)((c.q[i] >> 4) << (i / 32));
        }
    }
    return ok;
}

bool quant_put_q6_k(const float *x, void *dst, size_t n)
{
    struct quant_q6_k *b = dst;
    bool ok = true;
    for (; n; n -= QUANT_SUPER, x += QUANT_SUPER, b++) {
        struct coded c = {.n_group = 16, .group_len = 16};
        ok = code_symmetric(&c, x, -32, 31, -128, 127) && ok;
        b->d = c.d;
        for (int g = 0; g < 16; g++) {
            b->scales[g] = (int8_t)c.scale[g];
        }
        for (int i = 0; i < QUANT_SUPER; i++) {
            c.q[i] = (int8_t)(c.q[i] + 32);
        }
        for (int i = 0; i < 128; i++) { /* see quant_dequant_q6_k for the order */
            int at = i / 64 * 128 + i % 64;
            b->ql[i] = (uint8_t)((c.q[at] & 15) | ((c.q[at + 64] & 15) << 4));
        }
        pack_crumbs(c.q, 4, b->qh);
    }
    return ok;
}
