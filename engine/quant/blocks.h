/* The bytes of one block of each quantised type, as a GGUF file holds them (little-endian). Pure
 * layout; dequant_*.c says what the bytes mean. Alignment is 2 or less, so that a block may lie
 * anywhere a tensor's rows put it. Source: the GGUF specification's types (ggml). */
#ifndef ENGINE_QUANT_BLOCKS_H
#define ENGINE_QUANT_BLOCKS_H

#include <assert.h>
#include <stdint.h>

typedef uint16_t quant_f16; /* the bits of an IEEE binary16 */

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

/* x = d * quant_iq4_values[q]; nibbles as in Q4_0. */
struct quant_iq4_nl {
    quant_f16 d;
    uint8_t qs[16];
};
static_assert(sizeof(struct quant_iq4_nl) == 18, "file layout");

/* 8 groups of 32, each as IQ4_NL with d * (scale - 32), scale of 6 bits. */
struct quant_iq4_xs {
    quant_f16 d;
    uint16_t scales_h;
    uint8_t scales_l[4];
    uint8_t qs[128];
};
static_assert(sizeof(struct quant_iq4_xs) == 136, "file layout");

/* 8 groups of 32: 4 grid indices, then 32 bits of 4 × 7 signs and a scale of 4 bits. */
struct quant_iq2_xxs {
    quant_f16 d;
    uint8_t qs[64];
};
static_assert(sizeof(struct quant_iq2_xxs) == 66, "file layout");

/* 32 runs of 8: 9 bits of grid index, 7 signs; a scale of 4 bits for 16 elements. */
struct quant_iq2_xs {
    quant_f16 d;
    uint16_t qs[32];
    uint8_t scales[8];
};
static_assert(sizeof(struct quant_iq2_xs) == 74, "file layout");

/* 32 runs of 8: 8 + 2 bits of grid index, 8 signs; a scale of 4 bits for 16 elements. */
struct quant_iq2_s {
    quant_f16 d;
    uint8_t qs[32];
    uint8_t signs[32];
    uint8_t qh[8];
    uint8_t scales[8];
};
static_assert(sizeof(struct quant_iq2_s) == 82, "file layout");

/* 64 grid indices of 4 elements; for each 32 elements 4 × 7 signs and a scale of 4 bits. */
struct quant_iq3_xxs {
    quant_f16 d;
    uint8_t qs[64];
    uint8_t signs_scales[32];
};
static_assert(sizeof(struct quant_iq3_xxs) == 98, "file layout");

/* 64 grid indices of 8 + 1 bits, 8 signs a run, a scale of 4 bits for 32 elements. */
struct quant_iq3_s {
    quant_f16 d;
    uint8_t qs[64];
    uint8_t qh[8];
    uint8_t signs[32];
    uint8_t scales[4];
};
static_assert(sizeof(struct quant_iq3_s) == 110, "file layout");

/* 32 runs of 8: 8 + 3 bits of grid index; scale and shift for 32 elements. */
struct quant_iq1_s {
    quant_f16 d;
    uint8_t qs[32];
    uint16_t qh[8];
};
static_assert(sizeof(struct quant_iq1_s) == 50, "file layout");

/* As IQ1_S with a scale for 16 elements and a shift for 8; the block's f16 scale lies in the top
 * nibbles of the four 16-bit words of scales. */
struct quant_iq1_m {
    uint8_t qs[32];
    uint8_t qh[16];
    uint8_t scales[8];
};
static_assert(sizeof(struct quant_iq1_m) == 56, "file layout");

/* x = 2^(e - 128) * quant_fp4_values[q]; nibbles as in Q4_0. Source: OCP MX specification 1.0. */
struct quant_mxfp4 {
    uint8_t e;
    uint8_t qs[16];
};
static_assert(sizeof(struct quant_mxfp4) == 17, "file layout");

/* 4 groups of 16, each with an unsigned E4M3 scale; low nibbles are its first 8 elements. */
struct quant_nvfp4 {
    uint8_t d[4];
    uint8_t qs[32];
};
static_assert(sizeof(struct quant_nvfp4) == 36, "file layout");

/* 128 signs: x = d for a 1, -d for a 0. */
struct quant_q1_0 {
    quant_f16 d;
    uint8_t qs[16];
};
static_assert(sizeof(struct quant_q1_0) == 18, "file layout");

/* 64 elements: x = d * (q - 1), q of 2 bits, four neighbours a byte. */
struct quant_q2_0 {
    quant_f16 d;
    uint8_t qs[16];
};
static_assert(sizeof(struct quant_q2_0) == 18, "file layout");

/* Ternary digits, x = d * (digit - 1): five a byte of qs, four a byte of qh. */
struct quant_tq1_0 {
    uint8_t qs[48];
    uint8_t qh[4];
    quant_f16 d;
};
static_assert(sizeof(struct quant_tq1_0) == 54, "file layout");

/* x = d * (q - 1), q of 2 bits. */
struct quant_tq2_0 {
    uint8_t qs[64];
    quant_f16 d;
};
static_assert(sizeof(struct quant_tq2_0) == 66, "file layout");

extern const int8_t quant_iq4_values[16];
extern const int8_t quant_fp4_values[16]; /* E2M1 doubled */

float quant_e8m0_half(uint8_t e);  /* half of the E8M0 scale: 2^(e - 128) */
float quant_ue4m3_half(uint8_t x); /* half of the unsigned E4M3 scale */

/* Scale of group g of 8 in an IQ4_XS block, -32…31. */
static inline int quant_iq4_xs_scale(const struct quant_iq4_xs *b, unsigned g)
{
    unsigned low = (b->scales_l[g / 2] >> (g % 2 * 4)) & 15;
    return (int)(low | (((unsigned)b->scales_h >> (2 * g) & 3) << 4)) - 32;
}

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
