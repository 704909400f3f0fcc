/* Methods of strings, as Python's str has them. Positions count characters, not bytes. */
#include "engine/template/interp.h"

#include "base/utf8.h"

#include <string.h>
#include <wctype.h>

bool interp_is_text_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x20) || cp == 0x85 || cp == 0xa0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

static uint32_t to_case(const struct interp *in, uint32_t cp, bool upper)
{
    if (cp < 0x80) {
        if (upper) {
            return cp >= 'a' && cp <= 'z' ? cp - 32 : cp;
        }
        return cp >= 'A' && cp <= 'Z' ? cp + 32 : cp;
    }
    return (uint32_t)(upper ? towupper_l((wint_t)cp, in->locale)
                            : towlower_l((wint_t)cp, in->locale));
}

static bool is_upper(const struct interp *in, uint32_t cp)
{
    return to_case(in, cp, false) != cp;
}

static bool is_lower(const struct interp *in, uint32_t cp)
{
    return to_case(in, cp, true) != cp || cp == 0xdf;
}

static bool is_cased(const struct interp *in, uint32_t cp)
{
    return is_upper(in, cp) || is_lower(in, cp);
}

static bool is_digit(uint32_t cp)
{
    return cp >= '0' && cp <= '9';
}

static bool is_alpha(const struct interp *in, uint32_t cp)
{
    if (cp < 0x80) {
        return (cp | 32) >= 'a' && (cp | 32) <= 'z';
    }
    return iswalpha_l((wint_t)cp, in->locale);
}

bool interp_is_word(const struct interp *in, uint32_t cp)
{
    return cp == '_' || is_alpha(in, cp) || is_digit(cp);
}

enum casing { CASE_UPPER, CASE_LOWER, CASE_CAPITALIZE, CASE_TITLE, CASE_SWAP };

static void put_cased(const struct interp *in, struct buf *out, uint32_t cp, bool upper, bool first)
{
    char c[4];
    if (upper && cp == 0xdf) { /* the one common letter whose capital is two */
        buf_puts(out, first ? "Ss" : "SS");
        return;
    }
    buf_append(out, c, utf8_encode(to_case(in, cp, upper), c));
}

static struct tmpl_value *change_case(struct interp *in, const struct tmpl_value *s,
                                      enum casing how)
{
    struct buf out = {0};
    bool after_letter = false;
    for (size_t i = 0; i < s->u.str.n;) {
        uint32_t cp = 0xfffd;
        size_t len = utf8_decode(s->u.str.s + i, s->u.str.n - i, &cp);
        bool upper = how == CASE_UPPER || (how == CASE_CAPITALIZE && i == 0) ||
                     (how == CASE_TITLE && !after_letter) || (how == CASE_SWAP && is_lower(in, cp));
        put_cased(in, &out, cp, upper, how == CASE_CAPITALIZE || how == CASE_TITLE);
        after_letter = is_cased(in, cp);
        i += len ? len : 1;
    }
    return interp_buf_value(in, &out);
}

/* Whether cp is one of the characters of set (NULL: white space). */
static bool in_set(uint32_t cp, const struct tmpl_value *set)
{
    if (!set) {
        return interp_is_text_space(cp);
    }
    for (size_t i = 0; i < set->u.str.n;) {
        uint32_t c = 0;
        size_t len = utf8_decode(set->u.str.s + i, set->u.str.n - i, &c);
        if (len && c == cp) {
            return true;
        }
        i += len ? len : 1;
    }
    return false;
}

static struct tmpl_value *strip(struct interp *in, const struct tmpl_value *s,
                                const struct tmpl_value *set, bool left, bool right)
{
    size_t from = 0;
    size_t to = s->u.str.n;
    uint32_t cp = 0;
    for (size_t len = 0; left && from < to; from += len) {
        len = utf8_decode(s->u.str.s + from, to - from, &cp);
        if (!len || !in_set(cp, set)) {
            break;
        }
    }
    while (right && to > from) {
        size_t at = to - 1;
        while (at > from && ((unsigned char)s->u.str.s[at] & 0xc0) == 0x80) {
            at--;
        }
        if (!utf8_decode(s->u.str.s + at, to - at, &cp) || !in_set(cp, set)) {
            break;
        }
        to = at;
    }
    return interp_string(in, s->u.str.s + from, to - from);
}

