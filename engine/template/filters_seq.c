/* Filters on sequences and mappings. Those that are lazy in Python give iterators here: spent by
 * one pass and true even when empty. */
#include "engine/template/filters.h"

#include <stdlib.h>
#include <string.h>

static struct tmpl_value *made(struct interp *in, struct tmpl_value *v)
{
    return v ? v : interp_spent(in);
}

static bool add(struct interp *in, struct tmpl_value *list, struct tmpl_value *v)
{
    return interp_burn(in, 1) && (tmpl_list_add(in->a, list, v) || interp_spent(in));
}

/* a.b.0 of v: attributes and numbers, as Jinja's attribute arguments have them. */
static struct tmpl_value *dig(struct interp *in, struct tmpl_value *v,
                              const struct tmpl_value *path, struct tmpl_value *fallback)
{
    if (path->kind == TMPL_INT) {
        return interp_item(in, v, (struct tmpl_value *)path);
    }
    if (path->kind != TMPL_STRING) {
        return interp_fail(in, "an attribute must be a string or a number");
    }
    const char *at = path->u.str.s;
    const char *end = at + path->u.str.n;
    for (;;) {
        const char *dot = memchr(at, '.', (size_t)(end - at));
        size_t n = (size_t)((dot ? dot : end) - at);
        struct tmpl_value *key = interp_string(in, at, n);
        if (!key) {
            return NULL;
        }
        if (n && strspn(at, "0123456789") >= n) {
            key = made(in, tmpl_int(in->a, strtoll(key->u.str.s, NULL, 10)));
        }
        v = key ? interp_item(in, v, key) : NULL;
        if (v && v->kind == TMPL_UNDEFINED && fallback) {
            v = fallback;
        }
        if (!v || !dot) {
            return v;
        }
        at = dot + 1;
    }
}

static struct tmpl_value *f_length(struct interp *in, struct tmpl_value *v,
                                   const struct call_args *args)
{
    (void)args;
    if (v->kind == TMPL_STRING) {
        return made(in, tmpl_int(in->a, (int64_t)interp_str_len(v)));
    }
    if (v->kind == TMPL_MAP || v->kind == TMPL_UNDEFINED ||
        (v->kind == TMPL_LIST && v->u.list.type != TMPL_SEQ_ITERATOR)) {
        return made(in, tmpl_int(in->a, (int64_t)tmpl_len(v)));
    }
    return interp_fail(in, "object of type '%s' has no len()", interp_type_name(v));
}

static struct tmpl_value *f_list(struct interp *in, struct tmpl_value *v,
                                 const struct call_args *args)
{
    (void)args;
    return interp_list_of(in, v);
}

static struct tmpl_value *f_first(struct interp *in, struct tmpl_value *v,
                                  const struct call_args *args)
{
    (void)args;
    size_t n = 0;
    struct tmpl_value **items = interp_items(in, v, &n);
    if (!items) {
        return NULL;
    }
    return n ? items[0] : made(in, tmpl_undefined(in->a, "No first item, sequence was empty."));
}

static struct tmpl_value *f_last(struct interp *in, struct tmpl_value *v,
                                 const struct call_args *args)
{
    (void)args;
    size_t n = 0;
    if (v->kind == TMPL_LIST && v->u.list.type == TMPL_SEQ_ITERATOR) {
        return interp_fail(in, "'generator' object is not reversible");
    }
    struct tmpl_value **items = interp_items(in, v, &n);
    if (!items) {
        return NULL;
    }
    return n ? items[n - 1] : made(in, tmpl_undefined(in->a, "No last item, sequence was empty."));
}

