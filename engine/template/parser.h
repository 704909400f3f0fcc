/* What the two halves of the parser share: parse.c (statements) and parse_expr.c (expressions). */
#ifndef ENGINE_TEMPLATE_PARSER_H
#define ENGINE_TEMPLATE_PARSER_H

#include "engine/template/ast.h"
#include "engine/template/lexer.h"

#include <stdbool.h>

#define PARSE_DEPTH_MAX 100

struct parser {
    struct tmpl_arena *a;
    const struct token *tokens;
    size_t at;
    size_t n;
    uint32_t depth;
    struct node *macro; /* the innermost macro being parsed, to see what its body names */
    struct err *e;
};

/* A list of nodes that grows in the arena. */
struct node_list {
    struct node **items;
    size_t n;
    size_t cap;
};

struct node *parse_fail(struct parser *p, const struct token *t, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
struct node *parse_node(struct parser *p, enum node_kind kind);
bool parse_push(struct parser *p, struct node_list *l, struct node *item);
const struct token *parse_peek(const struct parser *p);
bool parse_is_op(const struct parser *p, const char *op);
bool parse_is_name(const struct parser *p, const char *name);
bool parse_skip_op(struct parser *p, const char *op);
bool parse_skip_name(struct parser *p, const char *name);
bool parse_expect_op(struct parser *p, const char *op);
/* The next token as a name, copied NUL-terminated; NULL and an error if it is none. */
const char *parse_expect_name(struct parser *p, size_t *ret_n);

struct node *parse_expression(struct parser *p, bool with_cond);
/* An expression, or a tuple where commas follow. end_name: a name that ends it ("in", "recursive").
 */
struct node *parse_tuple(struct parser *p, bool simplified, bool with_cond, const char *end_name,
                         bool in_parens);
struct node *parse_primary(struct parser *p);
struct node *parse_filter_chain(struct parser *p, struct node *node, bool start_inline);

#endif