static bool add_piece(struct interp *in, struct tmpl_value *list, const char *s, size_t n)
{
    struct tmpl_value *piece = interp_burn(in, 1) ? interp_string(in, s, n) : NULL;
    return piece && (tmpl_list_add(in->a, list, piece) || interp_spent(in));
}

/* split() without separator: runs of white space. */
static bool split_space(struct interp *in, const struct tmpl_value *s, int64_t max,
                        struct tmpl_value *list)
{
    size_t at = 0;
    const char *text = s->u.str.s;
    for (int64_t n = 0;; n++) {
        uint32_t cp = 0;
        size_t len = 0;
        while (at < s->u.str.n && (len = utf8_decode(text + at, s->u.str.n - at, &cp)) &&
               interp_is_text_space(cp)) {
            at += len;
        }
        if (at >= s->u.str.n) {
            return true;
        }
        size_t from = at;
        if (max >= 0 && n == max) {
            struct tmpl_value rest = {.kind = TMPL_STRING,
                                      .u.str = {.s = text + from, .n = s->u.str.n - from}};
            struct tmpl_value *trimmed = strip(in, &rest, NULL, false, true);
            return trimmed && add_piece(in, list, trimmed->u.str.s, trimmed->u.str.n);
        }
        while (at < s->u.str.n && (len = utf8_decode(text + at, s->u.str.n - at, &cp)) &&
               !interp_is_text_space(cp)) {
            at += len;
        }
        if (!add_piece(in, list, text + from, at - from)) {
            return false;
        }
    }
}

static bool split_on(struct interp *in, const struct tmpl_value *s, const struct tmpl_value *sep,
                     int64_t max, struct tmpl_value *list)
{
    const char *at = s->u.str.s;
    const char *end = at + s->u.str.n;
    for (int64_t n = 0; max < 0 || n < max; n++) {
        const char *hit = memmem(at, (size_t)(end - at), sep->u.str.s, sep->u.str.n);
        if (!hit) {
            break;
        }
        if (!add_piece(in, list, at, (size_t)(hit - at))) {
            return false;
        }
        at = hit + sep->u.str.n;
    }
    return add_piece(in, list, at, (size_t)(end - at));
}

static const char *find_last(const char *s, size_t n, const char *what, size_t n_what)
{
    for (size_t i = n >= n_what ? n - n_what + 1 : 0; i > 0; i--) {
        if (memcmp(s + i - 1, what, n_what) == 0) {
            return s + i - 1;
        }
    }
    return NULL;
}

/* rsplit with a separator: pieces from the right, then in order. */
static bool rsplit_on(struct interp *in, const struct tmpl_value *s, const struct tmpl_value *sep,
                      int64_t max, struct tmpl_value *list)
{
    size_t end = s->u.str.n;
    for (int64_t n = 0; max < 0 || n < max; n++) {
        const char *hit = find_last(s->u.str.s, end, sep->u.str.s, sep->u.str.n);
        if (!hit) {
            break;
        }
        size_t from = (size_t)(hit - s->u.str.s) + sep->u.str.n;
        if (!add_piece(in, list, s->u.str.s + from, end - from)) {
            return false;
        }
        end = (size_t)(hit - s->u.str.s);
    }
    if (!add_piece(in, list, s->u.str.s, end)) {
        return false;
    }
    struct tmpl_list_part *l = &list->u.list;
    for (size_t i = 0; i < l->n / 2; i++) {
        struct tmpl_value *t = l->items[i];
        l->items[i] = l->items[l->n - 1 - i];
        l->items[l->n - 1 - i] = t;
    }
    return true;
}

