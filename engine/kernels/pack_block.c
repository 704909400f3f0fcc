#include "engine/kernels/pack_block.h"

#include "engine/quant/blocks.h"

#include <assert.h>
#include <string.h>

bool pack_block_known(enum gguf_type type)
{
    switch (type) {
    case GGUF_TYPE_Q4_0:
    case GGUF_TYPE_Q4_1:
    case GGUF_TYPE_Q5_0:
    case GGUF_TYPE_Q5_1:
    case GGUF_TYPE_Q8_0:
    case GGUF_TYPE_IQ4_NL:
    case GGUF_TYPE_MXFP4:
    case GGUF_TYPE_Q2_K:
    case GGUF_TYPE_Q3_K:
    case GGUF_TYPE_Q4_K:
    case GGUF_TYPE_Q5_K:
    case GGUF_TYPE_Q6_K:
    case GGUF_TYPE_IQ4_XS: return true;
    default: return false;
    }
}

/* 32 nibbles: elements 0…15 low, 16…31 high. */
static void nibbles_read(const uint8_t qs[16], uint8_t *code)
{
    for (int i = 0; i < 16; i++) {
        code[i] = qs[i] & 15;
        code[i + 16] = qs[i] >> 4;
    }
}

static void nibbles_write(const uint8_t *code, uint8_t qs[16])
{
    for (int i = 0; i < 16; i++) {
        qs[i] = (uint8_t)(code[i] | (code[i + 16] << 4));
    }
}

static void fifths_read(const uint8_t qh[4], uint8_t *code)
{
    for (int i = 0; i < 4; i++) { /* bit k of a byte to bit 4 of byte k of a word */
        uint64_t v = qh[i] * 0x0101010101010101ULL & 0x8040201008040201ULL, low;
        v = (v + 0x7f7f7f7f7f7f7f7fULL) >> 3 & 0x1010101010101010ULL;
        memcpy(&low, code + 8 * i, sizeof low);
        low |= v;
        memcpy(code + 8 * i, &low, sizeof low);
    }
}

static void fifths_write(const uint8_t *code, uint8_t qs[16], uint8_t qh[4])
{
    uint8_t low[32];
    memset(qh, 0, 4);
    for (int i = 0; i < 32; i++) {
        low[i] = code[i] & 15;
        qh[i / 8] |= (uint8_t)((code[i] >> 4) << (i % 8));
    }
    nibbles_write(low, qs);
}

/* 8 groups of 32 nibbles: a pair of groups shares 32 bytes, the first in the low halves. */
static void pairs_read(const uint8_t *qs, uint8_t *code)
{
    for (int p = 0; p < 4; p++) {
        for (int i = 0; i < 32; i++) {
            code[64 * p + i] = qs[32 * p + i] & 15;
            code[64 * p + 32 + i] = qs[32 * p + i] >> 4;
        }
    }
}

static void pairs_write(const uint8_t *code, uint8_t *qs)
{
    for (int p = 0; p < 4; p++) {
        for (int i = 0; i < 32; i++) {
            qs[32 * p + i] =
                (uint8_t)((code[64 * p + i] & 15) | ((code[64 * p + 32 + i] & 15) << 4));
        }
    }
}

static void k4_scales_write(const struct pack_block *b, uint8_t scales[12])
{
    for (int g = 0; g < 4; g++) {
        scales[g] = (uint8_t)(b->scale[g] | ((b->scale[g + 4] >> 4) << 6));
        scales[g + 4] = (uint8_t)(b->min[g] | ((b->min[g + 4] >> 4) << 6));
        scales[g + 8] = (uint8_t)((b->scale[g + 4] & 15) | ((b->min[g + 4] & 15) << 4));
    }
}

static void k4_scales_read(const uint8_t scales[12], struct pack_block *b)
{
    for (unsigned g = 0; g < 8; g++) {
        quant_k4_scale(scales, g, &b->scale[g], &b->min[g]);
    }
}

