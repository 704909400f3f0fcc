#include "engine/quant/mix.h"

#include "engine/quant/formats.h"

#include <string.h>
#include <strings.h>

enum file_type {
    FILE_F32 = 0,
    FILE_F16 = 1,
    FILE_Q4_0 = 2,
    FILE_Q4_1 = 3,
    FILE_Q8_0 = 7,
    FILE_Q5_0 = 8,
    FILE_Q5_1 = 9,
    FILE_Q2_K = 10,
    FILE_Q3_K_M = 12,
    FILE_Q4_K_S = 14,
    FILE_Q4_K_M = 15,
    FILE_Q5_K_S = 16,
    FILE_Q5_K_M = 17,
    FILE_Q6_K = 18,
    FILE_IQ4_NL = 25,
    FILE_IQ4_XS = 30,
    FILE_BF16 = 32,
    FILE_MXFP4_MOE = 38,
};

static const char *const file_type_names[] = {
    [FILE_F32] = "F32",       [FILE_F16] = "F16",       [FILE_Q4_0] = "Q4_0",
    [FILE_Q4_1] = "Q4_1",     [FILE_Q8_0] = "Q8_0",     [FILE_Q5_0] = "Q5_0",
    [FILE_Q5_1] = "Q5_1",     [FILE_Q2_K] = "Q2_K",     [11] = "Q3_K_S",
    [FILE_Q3_K_M] = "Q3_K_M", [13] = "Q3_K_L",          [FILE_Q4_K_S] = "Q4_K_S",
    [FILE_Q4_K_M] = "Q4_K_M", [FILE_Q5_K_S] = "Q5_K_S", [FILE_Q5_K_M] = "Q5_K_M",
    [FILE_Q6_K] = "Q6_K",     [19] = "IQ2_XXS",         [20] = "IQ2_XS",
    [21] = "Q2_K_S",          [22] = "IQ3_XS",          [23] = "IQ3_XXS",
    [24] = "IQ1_S",           [FILE_IQ4_NL] = "IQ4_NL", [26] = "IQ3_S",
    [27] = "IQ3_M",           [28] = "IQ2_S",           [29] = "IQ2_M",
    [FILE_IQ4_XS] = "IQ4_XS", [31] = "IQ1_M",           [FILE_BF16] = "BF16",
    [36] = "TQ1_0",           [37] = "TQ2_0",           [FILE_MXFP4_MOE] = "MXFP4_MOE",
};

static const struct quant_mix mixes[] = {
    {"Q4_K_M", FILE_Q4_K_M, GGUF_TYPE_Q4_K},
    {"Q4_K_S", FILE_Q4_K_S, GGUF_TYPE_Q4_K},
    {"Q5_K_M", FILE_Q5_K_M, GGUF_TYPE_Q5_K},
    {"Q5_K_S", FILE_Q5_K_S, GGUF_TYPE_Q5_K},
    {"Q6_K", FILE_Q6_K, GGUF_TYPE_Q6_K},
    {"Q3_K_M", FILE_Q3_K_M, GGUF_TYPE_Q3_K},
    {"Q2_K", FILE_Q2_K, GGUF_TYPE_Q2_K},
    {"Q8_0", FILE_Q8_0, GGUF_TYPE_Q8_0},
    {"Q4_0", FILE_Q4_0, GGUF_TYPE_Q4_0},
    {"Q4_1", FILE_Q4_1, GGUF_TYPE_Q4_1},
    {"Q5_0", FILE_Q5_0, GGUF_TYPE_Q5_0},
    {"Q5_1", FILE_Q5_1, GGUF_TYPE_Q5_1},
    {"IQ4_XS", FILE_IQ4_XS, GGUF_TYPE_IQ4_XS},
    {"IQ4_NL", FILE_IQ4_NL, GGUF_TYPE_IQ4_NL},
    {"MXFP4_MOE", FILE_MXFP4_MOE, GGUF_TYPE_MXFP4},
    {"BF16", FILE_BF16, GGUF_TYPE_BF16},
    {"F16", FILE_F16, GGUF_TYPE_F16},
    {"F32", FILE_F32, GGUF_TYPE_F32},
};
#define N_MIX (sizeof mixes / sizeof *mixes)

const struct quant_mix *quant_mix_by_name(const char *name)
{
    for (uint32_t i = 0; i < N_MIX; i++) {
        if (strcasecmp(mixes[i].name, name) == 0) {
            return &mixes[i];
        }
    }
    return NULL;
}

const struct quant_mix *quant_mix_at(uint32_t i)
{
    return i < N_MIX ? &mixes[i] : NULL;
}

const char *quant_file_type_name(uint64_t file_type)
{
    return file_type < sizeof file_type_names / sizeof *file_type_names ? file_type_names[file_type]
                                                                        : NULL;
}

static bool has(struct gguf_str name, const char *part)
{
    return memmem(name.s, name.n, part, strlen(part));
}

static bool ends(struct gguf_str name, const char *tail)
{
    size_t n = strlen(tail);
    return name.n >= n && memcmp(name.s + name.n - n, tail, n) == 0;
}

/* N of "blk.N.…"; 0 for others. */
static uint32_t layer_of(struct gguf_str name)
{
    uint32_t n = 0;
    for (size_t i = 4; i < name.n && memcmp(name.s, "blk.", 4) == 0 && name.s[i] >= '0' &&
                       name.s[i] <= '9' && n < 100000;
         i++) {
        n = n * 10 + (uint32_t)(name.s[i] - '0');
    }
    return n;
}

