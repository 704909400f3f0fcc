#include "engine/template/parser.h"
#include "engine/template/value_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct node *parse_fail(struct parser *p, const struct token *t, const char *fmt, ...)
{
    char what[160];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    (void)err_set(p->e, ERR_INVALID, "template line %u, column %u: %s", t->line, t->column, what);
    return NULL;
}

struct node *parse_node(struct parser *p, enum node_kind kind)
{
    struct node *node = tmpl_alloc(p->a, sizeof *node);
    if (!node) {
        return parse_fail(p, parse_peek(p), "the template is too large");
    }
    node->kind = kind;
    node->line = parse_peek(p)->line;
    return node;
}

bool parse_push(struct parser *p, struct node_list *l, struct node *item)
{
    if (!item) {
        return false;
    }
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 4;
        struct node **items = tmpl_alloc(p->a, cap * sizeof *items);
        if (!items) {
            (void)parse_fail(p, parse_peek(p), "the template is too large");
            return false;
        }
        if (l->n) {
            memcpy(items, l->items, l->n * sizeof *items);
        }
        l->items = items;
        l->cap = cap;
    }
    l->items[l->n++] = item;
    return true;
}

const struct token *parse_peek(const struct parser *p)
{
    return &p->tokens[p->at];
}

static bool token_is(const struct token *t, enum token_kind kind, const char *text)
{
    return t->kind == kind && t->n == strlen(text) && memcmp(t->s, text, t->n) == 0;
}

bool parse_is_op(const struct parser *p, const char *op)
{
    return token_is(parse_peek(p), TOK_OP, op);
}

bool parse_is_name(const struct parser *p, const char *name)
{
    return token_is(parse_peek(p), TOK_NAME, name);
}

bool parse_skip_op(struct parser *p, const char *op)
{
    bool there = parse_is_op(p, op);
    p->at += there;
    return there;
}

bool parse_skip_name(struct parser *p, const char *name)
{
    bool there = parse_is_name(p, name);
    p->at += there;
    return there;
}

static void describe(const struct token *t, char *out, size_t cap)
{
    static const char *const fixed[] = {
        [TOK_END] = "the end of the template",
        [TOK_DATA] = "text",
        [TOK_VAR_BEGIN] = "'{{'",
        [TOK_VAR_END] = "'}}'",
        [TOK_BLOCK_BEGIN] = "'{%'",
        [TOK_BLOCK_END] = "'%}'",
        [TOK_STRING] = "a string",
        [TOK_INT] = "a number",
        [TOK_FLOAT] = "a number",
    };
    if (t->kind == TOK_NAME || t->kind == TOK_OP) {
        (void)snprintf(out, cap, "'%.*s'", (int)(t->n < 40 ? t->n : 40), t->s);
    } else {
        (void)snprintf(out, cap, "%s", fixed[t->kind]);
    }
}

static struct node *fail_unexpected(struct parser *p, const char *wanted)
{
    char got[64];
    describe(parse_peek(p), got, sizeof got);
    return wanted ? parse_fail(p, parse_peek(p), "expected %s, got %s", wanted, got)
                  : parse_fail(p, parse_peek(p), "unexpected %s", got);
}

bool parse_expect_op(struct parser *p, const char *op)
{
    if (parse_skip_op(p, op)) {
        return true;
    }
    char wanted[8];
    (void)snprintf(wanted, sizeof wanted, "'%s'", op);
    (void)fail_unexpected(p, wanted);
    return false;
}

static const char *copy_text(struct parser *p, const char *s, size_t n)
{
    char *copy = tmpl_alloc(p->a, n + 1);
    if (!copy) {
        (void)parse_fail(p, parse_peek(p), "the template is too large");
        return NULL;
    }
    memcpy(copy, s, n);
    return copy;
}

const char *parse_expect_name(struct parser *p, size_t *ret_n)
{
    const struct token *t = parse_peek(p);
    if (t->kind != TOK_NAME) {
        (void)fail_unexpected(p, "a name");
        return NULL;
    }
    p->at++;
    *ret_n = t->n;
    return copy_text(p, t->s, t->n);
}

static struct node *constant(struct parser *p, struct tmpl_value *v)
{
    struct node *node = v ? parse_node(p, NODE_CONST) : NULL;
    if (node) {
        node->value = v;
    }
    return v ? node : parse_fail(p, parse_peek(p), "the template is too large");
}

