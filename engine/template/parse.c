#include "engine/template/parser.h"
#include "engine/template/value_impl.h"

#include <string.h>

static bool parse_body(struct parser *p, const char *const *end_names, struct body *ret_body);

/* The closing "%}" of a tag. */
static bool end_of_tag(struct parser *p)
{
    if (parse_peek(p)->kind == TOK_BLOCK_END) {
        p->at++;
        return true;
    }
    (void)parse_fail(p, parse_peek(p), "expected the end of the tag");
    return false;
}

/* "%}" body "{% end": leaves the cursor behind the end name, which is at p->tokens[p->at - 1]. */
static bool parse_block_body(struct parser *p, const char *const *end_names, struct body *ret_body)
{
    return end_of_tag(p) && parse_body(p, end_names, ret_body);
}

static bool ended_with(const struct parser *p, const char *name)
{
    const struct token *t = &p->tokens[p->at - 1];
    return t->n == strlen(name) && memcmp(t->s, name, t->n) == 0;
}

static bool assignable(struct parser *p, const struct node *target)
{
    bool ok = target->kind == NODE_NAME || target->kind == NODE_TUPLE;
    for (size_t i = 0; target->kind == NODE_TUPLE && i < target->n_item; i++) {
        ok = ok && assignable(p, target->items[i]);
    }
    if (!ok) {
        (void)parse_fail(p, parse_peek(p), "cannot assign to this expression");
    }
    return ok;
}

static struct node *parse_target(struct parser *p, const char *end_name, bool with_namespace)
{
    const struct token *t = parse_peek(p);
    if (with_namespace && t->kind == TOK_NAME && t[1].kind == TOK_OP && t[1].n == 1 &&
        t[1].s[0] == '.') {
        struct node *node = parse_node(p, NODE_NSREF);
        size_t n = 0;
        if (!node || !(node->name = parse_expect_name(p, &node->n_name))) {
            return NULL;
        }
        p->at++;
        const char *attr = parse_expect_name(p, &n);
        node->value = attr ? tmpl_string_ref(p->a, attr, n) : NULL;
        return node->value ? node : NULL;
    }
    struct node *target = parse_tuple(p, true, true, end_name, false);
    return target && assignable(p, target) ? target : NULL;
}

static struct node *parse_set(struct parser *p)
{
    static const char *const end[] = {"endset", NULL};
    struct node *node = parse_node(p, NODE_SET);
    if (!node || !(node->a = parse_target(p, NULL, true))) {
        return NULL;
    }
    if (parse_skip_op(p, "=")) {
        node->b = parse_tuple(p, false, true, NULL, false);
        return node->b ? node : NULL;
    }
    node->kind = NODE_SETBLOCK;
    if (parse_is_op(p, "|") && !(node->b = parse_filter_chain(p, NULL, false))) {
        return NULL;
    }
    return parse_block_body(p, end, &node->body) ? node : NULL;
}

static struct node *parse_if(struct parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    static const char *const end[] = {"endif", NULL};
    struct node *node = parse_node(p, NODE_IF);
    if (!node || !(node->a = parse_tuple(p, false, false, NULL, false)) ||
        !parse_block_body(p, ends, &node->body)) {
        return NULL;
    }
    if (ended_with(p, "elif")) {
        struct node_list chain = {0};
        if (++p->depth > 10 * PARSE_DEPTH_MAX) {
            return parse_fail(p, parse_peek(p), "too many elif branches");
        }
        bool ok = parse_push(p, &chain, parse_if(p));
        p->depth--;
        node->else_body = (struct body){.nodes = chain.items, .n = chain.n};
        return ok ? node : NULL;
    }
    if (ended_with(p, "else") && !parse_block_body(p, end, &node->else_body)) {
        return NULL;
    }
    return node;
}

static struct node *parse_for(struct parser *p)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    static const char *const end[] = {"endfor", NULL};
    struct node *node = parse_node(p, NODE_FOR);
    if (!node || !(node->a = parse_target(p, "in", false))) {
        return NULL;
    }
    if (!parse_skip_name(p, "in")) {
        return parse_fail(p, parse_peek(p), "expected 'in'");
    }
    if (!(node->b = parse_tuple(p, false, false, "recursive", false)) ||
        (parse_skip_name(p, "if") && !(node->c = parse_expression(p, true)))) {
        return NULL;
    }
    node->recursive = parse_skip_name(p, "recursive");
    if (!parse_block_body(p, ends, &node->body) ||
        (ended_with(p, "else") && !parse_block_body(p, end, &node->else_body))) {
        return NULL;
    }
    return node;
}