static struct tmpl_value *f_join(struct interp *in, struct tmpl_value *v,
                                 const struct call_args *args)
{
    size_t n = 0;
    struct tmpl_value *sep = interp_arg(args, 0, "d");
    const struct tmpl_value *attribute = interp_arg(args, 1, "attribute");
    struct tmpl_value **items = interp_items(in, v, &n);
    sep = sep ? interp_str(in, sep) : interp_string(in, "", 0);
    struct buf out = {0};
    for (size_t i = 0; items && sep && i < n; i++) {
        struct tmpl_value *item = attribute ? dig(in, items[i], attribute, NULL) : items[i];
        struct tmpl_value *text = item && interp_burn(in, 1) ? interp_str(in, item) : NULL;
        if (!text || out.len > INTERP_OUT_MAX) {
            buf_free(&out);
            return text ? interp_fail(in, "a text grew beyond %u bytes", INTERP_OUT_MAX) : NULL;
        }
        buf_append(&out, sep->u.str.s, i ? sep->u.str.n : 0);
        buf_append(&out, text->u.str.s, text->u.str.n);
    }
    return items && sep ? interp_buf_value(in, &out) : NULL;
}

static struct tmpl_value *f_reverse(struct interp *in, struct tmpl_value *v,
                                    const struct call_args *args)
{
    (void)args;
    size_t n = 0;
    struct tmpl_value **items = interp_items(in, v, &n);
    struct tmpl_value *r = items ? tmpl_sequence(in->a, TMPL_SEQ_ITERATOR) : NULL;
    struct buf text = {0};
    for (size_t i = n; r && i > 0; i--) {
        if (v->kind == TMPL_STRING) {
            buf_append(&text, items[i - 1]->u.str.s, items[i - 1]->u.str.n);
        } else if (!add(in, r, items[i - 1])) {
            return NULL;
        }
    }
    if (v->kind == TMPL_STRING && r) {
        return interp_buf_value(in, &text);
    }
    return items ? made(in, r) : NULL;
}

static struct tmpl_value *f_items(struct interp *in, struct tmpl_value *v,
                                  const struct call_args *args)
{
    (void)args;
    if (v->kind == TMPL_UNDEFINED) {
        return made(in, tmpl_sequence(in->a, TMPL_SEQ_ITERATOR));
    }
    if (v->kind != TMPL_MAP) {
        return interp_fail(in, "Can only get item pairs from a mapping.");
    }
    struct method m = {.self = v, .name = "items"};
    static const struct call_args none;
    struct tmpl_value *view = interp_call_method(in, &m, &none);
    if (view) {
        view->u.list.type = TMPL_SEQ_ITERATOR;
    }
    return view;
}

/* What orders two items: their values (dug out by attribute), letters folded unless asked not to.
 */
struct sort_item {
    struct tmpl_value *key;
    struct tmpl_value *item;
};

static struct tmpl_value *sort_key(struct interp *in, struct tmpl_value *v,
                                   const struct tmpl_value *attribute, bool case_sensitive)
{
    static const struct call_args none;
    struct tmpl_value *key =
        attribute && attribute->kind != TMPL_NONE ? dig(in, v, attribute, NULL) : v;
    if (key && key->kind == TMPL_STRING && !case_sensitive) {
        key = interp_str_method(in, key, "lower", &none);
    }
    return key;
}

/* Stable merge sort; false when two keys have no order. */
static bool merge_sort(struct interp *in, struct sort_item *items, struct sort_item *scratch,
                       size_t n, bool reverse)
{
    if (n < 2) {
        return true;
    }
    size_t half = n / 2;
    if (!merge_sort(in, items, scratch, half, reverse) ||
        !merge_sort(in, items + half, scratch, n - half, reverse)) {
        return false;
    }
    size_t i = 0;
    size_t j = half;
    for (size_t k = 0; k < n; k++) {
        bool take_left = j == n;
        if (i < half && j < n) {
            int order = 0;
            if (!interp_burn(in, 1) || !interp_order(in, items[j].key, items[i].key, &order)) {
                return false;
            }
            take_left = reverse ? order <= 0 : order >= 0;
        }
        scratch[k] = take_left && i < half ? items[i++] : items[j++];
    }
    memcpy(items, scratch, n * sizeof *items);
    return true;
}

