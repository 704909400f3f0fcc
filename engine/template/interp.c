/* Statements and the state they share. Source: the Jinja template designer documentation. */
#include "engine/template/interp.h"

#include "base/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE, FLOW_FAIL };

struct tmpl_value *interp_fail(struct interp *in, const char *fmt, ...)
{
    char what[200];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    (void)err_set(in->e, ERR_INVALID, "chat template line %u: %s", in->line, what);
    return NULL;
}

struct tmpl_value *interp_spent(struct interp *in)
{
    (void)err_set(in->e, ERR_LIMIT,
                  "chat template line %u: values beyond %u MiB or nested beyond %d levels",
                  in->line, INTERP_ARENA_MAX >> 20, TMPL_NESTING_MAX);
    return NULL;
}

bool interp_burn(struct interp *in, uint64_t fuel)
{
    if (in->fuel < fuel) {
        in->fuel = 0;
        (void)err_set(in->e, ERR_LIMIT, "chat template line %u: more than %d steps", in->line,
                      INTERP_FUEL_MAX);
        return false;
    }
    in->fuel -= fuel;
    return true;
}

struct tmpl_value *interp_string(struct interp *in, const char *s, size_t n)
{
    struct tmpl_value *v = tmpl_string(in->a, s, n);
    return v ? v : interp_spent(in);
}

struct tmpl_value *interp_buf_value(struct interp *in, struct buf *b)
{
    struct tmpl_value *v = NULL;
    if (buf_ok(b) && b->len <= INTERP_OUT_MAX && interp_burn(in, b->len / 64)) {
        v = interp_string(in, buf_str(b), b->len);
    } else if (in->fuel) {
        v = interp_fail(in, "a text grew beyond %u bytes", INTERP_OUT_MAX);
    }
    buf_free(b);
    return v;
}

struct scope *interp_push_scope(struct interp *in, struct scope *outer)
{
    struct scope *s = tmpl_alloc(in->a, sizeof *s);
    if (!s) {
        (void)interp_spent(in);
        return NULL;
    }
    s->outer = outer;
    return s;
}

struct tmpl_value *interp_lookup(struct interp *in, const char *name, size_t n)
{
    for (const struct scope *s = in->scope; s; s = s->outer) {
        struct tmpl_value *v = s->vars ? tmpl_map_find_str(s->vars, name, n) : NULL;
        if (v) {
            return v;
        }
    }
    interp_function f = interp_global(name, n);
    struct tmpl_value *v = NULL;
    if (f) {
        interp_function *slot = tmpl_alloc(in->a, sizeof *slot);
        if (slot) {
            *slot = f;
            v = tmpl_object(in->a, TMPL_OBJ_FUNCTION, slot);
        }
    } else {
        v = tmpl_undefined(in->a, name);
    }
    return v ? v : interp_spent(in);
}

bool interp_set_var(struct interp *in, const char *name, size_t n, struct tmpl_value *v)
{
    struct scope *s = in->scope;
    if (!s->vars && !(s->vars = tmpl_map(in->a))) {
        return interp_spent(in) != NULL;
    }
    s->vars->nesting = 0; /* a scope is no value: what it holds does not nest */
    return tmpl_map_set(in->a, s->vars, name, n, v) || interp_spent(in) != NULL;
}

static bool print(struct interp *in, const char *s, size_t n)
{
    in->n_out += n;
    if (in->n_out > INTERP_OUT_MAX) {
        (void)err_set(in->e, ERR_LIMIT, "chat template line %u: more than %u bytes of output",
                      in->line, INTERP_OUT_MAX);
        return false;
    }
    buf_append(in->out, s, n);
    return true;
}

/* Assigns v to a name, a tuple of targets, or an attribute of a namespace. */
static bool assign(struct interp *in, const struct node *target, struct tmpl_value *v)
{
    if (target->kind == NODE_NAME) {
        return interp_set_var(in, target->name, target->n_name, v);
    }
    if (target->kind == NODE_NSREF) {
        struct tmpl_value *ns = interp_lookup(in, target->name, target->n_name);
        if (!ns) {
            return false;
        }
        if (ns->kind != TMPL_OBJECT || ns->u.obj.type != TMPL_OBJ_NAMESPACE) {
            (void)interp_fail(in, "cannot assign attribute on non-namespace object");
            return false;
        }
        return tmpl_map_put(in->a, ns->u.obj.attrs, target->value, v) || interp_spent(in) != NULL;
    }
    size_t n = 0;
    struct tmpl_value **items = interp_items(in, v, &n);
    if (!items) {
        return false;
    }
    if (n != target->n_item) {
        (void)interp_fail(in, "%zu values to unpack into %zu names", n, target->n_item);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (!assign(in, target->items[i], items[i])) {
            return false;
        }
    }
    return true;
}