/* Two bits per element: four runs of 32 share 32 bytes, run r at bits 2r. */
static void twos_read(const uint8_t qs[64], uint8_t *code)
{
    for (int half = 0; half < 2; half++) {
        for (int run = 0; run < 4; run++) {
            for (int i = 0; i < 32; i++) {
                code[128 * half + 32 * run + i] = (qs[32 * half + i] >> (2 * run)) & 3;
            }
        }
    }
}

static void twos_write(const uint8_t *code, uint8_t qs[64])
{
    memset(qs, 0, 64);
    for (int half = 0; half < 2; half++) {
        for (int run = 0; run < 4; run++) {
            for (int i = 0; i < 32; i++) {
                qs[32 * half + i] |= (uint8_t)((code[128 * half + 32 * run + i] & 3) << (2 * run));
            }
        }
    }
}

static void q2_k_read(const struct quant_q2_k *q, struct pack_block *b)
{
    b->d = q->d;
    b->m = q->dmin;
    for (int g = 0; g < 16; g++) {
        b->scale[g] = q->scales[g] & 15;
        b->min[g] = q->scales[g] >> 4;
    }
    twos_read(q->qs, b->code);
}

static void q2_k_write(const struct pack_block *b, struct quant_q2_k *q)
{
    q->d = b->d;
    q->dmin = b->m;
    for (int g = 0; g < 16; g++) {
        q->scales[g] = (uint8_t)(b->scale[g] | (b->min[g] << 4));
    }
    twos_write(b->code, q->qs);
}

static void q3_k_read(const struct quant_q3_k *q, struct pack_block *b)
{
    b->d = q->d;
    twos_read(q->qs, b->code);
    for (int g = 0; g < 8; g++) {
        for (int i = 0; i < 32; i++) {
            b->code[32 * g + i] |= (uint8_t)(((q->hmask[i] >> g) & 1) << 2);
        }
    }
    for (unsigned g = 0; g < 16; g++) {
        b->scale[g] = (uint8_t)(quant_q3_scale(q->scales, g) + 32);
    }
}

static void q3_k_write(const struct pack_block *b, struct quant_q3_k *q)
{
    q->d = b->d;
    twos_write(b->code, q->qs);
    memset(q->hmask, 0, sizeof q->hmask);
    memset(q->scales, 0, sizeof q->scales);
    for (int g = 0; g < 8; g++) {
        for (int i = 0; i < 32; i++) {
            q->hmask[i] |= (uint8_t)((b->code[32 * g + i] >> 2) << g);
        }
    }
    for (int g = 0; g < 16; g++) {
        q->scales[g & 7] |= (uint8_t)((b->scale[g] & 15) << (g < 8 ? 0 : 4));
        q->scales[8 + (g & 3)] |= (uint8_t)((b->scale[g] >> 4) << (2 * (g >> 2)));
    }
}

static void q5_k_read(const struct quant_q5_k *q, struct pack_block *b)
{
    b->d = q->d;
    b->m = q->dmin;
    k4_scales_read(q->scales, b);
    pairs_read(q->qs, b->code);
    for (int g = 0; g < 8; g++) {
        for (int i = 0; i < 32; i++) {
            b->code[32 * g + i] |= (uint8_t)(((q->qh[i] >> g) & 1) << 4);
        }
    }
}

static void q5_k_write(const struct pack_block *b, struct quant_q5_k *q)
{
    q->d = b->d;
    q->dmin = b->m;
    k4_scales_write(b, q->scales);
    pairs_write(b->code, q->qs);
    memset(q->qh, 0, sizeof q->qh);
    for (int g = 0; g < 8; g++) {
        for (int i = 0; i < 32; i++) {
            q->qh[i] |= (uint8_t)((b->code[32 * g + i] >> 4) << g);
        }
    }
}

