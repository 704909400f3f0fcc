/* Python's two ways to format: "%s" % args and "{}".format(args). */
#include "engine/template/interp.h"

#include "base/utf8.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define FORMAT_WIDTH_MAX 4096

/* One conversion: [[fill]align][sign][#][0][width][,][.precision][type], or printf's form of it. */
struct spec {
    char fill[5];
    char align; /* '<' '>' '^' '=' or 0 */
    char sign;  /* '+' ' ' or 0 */
    bool alternate;
    bool zero;
    bool comma;
    int width;
    int precision; /* -1: none */
    char type;     /* 0: by the value */
};

static void pad_into(struct buf *out, const struct spec *s, const char *text, size_t n, char align)
{
    size_t chars = 0;
    for (size_t i = 0; i < n; i++) {
        chars += ((unsigned char)text[i] & 0xc0) != 0x80;
    }
    size_t missing = s->width > 0 && (size_t)s->width > chars ? (size_t)s->width - chars : 0;
    size_t left = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
    size_t sign = align == '=' && n && (text[0] == '-' || text[0] == '+' || text[0] == ' ');
    buf_append(out, text, sign);
    for (size_t i = 0; i < left; i++) {
        buf_puts(out, s->fill);
    }
    buf_append(out, text + sign, n - sign);
    for (size_t i = left; i < missing; i++) {
        buf_puts(out, s->fill);
    }
}

/* Thousands separators into the digits before any '.' or exponent. */
static void add_commas(struct buf *b)
{
    struct buf out = {0};
    size_t from = b->len && (b->data[0] == '-' || b->data[0] == '+' || b->data[0] == ' ');
    size_t digits = strspn(buf_str(b) + from, "0123456789");
    buf_append(&out, buf_str(b), from);
    for (size_t i = 0; i < digits; i++) {
        if (i && (digits - i) % 3 == 0) {
            buf_putc(&out, ',');
        }
        buf_putc(&out, b->data[from + i]);
    }
    buf_puts(&out, buf_str(b) + from + digits);
    buf_free(b);
    *b = out;
}

static void put_sign(struct buf *b, const struct spec *s, bool negative)
{
    if (negative) {
        buf_putc(b, '-');
    } else if (s->sign) {
        buf_putc(b, s->sign);
    }
}

static void put_int(struct buf *b, const struct spec *s, int64_t i)
{
    uint64_t v = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    put_sign(b, s, i < 0);
    switch (s->type) {
    case 'x': buf_printf(b, s->alternate ? "0x%" PRIx64 : "%" PRIx64, v); break;
    case 'X': buf_printf(b, s->alternate ? "0X%" PRIX64 : "%" PRIX64, v); break;
    case 'o': buf_printf(b, s->alternate ? "0o%" PRIo64 : "%" PRIo64, v); break;
    case 'b': {
        char bits[65];
        int n = 0;
        do {
            bits[n++] = (char)('0' + (v & 1));
            v >>= 1;
        } while (v);
        buf_puts(b, s->alternate ? "0b" : "");
        while (n) {
            buf_putc(b, bits[--n]);
        }
        break;
    }
    default: buf_printf(b, "%" PRIu64, v); break;
    }
}

static void put_float(struct buf *b, const struct spec *s, double v)
{
    double x = fabs(s->type == '%' ? v * 100 : v);
    int precision = s->precision < 0 ? 6 : s->precision;
    put_sign(b, s, signbit(v) && !isnan(v));
    if (!s->type && s->precision < 0) {
        interp_float_text(b, x);
        return;
    }
    switch (s->type) {
    case 'e': buf_printf(b, s->alternate ? "%#.*e" : "%.*e", precision, x); break;
    case 'E': buf_printf(b, s->alternate ? "%#.*E" : "%.*E", precision, x); break;
    case 'f': buf_printf(b, s->alternate ? "%#.*f" : "%.*f", precision, x); break;
    case 'F': buf_printf(b, s->alternate ? "%#.*F" : "%.*F", precision, x); break;
    case 'G': buf_printf(b, s->alternate ? "%#.*G" : "%.*G", precision, x); break;
    case '%': buf_printf(b, "%.*f%%", precision, x); break;
    default: buf_printf(b, s->alternate ? "%#.*g" : "%.*g", precision, x); break;
    }
}