static struct tmpl_value *sorted(struct interp *in, struct tmpl_value **items, size_t n,
                                 const struct tmpl_value *attribute, bool case_sensitive,
                                 bool reverse)
{
    struct sort_item *pairs = tmpl_alloc(in->a, (n + 1) * sizeof *pairs);
    struct sort_item *scratch = tmpl_alloc(in->a, (n + 1) * sizeof *scratch);
    struct tmpl_value *r = tmpl_list(in->a);
    if (!pairs || !scratch || !r) {
        return interp_spent(in);
    }
    for (size_t i = 0; i < n; i++) {
        pairs[i] = (struct sort_item){.key = sort_key(in, items[i], attribute, case_sensitive),
                                      .item = items[i]};
        if (!pairs[i].key) {
            return NULL;
        }
    }
    if (!merge_sort(in, pairs, scratch, n, reverse)) {
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        if (!add(in, r, pairs[i].item)) {
            return NULL;
        }
    }
    return r;
}

static struct tmpl_value *f_sort(struct interp *in, struct tmpl_value *v,
                                 const struct call_args *args)
{
    size_t n = 0;
    const struct tmpl_value *reverse = interp_arg(args, 0, "reverse");
    const struct tmpl_value *sensitive = interp_arg(args, 1, "case_sensitive");
    const struct tmpl_value *attribute = interp_arg(args, 2, "attribute");
    struct tmpl_value **items = interp_items(in, v, &n);
    bool down = reverse && interp_truth(reverse);
    bool exact = sensitive && interp_truth(sensitive);
    struct tmpl_value *r = NULL;
    /* By "a,b": by b, then by a, which keeps b's order among equals. */
    while (items && attribute && attribute->kind == TMPL_STRING) {
        const char *comma = memrchr(attribute->u.str.s, ',', attribute->u.str.n);
        const char *last = comma ? comma + 1 : attribute->u.str.s;
        size_t n_before = comma ? (size_t)(comma - attribute->u.str.s) : 0;
        struct tmpl_value *by =
            interp_string(in, last, attribute->u.str.n - (size_t)(last - attribute->u.str.s));
        r = by ? sorted(in, items, n, by, exact, down) : NULL;
        if (!r || !comma) {
            return r;
        }
        items = r->u.list.items;
        attribute = interp_string(in, attribute->u.str.s, n_before);
        if (!attribute) {
            return NULL;
        }
    }
    return items ? sorted(in, items, n, attribute, exact, down) : NULL;
}

static struct tmpl_value *f_dictsort(struct interp *in, struct tmpl_value *v,
                                     const struct call_args *args)
{
    size_t n = 0;
    const struct tmpl_value *sensitive = interp_arg(args, 0, "case_sensitive");
    const struct tmpl_value *by = interp_arg(args, 1, "by");
    const struct tmpl_value *reverse = interp_arg(args, 2, "reverse");
    struct tmpl_value *pairs = f_items(in, v, args);
    struct tmpl_value **items = pairs ? interp_items(in, pairs, &n) : NULL;
    bool by_value = by && by->kind == TMPL_STRING && strcmp(by->u.str.s, "value") == 0;
    struct tmpl_value *attribute = items ? tmpl_int(in->a, by_value) : NULL;
    return items ? sorted(in, items, n, attribute, sensitive && interp_truth(sensitive),
                          reverse && interp_truth(reverse))
                 : NULL;
}

