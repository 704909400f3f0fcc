/* A growable byte buffer, owned by its holder, not shared between threads. Appending never fails
 * at the call: when memory runs out the buffer turns `failed`, later appends do nothing, and the
 * holder checks buf_ok() once at the end. The bytes are always followed by a NUL that len does not
 * count, so text can be passed on as a C string. */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
    char *data; /* NULL until the first append */
    size_t len;
    size_t cap;
    bool failed;
};

void buf_append(struct buf *b, const void *bytes, size_t n);
void buf_puts(struct buf *b, const char *s);
void buf_putc(struct buf *b, char c);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Appends s as a JSON string, quotes included. Invalid UTF-8 becomes U+FFFD. */
void buf_json_string(struct buf *b, const char *s, size_t n);
/* Shortest decimal that reads back as the same float32; NaN and infinities become null. */
void buf_json_f32(struct buf *b, float v);
/* Room for n more bytes at data + len; the caller writes them and adds to len. NULL on failure. */
char *buf_reserve(struct buf *b, size_t n);
/* Removes the first n bytes. */
void buf_drop(struct buf *b, size_t n);
void buf_clear(struct buf *b); /* keeps the memory, forgets a failure */
void buf_free(struct buf *b);  /* leaves a valid empty buffer */

static inline bool buf_ok(const struct buf *b)
{
    return !b->failed;
}

/* The bytes as a C string; "" while nothing was appended. */
static inline const char *buf_str(const struct buf *b)
{
    return b->data ? b->data : "";
}

#endif