static struct tmpl_value *split(struct interp *in, const struct tmpl_value *s, const char *name,
                                const struct call_args *args)
{
    int64_t max = -1;
    const struct tmpl_value *sep = interp_arg(args, 0, "sep");
    struct tmpl_value *list = tmpl_list(in->a);
    if (!list || !interp_arg_int(in, args, 1, "maxsplit", -1, &max)) {
        return list ? NULL : interp_spent(in);
    }
    if (sep && sep->kind == TMPL_NONE) {
        sep = NULL;
    }
    if (sep && (sep->kind != TMPL_STRING || !sep->u.str.n)) {
        return interp_fail(in,
                           sep->kind == TMPL_STRING ? "empty separator" : "must be str or None");
    }
    bool ok = !sep             ? split_space(in, s, max, list)
              : name[0] == 'r' ? rsplit_on(in, s, sep, max, list)
                               : split_on(in, s, sep, max, list);
    return ok ? list : NULL;
}

static struct tmpl_value *splitlines(struct interp *in, const struct tmpl_value *s,
                                     const struct call_args *args)
{
    struct tmpl_value *list = tmpl_list(in->a);
    const struct tmpl_value *keep = interp_arg(args, 0, "keepends");
    const char *text = s->u.str.s;
    size_t from = 0;
    for (size_t i = 0; list && i < s->u.str.n; i++) {
        if (text[i] != '\n' && text[i] != '\r') {
            continue;
        }
        size_t next = i + 1 + (text[i] == '\r' && i + 1 < s->u.str.n && text[i + 1] == '\n');
        if (!add_piece(in, list, text + from, (keep && interp_truth(keep) ? next : i) - from)) {
            return NULL;
        }
        from = next;
        i = next - 1;
    }
    if (list && from < s->u.str.n && !add_piece(in, list, text + from, s->u.str.n - from)) {
        return NULL;
    }
    return list ? list : interp_spent(in);
}

static struct tmpl_value *replace(struct interp *in, const struct tmpl_value *s,
                                  const struct call_args *args)
{
    const struct tmpl_value *from = interp_arg(args, 0, NULL);
    const struct tmpl_value *to = interp_arg(args, 1, NULL);
    int64_t max = -1;
    if (!from || !to || from->kind != TMPL_STRING || to->kind != TMPL_STRING) {
        return interp_fail(in, "replace() needs two strings");
    }
    if (!interp_arg_int(in, args, 2, "count", -1, &max)) {
        return NULL;
    }
    struct buf out = {0};
    const char *at = s->u.str.s;
    const char *end = at + s->u.str.n;
    for (int64_t n = 0; (max < 0 || n < max) && at <= end && out.len <= INTERP_OUT_MAX; n++) {
        if (!interp_burn(in, 1)) {
            break;
        }
        const char *hit =
            from->u.str.n ? memmem(at, (size_t)(end - at), from->u.str.s, from->u.str.n) : at;
        if (!hit) {
            break;
        }
        buf_append(&out, at, (size_t)(hit - at));
        buf_append(&out, to->u.str.s, to->u.str.n);
        at = hit + from->u.str.n;
        if (!from->u.str.n) { /* "" matches before each character and at the end */
            size_t len = at < end ? utf8_char_len(at, (size_t)(end - at)) : 0;
            buf_append(&out, at, len);
            at += len ? len : 1;
        }
    }
    if (at < end) {
        buf_append(&out, at, (size_t)(end - at));
    }
    if (!in->fuel) {
        buf_free(&out);
        return NULL;
    }
    return interp_buf_value(in, &out);
}

static bool affix_matches(const struct tmpl_value *s, const struct tmpl_value *affix, bool at_end)
{
    return affix->kind == TMPL_STRING && affix->u.str.n <= s->u.str.n &&
           memcmp(s->u.str.s + (at_end ? s->u.str.n - affix->u.str.n : 0), affix->u.str.s,
                  affix->u.str.n) == 0;
}