static struct tmpl_value *f_unique(struct interp *in, struct tmpl_value *v,
                                   const struct call_args *args)
{
    size_t n = 0;
    const struct tmpl_value *sensitive = interp_arg(args, 0, "case_sensitive");
    const struct tmpl_value *attribute = interp_arg(args, 1, "attribute");
    struct tmpl_value **items = interp_items(in, v, &n);
    struct tmpl_value *r = tmpl_sequence(in->a, TMPL_SEQ_ITERATOR);
    struct tmpl_value *seen = tmpl_map(in->a);
    for (size_t i = 0; items && r && seen && i < n; i++) {
        struct tmpl_value *key =
            sort_key(in, items[i], attribute, sensitive && interp_truth(sensitive));
        if (!key || !interp_can_hash(in, key)) {
            return NULL;
        }
        if (!tmpl_map_find(seen, key) &&
            (!tmpl_map_put(in->a, seen, key, key) || !add(in, r, items[i]))) {
            return interp_spent(in);
        }
    }
    return items ? made(in, r) : NULL;
}

static struct tmpl_value *extreme(struct interp *in, struct tmpl_value *v,
                                  const struct call_args *args, int sign)
{
    size_t n = 0;
    const struct tmpl_value *sensitive = interp_arg(args, 0, "case_sensitive");
    const struct tmpl_value *attribute = interp_arg(args, 1, "attribute");
    struct tmpl_value **items = interp_items(in, v, &n);
    struct tmpl_value *best = NULL;
    struct tmpl_value *best_key = NULL;
    for (size_t i = 0; items && i < n; i++) {
        int order = 0;
        struct tmpl_value *key =
            sort_key(in, items[i], attribute, sensitive && interp_truth(sensitive));
        if (!key || (best && !interp_order(in, key, best_key, &order))) {
            return NULL;
        }
        if (!best || order * sign > 0) {
            best = items[i];
            best_key = key;
        }
    }
    if (!items) {
        return NULL;
    }
    return best ? best : made(in, tmpl_undefined(in->a, "No aggregated item, sequence was empty."));
}

static struct tmpl_value *f_min(struct interp *in, struct tmpl_value *v,
                                const struct call_args *args)
{
    return extreme(in, v, args, -1);
}

static struct tmpl_value *f_max(struct interp *in, struct tmpl_value *v,
                                const struct call_args *args)
{
    return extreme(in, v, args, 1);
}

static struct tmpl_value *f_sum(struct interp *in, struct tmpl_value *v,
                                const struct call_args *args)
{
    size_t n = 0;
    const struct tmpl_value *attribute = interp_arg(args, 0, "attribute");
    struct tmpl_value *total = interp_arg(args, 1, "start");
    struct tmpl_value **items = interp_items(in, v, &n);
    total = total ? total : tmpl_int(in->a, 0);
    for (size_t i = 0; items && total && i < n; i++) {
        struct tmpl_value *item = attribute ? dig(in, items[i], attribute, NULL) : items[i];
        total = item ? interp_binary(in, "+", total, item) : NULL;
    }
    return items ? total : NULL;
}

/* map, select and their kin take anything false, none included, as empty. */
static struct tmpl_value **items_if_true(struct interp *in, struct tmpl_value *v, size_t *ret_n)
{
    struct tmpl_value nothing = {.kind = TMPL_UNDEFINED};
    return interp_items(in, interp_truth(v) ? v : &nothing, ret_n);
}

static struct tmpl_value *f_map(struct interp *in, struct tmpl_value *v,
                                const struct call_args *args)
{
    size_t n = 0;
    struct tmpl_value **items = items_if_true(in, v, &n);
    const struct tmpl_value *attribute = args->n_pos ? NULL : interp_arg(args, 1, "attribute");
    struct tmpl_value *r = tmpl_sequence(in->a, TMPL_SEQ_ITERATOR);
    if (items && !attribute && (!args->n_pos || args->pos[0]->kind != TMPL_STRING)) {
        return interp_fail(in, "map requires a filter argument");
    }
    for (size_t i = 0; items && i < n; i++) {
        struct tmpl_value *item = NULL;
        if (attribute) {
            item = dig(in, items[i], attribute, interp_arg(args, 2, "default"));
        } else {
            struct call_args rest = {
                .pos = args->pos + 1, .n_pos = args->n_pos - 1, .kw = args->kw};
            item = interp_filter(in, args->pos[0]->u.str.s, items[i], &rest);
        }
        if (!item || !add(in, r, item)) {
            return NULL;
        }
    }
    return items ? made(in, r) : NULL;
}

