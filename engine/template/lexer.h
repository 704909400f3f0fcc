/* Template text to tokens, with Jinja's whitespace control as chat templates expect it: trim_blocks
 * and lstrip_blocks on, one newline at the end of the source dropped. Source: the Jinja template
 * designer documentation. The tokens live in the arena; one thread. */
#ifndef ENGINE_TEMPLATE_LEXER_H
#define ENGINE_TEMPLATE_LEXER_H

#include "base/err.h"
#include "engine/template/value.h"

#include <stddef.h>
#include <stdint.h>

enum token_kind {
    TOK_END,
    TOK_DATA,      /* text outside tags: s, n */
    TOK_VAR_BEGIN, /* {{ */
    TOK_VAR_END,
    TOK_BLOCK_BEGIN, /* {% */
    TOK_BLOCK_END,
    TOK_NAME,   /* s, n */
    TOK_STRING, /* s, n: escapes decoded */
    TOK_INT,    /* i */
    TOK_FLOAT,  /* f */
    TOK_OP,     /* s, n: the operator's text */
};

struct token {
    enum token_kind kind;
    uint32_t line;
    uint32_t column;
    const char *s;
    size_t n;
    union {
        int64_t i;
        double f;
    } num;
};

/* Errors hold line and column. *ret_tokens ends with TOK_END. */
enum err_code tmpl_lex(struct tmpl_arena *a, const char *source, size_t n_byte,
                       struct token **ret_tokens, size_t *ret_n, struct err *e);

#endif
