#include "engine/gguf_write.h"

#include "base/units.h"
#include "engine/gguf_file.h"
#include "engine/quant/formats.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct place {
    uint64_t offset; /* in the data section */
    uint64_t n_byte;
};

struct gguf_writer {
    struct buf kvs; /* as they will stand in the file */
    struct buf tensors;
    uint64_t n_kv;
    uint32_t n_tensor;
    struct place *places; /* [n_tensor] */
    uint32_t n_place_max;
    uint64_t data_bytes;
    struct err bad; /* the first thing that could not be kept */
    int fd;         /* -1 until opened and after finishing */
    uint64_t data_at;
    char *path;
    char *partial;
};

enum err_code gguf_writer_create(struct gguf_writer **ret_w, struct err *e)
{
    struct gguf_writer *w = calloc(1, sizeof *w);
    if (!w) {
        return err_set(e, ERR_NOMEM, "out of memory for a file writer");
    }
    w->fd = -1;
    *ret_w = w;
    return ERR_OK;
}

void gguf_writer_destroy(struct gguf_writer *w)
{
    if (!w) {
        return;
    }
    if (w->fd >= 0) {
        (void)close(w->fd);
        (void)unlink(w->partial);
    }
    buf_free(&w->kvs);
    buf_free(&w->tensors);
    free(w->places);
    free(w->path);
    free(w->partial);
    free(w);
}

static void append_u32(struct buf *b, uint32_t v)
{
    buf_append(b, &v, sizeof v);
}

static void append_u64(struct buf *b, uint64_t v)
{
    buf_append(b, &v, sizeof v);
}

static void append_str(struct buf *b, struct gguf_str s)
{
    append_u64(b, s.n);
    buf_append(b, s.s, s.n);
}

static struct gguf_str str_of(const char *s)
{
    return (struct gguf_str){s, strlen(s)};
}

void gguf_put_kv(struct gguf_writer *w, const struct gguf_kv *kv)
{
    struct buf *b = &w->kvs;
    append_str(b, kv->key);
    append_u32(b, kv->type);
    w->n_kv++;
    if (kv->type == GGUF_STRING) {
        append_str(b, kv->str);
    } else if (kv->type != GGUF_ARRAY) {
        buf_append(b, kv->data, gguf_value_bytes(kv->type));
    } else {
        append_u32(b, kv->array.type);
        append_u64(b, kv->array.n);
        if (kv->array.type != GGUF_STRING) {
            buf_append(b, kv->array.data, (size_t)kv->array.n * gguf_value_bytes(kv->array.type));
        }
        for (uint64_t i = 0; kv->array.type == GGUF_STRING && i < kv->array.n; i++) {
            append_str(b, kv->array.strings[i]);
        }
    }
}

void gguf_put_number(struct gguf_writer *w, const char *key, enum gguf_value_type type,
                     const void *value)
{
    gguf_put_kv(w, &(struct gguf_kv){.key = str_of(key), .type = type, .data = value});
}

void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t v)
{
    gguf_put_number(w, key, GGUF_U32, &v);
}

void gguf_put_f32(struct gguf_writer *w, const char *key, float v)
{
    gguf_put_number(w, key, GGUF_F32, &v);
}

void gguf_put_bool(struct gguf_writer *w, const char *key, bool v)
{
    gguf_put_number(w, key, GGUF_BOOL, &(uint8_t){v});
}

void gguf_put_str(struct gguf_writer *w, const char *key, const char *s)
{
    gguf_put_kv(w, &(struct gguf_kv){.key = str_of(key), .type = GGUF_STRING, .str = str_of(s)});
}

void gguf_put_array(struct gguf_writer *w, const char *key, const struct gguf_array *array)
{
    gguf_put_kv(w, &(struct gguf_kv){.key = str_of(key), .type = GGUF_ARRAY, .array = *array});
}

static void remember(struct gguf_writer *w, enum err_code code, const char *what,
                     struct gguf_str name)
{
    char shown[GGUF_SHOWN_BYTES];
    if (!w->bad.code) {
        (void)err_set(&w->bad, code, "tensor '%s': %s", gguf_shown(name, shown), what);
    }
}

/* False when the shape has no size in this type. */
static bool tensor_bytes(enum gguf_type type, uint32_t n_dim, const uint64_t *ne, uint64_t *ret_n)
{
    const struct quant_format *fmt = quant_format_of(type);
    if (!fmt || n_dim == 0 || n_dim > GGUF_DIMS_MAX || ne[0] % fmt->n_block_elem) {
        return false;
    }
    uint64_t n = fmt->n_block_byte;
    bool ok = units_mul(n, ne[0] / fmt->n_block_elem, &n);
    for (uint32_t d = 1; d < n_dim; d++) {
        ok = ok && units_mul(n, ne[d], &n);
    }
    *ret_n = n;
    return ok && n > 0 && n < INT64_MAX / 2;
}

static bool room_for_place(struct gguf_writer *w)
{
    if (w->n_tensor < w->n_place_max) {
        return true;
    }
    uint32_t n_max = w->n_place_max ? w->n_place_max * 2 : 64;
    struct place *places = realloc(w->places, n_max * sizeof *places);
    if (places) {
        w->places = places;
        w->n_place_max = n_max;
    }
    return places;
}

