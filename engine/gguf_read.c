#include "base/units.h"
#include "base/utf8.h"
#include "engine/gguf_file.h"
#include "engine/quant/formats.h"

#include <stdlib.h>
#include <string.h>

/* The fewest bytes that one of each takes in a file; a count that asks for more is a lie. */
#define KV_BYTES_MIN     (8 + 1 + 4 + 1)
#define TENSOR_BYTES_MIN (8 + 1 + 4 + 4 + 8)
#define STRING_BYTES_MIN 8

struct cursor {
    const uint8_t *bytes;
    size_t n_byte;
    size_t at;
};

static size_t left(const struct cursor *c)
{
    return c->n_byte - c->at;
}

static bool read_u32(struct cursor *c, uint32_t *ret_v)
{
    if (left(c) < sizeof *ret_v) {
        return false;
    }
    memcpy(ret_v, c->bytes + c->at, sizeof *ret_v);
    c->at += sizeof *ret_v;
    return true;
}

static bool read_u64(struct cursor *c, uint64_t *ret_v)
{
    if (left(c) < sizeof *ret_v) {
        return false;
    }
    memcpy(ret_v, c->bytes + c->at, sizeof *ret_v);
    c->at += sizeof *ret_v;
    return true;
}

static bool read_str(struct cursor *c, struct gguf_str *ret_s)
{
    uint64_t n;
    struct cursor ahead = *c;
    if (!read_u64(&ahead, &n) || n > left(&ahead)) {
        return false;
    }
    *ret_s = (struct gguf_str){(const char *)ahead.bytes + ahead.at, (size_t)n};
    c->at = ahead.at + (size_t)n;
    return true;
}

/* A key or a tensor's name: text that messages and tables can use. */
static enum err_code read_name(struct cursor *c, const char *what, uint64_t idx,
                               struct gguf_str *ret_s, struct err *e)
{
    size_t at = c->at;
    struct gguf_str s;
    if (!read_str(c, &s)) {
        return err_set(e, ERR_CORRUPT, "%s %llu at offset %zu: its name runs past the end", what,
                       (unsigned long long)idx, at);
    }
    if (s.n == 0 || s.n > GGUF_KEY_BYTES_MAX) {
        return err_set(e, ERR_CORRUPT, "%s %llu at offset %zu: name of %zu bytes, 1 to %u allowed",
                       what, (unsigned long long)idx, at, s.n, GGUF_KEY_BYTES_MAX);
    }
    if (!utf8_valid(s.s, s.n)) {
        return err_set(e, ERR_CORRUPT, "%s %llu at offset %zu: its name is not UTF-8", what,
                       (unsigned long long)idx, at);
    }
    *ret_s = s;
    return ERR_OK;
}

static enum err_code corrupt_key(const struct gguf_kv *kv, size_t at, const char *why,
                                 struct err *e)
{
    char shown[GGUF_SHOWN_BYTES];
    return err_set(e, ERR_CORRUPT, "key '%s' at offset %zu: %s", gguf_shown(kv->key, shown), at,
                   why);
}

static bool all_bools(const void *data, uint64_t n)
{
    const uint8_t *v = data;
    for (uint64_t i = 0; i < n; i++) {
        if (v[i] > 1) {
            return false;
        }
    }
    return true;
}

static enum err_code read_string_array(struct cursor *c, struct gguf_kv *kv, struct err *e)
{
    uint64_t n = kv->array.n;
    if (n > left(c) / STRING_BYTES_MIN) {
        return corrupt_key(kv, c->at, "the array is longer than the file", e);
    }
    struct gguf_str *strings = malloc((n ? (size_t)n : 1) * sizeof *strings);
    if (!strings) {
        return err_set(e, ERR_NOMEM, "out of memory for an array of %llu strings",
                       (unsigned long long)n);
    }
    for (uint64_t i = 0; i < n; i++) {
        if (!read_str(c, &strings[i])) {
            free(strings);
            return corrupt_key(kv, c->at, "a string of the array runs past the end", e);
        }
    }
    kv->array.strings = strings;
    return ERR_OK;
}