static struct tmpl_value *starts_or_ends(struct interp *in, const struct tmpl_value *s,
                                         const char *name, const struct call_args *args)
{
    const struct tmpl_value *affix = interp_arg(args, 0, NULL);
    bool at_end = name[0] == 'e';
    bool hit = false;
    if (!affix || (affix->kind != TMPL_STRING && affix->kind != TMPL_LIST)) {
        return interp_fail(in, "%s first arg must be str or a tuple of str", name);
    }
    if (affix->kind == TMPL_STRING) {
        hit = affix_matches(s, affix, at_end);
    }
    for (size_t i = 0; affix->kind == TMPL_LIST && i < affix->u.list.n; i++) {
        hit = hit || affix_matches(s, affix->u.list.items[i], at_end);
    }
    struct tmpl_value *v = tmpl_bool(in->a, hit);
    return v ? v : interp_spent(in);
}

static int64_t chars_before(const struct tmpl_value *s, const char *at)
{
    struct tmpl_value head = {.kind = TMPL_STRING,
                              .u.str = {.s = s->u.str.s, .n = (size_t)(at - s->u.str.s)}};
    return (int64_t)interp_str_len(&head);
}

static struct tmpl_value *find(struct interp *in, const struct tmpl_value *s, const char *name,
                               const struct call_args *args)
{
    const struct tmpl_value *what = interp_arg(args, 0, NULL);
    if (!what || what->kind != TMPL_STRING || args->n_pos > 1) {
        return interp_fail(in, "%s() takes one string", name);
    }
    bool last = name[0] == 'r';
    const char *hit = last ? find_last(s->u.str.s, s->u.str.n, what->u.str.s, what->u.str.n)
                           : memmem(s->u.str.s, s->u.str.n, what->u.str.s, what->u.str.n);
    if (!hit && strstr(name, "index")) {
        return interp_fail(in, "substring not found");
    }
    struct tmpl_value *v = tmpl_int(in->a, hit ? chars_before(s, hit) : -1);
    return v ? v : interp_spent(in);
}

static struct tmpl_value *count(struct interp *in, const struct tmpl_value *s,
                                const struct call_args *args)
{
    const struct tmpl_value *what = interp_arg(args, 0, NULL);
    if (!what || what->kind != TMPL_STRING || args->n_pos > 1) {
        return interp_fail(in, "count() takes one string");
    }
    int64_t n = what->u.str.n ? 0 : (int64_t)interp_str_len(s) + 1;
    const char *at = s->u.str.s;
    const char *end = at + s->u.str.n;
    while (what->u.str.n && (at = memmem(at, (size_t)(end - at), what->u.str.s, what->u.str.n))) {
        n++;
        at += what->u.str.n;
    }
    struct tmpl_value *v = tmpl_int(in->a, n);
    return v ? v : interp_spent(in);
}

static struct tmpl_value *join(struct interp *in, const struct tmpl_value *s,
                               const struct call_args *args)
{
    size_t n = 0;
    struct buf out = {0};
    if (!interp_arity(in, "join", args, 1, 1) || !args->n_pos) {
        return NULL;
    }
    struct tmpl_value **items = interp_items(in, args->pos[0], &n);
    for (size_t i = 0; items && i < n; i++) {
        if (items[i]->kind != TMPL_STRING) {
            buf_free(&out);
            return interp_fail(in, "sequence item %zu: expected str instance, %s found", i,
                               interp_type_name(items[i]));
        }
        if (i) {
            buf_append(&out, s->u.str.s, s->u.str.n);
        }
        buf_append(&out, items[i]->u.str.s, items[i]->u.str.n);
    }
    return items ? interp_buf_value(in, &out) : NULL;
}

