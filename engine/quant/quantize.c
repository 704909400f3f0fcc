/* Floats and the types with blocks of 32; the table of all. */
#include "engine/quant/quantize.h"

#include "engine/quant/blocks.h"
#include "engine/quant/fit.h"
#include "engine/quant/formats.h"
#include "engine/quant/quantize_iq4.h"
#include "engine/quant/quantize_k.h"

#include <math.h>
#include <string.h>

/* Elements count a little more the larger they are, as the K types do it. */
static void weigh(const float *x, float *w)
{
    float sum = 0;
    for (int i = 0; i < QUANT_BLOCK; i++) {
        sum += x[i] * x[i];
    }
    float rms = sqrtf(sum / QUANT_BLOCK);
    for (int i = 0; i < QUANT_BLOCK; i++) {
        w[i] = rms + fabsf(x[i]);
    }
}

static bool put_f32(const float *x, void *dst, size_t n)
{
    memcpy(dst, x, n * sizeof *x);
    return true;
}

static bool put_f16(const float *x, void *dst, size_t n)
{
    uint16_t *h = dst;
    for (size_t i = 0; i < n; i++) {
        h[i] = quant_f32_to_f16(x[i]);
    }
    return true;
}

static bool put_bf16(const float *x, void *dst, size_t n)
{
    uint16_t *h = dst;
    for (size_t i = 0; i < n; i++) {
        h[i] = quant_f32_to_bf16(x[i]);
    }
    return true;
}

/* Low nibbles of 32 values to 16 bytes, fifth bits to 4 more (NULL where there are none). */
static void pack_nibbles(const int8_t q[QUANT_BLOCK], uint8_t qs[16], uint8_t *qh)
{
    for (int i = 0; i < 16; i++) {
        qs[i] = (uint8_t)((q[i] & 15) | ((q[i + 16] & 15) << 4));
    }
    for (int i = 0; qh && i < 4; i++) {
        unsigned bits = 0;
        for (int k = 0; k < 8; k++) {
            bits |= ((unsigned)q[8 * i + k] >> 4 & 1) << k;
        }
        qh[i] = (uint8_t)bits;
    }
}

/* Scale and codes 0…2 * half - 1 of a block that is symmetric about `half`. */
static quant_f16 code_symmetric(const float *x, int half, int8_t q[QUANT_BLOCK])
{
    float w[QUANT_BLOCK];
    weigh(x, w);
    quant_f16 d = quant_f32_to_f16(quant_fit_scale(QUANT_BLOCK, x, w, -half, half - 1));
    quant_fit_round(QUANT_BLOCK, x, quant_f16_to_f32(d), 0, -half, half - 1, q);
    for (int i = 0; i < QUANT_BLOCK; i++) {
        q[i] = (int8_t)(q[i] + half);
    }
    return d;
}

static void code_affine(const float *x, int q_max, quant_f16 *ret_d, quant_f16 *ret_m,
                        int8_t q[QUANT_BLOCK])
{
    float w[QUANT_BLOCK];
    float d;
    float m;
    weigh(x, w);
    quant_fit_affine(QUANT_BLOCK, x, w, q_max, 0, &d, &m);
    *ret_d = quant_f32_to_f16(d);
    *ret_m = quant_f32_to_f16(m);
    quant_fit_round(QUANT_BLOCK, x, quant_f16_to_f32(*ret_d), quant_f16_to_f32(*ret_m), 0, q_max,
                    q);
}

static bool put_q4_0(const float *x, void *dst, size_t n)
{
    struct quant_q4_0 *b = dst;
    int8_t q[QUANT_BLOCK];
    bool ok = true;
    for (; n; n -= QUANT_BLOCK, x += QUANT_BLOCK, b++) {
        b->d = code_symmetric(x, 8, q);
        pack_nibbles(q, b->qs, NULL);
        ok = ok && isfinite(quant_f16_to_f32(b->d));
    }
    return ok;
}