static enum err_code read_array(struct cursor *c, struct gguf_kv *kv, struct err *e)
{
    uint32_t type;
    uint64_t n;
    size_t at = c->at;
    if (!read_u32(c, &type) || !read_u64(c, &n)) {
        return corrupt_key(kv, at, "the file ends inside the value", e);
    }
    kv->array = (struct gguf_array){.type = (enum gguf_value_type)type, .n = n};
    if (type == GGUF_STRING) {
        return read_string_array(c, kv, e);
    }
    if (type == GGUF_ARRAY) {
        return corrupt_key(kv, at, "arrays of arrays are not supported", e);
    }
    size_t width = gguf_value_bytes(kv->array.type);
    if (!width) {
        return corrupt_key(kv, at, "unknown kind of array element", e);
    }
    if (n > left(c) / width) {
        return corrupt_key(kv, at, "the array is longer than the file", e);
    }
    kv->array.data = c->bytes + c->at;
    if (type == GGUF_BOOL && !all_bools(kv->array.data, n)) {
        return corrupt_key(kv, at, "a bool of the array is neither 0 nor 1", e);
    }
    c->at += (size_t)n * width;
    return ERR_OK;
}

static enum err_code read_kv(struct cursor *c, uint64_t idx, struct gguf_kv *kv, struct err *e)
{
    enum err_code rc = read_name(c, "key", idx, &kv->key, e);
    if (rc) {
        return rc;
    }
    size_t at = c->at;
    uint32_t type;
    if (!read_u32(c, &type)) {
        return corrupt_key(kv, at, "the file ends before the value", e);
    }
    kv->type = (enum gguf_value_type)type;
    if (type == GGUF_ARRAY) {
        return read_array(c, kv, e);
    }
    if (type == GGUF_STRING) {
        return read_str(c, &kv->str) ? ERR_OK
                                     : corrupt_key(kv, at, "the string runs past the end", e);
    }
    size_t width = gguf_value_bytes(kv->type);
    if (!width) {
        return corrupt_key(kv, at, "unknown kind of value", e);
    }
    if (width > left(c)) {
        return corrupt_key(kv, at, "the file ends inside the value", e);
    }
    kv->data = c->bytes + c->at;
    if (type == GGUF_BOOL && !all_bools(kv->data, 1)) {
        return corrupt_key(kv, at, "a bool that is neither 0 nor 1", e);
    }
    c->at += width;
    return ERR_OK;
}

static enum err_code read_kvs(struct gguf_part *p, struct cursor *c, uint64_t n_kv, struct err *e)
{
    p->kvs = calloc(n_kv ? (size_t)n_kv : 1, sizeof *p->kvs);
    if (!p->kvs) {
        return err_set(e, ERR_NOMEM, "out of memory for %llu keys", (unsigned long long)n_kv);
    }
    enum err_code rc = smap_init(&p->key_map, (size_t)n_kv, e);
    for (uint64_t i = 0; !rc && i < n_kv; i++) {
        struct gguf_kv *kv = &p->kvs[i];
        size_t at = c->at;
        p->n_kv = i + 1;
        rc = read_kv(c, i, kv, e);
        bool is_new = true;
        if (!rc) {
            rc = smap_put(&p->key_map, kv->key.s, kv->key.n, (uint32_t)i, &is_new, e);
        }
        if (!rc && !is_new) {
            rc = corrupt_key(kv, at, "the key appears twice", e);
        }
    }
    return rc;
}

static enum err_code read_alignment(struct gguf_part *p, struct err *e)
{
    const struct gguf_kv *kv = gguf_part_find(p, "general.alignment");
    p->alignment = GGUF_ALIGNMENT_DEFAULT;
    if (!kv) {
        return ERR_OK;
    }
    uint64_t v;
    size_t at = (size_t)((const uint8_t *)kv->key.s - p->bytes);
    if (!gguf_kv_u64(kv, &v)) {
        return corrupt_key(kv, at, "not a whole number", e);
    }
    if (v < GGUF_ALIGNMENT_MIN || v > GGUF_ALIGNMENT_MAX || (v & (v - 1))) {
        return err_set(e, ERR_CORRUPT,
                       "key 'general.alignment' at offset %zu: %llu is not a power of two from %u "
                       "to %u",
                       at, (unsigned long long)v, GGUF_ALIGNMENT_MIN, GGUF_ALIGNMENT_MAX);
    }
    p->alignment = v;
    return ERR_OK;
}

