/* UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF. Pure. */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the valid character at s, 1…4; 0 when s[0…n) starts with none. */
size_t utf8_char_len(const char *s, size_t n);
/* Decodes one character; returns its length, or 0 and leaves *ret_cp alone. */
size_t utf8_decode(const char *s, size_t n, uint32_t *ret_cp);
/* Writes cp (a Unicode scalar value) to out[4] and returns its length. */
size_t utf8_encode(uint32_t cp, char *out);
/* Offset of the first byte that is not valid UTF-8, n when all is. */
size_t utf8_valid_prefix(const char *s, size_t n);
/* Bytes at the end of s that begin a character which later bytes may still complete, 0…3: what a
 * stream holds back. Bytes that can never become valid are not held. */
size_t utf8_incomplete_tail(const char *s, size_t n);

static inline bool utf8_valid(const char *s, size_t n)
{
    return utf8_valid_prefix(s, n) == n;
}

#endif