/* What a macro's body names decides which extra arguments it takes. */
static void note_macro_name(struct parser *p, const struct token *t)
{
    if (p->macro) {
        p->macro->uses_varargs |= token_is(t, TOK_NAME, "varargs");
        p->macro->uses_kwargs |= token_is(t, TOK_NAME, "kwargs");
        p->macro->uses_caller |= token_is(t, TOK_NAME, "caller");
    }
}

static struct node *parse_name(struct parser *p)
{
    const struct token *t = parse_peek(p);
    if (parse_is_name(p, "true") || parse_is_name(p, "True") || parse_is_name(p, "false") ||
        parse_is_name(p, "False")) {
        struct node *node = constant(p, tmpl_bool(p->a, t->s[0] == 't' || t->s[0] == 'T'));
        p->at++;
        return node;
    }
    if (parse_is_name(p, "none") || parse_is_name(p, "None")) {
        struct node *node = constant(p, tmpl_none(p->a));
        p->at++;
        return node;
    }
    note_macro_name(p, t);
    struct node *node = parse_node(p, NODE_NAME);
    if (node) {
        node->name = parse_expect_name(p, &node->n_name);
    }
    return node && node->name ? node : NULL;
}

static struct node *parse_strings(struct parser *p)
{
    size_t total = 0;
    for (size_t i = p->at; p->tokens[i].kind == TOK_STRING; i++) {
        total += p->tokens[i].n;
    }
    char *text = tmpl_alloc(p->a, total + 1);
    struct node *node = constant(p, text ? tmpl_string_ref(p->a, text, total) : NULL);
    size_t n = 0;
    while (node && parse_peek(p)->kind == TOK_STRING) {
        memcpy(text + n, parse_peek(p)->s, parse_peek(p)->n);
        n += parse_peek(p)->n;
        p->at++;
    }
    return node;
}

static struct node *parse_items(struct parser *p, enum node_kind kind, const char *close)
{
    struct node *node = parse_node(p, kind);
    struct node_list items = {0};
    p->at++;
    while (node && !parse_is_op(p, close)) {
        if (items.n && !parse_expect_op(p, ",")) {
            return NULL;
        }
        if (parse_is_op(p, close)) {
            break;
        }
        if (!parse_push(p, &items, parse_expression(p, true))) {
            return NULL;
        }
        if (kind == NODE_DICT &&
            (!parse_expect_op(p, ":") || !parse_push(p, &items, parse_expression(p, true)))) {
            return NULL;
        }
    }
    if (!node || !parse_expect_op(p, close)) {
        return NULL;
    }
    node->items = items.items;
    node->n_item = items.n;
    return node;
}

struct node *parse_primary(struct parser *p)
{
    const struct token *t = parse_peek(p);
    switch (t->kind) {
    case TOK_NAME: return parse_name(p);
    case TOK_STRING: return parse_strings(p);
    case TOK_INT: p->at++; return constant(p, tmpl_int(p->a, t->num.i));
    case TOK_FLOAT: p->at++; return constant(p, tmpl_float(p->a, t->num.f));
    default: break;
    }
    if (parse_skip_op(p, "(")) {
        struct node *node = parse_tuple(p, false, true, NULL, true);
        return node && parse_expect_op(p, ")") ? node : NULL;
    }
    if (parse_is_op(p, "[")) {
        return parse_items(p, NODE_LIST, "]");
    }
    if (parse_is_op(p, "{")) {
        return parse_items(p, NODE_DICT, "}");
    }
    return fail_unexpected(p, NULL);
}

static bool at_tuple_end(const struct parser *p, const char *end_name)
{
    enum token_kind kind = parse_peek(p)->kind;
    return kind == TOK_VAR_END || kind == TOK_BLOCK_END || parse_is_op(p, ")") ||
           (end_name && parse_is_name(p, end_name));
}

struct node *parse_tuple(struct parser *p, bool simplified, bool with_cond, const char *end_name,
                         bool in_parens)
{
    struct node_list items = {0};
    bool is_tuple = false;
    for (;;) {
        if (items.n && !parse_expect_op(p, ",")) {
            return NULL;
        }
        if (at_tuple_end(p, end_name)) {
            break;
        }
        if (!parse_push(p, &items,
                        simplified ? parse_primary(p) : parse_expression(p, with_cond))) {
            return NULL;
        }
        if (!parse_is_op(p, ",")) {
            break;
        }
        is_tuple = true;
    }
    if (!is_tuple && items.n) {
        return items.items[0];
    }
    if (!is_tuple && !in_parens) {
        return fail_unexpected(p, "an expression");
    }
    struct node *node = parse_node(p, NODE_TUPLE);
    if (node) {
        node->items = items.items;
        node->n_item = items.n;
    }
    return node;
}

