/* The parsed template. Nodes live in the template's arena and are read-only once parsed, so that
 * any number of threads may render at once. One struct serves all kinds; the table says which
 * fields a kind uses. */
#ifndef ENGINE_TEMPLATE_AST_H
#define ENGINE_TEMPLATE_AST_H

#include "base/err.h"
#include "engine/template/value.h"

#include <stddef.h>
#include <stdint.h>

enum node_kind {
    /* expressions */
    NODE_CONST,   /* value */
    NODE_NAME,    /* name */
    NODE_LIST,    /* items */
    NODE_TUPLE,   /* items */
    NODE_DICT,    /* items: key, value, key, value… */
    NODE_ATTR,    /* a.name */
    NODE_ITEM,    /* a[b] */
    NODE_SLICE,   /* a[items[0]:items[1]:items[2]], each may be NULL */
    NODE_CALL,    /* a(items…, kwargs…) */
    NODE_FILTER,  /* a | name(items…, kwargs…); a NULL: of the block's text */
    NODE_TEST,    /* a is name(items…) */
    NODE_UNARY,   /* name: "not", "-", "+"; a */
    NODE_BINARY,  /* name: the operator, "and", "or", "in", "notin"; a, b */
    NODE_COMPARE, /* a, then items as operands; names in ops: a < b < c */
    NODE_COND,    /* a if b else c (c may be NULL) */
    /* statements */
    NODE_DATA,        /* value: text to print */
    NODE_PRINT,       /* a */
    NODE_SET,         /* a (target) = b */
    NODE_SETBLOCK,    /* a (target); b: filter chain or NULL; body */
    NODE_NSREF,       /* target: name.attr, attr in value */
    NODE_IF,          /* a; body; else_body */
    NODE_FOR,         /* a (target) in b if c; recursive; body; else_body */
    NODE_MACRO,       /* name(items = parameter names, defaults in kwargs by position); body */
    NODE_CALLBLOCK,   /* a: the call; b: a NODE_MACRO that is `caller` */
    NODE_FILTERBLOCK, /* a: filter chain; body */
    NODE_WITH,        /* items: target, value, target, value…; body */
    NODE_SCOPE,       /* body in a scope of its own: block, autoescape */
    NODE_BODY,        /* body in the same scope: generation */
    NODE_BREAK,
    NODE_CONTINUE,
    NODE_DO, /* a, result dropped */
};

struct node;

struct body {
    struct node **nodes;
    size_t n;
};

struct kwarg {
    const char *name;
    size_t n_name;
    struct node *value;
};

struct node {
    enum node_kind kind;
    uint32_t line;
    const char *name; /* NUL-terminated */
    size_t n_name;
    struct tmpl_value *value;
    struct node *a;
    struct node *b;
    struct node *c;
    struct node **items;
    size_t n_item;
    struct kwarg *kwargs;
    size_t n_kwarg;
    struct node *star_args;   /* f(*x) */
    struct node *star_kwargs; /* f(**x) */
    const char **ops;         /* COMPARE: [n_item] */
    struct body body;
    struct body else_body;
    int recursive;    /* FOR */
    int uses_varargs; /* MACRO: its body names varargs, kwargs, caller */
    int uses_kwargs;
    int uses_caller;
};

struct parser;

/* Parses a whole template. Errors hold line and column. */
enum err_code tmpl_parse(struct tmpl_arena *a, const char *source, size_t n_byte,
                         struct body *ret_body, struct err *e);

#endif
