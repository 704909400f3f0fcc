/* Functions every template can call. Nothing here reaches outside the template's inputs. */
#include "engine/template/interp.h"

#include <string.h>

static struct tmpl_value *made(struct interp *in, struct tmpl_value *v)
{
    return v ? v : interp_spent(in);
}

static struct tmpl_value *g_raise_exception(struct interp *in, const struct call_args *args)
{
    struct tmpl_value *text = args->n_pos ? interp_str(in, args->pos[0]) : NULL;
    if (text) {
        (void)err_set(in->e, ERR_INVALID, "%s", text->u.str.s);
        return NULL;
    }
    return interp_fail(in, "raise_exception() needs a message");
}

static struct tmpl_value *g_range(struct interp *in, const struct call_args *args)
{
    int64_t part[3] = {0, 0, 1};
    struct tmpl_value *r = tmpl_list(in->a);
    if (!r || !interp_arity(in, "range", args, 1, 3) || args->kw) {
        return NULL;
    }
    for (size_t i = 0; i < args->n_pos; i++) {
        if (!interp_arg_int(in, args, i, NULL, 0, &part[args->n_pos == 1 ? 1 : i])) {
            return NULL;
        }
    }
    if (!part[2]) {
        return interp_fail(in, "range() arg 3 must not be zero");
    }
    double n = ((double)part[1] - (double)part[0]) / (double)part[2];
    if (n > INTERP_RANGE_MAX) {
        return interp_fail(in, "range too big: more than %d items", INTERP_RANGE_MAX);
    }
    for (int64_t i = part[0], k = 0; (double)k < n; k++, i += part[2]) {
        if (!interp_burn(in, 1)) {
            return NULL;
        }
        if (!tmpl_list_add(in->a, r, tmpl_int(in->a, i))) {
            return interp_spent(in);
        }
        if ((double)(k + 1) >= n) {
            break;
        }
    }
    return r;
}

/* dict(other, **kwargs); also the start of a namespace. */
static struct tmpl_value *g_dict(struct interp *in, const struct call_args *args)
{
    struct tmpl_value *map = tmpl_map(in->a);
    const struct tmpl_value *sources[2] = {args->n_pos ? args->pos[0] : NULL, args->kw};
    if (args->n_pos > 1) {
        return interp_fail(in, "dict expected at most 1 argument");
    }
    for (size_t k = 0; map && k < 2; k++) {
        if (sources[k] && sources[k]->kind == TMPL_LIST) {
            for (size_t i = 0; i < sources[k]->u.list.n; i++) {
                const struct tmpl_value *pair = sources[k]->u.list.items[i];
                if (pair->kind != TMPL_LIST || pair->u.list.n != 2) {
                    return interp_fail(in, "dict() needs pairs");
                }
                if (!tmpl_map_put(in->a, map, pair->u.list.items[0], pair->u.list.items[1])) {
                    return interp_spent(in);
                }
            }
            continue;
        }
        if (sources[k] && sources[k]->kind != TMPL_MAP) {
            return interp_fail(in, "'%s' object is not a mapping", interp_type_name(sources[k]));
        }
        for (size_t i = 0; sources[k] && i < sources[k]->u.map.n; i++) {
            const struct tmpl_entry *entry = &sources[k]->u.map.entries[i];
            if (entry->key && !tmpl_map_put(in->a, map, entry->key, entry->value)) {
                return interp_spent(in);
            }
        }
    }
    return made(in, map);
}

static struct tmpl_value *g_namespace(struct interp *in, const struct call_args *args)
{
    struct tmpl_value *attrs = g_dict(in, args);
    struct tmpl_value *ns = attrs ? tmpl_object(in->a, TMPL_OBJ_NAMESPACE, NULL) : NULL;
    if (ns) {
        ns->u.obj.attrs = attrs;
    }
    return attrs ? made(in, ns) : NULL;
}

/* joiner(sep): called, it gives "" the first time and sep from then on. */
static struct tmpl_value *g_joiner(struct interp *in, const struct call_args *args)
{
    struct tmpl_value *sep = interp_arg(args, 0, "sep");
    struct joiner *j = tmpl_alloc(in->a, sizeof *j);
    sep = sep ? interp_str(in, sep) : interp_string(in, ", ", 2);
    if (!sep || !j) {
        return sep ? interp_spent(in) : NULL;
    }
    j->sep = sep;
    return made(in, tmpl_object(in->a, TMPL_OBJ_JOINER, j));
}

static struct tmpl_value *g_strftime_now(struct interp *in, const struct call_args *args)
{
    char text[256];
    const struct tmpl_value *format = interp_arg(args, 0, "format");
    if (!format || format->kind != TMPL_STRING || format->u.str.n > 64) {
        return interp_fail(in, "strftime_now() needs a format of at most 64 bytes");
    }
    size_t n = strftime_l(text, sizeof text, format->u.str.s, &in->now, in->locale);
    return interp_string(in, text, n);
}

interp_function interp_global(const char *name, size_t n)
{
    static const struct {
        const char *name;
        interp_function f;
    } globals[] = {{"raise_exception", g_raise_exception},
                   {"range", g_range},
                   {"dict", g_dict},
                   {"namespace", g_namespace},
                   {"joiner", g_joiner},
                   {"strftime_now", g_strftime_now}};
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++) {
        if (strlen(globals[i].name) == n && memcmp(globals[i].name, name, n) == 0) {
            return globals[i].f;
        }
    }
    return NULL;
}
