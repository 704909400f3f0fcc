/* config.json to metadata. */
#include "engine/convert/hf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct hf_family families[] = {
    {"LlamaForCausalLM", "llama", .permuted = true, .act = "silu"},
    {"MistralForCausalLM", "llama", .permuted = true, .act = "silu"},
    {"Qwen2ForCausalLM", "qwen2", .act = "silu"},
    {"Qwen3ForCausalLM", "qwen3", .act = "silu"},
    {"GemmaForCausalLM", "gemma", .norm_plus_one = true, .act = "gelu"},
    {"Gemma2ForCausalLM", "gemma2", .norm_plus_one = true, .post_norms = true, .act = "gelu"},
    {"Gemma3ForCausalLM", "gemma3", .norm_plus_one = true, .post_norms = true, .act = "gelu"},
    {"Gemma3ForConditionalGeneration", "gemma3", .norm_plus_one = true, .post_norms = true,
     .act = "gelu"},
    {"Phi3ForCausalLM", "phi3", .fused = true, .act = "silu"},
};

void hf_put_u32(struct hf *h, const char *key, uint32_t v)
{
    char full[128];
    (void)snprintf(full, sizeof full, "%s.%s", h->family->arch, key);
    gguf_put_u32(h->w, full, v);
}

void hf_put_f32(struct hf *h, const char *key, double v)
{
    char full[128];
    (void)snprintf(full, sizeof full, "%s.%s", h->family->arch, key);
    gguf_put_f32(h->w, full, (float)v);
}

enum err_code hf_count(const cJSON *o, const char *key, uint32_t lo, uint32_t hi, uint32_t *ret,
                       struct err *e)
{
    double v = json_num(o, key, NAN);
    if (!(v >= lo && v <= hi) || v != floor(v)) {
        return err_set(e, ERR_CORRUPT, "config.json: %s is missing or not a number from %u to %u",
                       key, lo, hi);
    }
    *ret = (uint32_t)v;
    return ERR_OK;
}

static enum err_code find_family(struct hf *h, struct err *e)
{
    const cJSON *list = json_get(h->config, "architectures");
    const char *name = cJSON_GetStringValue(cJSON_GetArrayItem(list, 0));
    for (size_t i = 0; name && i < sizeof families / sizeof *families; i++) {
        if (strcmp(families[i].class_name, name) == 0) {
            h->family = &families[i];
            h->text = h->config;
            h->prefix = "";
            if (json_has(h->config, "text_config")) {
                h->text = json_get(h->config, "text_config");
            }
            return ERR_OK;
        }
    }
    struct buf known = {0};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        buf_printf(&known, "%s%s", i ? ", " : "", families[i].class_name);
    }
    err_set(e, ERR_UNSUPPORTED, "config.json: architecture \"%.60s\" cannot be read; %s can",
            name ? name : "(none)", buf_str(&known));
    buf_free(&known);
    return ERR_UNSUPPORTED;
}

static enum err_code read_sizes(struct hf *h, struct err *e)
{
    const cJSON *c = h->text;
    /* Gemma 3 leaves out what its class has as defaults. */
    bool gemma = h->family->norm_plus_one;
    enum err_code rc = hf_count(c, "num_hidden_layers", 1, 1024, &h->n_layer, e);
    rc = rc ? rc : hf_count(c, "hidden_size", 1, 1 << 17, &h->n_embd, e);
    h->n_head = 8;
    if (!rc && (json_has(c, "num_attention_heads") || !gemma)) {
        rc = hf_count(c, "num_attention_heads", 1, 1024, &h->n_head, e);
    }
    h->n_head_kv = h->n_head;
    if (!rc && json_has(c, "num_key_value_heads")) {
        rc = hf_count(c, "num_key_value_heads", 1, h->n_head, &h->n_head_kv, e);
    } else if (gemma && strcmp(h->family->arch, "gemma3") == 0) {
        h->n_head_kv = 4;
    }
    h->d_head = gemma ? 256 : h->n_embd / (h->n_head ? h->n_head : 1);
    if (!rc && json_has(c, "head_dim")) {
        rc = hf_count(c, "head_dim", 2, HF_ROT_MAX, &h->d_head, e);
    }
    double partial = json_num(c, "partial_rotary_factor", 1);
    if (!rc && (h->d_head < 2 || h->d_head > HF_ROT_MAX || h->d_head % 2 || !(partial > 0) ||
                partial > 1)) {
        rc = err_set(e, ERR_CORRUPT, "config.json: heads of %u values, of which %g turn", h->d_head,
                     partial);
    }
    h->n_rot = rc ? 2 : (uint32_t)(h->d_head * partial) & ~1u;
    h->tied =
        json_flag(c, "tie_word_embeddings", json_flag(h->config, "tie_word_embeddings", gemma));
    return rc;
}

/* What would change results and is not carried over. */
static enum err_code refuse_unknown(const struct hf *h, struct err *e)
{
    const cJSON *c = h->text;
    const char *act = json_str(c, "hidden_activation", json_str(c, "hidden_act", h->family->act));
    if (json_has(h->config, "quantization_config")) {
        return err_set(e, ERR_UNSUPPORTED,
                       "config.json: quantised safetensors cannot be read; F32, F16 and BF16 can");
    }
    if (strncmp(act, h->family->act, 4) != 0) {
        return err_set(e, ERR_UNSUPPORTED, "config.json: activation \"%.40s\" is not supported",
                       act);
    }
    if (strncmp(h->family->arch, "qwen", 4) == 0 && json_flag(c, "use_sliding_window", false)) {
        return err_set(e, ERR_UNSUPPORTED, "config.json: use_sliding_window is not supported");
    }
    return ERR_OK;
}

