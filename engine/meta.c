#include "engine/meta.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#define KEY_MAX 160

/* The full key, in the caller's buffer. */
static const char *full_key(const struct meta *k, const char *key, char out[KEY_MAX])
{
    snprintf(out, KEY_MAX, "%s.%s", k->prefix, key);
    return out;
}

void meta_fail(struct meta *k, enum err_code code, const char *fmt, ...)
{
    if (k->code) {
        return;
    }
    char msg[sizeof k->e->msg];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    k->code = err_set(k->e, code, "%s", msg);
}

/* Whether a key of any kind is there. */
bool meta_has(struct meta *k, const char *key)
{
    char name[KEY_MAX];
    full_key(k, key, name);
    uint64_t u;
    int64_t i;
    double d;
    bool b;
    struct gguf_str s;
    struct gguf_array a;
    return gguf_get_u64(k->f, name, &u) || gguf_get_i64(k->f, name, &i) ||
           gguf_get_f64(k->f, name, &d) || gguf_get_bool(k->f, name, &b) ||
           gguf_get_str(k->f, name, &s) || gguf_get_array(k->f, name, &a);
}

static uint32_t check_u32(struct meta *k, const char *name, int64_t v, uint32_t lo, uint32_t hi)
{
    if (v < (int64_t)lo || v > (int64_t)hi) {
        meta_fail(k, ERR_CORRUPT, "metadata key %s is %lld, must be %u to %u", name, (long long)v,
                  lo, hi);
        return lo;
    }
    return (uint32_t)v;
}

uint32_t meta_u32(struct meta *k, const char *key, uint32_t lo, uint32_t hi)
{
    if (!meta_has(k, key)) {
        meta_fail(k, ERR_CORRUPT, "missing metadata key %s.%s", k->prefix, key);
        return lo;
    }
    return meta_u32_or(k, key, lo, hi, lo);
}

uint32_t meta_u32_or(struct meta *k, const char *key, uint32_t lo, uint32_t hi, uint32_t absent)
{
    char name[KEY_MAX];
    full_key(k, key, name);
    int64_t v;
    uint64_t u;
    if (gguf_get_i64(k->f, name, &v)) {
        return check_u32(k, name, v, lo, hi);
    }
    if (gguf_get_u64(k->f, name, &u)) { /* beyond int64 */
        return check_u32(k, name, INT64_MAX, lo, hi);
    }
    if (meta_has(k, key)) {
        meta_fail(k, ERR_CORRUPT, "metadata key %s is not an integer", name);
        return lo;
    }
    return absent;
}

static bool is_integer(enum gguf_value_type t)
{
    return t != GGUF_F32 && t != GGUF_F64 && t != GGUF_STRING && t != GGUF_ARRAY;
}

void meta_u32_each(struct meta *k, const char *key, uint32_t lo, uint32_t hi, uint32_t absent,
                   uint32_t *out, uint32_t n)
{
    char name[KEY_MAX];
    struct gguf_array a;
    if (!gguf_get_array(k->f, full_key(k, key, name), &a)) {
        uint32_t v = meta_u32_or(k, key, lo, hi, absent);
        for (uint32_t i = 0; i < n; i++) {
            out[i] = v;
        }
        return;
    }
    bool fits = is_integer(a.type) && a.n >= n;
    if (!fits) {
        meta_fail(k, ERR_CORRUPT, "metadata key %s must be %u integers, one for each layer", name,
                  n);
    }
    for (uint32_t i = 0; i < n; i++) {
        out[i] = fits ? check_u32(k, name, gguf_array_i64(&a, i), lo, hi) : lo;
    }
}

void meta_bool_each(struct meta *k, const char *key, bool absent, bool *out, uint32_t n)
{
    char name[KEY_MAX];
    struct gguf_array a;
    bool have = gguf_get_array(k->f, full_key(k, key, name), &a);
    bool fits = have && is_integer(a.type) && a.n >= n;
    if (have && !fits) {
        meta_fail(k, ERR_CORRUPT, "metadata key %s must be %u booleans, one for each layer", name,
                  n);
    }
    for (uint32_t i = 0; i < n; i++) {
        out[i] = fits ? gguf_array_i64(&a, i) != 0 : absent;
    }
}

double meta_f64(struct meta *k, const char *key, double lo, double hi)
{
    if (!meta_has(k, key)) {
        meta_fail(k, ERR_CORRUPT, "missing metadata key %s.%s", k->prefix, key);
        return lo;
    }
    return meta_f64_or(k, key, lo, hi, lo);
}

double meta_f64_or(struct meta *k, const char *key, double lo, double hi, double absent)
{
    char name[KEY_MAX];
    full_key(k, key, name);
    double v;
    if (!gguf_get_f64(k->f, name, &v)) {
        if (meta_has(k, key)) {
            meta_fail(k, ERR_CORRUPT, "metadata key %s is not a number", name);
        }
        return absent;
    }
    if (!(v >= lo && v <= hi)) {
        meta_fail(k, ERR_CORRUPT, "metadata key %s is %g, must be %g to %g", name, v, lo, hi);
        return lo;
    }
    return v;
}

bool meta_bool_or(struct meta *k, const char *key, bool absent)
{
    char name[KEY_MAX];
    full_key(k, key, name);
    bool v;
    int64_t i;
    if (gguf_get_bool(k->f, name, &v)) {
        return v;
    }
    if (gguf_get_i64(k->f, name, &i)) {
        return i != 0;
    }
    return absent;
}

bool meta_str(struct meta *k, const char *key, struct gguf_str *ret_s)
{
    char name[KEY_MAX];
    return gguf_get_str(k->f, full_key(k, key, name), ret_s);
}
