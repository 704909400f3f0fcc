/* Filters on single values: text, numbers, JSON. Those on sequences are in filters_seq.c. */
#include "engine/template/filters.h"

#include "base/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct tmpl_value *string_method(struct interp *in, struct tmpl_value *v, const char *name,
                                        const struct call_args *args)
{
    struct tmpl_value *s = interp_str(in, v);
    return s ? interp_str_method(in, s, name, args) : NULL;
}

static struct tmpl_value *f_upper(struct interp *in, struct tmpl_value *v,
                                  const struct call_args *args)
{
    return string_method(in, v, "upper", args);
}

static struct tmpl_value *f_lower(struct interp *in, struct tmpl_value *v,
                                  const struct call_args *args)
{
    return string_method(in, v, "lower", args);
}

static struct tmpl_value *f_capitalize(struct interp *in, struct tmpl_value *v,
                                       const struct call_args *args)
{
    return string_method(in, v, "capitalize", args);
}

static struct tmpl_value *f_trim(struct interp *in, struct tmpl_value *v,
                                 const struct call_args *args)
{
    return string_method(in, v, "strip", args);
}

/* Words begin after white space, '-', '(', '{', '[' or '<'; the rest of a word is lowered. */
static struct tmpl_value *f_title(struct interp *in, struct tmpl_value *v,
                                  const struct call_args *args)
{
    struct tmpl_value *s = interp_str(in, v);
    struct buf out = {0};
    for (size_t from = 0; s && from < s->u.str.n;) {
        size_t to = from;
        bool breaks = false;
        while (to < s->u.str.n && !breaks) {
            uint32_t cp = 0xfffd;
            size_t len = utf8_decode(s->u.str.s + to, s->u.str.n - to, &cp);
            breaks = interp_is_text_space(cp) || (cp < 0x80 && cp && strchr("-({[<", (int)cp));
            to += len ? len : 1;
        }
        struct tmpl_value *word = interp_string(in, s->u.str.s + from, to - from);
        word = word ? interp_str_method(in, word, "capitalize", args) : NULL;
        if (!word) {
            buf_free(&out);
            return NULL;
        }
        buf_append(&out, word->u.str.s, word->u.str.n);
        from = to;
    }
    return s ? interp_buf_value(in, &out) : NULL;
}

static struct tmpl_value *f_replace(struct interp *in, struct tmpl_value *v,
                                    const struct call_args *args)
{
    struct tmpl_value *pos[3] = {interp_arg(args, 0, "old"), interp_arg(args, 1, "new"),
                                 interp_arg(args, 2, "count")};
    if (!pos[0] || !pos[1]) {
        return interp_fail(in, "replace needs what to replace and with what");
    }
    pos[0] = interp_str(in, pos[0]);
    pos[1] = pos[0] ? interp_str(in, pos[1]) : NULL;
    struct call_args converted = {.pos = pos, .n_pos = pos[2] ? 3 : 2};
    return pos[1] ? string_method(in, v, "replace", &converted) : NULL;
}

static struct tmpl_value *f_string(struct interp *in, struct tmpl_value *v,
                                   const struct call_args *args)
{
    (void)args;
    return interp_str(in, v);
}

static struct tmpl_value *f_safe(struct interp *in, struct tmpl_value *v,
                                 const struct call_args *args)
{
    (void)args;
    struct tmpl_value *s = interp_str(in, v);
    struct tmpl_value *r = s ? tmpl_string_ref(in->a, s->u.str.s, s->u.str.n) : NULL;
    if (s && !r) {
        return interp_spent(in);
    }
    if (r) {
        r->u.str.markup = true;
    }
    return r;
}

static struct tmpl_value *f_escape(struct interp *in, struct tmpl_value *v,
                                   const struct call_args *args)
{
    (void)args;
    struct tmpl_value *s = interp_str(in, v);
    if (!s || s->u.str.markup) {
        return s;
    }
    struct buf out = {0};
    interp_escape(&out, s->u.str.s, s->u.str.n);
    struct tmpl_value *r = interp_buf_value(in, &out);
    if (r) {
        r->u.str.markup = true;
    }
    return r;
}

