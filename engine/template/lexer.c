#include "engine/template/lexer.h"

#include "base/utf8.h"
#include "engine/template/value_impl.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct lexer {
    struct tmpl_arena *a;
    const char *src; /* newlines already "\n" */
    size_t n;
    size_t at;
    size_t mark; /* where line and column were last counted */
    uint32_t line;
    uint32_t column;
    bool line_starting; /* the last tag ended with a newline, or nothing was read yet */
    struct token *tokens;
    size_t n_token;
    size_t cap;
    struct err *e;
};

/* Line and column of offset `at`; offsets come in rising order, but for those of errors. */
static void locate(struct lexer *x, size_t at)
{
    if (at < x->mark) {
        x->mark = 0;
        x->line = 1;
        x->column = 1;
    }
    for (; x->mark < at; x->mark++) {
        if (x->src[x->mark] == '\n') {
            x->line++;
            x->column = 1;
        } else if (((unsigned char)x->src[x->mark] & 0xc0) != 0x80) {
            x->column++;
        }
    }
}

static bool fail(struct lexer *x, size_t at, const char *what)
{
    locate(x, at);
    (void)err_set(x->e, ERR_INVALID, "template line %u, column %u: %s", x->line, x->column, what);
    return false;
}

static struct token *push(struct lexer *x, enum token_kind kind, size_t at, const char *s, size_t n)
{
    if (x->n_token == x->cap) {
        size_t cap = x->cap ? x->cap * 2 : 64;
        struct token *bigger = tmpl_alloc(x->a, cap * sizeof *bigger);
        if (!bigger) {
            (void)fail(x, at, "the template is too large");
            return NULL;
        }
        if (x->n_token) {
            memcpy(bigger, x->tokens, x->n_token * sizeof *bigger);
        }
        x->tokens = bigger;
        x->cap = cap;
    }
    locate(x, at);
    struct token *t = &x->tokens[x->n_token++];
    *t = (struct token){.kind = kind, .line = x->line, .column = x->column, .s = s, .n = n};
    return t;
}

