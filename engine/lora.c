#include "engine/lora.h"

#include "base/buf.h"
#include "engine/quant/formats.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_BYTES       96
#define TARGET_LAYER_MAX 24 /* matrices of one block */

/* A matrix that an adapter may change: rows [row0, row0 + n_out) of the file's tensor. */
struct target {
    char name[NAME_BYTES]; /* "blk.0.attn_q.weight" */
    struct model_linear *lin;
    uint32_t row0;
    uint32_t n_row_all; /* of that tensor */
};

struct targets {
    struct target *list; /* [n] */
    uint32_t n;
};

struct lora_file {
    const char *path;
    struct gguf *f;
    float scale;
    struct gemm_ctx *gemm;
    struct err *e;
};

/* ---- the model's matrices */

static void add_part(struct targets *t, int il, const char *name, struct model_linear *lin,
                     uint32_t row0, uint32_t n_row_all)
{
    if (!lin->w.data) {
        return;
    }
    struct target *to = &t->list[t->n++];
    if (il < 0) {
        snprintf(to->name, sizeof to->name, "%s.weight", name);
    } else {
        snprintf(to->name, sizeof to->name, "blk.%d.%s.weight", il, name);
    }
    to->lin = lin;
    to->row0 = row0;
    to->n_row_all = n_row_all;
    lin->lora_id = t->n;
}

static void add(struct targets *t, int il, const char *name, struct model_linear *lin)
{
    add_part(t, il, name, lin, 0, lin->w.n_out);
}

static bool file_has(const struct gguf *base, int il, const char *name)
{
    char full[NAME_BYTES];
    snprintf(full, sizeof full, "blk.%d.%s.weight", il, name);
    return gguf_find_tensor(base, full) != NULL;
}

static void add_attention(struct targets *t, const struct model *m, const struct gguf *base, int il,
                          struct model_layer *l)
{
    if (l->mla) {
        add(t, il, "attn_q_a", &l->mla->q_a);
        add(t, il, m->q_rank ? "attn_q_b" : "attn_q", &l->q);
        add(t, il, "attn_kv_a_mqa", &l->mla->kv_a);
    } else if (file_has(base, il, "attn_qkv")) {
        uint32_t n_all = l->q.w.n_out + l->k.w.n_out + l->v.w.n_out;
        add_part(t, il, "attn_qkv", &l->q, 0, n_all);
        add_part(t, il, "attn_qkv", &l->k, l->q.w.n_out, n_all);
        add_part(t, il, "attn_qkv", &l->v, l->q.w.n_out + l->k.w.n_out, n_all);
    } else {
        if (!m->q_gated) { /* its rows stand among others */
            add(t, il, "attn_q", &l->q);
        }
        add(t, il, "attn_k", &l->k);
        add(t, il, "attn_v", &l->v);
    }
    add(t, il, "attn_output", &l->o);
}

static void add_ffn(struct targets *t, const struct model *m, int il, const char *suffix,
                    struct model_ffn *ffn)
{
    char gate[32];
    char up[32];
    char down[32];
    snprintf(gate, sizeof gate, "ffn_gate%s", suffix);
    snprintf(up, sizeof up, "ffn_up%s", suffix);
    snprintf(down, sizeof down, "ffn_down%s", suffix);
    if (m->gate_up_fused) {
        add_part(t, il, up, &ffn->gate, 0, 2 * ffn->n_ff);
        add_part(t, il, up, &ffn->up, ffn->n_ff, 2 * ffn->n_ff);
    } else {
        add(t, il, gate, &ffn->gate);
        add(t, il, up, &ffn->up);
    }
    add(t, il, down, &ffn->down);
}

