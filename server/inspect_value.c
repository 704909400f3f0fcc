#include "server/inspect_value.h"

#include "base/utf8.h"

#include <math.h>
#include <string.h>

#define ARRAY_WHOLE_MAX 16
#define ARRAY_HEAD      8
#define LINE_BYTES      100

void inspect_put_text(struct buf *b, struct gguf_str s)
{
    bool plain = utf8_valid(s.s, s.n);
    for (size_t i = 0; plain && i < s.n; i++) {
        unsigned char c = (unsigned char)s.s[i];
        plain = c >= 0x20 && c != 0x7f && c != 0xc2; /* 0xc2 begins C1 controls */
    }
    if (plain) {
        buf_append(b, s.s, s.n);
    } else {
        buf_json_string(b, s.s, s.n);
    }
}

static void put_real(struct buf *b, double v)
{
    if (isfinite(v)) {
        buf_printf(b, "%.17g", v);
    } else {
        buf_puts(b, "null");
    }
}

static void put_element(struct buf *b, const struct gguf_array *a, uint64_t i)
{
    switch (a->type) {
    case GGUF_STRING: buf_json_string(b, a->strings[i].s, a->strings[i].n); break;
    case GGUF_BOOL: buf_puts(b, gguf_array_i64(a, i) ? "true" : "false"); break;
    case GGUF_F32: buf_json_f32(b, (float)gguf_array_f64(a, i)); break;
    case GGUF_F64: put_real(b, gguf_array_f64(a, i)); break;
    case GGUF_U64: {
        uint64_t v;
        memcpy(&v, (const char *)a->data + i * sizeof v, sizeof v);
        buf_printf(b, "%llu", (unsigned long long)v);
        break;
    }
    default: buf_printf(b, "%lld", (long long)gguf_array_i64(a, i)); break;
    }
}

static void put_elements(struct buf *b, const struct gguf_array *a, uint64_t n)
{
    buf_putc(b, '[');
    for (uint64_t i = 0; i < n; i++) {
        buf_puts(b, i ? "," : "");
        put_element(b, a, i);
    }
    buf_putc(b, ']');
}

static void put_json(struct buf *b, const struct gguf_kv *kv)
{
    if (kv->type == GGUF_STRING) {
        buf_json_string(b, kv->str.s, kv->str.n);
    } else if (kv->type != GGUF_ARRAY) {
        put_element(b, &(struct gguf_array){.type = kv->type, .n = 1, .data = kv->data}, 0);
    } else if (kv->array.n <= ARRAY_WHOLE_MAX) {
        put_elements(b, &kv->array, kv->array.n);
    } else {
        buf_printf(b, "{\"n\":%llu,\"head\":", (unsigned long long)kv->array.n);
        put_elements(b, &kv->array, ARRAY_HEAD);
        buf_putc(b, '}');
    }
}

void inspect_put_value(struct buf *b, const struct gguf_kv *kv, bool json)
{
    struct buf v = {0};
    put_json(&v, kv);
    size_t n = v.len;
    if (!json && n > LINE_BYTES) {
        n = LINE_BYTES - utf8_incomplete_tail(buf_str(&v), LINE_BYTES);
    }
    buf_append(b, buf_str(&v), n);
    buf_puts(b, n < v.len ? "…" : "");
    b->failed |= v.failed;
    buf_free(&v);
}
