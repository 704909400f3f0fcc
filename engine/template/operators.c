/* Python's operators on template values. */
#include "engine/template/interp.h"

#include <math.h>
#include <string.h>

static struct tmpl_value *bad_operands(struct interp *in, const char *op,
                                       const struct tmpl_value *a, const struct tmpl_value *b)
{
    if (a->kind == TMPL_UNDEFINED || b->kind == TMPL_UNDEFINED) {
        const char *hint = a->kind == TMPL_UNDEFINED ? a->u.undef.hint : b->u.undef.hint;
        return interp_fail(in, "'%.80s' is undefined", hint ? hint : "value");
    }
    return interp_fail(in, "unsupported operand types for %s: '%s' and '%s'", op,
                       interp_type_name(a), interp_type_name(b));
}

static struct tmpl_value *int_value(struct interp *in, bool ok, int64_t i)
{
    if (!ok) {
        return interp_fail(in, "an integer is out of range");
    }
    struct tmpl_value *v = tmpl_int(in->a, i);
    return v ? v : interp_spent(in);
}

static struct tmpl_value *float_value(struct interp *in, double f)
{
    struct tmpl_value *v = tmpl_float(in->a, f);
    return v ? v : interp_spent(in);
}

static int64_t as_int(const struct tmpl_value *v)
{
    return v->kind == TMPL_INT ? v->u.i : v->u.b;
}

/* base ** exp for exp >= 0, false on overflow. */
static bool int_power(int64_t base, int64_t exp, int64_t *ret)
{
    int64_t r = 1;
    if ((base == 0 || base == 1 || base == -1) && exp > 64) {
        exp = 64 + exp % 2;
    }
    for (int64_t i = 0; i < exp; i++) {
        if (__builtin_mul_overflow(r, base, &r)) {
            return false;
        }
    }
    *ret = r;
    return true;
}

static struct tmpl_value *int_arithmetic(struct interp *in, const char *op, int64_t a, int64_t b)
{
    int64_t r = 0;
    bool ok = true;
    switch (op[0]) {
    case '+': ok = !__builtin_add_overflow(a, b, &r); return int_value(in, ok, r);
    case '-': ok = !__builtin_sub_overflow(a, b, &r); return int_value(in, ok, r);
    case '*':
        if (op[1] != '*') {
            ok = !__builtin_mul_overflow(a, b, &r);
            return int_value(in, ok, r);
        }
        if (b < 0) {
            return a ? float_value(in, pow((double)a, (double)b))
                     : interp_fail(in, "0 cannot be raised to a negative power");
        }
        ok = int_power(a, b, &r);
        return int_value(in, ok, r);
    default: break;
    }
    if (!b) {
        return interp_fail(in, "division by zero");
    }
    if (op[0] == '/' && op[1] != '/') {
        return float_value(in, (double)a / (double)b);
    }
    if (a == INT64_MIN && b == -1) {
        return op[0] == '%' ? int_value(in, true, 0) : int_value(in, false, 0);
    }
    int64_t quotient = a / b;
    int64_t rest = a % b;
    if (rest && (rest < 0) != (b < 0)) {
        rest += b;
        quotient--;
    }
    return int_value(in, true, op[0] == '%' ? rest : quotient);
}

static struct tmpl_value *float_arithmetic(struct interp *in, const char *op, double a, double b)
{
    switch (op[0]) {
    case '+': return float_value(in, a + b);
    case '-': return float_value(in, a - b);
    case '*': return float_value(in, op[1] == '*' ? pow(a, b) : a * b);
    default: break;
    }
    if (b == 0) {
        return interp_fail(in, "division by zero");
    }
    if (op[0] == '/' && op[1] != '/') {
        return float_value(in, a / b);
    }
    double rest = fmod(a, b);
    if (rest != 0 && (rest < 0) != (b < 0)) {
        rest += b;
    }
    if (op[0] == '%') {
        return float_value(in, rest == 0 ? copysign(0, b) : rest);
    }
    double whole = floor((a - rest) / b + 0.5);
    return float_value(in, whole == 0 ? copysign(0, a / b) : whole);
}