static enum err_code list_targets(struct model *m, const struct gguf *base, struct targets *t,
                                  struct err *e)
{
    t->list = calloc((size_t)m->n_layer * TARGET_LAYER_MAX + 1, sizeof *t->list);
    if (!t->list) {
        return err_set(e, ERR_NOMEM, "out of memory for adapters");
    }
    for (uint32_t i = 0; i < m->n_layer; i++) {
        struct model_layer *l = &m->layers[i];
        int il = (int)i;
        if (!l->ssm) {
            add_attention(t, m, base, il, l);
        }
        if (l->moe) {
            add(t, il, "ffn_gate_inp", &l->moe->router);
            add_ffn(t, m, il, "_shexp", &l->moe->shared);
        } else {
            add_ffn(t, m, il, "", &l->ffn);
        }
        if (l->input) {
            add(t, il, "inp_gate", &l->input->gate);
            add(t, il, "proj", &l->input->proj);
        }
    }
    if (!m->tied) {
        add(t, -1, "output", &m->output);
    }
    return ERR_OK;
}

/* ---- one file */

static enum err_code check_kind(const struct lora_file *x, const struct gguf *base)
{
    struct gguf_str type = {"", 0};
    struct gguf_str kind = {"", 0};
    struct gguf_str arch = {"", 0};
    struct gguf_str own = {"", 0};
    gguf_get_str(x->f, "general.type", &type);
    gguf_get_str(x->f, "adapter.type", &kind);
    gguf_get_str(x->f, "general.architecture", &arch);
    gguf_get_str(base, "general.architecture", &own);
    if (type.n != 7 || memcmp(type.s, "adapter", 7) != 0 || kind.n != 4 ||
        memcmp(kind.s, "lora", 4) != 0) {
        return err_set(x->e, ERR_INVALID, "%s is no LoRA adapter (general.type, adapter.type)",
                       x->path);
    }
    if (arch.n != own.n || memcmp(arch.s, own.s, own.n) != 0) {
        return err_set(x->e, ERR_INVALID, "%s is an adapter for %.*s, the model is %.*s", x->path,
                       (int)(arch.n < 40 ? arch.n : 40), arch.s, (int)own.n, own.s);
    }
    struct gguf_array tokens;
    if (gguf_get_array(x->f, "adapter.alora.invocation_tokens", &tokens)) {
        return err_set(x->e, ERR_UNSUPPORTED,
                       "%s begins at a token of the prompt (aLoRA), which is not supported",
                       x->path);
    }
    return ERR_OK;
}

/* Rows [row0, row0 + n_row) as finite f32 of the caller's, times s. */
static enum err_code read_rows(const struct lora_file *x, const struct gguf_tensor *t,
                               uint32_t row0, uint32_t n_row, float s, float **ret_v)
{
    const struct quant_format *format = quant_format_of(t->type);
    uint64_t n_col = t->ne[0];
    if (!format || !format->dequant || n_col % format->n_block_elem) {
        return err_set(x->e, ERR_UNSUPPORTED, "%s: tensor %.*s has a type that is not supported",
                       x->path, (int)t->name.n, t->name.s);
    }
    size_t n = (size_t)n_row * n_col;
    float *v = malloc((n ? n : 1) * sizeof *v);
    if (!v) {
        return err_set(x->e, ERR_NOMEM, "out of memory for adapter %s", x->path);
    }
    const char *src = t->data;
    format->dequant(src + row0 * (n_col / format->n_block_elem * format->n_block_byte), v, n);
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        v[i] *= s;
        finite = finite && isfinite(v[i]);
    }
    if (!finite) {
        free(v);
        return err_set(x->e, ERR_CORRUPT, "%s: tensor %.*s holds numbers that are not finite",
                       x->path, (int)t->name.n, t->name.s);
    }
    *ret_v = v;
    return ERR_OK;
}

static enum err_code pack(const struct lora_file *x, const struct gguf_tensor *t, uint32_t row0,
                          uint32_t n_row, float s, struct gemm_weight *w)
{
    float *v = NULL;
    enum err_code code = read_rows(x, t, row0, n_row, s, &v);
    if (!code) {
        code = gemm_weight_pack(x->gemm, GGUF_TYPE_F32, n_row, (uint32_t)t->ne[0], v, w, x->e);
    }
    free(v);
    return code;
}