static struct tmpl_value *f_default(struct interp *in, struct tmpl_value *v,
                                    const struct call_args *args)
{
    struct tmpl_value *fallback = interp_arg(args, 0, "default_value");
    const struct tmpl_value *boolean = interp_arg(args, 1, "boolean");
    if (v->kind == TMPL_UNDEFINED || (boolean && interp_truth(boolean) && !interp_truth(v))) {
        return fallback ? fallback : interp_string(in, "", 0);
    }
    return v;
}

static struct tmpl_value *f_int(struct interp *in, struct tmpl_value *v,
                                const struct call_args *args)
{
    int64_t base = 10;
    int64_t i = 0;
    struct tmpl_value *fallback = interp_arg(args, 0, "default");
    if (v->kind == TMPL_UNDEFINED) {
        return interp_fail(in, "'%.80s' is undefined", v->u.undef.hint ? v->u.undef.hint : "value");
    }
    if (!interp_arg_int(in, args, 1, "base", 10, &base) || base < 2 || base > 36) {
        return base < 2 || base > 36 ? interp_fail(in, "int() base must be >= 2 and <= 36") : NULL;
    }
    bool ok = tmpl_is_number(v);
    if (v->kind == TMPL_STRING) {
        char *end = NULL;
        const char *s = v->u.str.s;
        i = strtoll(s, &end, (int)base);
        ok = v->u.str.n && strlen(s) == v->u.str.n && *end == 0 && end != s;
        if (!ok && v->u.str.n) {
            double d = strtod(s, &end);
            ok = *end == 0 && isfinite(d) && fabs(d) < 0x1.0p63;
            i = ok ? (int64_t)d : 0;
        }
    } else if (v->kind == TMPL_FLOAT) {
        ok = isfinite(v->u.f) && fabs(v->u.f) < 0x1.0p63;
        i = ok ? (int64_t)v->u.f : 0;
    } else if (ok) {
        i = v->kind == TMPL_INT ? v->u.i : v->u.b;
    }
    struct tmpl_value *r = ok ? tmpl_int(in->a, i) : fallback ? fallback : tmpl_int(in->a, 0);
    return r ? r : interp_spent(in);
}

static struct tmpl_value *f_float(struct interp *in, struct tmpl_value *v,
                                  const struct call_args *args)
{
    struct tmpl_value *fallback = interp_arg(args, 0, "default");
    if (v->kind == TMPL_UNDEFINED) {
        return interp_fail(in, "'%.80s' is undefined", v->u.undef.hint ? v->u.undef.hint : "value");
    }
    double d = tmpl_is_number(v) ? tmpl_as_double(v) : 0;
    bool ok = tmpl_is_number(v);
    if (v->kind == TMPL_STRING && v->u.str.n) {
        char *end = NULL;
        d = strtod(v->u.str.s, &end);
        ok = *end == 0 && end != v->u.str.s;
    }
    struct tmpl_value *r = ok ? tmpl_float(in->a, d) : fallback ? fallback : tmpl_float(in->a, 0);
    return r ? r : interp_spent(in);
}

static struct tmpl_value *f_abs(struct interp *in, struct tmpl_value *v,
                                const struct call_args *args)
{
    (void)args;
    struct tmpl_value *r = NULL;
    if (v->kind == TMPL_FLOAT) {
        r = tmpl_float(in->a, fabs(v->u.f));
    } else if (tmpl_is_number(v)) {
        int64_t i = v->kind == TMPL_INT ? v->u.i : v->u.b;
        r = i == INT64_MIN ? NULL : tmpl_int(in->a, i < 0 ? -i : i);
    } else {
        return interp_fail(in, "bad operand type for abs(): '%s'", interp_type_name(v));
    }
    return r ? r : interp_spent(in);
}

