/* From a reference model to its recipe. */
#include "engine/quant/formats.h"
#include "tests/golden/recipe.h"
#include "tests/golden/recipe_values.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool starts(struct gguf_str s, const char *with)
{
    size_t n = strlen(with);
    return s.n >= n && memcmp(s.s, with, n) == 0;
}

static bool is(struct gguf_str s, const char *text)
{
    return s.n == strlen(text) && starts(s, text);
}

static void put_value(struct buf *out, enum gguf_value_type type, const struct gguf_array *a,
                      uint64_t i)
{
    if (type == GGUF_STRING) {
        buf_printf(out, " %.*s", (int)a->strings[i].n, a->strings[i].s);
    } else if (type == GGUF_F32 || type == GGUF_F64) {
        buf_printf(out, " %.9g", gguf_array_f64(a, i));
    } else {
        buf_printf(out, " %lld", (long long)gguf_array_i64(a, i));
    }
}

static void put_key(struct buf *out, const struct gguf_kv *kv)
{
    if (starts(kv->key, "tokenizer.") ||
        (starts(kv->key, "general.") && !is(kv->key, "general.architecture"))) {
        return;
    }
    bool array = kv->type == GGUF_ARRAY;
    enum gguf_value_type type = array ? kv->array.type : kv->type;
    struct gguf_array one = {type, 1, kv->data, &kv->str};
    const struct gguf_array *a = array ? &kv->array : &one;
    buf_printf(out, "kv %.*s %s%s", (int)kv->key.n, kv->key.s, array ? "[]" : "",
               recipe_type_name(type));
    for (uint64_t i = 0; i < a->n; i++) {
        put_value(out, type, a, i);
    }
    buf_putc(out, '\n');
}

struct spread {
    double n, sum, square, min, max;
};

static void add_values(struct spread *s, const struct gguf_tensor *t)
{
    float *v = malloc((size_t)t->n_elem * sizeof *v);
    quant_format_of(t->type)->dequant(t->data, v, (size_t)t->n_elem);
    for (uint64_t i = 0; i < t->n_elem; i++) {
        s->n++;
        s->sum += (double)v[i];
        s->square += (double)v[i] * (double)v[i];
        s->min = fmin(s->min, (double)v[i]);
        s->max = fmax(s->max, (double)v[i]);
    }
    free(v);
}

/* "blk.7.rest": 7 and rest. */
static bool layer_of(const struct gguf_tensor *t, uint32_t *ret_il, struct gguf_str *ret_rest)
{
    char name[128];
    int at = 0;
    snprintf(name, sizeof name, "%.*s", (int)(t->name.n < 120 ? t->name.n : 120), t->name.s);
    bool ok = sscanf(name, "blk.%u.%n", ret_il, &at) == 1 && at;
    *ret_rest = (struct gguf_str){t->name.s + at, t->name.n - (size_t)at};
    return ok;
}

static const struct gguf_tensor *same_in(const struct gguf *f, const struct gguf_tensor *t,
                                         struct gguf_str rest, uint32_t il)
{
    char name[160];
    snprintf(name, sizeof name, "blk.%u.%.*s", il, (int)rest.n, rest.s);
    const struct gguf_tensor *o = gguf_find_tensor(f, name);
    return o && o->type == t->type && memcmp(o->ne, t->ne, sizeof t->ne) == 0 ? o : NULL;
}

static void put_shape(struct buf *out, const struct gguf_tensor *t)
{
    buf_printf(out, " %s", quant_format_of(t->type)->name);
    for (uint32_t i = 0; i < t->n_dim; i++) {
        buf_printf(out, " %llu", (unsigned long long)t->ne[i]);
    }
}

static void put_tensor(struct buf *out, const struct gguf *f, const struct gguf_tensor *t)
{
    uint32_t il = 0;
    struct gguf_str rest;
    struct spread s = {0, 0, 0, INFINITY, -INFINITY};
    if (layer_of(t, &il, &rest)) {
        if (il > 0 && same_in(f, t, rest, il - 1)) {
            return; /* said with the layer before */
        }
        uint32_t last = il;
        const struct gguf_tensor *next = t;
        while (next) {
            add_values(&s, next);
            next = same_in(f, t, rest, ++last);
        }
        buf_printf(out, "t blk.%u-%u.%.*s", il, last - 1, (int)rest.n, rest.s);
    } else {
        add_values(&s, t);
        buf_printf(out, "t %.*s", (int)t->name.n, t->name.s);
    }
    put_shape(out, t);
    if (starts(t->name, "rope_")) {
        buf_puts(out, " v");
        for (uint64_t i = 0; i < t->n_elem; i++) {
            buf_printf(out, " %.6g", (double)((const float *)t->data)[i]);
        }
        buf_putc(out, '\n');
        return;
    }
    double mean = s.sum / s.n;
    double half = sqrt(3 * fmax(s.square / s.n - mean * mean, 0));
    buf_printf(out, " u %.4g %.4g\n", fmax(s.min, mean - half), fmin(s.max, mean + half));
}

bool recipe_of_model(const char *gguf_path, struct buf *out)
{
    struct gguf *f = NULL;
    struct err e;
    if (gguf_open(gguf_path, &f, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        return false;
    }
    buf_puts(out, "seed 1\n");
    for (uint64_t i = 0; i < gguf_n_kv(f); i++) {
        put_key(out, gguf_kv_at(f, i));
    }
    for (uint64_t i = 0; i < gguf_n_tensor(f); i++) {
        put_tensor(out, f, gguf_tensor_at(f, i));
    }
    gguf_close(f);
    return buf_ok(out);
}
