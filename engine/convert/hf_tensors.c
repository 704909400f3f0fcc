/* Tensors by their names here and there, and what is done to them on the way. */
#include "engine/convert/hf.h"
#include "engine/quant/formats.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum change { AS_IS, PERMUTE_Q, PERMUTE_K, NORM };

struct rule {
    const char *from;
    const char *to;
    enum change change;
};

/* Outside of the layers. */
static const struct rule outer[] = {
    {"model.embed_tokens.weight", "token_embd.weight", AS_IS},
    {"model.norm.weight", "output_norm.weight", NORM},
    {"lm_head.weight", "output.weight", AS_IS},
};

/* Behind "model.layers.N." and "blk.N.". */
static const struct rule inner[] = {
    {"input_layernorm.weight", "attn_norm.weight", NORM},
    {"self_attn.q_proj.weight", "attn_q.weight", PERMUTE_Q},
    {"self_attn.k_proj.weight", "attn_k.weight", PERMUTE_K},
    {"self_attn.v_proj.weight", "attn_v.weight", AS_IS},
    {"self_attn.qkv_proj.weight", "attn_qkv.weight", AS_IS},
    {"self_attn.o_proj.weight", "attn_output.weight", AS_IS},
    {"self_attn.q_proj.bias", "attn_q.bias", PERMUTE_Q},
    {"self_attn.k_proj.bias", "attn_k.bias", PERMUTE_K},
    {"self_attn.v_proj.bias", "attn_v.bias", AS_IS},
    {"self_attn.o_proj.bias", "attn_output.bias", AS_IS},
    {"self_attn.q_norm.weight", "attn_q_norm.weight", NORM},
    {"self_attn.k_norm.weight", "attn_k_norm.weight", NORM},
    {"mlp.gate_proj.weight", "ffn_gate.weight", AS_IS},
    {"mlp.up_proj.weight", "ffn_up.weight", AS_IS},
    {"mlp.gate_up_proj.weight", "ffn_up.weight", AS_IS},
    {"mlp.down_proj.weight", "ffn_down.weight", AS_IS},
    {"mlp.gate_proj.bias", "ffn_gate.bias", AS_IS},
    {"mlp.up_proj.bias", "ffn_up.bias", AS_IS},
    {"mlp.down_proj.bias", "ffn_down.bias", AS_IS},
    {"pre_feedforward_layernorm.weight", "ffn_norm.weight", NORM},
    {"post_feedforward_layernorm.weight", "post_ffw_norm.weight", NORM},
};

/* The one name that means two things. */
static const struct rule before_ffn = {"post_attention_layernorm.weight", "ffn_norm.weight", NORM};
static const struct rule after_attention = {"post_attention_layernorm.weight",
                                            "post_attention_norm.weight", NORM};

static const struct rule *find_rule(const struct rule *rules, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(rules[i].from, name) == 0) {
            return &rules[i];
        }
    }
    return NULL;
}

/* Where Gemma 3 with vision keeps its text part; before and after a renaming. */
static const char *without_prefix(const char *name)
{
    static const char *const prefixes[][2] = {{"language_model.model.", "model."},
                                              {"model.language_model.", "model."},
                                              {"language_model.lm_head.", "lm_head."}};
    static const char *const vision[] = {"vision_tower.", "multi_modal_projector.",
                                         "model.vision_tower.", "model.multi_modal_projector."};
    for (size_t i = 0; i < sizeof vision / sizeof *vision; i++) {
        if (strncmp(name, vision[i], strlen(vision[i])) == 0) {
            return NULL;
        }
    }
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        size_t n = strlen(prefixes[i][0]);
        if (strncmp(name, prefixes[i][0], n) == 0) {
            return name + n - strlen(prefixes[i][1]);
        }
    }
    return name;
}

/* ret_name: the name in GGUF, "" when the tensor is not needed. */
static const struct rule *rule_of(const struct hf *h, const char *name, char *ret_name, size_t cap)
{
    unsigned il = 0;
    int at = 0;
    const char *own = without_prefix(name);
    ret_name[0] = 0;
    if (!own || strstr(own, "rotary_emb.inv_freq") ||
        (h->tied && strcmp(own, "lm_head.weight") == 0)) {
        return &outer[0]; /* any: there is no name */
    }
    if (sscanf(own, "model.layers.%u.%n", &il, &at) == 1 && at && il < h->n_layer) {
        const char *rest = own + at;
        const struct rule *r = find_rule(inner, sizeof inner / sizeof *inner, rest);
        if (strcmp(rest, before_ffn.from) == 0) {
            r = h->family->post_norms ? &after_attention : &before_ffn;
        }
        if (r) {
            (void)snprintf(ret_name, cap, "blk.%u.%s", il, r->to);
        }
        return r;
    }
    const struct rule *r = find_rule(outer, sizeof outer / sizeof *outer, own);
    if (r) {
        (void)snprintf(ret_name, cap, "%s", r->to);
    }
    return r;
}

/* Vectors are F32 in GGUF. */
static enum gguf_type type_of(const struct st_tensor *t)
{
    return t->n_dim < 2 ? GGUF_TYPE_F32 : t->type;
}

static enum err_code check_permuted(const struct hf *h, const struct st_tensor *t,
                                    const struct rule *r, struct err *e)
{
    uint32_t n_head = r->change == PERMUTE_Q ? h->n_head : h->n_head_kv;
    if (h->family->permuted && (r->change == PERMUTE_Q || r->change == PERMUTE_K) &&
        t->shape[0] != (uint64_t)n_head * h->d_head) {
        return err_set(e, ERR_CORRUPT, "tensor %.100s has %llu rows, not %u heads of %u", t->name,
                       (unsigned long long)t->shape[0], n_head, h->d_head);
    }
    return ERR_OK;
}