static enum err_code corrupt_tensor(const struct gguf_tensor *t, size_t at, const char *why,
                                    struct err *e)
{
    char shown[GGUF_SHOWN_BYTES];
    return err_set(e, ERR_CORRUPT, "tensor '%s' at offset %zu: %s", gguf_shown(t->name, shown), at,
                   why);
}

/* n_elem and n_byte from ne and type, nothing of which is trusted yet. */
static enum err_code size_tensor(struct gguf_tensor *t, size_t at, struct err *e)
{
    char shown[GGUF_SHOWN_BYTES];
    const struct quant_format *fmt = quant_format_of(t->type);
    if (!fmt) {
        return err_set(e, ERR_UNSUPPORTED,
                       "tensor '%s' at offset %zu: type number %u is not one this build knows",
                       gguf_shown(t->name, shown), at, (unsigned)t->type);
    }
    t->n_elem = 1;
    for (uint32_t d = 0; d < GGUF_DIMS_MAX; d++) {
        if (t->ne[d] == 0) {
            return corrupt_tensor(t, at, "a dimension is 0", e);
        }
        if (!units_mul(t->n_elem, t->ne[d], &t->n_elem) || t->n_elem > INT64_MAX) {
            return corrupt_tensor(t, at, "its dimensions multiply to more than 2^63", e);
        }
    }
    if (t->ne[0] % fmt->n_block_elem) {
        return err_set(e, ERR_CORRUPT,
                       "tensor '%s' at offset %zu: rows of %llu are not whole %s blocks of %u",
                       gguf_shown(t->name, shown), at, (unsigned long long)t->ne[0], fmt->name,
                       fmt->n_block_elem);
    }
    if (!units_mul(t->n_elem / fmt->n_block_elem, fmt->n_block_byte, &t->n_byte)) {
        return corrupt_tensor(t, at, "its size overflows", e);
    }
    return ERR_OK;
}

static enum err_code read_tensor(struct cursor *c, uint64_t idx, struct gguf_tensor *t,
                                 struct err *e)
{
    enum err_code rc = read_name(c, "tensor", idx, &t->name, e);
    if (rc) {
        return rc;
    }
    size_t at = c->at;
    if (!read_u32(c, &t->n_dim)) {
        return corrupt_tensor(t, at, "the file ends inside its description", e);
    }
    if (t->n_dim > GGUF_DIMS_MAX) {
        return corrupt_tensor(t, at, "more than 4 dimensions", e);
    }
    uint32_t type;
    bool ok = true;
    for (uint32_t d = 0; d < GGUF_DIMS_MAX; d++) {
        t->ne[d] = 1;
        ok = ok && (d >= t->n_dim || read_u64(c, &t->ne[d]));
    }
    ok = ok && read_u32(c, &type) && read_u64(c, &t->offset);
    if (!ok) {
        return corrupt_tensor(t, at, "the file ends inside its description", e);
    }
    t->type = (enum gguf_type)type;
    return size_tensor(t, at, e);
}

/* Turns offsets within the data section, which starts at data_at, into places in the file. */
static enum err_code place_tensor(const struct gguf_part *p, uint64_t data_at,
                                  struct gguf_tensor *t, struct err *e)
{
    char shown[GGUF_SHOWN_BYTES];
    uint64_t end;
    if (t->offset % p->alignment) {
        return err_set(e, ERR_CORRUPT,
                       "tensor '%s': offset %llu is not a multiple of the alignment %llu",
                       gguf_shown(t->name, shown), (unsigned long long)t->offset,
                       (unsigned long long)p->alignment);
    }
    uint64_t at = data_at;
    if (!units_add(t->offset, data_at, &at) || !units_add(at, t->n_byte, &end) || end > p->n_byte) {
        return err_set(e, ERR_CORRUPT,
                       "tensor '%s': %llu bytes at offset %llu run past the file's end at %zu",
                       gguf_shown(t->name, shown), (unsigned long long)t->n_byte,
                       (unsigned long long)at, p->n_byte);
    }
    t->offset = at;
    t->data = p->bytes + at;
    return ERR_OK;
}

