#include "base/utf8.h"
#include "engine/template/interp.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Python's repr(float): the shortest digits that read back, "1.0", "1e+16", "1e-05". */
void interp_float_text(struct buf *out, double v)
{
    if (isnan(v) || isinf(v)) {
        buf_puts(out, isnan(v) ? "nan" : v < 0 ? "-inf" : "inf");
        return;
    }
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        (void)snprintf(text, sizeof text, "%.*e", digits - 1, v);
        if (strtod(text, NULL) == v) {
            break;
        }
    }
    char *e = strchr(text, 'e');
    long exp = e ? strtol(e + 1, NULL, 10) : 0;
    if (exp >= -4 && exp < 16) {
        /* Fixed notation with just the digits found above. */
        long mantissa_digits = 0;
        for (const char *c = text; e && c < e; c++) {
            mantissa_digits += *c >= '0' && *c <= '9';
        }
        long decimals = mantissa_digits - 1 - exp;
        buf_printf(out, "%.*f", (int)(decimals > 1 ? decimals : 1), v);
        return;
    }
    *e = 0;
    buf_printf(out, "%se%c%02ld", text, exp < 0 ? '-' : '+', labs(exp));
}

/* Characters that repr() writes as escapes: controls, separators, unassigned ranges' main parts. */
static bool is_printable(uint32_t cp)
{
    if (cp < 0x20 || (cp >= 0x7f && cp <= 0xa0) || cp == 0xad) {
        return false;
    }
    return !(cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200f) || (cp >= 0x2028 && cp <= 0x202f) ||
             (cp >= 0x205f && cp <= 0x206f) || cp == 0x3000 || cp == 0xfeff ||
             (cp >= 0xe000 && cp <= 0xf8ff) || (cp >= 0xfff0 && cp <= 0xfffb) || cp >= 0xe0000);
}

static void repr_string(struct buf *out, const char *s, size_t n)
{
    bool has_single = memchr(s, '\'', n) != NULL;
    bool has_double = memchr(s, '"', n) != NULL;
    char quote = has_single && !has_double ? '"' : '\'';
    buf_putc(out, quote);
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0;
        size_t len = utf8_decode(s + i, n - i, &cp);
        if (!len) {
            len = 1;
            cp = (unsigned char)s[i];
        }
        if (cp == (unsigned char)quote || cp == '\\') {
            buf_printf(out, "\\%c", (char)cp);
        } else if (cp == '\n' || cp == '\r' || cp == '\t') {
            buf_printf(out, "\\%c", cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't');
        } else if (is_printable(cp)) {
            buf_append(out, s + i, len);
        } else if (cp < 0x100) {
            buf_printf(out, "\\x%02x", cp);
        } else {
            buf_printf(out, cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
        }
        i += len;
    }
    buf_putc(out, quote);
}

static bool repr_list(struct interp *in, struct buf *out, const struct tmpl_list_part *l)
{
    if (l->type == TMPL_SEQ_ITERATOR) {
        (void)interp_fail(in, "a generator has no text; use the list filter");
        return false;
    }
    bool tuple = l->type == TMPL_SEQ_TUPLE;
    buf_puts(out, l->type == TMPL_SEQ_VIEW ? "dict_view([" : tuple ? "(" : "[");
    for (size_t i = 0; i < l->n; i++) {
        if (i) {
            buf_puts(out, ", ");
        }
        if (!interp_repr(in, out, l->items[i])) {
            return false;
        }
    }
    buf_puts(out, l->type == TMPL_SEQ_VIEW ? "])" : tuple ? (l->n == 1 ? ",)" : ")") : "]");
    return true;
}

static bool repr_map(struct interp *in, struct buf *out, const struct tmpl_map_part *m)
{
    bool first = true;
    buf_putc(out, '{');
    for (size_t i = 0; i < m->n; i++) {
        if (!m->entries[i].key) {
            continue;
        }
        buf_puts(out, first ? "" : ", ");
        first = false;
        if (!interp_repr(in, out, m->entries[i].key)) {
            return false;
        }
        buf_puts(out, ": ");
        if (!interp_repr(in, out, m->entries[i].value)) {
            return false;
        }
    }
    buf_putc(out, '}');
    return true;
}

