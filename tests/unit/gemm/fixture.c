#include "fixture.h"

#include "base/rng.h"
#include "engine/quant/blocks.h"
#include "engine/quant/formats.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

const enum gguf_type fix_types[] = {
    GGUF_TYPE_F32,   GGUF_TYPE_F16,     GGUF_TYPE_BF16,  GGUF_TYPE_Q4_0,    GGUF_TYPE_Q4_1,
    GGUF_TYPE_Q5_0,  GGUF_TYPE_Q5_1,    GGUF_TYPE_Q8_0,  GGUF_TYPE_Q2_K,    GGUF_TYPE_Q3_K,
    GGUF_TYPE_Q4_K,  GGUF_TYPE_Q5_K,    GGUF_TYPE_Q6_K,  GGUF_TYPE_IQ4_NL,  GGUF_TYPE_IQ4_XS,
    GGUF_TYPE_MXFP4, GGUF_TYPE_NVFP4,   GGUF_TYPE_Q1_0,  GGUF_TYPE_Q2_0,    GGUF_TYPE_TQ1_0,
    GGUF_TYPE_TQ2_0, GGUF_TYPE_IQ1_S,   GGUF_TYPE_IQ1_M, GGUF_TYPE_IQ2_XXS, GGUF_TYPE_IQ2_XS,
    GGUF_TYPE_IQ2_S, GGUF_TYPE_IQ3_XXS, GGUF_TYPE_IQ3_S, GGUF_TYPE_END,
};

/* Where the f16 scales of a block are, and what size they have in a usual model: 2^-exp. */
static const struct scale_field {
    enum gguf_type type;
    uint8_t offset[2];
    uint8_t n;
    uint8_t exp[2];
} scale_fields[] = {
    {GGUF_TYPE_Q4_0, {offsetof(struct quant_q4_0, d)}, 1, {3}},
    {GGUF_TYPE_Q4_1, {offsetof(struct quant_q4_1, d), offsetof(struct quant_q4_1, m)}, 2, {3, 1}},
    {GGUF_TYPE_Q5_0, {offsetof(struct quant_q5_0, d)}, 1, {4}},
    {GGUF_TYPE_Q5_1, {offsetof(struct quant_q5_1, d), offsetof(struct quant_q5_1, m)}, 2, {4, 1}},
    {GGUF_TYPE_Q8_0, {offsetof(struct quant_q8_0, d)}, 1, {7}},
    {GGUF_TYPE_Q2_K,
     {offsetof(struct quant_q2_k, d), offsetof(struct quant_q2_k, dmin)},
     2,
     {5, 4}},
    {GGUF_TYPE_Q3_K, {offsetof(struct quant_q3_k, d)}, 1, {6}},
    {GGUF_TYPE_Q4_K,
     {offsetof(struct quant_q4_k, d), offsetof(struct quant_q4_k, dmin)},
     2,
     {8, 6}},
    {GGUF_TYPE_Q5_K,
     {offsetof(struct quant_q5_k, d), offsetof(struct quant_q5_k, dmin)},
     2,
     {9, 6}},
    {GGUF_TYPE_Q6_K, {offsetof(struct quant_q6_k, d)}, 1, {11}},
    {GGUF_TYPE_IQ4_NL, {offsetof(struct quant_iq4_nl, d)}, 1, {7}},
    {GGUF_TYPE_IQ4_XS, {offsetof(struct quant_iq4_xs, d)}, 1, {11}},
    {GGUF_TYPE_IQ1_S, {offsetof(struct quant_iq1_s, d)}, 1, {3}},
    {GGUF_TYPE_IQ2_XXS, {offsetof(struct quant_iq2_xxs, d)}, 1, {5}},
    {GGUF_TYPE_IQ2_XS, {offsetof(struct quant_iq2_xs, d)}, 1, {5}},
    {GGUF_TYPE_IQ2_S, {offsetof(struct quant_iq2_s, d)}, 1, {5}},
    {GGUF_TYPE_IQ3_XXS, {offsetof(struct quant_iq3_xxs, d)}, 1, {7}},
    {GGUF_TYPE_IQ3_S, {offsetof(struct quant_iq3_s, d)}, 1, {7}},
    {GGUF_TYPE_Q1_0, {offsetof(struct quant_q1_0, d)}, 1, {0}},
    {GGUF_TYPE_Q2_0, {offsetof(struct quant_q2_0, d)}, 1, {0}},
    {GGUF_TYPE_TQ1_0, {offsetof(struct quant_tq1_0, d)}, 1, {0}},
    {GGUF_TYPE_TQ2_0, {offsetof(struct quant_tq2_0, d)}, 1, {0}},
};

uint32_t fix_block(enum gguf_type type)
{
    return quant_format_of(type)->n_block_elem;
}

