/* Expressions: names, operators, comparisons, calls. */
#include "engine/template/interp.h"

#include <math.h>
#include <string.h>

bool interp_truth(const struct tmpl_value *v)
{
    switch (v->kind) {
    case TMPL_UNDEFINED:
    case TMPL_NONE: return false;
    case TMPL_BOOL: return v->u.b;
    case TMPL_INT: return v->u.i != 0;
    case TMPL_FLOAT: return v->u.f != 0;
    case TMPL_STRING: return v->u.str.n != 0;
    case TMPL_LIST: return v->u.list.type == TMPL_SEQ_ITERATOR || v->u.list.n != 0;
    case TMPL_MAP: return v->u.map.n_live != 0;
    case TMPL_OBJECT: return true;
    }
    return false;
}

const char *interp_type_name(const struct tmpl_value *v)
{
    switch (v->kind) {
    case TMPL_UNDEFINED: return "Undefined";
    case TMPL_NONE: return "NoneType";
    case TMPL_BOOL: return "bool";
    case TMPL_INT: return "int";
    case TMPL_FLOAT: return "float";
    case TMPL_STRING: return "str";
    case TMPL_LIST:
        return v->u.list.type == TMPL_SEQ_TUPLE  ? "tuple"
               : v->u.list.type == TMPL_SEQ_LIST ? "list"
                                                 : "generator";
    case TMPL_MAP: return "dict";
    case TMPL_OBJECT: return "object";
    }
    return "object";
}

static struct tmpl_value *boolean(struct interp *in, bool b)
{
    struct tmpl_value *v = tmpl_bool(in->a, b);
    return v ? v : interp_spent(in);
}

static bool eval_list(struct interp *in, struct node *const *nodes, size_t n,
                      struct tmpl_value *list)
{
    for (size_t i = 0; i < n; i++) {
        struct tmpl_value *v = interp_eval(in, nodes[i]);
        if (!v) {
            return false;
        }
        if (!tmpl_list_add(in->a, list, v)) {
            return interp_spent(in) != NULL;
        }
    }
    return true;
}

static struct tmpl_value *eval_sequence(struct interp *in, const struct node *node,
                                        enum tmpl_sequence type)
{
    struct tmpl_value *list = tmpl_sequence(in->a, type);
    if (!list) {
        return interp_spent(in);
    }
    return eval_list(in, node->items, node->n_item, list) ? list : NULL;
}

static struct tmpl_value *eval_dict(struct interp *in, const struct node *node)
{
    struct tmpl_value *map = tmpl_map(in->a);
    if (!map) {
        return interp_spent(in);
    }
    for (size_t i = 0; i + 1 < node->n_item; i += 2) {
        struct tmpl_value *key = interp_eval(in, node->items[i]);
        struct tmpl_value *v = key ? interp_eval(in, node->items[i + 1]) : NULL;
        if (!v) {
            return NULL;
        }
        if (!interp_can_hash(in, key)) {
            return NULL;
        }
        if (!tmpl_map_put(in->a, map, key, v)) {
            return interp_spent(in);
        }
    }
    return map;
}

bool interp_eval_args(struct interp *in, const struct node *node, struct call_args *ret)
{
    struct tmpl_value *pos = tmpl_list(in->a);
    struct tmpl_value *kw = NULL;
    if (!pos) {
        return interp_spent(in) != NULL;
    }
    if (!eval_list(in, node->items, node->n_item, pos)) {
        return false;
    }
    if (node->star_args) {
        size_t n = 0;
        struct tmpl_value *more = interp_eval(in, node->star_args);
        struct tmpl_value **items = more ? interp_items(in, more, &n) : NULL;
        for (size_t i = 0; items && i < n; i++) {
            if (!tmpl_list_add(in->a, pos, items[i])) {
                return interp_spent(in) != NULL;
            }
        }
        if (!items) {
            return false;
        }
    }
    if ((node->n_kwarg || node->star_kwargs) && !(kw = tmpl_map(in->a))) {
        return interp_spent(in) != NULL;
    }
    for (size_t i = 0; i < node->n_kwarg; i++) {
        const struct kwarg *k = &node->kwargs[i];
        struct tmpl_value *v = interp_eval(in, k->value);
        if (!v) {
            return false;
        }
        if (!tmpl_map_set(in->a, kw, k->name, k->n_name, v)) {
            return interp_spent(in) != NULL;
        }
    }
    if (node->star_kwargs) {
        struct tmpl_value *more = interp_eval(in, node->star_kwargs);
        if (!more || more->kind != TMPL_MAP) {
            if (more) {
                (void)interp_fail(in, "argument after ** must be a mapping");
            }
            return false;
        }
        for (size_t i = 0; i < more->u.map.n; i++) {
            const struct tmpl_entry *entry = &more->u.map.entries[i];
            if (entry->key && entry->key->kind != TMPL_STRING) {
                (void)interp_fail(in, "keywords must be strings");
                return false;
            }
            if (entry->key && !tmpl_map_put(in->a, kw, entry->key, entry->value)) {
                return interp_spent(in) != NULL;
            }
        }
    }
    *ret = (struct call_args){.pos = pos->u.list.items, .n_pos = pos->u.list.n, .kw = kw};
    return true;
}

struct tmpl_value *interp_eval_call(struct interp *in, const struct node *node,
                                    struct tmpl_value *caller)
{
    struct call_args args = {0};
    struct tmpl_value *callee = interp_eval(in, node->a);
    if (!callee || !interp_eval_args(in, node, &args)) {
        return NULL;
    }
    args.caller = caller;
    return interp_call(in, callee, &args);
}

