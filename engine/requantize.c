#include "engine/requantize.h"

#include "engine/gguf_write.h"
#include "engine/quant/formats.h"
#include "engine/quant/quantize.h"
#include "engine/threads.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Elements one work item takes: a multiple of every block, so that items never share one. */
#define ITEM_ELEM ((size_t)1 << 18)
/* The format's revision of block layouts that general.quantization_version names. */
#define QUANTIZATION_VERSION 2

struct job {
    struct gguf *in;
    struct gguf_writer *out;
    struct eng_pool *pool;
    float **values;   /* [n_thread][ITEM_ELEM] */
    uint8_t **blocks; /* [n_thread][ITEM_ELEM * 4] */
    /* the tensor at work */
    const struct gguf_tensor *t;
    uint32_t idx;
    enum gguf_type to;
    atomic_flag failed; /* taken by the worker that then writes err */
    struct err err;
};

static bool is_ours_to_write(struct gguf_str key)
{
    static const char *const keys[] = {
        "general.file_type", "general.quantization_version", "general.alignment", "split.no",
        "split.count",       "split.tensors.count",
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (key.n == strlen(keys[i]) && memcmp(key.s, keys[i], key.n) == 0) {
            return true;
        }
    }
    return false;
}

static void put_metadata(const struct gguf *in, const struct quant_mix *mix, struct gguf_writer *w)
{
    for (uint64_t i = 0; i < gguf_n_kv(in); i++) {
        const struct gguf_kv *kv = gguf_kv_at(in, i);
        if (!is_ours_to_write(kv->key)) {
            gguf_put_kv(w, kv);
        }
    }
    gguf_put_u32(w, "general.file_type", mix->file_type);
    gguf_put_u32(w, "general.quantization_version", QUANTIZATION_VERSION);
}

/* A number under "ARCH.suffix", `absent` when it is not there or is an array. */
static uint64_t arch_number(const struct gguf *f, const char *suffix, uint64_t absent)
{
    struct gguf_str arch;
    char key[160];
    uint64_t v;
    if (!gguf_get_str(f, "general.architecture", &arch) || arch.n > 64) {
        return absent;
    }
    (void)snprintf(key, sizeof key, "%.*s.%s", (int)arch.n, arch.s, suffix);
    return gguf_get_u64(f, key, &v) ? v : absent;
}

static struct quant_mix_model describe(const struct gguf *f)
{
    uint64_t n_head = arch_number(f, "attention.head_count", 1);
    uint64_t n_head_kv = arch_number(f, "attention.head_count_kv", n_head);
    return (struct quant_mix_model){
        .n_layer = (uint32_t)arch_number(f, "block_count", 0),
        .n_expert = (uint32_t)arch_number(f, "expert_count", 0),
        .n_gqa = n_head_kv ? (uint32_t)(n_head / n_head_kv) : 1,
        .tied = !gguf_find_tensor(f, "output.weight"),
    };
}

static void fail(struct job *j, const struct err *e)
{
    if (!atomic_flag_test_and_set(&j->failed)) {
        j->err = *e;
    }
}

/* One run of elements: to f32, to blocks, to the file. */
static void convert_item(void *arg, uint32_t item, uint32_t worker)
{
    struct job *j = arg;
    const struct quant_format *from = quant_format_of(j->t->type);
    const struct quant_format *to = quant_format_of(j->to);
    uint64_t at = (uint64_t)item * ITEM_ELEM;
    size_t n = j->t->n_elem - at < ITEM_ELEM ? (size_t)(j->t->n_elem - at) : ITEM_ELEM;
    const uint8_t *src = (const uint8_t *)j->t->data + at / from->n_block_elem * from->n_block_byte;
    size_t n_byte = n / to->n_block_elem * to->n_block_byte;
    const void *bytes = src;
    struct err e;
    if (j->to != j->t->type) {
        from->dequant(src, j->values[worker], n);
        if (!quant_quantize(j->to, j->values[worker], j->blocks[worker], n)) {
            (void)err_set(&e, ERR_CORRUPT,
                          "tensor '%.*s': an element is not finite or too large for %s",
                          (int)(j->t->name.n < 100 ? j->t->name.n : 100), j->t->name.s, to->name);
            fail(j, &e);
            return;
        }
        bytes = j->blocks[worker];
    }
    if (gguf_writer_data(j->out, j->idx, at / to->n_block_elem * to->n_block_byte, bytes, n_byte,
                         &e)) {
        fail(j, &e);
    }
}

