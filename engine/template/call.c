/* Calls: macros, loops, global functions, and how arguments reach them. */
#include "engine/template/interp.h"

#include <string.h>

struct tmpl_value *interp_arg(const struct call_args *args, size_t pos, const char *name)
{
    if (pos < args->n_pos) {
        return args->pos[pos];
    }
    return args->kw && name ? tmpl_map_find_str(args->kw, name, strlen(name)) : NULL;
}

bool interp_arg_int(struct interp *in, const struct call_args *args, size_t pos, const char *name,
                    int64_t fallback, int64_t *ret)
{
    const struct tmpl_value *v = interp_arg(args, pos, name);
    *ret = fallback;
    if (!v || v->kind == TMPL_NONE) {
        return true;
    }
    if (v->kind != TMPL_INT && v->kind != TMPL_BOOL) {
        (void)interp_fail(in, "'%s' object cannot be interpreted as an integer",
                          interp_type_name(v));
        return false;
    }
    *ret = v->kind == TMPL_INT ? v->u.i : v->u.b;
    return true;
}

bool interp_arity(struct interp *in, const char *what, const struct call_args *args, size_t min,
                  size_t max)
{
    size_t n = args->n_pos + (args->kw ? args->kw->u.map.n_live : 0);
    if (n >= min && n <= max) {
        return true;
    }
    (void)interp_fail(in, "%s() takes %zu to %zu arguments (%zu given)", what, min, max, n);
    return false;
}

struct tmpl_value **interp_items(struct interp *in, struct tmpl_value *v, size_t *ret_n)
{
    static struct tmpl_value *nothing[1];
    *ret_n = 0;
    if (v->kind == TMPL_UNDEFINED) {
        return nothing;
    }
    if (v->kind == TMPL_LIST) {
        *ret_n = v->u.list.n;
        struct tmpl_value **items = v->u.list.n ? v->u.list.items : nothing;
        if (v->u.list.type == TMPL_SEQ_ITERATOR) {
            v->u.list.n = 0; /* spent */
        }
        return interp_burn(in, *ret_n / 16) ? items : NULL;
    }
    if (v->kind != TMPL_MAP && v->kind != TMPL_STRING) {
        (void)interp_fail(in, "'%s' object is not iterable", interp_type_name(v));
        return NULL;
    }
    size_t n = v->kind == TMPL_MAP ? v->u.map.n_live : interp_str_len(v);
    struct tmpl_value **items = tmpl_alloc(in->a, (n + 1) * sizeof *items);
    if (!items) {
        (void)interp_spent(in);
        return NULL;
    }
    if (v->kind == TMPL_MAP) {
        for (size_t i = 0; i < v->u.map.n; i++) {
            if (v->u.map.entries[i].key) {
                items[(*ret_n)++] = v->u.map.entries[i].key;
            }
        }
        return items;
    }
    for (size_t at = 0; at < v->u.str.n && *ret_n < n;) {
        size_t len = 1;
        while (at + len < v->u.str.n && ((unsigned char)v->u.str.s[at + len] & 0xc0) == 0x80) {
            len++;
        }
        if (!interp_burn(in, 1) || !(items[*ret_n] = interp_string(in, v->u.str.s + at, len))) {
            return NULL;
        }
        (*ret_n)++;
        at += len;
    }
    return items;
}

struct tmpl_value *interp_list_of(struct interp *in, struct tmpl_value *v)
{
    size_t n = 0;
    struct tmpl_value **items = interp_items(in, v, &n);
    struct tmpl_value *list = items ? tmpl_list(in->a) : NULL;
    if (!items) {
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        if (!tmpl_list_add(in->a, list, items[i])) {
            return interp_spent(in);
        }
    }
    return list ? list : interp_spent(in);
}

/* The extra arguments of a macro that asks for them. */
static bool bind_extras(struct interp *in, const struct node *def, const struct call_args *args,
                        struct tmpl_value *extra_kw)
{
    if (def->uses_varargs) {
        struct tmpl_value *rest = tmpl_sequence(in->a, TMPL_SEQ_TUPLE);
        for (size_t i = def->n_item; rest && i < args->n_pos; i++) {
            if (!tmpl_list_add(in->a, rest, args->pos[i])) {
                return interp_spent(in) != NULL;
            }
        }
        if (!rest || !interp_set_var(in, "varargs", strlen("varargs"), rest)) {
            return false;
        }
    }
    if (def->uses_kwargs && !interp_set_var(in, "kwargs", strlen("kwargs"), extra_kw)) {
        return false;
    }
    if (def->uses_caller) {
        struct tmpl_value *caller = args->caller;
        if (!caller && !(caller = tmpl_undefined(in->a, "caller"))) {
            return interp_spent(in) != NULL;
        }
        return interp_set_var(in, "caller", strlen("caller"), caller);
    }
    return true;
}