/* The first and last eighth of the layers, and every third between. */
static bool is_sensitive_layer(uint32_t layer, uint32_t n_layer)
{
    uint32_t eighth = n_layer / 8;
    return layer < eighth || layer >= 7 * n_layer / 8 || (layer - eighth) % 3 == 2;
}

/* Matrices whose few bytes are not worth a bit of quality. */
static bool is_kept(struct gguf_str name, uint32_t n_dim)
{
    static const char *const parts[] = {
        "ffn_gate_inp",   "_norm.", "position_embd", "token_types",          "ssm_conv1d",
        "shortconv.conv", "altup",  "laurel",        "per_layer_model_proj", "attn_rel_b",
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (has(name, parts[i])) {
            return true;
        }
    }
    return n_dim < 2 || !ends(name, "weight");
}

static enum gguf_type choose_value(uint32_t file_type, enum gguf_type base,
                                   const struct quant_mix_model *model, uint32_t layer)
{
    bool sensitive = is_sensitive_layer(layer, model->n_layer);
    if (model->n_expert == 8) {
        return GGUF_TYPE_Q8_0; /* shared by all experts, so it costs little */
    }
    switch (file_type) {
    case FILE_Q2_K: return model->n_gqa >= 4 ? GGUF_TYPE_Q4_K : GGUF_TYPE_Q3_K;
    case FILE_Q3_K_M: return layer < 2 ? GGUF_TYPE_Q5_K : GGUF_TYPE_Q4_K;
    case FILE_Q4_K_S: return layer < 4 ? GGUF_TYPE_Q5_K : base;
    case FILE_Q4_K_M:
    case FILE_Q5_K_M: return sensitive ? GGUF_TYPE_Q6_K : base;
    default: return base;
    }
}

static enum gguf_type choose_down(uint32_t file_type, enum gguf_type base,
                                  const struct quant_mix_model *model, uint32_t layer)
{
    bool sensitive = is_sensitive_layer(layer, model->n_layer);
    switch (file_type) {
    case FILE_Q2_K: return GGUF_TYPE_Q3_K;
    case FILE_Q3_K_M: return layer < model->n_layer / 16 ? GGUF_TYPE_Q5_K : GGUF_TYPE_Q4_K;
    case FILE_Q4_K_S: return layer < model->n_layer / 8 ? GGUF_TYPE_Q5_K : base;
    case FILE_Q4_K_M:
    case FILE_Q5_K_M: return sensitive ? GGUF_TYPE_Q6_K : base;
    default: return base;
    }
}

static enum gguf_type choose(const struct quant_mix *m, const struct quant_mix_model *model,
                             struct gguf_str name)
{
    uint32_t f = m->file_type;
    uint32_t layer = layer_of(name);
    bool is_k = f == FILE_Q2_K || f == FILE_Q3_K_M || f == FILE_Q4_K_S || f == FILE_Q4_K_M;
    if (quant_format_of(m->base)->n_block_elem == 1 || f == FILE_Q8_0) {
        return m->base;
    }
    if (f == FILE_MXFP4_MOE) { /* the experts alone: most of such a model */
        return has(name, "_exps.") ? m->base : GGUF_TYPE_Q8_0;
    }
    if (ends(name, "output.weight") && !has(name, "attn_")) {
        return GGUF_TYPE_Q6_K;
    }
    if (has(name, "token_embd.weight") || has(name, "per_layer_token_embd")) {
        return model->tied ? GGUF_TYPE_Q6_K : m->base;
    }
    if (has(name, "attn_v.weight")) {
        return choose_value(f, m->base, model, layer);
    }
    if (has(name, "attn_k.weight") && model->n_expert == 8) {
        return GGUF_TYPE_Q8_0;
    }
    if (has(name, "ffn_down")) {
        return choose_down(f, m->base, model, layer);
    }
    if (has(name, "attn_output.weight")) {
        return is_k && model->n_expert == 8 ? GGUF_TYPE_Q5_K
               : f == FILE_Q2_K             ? GGUF_TYPE_Q3_K
               : f == FILE_Q3_K_M           ? GGUF_TYPE_Q4_K
                                            : m->base;
    }
    if (has(name, "attn_qkv.weight")) {
        return f == FILE_Q3_K_M   ? GGUF_TYPE_Q4_K
               : f == FILE_Q4_K_M ? GGUF_TYPE_Q5_K
               : f == FILE_Q5_K_M ? GGUF_TYPE_Q6_K
                                  : m->base;
    }
    return m->base;
}

/* The nearest type in size whose blocks are shorter. */
static enum gguf_type simpler(enum gguf_type type)
{
    switch (type) {
    case GGUF_TYPE_Q2_K:
    case GGUF_TYPE_Q3_K: return GGUF_TYPE_Q4_0;
    case GGUF_TYPE_Q4_K: return GGUF_TYPE_Q5_0;
    case GGUF_TYPE_Q5_K: return GGUF_TYPE_Q5_1;
    case GGUF_TYPE_Q6_K: return GGUF_TYPE_Q8_0;
    case GGUF_TYPE_IQ4_XS: return GGUF_TYPE_IQ4_NL;
    default: return GGUF_TYPE_F16;
    }
}

enum gguf_type quant_mix_type(const struct quant_mix *m, const struct quant_mix_model *model,
                              struct gguf_str name, enum gguf_type now, uint32_t n_dim,
                              uint64_t row_len)
{
    if (is_kept(name, n_dim) || !quant_format_of(now)->dequant) {
        return now;
    }
    enum gguf_type type = choose(m, model, name);
    while (row_len % quant_format_of(type)->n_block_elem) {
        type = simpler(type);
    }
    return type;
}
