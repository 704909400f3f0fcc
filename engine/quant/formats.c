#include "engine/quant/formats.h"

#include "engine/quant/blocks.h"
#include "engine/quant/dequant.h"

#include <string.h>
#include <strings.h>

static const struct quant_format formats[GGUF_TYPE_END] = {
    [GGUF_TYPE_F32] = {"F32", 1, 4, quant_dequant_f32},
    [GGUF_TYPE_F64] = {"F64", 1, 8, quant_dequant_f64},
    [GGUF_TYPE_F16] = {"F16", 1, 2, quant_dequant_f16},
    [GGUF_TYPE_BF16] = {"BF16", 1, 2, quant_dequant_bf16},
    [GGUF_TYPE_I8] = {"I8", 1, 1, NULL},
    [GGUF_TYPE_I16] = {"I16", 1, 2, NULL},
    [GGUF_TYPE_I32] = {"I32", 1, 4, NULL},
    [GGUF_TYPE_I64] = {"I64", 1, 8, NULL},
    [GGUF_TYPE_Q4_0] = {"Q4_0", QUANT_BLOCK, sizeof(struct quant_q4_0), quant_dequant_q4_0},
    [GGUF_TYPE_Q4_1] = {"Q4_1", QUANT_BLOCK, sizeof(struct quant_q4_1), quant_dequant_q4_1},
    [GGUF_TYPE_Q5_0] = {"Q5_0", QUANT_BLOCK, sizeof(struct quant_q5_0), quant_dequant_q5_0},
    [GGUF_TYPE_Q5_1] = {"Q5_1", QUANT_BLOCK, sizeof(struct quant_q5_1), quant_dequant_q5_1},
    [GGUF_TYPE_Q8_0] = {"Q8_0", QUANT_BLOCK, sizeof(struct quant_q8_0), quant_dequant_q8_0},
    [GGUF_TYPE_Q8_1] = {"Q8_1", QUANT_BLOCK, sizeof(struct quant_q8_1), quant_dequant_q8_1},
    [GGUF_TYPE_Q2_K] = {"Q2_K", QUANT_SUPER, sizeof(struct quant_q2_k), quant_dequant_q2_k},
    [GGUF_TYPE_Q3_K] = {"Q3_K", QUANT_SUPER, sizeof(struct quant_q3_k), quant_dequant_q3_k},
    [GGUF_TYPE_Q4_K] = {"Q4_K", QUANT_SUPER, sizeof(struct quant_q4_k), quant_dequant_q4_k},
    [GGUF_TYPE_Q5_K] = {"Q5_K", QUANT_SUPER, sizeof(struct quant_q5_k), quant_dequant_q5_k},
    [GGUF_TYPE_Q6_K] = {"Q6_K", QUANT_SUPER, sizeof(struct quant_q6_k), quant_dequant_q6_k},
    [GGUF_TYPE_Q8_K] = {"Q8_K", QUANT_SUPER, sizeof(struct quant_q8_k), quant_dequant_q8_k},
    [GGUF_TYPE_IQ1_S] = {"IQ1_S", QUANT_SUPER, sizeof(struct quant_iq1_s), quant_dequant_iq1_s},
    [GGUF_TYPE_IQ1_M] = {"IQ1_M", QUANT_SUPER, sizeof(struct quant_iq1_m), quant_dequant_iq1_m},
    [GGUF_TYPE_IQ2_XXS] = {"IQ2_XXS", QUANT_SUPER, sizeof(struct quant_iq2_xxs),
                           quant_dequant_iq2_xxs},
    [GGUF_TYPE_IQ2_XS] = {"IQ2_XS", QUANT_SUPER, sizeof(struct quant_iq2_xs), quant_dequant_iq2_xs},
    [GGUF_TYPE_IQ2_S] = {"IQ2_S", QUANT_SUPER, sizeof(struct quant_iq2_s), quant_dequant_iq2_s},
    [GGUF_TYPE_IQ3_XXS] = {"IQ3_XXS", QUANT_SUPER, sizeof(struct quant_iq3_xxs),
                           quant_dequant_iq3_xxs},
    [GGUF_TYPE_IQ3_S] = {"IQ3_S", QUANT_SUPER, sizeof(struct quant_iq3_s), quant_dequant_iq3_s},
    [GGUF_TYPE_IQ4_NL] = {"IQ4_NL", QUANT_BLOCK, sizeof(struct quant_iq4_nl), quant_dequant_iq4_nl},
    [GGUF_TYPE_IQ4_XS] = {"IQ4_XS", QUANT_SUPER, sizeof(struct quant_iq4_xs), quant_dequant_iq4_xs},
    [GGUF_TYPE_MXFP4] = {"MXFP4", QUANT_BLOCK, sizeof(struct quant_mxfp4), quant_dequant_mxfp4},
    [GGUF_TYPE_NVFP4] = {"NVFP4", 64, sizeof(struct quant_nvfp4), quant_dequant_nvfp4},
    [GGUF_TYPE_Q1_0] = {"Q1_0", 128, sizeof(struct quant_q1_0), quant_dequant_q1_0},
    [GGUF_TYPE_Q2_0] = {"Q2_0", 64, sizeof(struct quant_q2_0), quant_dequant_q2_0},
    [GGUF_TYPE_TQ1_0] = {"TQ1_0", QUANT_SUPER, sizeof(struct quant_tq1_0), quant_dequant_tq1_0},
    [GGUF_TYPE_TQ2_0] = {"TQ2_0", QUANT_SUPER, sizeof(struct quant_tq2_0), quant_dequant_tq2_0},
};

