#include "server/json_check.h"

#include "base/buf.h"
#include "base/utf8.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct key {
    uint32_t offset; /* in key_bytes */
    uint32_t n;
};

struct checker {
    const char *text;
    size_t n;
    size_t at;
    struct err *e;
    size_t n_node;
    size_t depth;
    struct {
        char close; /* ']' or '}' */
        size_t key_first;
        size_t key_bytes_first;
    } open[SRV_JSON_DEPTH_MAX];
    struct buf keys;      /* struct key of every object still open */
    struct buf key_bytes; /* their unescaped bytes */
};

static enum err_code wrong(struct checker *c, size_t at, const char *what)
{
    return err_set(c->e, ERR_INVALID, "not valid JSON at byte %zu: %s", at, what);
}

static void skip_space(struct checker *c)
{
    while (c->at < c->n && c->text[c->at] && strchr(" \t\n\r", c->text[c->at])) {
        c->at++;
    }
}

static int hex_value(char ch)
{
    if (ch >= '0' && ch <= '9') {
        return ch - '0';
    }
    char low = (char)(ch | 0x20);
    return low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

/* The four digits after \u; -1 when they are not four hex digits. */
static int32_t read_hex4(const struct checker *c, size_t at)
{
    int32_t v = 0;
    for (size_t i = 0; i < 4; i++) {
        int digit = at + i < c->n ? hex_value(c->text[at + i]) : -1;
        if (digit < 0) {
            return -1;
        }
        v = v * 16 + digit;
    }
    return v;
}

/* At the backslash of \uXXXX, or of a surrogate pair. Appends the character to out (may be NULL).
 */
static enum err_code check_unicode_escape(struct checker *c, struct buf *out)
{
    int32_t cp = read_hex4(c, c->at + 2);
    size_t n_text = 6;
    if (cp < 0) {
        return wrong(c, c->at, "\\u needs four hex digits");
    }
    if (cp == 0) {
        return wrong(c, c->at, "U+0000 is not accepted in text");
    }
    if (cp >= 0xDC00 && cp <= 0xDFFF) {
        return wrong(c, c->at, "lone low surrogate");
    }
    if (cp >= 0xD800 && cp <= 0xDBFF) {
        bool escaped = c->at + 8 <= c->n && c->text[c->at + 6] == '\\' && c->text[c->at + 7] == 'u';
        int32_t low = escaped ? read_hex4(c, c->at + 8) : -1;
        if (low < 0xDC00 || low > 0xDFFF) {
            return wrong(c, c->at, "lone high surrogate");
        }
        cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
        n_text = 12;
    }
    if (out) {
        char bytes[4];
        buf_append(out, bytes, utf8_encode((uint32_t)cp, bytes));
    }
    c->at += n_text;
    return ERR_OK;
}

static enum err_code check_escape(struct checker *c, struct buf *out)
{
    static const char letters[] = "\"\\/bfnrt";
    static const char values[] = "\"\\/\b\f\n\r\t";
    char letter = c->at + 1 < c->n ? c->text[c->at + 1] : '\0';
    if (letter == 'u') {
        return check_unicode_escape(c, out);
    }
    const char *found = letter ? strchr(letters, letter) : NULL;
    if (!found) {
        return wrong(c, c->at, "unknown escape");
    }
    if (out) {
        buf_putc(out, values[found - letters]);
    }
    c->at += 2;
    return ERR_OK;
}

/* At the opening quote; ends after the closing one. out (may be NULL) gets the unescaped bytes. */
static enum err_code check_string(struct checker *c, struct buf *out)
{
    size_t begin = c->at++;
    while (c->at < c->n) {
        unsigned char ch = (unsigned char)c->text[c->at];
        size_t k = 1;
        if (ch == '"') {
            c->at++;
            return ERR_OK;
        }
        if (ch == '\\') {
            enum err_code code = check_escape(c, out);
            if (code != ERR_OK) {
                return code;
            }
            continue;
        }
        if (ch < 0x20) {
            return wrong(c, c->at, "control character in a string");
        }
        if (ch >= 0x80) {
            k = utf8_char_len(c->text + c->at, c->n - c->at);
            if (!k) {
                return wrong(c, c->at, "bytes that are not UTF-8");
            }
        }
        if (out) {
            buf_append(out, c->text + c->at, k);
        }
        c->at += k;
    }
    return wrong(c, begin, "string without an end");
}

static size_t skip_digits(struct checker *c)
{
    size_t begin = c->at;
    while (c->at < c->n && c->text[c->at] >= '0' && c->text[c->at] <= '9') {
        c->at++;
    }
    return c->at - begin;
}

static char peek(const struct checker *c)
{
    return c->at < c->n ? c->text[c->at] : '\0';
}

static enum err_code check_number(struct checker *c)
{
    size_t begin = c->at;
    if (peek(c) == '-') {
        c->at++;
    }
    size_t first = c->at;
    size_t n_digit = skip_digits(c);
    if (!n_digit) {
        return wrong(c, begin, "expected a value");
    }
    if (n_digit > 1 && c->text[first] == '0') {
        return wrong(c, begin, "number with a leading zero");
    }
    if (peek(c) == '.') {
        c->at++;
        if (!skip_digits(c)) {
            return wrong(c, begin, "number without digits after the point");
        }
    }
    if (peek(c) == 'e' || peek(c) == 'E') {
        c->at++;
        if (peek(c) == '+' || peek(c) == '-') {
            c->at++;
        }
        if (!skip_digits(c)) {
            return wrong(c, begin, "number without digits in its exponent");
        }
    }
    /* The text goes on with no byte of a number, or with the closing NUL: strtod stops there. */
    if (!isfinite(strtod(c->text + begin, NULL))) {
        return wrong(c, begin, "number too large");
    }
    return ERR_OK;
}

static enum err_code check_word(struct checker *c)
{
    static const char *const words[] = {"true", "false", "null"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t k = strlen(words[i]);
        if (c->n - c->at >= k && memcmp(c->text + c->at, words[i], k) == 0) {
            c->at += k;
            return ERR_OK;
        }
    }
    return wrong(c, c->at, "expected a value");
}

static enum err_code count_node(struct checker *c)
{
    if (++c->n_node > SRV_JSON_NODE_MAX) {
        return err_set(c->e, ERR_LIMIT, "JSON has more than %zu values", SRV_JSON_NODE_MAX);
    }
    return ERR_OK;
}

static enum err_code open_container(struct checker *c, char close)
{
    if (c->depth == SRV_JSON_DEPTH_MAX) {
        return err_set(c->e, ERR_LIMIT, "JSON is nested deeper than %zu levels at byte %zu",
                       SRV_JSON_DEPTH_MAX, c->at);
    }
    c->at++;
    c->open[c->depth].close = close;
    c->open[c->depth].key_first = c->keys.len / sizeof(struct key);
    c->open[c->depth].key_bytes_first = c->key_bytes.len;
    c->depth++;
    return ERR_OK;
}

static int compare_keys(const void *a, const void *b, void *bytes)
{
    const struct key *x = a;
    const struct key *y = b;
    size_t n = x->n < y->n ? x->n : y->n;
    /* Two empty keys may stand alone, and then there are no bytes at all. */
    int order = n ? memcmp((const char *)bytes + x->offset, (const char *)bytes + y->offset, n) : 0;
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static enum err_code wrong_twice(const struct checker *c, const struct key *key)
{
    /* buf_str: a lone empty key left no bytes to point into. */
    return err_set(c->e, ERR_INVALID, "not valid JSON before byte %zu: key \"%.*s\" is given twice",
                   c->at, (int)(key->n < 64 ? key->n : 64), buf_str(&c->key_bytes) + key->offset);
}

/* Sorting finds duplicates in n log n whatever the keys are; hashing would let a client choose
 * colliding ones. */
static enum err_code close_container(struct checker *c)
{
    c->depth--;
    size_t first = c->open[c->depth].key_first;
    size_t n = c->keys.len / sizeof(struct key) - first;
    if (n > 1) {
        struct key *keys = (struct key *)(void *)c->keys.data + first;
        qsort_r(keys, n, sizeof *keys, compare_keys, c->key_bytes.data);
        for (size_t i = 1; i < n; i++) {
            if (compare_keys(&keys[i - 1], &keys[i], c->key_bytes.data) == 0) {
                return wrong_twice(c, &keys[i]);
            }
        }
    }
    c->at++;
    c->keys.len = first * sizeof(struct key);
    c->key_bytes.len = c->open[c->depth].key_bytes_first;
    return ERR_OK;
}

/* A key and its colon. */
static enum err_code check_key(struct checker *c)
{
    struct key key = {.offset = (uint32_t)c->key_bytes.len};
    size_t begin = c->at;
    if (peek(c) != '"') {
        return wrong(c, c->at, "expected a key in quotes");
    }
    enum err_code code = count_node(c);
    if (code == ERR_OK) {
        code = check_string(c, &c->key_bytes);
    }
    if (code != ERR_OK) {
        return code;
    }
    if (c->key_bytes.len - key.offset > SRV_JSON_KEY_MAX) {
        return err_set(c->e, ERR_LIMIT, "JSON key longer than %zu bytes at byte %zu",
                       SRV_JSON_KEY_MAX, begin);
    }
    key.n = (uint32_t)(c->key_bytes.len - key.offset);
    buf_append(&c->keys, &key, sizeof key);
    if (!buf_ok(&c->keys) || !buf_ok(&c->key_bytes)) {
        return err_set(c->e, ERR_NOMEM, "out of memory for the request");
    }
    skip_space(c);
    if (peek(c) != ':') {
        return wrong(c, c->at, "expected ':' after a key");
    }
    c->at++;
    skip_space(c);
    return ERR_OK;
}

/* One value, or the opening of one; *ret_opened tells which. */
static enum err_code check_value(struct checker *c, bool *ret_opened)
{
    enum err_code code = count_node(c);
    if (code != ERR_OK) {
        return code;
    }
    char ch = peek(c);
    *ret_opened = ch == '{' || ch == '[';
    if (*ret_opened) {
        return open_container(c, ch == '{' ? '}' : ']');
    }
    if (ch == '"') {
        return check_string(c, NULL);
    }
    return ch == '-' || (ch >= '0' && ch <= '9') ? check_number(c) : check_word(c);
}

/* Behind a value: closes what ends here, or goes to the next item of the innermost container. */
static enum err_code after_value(struct checker *c)
{
    enum err_code code = ERR_OK;
    for (;;) {
        skip_space(c);
        if (!c->depth) {
            return ERR_OK;
        }
        char close = c->open[c->depth - 1].close;
        if (peek(c) == close) {
            code = close_container(c);
            if (code != ERR_OK) {
                return code;
            }
            continue;
        }
        if (peek(c) != ',') {
            return wrong(c, c->at, close == '}' ? "expected ',' or '}'" : "expected ',' or ']'");
        }
        c->at++;
        skip_space(c);
        return close == '}' ? check_key(c) : ERR_OK;
    }
}

static enum err_code check_text(struct checker *c)
{
    enum err_code code = ERR_OK;
    if (c->n >= 3 && memcmp(c->text, "\xef\xbb\xbf", 3) == 0) {
        return wrong(c, 0, "byte order mark");
    }
    skip_space(c);
    if (c->at == c->n) {
        return wrong(c, c->at, "nothing there");
    }
    do {
        bool opened = false;
        code = check_value(c, &opened);
        if (code != ERR_OK) {
            return code;
        }
        skip_space(c);
        if (opened && peek(c) != c->open[c->depth - 1].close) {
            code = c->open[c->depth - 1].close == '}' ? check_key(c) : ERR_OK;
        } else {
            code = after_value(c);
        }
        if (code != ERR_OK) {
            return code;
        }
    } while (c->depth);
    return c->at == c->n ? ERR_OK : wrong(c, c->at, "more text after the end of the value");
}

enum err_code srv_json_check(const char *text, size_t n, struct err *e)
{
    if (n > UINT32_MAX / 2) {
        return err_set(e, ERR_LIMIT, "JSON text of %zu bytes is too long", n);
    }
    struct checker c = {.text = text, .n = n, .e = e};
    enum err_code code = check_text(&c);
    buf_free(&c.keys);
    buf_free(&c.key_bytes);
    return code;
}
