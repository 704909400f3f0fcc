/* Metadata: finding a key, turning its bytes into numbers. */
#include "engine/gguf_file.h"

#include <string.h>

size_t gguf_value_bytes(enum gguf_value_type type)
{
    switch (type) {
    case GGUF_U8:
    case GGUF_I8:
    case GGUF_BOOL: return 1;
    case GGUF_U16:
    case GGUF_I16: return 2;
    case GGUF_U32:
    case GGUF_I32:
    case GGUF_F32: return 4;
    case GGUF_U64:
    case GGUF_I64:
    case GGUF_F64: return 8;
    case GGUF_STRING:
    case GGUF_ARRAY: break;
    }
    return 0;
}

const char *gguf_shown(struct gguf_str s, char out[GGUF_SHOWN_BYTES])
{
    size_t n = s.n < GGUF_SHOWN_BYTES ? s.n : GGUF_SHOWN_BYTES - 1;
    while (n < s.n && n > 0 && ((unsigned char)s.s[n] & 0xc0) == 0x80) {
        n--;
    }
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s.s[i];
        out[i] = c < 0x20 || c == 0x7f ? '?' : s.s[i];
    }
    out[n] = 0;
    return out;
}

const struct gguf_kv *gguf_part_find(const struct gguf_part *p, const char *key)
{
    uint32_t idx;
    return smap_get(&p->key_map, key, strlen(key), &idx) ? &p->kvs[idx] : NULL;
}

/* An integer or bool in its widest form: the sign tells which of the two values counts. */
struct whole {
    bool negative;
    uint64_t u; /* not negative */
    int64_t i;  /* negative */
};

static struct whole whole_of(int64_t v)
{
    return (struct whole){.negative = v < 0, .u = v < 0 ? 0 : (uint64_t)v, .i = v};
}

#define LOAD(kind, data)                                                                           \
    __extension__({                                                                                \
        kind v_;                                                                                   \
        memcpy(&v_, (data), sizeof v_);                                                            \
        v_;                                                                                        \
    })

/* False when the kind is no integer. A bool counts as one in arrays, not as a scalar. */
static bool load_whole(enum gguf_value_type type, const void *data, struct whole *ret_w)
{
    switch (type) {
    case GGUF_U8:
    case GGUF_BOOL: *ret_w = whole_of(LOAD(uint8_t, data)); return true;
    case GGUF_I8: *ret_w = whole_of(LOAD(int8_t, data)); return true;
    case GGUF_U16: *ret_w = whole_of(LOAD(uint16_t, data)); return true;
    case GGUF_I16: *ret_w = whole_of(LOAD(int16_t, data)); return true;
    case GGUF_U32: *ret_w = whole_of(LOAD(uint32_t, data)); return true;
    case GGUF_I32: *ret_w = whole_of(LOAD(int32_t, data)); return true;
    case GGUF_I64: *ret_w = whole_of(LOAD(int64_t, data)); return true;
    case GGUF_U64: *ret_w = (struct whole){.u = LOAD(uint64_t, data)}; return true;
    case GGUF_F32:
    case GGUF_F64:
    case GGUF_STRING:
    case GGUF_ARRAY: break;
    }
    return false;
}

static bool load_f64(enum gguf_value_type type, const void *data, double *ret_v)
{
    struct whole w;
    if (type == GGUF_F32) {
        *ret_v = (double)LOAD(float, data);
    } else if (type == GGUF_F64) {
        *ret_v = LOAD(double, data);
    } else if (load_whole(type, data, &w)) {
        *ret_v = w.negative ? (double)w.i : (double)w.u;
    } else {
        return false;
    }
    return true;
}

bool gguf_kv_u64(const struct gguf_kv *kv, uint64_t *ret_v)
{
    struct whole w;
    if (kv->type == GGUF_BOOL || !load_whole(kv->type, kv->data, &w) || w.negative) {
        return false;
    }
    *ret_v = w.u;
    return true;
}

static const struct gguf_kv *find(const struct gguf *f, const char *key)
{
    return gguf_part_find(&f->parts[0], key);
}

bool gguf_get_u64(const struct gguf *f, const char *key, uint64_t *ret_v)
{
    const struct gguf_kv *kv = find(f, key);
    return kv && gguf_kv_u64(kv, ret_v);
}

bool gguf_get_i64(const struct gguf *f, const char *key, int64_t *ret_v)
{
    const struct gguf_kv *kv = find(f, key);
    struct whole w;
    if (!kv || kv->type == GGUF_BOOL || !load_whole(kv->type, kv->data, &w) ||
        (!w.negative && w.u > INT64_MAX)) {
        return false;
    }
    *ret_v = w.negative ? w.i : (int64_t)w.u;
    return true;
}

bool gguf_get_f64(const struct gguf *f, const char *key, double *ret_v)
{
    const struct gguf_kv *kv = find(f, key);
    return kv && kv->type != GGUF_BOOL && load_f64(kv->type, kv->data, ret_v);
}

bool gguf_get_bool(const struct gguf *f, const char *key, bool *ret_v)
{
    const struct gguf_kv *kv = find(f, key);
    if (!kv || kv->type != GGUF_BOOL) {
        return false;
    }
    *ret_v = LOAD(uint8_t, kv->data) != 0;
    return true;
}

bool gguf_get_str(const struct gguf *f, const char *key, struct gguf_str *ret_v)
{
    const struct gguf_kv *kv = find(f, key);
    if (!kv || kv->type != GGUF_STRING) {
        return false;
    }
    *ret_v = kv->str;
    return true;
}

bool gguf_get_array(const struct gguf *f, const char *key, struct gguf_array *ret_v)
{
    const struct gguf_kv *kv = find(f, key);
    if (!kv || kv->type != GGUF_ARRAY) {
        return false;
    }
    *ret_v = kv->array;
    return true;
}

double gguf_array_f64(const struct gguf_array *a, uint64_t i)
{
    double v = 0;
    size_t width = gguf_value_bytes(a->type);
    if (width && i < a->n) {
        (void)load_f64(a->type, (const uint8_t *)a->data + i * width, &v);
    }
    return v;
}

int64_t gguf_array_i64(const struct gguf_array *a, uint64_t i)
{
    struct whole w;
    size_t width = gguf_value_bytes(a->type);
    if (!width || i >= a->n) {
        return 0;
    }
    if (load_whole(a->type, (const uint8_t *)a->data + i * width, &w)) {
        return w.negative ? w.i : w.u > INT64_MAX ? INT64_MAX : (int64_t)w.u;
    }
    double v = gguf_array_f64(a, i);
    /* 2^63 and up, -2^63 and down, and NaN have no int64. */
    return v >= 9223372036854775808.0   ? INT64_MAX
           : v > -9223372036854775808.0 ? (int64_t)v
           : v == v                     ? INT64_MIN
                                        : 0;
}

uint64_t gguf_n_kv(const struct gguf *f)
{
    return f->parts[0].n_kv;
}

const struct gguf_kv *gguf_kv_at(const struct gguf *f, uint64_t i)
{
    return &f->parts[0].kvs[i];
}
