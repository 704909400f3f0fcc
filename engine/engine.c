/* The real engine behind struct eng: a GGUF file, its vocabulary, its weights packed for this
 * machine, and the scratch to run them. */
#include "engine/engine.h"

#include "engine/chat.h"
#include "engine/forward.h"
#include "engine/gguf.h"
#include "engine/gguf_facts.h"
#include "engine/kernels/attention.h"
#include "engine/kernels/cpu.h"
#include "engine/kernels/gemm.h"
#include "engine/kernels/vector.h"
#include "engine/model.h"
#include "engine/quant/formats.h"
#include "engine/threads.h"
#include "engine/tokenizer/vocab.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_BYTES  128
#define CHUNK_BYTES_MIN 4096
/* Changes whenever a kernel or a block gives other bits than before. */
#define ARITHMETIC_VERSION 3

struct engine {
    struct eng base;
    struct gguf *file; /* stays mapped: embedding rows are read from it */
    struct vocab *vocab;
    struct chat *chat;
    struct model *model; /* NULL when vocab_only */
    struct eng_pool *pool;
    struct gemm_ctx *gemm;
    struct att_ctx *att;
    struct lora_set *loras; /* NULL: none */
    struct fwd *fwd;
    char name[NAME_MAX_BYTES];
    char arch[NAME_MAX_BYTES];
    char format[32];
};

static struct engine *engine_of(struct eng *g)
{
    return (struct engine *)g;
}

static const struct engine *const_engine_of(const struct eng *g)
{
    return (const struct engine *)g;
}

/* ---- what struct eng_impl asks for ------------------------------------------------------------
 */

static void engine_destroy(struct eng *g)
{
    struct engine *n = engine_of(g);
    fwd_destroy(n->fwd);
    lora_set_close(n->loras);
    model_destroy(n->model);
    att_ctx_destroy(n->att);
    gemm_ctx_destroy(n->gemm);
    eng_pool_destroy(n->pool);
    chat_destroy(n->chat);
    vocab_destroy(n->vocab);
    gguf_close(n->file);
    free(n);
}

static enum err_code engine_step(struct eng *g, struct eng_slice *slices, uint32_t n_slice,
                                 struct err *e)
{
    struct engine *n = engine_of(g);
    if (!n->fwd) {
        return err_set(e, ERR_INVALID, "the model was opened for its vocabulary alone");
    }
    return fwd_step(n->fwd, slices, n_slice, e);
}

static enum err_code engine_tokenize(const struct eng *g, const char *text, size_t n_byte,
                                     unsigned flags, struct eng_ids *out, struct err *e)
{
    return vocab_tokenize(const_engine_of(g)->vocab, text, n_byte, flags, out, e);
}

static void engine_detokenize(const struct eng *g, struct eng_detok *state, int32_t id,
                              bool show_special, struct buf *out)
{
    vocab_detokenize(const_engine_of(g)->vocab, state, id, show_special, out);
}

static bool engine_is_eog(const struct eng *g, int32_t id)
{
    return vocab_is_eog(const_engine_of(g)->vocab, id);
}

static enum err_code engine_render_chat(const struct eng *g, const struct tmpl_value *context,
                                        struct buf *out, struct err *e)
{
    return chat_render(const_engine_of(g)->chat, context, out, e);
}

static void engine_parallel(struct eng *g, uint32_t n_item,
                            void (*fn)(void *arg, uint32_t item, uint32_t worker), void *arg)
{
    struct eng_pool *pool = engine_of(g)->pool;
    if (pool) {
        eng_pool_run(pool, n_item, fn, arg);
        return;
    }
    for (uint32_t i = 0; i < n_item; i++) { /* vocab_only */
        fn(arg, i, 0);
    }
}

static const struct eng_impl engine_impl = {
    .destroy = engine_destroy,
    .step = engine_step,
    .tokenize = engine_tokenize,
    .detokenize = engine_detokenize,
    .is_eog = engine_is_eog,
    .render_chat = engine_render_chat,
    .parallel = engine_parallel,
};

/* ---- opening ----------------------------------------------------------------------------------
 */

