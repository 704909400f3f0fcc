/* How tokens lie in a chunk: the same bytes on every instruction set. */
#include "engine/kernels/attention_impl.h"

#include <float.h>
#include <math.h>
#include <string.h>

static uint32_t per_lane(enum eng_kv_type type)
{
    return type == ENG_KV_INT8 ? 4 : type == ENG_KV_BF16 ? 2 : 1;
}

void att_layer_init(struct att_layer *layer, enum eng_kv_type type, uint32_t n_kv_head,
                    uint32_t d_k, uint32_t d_v, uint32_t chunk_tok)
{
    uint32_t q = per_lane(type);
    uint32_t d_pad = type == ENG_KV_F32 ? d_k : (d_k + 31) / 32 * 32;
    layer->n_kv_head = n_kv_head;
    layer->d_k = d_k;
    layer->d_v = d_v;
    layer->k_pad = d_pad;
    layer->k_rows = d_pad / q;
    layer->v_tiles = (d_v + 15) / 16;
    layer->k_group_bytes = (size_t)layer->k_rows * ATT_ROW_BYTES;
    layer->v_group_bytes = (size_t)layer->v_tiles * (ATT_V_GROUP / q) * ATT_ROW_BYTES;
    layer->v_off = chunk_tok / ATT_K_GROUP * layer->k_group_bytes;
    layer->k_scale_off = layer->v_off + chunk_tok / ATT_V_GROUP * layer->v_group_bytes;
    size_t scale_bytes = type == ENG_KV_INT8 ? chunk_tok * sizeof(uint16_t) : 0;
    layer->v_scale_off = layer->k_scale_off + scale_bytes;
    layer->head_bytes = layer->v_scale_off + scale_bytes;
}

size_t att_layer_tok_bytes(const struct att_layer *layer, enum eng_kv_type type)
{
    return layer->k_group_bytes / ATT_K_GROUP + layer->v_group_bytes / ATT_V_GROUP +
           (type == ENG_KV_INT8 ? 2 * sizeof(uint16_t) : 0);
}

static uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static uint16_t bf16_of(float x)
{
    uint32_t u = bits_of(x);
    if ((u & 0x7fffffffU) > 0x7f800000U) {
        return (uint16_t)(u >> 16 | 0x40); /* NaN stays one */
    }
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static float clamped(float x)
{
    return x > ATT_V_MAX ? ATT_V_MAX : x >= -ATT_V_MAX ? x : -ATT_V_MAX;
}

float att_int8_inverse(const float *x, uint32_t n, uint16_t *ret_scale)
{
    float max = 0;
    for (uint32_t i = 0; i < n; i++) {
        float a = fabsf(clamped(x[i]));
        max = a > max ? a : max;
    }
    uint32_t u = bits_of(max / 127.0F);
    u = (u + 0xffff) & 0xffff0000U;
    u = u < bits_of(FLT_MIN) ? 0 : u;
    float scale;
    memcpy(&scale, &u, sizeof scale);
    *ret_scale = (uint16_t)(u >> 16);
    return u ? 1.0F / scale : 0;
}

static uint8_t int8_of(float x, float inverse)
{
    float r = rintf(clamped(x) * inverse);
    r = r > 127 ? 127 : r < -127 ? -127 : r;
    return (uint8_t)(int8_t)r;
}

static void write_f32(const struct att_layer *layer, uint8_t *k_at, uint8_t *v_at, const float *k,
                      const float *v)
{
    for (uint32_t i = 0; i < layer->d_k; i++) {
        memcpy(k_at + (size_t)i * ATT_ROW_BYTES, &k[i], sizeof *k);
    }
    for (uint32_t i = 0; i < layer->v_tiles * 16; i++) {
        float x = i < layer->d_v ? clamped(v[i]) : 0;
        memcpy(v_at + (size_t)(i / 16) * ATT_V_GROUP * ATT_ROW_BYTES + (size_t)(i % 16) * 4, &x,
               sizeof x);
    }
}

static void write_bf16(const struct att_layer *layer, uint8_t *k_at, uint8_t *v_at, const float *k,
                       const float *v)
{
    for (uint32_t i = 0; i < layer->k_rows; i++) {
        uint16_t x[2] = {2 * i < layer->d_k ? bf16_of(k[(size_t)2 * i]) : 0,
                         2 * i + 1 < layer->d_k ? bf16_of(k[(size_t)2 * i + 1]) : 0};
        memcpy(k_at + (size_t)i * ATT_ROW_BYTES, x, sizeof x);
    }
    for (uint32_t i = 0; i < layer->v_tiles * 16; i++) {
        uint16_t x = i < layer->d_v ? bf16_of(clamped(v[i])) : 0;
        memcpy(v_at + (size_t)(i / 16) * (ATT_V_GROUP / 2) * ATT_ROW_BYTES + (size_t)(i % 16) * 4,
               &x, sizeof x);
    }
}

static void write_int8(const struct att_layer *layer, uint8_t *k_at, uint8_t *v_at, float k_inverse,
                       float v_inverse, const float *k, const float *v)
{
    for (uint32_t i = 0; i < layer->k_rows; i++) {
        uint8_t x[4] = {0};
        for (uint32_t j = 0; j < 4 && 4 * i + j < layer->d_k; j++) {
            x[j] = int8_of(k[(size_t)4 * i + j], k_inverse);
        }
        memcpy(k_at + (size_t)i * ATT_ROW_BYTES, x, sizeof x);
    }
    for (uint32_t i = 0; i < layer->v_tiles * 16; i++) {
        v_at[(size_t)(i / 16) * (ATT_V_GROUP / 4) * ATT_ROW_BYTES + (size_t)(i % 16) * 4] =
            i < layer->d_v ? int8_of(v[i], v_inverse) : 0;
    }
}

void att_kv_write(const struct att_layer *layer, enum eng_kv_type type, uint8_t *head, uint32_t t,
                  const float *k, const float *v)
{
    uint32_t q = per_lane(type);
    uint32_t in_v = t % ATT_V_GROUP;
    uint8_t *k_at = head + t / ATT_K_GROUP * layer->k_group_bytes + (size_t)(t % ATT_K_GROUP) * 4;
    uint8_t *v_at = head + layer->v_off + t / ATT_V_GROUP * layer->v_group_bytes +
                    (size_t)(in_v / q) * ATT_ROW_BYTES + in_v % q * (4 / q);
    if (type == ENG_KV_F32) {
        write_f32(layer, k_at, v_at, k, v);
    } else if (type == ENG_KV_BF16) {
        write_bf16(layer, k_at, v_at, k, v);
    } else {
        uint16_t scale[2];
        float k_inverse = att_int8_inverse(k, layer->d_k, &scale[0]);
        float v_inverse = att_int8_inverse(v, layer->d_v, &scale[1]);
        memcpy(head + layer->k_scale_off + t * sizeof *scale, &scale[0], sizeof *scale);
        memcpy(head + layer->v_scale_off + t * sizeof *scale, &scale[1], sizeof *scale);
        write_int8(layer, k_at, v_at, k_inverse, v_inverse, k, v);
    }
}

void att_v_group_copy(const struct att_layer *layer, enum eng_kv_type type, void *dst,
                      const void *src, uint32_t n_tok)
{
    uint32_t q = per_lane(type);
    uint32_t rows = ATT_V_GROUP / q;
    uint32_t n_whole = n_tok / q; /* rows of written tokens alone */
    /* Of the row that n_tok cuts: the low bytes of each lane, whatever the byte order says. */
    uint32_t n_byte = n_tok % q * (4 / q);
    for (uint32_t tile = 0; tile < layer->v_tiles; tile++) {
        uint8_t *to = (uint8_t *)dst + (size_t)tile * rows * ATT_ROW_BYTES;
        const uint8_t *from = (const uint8_t *)src + (size_t)tile * rows * ATT_ROW_BYTES;
        memcpy(to, from, (size_t)n_whole * ATT_ROW_BYTES);
        memset(to + (size_t)n_whole * ATT_ROW_BYTES, 0, (size_t)(rows - n_whole) * ATT_ROW_BYTES);
        if (!n_byte) {
            continue;
        }
        to += (size_t)n_whole * ATT_ROW_BYTES;
        from += (size_t)n_whole * ATT_ROW_BYTES;
        for (uint32_t lane = 0; lane < 16; lane++) {
            memcpy(to + (size_t)lane * 4, from + (size_t)lane * 4, n_byte);
        }
    }
}