/* ljust, rjust, center, zfill. */
static struct tmpl_value *pad(struct interp *in, const struct tmpl_value *s, const char *name,
                              const struct call_args *args)
{
    int64_t width = 0;
    const struct tmpl_value *fill = interp_arg(args, 1, NULL);
    if (!interp_arg_int(in, args, 0, NULL, 0, &width)) {
        return NULL;
    }
    if (fill && (fill->kind != TMPL_STRING || interp_str_len(fill) != 1)) {
        return interp_fail(in, "the fill character must be exactly one character long");
    }
    int64_t missing = width - (int64_t)interp_str_len(s);
    if (missing > INTERP_OUT_MAX) {
        return interp_fail(in, "a text grew beyond %u bytes", INTERP_OUT_MAX);
    }
    missing = missing > 0 ? missing : 0;
    int64_t left = name[0] == 'l'   ? 0
                   : name[0] == 'c' ? missing / 2 + (missing & width & 1)
                                    : missing;
    bool zero = name[0] == 'z';
    size_t sign = zero && s->u.str.n && (s->u.str.s[0] == '-' || s->u.str.s[0] == '+');
    struct buf out = {0};
    buf_append(&out, s->u.str.s, sign);
    for (int64_t i = 0; i < missing; i++) {
        if (i == left) {
            buf_append(&out, s->u.str.s + sign, s->u.str.n - sign);
        }
        if (zero || !fill) {
            buf_putc(&out, zero ? '0' : ' ');
        } else {
            buf_append(&out, fill->u.str.s, fill->u.str.n);
        }
    }
    if (left >= missing) {
        buf_append(&out, s->u.str.s + sign, s->u.str.n - sign);
    }
    return interp_buf_value(in, &out);
}

static struct tmpl_value *partition(struct interp *in, const struct tmpl_value *s, const char *name,
                                    const struct call_args *args)
{
    const struct tmpl_value *sep = interp_arg(args, 0, NULL);
    struct tmpl_value *r = tmpl_sequence(in->a, TMPL_SEQ_TUPLE);
    if (!sep || sep->kind != TMPL_STRING || !sep->u.str.n) {
        return interp_fail(in, "%s() needs a separator", name);
    }
    bool last = name[0] == 'r';
    const char *hit = last ? find_last(s->u.str.s, s->u.str.n, sep->u.str.s, sep->u.str.n)
                           : memmem(s->u.str.s, s->u.str.n, sep->u.str.s, sep->u.str.n);
    size_t head = hit ? (size_t)(hit - s->u.str.s) : last ? 0 : s->u.str.n;
    size_t mid = hit ? sep->u.str.n : 0;
    bool ok = r && add_piece(in, r, s->u.str.s, head) && add_piece(in, r, s->u.str.s + head, mid) &&
              add_piece(in, r, s->u.str.s + head + mid, s->u.str.n - head - mid);
    return ok ? r : NULL;
}

static struct tmpl_value *remove_affix(struct interp *in, struct tmpl_value *s, bool suffix,
                                       const struct call_args *args)
{
    const struct tmpl_value *affix = interp_arg(args, 0, NULL);
    if (!affix || affix->kind != TMPL_STRING) {
        return interp_fail(in, "the argument must be str");
    }
    if (!affix_matches(s, affix, suffix)) {
        return s;
    }
    size_t n = s->u.str.n - affix->u.str.n;
    return interp_string(in, s->u.str.s + (suffix ? 0 : affix->u.str.n), n);
}

static struct tmpl_value *expandtabs(struct interp *in, const struct tmpl_value *s,
                                     const struct call_args *args)
{
    struct buf out = {0};
    int64_t size = 8;
    int64_t column = 0;
    if (!interp_arg_int(in, args, 0, "tabsize", 8, &size)) {
        return NULL;
    }
    for (size_t i = 0; i < s->u.str.n && out.len <= INTERP_OUT_MAX; i++) {
        char c = s->u.str.s[i];
        if (c == '\t') {
            for (int64_t k = size > 0 ? size - column % size : 0;
                 k > 0 && out.len <= INTERP_OUT_MAX; k--) {
                buf_putc(&out, ' ');
                column++;
            }
            continue;
        }
        buf_putc(&out, c);
        column = c == '\n' || c == '\r' ? 0 : column + (((unsigned char)c & 0xc0) != 0x80);
    }
    return interp_buf_value(in, &out);
}

/* isupper and islower need one cased character and none of the other case; the rest ask it of all.
 */