static struct tmpl_value *f_round(struct interp *in, struct tmpl_value *v,
                                  const struct call_args *args)
{
    int64_t precision = 0;
    const struct tmpl_value *method = interp_arg(args, 1, "method");
    if (!tmpl_is_number(v)) {
        return interp_fail(in, "type %s doesn't define __round__ method", interp_type_name(v));
    }
    if (!interp_arg_int(in, args, 0, "precision", 0, &precision) || precision > 300 ||
        precision < -300) {
        return interp_fail(in, "round needs a precision within 300 digits");
    }
    double x = tmpl_as_double(v);
    double scale = pow(10, (double)precision);
    bool ceils = method && method->kind == TMPL_STRING && strcmp(method->u.str.s, "ceil") == 0;
    bool floors = method && method->kind == TMPL_STRING && strcmp(method->u.str.s, "floor") == 0;
    if (!ceils && !floors && v->kind != TMPL_FLOAT && precision >= 0) {
        struct tmpl_value *i = v->kind == TMPL_BOOL ? tmpl_int(in->a, v->u.b) : v;
        return i ? i : interp_spent(in);
    }
    if (ceils || floors) {
        /* Python goes through an integer here, which has no minus zero. */
        x = ((ceils ? ceil(x * scale) : floor(x * scale)) + 0.0) / scale;
    } else if (precision >= 0) {
        char text[400];
        (void)snprintf(text, sizeof text, "%.*f", (int)precision, x);
        x = strtod(text, NULL);
    } else {
        x = nearbyint(x * scale) / scale;
    }
    struct tmpl_value *r = tmpl_float(in->a, x);
    return r ? r : interp_spent(in);
}

static struct tmpl_value *f_tojson(struct interp *in, struct tmpl_value *v,
                                   const struct call_args *args)
{
    struct json_style style = {.item_sep = ", ", .key_sep = ": "};
    const struct tmpl_value *ascii = interp_arg(args, 0, "ensure_ascii");
    struct tmpl_value *indent = interp_arg(args, 1, "indent");
    const struct tmpl_value *separators = interp_arg(args, 2, "separators");
    const struct tmpl_value *sort = interp_arg(args, 3, "sort_keys");
    struct buf spaces = {0};
    style.ascii = ascii && interp_truth(ascii);
    style.sort_keys = sort && interp_truth(sort);
    if (indent && indent->kind != TMPL_NONE) {
        int64_t n = indent->kind == TMPL_INT ? indent->u.i : 0;
        for (int64_t i = 0; i < n && i < 64; i++) {
            buf_putc(&spaces, ' ');
        }
        struct tmpl_value *text =
            indent->kind == TMPL_STRING ? indent : interp_buf_value(in, &spaces);
        if (!text) {
            return NULL;
        }
        style.indent = text->u.str.s;
        style.item_sep = ",";
    }
    if (separators && separators->kind == TMPL_LIST && separators->u.list.n == 2 &&
        separators->u.list.items[0]->kind == TMPL_STRING &&
        separators->u.list.items[1]->kind == TMPL_STRING) {
        style.item_sep = separators->u.list.items[0]->u.str.s;
        style.key_sep = separators->u.list.items[1]->u.str.s;
    }
    struct buf out = {0};
    if (!interp_json(in, &out, v, &style, 0)) {
        buf_free(&out);
        return NULL;
    }
    return interp_buf_value(in, &out);
}

/* Every line but the first begins with the indentation; blank lines only if asked. */
static struct tmpl_value *f_indent(struct interp *in, struct tmpl_value *v,
                                   const struct call_args *args)
{
    struct tmpl_value *width = interp_arg(args, 0, "width");
    const struct tmpl_value *first = interp_arg(args, 1, "first");
    const struct tmpl_value *blank = interp_arg(args, 2, "blank");
    struct buf pad = {0};
    struct buf out = {0};
    if (v->kind != TMPL_STRING) {
        return interp_fail(in, "indent needs a string, not %s", interp_type_name(v));
    }
    struct tmpl_value *s = v;
    if (width && width->kind == TMPL_STRING) {
        buf_append(&pad, width->u.str.s, width->u.str.n);
    } else {
        int64_t n = width && width->kind == TMPL_INT ? width->u.i : 4;
        for (int64_t i = 0; i < n && i < 1024; i++) {
            buf_putc(&pad, ' ');
        }
    }
    for (size_t from = 0; s && from <= s->u.str.n && out.len <= INTERP_OUT_MAX;) {
        const char *newline = memchr(s->u.str.s + from, '\n', s->u.str.n - from);
        size_t to = newline ? (size_t)(newline - s->u.str.s) : s->u.str.n;
        bool indented =
            from == 0 ? first && interp_truth(first) : to > from || (blank && interp_truth(blank));
        if (indented) {
            buf_append(&out, buf_str(&pad), pad.len);
        }
        buf_append(&out, s->u.str.s + from, to - from + (newline != NULL));
        from = to + 1;
    }
    buf_free(&pad);
    return s ? interp_buf_value(in, &out) : NULL;
}

