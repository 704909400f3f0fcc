/* blocks.h continued: the codebook, FP4, ternary and one- and two-bit types. */
#ifndef ENGINE_QUANT_BLOCKS_IQ_H
#define ENGINE_QUANT_BLOCKS_IQ_H

#include <assert.h>
#include <stdint.h>

typedef uint16_t quant_f16; /* the bits of an IEEE binary16 */

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

#endif