/* v by spec into out. */
static bool put_value(struct interp *in, struct buf *out, const struct spec *s,
                      const struct tmpl_value *v)
{
    struct buf text = {0};
    bool is_int = v->kind == TMPL_INT || (v->kind == TMPL_BOOL && s->type);
    char align = s->align;
    bool ok = true;
    if (tmpl_is_number(v) && s->type && strchr("eEfFgG%", s->type)) {
        put_float(&text, s, tmpl_as_double(v));
    } else if (is_int && (!s->type || strchr("dxXobn", s->type))) {
        put_int(&text, s, v->kind == TMPL_INT ? v->u.i : v->u.b);
    } else if (is_int && s->type == 'c') {
        char c[4];
        uint64_t cp = v->kind == TMPL_INT ? (uint64_t)v->u.i : v->u.b;
        ok = cp < 0x110000 && (cp < 0xd800 || cp > 0xdfff);
        buf_append(&text, c, ok ? utf8_encode((uint32_t)cp, c) : 0);
    } else if (v->kind == TMPL_FLOAT && !s->type) {
        put_float(&text, s, v->u.f);
    } else if (!s->type || s->type == 's') {
        ok = interp_text(in, &text, v);
        if (ok && s->precision >= 0) {
            size_t at = 0;
            for (int k = 0; k < s->precision && at < text.len; k++) {
                size_t len = utf8_char_len(text.data + at, text.len - at);
                at += len ? len : 1;
            }
            text.len = at;
        }
        align = align ? align : '<';
    } else {
        (void)interp_fail(in, "unknown format code '%c' for object of type '%s'", s->type,
                          interp_type_name(v));
        buf_free(&text);
        return false;
    }
    if (!ok) {
        buf_free(&text);
        return false;
    }
    if (s->comma) {
        add_commas(&text);
    }
    pad_into(out, s, buf_str(&text), text.len, align ? align : s->zero ? '=' : '>');
    buf_free(&text);
    return true;
}

static bool parse_number(const char **at, const char *end, int *ret)
{
    int v = 0;
    bool any = false;
    while (*at < end && **at >= '0' && **at <= '9') {
        v = v * 10 + (*(*at)++ - '0');
        any = true;
        if (v > FORMAT_WIDTH_MAX) {
            v = FORMAT_WIDTH_MAX;
        }
    }
    if (any) {
        *ret = v;
    }
    return any;
}

/* The spec after ':' in a replacement field. */
static bool parse_spec(struct interp *in, const char *at, const char *end, struct spec *s)
{
    size_t len = at < end ? utf8_char_len(at, (size_t)(end - at)) : 0;
    *s = (struct spec){.fill = " ", .precision = -1};
    if (len && at + len < end && strchr("<>^=", at[len])) {
        memcpy(s->fill, at, len);
        s->fill[len] = 0;
        s->align = at[len];
        at += len + 1;
    } else if (at < end && strchr("<>^=", *at)) {
        s->align = *at++;
    }
    if (at < end && strchr("+- ", *at)) {
        s->sign = *at == '-' ? 0 : *at;
        at++;
    }
    if (at < end && *at == '#') {
        s->alternate = true;
        at++;
    }
    if (at < end && *at == '0') {
        s->zero = true;
        if (!s->align) {
            s->fill[0] = '0';
            s->fill[1] = 0;
        }
        at++;
    }
    (void)parse_number(&at, end, &s->width);
    if (at < end && (*at == ',' || *at == '_')) {
        s->comma = true;
        at++;
    }
    if (at < end && *at == '.') {
        at++;
        if (!parse_number(&at, end, &s->precision)) {
            (void)interp_fail(in, "format specifier missing precision");
            return false;
        }
    }
    if (at < end) {
        s->type = *at++;
    }
    if (at != end || (s->type && !strchr("sdxXobcneEfFgG%", s->type))) {
        (void)interp_fail(in, "invalid format specifier");
        return false;
    }
    return true;
}

