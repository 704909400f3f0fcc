/* Attributes, subscripts, slices, and the methods of dicts, lists and loops. */
#include "engine/template/interp.h"

#include <string.h>

static bool named(const char *name, size_t n, const char *what)
{
    return n == strlen(what) && memcmp(name, what, n) == 0;
}

static const char *const str_methods[] = {
    "capitalize",   "casefold",     "center",  "count",     "endswith",   "expandtabs",
    "find",         "format",       "index",   "isalnum",   "isalpha",    "isascii",
    "isdecimal",    "isdigit",      "islower", "isnumeric", "isspace",    "istitle",
    "isupper",      "join",         "ljust",   "lower",     "lstrip",     "partition",
    "removeprefix", "removesuffix", "replace", "rfind",     "rindex",     "rjust",
    "rpartition",   "rsplit",       "rstrip",  "split",     "splitlines", "startswith",
    "strip",        "swapcase",     "title",   "upper",     "zfill",      NULL};
static const char *const map_methods[] = {"get", "items",   "keys",       "values", "copy", "clear",
                                          "pop", "popitem", "setdefault", "update", NULL};
static const char *const list_methods[] = {"index",  "count",   "copy",   "append",
                                           "clear",  "extend",  "insert", "pop",
                                           "remove", "reverse", "sort",   NULL};
static const char *const tuple_methods[] = {"index", "count", NULL};
static const char *const loop_methods[] = {"cycle", "changed", NULL};

/* The static name of method `name` of v, or NULL. */
static const char *method_name(const struct tmpl_value *v, const char *name, size_t n)
{
    const char *const *table = NULL;
    if (v->kind == TMPL_STRING) {
        table = str_methods;
    } else if (v->kind == TMPL_MAP) {
        table = map_methods;
    } else if (v->kind == TMPL_LIST && v->u.list.type == TMPL_SEQ_LIST) {
        table = list_methods;
    } else if (v->kind == TMPL_LIST && v->u.list.type == TMPL_SEQ_TUPLE) {
        table = tuple_methods;
    } else if (v->kind == TMPL_OBJECT && v->u.obj.type == TMPL_OBJ_LOOP) {
        table = loop_methods;
    }
    for (; table && *table; table++) {
        if (named(name, n, *table)) {
            return *table;
        }
    }
    return NULL;
}

bool interp_has_method(const struct tmpl_value *v, const char *name, size_t n)
{
    return method_name(v, name, n) != NULL;
}

static struct tmpl_value *undefined(struct interp *in, const char *hint)
{
    struct tmpl_value *v = tmpl_undefined(in->a, hint);
    return v ? v : interp_spent(in);
}

static struct tmpl_value *loop_attr(struct interp *in, const struct loop *l, const char *name,
                                    size_t n)
{
    struct tmpl_value *v = NULL;
    if (named(name, n, "index")) {
        v = tmpl_int(in->a, (int64_t)l->idx + 1);
    } else if (named(name, n, "index0")) {
        v = tmpl_int(in->a, (int64_t)l->idx);
    } else if (named(name, n, "revindex")) {
        v = tmpl_int(in->a, (int64_t)(l->n - l->idx));
    } else if (named(name, n, "revindex0")) {
        v = tmpl_int(in->a, (int64_t)(l->n - l->idx) - 1);
    } else if (named(name, n, "first")) {
        v = tmpl_bool(in->a, l->idx == 0);
    } else if (named(name, n, "last")) {
        v = tmpl_bool(in->a, l->idx + 1 == l->n);
    } else if (named(name, n, "length")) {
        v = tmpl_int(in->a, (int64_t)l->n);
    } else if (named(name, n, "depth")) {
        v = tmpl_int(in->a, (int64_t)l->depth0 + 1);
    } else if (named(name, n, "depth0")) {
        v = tmpl_int(in->a, (int64_t)l->depth0);
    } else if (named(name, n, "previtem")) {
        return l->idx ? l->items[l->idx - 1] : undefined(in, "there is no previous item");
    } else if (named(name, n, "nextitem")) {
        return l->idx + 1 < l->n ? l->items[l->idx + 1] : undefined(in, "there is no next item");
    } else {
        return NULL;
    }
    return v ? v : interp_spent(in);
}