static void copy_str(struct gguf_str s, char *out, size_t cap)
{
    size_t n = s.n < cap ? s.n : cap - 1;
    memcpy(out, s.s, n);
    out[n] = 0;
}

/* general.name, else the file's stem. */
static void name_of(const struct gguf *f, const char *path, char out[NAME_MAX_BYTES])
{
    struct gguf_str s;
    if (gguf_get_str(f, "general.name", &s) && s.n) {
        copy_str(s, out, NAME_MAX_BYTES);
        return;
    }
    const char *slash = strrchr(path, '/');
    const char *stem = slash ? slash + 1 : path;
    size_t n = strlen(stem);
    if (n > 5 && strcmp(stem + n - 5, ".gguf") == 0) {
        n -= 5;
    }
    copy_str((struct gguf_str){stem, n}, out, NAME_MAX_BYTES);
}

/* What people call the file's types; else the type most of the weights have. */
static void format_of(const struct gguf *f, char *out, size_t cap)
{
    struct gguf_facts facts;
    gguf_facts_read(f, &facts);
    if (facts.file_type) {
        snprintf(out, cap, "%s", facts.file_type);
        return;
    }
    uint64_t n_elem[GGUF_TYPE_END] = {0};
    uint32_t best = GGUF_TYPE_F32;
    for (uint64_t i = 0; i < gguf_n_tensor(f); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(f, i);
        if ((uint32_t)t->type < GGUF_TYPE_END) {
            n_elem[t->type] += t->n_elem;
            best = n_elem[t->type] > n_elem[best] ? t->type : best;
        }
    }
    const struct quant_format *q = quant_format_of(best);
    snprintf(out, cap, "%s", q ? q->name : "");
}

static double number_or_nan(const struct gguf *f, const char *key)
{
    double v = NAN;
    return gguf_get_f64(f, key, &v) ? v : NAN;
}

static void fill_facts(struct engine *n, const struct eng_options *o)
{
    struct eng_info *info = &n->base.info;
    struct gguf_str arch = {"", 0};
    gguf_get_str(n->file, "general.architecture", &arch);
    name_of(n->file, o->model_path, n->name);
    copy_str(arch, n->arch, sizeof n->arch);
    format_of(n->file, n->format, sizeof n->format);
    const struct vocab_facts *v = vocab_facts(n->vocab);
    *info = (struct eng_info){
        .name = n->name,
        .arch = n->arch,
        .isa = "none",
        .format = n->format,
        .chat_template = chat_source(n->chat),
        .n_vocab = v->n_token,
        .sampling =
            {
                .temperature = number_or_nan(n->file, "general.sampling.temp"),
                .top_k = number_or_nan(n->file, "general.sampling.top_k"),
                .top_p = number_or_nan(n->file, "general.sampling.top_p"),
                .min_p = number_or_nan(n->file, "general.sampling.min_p"),
                .repetition_penalty = number_or_nan(n->file, "general.sampling.penalty_repeat"),
            },
        .bos_id = v->bos,
        .eos_id = v->eos};
}

static enum eng_kv_type choose_kv_type(const struct eng_options *o, const struct model *m)
{
    if (o->kv_type != ENG_KV_AUTO) {
        return o->kv_type;
    }
    return m->floats_only ? ENG_KV_F32 : ENG_KV_BF16;
}

static enum err_code create_attention(struct engine *n, enum kern_isa isa, enum eng_kv_type kv_type,
                                      struct err *e)
{
    const struct model *m = n->model;
    struct att_kv_shape *shapes = calloc(m->n_layer, sizeof *shapes);
    if (!shapes) {
        return err_set(e, ERR_NOMEM, "out of memory for %u layers", m->n_layer);
    }
    for (uint32_t i = 0; i < m->n_layer; i++) {
        const struct model_layer *l = &m->layers[i];
        if (l->kv_layer == i && !l->ssm) {
            shapes[i] = (struct att_kv_shape){l->n_head_kv, l->d_k, l->d_v};
        }
    }
    enum err_code code = att_ctx_create(isa, kv_type, shapes, m->n_layer, n->pool, &n->att, e);
    free(shapes);
    return code;
}