/* The value of field name [from, to): a number or name, then .attr and [key] parts. */
static struct tmpl_value *field_value(struct interp *in, const char *from, const char *to,
                                      const struct call_args *args, size_t *auto_idx)
{
    const char *at = from;
    while (at < to && *at != '.' && *at != '[') {
        at++;
    }
    struct tmpl_value *v = NULL;
    int idx = 0;
    const char *digits = from;
    if (at == from) {
        v = *auto_idx < args->n_pos ? args->pos[(*auto_idx)++] : NULL;
    } else if (parse_number(&digits, at, &idx) && digits == at) {
        v = (size_t)idx < args->n_pos ? args->pos[idx] : NULL;
    } else {
        v = args->kw ? tmpl_map_find_str(args->kw, from, (size_t)(at - from)) : NULL;
    }
    if (!v) {
        return interp_fail(in, "the format names an argument that was not given");
    }
    while (v && at < to) {
        const char *begin = at + 1;
        bool is_attr = *at == '.';
        for (at = begin; at < to && (is_attr ? *at != '.' && *at != '[' : *at != ']'); at++) {
        }
        digits = begin;
        if (is_attr) {
            struct tmpl_value *name = interp_string(in, begin, (size_t)(at - begin));
            v = name ? interp_attr(in, v, name->u.str.s, name->u.str.n) : NULL;
        } else {
            bool number = parse_number(&digits, at, &idx) && digits == at;
            struct tmpl_value *key =
                number ? tmpl_int(in->a, idx) : interp_string(in, begin, (size_t)(at - begin));
            v = key ? interp_item(in, v, key) : interp_spent(in);
            at += at < to;
        }
    }
    return v;
}

/* One {…} whose inside is [from, to). */
static bool put_field(struct interp *in, struct buf *out, const char *from, const char *to,
                      const struct call_args *args, size_t *auto_idx)
{
    const char *colon = memchr(from, ':', (size_t)(to - from));
    const char *name_end = colon ? colon : to;
    const char *bang = memchr(from, '!', (size_t)(name_end - from));
    struct tmpl_value *v = field_value(in, from, bang ? bang : name_end, args, auto_idx);
    struct spec s;
    if (!v || !parse_spec(in, colon ? colon + 1 : to, to, &s)) {
        return false;
    }
    if (bang && bang + 1 < name_end && bang[1] == 'r') {
        struct buf text = {0};
        bool ok = interp_repr(in, &text, v);
        v = ok ? interp_buf_value(in, &text) : NULL;
        if (!ok) {
            buf_free(&text);
        }
    } else if (bang) {
        v = interp_str(in, v);
    }
    if (v && colon && colon + 1 < to &&
        (v->kind == TMPL_NONE || v->kind == TMPL_LIST || v->kind == TMPL_MAP)) {
        (void)interp_fail(in, "a value of type %s takes no format", interp_type_name(v));
        return false;
    }
    return v && put_value(in, out, &s, v);
}

struct tmpl_value *interp_format(struct interp *in, const struct tmpl_value *format,
                                 const struct call_args *args)
{
    struct buf out = {0};
    size_t auto_idx = 0;
    const char *at = format->u.str.s;
    const char *end = at + format->u.str.n;
    bool ok = true;
    while (ok && at < end && out.len <= INTERP_OUT_MAX) {
        if (at + 1 < end && (*at == '{' || *at == '}') && at[1] == *at) {
            buf_putc(&out, *at);
            at += 2;
        } else if (*at == '{') {
            const char *close = memchr(at, '}', (size_t)(end - at));
            const char *inner = close ? memchr(at + 1, '{', (size_t)(close - at - 1)) : NULL;
            ok = close && !inner && interp_burn(in, 1);
            if (!ok) {
                (void)interp_fail(in, "a replacement field of format() is not closed");
                break;
            }
            ok = put_field(in, &out, at + 1, close, args, &auto_idx);
            at = close + 1;
        } else if (*at == '}') {
            (void)interp_fail(in, "single '}' encountered in format string");
            ok = false;
        } else {
            buf_putc(&out, *at++);
        }
    }
    if (!ok) {
        buf_free(&out);
        return NULL;
    }
    return interp_buf_value(in, &out);
}

/* The arguments of %: a tuple's items in turn, a mapping by key, or one value. */
struct percent_args {
    struct tmpl_value *all;
    size_t n_used;
};