/* a + b of strings; where one is markup the other is escaped. */
static struct tmpl_value *join_strings(struct interp *in, const struct tmpl_value *a,
                                       const struct tmpl_value *b)
{
    struct buf text = {0};
    bool markup = a->u.str.markup || b->u.str.markup;
    const struct tmpl_value *const parts[2] = {a, b};
    for (size_t i = 0; i < 2; i++) {
        if (markup && !parts[i]->u.str.markup) {
            interp_escape(&text, parts[i]->u.str.s, parts[i]->u.str.n);
        } else {
            buf_append(&text, parts[i]->u.str.s, parts[i]->u.str.n);
        }
    }
    struct tmpl_value *v = interp_buf_value(in, &text);
    if (v) {
        v->u.str.markup = markup;
    }
    return v;
}

static struct tmpl_value *join_lists(struct interp *in, const struct tmpl_value *a,
                                     const struct tmpl_value *b)
{
    struct tmpl_value *r = tmpl_sequence(in->a, a->u.list.type);
    const struct tmpl_value *const parts[2] = {a, b};
    for (size_t k = 0; k < 2; k++) {
        for (size_t i = 0; i < parts[k]->u.list.n; i++) {
            if (!interp_burn(in, 1)) {
                return NULL;
            }
            if (!tmpl_list_add(in->a, r, parts[k]->u.list.items[i])) {
                return interp_spent(in);
            }
        }
    }
    return r ? r : interp_spent(in);
}

static struct tmpl_value *repeat(struct interp *in, const struct tmpl_value *what, int64_t times)
{
    if (what->kind == TMPL_STRING) {
        struct buf text = {0};
        for (int64_t i = 0; i < times && what->u.str.n && text.len <= INTERP_OUT_MAX; i++) {
            buf_append(&text, what->u.str.s, what->u.str.n);
        }
        return interp_buf_value(in, &text);
    }
    struct tmpl_value *r = tmpl_sequence(in->a, what->u.list.type);
    for (int64_t k = 0; k < times && what->u.list.n; k++) {
        for (size_t i = 0; i < what->u.list.n; i++) {
            if (!interp_burn(in, 1)) {
                return NULL;
            }
            if (!tmpl_list_add(in->a, r, what->u.list.items[i])) {
                return interp_spent(in);
            }
        }
    }
    return r ? r : interp_spent(in);
}

static bool is_sequence(const struct tmpl_value *v)
{
    return v->kind == TMPL_LIST &&
           (v->u.list.type == TMPL_SEQ_LIST || v->u.list.type == TMPL_SEQ_TUPLE);
}

static bool is_int(const struct tmpl_value *v)
{
    return v->kind == TMPL_INT || v->kind == TMPL_BOOL;
}

/* a ~ b: the texts of both, markup or not. */
static struct tmpl_value *concat(struct interp *in, const struct tmpl_value *a,
                                 const struct tmpl_value *b)
{
    struct buf text = {0};
    if (!interp_text(in, &text, a) || !interp_text(in, &text, b)) {
        buf_free(&text);
        return NULL;
    }
    return interp_buf_value(in, &text);
}

struct tmpl_value *interp_binary(struct interp *in, const char *op, struct tmpl_value *a,
                                 struct tmpl_value *b)
{
    if (op[0] == '~') {
        return concat(in, a, b);
    }
    if (tmpl_is_number(a) && tmpl_is_number(b)) {
        if (is_int(a) && is_int(b)) {
            return int_arithmetic(in, op, as_int(a), as_int(b));
        }
        return float_arithmetic(in, op, tmpl_as_double(a), tmpl_as_double(b));
    }
    if (strcmp(op, "+") == 0) {
        if (a->kind == TMPL_STRING && b->kind == TMPL_STRING) {
            return join_strings(in, a, b);
        }
        if (is_sequence(a) && is_sequence(b) && a->u.list.type == b->u.list.type) {
            return join_lists(in, a, b);
        }
    }
    if (strcmp(op, "*") == 0) {
        if (is_int(b) && (a->kind == TMPL_STRING || is_sequence(a))) {
            return repeat(in, a, as_int(b));
        }
        if (is_int(a) && (b->kind == TMPL_STRING || is_sequence(b))) {
            return repeat(in, b, as_int(a));
        }
    }
    if (strcmp(op, "%") == 0 && a->kind == TMPL_STRING) {
        return interp_percent(in, a, b);
    }
    return bad_operands(in, op, a, b);
}