static void put_factors(struct hf *h, bool present, const char *name)
{
    uint64_t ne = h->n_rot / 2;
    if (present) {
        (void)gguf_put_tensor(h->w, (struct gguf_str){name, strlen(name)}, GGUF_TYPE_F32, 1, &ne);
    }
}

enum err_code hf_put_tensors(struct hf *h, struct err *e)
{
    for (size_t i = 0; i < st_n_tensor(h->files); i++) {
        const struct st_tensor *t = st_tensor_at(h->files, i);
        char name[128];
        const struct rule *r = rule_of(h, t->name, name, sizeof name);
        if (!r) {
            return err_set(e, ERR_UNSUPPORTED, "tensor %.100s has no place in a %s", t->name,
                           h->family->arch);
        }
        if (!name[0]) {
            continue;
        }
        if (t->n_dim < 1 || t->n_dim > 2 || t->n_elem == 0) {
            return err_set(e, ERR_CORRUPT, "tensor %.100s has %u dimensions and %llu values",
                           t->name, t->n_dim, (unsigned long long)t->n_elem);
        }
        enum err_code rc = check_permuted(h, t, r, e);
        if (rc) {
            return rc;
        }
        uint64_t ne[2] = {t->shape[t->n_dim - 1], t->shape[0]};
        if (strcmp(name, "token_embd.weight") == 0) {
            h->n_vocab = t->shape[0];
        }
        (void)gguf_put_tensor(h->w, (struct gguf_str){name, strlen(name)}, type_of(t), t->n_dim,
                              ne);
    }
    put_factors(h, h->has_freqs, "rope_freqs.weight");
    put_factors(h, h->has_long_short, "rope_factors_long.weight");
    put_factors(h, h->has_long_short, "rope_factors_short.weight");
    if (h->n_vocab == 0) {
        return err_set(e, ERR_CORRUPT, "%.300s has no tensor model.embed_tokens.weight", h->dir);
    }
    return ERR_OK;
}

/* ---- values ---- */

/* Row i of the first half of a head and row i of its second become neighbours. row_bytes: of one
 * row; a bias has rows of one value. */
static void permute(const uint8_t *from, uint8_t *to, uint64_t n_row, uint32_t d_head,
                    size_t row_bytes)
{
    uint32_t half = d_head / 2;
    for (uint64_t row = 0; row < n_row; row++) {
        uint64_t head = row / d_head;
        uint32_t at = (uint32_t)(row % d_head);
        uint64_t source = head * d_head + (at % 2) * half + at / 2;
        memcpy(to + row * row_bytes, from + source * row_bytes, row_bytes);
    }
}

static enum err_code write_vector(struct hf *h, const struct st_tensor *t, const struct rule *r,
                                  uint32_t idx, struct err *e)
{
    size_t n = (size_t)t->n_elem;
    float *v = malloc(n * sizeof *v);
    float *turned = malloc(n * sizeof *v);
    uint8_t *aligned = malloc((size_t)t->n_byte);
    enum err_code rc = ERR_OK;
    if (!v || !turned || !aligned) {
        rc = err_set(e, ERR_NOMEM, "out of memory for tensor %.100s", t->name);
    } else {
        memcpy(aligned, t->data, (size_t)t->n_byte);
        quant_format_of(t->type)->dequant(aligned, v, n);
        for (size_t i = 0; i < n && r->change == NORM && h->family->norm_plus_one; i++) {
            v[i] += 1;
        }
        bool permutes = h->family->permuted && (r->change == PERMUTE_Q || r->change == PERMUTE_K);
        if (permutes) {
            permute((const uint8_t *)v, (uint8_t *)turned, n, h->d_head, sizeof *v);
        }
        rc = gguf_writer_data(h->w, idx, 0, permutes ? turned : v, n * sizeof *v, e);
    }
    free(v);
    free(turned);
    free(aligned);
    return rc;
}

static enum err_code write_matrix(struct hf *h, const struct st_tensor *t, const struct rule *r,
                                  uint32_t idx, struct err *e)
{
    if (!h->family->permuted || (r->change != PERMUTE_Q && r->change != PERMUTE_K)) {
        return gguf_writer_data(h->w, idx, 0, t->data, (size_t)t->n_byte, e);
    }
    uint8_t *turned = malloc((size_t)t->n_byte);
    if (!turned) {
        return err_set(e, ERR_NOMEM, "out of memory for tensor %.100s", t->name);
    }
    permute(t->data, turned, t->shape[0], h->d_head, (size_t)(t->n_byte / t->shape[0]));
    enum err_code rc = gguf_writer_data(h->w, idx, 0, turned, (size_t)t->n_byte, e);
    free(turned);
    return rc;
}

enum err_code hf_write_tensors(struct hf *h, struct err *e)
{
    uint32_t idx = 0;
    enum err_code rc = ERR_OK;
    for (size_t i = 0; !rc && i < st_n_tensor(h->files); i++) {
        const struct st_tensor *t = st_tensor_at(h->files, i);
        char name[128];
        const struct rule *r = rule_of(h, t->name, name, sizeof name);
        if (name[0]) {
            rc = t->n_dim < 2 ? write_vector(h, t, r, idx, e) : write_matrix(h, t, r, idx, e);
            idx++;
        }
    }
    const float *factors[] = {h->has_freqs ? h->freqs : NULL, h->has_long_short ? h->longs : NULL,
                              h->has_long_short ? h->shorts : NULL};
    for (size_t i = 0; !rc && i < sizeof factors / sizeof *factors; i++) {
        if (factors[i]) {
            rc = gguf_writer_data(h->w, idx++, 0, factors[i], h->n_rot / 2 * sizeof(float), e);
        }
    }
    return rc;
}
