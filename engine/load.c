#include "engine/load.h"

#include "engine/quant/formats.h"

#include <stdio.h>
#include <stdlib.h>

const char *load_name(char out[LOAD_NAME_BYTES], int il, const char *name, const char *suffix)
{
    if (il < 0) {
        snprintf(out, LOAD_NAME_BYTES, "%s%s", name, suffix);
    } else {
        snprintf(out, LOAD_NAME_BYTES, "blk.%d.%s%s", il, name, suffix);
    }
    return out;
}

bool load_has(const struct loader *L, int il, const char *name)
{
    char full[LOAD_NAME_BYTES];
    return gguf_find_tensor(L->f, load_name(full, il, name, "")) != NULL;
}

static void mark_used(struct loader *L, const struct gguf_tensor *t)
{
    L->used[t - gguf_tensor_at(L->f, 0)] = true;
}

const struct gguf_tensor *load_take(struct loader *L, const char *full, uint64_t ne0, uint64_t ne1,
                                    uint64_t ne2, bool required)
{
    if (L->code) {
        return NULL;
    }
    const struct gguf_tensor *t = gguf_find_tensor(L->f, full);
    if (!t) {
        if (required) {
            L->code = err_set(L->e, ERR_CORRUPT, "missing tensor %s", full);
        }
        return NULL;
    }
    if (t->ne[0] != ne0 || t->ne[1] != ne1 || t->ne[2] != ne2 || t->ne[3] != 1) {
        L->code = err_set(L->e, ERR_CORRUPT,
                          "tensor %s has shape [%llu, %llu, %llu], expected [%llu, %llu, %llu]",
                          full, (unsigned long long)t->ne[0], (unsigned long long)t->ne[1],
                          (unsigned long long)t->ne[2], (unsigned long long)ne0,
                          (unsigned long long)ne1, (unsigned long long)ne2);
        return NULL;
    }
    const struct quant_format *format = quant_format_of(t->type);
    if (!format || !format->dequant) {
        L->code = err_set(L->e, ERR_UNSUPPORTED, "tensor %s has type %s, which is not supported",
                          full, format ? format->name : "of an unknown number");
        return NULL;
    }
    mark_used(L, t);
    return t;
}

void load_done(struct loader *L, const struct gguf_tensor *t)
{
    load_hash(L, t);
    gguf_release_pages(L->f, t);
    L->done_bytes += t->n_byte;
    if (L->options->progress) {
        L->options->progress(L->options->progress_arg, L->done_bytes, L->total_bytes);
    }
}

float *load_f32(struct loader *L, const struct gguf_tensor *t, uint64_t from, uint64_t n)
{
    const struct quant_format *format = quant_format_of(t->type);
    if (from % format->n_block_elem || n % format->n_block_elem) {
        L->code = err_set(L->e, ERR_CORRUPT, "tensor %.*s cannot be split within a block",
                          (int)t->name.n, t->name.s);
        return NULL;
    }
    float *v = malloc(n * sizeof *v);
    if (!v) {
        L->code = err_set(L->e, ERR_NOMEM, "out of memory for %llu values of tensor %.*s",
                          (unsigned long long)n, (int)t->name.n, t->name.s);
        return NULL;
    }
    const char *src = t->data;
    format->dequant(src + from / format->n_block_elem * format->n_block_byte, v, n);
    return v;
}

float *load_vector(struct loader *L, const char *full, uint64_t n, bool required)
{
    const struct gguf_tensor *t = load_take(L, full, n, 1, 1, required);
    float *v = t ? load_f32(L, t, 0, n) : NULL;
    if (v) {
        load_done(L, t);
    }
    return v;
}

void load_norm(struct loader *L, int il, const char *name, uint32_t n, struct model_norm *norm,
               bool required)
{
    char full[LOAD_NAME_BYTES];
    norm->w = load_vector(L, load_name(full, il, name, ".weight"), n, required);
    norm->b = load_vector(L, load_name(full, il, name, ".bias"), n, false);
    norm->present = norm->w != NULL;
}

void load_rows(struct loader *L, const struct gguf_tensor *t, uint32_t slab, uint32_t row0,
               uint32_t n_out, struct gemm_weight *w)
{
    if (L->code) {
        return;
    }
    const struct quant_format *format = quant_format_of(t->type);
    size_t row_bytes = t->ne[0] / format->n_block_elem * format->n_block_byte;
    const char *src = t->data;
    src += (slab * t->ne[1] + row0) * row_bytes;
    struct err cause;
    enum err_code code =
        gemm_weight_pack(L->gemm, t->type, n_out, (uint32_t)t->ne[0], src, w, &cause);
    if (code) {
        L->code = err_set(L->e, code, "tensor %.*s: %s", (int)t->name.n, t->name.s, cause.msg);
        return;
    }
    if (t->type != GGUF_TYPE_F32 && t->type != GGUF_TYPE_F16) {
        L->m->floats_only = false;
    }
}

void load_linear(struct loader *L, int il, const char *name, uint32_t n_out, uint32_t n_in,
                 struct model_linear *lin, bool required)
{
    char full[LOAD_NAME_BYTES];
    load_name(full, il, name, ".weight");
    const struct gguf_tensor *t = load_take(L, full, n_in, n_out, 1, required);
    if (!t) {
        return;
    }
    load_rows(L, t, 0, 0, n_out, &lin->w);
    if (!L->code) {
        load_done(L, t);
    }
    lin->b = load_vector(L, load_name(full, il, name, ".bias"), n_out, false);
}

void load_fused(struct loader *L, int il, const char *name, const uint32_t *n_outs,
                struct model_linear *const *lins, uint32_t n_lin, uint32_t n_in)
{
    uint32_t n_out = 0;
    for (uint32_t i = 0; i < n_lin; i++) {
        n_out += n_outs[i];
    }
    char full[LOAD_NAME_BYTES];
    const struct gguf_tensor *t =
        load_take(L, load_name(full, il, name, ".weight"), n_in, n_out, 1, true);
    const struct gguf_tensor *b =
        load_take(L, load_name(full, il, name, ".bias"), n_out, 1, 1, false);
    uint32_t row0 = 0;
    for (uint32_t i = 0; t && i < n_lin; i++) {
        load_rows(L, t, 0, row0, n_outs[i], &lins[i]->w);
        if (b && !L->code) {
            lins[i]->b = load_f32(L, b, row0, n_outs[i]);
        }
        row0 += n_outs[i];
    }
    if (t && !L->code) {
        load_done(L, t);
    }
    if (b && !L->code) {
        load_done(L, b);
    }
}

void load_ignore(struct loader *L, int il, const char *name)
{
    char full[LOAD_NAME_BYTES];
    const struct gguf_tensor *t = gguf_find_tensor(L->f, load_name(full, il, name, ""));
    if (t) {
        mark_used(L, t);
    }
}