size_t fix_row_bytes(enum gguf_type type, uint32_t n_in)
{
    const struct quant_format *f = quant_format_of(type);
    return (size_t)n_in / f->n_block_elem * f->n_block_byte;
}

/* In about ±2^-exp, as the flavour says. */
static float scale_value(uint64_t *rng, unsigned exp, enum fix_flavour flavour, size_t block)
{
    uint64_t r = rng_next(rng);
    float v = (0.5f + (float)(r & 0xffff) / 65536.0f) / (float)(1u << exp);
    v = r & 0x10000 ? -v : v;
    switch (flavour) {
    case FIX_TINY: return v * 0x1p-14f;
    case FIX_LARGE: return v * (float)(1u << exp) * 43000.0f;
    case FIX_ZERO: return 0.0f;
    case FIX_SPECIAL: return block % 7 ? v : (r & 0x20000 ? __builtin_nanf("") : __builtin_inff());
    default: return v;
    }
}

static void set_float(uint8_t *dst, enum gguf_type type, float v)
{
    uint16_t h = type == GGUF_TYPE_BF16 ? quant_f32_to_bf16(v) : quant_f32_to_f16(v);
    if (type == GGUF_TYPE_F32) {
        memcpy(dst, &v, sizeof v);
    } else {
        memcpy(dst, &h, sizeof h);
    }
}

/* Scales that are not plain f16 fields. */
static void set_odd_scales(enum gguf_type type, uint8_t *block, uint64_t *rng,
                           enum fix_flavour flavour, size_t i)
{
    if (type == GGUF_TYPE_MXFP4) {
        static const uint8_t base[] = {[FIX_NORMAL] = 126,
                                       [FIX_TINY] = 0,
                                       [FIX_LARGE] = 220,
                                       [FIX_ZERO] = 0,
                                       [FIX_SPECIAL] = 120};
        block[0] = (uint8_t)(base[flavour] + rng_next(rng) % 3);
    } else if (type == GGUF_TYPE_IQ1_M) { /* an f16 in the top nibbles of four words */
        const uint16_t h = quant_f32_to_f16(scale_value(rng, 3, flavour, i));
        for (int w = 0; w < 4; w++) {
            uint8_t *top = block + offsetof(struct quant_iq1_m, scales) + 2 * w + 1;
            *top = (uint8_t)((*top & 15) | (h >> (4 * w) & 15) << 4);
        }
    } else if (type == GGUF_TYPE_NVFP4) {
        for (int g = 0; g < 4; g++) {
            block[g] = flavour == FIX_ZERO ? 0 : block[g] & 0x3f;
        }
    }
}

uint8_t *fix_weights(enum gguf_type type, uint32_t n_row, uint32_t n_in, enum fix_flavour flavour,
                     uint64_t seed)
{
    const struct quant_format *f = quant_format_of(type);
    size_t n_block = (size_t)n_row * n_in / f->n_block_elem;
    size_t n_byte = n_block * f->n_block_byte;
    uint8_t *bytes = malloc(n_byte + 8);
    uint64_t rng = seed * 977 + (uint64_t)type;
    for (size_t i = 0; i < n_byte; i += 8) {
        uint64_t r = rng_next(&rng);
        memcpy(bytes + i, &r, 8);
    }
    for (size_t b = 0; b < n_block; b++) {
        uint8_t *block = bytes + b * f->n_block_byte;
        if (f->n_block_elem == 1) {
            set_float(block, type, scale_value(&rng, 0, flavour, b));
            continue;
        }
        for (size_t s = 0; s < sizeof scale_fields / sizeof *scale_fields; s++) {
            const struct scale_field *sf = &scale_fields[s];
            for (unsigned j = 0; sf->type == type && j < sf->n; j++) {
                set_float(block + sf->offset[j], GGUF_TYPE_F16,
                          scale_value(&rng, sf->exp[j], flavour, b));
            }
        }
        set_odd_scales(type, block, &rng, flavour, b);
    }
    return bytes;
}

void fix_activations(float *x, size_t n, uint64_t seed)
{
    uint64_t rng = seed;
    for (size_t i = 0; i < n; i++) {
        uint64_t r = rng_next(&rng);
        float v = (float)((double)(r >> 11) * 0x1p-52 - 1.0);
        x[i] = (r & 63) == 0 ? 20.0f * v : v;
    }
}

static size_t guard_span(size_t n_byte)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (n_byte + page - 1) / page * page;
}

void *fix_guard_alloc(size_t n_byte)
{
    size_t span = guard_span(n_byte), page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *m =
        mmap(NULL, span + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED || mprotect(m + span, page, PROT_NONE) != 0) {
        abort();
    }
    return m + span - n_byte;
}

void fix_guard_free(void *p, size_t n_byte)
{
    size_t span = guard_span(n_byte), page = (size_t)sysconf(_SC_PAGESIZE);
    munmap((uint8_t *)p + n_byte - span, span + page);
}