static struct tmpl_value *f_format(struct interp *in, struct tmpl_value *v,
                                   const struct call_args *args)
{
    struct tmpl_value *s = interp_str(in, v);
    struct tmpl_value *tuple = tmpl_sequence(in->a, TMPL_SEQ_TUPLE);
    if (!s || !tuple) {
        return s ? interp_spent(in) : NULL;
    }
    if (args->kw && args->n_pos) {
        return interp_fail(in, "can't handle positional and keyword arguments at the same time");
    }
    for (size_t i = 0; i < args->n_pos; i++) {
        if (!tmpl_list_add(in->a, tuple, args->pos[i])) {
            return interp_spent(in);
        }
    }
    return interp_percent(in, s, args->kw ? args->kw : tuple);
}

static struct tmpl_value *f_wordcount(struct interp *in, struct tmpl_value *v,
                                      const struct call_args *args)
{
    (void)args;
    struct tmpl_value *s = interp_str(in, v);
    int64_t n = 0;
    bool inside = false;
    for (size_t i = 0; s && i < s->u.str.n;) {
        uint32_t cp = 0xfffd;
        size_t len = utf8_decode(s->u.str.s + i, s->u.str.n - i, &cp);
        bool word = interp_is_word(in, cp);
        n += word && !inside;
        inside = word;
        i += len ? len : 1;
    }
    struct tmpl_value *r = s ? tmpl_int(in->a, n) : NULL;
    return s && !r ? interp_spent(in) : r;
}

static struct tmpl_value *f_truncate(struct interp *in, struct tmpl_value *v,
                                     const struct call_args *args)
{
    int64_t length = 255;
    int64_t leeway = 5;
    const struct tmpl_value *kill = interp_arg(args, 1, "killwords");
    const struct tmpl_value *end = interp_arg(args, 2, "end");
    struct tmpl_value *s = v;
    if (v->kind != TMPL_STRING && v->kind != TMPL_LIST && v->kind != TMPL_MAP &&
        v->kind != TMPL_UNDEFINED) {
        return interp_fail(in, "object of type '%s' has no len()", interp_type_name(v));
    }
    if (!interp_arg_int(in, args, 0, "length", 255, &length) ||
        !interp_arg_int(in, args, 3, "leeway", 5, &leeway)) {
        return NULL;
    }
    const char *tail = end && end->kind == TMPL_STRING ? end->u.str.s : "...";
    int64_t n_tail = end && end->kind == TMPL_STRING ? (int64_t)interp_str_len(end) : 3;
    if (length < n_tail || leeway < 0) {
        return interp_fail(in, "truncate needs a length of at least its end's");
    }
    int64_t n_item = v->kind == TMPL_STRING      ? (int64_t)interp_str_len(s)
                     : v->kind == TMPL_UNDEFINED ? 0
                                                 : (int64_t)tmpl_len(v);
    if (n_item <= length + leeway) {
        return s;
    }
    if (v->kind != TMPL_STRING) {
        return interp_fail(in, "truncate cuts strings, not %s", interp_type_name(v));
    }
    struct tmpl_value *part[3] = {NULL, tmpl_int(in->a, length - n_tail), NULL};
    struct tmpl_value *head = part[1] ? interp_slice(in, s, part) : NULL;
    if (!head) {
        return NULL;
    }
    size_t n = head->u.str.n;
    if (!kill || !interp_truth(kill)) {
        size_t space = n;
        while (space > 0 && head->u.str.s[space - 1] != ' ') {
            space--;
        }
        n = space ? space - 1 : n;
    }
    struct buf out = {0};
    buf_append(&out, head->u.str.s, n);
    buf_puts(&out, tail);
    return interp_buf_value(in, &out);
}