/* "(" name [= default], … ")" into a macro: defaults belong to its last parameters. */
static bool parse_signature(struct parser *p, struct node *macro)
{
    struct node_list names = {0};
    struct node_list defaults = {0};
    if (!parse_expect_op(p, "(")) {
        return false;
    }
    while (!parse_is_op(p, ")")) {
        struct node *param = NULL;
        if (names.n && !parse_expect_op(p, ",")) {
            return false;
        }
        if (!(param = parse_node(p, NODE_NAME)) ||
            !(param->name = parse_expect_name(p, &param->n_name)) ||
            !parse_push(p, &names, param)) {
            return false;
        }
        if (parse_skip_op(p, "=")) {
            if (!parse_push(p, &defaults, parse_expression(p, true))) {
                return false;
            }
        } else if (defaults.n) {
            (void)parse_fail(p, parse_peek(p), "a parameter without default follows one with");
            return false;
        }
    }
    p->at++;
    macro->items = names.items;
    macro->n_item = names.n;
    macro->n_kwarg = defaults.n;
    macro->kwargs = defaults.n ? tmpl_alloc(p->a, defaults.n * sizeof *macro->kwargs) : NULL;
    for (size_t i = 0; macro->kwargs && i < defaults.n; i++) {
        macro->kwargs[i].value = defaults.items[i];
    }
    return !defaults.n || macro->kwargs;
}

static struct node *parse_macro_body(struct parser *p, struct node *macro, const char *const *end)
{
    struct node *outer = p->macro;
    p->macro = macro;
    bool ok = parse_block_body(p, end, &macro->body);
    p->macro = outer;
    if (outer) { /* what an inner macro names, the outer one names too */
        outer->uses_varargs |= macro->uses_varargs;
        outer->uses_kwargs |= macro->uses_kwargs;
        outer->uses_caller |= macro->uses_caller;
    }
    return ok ? macro : NULL;
}

static struct node *parse_macro(struct parser *p)
{
    static const char *const end[] = {"endmacro", NULL};
    struct node *node = parse_node(p, NODE_MACRO);
    if (!node || !(node->name = parse_expect_name(p, &node->n_name)) || !parse_signature(p, node)) {
        return NULL;
    }
    return parse_macro_body(p, node, end);
}

static struct node *parse_call_block(struct parser *p)
{
    static const char *const end[] = {"endcall", NULL};
    struct node *node = parse_node(p, NODE_CALLBLOCK);
    struct node *caller = node ? parse_node(p, NODE_MACRO) : NULL;
    if (!caller) {
        return NULL;
    }
    caller->name = "caller";
    caller->n_name = strlen("caller");
    if (parse_is_op(p, "(") && !parse_signature(p, caller)) {
        return NULL;
    }
    node->a = parse_expression(p, true);
    if (!node->a) {
        return NULL;
    }
    if (node->a->kind != NODE_CALL) {
        return parse_fail(p, parse_peek(p), "a call block needs a call");
    }
    node->b = parse_macro_body(p, caller, end);
    return node->b ? node : NULL;
}

static struct node *parse_with(struct parser *p)
{
    static const char *const end[] = {"endwith", NULL};
    struct node *node = parse_node(p, NODE_WITH);
    struct node_list items = {0};
    while (node && parse_peek(p)->kind != TOK_BLOCK_END) {
        if (items.n && !parse_expect_op(p, ",")) {
            return NULL;
        }
        struct node *target = parse_primary(p);
        if (!target || !assignable(p, target) || !parse_push(p, &items, target) ||
            !parse_expect_op(p, "=") || !parse_push(p, &items, parse_expression(p, true))) {
            return NULL;
        }
    }
    if (!node || !parse_block_body(p, end, &node->body)) {
        return NULL;
    }
    node->items = items.items;
    node->n_item = items.n;
    return node;
}

/* Tags that only surround a body: block, autoescape, generation. */
static struct node *parse_plain(struct parser *p, enum node_kind kind, const char *end_name)
{
    const char *const end[] = {end_name, NULL};
    struct node *node = parse_node(p, kind);
    return node && parse_block_body(p, end, &node->body) ? node : NULL;
}

static struct node *parse_filter_block(struct parser *p)
{
    static const char *const end[] = {"endfilter", NULL};
    struct node *node = parse_node(p, NODE_FILTERBLOCK);
    if (!node || !(node->a = parse_filter_chain(p, NULL, true)) ||
        !parse_block_body(p, end, &node->body)) {
        return NULL;
    }
    return node;
}