/* select, reject, selectattr, rejectattr. */
static struct tmpl_value *chosen(struct interp *in, struct tmpl_value *v,
                                 const struct call_args *args, bool by_attribute, bool wanted)
{
    size_t n = 0;
    struct tmpl_value **items = items_if_true(in, v, &n);
    struct tmpl_value *r = tmpl_sequence(in->a, TMPL_SEQ_ITERATOR);
    size_t skip = by_attribute ? 1 : 0;
    if (items && by_attribute && !args->n_pos) {
        return interp_fail(in, "missing parameter for attribute name");
    }
    for (size_t i = 0; items && i < n; i++) {
        struct tmpl_value *subject =
            by_attribute ? dig(in, items[i], args->pos[0], NULL) : items[i];
        int passed = subject ? interp_truth(subject) : -1;
        if (subject && args->n_pos > skip) {
            struct call_args rest = {
                .pos = args->pos + skip + 1, .n_pos = args->n_pos - skip - 1, .kw = args->kw};
            const struct tmpl_value *name = args->pos[skip];
            passed =
                name->kind == TMPL_STRING ? interp_test(in, name->u.str.s, subject, &rest) : -1;
            if (name->kind != TMPL_STRING) {
                return interp_fail(in, "the test's name must be a string");
            }
        }
        if (passed < 0 || ((passed > 0) == wanted && !add(in, r, items[i]))) {
            return NULL;
        }
    }
    return items ? made(in, r) : NULL;
}

static struct tmpl_value *f_select(struct interp *in, struct tmpl_value *v,
                                   const struct call_args *args)
{
    return chosen(in, v, args, false, true);
}

static struct tmpl_value *f_reject(struct interp *in, struct tmpl_value *v,
                                   const struct call_args *args)
{
    return chosen(in, v, args, false, false);
}

static struct tmpl_value *f_selectattr(struct interp *in, struct tmpl_value *v,
                                       const struct call_args *args)
{
    return chosen(in, v, args, true, true);
}

static struct tmpl_value *f_rejectattr(struct interp *in, struct tmpl_value *v,
                                       const struct call_args *args)
{
    return chosen(in, v, args, true, false);
}

static struct tmpl_value *f_attr(struct interp *in, struct tmpl_value *v,
                                 const struct call_args *args)
{
    const struct tmpl_value *name = interp_arg(args, 0, "name");
    if (!name || name->kind != TMPL_STRING) {
        return interp_fail(in, "attr needs a name");
    }
    if (v->kind == TMPL_MAP && !interp_has_method(v, name->u.str.s, name->u.str.n)) {
        return made(in, tmpl_undefined(in->a, name->u.str.s)); /* attributes only, never keys */
    }
    return interp_attr(in, v, name->u.str.s, name->u.str.n);
}

static struct tmpl_value *f_batch(struct interp *in, struct tmpl_value *v,
                                  const struct call_args *args)
{
    size_t n = 0;
    int64_t size = 0;
    struct tmpl_value *fill = interp_arg(args, 1, "fill_with");
    struct tmpl_value **items = interp_items(in, v, &n);
    struct tmpl_value *r = tmpl_sequence(in->a, TMPL_SEQ_ITERATOR);
    if (!items || !interp_arg_int(in, args, 0, "linecount", 0, &size) || size < 1) {
        return items && size < 1 ? interp_fail(in, "batch needs a size of at least 1") : NULL;
    }
    for (size_t i = 0; r && i < n; i += (size_t)size) {
        struct tmpl_value *row = tmpl_list(in->a);
        for (size_t k = i; k < i + (size_t)size && (k < n || fill); k++) {
            if (!add(in, row, k < n ? items[k] : fill)) {
                return NULL;
            }
        }
        if (!add(in, r, row)) {
            return NULL;
        }
    }
    return made(in, r);
}