static const struct gguf_tensor *half_of(const struct lora_file *x, const struct target *t,
                                         const char *suffix)
{
    char name[NAME_BYTES + 16];
    snprintf(name, sizeof name, "%s%s", t->name, suffix);
    return gguf_find_tensor(x->f, name);
}

static enum err_code load_pair(const struct lora_file *x, const struct target *t,
                               struct lora_pair *p)
{
    const struct gguf_tensor *a = half_of(x, t, ".lora_a");
    const struct gguf_tensor *b = half_of(x, t, ".lora_b");
    const struct gemm_weight *w = &t->lin->w;
    if (!a && !b) {
        return ERR_OK;
    }
    if (!a || !b) {
        return err_set(x->e, ERR_CORRUPT, "%s: %s has one of lora_a and lora_b alone", x->path,
                       t->name);
    }
    if (a->ne[0] != w->n_in || a->ne[1] == 0 || a->ne[1] > LORA_RANK_MAX || a->ne[2] != 1 ||
        a->ne[3] != 1 || b->ne[0] != a->ne[1] || b->ne[1] != t->n_row_all || b->ne[2] != 1 ||
        b->ne[3] != 1) {
        return err_set(x->e, ERR_CORRUPT,
                       "%s: %s.lora_a is [%llu, %llu] and lora_b [%llu, %llu], expected [%u, rank] "
                       "and [rank, %u], rank 1 to %d",
                       x->path, t->name, (unsigned long long)a->ne[0], (unsigned long long)a->ne[1],
                       (unsigned long long)b->ne[0], (unsigned long long)b->ne[1], w->n_in,
                       t->n_row_all, LORA_RANK_MAX);
    }
    double alpha = 0;
    gguf_get_f64(x->f, "adapter.lora.alpha", &alpha);
    double rank = (double)a->ne[1];
    float s = (float)(alpha != 0 ? x->scale * alpha / rank : x->scale);
    enum err_code code = pack(x, a, 0, (uint32_t)a->ne[1], 1, &p->a);
    if (!code) {
        code = pack(x, b, t->row0, w->n_out, s, &p->b);
    }
    p->rank = code ? 0 : (uint32_t)a->ne[1];
    return code;
}

/* Every tensor of the file must belong to a matrix that can be changed. */
static enum err_code check_all_used(const struct lora_file *x, const struct targets *t)
{
    for (uint64_t i = 0; i < gguf_n_tensor(x->f); i++) {
        struct gguf_str name = gguf_tensor_at(x->f, i)->name;
        const size_t n_suffix = sizeof ".lora_a" - 1;
        bool known = false;
        bool half =
            name.n > n_suffix && (memcmp(name.s + name.n - n_suffix, ".lora_a", n_suffix) == 0 ||
                                  memcmp(name.s + name.n - n_suffix, ".lora_b", n_suffix) == 0);
        for (uint32_t k = 0; half && k < t->n && !known; k++) {
            known = strlen(t->list[k].name) == name.n - n_suffix &&
                    memcmp(t->list[k].name, name.s, name.n - n_suffix) == 0;
        }
        if (!known) {
            return err_set(
                x->e, ERR_UNSUPPORTED,
                "%s: tensor %.*s changes nothing that an adapter can change in this model", x->path,
                (int)(name.n < 80 ? name.n : 80), name.s);
        }
    }
    return gguf_n_tensor(x->f) ? ERR_OK : err_set(x->e, ERR_CORRUPT, "%s has no tensors", x->path);
}