static bool put_q5_0(const float *x, void *dst, size_t n)
{
    struct quant_q5_0 *b = dst;
    int8_t q[QUANT_BLOCK];
    bool ok = true;
    for (; n; n -= QUANT_BLOCK, x += QUANT_BLOCK, b++) {
        b->d = code_symmetric(x, 16, q);
        pack_nibbles(q, b->qs, b->qh);
        ok = ok && isfinite(quant_f16_to_f32(b->d));
    }
    return ok;
}

static bool put_q4_1(const float *x, void *dst, size_t n)
{
    struct quant_q4_1 *b = dst;
    int8_t q[QUANT_BLOCK];
    bool ok = true;
    for (; n; n -= QUANT_BLOCK, x += QUANT_BLOCK, b++) {
        code_affine(x, 15, &b->d, &b->m, q);
        pack_nibbles(q, b->qs, NULL);
        ok = ok && isfinite(quant_f16_to_f32(b->d)) && isfinite(quant_f16_to_f32(b->m));
    }
    return ok;
}

static bool put_q5_1(const float *x, void *dst, size_t n)
{
    struct quant_q5_1 *b = dst;
    int8_t q[QUANT_BLOCK];
    bool ok = true;
    for (; n; n -= QUANT_BLOCK, x += QUANT_BLOCK, b++) {
        code_affine(x, 31, &b->d, &b->m, q);
        pack_nibbles(q, b->qs, b->qh);
        ok = ok && isfinite(quant_f16_to_f32(b->d)) && isfinite(quant_f16_to_f32(b->m));
    }
    return ok;
}

/* 8 bits leave nothing to search for. */
static bool put_q8_0(const float *x, void *dst, size_t n)
{
    struct quant_q8_0 *b = dst;
    bool ok = true;
    for (; n; n -= QUANT_BLOCK, x += QUANT_BLOCK, b++) {
        float largest = 0;
        for (int i = 0; i < QUANT_BLOCK; i++) {
            largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
        }
        b->d = quant_f32_to_f16(largest / 127.0f);
        float d = quant_f16_to_f32(b->d);
        quant_fit_round(QUANT_BLOCK, x, d, 0, -127, 127, b->qs);
        ok = ok && isfinite(d);
    }
    return ok;
}

static bool (*const writers[GGUF_TYPE_END])(const float *, void *, size_t) = {
    [GGUF_TYPE_F32] = put_f32,
    [GGUF_TYPE_F16] = put_f16,
    [GGUF_TYPE_BF16] = put_bf16,
    [GGUF_TYPE_Q8_0] = put_q8_0,
    [GGUF_TYPE_Q4_0] = put_q4_0,
    [GGUF_TYPE_Q4_1] = put_q4_1,
    [GGUF_TYPE_Q5_0] = put_q5_0,
    [GGUF_TYPE_Q5_1] = put_q5_1,
    [GGUF_TYPE_Q2_K] = quant_put_q2_k,
    [GGUF_TYPE_Q3_K] = quant_put_q3_k,
    [GGUF_TYPE_Q4_K] = quant_put_q4_k,
    [GGUF_TYPE_Q5_K] = quant_put_q5_k,
    [GGUF_TYPE_Q6_K] = quant_put_q6_k,
    [GGUF_TYPE_IQ4_NL] = quant_put_iq4_nl,
    [GGUF_TYPE_IQ4_XS] = quant_put_iq4_xs,
    [GGUF_TYPE_MXFP4] = quant_put_mxfp4,
};

bool quant_can_quantize(enum gguf_type type)
{
    return (uint32_t)type < GGUF_TYPE_END && writers[type];
}

static bool all_finite(const float *x, size_t n)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        bad |= (u & 0x7f800000u) == 0x7f800000u;
    }
    return !bad;
}

bool quant_quantize(enum gguf_type type, const float *src, void *dst, size_t n)
{
    if (!quant_can_quantize(type) || n % quant_format_of(type)->n_block_elem) {
        return false;
    }
    bool plain = quant_format_of(type)->n_block_elem == 1;
    return (plain || all_finite(src, n)) && writers[type](src, dst, n);
}