static bool parse_kwarg(struct parser *p, struct node *call, size_t *cap)
{
    if (call->n_kwarg == *cap) {
        size_t bigger = *cap ? *cap * 2 : 4;
        struct kwarg *kwargs = tmpl_alloc(p->a, bigger * sizeof *kwargs);
        if (!kwargs) {
            (void)parse_fail(p, parse_peek(p), "the template is too large");
            return false;
        }
        if (call->n_kwarg) {
            memcpy(kwargs, call->kwargs, call->n_kwarg * sizeof *kwargs);
        }
        call->kwargs = kwargs;
        *cap = bigger;
    }
    struct kwarg *k = &call->kwargs[call->n_kwarg];
    k->name = parse_expect_name(p, &k->n_name);
    p->at++; /* = */
    k->value = k->name ? parse_expression(p, true) : NULL;
    call->n_kwarg += k->value != NULL;
    return k->value != NULL;
}

/* "(" arguments ")" into call. */
static bool parse_args(struct parser *p, struct node *call)
{
    struct node_list items = {0};
    size_t kwarg_cap = 0;
    bool first = true;
    if (!parse_expect_op(p, "(")) {
        return false;
    }
    while (!parse_is_op(p, ")")) {
        if (!first && !parse_expect_op(p, ",")) {
            return false;
        }
        if (!first && parse_is_op(p, ")")) {
            break;
        }
        first = false;
        const struct token *t = parse_peek(p);
        bool ok = true;
        if (!call->star_args && !call->star_kwargs && parse_skip_op(p, "*")) {
            ok = (call->star_args = parse_expression(p, true)) != NULL;
        } else if (!call->star_kwargs && parse_skip_op(p, "**")) {
            ok = (call->star_kwargs = parse_expression(p, true)) != NULL;
        } else if (t->kind == TOK_NAME && token_is(t + 1, TOK_OP, "=") && !call->star_kwargs) {
            ok = parse_kwarg(p, call, &kwarg_cap);
        } else if (!call->star_args && !call->star_kwargs && !call->n_kwarg) {
            ok = parse_push(p, &items, parse_expression(p, true));
        } else {
            (void)parse_fail(p, t, "a positional argument follows keyword arguments");
            ok = false;
        }
        if (!ok) {
            return false;
        }
    }
    call->items = items.items;
    call->n_item = items.n;
    return parse_expect_op(p, ")");
}

static struct node *parse_call(struct parser *p, struct node *callee)
{
    struct node *node = parse_node(p, NODE_CALL);
    if (!node || !parse_args(p, node)) {
        return NULL;
    }
    node->a = callee;
    return node;
}

/* [ … ] after an expression: an index or a slice. */
static struct node *parse_subscript(struct parser *p, struct node *of)
{
    struct node *node = parse_node(p, NODE_ITEM);
    struct node *parts[3] = {NULL};
    size_t n_colon = 0;
    p->at++;
    if (!node) {
        return NULL;
    }
    for (size_t i = 0; i < 3; i++) {
        if (!parse_is_op(p, ":") && !parse_is_op(p, "]") &&
            !(parts[i] = parse_expression(p, true))) {
            return NULL;
        }
        if (i < 2 && parse_skip_op(p, ":")) {
            n_colon++;
        } else {
            break;
        }
    }
    if (!n_colon && !parts[0]) {
        return fail_unexpected(p, "a subscript");
    }
    node->a = of;
    node->b = parts[0];
    if (n_colon) {
        node->kind = NODE_SLICE;
        node->items = tmpl_alloc(p->a, sizeof parts);
        if (!node->items) {
            return parse_fail(p, parse_peek(p), "the template is too large");
        }
        memcpy(node->items, parts, sizeof parts);
    }
    return parse_expect_op(p, "]") ? node : NULL;
}

static struct node *parse_attr(struct parser *p, struct node *of)
{
    p->at++;
    const struct token *t = parse_peek(p);
    struct node *node = parse_node(p, t->kind == TOK_INT ? NODE_ITEM : NODE_ATTR);
    if (!node) {
        return NULL;
    }
    node->a = of;
    if (t->kind == TOK_INT) {
        p->at++;
        node->b = constant(p, tmpl_int(p->a, t->num.i));
        return node->b ? node : NULL;
    }
    node->name = parse_expect_name(p, &node->n_name);
    return node->name ? node : NULL;
}