static bool starts(const struct lexer *x, size_t at, const char *word)
{
    size_t n = strlen(word);
    return x->n - at >= n && memcmp(x->src + at, word, n) == 0;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static size_t skip_space(const struct lexer *x, size_t at)
{
    while (at < x->n && is_space(x->src[at])) {
        at++;
    }
    return at;
}

/* Emits text [from, to) as the tag behind it leaves it: "-" strips all white space before the tag,
 * a block or comment alone on its line (so far) loses the blanks before it. */
static bool emit_data(struct lexer *x, size_t from, size_t to, char sign, bool is_variable)
{
    size_t end = to;
    if (sign == '-') {
        while (end > from && is_space(x->src[end - 1])) {
            end--;
        }
    } else if (sign != '+' && !is_variable) {
        size_t line_start = end;
        while (line_start > from && x->src[line_start - 1] != '\n') {
            line_start--;
        }
        if (line_start > from || x->line_starting) {
            size_t i = line_start;
            while (i < end && is_space(x->src[i])) {
                i++;
            }
            if (i == end) {
                end = line_start;
            }
        }
    }
    return end == from || push(x, TOK_DATA, from, x->src + from, end - from);
}

/* Past a closing delimiter at x->at: `-` eats white space, a block's or comment's newline goes. */
static void close_tag(struct lexer *x, bool stripped, bool trims_newline)
{
    if (stripped) {
        x->at = skip_space(x, x->at);
    } else if (trims_newline && x->at < x->n && x->src[x->at] == '\n') {
        x->at++;
    }
    x->line_starting = x->at > 0 && x->src[x->at - 1] == '\n';
}

static bool lex_comment(struct lexer *x, size_t begin)
{
    const char *end = memmem(x->src + x->at, x->n - x->at, "#}", 2);
    if (!end) {
        return fail(x, begin, "a comment has no end");
    }
    bool plus = end > x->src + x->at && end[-1] == '+';
    bool minus = end > x->src + x->at && end[-1] == '-';
    x->at = (size_t)(end - x->src) + 2;
    close_tag(x, minus, !plus);
    return true;
}

/* {% raw %}: text up to {% endraw %} as it stands. True in *ret_was when this tag is one. */
static bool lex_raw(struct lexer *x, size_t begin, bool *ret_was)
{
    size_t at = skip_space(x, x->at);
    *ret_was = false;
    if (!starts(x, at, "raw")) {
        return true;
    }
    at = skip_space(x, at + 3);
    bool minus = at < x->n && x->src[at] == '-';
    at += minus;
    if (!starts(x, at, "%}")) {
        return true;
    }
    *ret_was = true;
    x->at = at + 2;
    close_tag(x, minus, false);
    for (size_t i = x->at; i + 1 < x->n; i++) {
        if (!starts(x, i, "{%")) {
            continue;
        }
        char sign =
            i + 2 < x->n && (x->src[i + 2] == '-' || x->src[i + 2] == '+') ? x->src[i + 2] : 0;
        size_t j = skip_space(x, i + 2 + (sign != 0));
        if (!starts(x, j, "endraw")) {
            continue;
        }
        j = skip_space(x, j + 6);
        char close = j < x->n && (x->src[j] == '-' || x->src[j] == '+') ? x->src[j] : 0;
        j += close != 0;
        if (!starts(x, j, "%}")) {
            continue;
        }
        if (!emit_data(x, x->at, i, sign, false)) {
            return false;
        }
        x->at = j + 2;
        close_tag(x, close == '-', close != '+');
        return true;
    }
    return fail(x, begin, "raw has no endraw");
}

static int hex_value(const char *s, size_t n, uint32_t *ret)
{
    uint32_t v = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isxdigit((unsigned char)s[i])) {
            return 0;
        }
        int c = tolower((unsigned char)s[i]);
        v = v * 16 + (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    *ret = v;
    return 1;
}

/* Decodes one escape at s[0] == '\\'; returns the bytes it took, 0 when it is none that is known
 * (the backslash then stays), and appends to out. */
static size_t unescape(const char *s, size_t n, char *out, size_t *n_out)
{
    static const char from[] = "abfnrtv\\'\"";
    static const char to[] = "\a\b\f\n\r\t\v\\'\"";
    if (n < 2) {
        return 0;
    }
    const char *simple = s[1] ? strchr(from, s[1]) : NULL;
    if (simple) {
        out[(*n_out)++] = to[simple - from];
        return 2;
    }
    if (s[1] == '\n') {
        return 2;
    }
    if (s[1] >= '0' && s[1] <= '7') {
        uint32_t v = 0;
        size_t i = 1;
        while (i < 4 && i < n && s[i] >= '0' && s[i] <= '7') {
            v = v * 8 + (uint32_t)(s[i++] - '0');
        }
        *n_out += utf8_encode(v, out + *n_out);
        return i;
    }
    size_t digits = s[1] == 'x' ? 2 : s[1] == 'u' ? 4 : s[1] == 'U' ? 8 : 0;
    uint32_t cp = 0;
    if (digits && n >= 2 + digits && hex_value(s + 2, digits, &cp) && cp < 0x110000 &&
        (cp < 0xd800 || cp > 0xdfff)) {
        *n_out += utf8_encode(cp, out + *n_out);
        return 2 + digits;
    }
    return 0;
}

static bool lex_string(struct lexer *x)
{
    size_t begin = x->at;
    char quote = x->src[begin];
    size_t end = begin + 1;
    while (end < x->n && x->src[end] != quote) {
        end += x->src[end] == '\\' && end + 1 < x->n ? 2 : 1;
    }
    if (end >= x->n) {
        return fail(x, begin, "a string has no closing quote");
    }
    char *out = tmpl_alloc(x->a, end - begin + 4);
    if (!out) {
        return fail(x, begin, "the template is too large");
    }
    size_t n_out = 0;
    for (size_t i = begin + 1; i < end;) {
        size_t took = x->src[i] == '\\' ? unescape(x->src + i, end - i, out, &n_out) : 0;
        if (!took) {
            out[n_out++] = x->src[i];
            took = 1;
        }
        i += took;
    }
    x->at = end + 1;
    return push(x, TOK_STRING, begin, out, n_out);
}

/* Digits with single underscores between them; returns their end. */
static size_t scan_digits(const struct lexer *x, size_t at)
{
    while (at < x->n &&
           (isdigit((unsigned char)x->src[at]) ||
            (x->src[at] == '_' && at + 1 < x->n && isdigit((unsigned char)x->src[at + 1])))) {
        at++;
    }
    return at;
}

static bool lex_number(struct lexer *x)
{
    size_t begin = x->at;
    bool after_dot = begin > 0 && x->src[begin - 1] == '.';
    size_t end = scan_digits(x, begin);
    bool is_float = false;
    if (!after_dot && end + 1 < x->n && x->src[end] == '.' &&
        isdigit((unsigned char)x->src[end + 1])) {
        is_float = true;
        end = scan_digits(x, end + 1);
    }
    size_t exp = end;
    if (!after_dot && exp < x->n && (x->src[exp] == 'e' || x->src[exp] == 'E')) {
        exp++;
        exp += exp < x->n && (x->src[exp] == '+' || x->src[exp] == '-');
        if (exp < x->n && isdigit((unsigned char)x->src[exp])) {
            is_float = true;
            end = scan_digits(x, exp);
        }
    }
    char text[64];
    size_t n = 0;
    for (size_t i = begin; i < end && n + 1 < sizeof text; i++) {
        if (x->src[i] != '_') {
            text[n++] = x->src[i];
        }
    }
    text[n] = 0;
    errno = 0;
    struct token *t = push(x, is_float ? TOK_FLOAT : TOK_INT, begin, x->src + begin, end - begin);
    if (!t) {
        return false;
    }
    if (is_float) {
        t->num.f = strtod(text, NULL);
    } else {
        t->num.i = strtoll(text, NULL, 10);
        if (errno == ERANGE || end - begin >= sizeof text) {
            return fail(x, begin, "a number is out of range");
        }
    }
    x->at = end;
    return true;
}

static bool is_name_start(char c)
{
    return isalpha((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80;
}

/* The longest operator at x->at. */
static size_t operator_len(const struct lexer *x)
{
    static const char *const two[] = {"==", "!=", ">=", "<=", "//", "**"};
    for (size_t i = 0; i < sizeof two / sizeof *two; i++) {
        if (starts(x, x->at, two[i])) {
            return 2;
        }
    }
    return x->src[x->at] && strchr("+-*/%~[](){}<>=.:|,", x->src[x->at]) ? 1 : 0;
}

/* Tokens inside {{ }} or {% %} until its end; braces, brackets and parentheses must balance. */
static bool lex_expression(struct lexer *x, bool is_block, size_t begin)
{
    static const char open[] = "([{";
    static const char close[] = ")]}";
    char stack[64];
    size_t depth = 0;
    const char *end_word = is_block ? "%}" : "}}";
    for (;;) {
        x->at = skip_space(x, x->at);
        if (x->at >= x->n) {
            return fail(x, begin, is_block ? "a block tag has no end" : "an expression has no end");
        }
        char c = x->src[x->at];
        bool signed_end = (c == '-' || (c == '+' && is_block)) && starts(x, x->at + 1, end_word);
        if (!depth && (signed_end || starts(x, x->at, end_word))) {
            if (!push(x, is_block ? TOK_BLOCK_END : TOK_VAR_END, x->at, end_word, 2)) {
                return false;
            }
            x->at += 2 + (signed_end ? 1 : 0);
            close_tag(x, signed_end && c == '-', is_block && !(signed_end && c == '+'));
            return true;
        }
        if (c == '"' || c == '\'') {
            if (!lex_string(x)) {
                return false;
            }
        } else if (isdigit((unsigned char)c)) {
            if (!lex_number(x)) {
                return false;
            }
        } else if (is_name_start(c)) {
            size_t from = x->at;
            while (x->at < x->n &&
                   (is_name_start(x->src[x->at]) || isdigit((unsigned char)x->src[x->at]))) {
                x->at++;
            }
            if (!push(x, TOK_NAME, from, x->src + from, x->at - from)) {
                return false;
            }
        } else {
            size_t n = operator_len(x);
            if (!n) {
                return fail(x, x->at, "an unexpected character");
            }
            if (strchr(open, c)) {
                if (depth == sizeof stack) {
                    return fail(x, x->at, "brackets are nested too deeply");
                }
                stack[depth++] = close[strchr(open, c) - open];
            } else if (strchr(close, c) && (!depth || stack[--depth] != c)) {
                return fail(x, x->at, "a bracket closes nothing");
            }
            if (!push(x, TOK_OP, x->at, x->src + x->at, n)) {
                return false;
            }
            x->at += n;
        }
    }
}

/* One tag at x->at ("{{", "{%" or "{#"), with the data [from, x->at) before it. */
static bool lex_tag(struct lexer *x, size_t from)
{
    size_t begin = x->at;
    char kind = x->src[begin + 1];
    char sign = begin + 2 < x->n ? x->src[begin + 2] : 0;
    if (sign != '-' && sign != '+') {
        sign = 0;
    }
    if (kind == '{' && sign == '+') {
        sign = 0; /* {{+x}} is a unary plus */
    }
    if (!emit_data(x, from, begin, sign, kind == '{')) {
        return false;
    }
    x->at = begin + 2 + (sign != 0);
    if (kind == '#') {
        return lex_comment(x, begin);
    }
    if (kind == '%') {
        bool was_raw = false;
        if (!lex_raw(x, begin, &was_raw) || was_raw) {
            return was_raw;
        }
    }
    return push(x, kind == '{' ? TOK_VAR_BEGIN : TOK_BLOCK_BEGIN, begin, x->src + begin, 2) &&
           lex_expression(x, kind == '%', begin);
}

static bool lex_all(struct lexer *x)
{
    while (x->at < x->n) {
        size_t from = x->at;
        while (x->at < x->n && !starts(x, x->at, "{{") && !starts(x, x->at, "{%") &&
               !starts(x, x->at, "{#")) {
            x->at++;
        }
        if (x->at == x->n) {
            return push(x, TOK_DATA, from, x->src + from, x->n - from) &&
                   push(x, TOK_END, x->n, "", 0);
        }
        if (!lex_tag(x, from)) {
            return false;
        }
    }
    return push(x, TOK_END, x->n, "", 0);
}

enum err_code tmpl_lex(struct tmpl_arena *a, const char *source, size_t n_byte,
                       struct token **ret_tokens, size_t *ret_n, struct err *e)
{
    size_t valid = utf8_valid_prefix(source, n_byte);
    if (valid != n_byte) {
        return err_set(e, ERR_INVALID, "template byte %zu is not UTF-8", valid);
    }
    char *text = tmpl_alloc(a, n_byte + 1);
    if (!text) {
        return err_set(e, ERR_LIMIT, "the template of %zu bytes is too large", n_byte);
    }
    size_t n = 0;
    for (size_t i = 0; i < n_byte; i++) {
        if (source[i] == '\r') {
            text[n++] = '\n';
            i += i + 1 < n_byte && source[i + 1] == '\n';
        } else {
            text[n++] = source[i];
        }
    }
    if (n && text[n - 1] == '\n') {
        n--;
    }
    text[n] = 0;
    struct lexer x = {
        .a = a, .src = text, .n = n, .line = 1, .column = 1, .line_starting = true, .e = e};
    if (!lex_all(&x)) {
        return e ? e->code : ERR_INVALID;
    }
    *ret_tokens = x.tokens;
    *ret_n = x.n_token;
    return ERR_OK;
}