static enum err_code put_tensors(struct job *j, const struct eng_requantize_options *o,
                                 const struct quant_mix_model *model, struct err *e)
{
    uint64_t done = 0;
    for (uint64_t i = 0; i < gguf_n_tensor(j->in); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(j->in, i);
        j->t = t;
        j->idx = (uint32_t)i;
        j->to = quant_mix_type(o->mix, model, t->name, t->type, t->n_dim, t->ne[0]);
        eng_pool_run(j->pool, (uint32_t)((t->n_elem + ITEM_ELEM - 1) / ITEM_ELEM), convert_item, j);
        if (j->err.code) {
            return err_set(e, j->err.code, "%s", j->err.msg);
        }
        gguf_release_pages(j->in, t);
        done += t->n_byte;
        if (o->progress) {
            o->progress(o->progress_arg, t, j->to, done, gguf_file_bytes(j->in));
        }
    }
    return ERR_OK;
}

static bool alloc_scratch(struct job *j)
{
    uint32_t n = eng_pool_n_thread(j->pool);
    j->values = calloc(n, sizeof *j->values);
    j->blocks = calloc(n, sizeof *j->blocks);
    bool ok = j->values && j->blocks;
    for (uint32_t i = 0; ok && i < n; i++) {
        j->values[i] = malloc(ITEM_ELEM * sizeof **j->values);
        j->blocks[i] = malloc(ITEM_ELEM * sizeof **j->values);
        ok = j->values[i] && j->blocks[i];
    }
    return ok;
}

static void free_scratch(struct job *j)
{
    for (uint32_t i = 0; j->values && j->blocks && i < eng_pool_n_thread(j->pool); i++) {
        free(j->values[i]);
        free(j->blocks[i]);
    }
    free(j->values);
    free(j->blocks);
}

enum err_code eng_requantize(const struct eng_requantize_options *o, struct err *e)
{
    struct job j = {.failed = ATOMIC_FLAG_INIT};
    enum err_code rc = gguf_open(o->in_path, &j.in, e);
    if (rc) {
        return rc;
    }
    struct quant_mix_model model = describe(j.in);
    rc = gguf_writer_create(&j.out, e);
    if (rc) {
        goto out;
    }
    put_metadata(j.in, o->mix, j.out);
    for (uint64_t i = 0; i < gguf_n_tensor(j.in); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(j.in, i);
        if (t->n_elem / ITEM_ELEM >= UINT32_MAX) {
            rc = err_set(e, ERR_LIMIT, "tensor %llu has %llu elements", (unsigned long long)i,
                         (unsigned long long)t->n_elem);
            goto out;
        }
        (void)gguf_put_tensor(j.out, t->name,
                              quant_mix_type(o->mix, &model, t->name, t->type, t->n_dim, t->ne[0]),
                              t->n_dim ? t->n_dim : 1, t->ne);
    }
    rc = eng_pool_create(o->n_thread, &j.pool, e);
    if (rc) {
        goto out;
    }
    if (!alloc_scratch(&j)) {
        rc = err_set(e, ERR_NOMEM, "out of memory for quantising");
        goto out;
    }
    rc = gguf_writer_open(j.out, o->out_path, e);
    if (!rc) {
        rc = put_tensors(&j, o, &model, e);
    }
    if (!rc) {
        rc = gguf_writer_finish(j.out, e);
    }
out:
    free_scratch(&j);
    eng_pool_destroy(j.pool);
    gguf_writer_destroy(j.out);
    gguf_close(j.in);
    return rc;
}