bool interp_repr(struct interp *in, struct buf *out, const struct tmpl_value *v)
{
    if (!interp_burn(in, 1)) {
        return false;
    }
    if (out->len > INTERP_OUT_MAX) {
        (void)interp_fail(in, "a text grew beyond %u bytes", INTERP_OUT_MAX);
        return false;
    }
    switch (v->kind) {
    case TMPL_UNDEFINED: buf_puts(out, "Undefined"); return true;
    case TMPL_NONE: buf_puts(out, "None"); return true;
    case TMPL_BOOL: buf_puts(out, v->u.b ? "True" : "False"); return true;
    case TMPL_INT: buf_printf(out, "%" PRId64, v->u.i); return true;
    case TMPL_FLOAT: interp_float_text(out, v->u.f); return true;
    case TMPL_STRING: repr_string(out, v->u.str.s, v->u.str.n); return true;
    case TMPL_LIST: return repr_list(in, out, &v->u.list);
    case TMPL_MAP: return repr_map(in, out, &v->u.map);
    case TMPL_OBJECT: break;
    }
    (void)interp_fail(in, "this object has no text");
    return false;
}

bool interp_text(struct interp *in, struct buf *out, const struct tmpl_value *v)
{
    if (v->kind == TMPL_STRING) {
        buf_append(out, v->u.str.s, v->u.str.n);
        return true;
    }
    return v->kind == TMPL_UNDEFINED || interp_repr(in, out, v);
}

struct tmpl_value *interp_str(struct interp *in, struct tmpl_value *v)
{
    struct buf b = {0};
    if (v->kind == TMPL_STRING) {
        return v;
    }
    if (!interp_text(in, &b, v)) {
        buf_free(&b);
        return NULL;
    }
    return interp_buf_value(in, &b);
}

static void json_string(struct buf *out, const char *s, size_t n, bool ascii)
{
    buf_putc(out, '"');
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0;
        size_t len = utf8_decode(s + i, n - i, &cp);
        if (!len) {
            len = 1;
            cp = 0xfffd;
        }
        const char *named = cp < 0x80 && cp ? strchr("\"\\\n\r\t\f\b", (int)cp) : NULL;
        if (named) {
            static const char letters[] = "\"\\nrtfb";
            buf_printf(out, "\\%c", letters[named - "\"\\\n\r\t\f\b"]);
        } else if (cp < 0x20 || (ascii && cp >= 0x7f && cp < 0x10000)) {
            buf_printf(out, "\\u%04x", cp);
        } else if (ascii && cp >= 0x10000) {
            buf_printf(out, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10),
                       0xdc00 + (cp & 0x3ff));
        } else {
            buf_append(out, s + i, len);
        }
        i += len;
    }
    buf_putc(out, '"');
}

static void json_break(struct buf *out, const struct json_style *s, uint32_t level)
{
    if (s->indent) {
        buf_putc(out, '\n');
        for (uint32_t i = 0; i < level; i++) {
            buf_puts(out, s->indent);
        }
    }
}

static bool json_list(struct interp *in, struct buf *out, const struct tmpl_value *v,
                      const struct json_style *s, uint32_t level)
{
    const struct tmpl_list_part *l = &v->u.list;
    if (l->type == TMPL_SEQ_ITERATOR || l->type == TMPL_SEQ_VIEW) {
        (void)interp_fail(in, "a generator cannot be written as JSON; use the list filter");
        return false;
    }
    buf_putc(out, '[');
    for (size_t i = 0; i < l->n; i++) {
        buf_puts(out, i ? s->item_sep : "");
        json_break(out, s, level + 1);
        if (!interp_json(in, out, l->items[i], s, level + 1)) {
            return false;
        }
    }
    if (l->n) {
        json_break(out, s, level);
    }
    buf_putc(out, ']');
    return true;
}

static bool json_key(struct interp *in, struct buf *out, const struct tmpl_value *key,
                     const struct json_style *s)
{
    struct buf b = {0};
    if (key->kind == TMPL_STRING) {
        json_string(out, key->u.str.s, key->u.str.n, s->ascii);
        return true;
    }
    if (!tmpl_is_number(key) && key->kind != TMPL_NONE) {
        (void)interp_fail(in, "keys must be str, int, float, bool or None, not %s",
                          interp_type_name(key));
        return false;
    }
    bool ok = interp_json(in, &b, key, s, 0);
    buf_printf(out, "\"%s\"", buf_str(&b));
    buf_free(&b);
    return ok;
}