static struct node *parse_postfix(struct parser *p, struct node *node)
{
    for (uint32_t links = 0; node; links++) {
        if (links > PARSE_DEPTH_MAX) {
            return parse_fail(p, parse_peek(p), "an expression is nested too deeply");
        }
        if (parse_is_op(p, ".")) {
            node = parse_attr(p, node);
        } else if (parse_is_op(p, "[")) {
            node = parse_subscript(p, node);
        } else if (parse_is_op(p, "(")) {
            node = parse_call(p, node);
        } else {
            break;
        }
    }
    return node;
}

/* A filter's or test's name, dots included. */
static const char *parse_dotted_name(struct parser *p, size_t *ret_n)
{
    const char *name = parse_expect_name(p, ret_n);
    while (name && parse_skip_op(p, ".")) {
        size_t n = 0;
        const char *more = parse_expect_name(p, &n);
        char *joined = more ? tmpl_alloc(p->a, *ret_n + n + 2) : NULL;
        if (!joined) {
            return NULL;
        }
        (void)sprintf(joined, "%s.%s", name, more);
        *ret_n += n + 1;
        name = joined;
    }
    return name;
}

struct node *parse_filter_chain(struct parser *p, struct node *node, bool start_inline)
{
    for (uint32_t links = 0; start_inline || parse_is_op(p, "|"); links++) {
        if (links > PARSE_DEPTH_MAX) {
            return parse_fail(p, parse_peek(p), "an expression is nested too deeply");
        }
        p->at += !start_inline;
        start_inline = false;
        struct node *filter = parse_node(p, NODE_FILTER);
        if (!filter || !(filter->name = parse_dotted_name(p, &filter->n_name)) ||
            (parse_is_op(p, "(") && !parse_args(p, filter))) {
            return NULL;
        }
        filter->a = node;
        node = filter;
    }
    return node;
}

static struct node *parse_test(struct parser *p, struct node *of)
{
    p->at++; /* is */
    bool negated = parse_skip_name(p, "not");
    struct node *node = parse_node(p, NODE_TEST);
    if (!node || !(node->name = parse_dotted_name(p, &node->n_name))) {
        return NULL;
    }
    node->a = of;
    enum token_kind kind = parse_peek(p)->kind;
    bool value_follows = kind == TOK_NAME || kind == TOK_STRING || kind == TOK_INT ||
                         kind == TOK_FLOAT || parse_is_op(p, "[") || parse_is_op(p, "{");
    if (parse_is_op(p, "(")) {
        if (!parse_args(p, node)) {
            return NULL;
        }
    } else if (value_follows && !parse_is_name(p, "else") && !parse_is_name(p, "or") &&
               !parse_is_name(p, "and")) {
        struct node_list items = {0};
        if (parse_is_name(p, "is")) {
            return parse_fail(p, parse_peek(p), "tests with 'is' cannot be chained");
        }
        struct node *arg = parse_primary(p);
        if (!arg || !parse_push(p, &items, parse_postfix(p, arg))) {
            return NULL;
        }
        node->items = items.items;
        node->n_item = 1;
    }
    if (!negated) {
        return node;
    }
    struct node *not_node = parse_node(p, NODE_UNARY);
    if (not_node) {
        not_node->name = "not";
        not_node->a = node;
    }
    return not_node;
}

static struct node *parse_filters_and_tests(struct parser *p, struct node *node)
{
    for (uint32_t links = 0; node; links++) {
        if (links > PARSE_DEPTH_MAX) {
            return parse_fail(p, parse_peek(p), "an expression is nested too deeply");
        }
        if (parse_is_op(p, "|")) {
            node = parse_filter_chain(p, node, false);
        } else if (parse_is_name(p, "is")) {
            node = parse_test(p, node);
        } else if (parse_is_op(p, "(")) {
            node = parse_call(p, node);
        } else {
            break;
        }
    }
    return node;
}

static struct node *parse_unary(struct parser *p, bool with_filter)
{
    struct node *node = NULL;
    if (++p->depth > PARSE_DEPTH_MAX) {
        return parse_fail(p, parse_peek(p), "an expression is nested too deeply");
    }
    if (parse_is_op(p, "-") || parse_is_op(p, "+")) {
        node = parse_node(p, NODE_UNARY);
        if (node) {
            node->name = parse_is_op(p, "-") ? "-" : "+";
            p->at++;
            node->a = parse_unary(p, false);
            node = node->a ? node : NULL;
        }
    } else {
        node = parse_primary(p);
    }
    node = node ? parse_postfix(p, node) : NULL;
    if (node && with_filter) {
        node = parse_filters_and_tests(p, node);
    }
    p->depth--;
    return node;
}