/* Weights, KV layout and scratch: all that vocab_only leaves out. */
static enum err_code open_model(struct engine *n, const struct eng_options *o, struct err *e)
{
    enum kern_isa isa;
    enum err_code code = kern_isa_by_name(o->isa, &isa, e);
    if (!code) {
        code = model_read_params(n->file, o->n_ctx, &n->model, e);
    }
    if (!code) {
        code = eng_pool_create(o->n_thread, &n->pool, e);
    }
    if (!code) {
        code = gemm_ctx_create(isa, n->pool, &n->gemm, e);
    }
    if (!code) {
        code = model_load_tensors(n->model, n->file, n->gemm, n->pool, o, e);
    }
    if (!code && o->n_adapter) {
        code = lora_set_open(n->model, n->file, n->gemm, o, &n->loras, e);
    }
    enum eng_kv_type kv_type = code ? ENG_KV_F32 : choose_kv_type(o, n->model);
    if (!code) {
        code = create_attention(n, isa, kv_type, e);
    }
    if (!code) {
        struct fwd_env env = {n->model, n->pool, n->gemm, n->att, vec_ops_of(isa), n->loras};
        code = fwd_create(&env, &n->fwd, e);
    }
    if (code) {
        return code;
    }
    const struct model *m = n->model;
    struct eng_info *info = &n->base.info;
    info->isa = kern_isa_name(isa);
    info->n_vocab = m->n_vocab;
    info->n_layer = m->n_layer;
    info->n_ctx = m->n_ctx;
    info->n_ctx_train = m->n_ctx_train;
    info->n_thread = eng_pool_n_thread(n->pool);
    info->n_param = m->n_param;
    info->weights_bytes = m->weights_bytes;
    info->embed_bytes = m->tied || !m->embed ? 0 : m->embed->n_byte;
    info->moe = m->n_expert > 0;
    info->kv_type = kv_type;
    info->chunk_tok = att_chunk_tok(n->att);
    info->chunk_bytes = att_chunk_bytes(n->att);
    if (info->chunk_bytes == 0) { /* no layer has KV; stores want chunks all the same */
        info->chunk_bytes = CHUNK_BYTES_MIN;
    }
    info->kv_bytes_per_tok = att_bytes_per_tok(n->att);
    info->n_step_tok_max = fwd_n_tok_max(n->fwd);
    info->n_step_out_max = fwd_n_out_max(n->fwd);
    memcpy(info->weights_digest, m->digest, sizeof info->weights_digest);
    info->kv_layout_id = att_layout_id(n->att);
    info->arithmetic_id = (uint64_t)isa << 32 | ARITHMETIC_VERSION;
    info->rope_id = m->rope_is_long;
    info->n_embd = m->n_embd;
    info->adapters = n->loras ? n->loras->facts : NULL;
    info->n_adapter = n->loras ? n->loras->n : 0;
    info->pooling = m->pooling;
    info->encoder = m->encoder;
    info->state_bytes = m->state_bytes;
    if (m->encoder && info->n_ctx > info->n_step_tok_max) {
        info->n_ctx = info->n_step_tok_max;
    }
    return ERR_OK;
}

enum err_code eng_open(const struct eng_options *options, struct eng **ret_g, struct err *e)
{
    struct engine *n = calloc(1, sizeof *n);
    if (!n) {
        return err_set(e, ERR_NOMEM, "out of memory for an engine");
    }
    n->base.impl = &engine_impl;
    enum err_code code = gguf_open(options->model_path, &n->file, e);
    if (!code) {
        code = vocab_load(n->file, &n->vocab, e);
    }
    if (!code) {
        const struct chat_options chat = {.vocab = n->vocab,
                                          .path = options->chat_template_path,
                                          .fallback = options->chat_template_fallback};
        code = chat_load(n->file, &chat, &n->chat, e);
    }
    if (!code) {
        fill_facts(n, options);
    }
    if (!code && !options->vocab_only) {
        code = open_model(n, options, e);
    }
    if (code) {
        engine_destroy(&n->base);
        return code;
    }
    *ret_g = &n->base;
    return ERR_OK;
}