static int by_key(const void *a, const void *b)
{
    const struct tmpl_value *x = (*(const struct tmpl_entry *const *)a)->key;
    const struct tmpl_value *y = (*(const struct tmpl_entry *const *)b)->key;
    if (x->kind != TMPL_STRING || y->kind != TMPL_STRING) {
        double dx = tmpl_as_double(x);
        double dy = tmpl_as_double(y);
        return (dx > dy) - (dx < dy);
    }
    size_t n = x->u.str.n < y->u.str.n ? x->u.str.n : y->u.str.n;
    int order = memcmp(x->u.str.s, y->u.str.s, n);
    return order ? order : (x->u.str.n > y->u.str.n) - (x->u.str.n < y->u.str.n);
}

static bool json_map(struct interp *in, struct buf *out, const struct tmpl_value *v,
                     const struct json_style *s, uint32_t level)
{
    const struct tmpl_map_part *m = &v->u.map;
    const struct tmpl_entry **order = tmpl_alloc(in->a, (m->n_live + 1) * sizeof *order);
    size_t n = 0;
    if (!order) {
        return interp_spent(in) != NULL;
    }
    for (size_t i = 0; i < m->n; i++) {
        if (m->entries[i].key) {
            order[n++] = &m->entries[i];
        }
    }
    if (s->sort_keys) {
        for (size_t i = 1; i < n; i++) {
            if ((order[i]->key->kind == TMPL_STRING) != (order[0]->key->kind == TMPL_STRING) ||
                order[i]->key->kind == TMPL_NONE || order[0]->key->kind == TMPL_NONE) {
                return interp_fail(in, "keys of different types cannot be sorted") != NULL;
            }
        }
        qsort(order, n, sizeof *order, by_key);
    }
    buf_putc(out, '{');
    for (size_t i = 0; i < n; i++) {
        buf_puts(out, i ? s->item_sep : "");
        json_break(out, s, level + 1);
        if (!json_key(in, out, order[i]->key, s)) {
            return false;
        }
        buf_puts(out, s->key_sep);
        if (!interp_json(in, out, order[i]->value, s, level + 1)) {
            return false;
        }
    }
    if (n) {
        json_break(out, s, level);
    }
    buf_putc(out, '}');
    return true;
}

bool interp_json(struct interp *in, struct buf *out, const struct tmpl_value *v,
                 const struct json_style *s, uint32_t level)
{
    if (!interp_burn(in, 1)) {
        return false;
    }
    if (out->len > INTERP_OUT_MAX) {
        (void)interp_fail(in, "a text grew beyond %u bytes", INTERP_OUT_MAX);
        return false;
    }
    switch (v->kind) {
    case TMPL_NONE: buf_puts(out, "null"); return true;
    case TMPL_BOOL: buf_puts(out, v->u.b ? "true" : "false"); return true;
    case TMPL_INT: buf_printf(out, "%" PRId64, v->u.i); return true;
    case TMPL_FLOAT:
        if (isfinite(v->u.f)) {
            interp_float_text(out, v->u.f);
        } else {
            buf_puts(out, isnan(v->u.f) ? "NaN" : v->u.f < 0 ? "-Infinity" : "Infinity");
        }
        return true;
    case TMPL_STRING: json_string(out, v->u.str.s, v->u.str.n, s->ascii); return true;
    case TMPL_LIST: return json_list(in, out, v, s, level);
    case TMPL_MAP: return json_map(in, out, v, s, level);
    default: break;
    }
    (void)interp_fail(in, "an object of type %s cannot be written as JSON", interp_type_name(v));
    return false;
}

void interp_escape(struct buf *out, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        switch (s[i]) {
        case '&': buf_puts(out, "&amp;"); break;
        case '<': buf_puts(out, "&lt;"); break;
        case '>': buf_puts(out, "&gt;"); break;
        case '"': buf_puts(out, "&#34;"); break;
        case '\'': buf_puts(out, "&#39;"); break;
        default: buf_putc(out, s[i]); break;
        }
    }
}