/* Keyword arguments that name no parameter; fails where the macro does not take them. */
static struct tmpl_value *extra_kwargs(struct interp *in, const struct node *def,
                                       const struct call_args *args)
{
    struct tmpl_value *extra = tmpl_map(in->a);
    for (size_t i = 0; extra && args->kw && i < args->kw->u.map.n; i++) {
        const struct tmpl_entry *entry = &args->kw->u.map.entries[i];
        bool known = false;
        for (size_t k = 0; k < def->n_item && !known; k++) {
            known = entry->key->u.str.n == def->items[k]->n_name &&
                    memcmp(entry->key->u.str.s, def->items[k]->name, def->items[k]->n_name) == 0;
        }
        if (!known && !def->uses_kwargs) {
            return interp_fail(in, "macro '%.60s' takes no keyword argument '%.60s'", def->name,
                               entry->key->u.str.s);
        }
        if (!known && !tmpl_map_put(in->a, extra, entry->key, entry->value)) {
            return interp_spent(in);
        }
    }
    return extra ? extra : interp_spent(in);
}

static bool bind_params(struct interp *in, const struct node *def, const struct call_args *args)
{
    for (size_t i = 0; i < def->n_item; i++) {
        const struct node *param = def->items[i];
        struct tmpl_value *v = interp_arg(args, i, param->name);
        size_t n_required = def->n_item - def->n_kwarg;
        if (i < args->n_pos && args->kw &&
            tmpl_map_find_str(args->kw, param->name, param->n_name)) {
            (void)interp_fail(in, "macro '%.60s' got two values for argument '%.60s'", def->name,
                              param->name);
            return false;
        }
        if (!v) {
            v = i >= n_required ? interp_eval(in, def->kwargs[i - n_required].value)
                                : tmpl_undefined(in->a, param->name);
        }
        if (!v || !interp_set_var(in, param->name, param->n_name, v)) {
            return false;
        }
    }
    return true;
}

struct tmpl_value *interp_call_macro(struct interp *in, const struct macro *m,
                                     const struct call_args *args)
{
    const struct node *def = m->def;
    struct scope *outer = in->scope;
    if (args->n_pos > def->n_item && !def->uses_varargs) {
        return interp_fail(in, "macro '%.60s' takes not more than %zu argument(s)", def->name,
                           def->n_item);
    }
    if (args->caller && !def->uses_caller) {
        return interp_fail(
            in, "macro '%.60s' was invoked with a call block but does not use caller", def->name);
    }
    struct tmpl_value *extra = extra_kwargs(in, def, args);
    struct scope *own = extra ? interp_push_scope(in, m->scope) : NULL;
    if (!own) {
        return NULL;
    }
    in->scope = own;
    bool ok = bind_params(in, def, args) && bind_extras(in, def, args, extra);
    struct tmpl_value *text = ok ? interp_capture(in, &def->body) : NULL;
    in->scope = outer;
    return text;
}

static struct tmpl_value *call_loop(struct interp *in, struct loop *loop,
                                    const struct call_args *args)
{
    if (!loop->recursive) {
        return interp_fail(in,
                           "the loop must have the 'recursive' marker to be called recursively");
    }
    if (!interp_arity(in, "loop", args, 1, 1)) {
        return NULL;
    }
    struct scope *outer = in->scope;
    in->scope = loop->scope;
    struct tmpl_value *v = interp_run_loop(in, loop->recursive, args->pos[0], loop->depth0 + 1);
    in->scope = outer;
    return v;
}

static struct tmpl_value *call_joiner(struct interp *in, struct joiner *j)
{
    bool first = !j->used;
    j->used = true;
    return first ? interp_string(in, "", 0) : j->sep;
}

struct tmpl_value *interp_call(struct interp *in, struct tmpl_value *callee,
                               const struct call_args *args)
{
    struct tmpl_value *v = NULL;
    if (callee->kind == TMPL_UNDEFINED) {
        return interp_fail(in, "'%.80s' is undefined",
                           callee->u.undef.hint ? callee->u.undef.hint : "value");
    }
    if (callee->kind != TMPL_OBJECT) {
        return interp_fail(in, "'%s' object is not callable", interp_type_name(callee));
    }
    if (++in->depth > INTERP_DEPTH_MAX) {
        return interp_fail(in, "calls are nested beyond %d levels", INTERP_DEPTH_MAX);
    }
    switch (callee->u.obj.type) {
    case TMPL_OBJ_MACRO: v = interp_call_macro(in, callee->u.obj.ptr, args); break;
    case TMPL_OBJ_METHOD: v = interp_call_method(in, callee->u.obj.ptr, args); break;
    case TMPL_OBJ_FUNCTION: v = (*(interp_function *)callee->u.obj.ptr)(in, args); break;
    case TMPL_OBJ_LOOP: v = call_loop(in, callee->u.obj.ptr, args); break;
    case TMPL_OBJ_JOINER: v = call_joiner(in, callee->u.obj.ptr); break;
    case TMPL_OBJ_NAMESPACE: v = interp_fail(in, "'Namespace' object is not callable"); break;
    }
    in->depth--;
    return v;
}