static enum flow run_body(struct interp *in, const struct body *body);

static bool run_captured(struct interp *in, const struct body *body, struct buf *out)
{
    struct buf *outer = in->out;
    in->out = out;
    bool ok = run_body(in, body) != FLOW_FAIL;
    in->out = outer;
    return ok;
}

struct tmpl_value *interp_capture(struct interp *in, const struct body *body)
{
    struct buf text = {0};
    if (!run_captured(in, body, &text)) {
        buf_free(&text);
        return NULL;
    }
    return interp_buf_value(in, &text);
}

/* Runs body in a scope of its own. */
static enum flow run_scoped(struct interp *in, const struct body *body)
{
    struct scope *outer = in->scope;
    struct scope *own = interp_push_scope(in, outer);
    if (!own) {
        return FLOW_FAIL;
    }
    in->scope = own;
    enum flow flow = run_body(in, body);
    in->scope = outer;
    return flow;
}

/* The items of `over` that pass the loop's condition. */
static struct tmpl_value **loop_items(struct interp *in, const struct node *node,
                                      struct tmpl_value *over, size_t *ret_n)
{
    size_t n = 0;
    struct tmpl_value **all = interp_items(in, over, &n);
    if (!all || !node->c) {
        *ret_n = n;
        return all;
    }
    struct tmpl_value **kept = tmpl_alloc(in->a, (n + 1) * sizeof *kept);
    size_t n_kept = 0;
    struct scope *outer = in->scope;
    struct scope *own = kept ? interp_push_scope(in, outer) : NULL;
    if (!own) {
        (void)interp_spent(in);
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        in->scope = own;
        struct tmpl_value *pass = assign(in, node->a, all[i]) ? interp_eval(in, node->c) : NULL;
        in->scope = outer;
        if (!pass) {
            return NULL;
        }
        if (interp_truth(pass)) {
            kept[n_kept++] = all[i];
        }
    }
    *ret_n = n_kept;
    return kept;
}

static enum flow run_for(struct interp *in, const struct node *node, struct tmpl_value *over,
                         uint32_t depth0)
{
    struct loop *loop = tmpl_alloc(in->a, sizeof *loop);
    struct tmpl_value *object = loop ? tmpl_object(in->a, TMPL_OBJ_LOOP, loop) : NULL;
    if (!object) {
        (void)interp_spent(in);
        return FLOW_FAIL;
    }
    struct scope *outer = in->scope;
    loop->items = loop_items(in, node, over, &loop->n);
    if (!loop->items) {
        return FLOW_FAIL;
    }
    loop->depth0 = depth0;
    loop->recursive = node->recursive ? node : NULL;
    loop->scope = outer;
    enum flow flow = FLOW_NEXT;
    bool ended = false; /* some item's body ran to its end; else `else` runs, as Jinja2 has it */
    for (loop->idx = 0; loop->idx < loop->n && flow != FLOW_BREAK; loop->idx++) {
        struct scope *own = interp_push_scope(in, outer);
        if (!own) {
            return FLOW_FAIL;
        }
        in->scope = own;
        bool ok = interp_burn(in, 1) && interp_set_var(in, "loop", strlen("loop"), object) &&
                  assign(in, node->a, loop->items[loop->idx]);
        flow = ok ? run_body(in, &node->body) : FLOW_FAIL;
        in->scope = outer;
        if (flow == FLOW_FAIL) {
            return FLOW_FAIL;
        }
        ended |= flow == FLOW_NEXT;
    }
    return ended ? FLOW_NEXT : run_scoped(in, &node->else_body);
}

struct tmpl_value *interp_run_loop(struct interp *in, const struct node *node,
                                   struct tmpl_value *over, uint32_t depth0)
{
    struct buf text = {0};
    struct buf *outer = in->out;
    in->out = &text;
    enum flow flow = run_for(in, node, over, depth0);
    in->out = outer;
    if (flow == FLOW_FAIL) {
        buf_free(&text);
        return NULL;
    }
    return interp_buf_value(in, &text);
}

static struct tmpl_value *make_macro(struct interp *in, const struct node *node)
{
    struct macro *m = tmpl_alloc(in->a, sizeof *m);
    struct tmpl_value *v = m ? tmpl_object(in->a, TMPL_OBJ_MACRO, m) : NULL;
    if (!v) {
        return interp_spent(in);
    }
    m->def = node;
    m->scope = in->scope;
    return v;
}