static enum err_code read_tensors(struct gguf_part *p, struct cursor *c, uint64_t n_tensor,
                                  struct err *e)
{
    p->tensors = calloc(n_tensor ? (size_t)n_tensor : 1, sizeof *p->tensors);
    if (!p->tensors) {
        return err_set(e, ERR_NOMEM, "out of memory for %llu tensors",
                       (unsigned long long)n_tensor);
    }
    p->n_tensor = n_tensor;
    for (uint64_t i = 0; i < n_tensor; i++) {
        enum err_code rc = read_tensor(c, i, &p->tensors[i], e);
        if (rc) {
            return rc;
        }
    }
    uint64_t data_at = units_align(c->at, (size_t)p->alignment);
    for (uint64_t i = 0; i < n_tensor; i++) {
        enum err_code rc = place_tensor(p, data_at, &p->tensors[i], e);
        if (rc) {
            return rc;
        }
    }
    return ERR_OK;
}

static enum err_code read_version(struct gguf_part *p, struct cursor *c, struct err *e)
{
    if (p->n_byte < 4 || memcmp(p->bytes, "GGUF", 4) != 0) {
        return err_set(e, ERR_CORRUPT, "not a GGUF file: it does not begin with 'GGUF'");
    }
    c->at = 4;
    if (!read_u32(c, &p->version)) {
        return err_set(e, ERR_CORRUPT, "the file ends inside the header at offset %zu", c->at);
    }
    if (p->version && !(p->version & 0xffff)) {
        return err_set(e, ERR_UNSUPPORTED, "a big-endian GGUF file; only little-endian is read");
    }
    if (p->version != 2 && p->version != 3) {
        return err_set(e, ERR_UNSUPPORTED, "GGUF version %u; only versions 2 and 3 are read",
                       p->version);
    }
    return ERR_OK;
}

static enum err_code read_header(struct gguf_part *p, struct err *e)
{
    struct cursor c = {.bytes = p->bytes, .n_byte = p->n_byte};
    uint64_t n_tensor;
    uint64_t n_kv;
    enum err_code rc = read_version(p, &c, e);
    if (rc) {
        return rc;
    }
    if (!read_u64(&c, &n_tensor) || !read_u64(&c, &n_kv)) {
        return err_set(e, ERR_CORRUPT, "the file ends inside the header at offset %zu", c.at);
    }
    if (n_kv > left(&c) / KV_BYTES_MIN || n_kv > UINT32_MAX) {
        return err_set(e, ERR_CORRUPT, "header at offset 16: %llu keys do not fit into %zu bytes",
                       (unsigned long long)n_kv, left(&c));
    }
    if (n_tensor > left(&c) / TENSOR_BYTES_MIN || n_tensor > UINT32_MAX) {
        return err_set(e, ERR_CORRUPT, "header at offset 8: %llu tensors do not fit into %zu bytes",
                       (unsigned long long)n_tensor, left(&c));
    }
    rc = read_kvs(p, &c, n_kv, e);
    if (!rc) {
        rc = read_alignment(p, e);
    }
    return rc ? rc : read_tensors(p, &c, n_tensor, e);
}

void gguf_part_forget(struct gguf_part *p)
{
    for (uint64_t i = 0; i < p->n_kv; i++) {
        free((void *)p->kvs[i].array.strings);
    }
    free(p->kvs);
    free(p->tensors);
    smap_finish(&p->key_map);
    *p = (struct gguf_part){.bytes = p->bytes, .n_byte = p->n_byte, .mapped = p->mapped};
}

enum err_code gguf_part_read(struct gguf_part *p, struct err *e)
{
    enum err_code rc = read_header(p, e);
    if (rc) {
        gguf_part_forget(p);
    }
    return rc;
}
