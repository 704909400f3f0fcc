#include "engine/synth.h"

#include "base/hash.h"
#include "base/rng.h"
#include "engine/gguf_write.h"
#include "engine/quant/formats.h"
#include "engine/quant/quantize.h"
#include "engine/synth_list.h"
#include "engine/threads.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Weights are drawn from a pool of random units, quantised once for each type and spread:
 * quantising every weight of a large model would take minutes and change nothing that can be
 * measured. */
#define UNIT_ELEM  256
#define POOL_UNITS 1024
#define POOL_ELEM  ((size_t)UNIT_ELEM * POOL_UNITS)
#define POOLS_MAX  64
#define ITEM_UNITS 4096 /* of one work item */

#define QUANTIZATION_VERSION 2

struct pool_blocks {
    enum gguf_type type;
    float spread;
    uint8_t *units; /* [POOL_UNITS] */
};

struct job {
    const struct synth_options *o;
    struct gguf_writer *out;
    struct eng_pool *threads;
    float *normal; /* [POOL_ELEM], mean 0, variance 1 */
    float *scaled; /* [POOL_ELEM] */
    struct pool_blocks pools[POOLS_MAX];
    uint32_t n_pool;
    uint8_t **scratch; /* [n_thread][ITEM_UNITS * UNIT_ELEM * 4] */
    /* the tensor at work */
    const struct synth_tensor *t;
    uint32_t idx;
    uint64_t key;
    const struct pool_blocks *from;
    atomic_flag failed;
    struct err err;
};

/* ---- metadata ---- */

static void put_arch_u32(struct gguf_writer *w, const char *arch, const char *suffix, uint32_t v)
{
    char key[128];
    (void)snprintf(key, sizeof key, "%s.%s", arch, suffix);
    gguf_put_u32(w, key, v);
}

static void put_arch_f32(struct gguf_writer *w, const char *arch, const char *suffix, float v)
{
    char key[128];
    (void)snprintf(key, sizeof key, "%s.%s", arch, suffix);
    gguf_put_f32(w, key, v);
}

static void put_metadata(const struct synth_options *o, uint32_t n_layer, uint64_t n_vocab,
                         const struct gguf *vocab, struct gguf_writer *w)
{
    const struct synth_shape *s = o->shape;
    char name[128];
    (void)snprintf(name, sizeof name, "synthetic %s", s->name);
    gguf_put_str(w, "general.architecture", s->arch);
    gguf_put_str(w, "general.name", name);
    gguf_put_u32(w, "general.file_type", o->mix->file_type);
    gguf_put_u32(w, "general.quantization_version", QUANTIZATION_VERSION);
    put_arch_u32(w, s->arch, "block_count", n_layer);
    put_arch_u32(w, s->arch, "context_length", s->n_ctx);
    put_arch_u32(w, s->arch, "embedding_length", s->n_embd);
    put_arch_u32(w, s->arch, "feed_forward_length", s->n_ff);
    put_arch_u32(w, s->arch, "attention.head_count", s->n_head);
    put_arch_u32(w, s->arch, "attention.head_count_kv", s->n_head_kv);
    put_arch_u32(w, s->arch, "attention.key_length", s->head_dim);
    put_arch_u32(w, s->arch, "attention.value_length", s->head_dim);
    put_arch_f32(w, s->arch, "attention.layer_norm_rms_epsilon", s->eps);
    put_arch_u32(w, s->arch, "rope.dimension_count", s->head_dim);
    put_arch_f32(w, s->arch, "rope.freq_base", s->rope_base);
    put_arch_u32(w, s->arch, "vocab_size", (uint32_t)n_vocab);
    if (s->n_expert) {
        put_arch_u32(w, s->arch, "expert_count", s->n_expert);
        put_arch_u32(w, s->arch, "expert_used_count", s->n_expert_used);
        put_arch_u32(w, s->arch, "expert_feed_forward_length", s->n_ff_expert);
    }
    for (uint64_t i = 0; i < gguf_n_kv(vocab); i++) {
        const struct gguf_kv *kv = gguf_kv_at(vocab, i);
        if (kv->key.n > 10 && memcmp(kv->key.s, "tokenizer.", 10) == 0) {
            gguf_put_kv(w, kv);
        }
    }
}

/* ---- values ---- */

/* Two normal numbers from two uniform ones. Source: Box and Muller 1958. */
static void draw_normal(uint64_t seed, float *out)
{
    for (size_t i = 0; i < POOL_ELEM; i += 2) {
        double r = sqrt(-2 * log(1 - rng_unit(seed, i)));
        double angle = 6.283185307179586 * rng_unit(seed, i + 1);
        out[i] = (float)(r * cos(angle));
        out[i + 1] = (float)(r * sin(angle));
    }
}