static struct node *parse_statement(struct parser *p)
{
    const struct token *t = parse_peek(p);
    if (parse_skip_name(p, "set")) {
        return parse_set(p);
    }
    if (parse_skip_name(p, "if")) {
        return parse_if(p);
    }
    if (parse_skip_name(p, "for")) {
        return parse_for(p);
    }
    if (parse_skip_name(p, "macro")) {
        return parse_macro(p);
    }
    if (parse_skip_name(p, "call")) {
        return parse_call_block(p);
    }
    if (parse_skip_name(p, "filter")) {
        return parse_filter_block(p);
    }
    if (parse_skip_name(p, "with")) {
        return parse_with(p);
    }
    if (parse_skip_name(p, "generation")) {
        return parse_plain(p, NODE_SCOPE, "endgeneration");
    }
    if (parse_skip_name(p, "break")) {
        return parse_node(p, NODE_BREAK);
    }
    if (parse_skip_name(p, "continue")) {
        return parse_node(p, NODE_CONTINUE);
    }
    return parse_fail(p, t, "unknown tag '%.*s'", (int)(t->n < 40 ? t->n : 40), t->s);
}

static struct node *parse_data(struct parser *p)
{
    const struct token *t = parse_peek(p);
    struct node *node = parse_node(p, NODE_DATA);
    p->at++;
    if (node) {
        node->value = tmpl_string_ref(p->a, t->s, t->n);
    }
    return node && node->value ? node : parse_fail(p, t, "the template is too large");
}

static struct node *parse_print(struct parser *p)
{
    p->at++;
    struct node *node = parse_node(p, NODE_PRINT);
    if (!node || !(node->a = parse_tuple(p, false, true, NULL, false))) {
        return NULL;
    }
    if (parse_peek(p)->kind != TOK_VAR_END) {
        return parse_fail(p, parse_peek(p), "expected the end of the expression");
    }
    p->at++;
    return node;
}

static bool at_end_name(struct parser *p, const char *const *end_names)
{
    for (size_t i = 0; end_names && end_names[i]; i++) {
        if (parse_skip_name(p, end_names[i])) {
            return true;
        }
    }
    return false;
}

/* Nodes up to one of end_names (the cursor then stands behind it), or up to the template's end when
 * end_names is NULL. */
static bool parse_body(struct parser *p, const char *const *end_names, struct body *ret_body)
{
    struct node_list nodes = {0};
    if (++p->depth > PARSE_DEPTH_MAX) {
        (void)parse_fail(p, parse_peek(p), "blocks are nested too deeply");
        return false;
    }
    for (;;) {
        const struct token *t = parse_peek(p);
        struct node *node = NULL;
        if (t->kind == TOK_END) {
            if (end_names) {
                const char *const *last = end_names;
                while (last[1]) {
                    last++;
                }
                (void)parse_fail(p, t, "expected %s before the end of the template", *last);
                return false;
            }
            break;
        }
        if (t->kind == TOK_DATA) {
            node = parse_data(p);
        } else if (t->kind == TOK_VAR_BEGIN) {
            node = parse_print(p);
        } else {
            p->at++;
            if (at_end_name(p, end_names)) {
                break;
            }
            node = parse_statement(p);
            /* Tags with a body have consumed their end name; its "%}" closes them here. */
            if (node && !end_of_tag(p)) {
                return false;
            }
        }
        if (!parse_push(p, &nodes, node)) {
            return false;
        }
    }
    p->depth--;
    *ret_body = (struct body){.nodes = nodes.items, .n = nodes.n};
    return true;
}

enum err_code tmpl_parse(struct tmpl_arena *a, const char *source, size_t n_byte,
                         struct body *ret_body, struct err *e)
{
    struct token *tokens = NULL;
    size_t n_token = 0;
    struct err scratch = {0};
    struct err *out = e ? e : &scratch;
    enum err_code rc = tmpl_lex(a, source, n_byte, &tokens, &n_token, out);
    if (rc) {
        return rc;
    }
    struct parser p = {.a = a, .tokens = tokens, .n = n_token, .e = out};
    /* What stands when the arena ran dry and nothing else was said. */
    (void)err_set(out, ERR_LIMIT, "the template is too large");
    if (!parse_body(&p, NULL, ret_body)) {
        return out->code;
    }
    return ERR_OK;
}
