/* The rotation: rope_theta, rope_scaling, or both in rope_parameters. Sources: the configurations
 * of the models; YaRN arXiv:2309.00071, LongRoPE arXiv:2402.13753. */
#include "engine/convert/hf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define TWO_PI 6.283185307179586

static bool is_positive(double v)
{
    return v > 0 && v < 1e12;
}

/* Llama 3: long wavelengths are stretched in full, short ones not at all, those between
 * gradually. */
static enum err_code stretch(struct hf *h, const cJSON *s, double theta, struct err *e)
{
    double factor = json_num(s, "factor", 0);
    double low = json_num(s, "low_freq_factor", 1);
    double high = json_num(s, "high_freq_factor", 4);
    double trained = json_num(s, "original_max_position_embeddings", 8192);
    if (!is_positive(factor) || !is_positive(low) || !(high > low) || !is_positive(trained)) {
        return err_set(e, ERR_CORRUPT, "config.json: rope_scaling of type llama3 is incomplete");
    }
    for (uint32_t i = 0; i < h->n_rot / 2; i++) {
        double turns = trained * pow(theta, -2.0 * i / h->n_rot) / TWO_PI;
        double smooth = (turns - low) / (high - low);
        smooth = smooth < 0 ? 0 : smooth > 1 ? 1 : smooth;
        h->freqs[i] = (float)(1 / ((1 - smooth) / factor + smooth));
    }
    h->has_freqs = true;
    return ERR_OK;
}

static bool read_factors(const cJSON *list, float *out, uint32_t n)
{
    bool ok = cJSON_IsArray(list) && (uint32_t)cJSON_GetArraySize(list) == n;
    uint32_t i = 0;
    const cJSON *v;
    cJSON_ArrayForEach(v, list)
    {
        if (!ok) {
            break;
        }
        ok = cJSON_IsNumber(v) && is_positive(v->valuedouble);
        out[i++] = (float)v->valuedouble;
    }
    return ok;
}

static enum err_code put_longrope(struct hf *h, const cJSON *s, uint32_t n_ctx, struct err *e)
{
    double trained = json_num(s, "original_max_position_embeddings",
                              json_num(h->text, "original_max_position_embeddings", 0));
    if (!(trained >= 2) || trained > n_ctx ||
        !read_factors(json_get(s, "long_factor"), h->longs, h->n_rot / 2) ||
        !read_factors(json_get(s, "short_factor"), h->shorts, h->n_rot / 2)) {
        return err_set(e, ERR_CORRUPT,
                       "config.json: long_factor and short_factor must have %u numbers, and "
                       "original_max_position_embeddings must be there",
                       h->n_rot / 2);
    }
    double grow = n_ctx / trained;
    double usual = grow > 1 ? sqrt(1 + log(grow) / log(trained)) : 1;
    h->has_long_short = true;
    hf_put_u32(h, "rope.scaling.original_context_length", (uint32_t)trained);
    hf_put_f32(h, "rope.scaling.attn_factor", json_num(s, "attention_factor", usual));
    return ERR_OK;
}

static enum err_code put_yarn(struct hf *h, const cJSON *s, const char *key, uint32_t n_ctx,
                              struct err *e)
{
    double factor = json_num(s, "factor", 0);
    double trained = json_num(s, "original_max_position_embeddings", n_ctx);
    if (!(factor >= 1) || factor > 1e6 || !(trained >= 1) || trained > 1e8) {
        return err_set(e, ERR_CORRUPT, "config.json: rope_scaling of type yarn is incomplete");
    }
    if (json_has(s, "mscale") || json_has(s, "mscale_all_dim") || !json_flag(s, "truncate", true)) {
        return err_set(e, ERR_UNSUPPORTED, "config.json: mscale and truncate of yarn");
    }
    double usual = 0.1 * log(factor) + 1;
    gguf_put_str(h->w, key, "yarn");
    hf_put_f32(h, "rope.scaling.factor", factor);
    hf_put_u32(h, "rope.scaling.original_context_length", (uint32_t)trained);
    hf_put_f32(h, "rope.scaling.yarn_beta_fast", json_num(s, "beta_fast", 32));
    hf_put_f32(h, "rope.scaling.yarn_beta_slow", json_num(s, "beta_slow", 1));
    hf_put_f32(h, "rope.scaling.attn_factor", json_num(s, "attention_factor", usual) / usual);
    return ERR_OK;
}

static enum err_code put_scaling(struct hf *h, const cJSON *s, double theta, uint32_t n_ctx,
                                 struct err *e)
{
    char key[64];
    const char *type = json_str(s, "rope_type", json_str(s, "type", "default"));
    (void)snprintf(key, sizeof key, "%s.rope.scaling.type", h->family->arch);
    if (strcmp(type, "default") == 0) {
        return ERR_OK;
    }
    if (strcmp(type, "llama3") == 0) {
        return stretch(h, s, theta, e);
    }
    if (strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0) {
        return put_longrope(h, s, n_ctx, e);
    }
    if (strcmp(type, "yarn") == 0) {
        return put_yarn(h, s, key, n_ctx, e);
    }
    if (strcmp(type, "linear") != 0 || !is_positive(json_num(s, "factor", 0))) {
        return err_set(e, ERR_UNSUPPORTED,
                       "config.json: rope_scaling of type \"%.40s\" is not supported (linear, "
                       "yarn, llama3 and longrope are)",
                       type);
    }
    gguf_put_str(h->w, key, "linear");
    hf_put_f32(h, "rope.scaling.factor", json_num(s, "factor", 1));
    return ERR_OK;
}

enum err_code hf_put_rope(struct hf *h, uint32_t n_ctx, struct err *e)
{
    const cJSON *s = json_get(h->text, "rope_scaling");
    const cJSON *all = json_get(h->text, "rope_parameters");
    const cJSON *local = json_get(all, "sliding_attention");
    const cJSON *global = json_get(all, "full_attention");
    bool third = strcmp(h->family->arch, "gemma3") == 0;
    all = global ? global : all;
    s = cJSON_IsObject(s) ? s : all;
    double theta =
        json_num(all, "rope_theta", json_num(h->text, "rope_theta", third ? 1000000 : 10000));
    double theta_local =
        json_num(local, "rope_theta", json_num(h->text, "rope_local_base_freq", 10000));
    if (!(theta > 1) || theta > 1e12 || !(theta_local > 1) || theta_local > 1e12) {
        return err_set(e, ERR_CORRUPT, "config.json: rope_theta is %g", theta);
    }
    hf_put_u32(h, "rope.dimension_count", h->n_rot);
    hf_put_f32(h, "rope.freq_base", theta);
    if (third) {
        hf_put_f32(h, "rope.freq_base_swa", theta_local);
    }
    return put_scaling(h, s, theta, n_ctx, e);
}