uint32_t gguf_put_tensor(struct gguf_writer *w, struct gguf_str name, enum gguf_type type,
                         uint32_t n_dim, const uint64_t *ne)
{
    uint64_t n_byte = 0;
    if (!tensor_bytes(type, n_dim, ne, &n_byte)) {
        remember(w, ERR_INVALID, "this shape cannot be stored in this type", name);
    }
    if (!room_for_place(w)) {
        remember(w, ERR_NOMEM, "out of memory", name);
        return w->n_tensor ? w->n_tensor - 1 : 0;
    }
    append_str(&w->tensors, name);
    append_u32(&w->tensors, n_dim);
    for (uint32_t d = 0; d < n_dim && d < GGUF_DIMS_MAX; d++) {
        append_u64(&w->tensors, ne[d]);
    }
    append_u32(&w->tensors, type);
    append_u64(&w->tensors, w->data_bytes);
    w->places[w->n_tensor] = (struct place){w->data_bytes, n_byte};
    if (!units_add(w->data_bytes, n_byte + GGUF_ALIGNMENT_DEFAULT, &w->data_bytes)) {
        remember(w, ERR_LIMIT, "the file's size overflows", name);
    }
    w->data_bytes = (w->data_bytes - 1) & ~(uint64_t)(GGUF_ALIGNMENT_DEFAULT - 1);
    return w->n_tensor++;
}

uint64_t gguf_writer_tensor_bytes(const struct gguf_writer *w, uint32_t idx)
{
    return w->places[idx].n_byte;
}

uint64_t gguf_writer_tensor_offset(const struct gguf_writer *w, uint32_t idx)
{
    return w->places[idx].offset;
}

uint64_t gguf_writer_data_bytes(const struct gguf_writer *w)
{
    return w->data_bytes;
}

enum err_code gguf_writer_header(const struct gguf_writer *w, struct buf *out, struct err *e)
{
    if (w->bad.code) {
        return err_set(e, w->bad.code, "%s", w->bad.msg);
    }
    size_t from = out->len;
    buf_append(out, "GGUF", 4);
    append_u32(out, 3);
    append_u64(out, w->n_tensor);
    append_u64(out, w->n_kv);
    buf_append(out, buf_str(&w->kvs), w->kvs.len);
    buf_append(out, buf_str(&w->tensors), w->tensors.len);
    while (buf_ok(out) && (out->len - from) % GGUF_ALIGNMENT_DEFAULT) {
        buf_putc(out, 0);
    }
    if (!buf_ok(&w->kvs) || !buf_ok(&w->tensors) || !buf_ok(out)) {
        return err_set(e, ERR_NOMEM, "out of memory for a file's header");
    }
    return ERR_OK;
}

static enum err_code write_at(struct gguf_writer *w, uint64_t at, const void *bytes, size_t n,
                              struct err *e)
{
    const char *from = bytes;
    while (n) {
        ssize_t k = pwrite(w->fd, from, n, (off_t)at);
        if (k < 0 && errno == EINTR) {
            continue;
        }
        if (k <= 0) {
            return err_errno(e, ERR_IO, k ? errno : ENOSPC, "cannot write %s", w->partial);
        }
        from += k;
        at += (uint64_t)k;
        n -= (size_t)k;
    }
    return ERR_OK;
}

enum err_code gguf_writer_open(struct gguf_writer *w, const char *path, struct err *e)
{
    struct buf header = {0};
    enum err_code rc = gguf_writer_header(w, &header, e);
    if (rc) {
        goto out;
    }
    w->path = strdup(path);
    if (!w->path || asprintf(&w->partial, "%s.partial", path) < 0) {
        w->partial = NULL;
        rc = err_set(e, ERR_NOMEM, "out of memory for a path");
        goto out;
    }
    w->fd = open(w->partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd < 0) {
        rc = err_errno(e, ERR_IO, errno, "cannot create %s", w->partial);
        goto out;
    }
    w->data_at = header.len;
    if (ftruncate(w->fd, (off_t)(header.len + w->data_bytes)) != 0) {
        rc = err_errno(e, ERR_IO, errno, "cannot give %s its length", w->partial);
        goto out;
    }
    rc = write_at(w, 0, buf_str(&header), header.len, e);
out:
    buf_free(&header);
    return rc;
}

enum err_code gguf_writer_data(struct gguf_writer *w, uint32_t idx, uint64_t at, const void *bytes,
                               size_t n, struct err *e)
{
    const struct place *p = &w->places[idx];
    if (at > p->n_byte || n > p->n_byte - at) {
        return err_set(e, ERR_INTERNAL, "writing past the end of tensor %u", idx);
    }
    return write_at(w, w->data_at + p->offset + at, bytes, n, e);
}

enum err_code gguf_writer_finish(struct gguf_writer *w, struct err *e)
{
    int fd = w->fd;
    w->fd = -1;
    if (close(fd) != 0) {
        int why = errno;
        (void)unlink(w->partial);
        return err_errno(e, ERR_IO, why, "cannot write %s", w->partial);
    }
    if (rename(w->partial, w->path) != 0) {
        int why = errno;
        (void)unlink(w->partial);
        return err_errno(e, ERR_IO, why, "cannot rename %s to %s", w->partial, w->path);
    }
    return ERR_OK;
}