/* slice(n): n columns, the first ones longer by one where it does not divide. */
static struct tmpl_value *f_slice(struct interp *in, struct tmpl_value *v,
                                  const struct call_args *args)
{
    size_t n = 0;
    int64_t slices = 0;
    struct tmpl_value *fill = interp_arg(args, 1, "fill_with");
    struct tmpl_value **items = interp_items(in, v, &n);
    struct tmpl_value *r = tmpl_sequence(in->a, TMPL_SEQ_ITERATOR);
    if (!items || !interp_arg_int(in, args, 0, "slices", 0, &slices) || slices < 1 ||
        slices > 100000) {
        return items ? interp_fail(in, "slice needs between 1 and 100000 slices") : NULL;
    }
    size_t at = 0;
    for (int64_t s = 0; r && s < slices; s++) {
        size_t per = n / (size_t)slices + ((size_t)s < n % (size_t)slices);
        struct tmpl_value *column = tmpl_list(in->a);
        for (size_t k = 0; k < per; k++) {
            if (!add(in, column, items[at++])) {
                return NULL;
            }
        }
        /* Also where all are full: as Jinja2 has it. */
        bool pads = fill && fill->kind != TMPL_NONE && (size_t)s >= n % (size_t)slices;
        if ((pads && !add(in, column, fill)) || !add(in, r, column)) {
            return NULL;
        }
    }
    return made(in, r);
}

static struct tmpl_value *f_groupby(struct interp *in, struct tmpl_value *v,
                                    const struct call_args *args)
{
    size_t n = 0;
    const struct tmpl_value *attribute = interp_arg(args, 0, "attribute");
    const struct tmpl_value *sensitive = interp_arg(args, 2, "case_sensitive");
    bool exact = sensitive && interp_truth(sensitive);
    struct tmpl_value **items = attribute ? interp_items(in, v, &n) : NULL;
    struct tmpl_value *ordered = items ? sorted(in, items, n, attribute, exact, false) : NULL;
    struct tmpl_value *r = tmpl_list(in->a);
    struct tmpl_value *group = NULL;
    struct tmpl_value *last = NULL;
    if (!attribute) {
        return interp_fail(in, "groupby needs an attribute");
    }
    for (size_t i = 0; ordered && i < n; i++) {
        struct tmpl_value *item = ordered->u.list.items[i];
        struct tmpl_value *key = sort_key(in, item, attribute, exact);
        if (!key) {
            return NULL;
        }
        if (!last || !tmpl_equal(last, key)) {
            struct tmpl_value *pair = tmpl_sequence(in->a, TMPL_SEQ_TUPLE);
            group = tmpl_list(in->a);
            if (!add(in, pair, dig(in, item, attribute, NULL)) || !add(in, pair, group) ||
                !add(in, r, pair)) {
                return NULL;
            }
            last = key;
        }
        if (!add(in, group, item)) {
            return NULL;
        }
    }
    return ordered ? made(in, r) : NULL;
}

static const struct filter filters[] = {
    {"attr", f_attr},
    {"batch", f_batch},
    {"count", f_length},
    {"dictsort", f_dictsort},
    {"first", f_first},
    {"groupby", f_groupby},
    {"items", f_items},
    {"join", f_join},
    {"last", f_last},
    {"length", f_length},
    {"list", f_list},
    {"map", f_map},
    {"max", f_max},
    {"min", f_min},
    {"reject", f_reject},
    {"rejectattr", f_rejectattr},
    {"reverse", f_reverse},
    {"select", f_select},
    {"selectattr", f_selectattr},
    {"slice", f_slice},
    {"sort", f_sort},
    {"sum", f_sum},
    {"unique", f_unique},
};

const struct filter *interp_sequence_filter(const char *name)
{
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++) {
        if (strcmp(filters[i].name, name) == 0) {
            return &filters[i];
        }
    }
    return NULL;
}