const struct quant_format *quant_format_of(uint32_t type)
{
    return type < GGUF_TYPE_END && formats[type].name ? &formats[type] : NULL;
}

enum gguf_type quant_type_by_name(const char *name)
{
    for (int type = 0; type < GGUF_TYPE_END; type++) {
        if (formats[type].name && strcasecmp(formats[type].name, name) == 0) {
            return (enum gguf_type)type;
        }
    }
    return GGUF_TYPE_END;
}

static float f32_of_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static uint32_t bits_of_f32(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

float quant_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exp = (h >> 10) & 31;
    uint32_t man = h & 0x3ffu;
    if (exp == 0) { /* zero or denormal: man * 2^-24, exact in f32 */
        return f32_of_bits(bits_of_f32((float)man * 0x1p-24f) | sign);
    }
    return f32_of_bits(sign | (man << 13) | (exp == 31 ? 0x7f800000u : (exp + 112) << 23));
}

uint16_t quant_f32_to_f16(float f)
{
    uint32_t u = bits_of_f32(f);
    uint32_t sign = (u >> 16) & 0x8000u;
    uint32_t abs = u & 0x7fffffffu;
    uint32_t h;
    if (abs > 0x7f800000u) {
        h = 0x7e00u | ((abs >> 13) & 0x3ffu); /* quiet NaN with the payload's top bits */
    } else if (abs >= bits_of_f32(65520.0f)) {
        h = 0x7c00u; /* the first that rounds up to 2^16 */
    } else if (abs < bits_of_f32(0x1p-14f)) {
        /* Denormal: one ulp of 0.5 is 2^-24, the f16 step, so the addition rounds. */
        h = bits_of_f32(f32_of_bits(abs) + 0.5f) - bits_of_f32(0.5f);
    } else {
        h = (abs - (112u << 23) + 0xfffu + ((abs >> 13) & 1)) >> 13;
    }
    return (uint16_t)(sign | h);
}

float quant_bf16_to_f32(uint16_t h)
{
    return f32_of_bits((uint32_t)h << 16);
}

uint16_t quant_f32_to_bf16(float f)
{
    uint32_t u = bits_of_f32(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)((u >> 16) | 0x40u);
    }
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}