static struct tmpl_value *next_arg(struct interp *in, struct percent_args *p)
{
    bool tuple = p->all->kind == TMPL_LIST && p->all->u.list.type == TMPL_SEQ_TUPLE;
    size_t n = tuple ? p->all->u.list.n : 1;
    if (p->n_used >= n) {
        return interp_fail(in, "not enough arguments for format string");
    }
    p->n_used++;
    return tuple ? p->all->u.list.items[p->n_used - 1] : p->all;
}

static bool put_percent(struct interp *in, struct buf *out, struct spec *s, struct tmpl_value *v)
{
    if (s->type == 'r' || s->type == 'a') {
        struct buf text = {0};
        if (!interp_repr(in, &text, v)) {
            buf_free(&text);
            return false;
        }
        v = interp_buf_value(in, &text);
        s->type = 's';
    }
    if (v && (s->type == 'i' || s->type == 'u')) {
        s->type = 'd';
    }
    if (v && strchr("dxXo", s->type)) {
        if (!tmpl_is_number(v)) {
            (void)interp_fail(in, "%%%c format: a real number is required, not %s", s->type,
                              interp_type_name(v));
            return false;
        }
        if (v->kind == TMPL_FLOAT) {
            if (!isfinite(v->u.f) || fabs(v->u.f) >= 0x1.0p63) {
                (void)interp_fail(in, "an integer is out of range");
                return false;
            }
            v = tmpl_int(in->a, (int64_t)v->u.f);
        }
    }
    if (v && s->type == 's') {
        v = interp_str(in, v);
    }
    if (!s->align) {
        s->align = s->zero && s->type != 's' ? '=' : '>';
    }
    return v && put_value(in, out, s, v);
}

/* One conversion at *at (behind the '%'). */
static bool percent_one(struct interp *in, struct buf *out, const char **at, const char *end,
                        struct percent_args *p)
{
    struct spec s = {.fill = " ", .precision = -1};
    struct tmpl_value *v = NULL;
    if (*at < end && **at == '(') {
        const char *close = memchr(*at, ')', (size_t)(end - *at));
        if (!close || p->all->kind != TMPL_MAP) {
            (void)interp_fail(in, "format requires a mapping");
            return false;
        }
        v = tmpl_map_find_str(p->all, *at + 1, (size_t)(close - *at - 1));
        if (!v) {
            (void)interp_fail(in, "the format names a key that is not there");
            return false;
        }
        p->n_used = 1;
        *at = close + 1;
    }
    for (; *at < end && strchr("-+ #0", **at); (*at)++) {
        s.align = **at == '-' ? '<' : s.align;
        s.sign = **at == '+' || (**at == ' ' && !s.sign) ? **at : s.sign;
        s.alternate = s.alternate || **at == '#';
        s.zero = s.zero || **at == '0';
    }
    (void)parse_number(at, end, &s.width);
    if (*at < end && **at == '.') {
        (*at)++;
        s.precision = 0;
        (void)parse_number(at, end, &s.precision);
    }
    s.type = *at < end ? *(*at)++ : 0;
    if (s.type == '%') {
        buf_putc(out, '%');
        return true;
    }
    if (!s.type || !strchr("sradiuxXoeEfFgGc", s.type)) {
        (void)interp_fail(in, "unsupported format character");
        return false;
    }
    if (s.zero && s.align != '<' && s.type != 's') {
        s.fill[0] = '0';
    }
    v = v ? v : next_arg(in, p);
    return v && put_percent(in, out, &s, v);
}

struct tmpl_value *interp_percent(struct interp *in, const struct tmpl_value *format,
                                  struct tmpl_value *args)
{
    struct buf out = {0};
    struct percent_args p = {.all = args};
    const char *at = format->u.str.s;
    const char *end = at + format->u.str.n;
    bool ok = true;
    while (ok && at < end && out.len <= INTERP_OUT_MAX) {
        if (*at != '%') {
            buf_putc(&out, *at++);
            continue;
        }
        at++;
        ok = interp_burn(in, 1) && percent_one(in, &out, &at, end, &p);
    }
    bool tuple = args->kind == TMPL_LIST && args->u.list.type == TMPL_SEQ_TUPLE;
    if (ok && args->kind != TMPL_MAP && p.n_used < (tuple ? args->u.list.n : 1)) {
        (void)interp_fail(in, "not all arguments converted during string formatting");
        ok = false;
    }
    if (!ok) {
        buf_free(&out);
        return NULL;
    }
    return interp_buf_value(in, &out);
}
