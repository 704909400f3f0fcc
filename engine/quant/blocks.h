/* The bytes of one block of each quantised type, as a GGUF file holds them (little-endian). Pure
 * layout; dequant_*.c says what the bytes mean. Alignment is 2 or less, so that a block may lie
 * anywhere a tensor's rows put it. Source: the GGUF specification's types (ggml). */
#ifndef ENGINE_QUANT_BLOCKS_H
#define ENGINE_QUANT_BLOCKS_H

#include "engine/quant/blocks_iq.h"

#include <assert.h>
#include <stdint.h>

#define QUANT_BLOCK 32  /* elements of a simple block */
#define QUANT_SUPER 256 /* elements of a K block */

/* x = d * (q - 8); low nibbles are elements 0…15, high nibbles 16…31. */
struct quant_q4_0 {
    quant_f16 d;
    uint8_t qs[16];
};
static_assert(sizeof(struct quant_q4_0) == 18, "file layout");

/* x = d * q + m; nibbles as above. */
struct quant_q4_1 {
    quant_f16 d;
    quant_f16 m;
    uint8_t qs[16];
};
static_assert(sizeof(struct quant_q4_1) == 20, "file layout");

/* x = d * (q - 16); bit i of qh is the fifth bit of element i. */
struct quant_q5_0 {
    quant_f16 d;
    uint8_t qh[4];
    uint8_t qs[16];
};
static_assert(sizeof(struct quant_q5_0) == 22, "file layout");

/* x = d * q + m. */
struct quant_q5_1 {
    quant_f16 d;
    quant_f16 m;
    uint8_t qh[4];
    uint8_t qs[16];
};
static_assert(sizeof(struct quant_q5_1) == 24, "file layout");

/* x = d * q. */
struct quant_q8_0 {
    quant_f16 d;
    int8_t qs[32];
};
static_assert(sizeof(struct quant_q8_0) == 34, "file layout");

/* x = d * q; s = d * sum(q), for dot products. Never a weight in practice. */
struct quant_q8_1 {
    quant_f16 d;
    quant_f16 s;
    int8_t qs[32];
};
static_assert(sizeof(struct quant_q8_1) == 36, "file layout");

/* 16 groups of 16: x = d * (scale & 15) * q - dmin * (scale >> 4), q of 2 bits. */
struct quant_q2_k {
    uint8_t scales[16];
    uint8_t qs[64];
    quant_f16 d;
    quant_f16 dmin;
};
static_assert(sizeof(struct quant_q2_k) == 84, "file layout");

/* 16 groups of 16: x = d * (scale - 32) * (q - 4), q of 2 bits in qs and a third in hmask, scales
 * of 6 bits: low nibbles in bytes 0…7, two high bits in bytes 8…11. */
struct quant_q3_k {
    uint8_t hmask[32];
    uint8_t qs[64];
    uint8_t scales[12];
    quant_f16 d;
};
static_assert(sizeof(struct quant_q3_k) == 110, "file layout");

/* 8 groups of 32: x = d * scale * q - dmin * min, scale and min of 6 bits (quant_k4_scale). */
struct quant_q4_k {
    quant_f16 d;
    quant_f16 dmin;
    uint8_t scales[12];
    uint8_t qs[128];
};
static_assert(sizeof(struct quant_q4_k) == 144, "file layout");

/* As Q4_K with a fifth bit: bit g of qh[i] belongs to element i of group g. */
struct quant_q5_k {
    quant_f16 d;
    quant_f16 dmin;
    uint8_t scales[12];
    uint8_t qh[32];
    uint8_t qs[128];
};
static_assert(sizeof(struct quant_q5_k) == 176, "file layout");

/* 16 groups of 16: x = d * scale * (q - 32), q of 4 bits in ql and 2 in qh. */
struct quant_q6_k {
    uint8_t ql[128];
    uint8_t qh[64];
    int8_t scales[16];
    quant_f16 d;
};
static_assert(sizeof(struct quant_q6_k) == 210, "file layout");

/* x = d * q with an f32 scale; bsums are sums of 16. Never a weight in practice. Bytes, so that it
 * needs no alignment either. */
struct quant_q8_k {
    uint8_t d[4];
    int8_t qs[256];
    uint8_t bsums[32];
};
static_assert(sizeof(struct quant_q8_k) == 292, "file layout");

/* Scale and min of group g of 8, packed 6 + 6 bits: groups 0…3 in the low six bits of bytes g and
 * g + 4; groups 4…7 in the nibbles of byte g + 4, their two high bits atop bytes g - 4 and g. */
static inline void quant_k4_scale(const uint8_t scales[12], unsigned g, uint8_t *ret_scale,
                                  uint8_t *ret_min)
{
    if (g < 4) {
        *ret_scale = scales[g] & 63;
        *ret_min = scales[g + 4] & 63;
    } else {
        *ret_scale = (uint8_t)((scales[g + 4] & 15) | ((scales[g - 4] >> 6) << 4));
        *ret_min = (uint8_t)((scales[g + 4] >> 4) | ((scales[g] >> 6) << 4));
    }
}

/* Scale of group g of 16 in a Q3_K block, -32…31. */
static inline int quant_q3_scale(const uint8_t scales[12], unsigned g)
{
    unsigned low = (scales[g & 7] >> (g < 8 ? 0 : 4)) & 15;
    unsigned high = (scales[8 + (g & 3)] >> (2 * (g >> 2))) & 3;
    return (int)(low | (high << 4)) - 32;
}

#endif