/* Filters inside a chain whose innermost operand is NULL (set and filter blocks) get v. */
struct tmpl_value *interp_apply_filter(struct interp *in, const struct node *node,
                                       struct tmpl_value *v)
{
    struct call_args args = {0};
    struct tmpl_value *operand = v;
    if (node->a) {
        operand = node->a->kind == NODE_FILTER ? interp_apply_filter(in, node->a, v)
                                               : interp_eval(in, node->a);
    }
    if (!operand || !interp_eval_args(in, node, &args)) {
        return NULL;
    }
    return interp_burn(in, 1) ? interp_filter(in, node->name, operand, &args) : NULL;
}

static struct tmpl_value *eval_test(struct interp *in, const struct node *node)
{
    struct call_args args = {0};
    struct tmpl_value *v = interp_eval(in, node->a);
    if (!v || !interp_eval_args(in, node, &args)) {
        return NULL;
    }
    int passed = interp_test(in, node->name, v, &args);
    return passed < 0 ? NULL : boolean(in, passed);
}

static struct tmpl_value *eval_unary(struct interp *in, const struct node *node)
{
    struct tmpl_value *v = interp_eval(in, node->a);
    if (!v) {
        return NULL;
    }
    if (node->name[0] == 'n') {
        return boolean(in, !interp_truth(v));
    }
    if (!tmpl_is_number(v)) {
        return interp_fail(in, "bad operand type for unary %s: '%s'", node->name,
                           interp_type_name(v));
    }
    bool negative = node->name[0] == '-';
    struct tmpl_value *r = NULL;
    if (v->kind == TMPL_FLOAT) {
        r = tmpl_float(in->a, negative ? -v->u.f : v->u.f);
    } else {
        int64_t i = v->kind == TMPL_INT ? v->u.i : v->u.b;
        if (negative && i == INT64_MIN) {
            return interp_fail(in, "an integer is out of range");
        }
        r = tmpl_int(in->a, negative ? -i : i);
    }
    return r ? r : interp_spent(in);
}

static struct tmpl_value *eval_binary(struct interp *in, const struct node *node)
{
    struct tmpl_value *a = interp_eval(in, node->a);
    if (!a) {
        return NULL;
    }
    if (strcmp(node->name, "and") == 0) {
        return interp_truth(a) ? interp_eval(in, node->b) : a;
    }
    if (strcmp(node->name, "or") == 0) {
        return interp_truth(a) ? a : interp_eval(in, node->b);
    }
    struct tmpl_value *b = interp_eval(in, node->b);
    return b ? interp_binary(in, node->name, a, b) : NULL;
}

static struct tmpl_value *eval_compare(struct interp *in, const struct node *node)
{
    struct tmpl_value *left = interp_eval(in, node->a);
    for (size_t i = 0; left && i < node->n_item; i++) {
        struct tmpl_value *right = interp_eval(in, node->items[i]);
        int holds = right ? interp_compare(in, node->ops[i], left, right) : -1;
        if (holds < 0) {
            return NULL;
        }
        if (!holds) {
            return boolean(in, false);
        }
        left = right;
    }
    return left ? boolean(in, true) : NULL;
}

static struct tmpl_value *eval_slice(struct interp *in, const struct node *node)
{
    struct tmpl_value *part[3] = {NULL};
    struct tmpl_value *v = interp_eval(in, node->a);
    for (size_t i = 0; v && i < 3; i++) {
        if (node->items[i] && !(part[i] = interp_eval(in, node->items[i]))) {
            return NULL;
        }
    }
    return v ? interp_slice(in, v, part) : NULL;
}

static struct tmpl_value *eval_cond(struct interp *in, const struct node *node)
{
    struct tmpl_value *test = interp_eval(in, node->b);
    if (!test) {
        return NULL;
    }
    if (interp_truth(test)) {
        return interp_eval(in, node->a);
    }
    if (node->c) {
        return interp_eval(in, node->c);
    }
    struct tmpl_value *v = tmpl_undefined(in->a, "an inline if without else");
    return v ? v : interp_spent(in);
}

struct tmpl_value *interp_eval(struct interp *in, const struct node *node)
{
    struct tmpl_value *v = NULL;
    if (!interp_burn(in, 1)) {
        return NULL;
    }
    switch (node->kind) {
    case NODE_CONST: return node->value;
    case NODE_NAME: return interp_lookup(in, node->name, node->n_name);
    case NODE_LIST: return eval_sequence(in, node, TMPL_SEQ_LIST);
    case NODE_TUPLE: return eval_sequence(in, node, TMPL_SEQ_TUPLE);
    case NODE_DICT: return eval_dict(in, node);
    case NODE_ATTR:
        v = interp_eval(in, node->a);
        return v ? interp_attr(in, v, node->name, node->n_name) : NULL;
    case NODE_ITEM: {
        v = interp_eval(in, node->a);
        struct tmpl_value *key = v ? interp_eval(in, node->b) : NULL;
        return key ? interp_item(in, v, key) : NULL;
    }
    case NODE_SLICE: return eval_slice(in, node);
    case NODE_CALL: return interp_eval_call(in, node, NULL);
    case NODE_FILTER: return interp_apply_filter(in, node, NULL);
    case NODE_TEST: return eval_test(in, node);
    case NODE_UNARY: return eval_unary(in, node);
    case NODE_BINARY: return eval_binary(in, node);
    case NODE_COMPARE: return eval_compare(in, node);
    case NODE_COND: return eval_cond(in, node);
    default: return interp_fail(in, "a statement stands where an expression belongs");
    }
}