/* Each half of 128 is four runs of 32: see quant_dequant_q6_k. */
static void q6_k_read(const struct quant_q6_k *q, struct pack_block *b)
{
    b->d = q->d;
    memcpy(b->scale, q->scales, sizeof q->scales);
    for (int half = 0; half < 2; half++) {
        const uint8_t *ql = q->ql + 64 * half, *qh = q->qh + 32 * half;
        uint8_t *c = b->code + 128 * half;
        for (int i = 0; i < 32; i++) {
            c[i] = (uint8_t)((ql[i] & 15) | ((qh[i] & 3) << 4));
            c[32 + i] = (uint8_t)((ql[32 + i] & 15) | (((qh[i] >> 2) & 3) << 4));
            c[64 + i] = (uint8_t)((ql[i] >> 4) | (((qh[i] >> 4) & 3) << 4));
            c[96 + i] = (uint8_t)((ql[32 + i] >> 4) | ((qh[i] >> 6) << 4));
        }
    }
}

static void q6_k_write(const struct pack_block *b, struct quant_q6_k *q)
{
    q->d = b->d;
    memcpy(q->scales, b->scale, sizeof q->scales);
    for (int half = 0; half < 2; half++) {
        uint8_t *ql = q->ql + 64 * half, *qh = q->qh + 32 * half;
        const uint8_t *c = b->code + 128 * half;
        for (int i = 0; i < 32; i++) {
            ql[i] = (uint8_t)((c[i] & 15) | ((c[64 + i] & 15) << 4));
            ql[32 + i] = (uint8_t)((c[32 + i] & 15) | ((c[96 + i] & 15) << 4));
            qh[i] = (uint8_t)((c[i] >> 4) | ((c[32 + i] >> 4) << 2) | ((c[64 + i] >> 4) << 4) |
                              ((c[96 + i] >> 4) << 6));
        }
    }
}

static void iq4_xs_read(const struct quant_iq4_xs *q, struct pack_block *b)
{
    b->d = q->d;
    for (unsigned g = 0; g < 8; g++) {
        b->scale[g] = (uint8_t)(quant_iq4_xs_scale(q, g) + 32);
        nibbles_read(q->qs + 16 * g, b->code + 32 * g);
    }
}

static void iq4_xs_write(const struct pack_block *b, struct quant_iq4_xs *q)
{
    unsigned high = 0;
    q->d = b->d;
    memset(q->scales_l, 0, sizeof q->scales_l);
    for (unsigned g = 0; g < 8; g++) {
        q->scales_l[g / 2] |= (uint8_t)((b->scale[g] & 15) << (g % 2 * 4));
        high |= (unsigned)(b->scale[g] >> 4) << (2 * g);
        nibbles_write(b->code + 32 * g, q->qs + 16 * g);
    }
    q->scales_h = (uint16_t)high;
}