static int order_bytes(const struct tmpl_value *a, const struct tmpl_value *b)
{
    size_t n = a->u.str.n < b->u.str.n ? a->u.str.n : b->u.str.n;
    int order = n ? memcmp(a->u.str.s, b->u.str.s, n) : 0;
    if (!order) {
        order = (a->u.str.n > b->u.str.n) - (a->u.str.n < b->u.str.n);
    }
    return (order > 0) - (order < 0);
}

bool interp_order(struct interp *in, const struct tmpl_value *a, const struct tmpl_value *b,
                  int *ret)
{
    if (tmpl_is_number(a) && tmpl_is_number(b)) {
        if (is_int(a) && is_int(b)) {
            *ret = (as_int(a) > as_int(b)) - (as_int(a) < as_int(b));
        } else {
            *ret =
                (tmpl_as_double(a) > tmpl_as_double(b)) - (tmpl_as_double(a) < tmpl_as_double(b));
        }
        return true;
    }
    if (a->kind == TMPL_STRING && b->kind == TMPL_STRING) {
        *ret = order_bytes(a, b);
        return true;
    }
    if (is_sequence(a) && is_sequence(b) && a->u.list.type == b->u.list.type) {
        size_t n = a->u.list.n < b->u.list.n ? a->u.list.n : b->u.list.n;
        for (size_t i = 0; i < n; i++) {
            if (!tmpl_equal(a->u.list.items[i], b->u.list.items[i])) {
                return interp_order(in, a->u.list.items[i], b->u.list.items[i], ret);
            }
        }
        *ret = (a->u.list.n > b->u.list.n) - (a->u.list.n < b->u.list.n);
        return true;
    }
    return bad_operands(in, "comparison", a, b) != NULL;
}

bool interp_can_hash(struct interp *in, const struct tmpl_value *v)
{
    bool tuple = v->kind == TMPL_LIST && v->u.list.type == TMPL_SEQ_TUPLE;
    if (v->kind == TMPL_MAP || (v->kind == TMPL_LIST && !tuple)) {
        (void)interp_fail(in, "unhashable type: '%s'", interp_type_name(v));
        return false;
    }
    for (size_t i = 0; tuple && i < v->u.list.n; i++) {
        if (!interp_burn(in, 1) || !interp_can_hash(in, v->u.list.items[i])) {
            return false;
        }
    }
    return true;
}

/* 1 or 0, -1 on failure: whether `what` is in `where`. */
static int contains(struct interp *in, struct tmpl_value *what, struct tmpl_value *where)
{
    switch (where->kind) {
    case TMPL_UNDEFINED: return 0;
    case TMPL_STRING:
        if (what->kind != TMPL_STRING) {
            (void)interp_fail(in, "'in <string>' requires string as left operand, not %s",
                              interp_type_name(what));
            return -1;
        }
        return !what->u.str.n ||
               memmem(where->u.str.s, where->u.str.n, what->u.str.s, what->u.str.n);
    case TMPL_MAP:
        if (!interp_can_hash(in, what)) {
            return -1;
        }
        return tmpl_map_find(where, what) != NULL;
    case TMPL_LIST:
        for (size_t i = 0; i < where->u.list.n; i++) {
            if (!interp_burn(in, 1)) {
                return -1;
            }
            if (tmpl_equal(where->u.list.items[i], what)) {
                return 1;
            }
        }
        return 0;
    default: break;
    }
    (void)interp_fail(in, "argument of type '%s' is not iterable", interp_type_name(where));
    return -1;
}

int interp_compare(struct interp *in, const char *op, struct tmpl_value *a, struct tmpl_value *b)
{
    if (op[0] == 'i') {
        return contains(in, a, b);
    }
    if (op[0] == 'n') {
        int in_it = contains(in, a, b);
        return in_it < 0 ? -1 : !in_it;
    }
    if (op[1] == '=' && (op[0] == '=' || op[0] == '!')) {
        return tmpl_equal(a, b) == (op[0] == '=');
    }
    int order = 0;
    if (tmpl_is_number(a) && tmpl_is_number(b) &&
        (isnan(tmpl_as_double(a)) || isnan(tmpl_as_double(b)))) {
        return 0;
    }
    if (!interp_order(in, a, b, &order)) {
        return -1;
    }
    bool or_equal = op[1] == '=';
    return op[0] == '<' ? order < 0 || (or_equal && !order) : order > 0 || (or_equal && !order);
}