static size_t units_bytes(enum gguf_type type, size_t n_unit)
{
    const struct quant_format *fmt = quant_format_of(type);
    return n_unit * UNIT_ELEM / fmt->n_block_elem * fmt->n_block_byte;
}

static void quantise_unit(void *arg, uint32_t unit, uint32_t worker)
{
    const struct job *j = arg;
    size_t at = (size_t)unit * UNIT_ELEM;
    for (size_t i = at; i < at + UNIT_ELEM; i++) {
        j->scaled[i] = j->normal[i] * j->from->spread;
    }
    /* Finite and small: it cannot fail. */
    (void)quant_quantize(j->from->type, j->scaled + at,
                         j->from->units + units_bytes(j->from->type, unit), UNIT_ELEM);
}

static enum err_code find_pool(struct job *j, struct err *e)
{
    for (uint32_t i = 0; i < j->n_pool; i++) {
        if (j->pools[i].type == j->t->type && j->pools[i].spread == j->t->spread) {
            j->from = &j->pools[i];
            return ERR_OK;
        }
    }
    struct pool_blocks *p = &j->pools[j->n_pool];
    *p = (struct pool_blocks){.type = j->t->type, .spread = j->t->spread};
    p->units = j->n_pool < POOLS_MAX - 1 ? malloc(units_bytes(p->type, POOL_UNITS)) : NULL;
    if (!p->units) {
        return err_set(e, ERR_NOMEM, "out of memory for random weights");
    }
    j->n_pool++;
    j->from = p;
    eng_pool_run(j->threads, POOL_UNITS, quantise_unit, j);
    return ERR_OK;
}

static void fail(struct job *j, const struct err *e)
{
    if (!atomic_flag_test_and_set(&j->failed)) {
        j->err = *e;
    }
}

static void write_item(void *arg, uint32_t item, uint32_t worker)
{
    struct job *j = arg;
    size_t unit_bytes = units_bytes(j->t->type, 1);
    uint64_t at = (uint64_t)item * ITEM_UNITS * unit_bytes;
    uint64_t left = gguf_writer_tensor_bytes(j->out, j->idx) - at;
    size_t n = left < ITEM_UNITS * unit_bytes ? (size_t)left : ITEM_UNITS * unit_bytes;
    uint8_t *to = j->scratch[worker];
    for (size_t i = 0; i * unit_bytes < n; i++) {
        uint64_t pick = rng_mix(j->key, (uint64_t)item * ITEM_UNITS + i) % POOL_UNITS;
        memcpy(to + i * unit_bytes, j->from->units + pick * unit_bytes, unit_bytes);
    }
    struct err e;
    if (gguf_writer_data(j->out, j->idx, at, to, n, &e)) {
        fail(j, &e);
    }
}

static enum err_code put_weight(struct job *j, struct err *e)
{
    enum err_code rc = find_pool(j, e);
    if (rc) {
        return rc;
    }
    uint64_t item_bytes = ITEM_UNITS * units_bytes(j->t->type, 1);
    uint64_t n_item = (gguf_writer_tensor_bytes(j->out, j->idx) + item_bytes - 1) / item_bytes;
    eng_pool_run(j->threads, (uint32_t)n_item, write_item, j);
    return j->err.code ? err_set(e, j->err.code, "%s", j->err.msg) : ERR_OK;
}

/* Factor by which frequency i of head_dim / 2 is divided. Long wavelengths are stretched in full,
 * short ones not at all, those between gradually. Source: Llama 3.1's published configuration. */
static float rope_factor(const struct synth_shape *s, uint32_t i)
{
    const double trained = 8192;
    const double low = 1;
    const double high = 4;
    double factor = (double)s->rope_factor;
    double freq = pow((double)s->rope_base, -2.0 * (double)i / (double)s->head_dim);
    double turns = trained * freq / 6.283185307179586;
    if (turns > high) {
        return 1;
    }
    if (turns < low) {
        return (float)factor;
    }
    double smooth = (turns - low) / (high - low);
    return (float)(1 / ((1 - smooth) / factor + smooth));
}

static enum err_code put_vector(struct job *j, struct err *e)
{
    size_t n = (size_t)j->t->ne[0];
    float *v = malloc(n * sizeof *v);
    if (!v) {
        return err_set(e, ERR_NOMEM, "out of memory for random weights");
    }
    for (size_t i = 0; i < n; i++) {
        v[i] = j->t->fill == SYNTH_FILL_ROPE ? rope_factor(j->o->shape, (uint32_t)i)
                                             : (float)(0.8 + 0.4 * rng_unit(j->key, i));
    }
    enum err_code rc = gguf_writer_data(j->out, j->idx, 0, v, n * sizeof *v, e);
    free(v);
    return rc;
}

