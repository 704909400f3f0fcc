/* Tests: `x is name(args)`. */
#include "engine/template/interp.h"

#include <math.h>
#include <string.h>

static bool is_name(const char *name, const char *a)
{
    return strcmp(name, a) == 0;
}

static int64_t int_of(const struct tmpl_value *v)
{
    return v->kind == TMPL_INT ? v->u.i : v->u.b;
}

static bool can_iterate(const struct tmpl_value *v)
{
    return v->kind == TMPL_STRING || v->kind == TMPL_LIST || v->kind == TMPL_MAP ||
           v->kind == TMPL_UNDEFINED;
}

static bool is_sequence(const struct tmpl_value *v)
{
    return v->kind == TMPL_STRING || v->kind == TMPL_MAP || v->kind == TMPL_UNDEFINED ||
           (v->kind == TMPL_LIST &&
            (v->u.list.type == TMPL_SEQ_LIST || v->u.list.type == TMPL_SEQ_TUPLE));
}

static int arithmetic_test(struct interp *in, const char *name, const struct tmpl_value *v,
                           const struct tmpl_value *arg)
{
    bool is_int = v->kind == TMPL_INT || v->kind == TMPL_BOOL;
    if (tmpl_is_number(v) && (!arg || tmpl_is_number(arg)) &&
        (!is_int || (arg && arg->kind == TMPL_FLOAT))) {
        double divisor = is_name(name, "divisibleby") ? (arg ? tmpl_as_double(arg) : 0) : 2;
        if (divisor == 0) {
            (void)interp_fail(in, "float modulo");
            return -1;
        }
        double rest = fmod(tmpl_as_double(v), divisor);
        return is_name(name, "odd") ? fabs(rest) == 1 : rest == 0;
    }
    int64_t by = arg && (arg->kind == TMPL_INT || arg->kind == TMPL_BOOL) ? int_of(arg) : 0;
    if (!is_int || (is_name(name, "divisibleby") && !by)) {
        (void)interp_fail(in, "the test '%s' needs integers", name);
        return -1;
    }
    if (is_name(name, "divisibleby")) {
        return by == -1 || int_of(v) % by == 0;
    }
    return (int_of(v) % 2 != 0) == is_name(name, "odd");
}

static int case_test(struct interp *in, const char *name, struct tmpl_value *v)
{
    static const struct call_args none;
    struct tmpl_value *s = interp_str(in, v);
    struct tmpl_value *r =
        s ? interp_str_method(in, s, is_name(name, "upper") ? "isupper" : "islower", &none) : NULL;
    return r ? r->u.b : -1;
}

/* Tests of what kind of value it is; -1 when name is none of them. */
static int kind_test(const char *name, const struct tmpl_value *v)
{
    const struct {
        const char *name;
        bool holds;
    } kinds[] = {
        {"defined", v->kind != TMPL_UNDEFINED},
        {"undefined", v->kind == TMPL_UNDEFINED},
        {"none", v->kind == TMPL_NONE},
        {"boolean", v->kind == TMPL_BOOL},
        {"true", v->kind == TMPL_BOOL && v->u.b},
        {"false", v->kind == TMPL_BOOL && !v->u.b},
        {"integer", v->kind == TMPL_INT},
        {"float", v->kind == TMPL_FLOAT},
        {"number", tmpl_is_number(v)},
        {"string", v->kind == TMPL_STRING},
        {"mapping", v->kind == TMPL_MAP},
        {"iterable", can_iterate(v)},
        {"sequence", is_sequence(v)},
        {"callable", v->kind == TMPL_UNDEFINED ||
                         (v->kind == TMPL_OBJECT && v->u.obj.type != TMPL_OBJ_NAMESPACE)},
        {"escaped", v->kind == TMPL_STRING && v->u.str.markup},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (is_name(name, kinds[i].name)) {
            return kinds[i].holds;
        }
    }
    return -1;
}

/* The comparison operator behind a test's name, or NULL. */
static const char *operator_of(const char *name)
{
    static const char *const names[][2] = {
        {"eq", "=="},         {"equalto", "=="}, {"==", "=="},      {"ne", "!="},
        {"!=", "!="},         {"lt", "<"},       {"lessthan", "<"}, {"<", "<"},
        {"le", "<="},         {"<=", "<="},      {"gt", ">"},       {">", ">"},
        {"greaterthan", ">"}, {"ge", ">="},      {">=", ">="},      {"in", "in"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (is_name(name, names[i][0])) {
            return names[i][1];
        }
    }
    return NULL;
}

bool interp_has_test(const char *name)
{
    static const char *const others[] = {"odd",   "even",   "divisibleby", "upper",
                                         "lower", "sameas", "filter",      "test"};
    const struct tmpl_value none = {.kind = TMPL_NONE};
    bool found = kind_test(name, &none) >= 0 || operator_of(name);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        found |= is_name(name, others[i]);
    }
    return found;
}

int interp_test(struct interp *in, const char *name, struct tmpl_value *v,
                const struct call_args *args)
{
    struct tmpl_value *arg = interp_arg(args, 0, NULL);
    int of_kind = kind_test(name, v);
    const char *op = operator_of(name);
    if (of_kind >= 0) {
        return of_kind;
    }
    if (op) {
        if (!arg) {
            (void)interp_fail(in, "the test '%s' needs an argument", name);
            return -1;
        }
        return interp_compare(in, op, v, arg);
    }
    if (is_name(name, "odd") || is_name(name, "even") || is_name(name, "divisibleby")) {
        return arithmetic_test(in, name, v, arg);
    }
    if (is_name(name, "upper") || is_name(name, "lower")) {
        return case_test(in, name, v);
    }
    if (is_name(name, "filter") || is_name(name, "test")) {
        if (v->kind != TMPL_STRING) {
            return interp_can_hash(in, v) ? 0 : -1;
        }
        return name[0] == 'f' ? interp_has_filter(v->u.str.s) : interp_has_test(v->u.str.s);
    }
    if (is_name(name, "sameas")) {
        return arg && (arg == v || (arg->kind == v->kind &&
                                    (v->kind == TMPL_NONE || v->kind == TMPL_BOOL ||
                                     v->kind == TMPL_INT || v->kind == TMPL_STRING) &&
                                    tmpl_equal(arg, v)));
    }
    (void)interp_fail(in, "no test named '%.60s'", name);
    return -1;
}