void pack_block_read(enum gguf_type type, const uint8_t *src, struct pack_block *b)
{
    const void *v = src;
    switch (type) {
    case GGUF_TYPE_Q4_0:
    case GGUF_TYPE_IQ4_NL: /* the same fields */
        b->d = ((const struct quant_q4_0 *)v)->d;
        nibbles_read(((const struct quant_q4_0 *)v)->qs, b->code);
        break;
    case GGUF_TYPE_MXFP4:
        b->d = ((const struct quant_mxfp4 *)v)->e;
        nibbles_read(((const struct quant_mxfp4 *)v)->qs, b->code);
        break;
    case GGUF_TYPE_Q4_1:
        b->d = ((const struct quant_q4_1 *)v)->d;
        b->m = ((const struct quant_q4_1 *)v)->m;
        nibbles_read(((const struct quant_q4_1 *)v)->qs, b->code);
        break;
    case GGUF_TYPE_Q5_0:
        b->d = ((const struct quant_q5_0 *)v)->d;
        nibbles_read(((const struct quant_q5_0 *)v)->qs, b->code);
        fifths_read(((const struct quant_q5_0 *)v)->qh, b->code);
        break;
    case GGUF_TYPE_Q5_1:
        b->d = ((const struct quant_q5_1 *)v)->d;
        b->m = ((const struct quant_q5_1 *)v)->m;
        nibbles_read(((const struct quant_q5_1 *)v)->qs, b->code);
        fifths_read(((const struct quant_q5_1 *)v)->qh, b->code);
        break;
    case GGUF_TYPE_Q8_0:
        b->d = ((const struct quant_q8_0 *)v)->d;
        for (int i = 0; i < QUANT_BLOCK; i++) {
            b->code[i] = (uint8_t)(((const struct quant_q8_0 *)v)->qs[i] ^ 0x80);
        }
        break;
    case GGUF_TYPE_Q2_K: q2_k_read(v, b); break;
    case GGUF_TYPE_Q3_K: q3_k_read(v, b); break;
    case GGUF_TYPE_Q4_K:
        b->d = ((const struct quant_q4_k *)v)->d;
        b->m = ((const struct quant_q4_k *)v)->dmin;
        k4_scales_read(((const struct quant_q4_k *)v)->scales, b);
        pairs_read(((const struct quant_q4_k *)v)->qs, b->code);
        break;
    case GGUF_TYPE_Q5_K: q5_k_read(v, b); break;
    case GGUF_TYPE_Q6_K: q6_k_read(v, b); break;
    case GGUF_TYPE_IQ4_XS: iq4_xs_read(v, b); break;
    default: assert(!"a type that pack_block_known refuses");
    }
}

void pack_block_write(enum gguf_type type, const struct pack_block *b, uint8_t *dst)
{
    void *v = dst;
    switch (type) {
    case GGUF_TYPE_Q4_0:
    case GGUF_TYPE_IQ4_NL:
        ((struct quant_q4_0 *)v)->d = b->d;
        nibbles_write(b->code, ((struct quant_q4_0 *)v)->qs);
        break;
    case GGUF_TYPE_MXFP4:
        ((struct quant_mxfp4 *)v)->e = (uint8_t)b->d;
        nibbles_write(b->code, ((struct quant_mxfp4 *)v)->qs);
        break;
    case GGUF_TYPE_Q4_1:
        ((struct quant_q4_1 *)v)->d = b->d;
        ((struct quant_q4_1 *)v)->m = b->m;
        nibbles_write(b->code, ((struct quant_q4_1 *)v)->qs);
        break;
    case GGUF_TYPE_Q5_0:
        ((struct quant_q5_0 *)v)->d = b->d;
        fifths_write(b->code, ((struct quant_q5_0 *)v)->qs, ((struct quant_q5_0 *)v)->qh);
        break;
    case GGUF_TYPE_Q5_1:
        ((struct quant_q5_1 *)v)->d = b->d;
        ((struct quant_q5_1 *)v)->m = b->m;
        fifths_write(b->code, ((struct quant_q5_1 *)v)->qs, ((struct quant_q5_1 *)v)->qh);
        break;
    case GGUF_TYPE_Q8_0:
        ((struct quant_q8_0 *)v)->d = b->d;
        for (int i = 0; i < QUANT_BLOCK; i++) {
            ((struct quant_q8_0 *)v)->qs[i] = (int8_t)(b->code[i] ^ 0x80);
        }
        break;
    case GGUF_TYPE_Q2_K: q2_k_write(b, v); break;
    case GGUF_TYPE_Q3_K: q3_k_write(b, v); break;
    case GGUF_TYPE_Q4_K:
        ((struct quant_q4_k *)v)->d = b->d;
        ((struct quant_q4_k *)v)->dmin = b->m;
        k4_scales_write(b, ((struct quant_q4_k *)v)->scales);
        pairs_write(b->code, ((struct quant_q4_k *)v)->qs);
        break;
    case GGUF_TYPE_Q5_K: q5_k_write(b, v); break;
    case GGUF_TYPE_Q6_K: q6_k_write(b, v); break;
    case GGUF_TYPE_IQ4_XS: iq4_xs_write(b, v); break;
    default: assert(!"a type that pack_block_known refuses");
    }
}