/* What makes its KV its own: every tensor, alpha and scale. */
static enum err_code digest_of(const struct lora_file *x, uint8_t out[SHA256_BYTES])
{
    struct buf all = {0};
    double alpha = 0;
    gguf_get_f64(x->f, "adapter.lora.alpha", &alpha);
    buf_append(&all, &alpha, sizeof alpha);
    buf_append(&all, &x->scale, sizeof x->scale);
    for (uint64_t i = 0; i < gguf_n_tensor(x->f); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(x->f, i);
        uint8_t digest[SHA256_BYTES];
        uint64_t n = t->name.n;
        hash_sha256(t->data, t->n_byte, digest);
        buf_append(&all, &n, sizeof n);
        buf_append(&all, t->name.s, t->name.n);
        buf_append(&all, &t->type, sizeof t->type);
        buf_append(&all, t->ne, sizeof t->ne);
        buf_append(&all, digest, sizeof digest);
    }
    bool good = buf_ok(&all);
    hash_sha256(buf_str(&all), all.len, out);
    buf_free(&all);
    return good ? ERR_OK : err_set(x->e, ERR_NOMEM, "out of memory for adapter %s", x->path);
}

static enum err_code load_one(const struct lora_file *x, const struct gguf *base,
                              const struct targets *t, struct lora_set *s, uint32_t i)
{
    struct lora *lora = &s->loras[i];
    enum err_code code = check_kind(x, base);
    if (!code) {
        code = check_all_used(x, t);
    }
    lora->pairs = code ? NULL : calloc(t->n, sizeof *lora->pairs);
    if (!code && !lora->pairs) {
        code = err_set(x->e, ERR_NOMEM, "out of memory for adapter %s", x->path);
    }
    for (uint32_t k = 0; !code && k < t->n; k++) {
        code = load_pair(x, &t->list[k], &lora->pairs[k]);
        s->rank_max = lora->pairs[k].rank > s->rank_max ? lora->pairs[k].rank : s->rank_max;
    }
    return code ? code : digest_of(x, s->facts[i].digest);
}

/* ---- all */

enum err_code lora_set_open(struct model *m, const struct gguf *base, struct gemm_ctx *gemm,
                            const struct eng_options *options, struct lora_set **ret_s,
                            struct err *e)
{
    struct targets t = {0};
    uint32_t n = options->n_adapter;
    struct lora_set *s = calloc(1, sizeof *s);
    enum err_code code = s ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for adapters");
    if (!code) {
        s->loras = calloc(n ? n : 1, sizeof *s->loras);
        s->facts = calloc(n ? n : 1, sizeof *s->facts);
        if (!s->loras || !s->facts) {
            code = err_set(e, ERR_NOMEM, "out of memory for adapters");
        }
    }
    if (!code) {
        code = list_targets(m, base, &t, e);
    }
    if (!code) {
        s->n_target = t.n;
    }
    for (uint32_t i = 0; !code && i < n; i++) {
        const struct eng_adapter_file *file = &options->adapters[i];
        struct lora_file x = {.path = file->path, .scale = file->scale, .gemm = gemm, .e = e};
        s->n = i + 1;
        s->facts[i].name = strdup(file->name);
        if (!s->facts[i].name) {
            code = err_set(e, ERR_NOMEM, "out of memory for adapter %s", file->path);
        }
        if (!code) {
            code = gguf_open(file->path, &x.f, e);
        }
        if (!code) {
            code = load_one(&x, base, &t, s, i);
        }
        gguf_close(x.f);
    }
    free(t.list);
    if (code) {
        lora_set_close(s);
        return code;
    }
    *ret_s = s;
    return ERR_OK;
}

void lora_set_close(struct lora_set *s)
{
    if (!s) {
        return;
    }
    for (uint32_t i = 0; i < s->n; i++) {
        struct lora_pair *pairs = s->loras[i].pairs;
        for (uint32_t k = 0; pairs && k < s->n_target; k++) {
            gemm_weight_finish(&pairs[k].a);
            gemm_weight_finish(&pairs[k].b);
        }
        free(pairs);
        free((char *)(uintptr_t)s->facts[i].name);
    }
    free(s->loras);
    free(s->facts);
    free(s);
}