static struct tmpl_value *macro_attr(struct interp *in, const struct macro *m, const char *name,
                                     size_t n)
{
    if (named(name, n, "name")) {
        return interp_string(in, m->def->name, m->def->n_name);
    }
    if (!named(name, n, "arguments")) {
        return NULL;
    }
    struct tmpl_value *names = tmpl_sequence(in->a, TMPL_SEQ_TUPLE);
    for (size_t i = 0; names && i < m->def->n_item; i++) {
        struct tmpl_value *v = interp_string(in, m->def->items[i]->name, m->def->items[i]->n_name);
        if (!tmpl_list_add(in->a, names, v)) {
            return interp_spent(in);
        }
    }
    return names ? names : interp_spent(in);
}

/* What v itself has under this name: a method, or an attribute of the engine's objects. NULL
 * without an error when there is nothing. */
static struct tmpl_value *own_attr(struct interp *in, struct tmpl_value *v, const char *name,
                                   size_t n)
{
    const char *method = method_name(v, name, n);
    if (method) {
        struct method *m = tmpl_alloc(in->a, sizeof *m);
        struct tmpl_value *object = m ? tmpl_object(in->a, TMPL_OBJ_METHOD, m) : NULL;
        if (!object) {
            return interp_spent(in);
        }
        *m = (struct method){.self = v, .name = method};
        return object;
    }
    if (v->kind != TMPL_OBJECT) {
        return NULL;
    }
    switch (v->u.obj.type) {
    case TMPL_OBJ_LOOP: return loop_attr(in, v->u.obj.ptr, name, n);
    case TMPL_OBJ_MACRO: return macro_attr(in, v->u.obj.ptr, name, n);
    case TMPL_OBJ_NAMESPACE: return tmpl_map_find_str(v->u.obj.attrs, name, n);
    default: return NULL;
    }
}

struct tmpl_value *interp_attr(struct interp *in, struct tmpl_value *v, const char *name, size_t n)
{
    in->e->code = ERR_OK;
    if (v->kind == TMPL_UNDEFINED) {
        return interp_fail(in, "'%.80s' is undefined", v->u.undef.hint ? v->u.undef.hint : "value");
    }
    struct tmpl_value *found = own_attr(in, v, name, n);
    if (found || in->e->code != ERR_OK) {
        return found;
    }
    found = v->kind == TMPL_MAP ? tmpl_map_find_str(v, name, n) : NULL;
    return found ? found : undefined(in, name);
}

size_t interp_str_len(const struct tmpl_value *s)
{
    size_t n = 0;
    for (size_t i = 0; i < s->u.str.n; i++) {
        n += ((unsigned char)s->u.str.s[i] & 0xc0) != 0x80;
    }
    return n;
}

/* Byte offset of character `idx`, at most the string's length. */
static size_t char_offset(const struct tmpl_value *s, size_t idx)
{
    size_t at = 0;
    for (size_t k = 0; k < idx && at < s->u.str.n; k++) {
        at++;
        while (at < s->u.str.n && ((unsigned char)s->u.str.s[at] & 0xc0) == 0x80) {
            at++;
        }
    }
    return at;
}

struct tmpl_value *interp_item(struct interp *in, struct tmpl_value *v, struct tmpl_value *key)
{
    bool is_int = key->kind == TMPL_INT || key->kind == TMPL_BOOL;
    int64_t i = key->kind == TMPL_INT ? key->u.i : key->kind == TMPL_BOOL && key->u.b;
    if (v->kind == TMPL_UNDEFINED) {
        return interp_fail(in, "'%.80s' is undefined", v->u.undef.hint ? v->u.undef.hint : "value");
    }
    if (v->kind == TMPL_MAP && (key->kind != TMPL_MAP && key->kind != TMPL_LIST)) {
        struct tmpl_value *found = tmpl_map_find(v, key);
        if (found) {
            return found;
        }
    }
    if (is_int && v->kind == TMPL_LIST &&
        (v->u.list.type == TMPL_SEQ_LIST || v->u.list.type == TMPL_SEQ_TUPLE)) {
        int64_t n = (int64_t)v->u.list.n;
        i = i < 0 ? i + n : i;
        return i >= 0 && i < n ? v->u.list.items[i] : undefined(in, "list element");
    }
    if (is_int && v->kind == TMPL_STRING) {
        int64_t n = (int64_t)interp_str_len(v);
        i = i < 0 ? i + n : i;
        if (i < 0 || i >= n || !interp_burn(in, v->u.str.n / 256)) {
            return in->fuel ? undefined(in, "string element") : NULL;
        }
        size_t from = char_offset(v, (size_t)i);
        return interp_string(in, v->u.str.s + from, char_offset(v, (size_t)i + 1) - from);
    }
    if (key->kind == TMPL_STRING) {
        in->e->code = ERR_OK;
        struct tmpl_value *found = own_attr(in, v, key->u.str.s, key->u.str.n);
        if (found || in->e->code != ERR_OK) {
            return found;
        }
        return undefined(in, key->u.str.s);
    }
    return undefined(in, "element");
}