/* In a query a space is a plus and a slash is quoted. */
static bool url_quote(struct interp *in, struct buf *out, struct tmpl_value *v, bool query)
{
    const struct tmpl_value *s = v ? interp_str(in, v) : NULL;
    for (size_t i = 0; s && i < s->u.str.n; i++) {
        unsigned char c = (unsigned char)s->u.str.s[i];
        bool plain = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') ||
                     (c && c < 0x80 && strchr("_.-~/", c));
        if (query && c == ' ') {
            buf_putc(out, '+');
        } else if (plain && !(query && c == '/')) {
            buf_putc(out, (char)c);
        } else {
            buf_printf(out, "%%%02X", c);
        }
    }
    return s != NULL;
}

static struct tmpl_value *f_urlencode(struct interp *in, struct tmpl_value *v,
                                      const struct call_args *args)
{
    static const struct call_args none;
    (void)args;
    struct buf out = {0};
    struct method m = {.self = v, .name = "items"};
    struct tmpl_value *pairs = v->kind == TMPL_MAP ? interp_call_method(in, &m, &none) : v;
    size_t n = 0;
    if (pairs && pairs->kind != TMPL_LIST) {
        return url_quote(in, &out, v, false) ? interp_buf_value(in, &out) : NULL;
    }
    struct tmpl_value **items = pairs ? interp_items(in, pairs, &n) : NULL;
    bool ok = items != NULL;
    for (size_t i = 0; ok && i < n; i++) {
        size_t n_part = 0;
        struct tmpl_value **part = interp_items(in, items[i], &n_part);
        if (part && n_part != 2) {
            (void)interp_fail(in, "urlencode needs pairs, not %zu values", n_part);
        }
        buf_puts(&out, i ? "&" : "");
        ok = part && n_part == 2 && url_quote(in, &out, part[0], true);
        buf_putc(&out, '=');
        ok = ok && url_quote(in, &out, part[1], true);
        if (ok && out.len > INTERP_OUT_MAX) {
            (void)interp_fail(in, "a text grew beyond %u bytes", INTERP_OUT_MAX);
            ok = false;
        }
    }
    if (!ok) {
        buf_free(&out);
        return NULL;
    }
    return interp_buf_value(in, &out);
}

static const struct filter filters[] = {
    {"abs", f_abs},
    {"capitalize", f_capitalize},
    {"d", f_default},
    {"default", f_default},
    {"e", f_escape},
    {"escape", f_escape},
    {"float", f_float},
    {"forceescape", f_escape},
    {"format", f_format},
    {"indent", f_indent},
    {"int", f_int},
    {"lower", f_lower},
    {"replace", f_replace},
    {"round", f_round},
    {"safe", f_safe},
    {"string", f_string},
    {"title", f_title},
    {"tojson", f_tojson},
    {"trim", f_trim},
    {"truncate", f_truncate},
    {"upper", f_upper},
    {"urlencode", f_urlencode},
    {"wordcount", f_wordcount},
};

bool interp_has_filter(const char *name)
{
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++) {
        if (strcmp(filters[i].name, name) == 0) {
            return true;
        }
    }
    return interp_sequence_filter(name) != NULL;
}

struct tmpl_value *interp_filter(struct interp *in, const char *name, struct tmpl_value *v,
                                 const struct call_args *args)
{
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++) {
        if (strcmp(filters[i].name, name) == 0) {
            return filters[i].run(in, v, args);
        }
    }
    const struct filter *of_sequences = interp_sequence_filter(name);
    if (of_sequences) {
        return of_sequences->run(in, v, args);
    }
    return interp_fail(in, "no filter named '%.60s'", name);
}