static struct node *binary(struct parser *p, const char *op, struct node *a, struct node *b)
{
    struct node *node = a && b ? parse_node(p, NODE_BINARY) : NULL;
    if (node) {
        node->name = op;
        node->a = a;
        node->b = b;
    }
    return node;
}

/* Binary operators from tightest to loosest: ** | * / // % | ~ | + - */
static struct node *parse_binary(struct parser *p, int level)
{
    static const char *const ops[4][5] = {
        {"**", NULL}, {"*", "/", "//", "%", NULL}, {"~", NULL}, {"+", "-", NULL}};
    struct node *left = level ? parse_binary(p, level - 1) : parse_unary(p, true);
    uint32_t links = 0;
    while (left) {
        const char *op = NULL;
        for (int i = 0; ops[level][i] && !op; i++) {
            op = parse_skip_op(p, ops[level][i]) ? ops[level][i] : NULL;
        }
        if (!op) {
            break;
        }
        if (++links > 4 * PARSE_DEPTH_MAX) {
            return parse_fail(p, parse_peek(p), "an expression is nested too deeply");
        }
        left = binary(p, op, left, level ? parse_binary(p, level - 1) : parse_unary(p, true));
    }
    return left;
}

/* The comparison operator at the cursor, consumed; NULL if there is none. */
static const char *take_comparison(struct parser *p)
{
    static const char *const ops[] = {"==", "!=", "<=", ">=", "<", ">"};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        if (parse_skip_op(p, ops[i])) {
            return ops[i];
        }
    }
    if (parse_skip_name(p, "in")) {
        return "in";
    }
    if (parse_is_name(p, "not") && token_is(parse_peek(p) + 1, TOK_NAME, "in")) {
        p->at += 2;
        return "notin";
    }
    return NULL;
}

static struct node *parse_compare(struct parser *p)
{
    struct node *first = parse_binary(p, 3);
    struct node_list items = {0};
    const char *ops[16];
    for (const char *op = first ? take_comparison(p) : NULL; op; op = take_comparison(p)) {
        if (items.n == sizeof ops / sizeof *ops) {
            return parse_fail(p, parse_peek(p), "a comparison has too many parts");
        }
        ops[items.n] = op;
        if (!parse_push(p, &items, parse_binary(p, 3))) {
            return NULL;
        }
    }
    if (!items.n) {
        return first;
    }
    struct node *node = parse_node(p, NODE_COMPARE);
    if (!node || !(node->ops = tmpl_alloc(p->a, items.n * sizeof *node->ops))) {
        return NULL;
    }
    memcpy(node->ops, ops, items.n * sizeof *ops);
    node->a = first;
    node->items = items.items;
    node->n_item = items.n;
    return node;
}

static struct node *parse_not(struct parser *p)
{
    if (!parse_is_name(p, "not")) {
        return parse_compare(p);
    }
    if (++p->depth > PARSE_DEPTH_MAX) {
        return parse_fail(p, parse_peek(p), "an expression is nested too deeply");
    }
    struct node *node = parse_node(p, NODE_UNARY);
    p->at++;
    if (node) {
        node->name = "not";
        node->a = parse_not(p);
    }
    p->depth--;
    return node && node->a ? node : NULL;
}

static struct node *parse_logic(struct parser *p, bool is_or)
{
    struct node *left = is_or ? parse_logic(p, false) : parse_not(p);
    const char *op = is_or ? "or" : "and";
    for (uint32_t links = 0; left && parse_skip_name(p, op); links++) {
        if (links > 4 * PARSE_DEPTH_MAX) {
            return parse_fail(p, parse_peek(p), "an expression is nested too deeply");
        }
        left = binary(p, op, left, is_or ? parse_logic(p, false) : parse_not(p));
    }
    return left;
}

struct node *parse_expression(struct parser *p, bool with_cond)
{
    if (++p->depth > PARSE_DEPTH_MAX) {
        return parse_fail(p, parse_peek(p), "an expression is nested too deeply");
    }
    struct node *left = parse_logic(p, true);
    while (left && with_cond && parse_skip_name(p, "if")) {
        struct node *node = parse_node(p, NODE_COND);
        if (!node || !(node->b = parse_logic(p, true))) {
            return NULL;
        }
        node->a = left;
        if (parse_skip_name(p, "else") && !(node->c = parse_expression(p, true))) {
            return NULL;
        }
        left = node;
    }
    p->depth--;
    return left;
}
