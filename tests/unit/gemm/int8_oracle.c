#include "int8_oracle.h"

#include "engine/kernels/pack_block.h"
#include "engine/quant/blocks.h"
#include "engine/quant/formats.h"

#include <math.h>
#include <stdbool.h>

#define STEP 32

/* What a code means in group g of its block: w = scale · value + offset. */
struct meaning {
    bool is_signed; /* no offset */
    int value;
    float scale;
    float offset;
};

static int signed_value(enum gguf_type type, uint8_t code)
{
    return type == GGUF_TYPE_Q8_0 ? code - 128 : quant_iq4_values[code];
}

static struct meaning simple_meaning(enum gguf_type type, const struct pack_block *b, uint8_t code)
{
    struct meaning m = {.value = code, .scale = quant_f16_to_f32(b->d)};
    switch (type) {
    case GGUF_TYPE_Q4_0: m.offset = -8.0f * m.scale; break;
    case GGUF_TYPE_Q5_0: m.offset = -16.0f * m.scale; break;
    case GGUF_TYPE_Q4_1:
    case GGUF_TYPE_Q5_1: m.offset = quant_f16_to_f32(b->m); break;
    case GGUF_TYPE_MXFP4:
        m.scale = quant_e8m0_half((uint8_t)b->d);
        m.value = quant_fp4_values[code] + 12;
        m.offset = -12.0f * m.scale;
        break;
    default:
        m.is_signed = true;
        m.value = signed_value(type, code);
        break;
    }
    return m;
}

static struct meaning meaning_of(enum gguf_type type, const struct pack_block *b, uint32_t at)
{
    const float d = quant_f16_to_f32(b->d), dmin = quant_f16_to_f32(b->m);
    struct meaning m = {.value = b->code[at]};
    switch (type) {
    case GGUF_TYPE_Q4_K:
    case GGUF_TYPE_Q5_K:
        m.scale = d * (float)b->scale[at / 32];
        m.offset = -(dmin * (float)b->min[at / 32]);
        return m;
    case GGUF_TYPE_Q2_K:
        m.scale = d * (float)b->scale[at / 16];
        m.offset = -(dmin * (float)b->min[at / 16]);
        return m;
    case GGUF_TYPE_Q3_K:
        m.scale = d * (float)(b->scale[at / 16] - 32);
        m.offset = -4.0f * m.scale;
        return m;
    case GGUF_TYPE_Q6_K:
        m.scale = d * (float)(int8_t)b->scale[at / 16];
        m.offset = -32.0f * m.scale;
        return m;
    case GGUF_TYPE_IQ4_XS:
        m.is_signed = true;
        m.scale = d * (float)(b->scale[at / 32] - 32);
        m.value = signed_value(type, b->code[at]);
        return m;
    default: return simple_meaning(type, b, b->code[at]);
    }
}

static bool has_two_groups(enum gguf_type type)
{
    return type == GGUF_TYPE_Q2_K || type == GGUF_TYPE_Q3_K || type == GGUF_TYPE_Q6_K;
}

static float step_of(enum gguf_type type, const struct pack_block *b, uint32_t at, const float *x)
{
    float a = 0, f = 0;
    for (int i = 0; i < STEP; i++) {
        a = fabsf(x[i]) > a ? fabsf(x[i]) : a;
    }
    const float inverse = 127.0f / a;
    const int n_group = has_two_groups(type) ? 2 : 1;
    for (int g = 0; g < n_group; g++) {
        int dot = 0, sum = 0;
        struct meaning m = {0};
        for (int i = g * STEP / n_group; i < (g + 1) * STEP / n_group; i++) {
            int q = (int)nearbyintf(x[i] * inverse);
            m = meaning_of(type, b, at + (uint32_t)i);
            dot += m.value * q;
            sum += q;
        }
        f = g == 0 ? m.scale * (float)dot : fmaf(m.scale, (float)dot, f);
        f = m.is_signed ? f : fmaf(m.offset, (float)sum, f);
    }
    return f;
}

float int8_oracle(enum gguf_type type, const uint8_t *w, uint32_t n_in, const float *x)
{
    const struct quant_format *format = quant_format_of(type);
    float y = 0;
    for (uint32_t k = 0; k < n_in; k += format->n_block_elem) {
        struct pack_block b = {0};
        pack_block_read(type, w + (size_t)k / format->n_block_elem * format->n_block_byte, &b);
        for (uint32_t at = 0; at < format->n_block_elem; at += STEP) {
            float a = 0;
            for (int i = 0; i < STEP; i++) {
                a = fabsf(x[k + at + i]) > a ? fabsf(x[k + at + i]) : a;
            }
            y = fmaf(step_of(type, &b, at, x + k + at), a / 127.0f, y);
        }
    }
    return y;
}

double int8_oracle_error(const float *w, uint32_t n_in, const float *x)
{
    double error = 0;
    for (uint32_t k = 0; k < n_in; k += STEP) {
        float a = 0, size = 0;
        for (uint32_t i = k; i < k + STEP; i++) {
            a = fabsf(x[i]) > a ? fabsf(x[i]) : a;
            size += fabsf(w[i]);
        }
        error += 0.5001 / 127 * (double)a * (double)size;
    }
    return error;
}