static bool slice_bound(struct interp *in, const struct tmpl_value *part, int64_t fallback,
                        int64_t n, int64_t low, int64_t high, int64_t *ret)
{
    if (!part || part->kind == TMPL_NONE) {
        *ret = fallback;
        return true;
    }
    if (part->kind != TMPL_INT && part->kind != TMPL_BOOL) {
        (void)interp_fail(in, "slice indices must be integers or None");
        return false;
    }
    int64_t i = part->kind == TMPL_INT ? part->u.i : part->u.b;
    if (i < 0) {
        i = i < -n ? low : i + n;
        i = i < low ? low : i;
    }
    *ret = i > high ? high : i;
    return true;
}

struct tmpl_value *interp_slice(struct interp *in, struct tmpl_value *v,
                                struct tmpl_value *const part[3])
{
    bool is_list = v->kind == TMPL_LIST &&
                   (v->u.list.type == TMPL_SEQ_LIST || v->u.list.type == TMPL_SEQ_TUPLE);
    if (v->kind == TMPL_UNDEFINED) {
        return interp_fail(in, "'%.80s' is undefined", v->u.undef.hint ? v->u.undef.hint : "value");
    }
    if (!is_list && v->kind != TMPL_STRING) {
        return interp_fail(in, "a value of type %s has no slices", interp_type_name(v));
    }
    int64_t n = is_list ? (int64_t)v->u.list.n : (int64_t)interp_str_len(v);
    int64_t step = 1;
    int64_t from = 0;
    int64_t to = 0;
    if (part[2] && part[2]->kind != TMPL_NONE) {
        if (part[2]->kind != TMPL_INT || !part[2]->u.i) {
            return interp_fail(in, "slice step must be an integer other than zero");
        }
        step = part[2]->u.i;
    }
    int64_t low = step > 0 ? 0 : -1;
    int64_t high = step > 0 ? n : n - 1;
    if (!slice_bound(in, part[0], step > 0 ? 0 : n - 1, n, low, high, &from) ||
        !slice_bound(in, part[1], step > 0 ? n : -1, n, low, high, &to)) {
        return NULL;
    }
    if (!is_list && step == 1) {
        size_t begin = char_offset(v, (size_t)from);
        size_t end = to > from ? char_offset(v, (size_t)to) : begin;
        return interp_burn(in, v->u.str.n / 256)
                   ? interp_string(in, v->u.str.s + begin, end - begin)
                   : NULL;
    }
    size_t n_item = 0;
    struct tmpl_value **items = is_list ? v->u.list.items : interp_items(in, v, &n_item);
    struct tmpl_value *r = tmpl_sequence(in->a, is_list ? v->u.list.type : TMPL_SEQ_LIST);
    struct buf text = {0};
    for (int64_t i = from; items && (step > 0 ? i < to : i > to); i += step) {
        if (is_list ? !tmpl_list_add(in->a, r, items[i]) : !interp_text(in, &text, items[i])) {
            buf_free(&text);
            return interp_spent(in);
        }
        if (step > 0 ? step >= to - i : step <= to - i) {
            break; /* the next step would pass `to`, or overflow */
        }
    }
    if (!is_list) {
        return items ? interp_buf_value(in, &text) : NULL;
    }
    return r ? r : interp_spent(in);
}