/* {% call %}: the call with its body as `caller`. */
static bool run_call_block(struct interp *in, const struct node *node)
{
    struct tmpl_value *caller = make_macro(in, node->b);
    struct tmpl_value *v = caller ? interp_eval_call(in, node->a, caller) : NULL;
    struct tmpl_value *text = v ? interp_str(in, v) : NULL;
    return text && print(in, text->u.str.s, text->u.str.n);
}

static enum flow run_with(struct interp *in, const struct node *node)
{
    struct scope *outer = in->scope;
    struct scope *own = interp_push_scope(in, outer);
    if (!own) {
        return FLOW_FAIL;
    }
    for (size_t i = 0; i + 1 < node->n_item; i += 2) {
        struct tmpl_value *v = interp_eval(in, node->items[i + 1]); /* values see the outer scope */
        in->scope = own;
        bool ok = v && assign(in, node->items[i], v);
        in->scope = outer;
        if (!ok) {
            return FLOW_FAIL;
        }
    }
    in->scope = own;
    enum flow flow = run_body(in, &node->body);
    in->scope = outer;
    return flow;
}

/* set and filter blocks: captured text, through filters. */
static struct tmpl_value *captured_and_filtered(struct interp *in, const struct node *node,
                                                const struct node *filters)
{
    struct scope *outer = in->scope;
    struct scope *own = interp_push_scope(in, outer);
    if (!own) {
        return NULL;
    }
    in->scope = own;
    struct tmpl_value *v = interp_capture(in, &node->body);
    in->scope = outer;
    return v && filters ? interp_apply_filter(in, filters, v) : v;
}

static enum flow check(bool ok)
{
    return ok ? FLOW_NEXT : FLOW_FAIL;
}

static enum flow run_node(struct interp *in, const struct node *node)
{
    struct tmpl_value *v = NULL;
    in->line = node->line;
    switch (node->kind) {
    case NODE_DATA: return check(print(in, node->value->u.str.s, node->value->u.str.n));
    case NODE_PRINT:
        v = interp_eval(in, node->a);
        v = v ? interp_str(in, v) : NULL;
        return check(v && print(in, v->u.str.s, v->u.str.n));
    case NODE_SET: v = interp_eval(in, node->b); return check(v && assign(in, node->a, v));
    case NODE_SETBLOCK:
        v = captured_and_filtered(in, node, node->b);
        return check(v && assign(in, node->a, v));
    case NODE_FILTERBLOCK:
        v = captured_and_filtered(in, node, node->a);
        if (v && v->kind != TMPL_STRING) {
            return check(
                interp_fail(in, "a filter block gives text, not %s", interp_type_name(v)) != NULL);
        }
        return check(v && print(in, v->u.str.s, v->u.str.n));
    case NODE_IF:
        v = interp_eval(in, node->a);
        return v ? run_body(in, interp_truth(v) ? &node->body : &node->else_body) : FLOW_FAIL;
    case NODE_FOR: v = interp_eval(in, node->b); return v ? run_for(in, node, v, 0) : FLOW_FAIL;
    case NODE_MACRO:
        v = make_macro(in, node);
        return check(v && interp_set_var(in, node->name, node->n_name, v));
    case NODE_CALLBLOCK: return check(run_call_block(in, node));
    case NODE_WITH: return run_with(in, node);
    case NODE_SCOPE: return run_scoped(in, &node->body);
    case NODE_BREAK: return FLOW_BREAK;
    case NODE_CONTINUE: return FLOW_CONTINUE;
    default: break;
    }
    (void)interp_fail(in, "an expression stands where a statement belongs");
    return FLOW_FAIL;
}

static enum flow run_body(struct interp *in, const struct body *body)
{
    enum flow flow = FLOW_NEXT;
    if (++in->depth > INTERP_DEPTH_MAX) {
        (void)interp_fail(in, "macros or blocks are nested beyond %d levels", INTERP_DEPTH_MAX);
        return FLOW_FAIL;
    }
    for (size_t i = 0; i < body->n && flow == FLOW_NEXT; i++) {
        flow = interp_burn(in, 1) ? run_node(in, body->nodes[i]) : FLOW_FAIL;
    }
    in->depth--;
    return flow;
}

bool interp_run(struct interp *in, const struct body *body)
{
    return run_body(in, body) != FLOW_FAIL;
}