/* Gemma 3: how often a layer sees everything. Newer files list each layer's kind. */
static enum err_code read_pattern(const struct hf *h, uint32_t *ret, struct err *e)
{
    const cJSON *kinds = json_get(h->text, "layer_types");
    *ret = 6;
    if (json_has(h->text, "sliding_window_pattern")) {
        return hf_count(h->text, "sliding_window_pattern", 1, 1024, ret, e);
    }
    if (!cJSON_IsArray(kinds)) {
        return ERR_OK;
    }
    uint32_t i = 0;
    uint32_t period = 0;
    const cJSON *kind;
    cJSON_ArrayForEach(kind, kinds)
    {
        const char *s = cJSON_GetStringValue(kind);
        bool full = s && strcmp(s, "full_attention") == 0;
        i++;
        period = full && !period ? i : period;
        if (period && full != (i % period == 0)) {
            return err_set(e, ERR_UNSUPPORTED, "config.json: layer_types has no period");
        }
    }
    *ret = period ? period : h->n_layer + 1;
    return ERR_OK;
}

static enum err_code put_gemma(struct hf *h, struct err *e)
{
    const cJSON *c = h->text;
    bool third = strcmp(h->family->arch, "gemma3") == 0;
    uint32_t window = 4096;
    uint32_t period = 0;
    double scalar = json_num(c, "query_pre_attn_scalar", 256);
    enum err_code rc = ERR_OK;
    if (json_has(c, "sliding_window")) {
        rc = hf_count(c, "sliding_window", 1, 1 << 27, &window, e);
    }
    if (!rc && !(scalar > 0)) {
        rc = err_set(e, ERR_CORRUPT, "config.json: query_pre_attn_scalar is %g", scalar);
    }
    if (!rc && third) {
        rc = read_pattern(h, &period, e);
    }
    if (rc) {
        return rc;
    }
    hf_put_u32(h, "attention.sliding_window", window);
    hf_put_f32(h, "attention.scale", 1 / sqrt(scalar));
    if (third) {
        hf_put_u32(h, "attention.sliding_window_pattern", period);
    }
    if (!third || json_has(c, "attn_logit_softcapping")) {
        hf_put_f32(h, "attn_logit_softcapping",
                   third ? 0
                   : json_has(c, "attn_logit_softcapping")
                       ? json_num(c, "attn_logit_softcapping", 50)
                       : 0);
    }
    hf_put_f32(h, "final_logit_softcapping", json_num(c, "final_logit_softcapping", 0));
    return third && json_has(c, "attn_logit_softcapping")
               ? err_set(e, ERR_UNSUPPORTED, "config.json: attn_logit_softcapping of Gemma 3")
               : ERR_OK;
}

static void put_sampling(const struct hf *h)
{
    static const char *const keys[][2] = {{"temperature", "general.sampling.temp"},
                                          {"top_p", "general.sampling.top_p"},
                                          {"min_p", "general.sampling.min_p"}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        double v = json_num(h->generation, keys[i][0], NAN);
        if (v >= 0 && v <= 2) {
            gguf_put_f32(h->w, keys[i][1], (float)v);
        }
    }
    double top_k = json_num(h->generation, "top_k", NAN);
    if (top_k >= 0 && top_k <= 1e6) {
        int32_t k = (int32_t)top_k;
        gguf_put_number(h->w, "general.sampling.top_k", GGUF_I32, &k);
    }
}

enum err_code hf_put_config(struct hf *h, struct err *e)
{
    uint32_t n_ff = 0;
    uint32_t n_ctx = 0;
    enum err_code rc = find_family(h, e);
    rc = rc ? rc : read_sizes(h, e);
    rc = rc ? rc : refuse_unknown(h, e);
    rc = rc ? rc : hf_count(h->text, "intermediate_size", 1, 1 << 20, &n_ff, e);
    if (!rc && json_has(h->text, "max_position_embeddings")) {
        rc = hf_count(h->text, "max_position_embeddings", 1, 1 << 27, &n_ctx, e);
    }
    if (rc) {
        return rc;
    }
    n_ctx = n_ctx ? n_ctx : strcmp(h->family->arch, "gemma3") == 0 ? 131072 : 8192;
    /* A llama here sees everything; as far as Mistral's window reaches that is the same. */
    double window = json_num(h->text, "sliding_window", 0);
    if (strcmp(h->family->arch, "llama") == 0 && window >= 1 && window < n_ctx) {
        n_ctx = (uint32_t)window;
    }
    const char *slash = strrchr(h->dir, '/');
    gguf_put_str(h->w, "general.architecture", h->family->arch);
    gguf_put_str(h->w, "general.name", slash && slash[1] ? slash + 1 : h->dir);
    put_sampling(h);
    hf_put_u32(h, "context_length", n_ctx);
    hf_put_u32(h, "embedding_length", h->n_embd);
    hf_put_u32(h, "block_count", h->n_layer);
    hf_put_u32(h, "feed_forward_length", n_ff);
    hf_put_u32(h, "attention.head_count", h->n_head);
    hf_put_u32(h, "attention.head_count_kv", h->n_head_kv);
    hf_put_u32(h, "attention.key_length", h->d_head);
    hf_put_u32(h, "attention.value_length", h->d_head);
    hf_put_f32(h, "attention.layer_norm_rms_epsilon", json_num(h->text, "rms_norm_eps", 1e-6));
    if (h->family->post_norms) {
        rc = put_gemma(h, e);
    }
    return rc ? rc : hf_put_rope(h, n_ctx, e);
}