static enum err_code put_tensors(struct job *j, const struct synth_list *l, struct err *e)
{
    draw_normal(j->o->seed, j->normal);
    for (size_t i = 0; i < l->n; i++) {
        j->t = &l->items[i];
        j->idx = (uint32_t)i;
        j->key = rng_mix(j->o->seed, hash_fnv1a(j->t->name, strlen(j->t->name)));
        enum err_code rc = j->t->fill == SYNTH_FILL_WEIGHT ? put_weight(j, e) : put_vector(j, e);
        if (rc) {
            return rc;
        }
    }
    return ERR_OK;
}

/* ---- all of it ---- */

static bool alloc_scratch(struct job *j)
{
    uint32_t n = eng_pool_n_thread(j->threads);
    j->normal = malloc(POOL_ELEM * sizeof *j->normal);
    j->scaled = malloc(POOL_ELEM * sizeof *j->scaled);
    j->scratch = calloc(n, sizeof *j->scratch);
    bool ok = j->normal && j->scaled && j->scratch;
    for (uint32_t i = 0; ok && i < n; i++) {
        j->scratch[i] = malloc((size_t)ITEM_UNITS * UNIT_ELEM * sizeof(float));
        ok = j->scratch[i];
    }
    return ok;
}

static void free_job(struct job *j)
{
    for (uint32_t i = 0; j->scratch && i < eng_pool_n_thread(j->threads); i++) {
        free(j->scratch[i]);
    }
    for (uint32_t i = 0; i < j->n_pool; i++) {
        free(j->pools[i].units);
    }
    free(j->scratch);
    free(j->normal);
    free(j->scaled);
    eng_pool_destroy(j->threads);
    gguf_writer_destroy(j->out);
}

static void declare(const struct synth_options *o, struct synth_list *l, uint32_t n_layer,
                    struct gguf_writer *w)
{
    const struct synth_shape *s = o->shape;
    struct quant_mix_model model = {.n_layer = n_layer,
                                    .n_expert = s->n_expert,
                                    .n_gqa = s->n_head / s->n_head_kv,
                                    .tied = s->tied};
    for (size_t i = 0; i < l->n; i++) {
        struct synth_tensor *t = &l->items[i];
        struct gguf_str name = {t->name, strlen(t->name)};
        t->type = quant_mix_type(o->mix, &model, name, t->type, t->n_dim, t->ne[0]);
        (void)gguf_put_tensor(w, name, t->type, t->n_dim, t->ne);
    }
}

enum err_code synth_write(const struct synth_options *o, struct err *e)
{
    struct job j = {.o = o, .failed = ATOMIC_FLAG_INIT};
    struct synth_list list = {0};
    struct gguf *vocab = NULL;
    struct gguf_array tokens;
    uint32_t n_layer = o->n_layer ? o->n_layer : o->shape->n_layer;
    enum err_code rc = gguf_open(o->vocab_path, &vocab, e);
    if (rc) {
        return rc;
    }
    if (!gguf_get_array(vocab, "tokenizer.ggml.tokens", &tokens) || tokens.n == 0 ||
        tokens.n > UINT32_MAX) {
        rc = err_set(e, ERR_INVALID, "%s holds no vocabulary (tokenizer.ggml.tokens)",
                     o->vocab_path);
        goto out;
    }
    synth_list_tensors(&list, o->shape, n_layer, tokens.n);
    if (list.failed) {
        rc = err_set(e, ERR_NOMEM, "out of memory for a list of tensors");
        goto out;
    }
    rc = gguf_writer_create(&j.out, e);
    if (rc) {
        goto out;
    }
    put_metadata(o, n_layer, tokens.n, vocab, j.out);
    declare(o, &list, n_layer, j.out);
    rc = eng_pool_create(o->n_thread, &j.threads, e);
    if (!rc && !alloc_scratch(&j)) {
        rc = err_set(e, ERR_NOMEM, "out of memory for random weights");
    }
    if (!rc) {
        rc = gguf_writer_open(j.out, o->out_path, e);
    }
    if (!rc) {
        rc = put_tensors(&j, &list, e);
    }
    if (!rc) {
        rc = gguf_writer_finish(j.out, e);
    }
out:
    free_job(&j);
    free(list.items);
    gguf_close(vocab);
    return rc;
}