static bool is_all(const struct interp *in, const struct tmpl_value *s, const char *name)
{
    bool any = false;
    bool previous_cased = false;
    for (size_t i = 0; i < s->u.str.n;) {
        uint32_t cp = 0xfffd;
        size_t len = utf8_decode(s->u.str.s + i, s->u.str.n - i, &cp);
        bool ok = true;
        bool counts = true;
        if (strcmp(name, "isalpha") == 0) {
            ok = is_alpha(in, cp);
        } else if (strcmp(name, "isalnum") == 0) {
            ok = is_alpha(in, cp) || is_digit(cp);
        } else if (strcmp(name, "isspace") == 0) {
            ok = interp_is_text_space(cp);
        } else if (strcmp(name, "isascii") == 0) {
            ok = cp < 0x80;
        } else if (strcmp(name, "isupper") == 0) {
            ok = !is_lower(in, cp);
            counts = is_upper(in, cp);
        } else if (strcmp(name, "islower") == 0) {
            ok = !is_upper(in, cp);
            counts = is_lower(in, cp);
        } else if (strcmp(name, "istitle") == 0) {
            ok = is_upper(in, cp) ? !previous_cased : !is_lower(in, cp) || previous_cased;
            counts = is_cased(in, cp);
            previous_cased = counts;
        } else {
            ok = is_digit(cp);
        }
        if (!ok) {
            return false;
        }
        any = any || counts;
        i += len ? len : 1;
    }
    return any || strcmp(name, "isascii") == 0;
}

struct tmpl_value *interp_str_method(struct interp *in, struct tmpl_value *s, const char *name,
                                     const struct call_args *args)
{
    static const struct {
        const char *name;
        enum casing how;
    } cases[] = {{"upper", CASE_UPPER},           {"lower", CASE_LOWER}, {"casefold", CASE_LOWER},
                 {"capitalize", CASE_CAPITALIZE}, {"title", CASE_TITLE}, {"swapcase", CASE_SWAP}};
    if (!interp_burn(in, 1 + s->u.str.n / 64)) {
        return NULL;
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (strcmp(name, cases[i].name) == 0) {
            return change_case(in, s, cases[i].how);
        }
    }
    if (strncmp(name, "is", 2) == 0) {
        struct tmpl_value *v = tmpl_bool(in->a, is_all(in, s, name));
        return v ? v : interp_spent(in);
    }
    if (strcmp(name, "strip") == 0 || strcmp(name, "lstrip") == 0 || strcmp(name, "rstrip") == 0) {
        const struct tmpl_value *set = interp_arg(args, 0, NULL);
        set = set && set->kind == TMPL_NONE ? NULL : set;
        if (set && set->kind != TMPL_STRING) {
            return interp_fail(in, "%s arg must be None or str", name);
        }
        return strip(in, s, set, name[0] != 'r', name[0] != 'l');
    }
    if (strcmp(name, "split") == 0 || strcmp(name, "rsplit") == 0) {
        return split(in, s, name, args);
    }
    if (strcmp(name, "startswith") == 0 || strcmp(name, "endswith") == 0) {
        return starts_or_ends(in, s, name, args);
    }
    if (strstr(name, "find") || strstr(name, "index")) {
        return find(in, s, name, args);
    }
    if (strstr(name, "partition")) {
        return partition(in, s, name, args);
    }
    if (strncmp(name, "remove", 6) == 0) {
        return remove_affix(in, s, name[6] == 's', args);
    }
    if (strcmp(name, "splitlines") == 0) {
        return splitlines(in, s, args);
    }
    if (strcmp(name, "replace") == 0) {
        return replace(in, s, args);
    }
    if (strcmp(name, "count") == 0) {
        return count(in, s, args);
    }
    if (strcmp(name, "join") == 0) {
        return join(in, s, args);
    }
    if (strcmp(name, "format") == 0) {
        return interp_format(in, s, args);
    }
    return strcmp(name, "expandtabs") == 0 ? expandtabs(in, s, args) : pad(in, s, name, args);
}