static struct tmpl_value *map_view(struct interp *in, const struct tmpl_value *map,
                                   const char *which)
{
    struct tmpl_value *view = tmpl_sequence(in->a, TMPL_SEQ_VIEW);
    for (size_t i = 0; view && i < map->u.map.n; i++) {
        const struct tmpl_entry *entry = &map->u.map.entries[i];
        struct tmpl_value *item = which[0] == 'k' ? entry->key : entry->value;
        if (!entry->key) {
            continue;
        }
        if (which[0] == 'i') {
            item = tmpl_sequence(in->a, TMPL_SEQ_TUPLE);
            if (!tmpl_list_add(in->a, item, entry->key) ||
                !tmpl_list_add(in->a, item, entry->value)) {
                return interp_spent(in);
            }
        }
        if (!interp_burn(in, 1)) {
            return NULL;
        }
        if (!tmpl_list_add(in->a, view, item)) {
            return interp_spent(in);
        }
    }
    return view ? view : interp_spent(in);
}

static struct tmpl_value *map_method(struct interp *in, struct tmpl_value *self, const char *name,
                                     const struct call_args *args)
{
    if (strcmp(name, "get") == 0) {
        if (!interp_arity(in, "get", args, 1, 2)) {
            return NULL;
        }
        struct tmpl_value *found = args->n_pos ? tmpl_map_find(self, args->pos[0]) : NULL;
        struct tmpl_value *fallback = found ? found : interp_arg(args, 1, "default");
        if (!fallback) {
            fallback = tmpl_none(in->a);
        }
        return fallback ? fallback : interp_spent(in);
    }
    if (strcmp(name, "items") == 0 || strcmp(name, "keys") == 0 || strcmp(name, "values") == 0) {
        return interp_arity(in, name, args, 0, 0) ? map_view(in, self, name) : NULL;
    }
    if (strcmp(name, "copy") == 0) {
        return self; /* values never change, so a copy is the same */
    }
    return interp_fail(in, "access to attribute '%s' of 'dict' object is unsafe", name);
}

static struct tmpl_value *list_method(struct interp *in, struct tmpl_value *self, const char *name,
                                      const struct call_args *args)
{
    if (strcmp(name, "copy") == 0) {
        return self;
    }
    if (strcmp(name, "index") != 0 && strcmp(name, "count") != 0) {
        return interp_fail(in, "access to attribute '%s' of 'list' object is unsafe", name);
    }
    if (!interp_arity(in, name, args, 1, 1) || !args->n_pos) {
        return NULL;
    }
    int64_t n = 0;
    for (size_t i = 0; i < self->u.list.n; i++) {
        if (tmpl_equal(self->u.list.items[i], args->pos[0])) {
            if (name[0] == 'i') {
                n = (int64_t)i;
                struct tmpl_value *v = tmpl_int(in->a, n);
                return v ? v : interp_spent(in);
            }
            n++;
        }
    }
    if (name[0] == 'i') {
        return interp_fail(in, "the value is not in the list");
    }
    struct tmpl_value *v = tmpl_int(in->a, n);
    return v ? v : interp_spent(in);
}

static struct tmpl_value *loop_method(struct interp *in, struct loop *l, const char *name,
                                      const struct call_args *args)
{
    if (strcmp(name, "cycle") == 0) {
        return args->n_pos ? args->pos[l->idx % args->n_pos]
                           : interp_fail(in, "no items for cycling given");
    }
    struct tmpl_value *now = tmpl_sequence(in->a, TMPL_SEQ_TUPLE);
    for (size_t i = 0; now && i < args->n_pos; i++) {
        if (!tmpl_list_add(in->a, now, args->pos[i])) {
            return interp_spent(in);
        }
    }
    struct tmpl_value *v =
        now ? tmpl_bool(in->a, !l->changed || !tmpl_equal(l->changed, now)) : NULL;
    l->changed = now;
    return v ? v : interp_spent(in);
}

struct tmpl_value *interp_call_method(struct interp *in, const struct method *m,
                                      const struct call_args *args)
{
    switch (m->self->kind) {
    case TMPL_STRING: return interp_str_method(in, m->self, m->name, args);
    case TMPL_MAP: return map_method(in, m->self, m->name, args);
    case TMPL_LIST: return list_method(in, m->self, m->name, args);
    default: return loop_method(in, m->self->u.obj.ptr, m->name, args);
    }
}
