/* Sizes and checked arithmetic: every product or sum that a file or a request can influence goes
 * through here. Pure. */
#ifndef BASE_UNITS_H
#define BASE_UNITS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* False on overflow; *ret is then untouched. */
static inline bool units_mul(uint64_t a, uint64_t b, uint64_t *ret)
{
    uint64_t r;
    if (__builtin_mul_overflow(a, b, &r)) {
        return false;
    }
    *ret = r;
    return true;
}

static inline bool units_add(uint64_t a, uint64_t b, uint64_t *ret)
{
    uint64_t r;
    if (__builtin_add_overflow(a, b, &r)) {
        return false;
    }
    *ret = r;
    return true;
}

/* v rounded up to a multiple of the power of two `align`; v must leave room. */
static inline size_t units_align(size_t v, size_t align)
{
    return (v + align - 1) & ~(align - 1);
}

/* "512", "64K", "1.5G", "2GiB": bytes, powers of 1024. */
enum err_code units_parse_bytes(const char *text, uint64_t *ret_bytes, struct err *e);
/* "1.50 GiB" into out; returns out. */
const char *units_format_bytes(uint64_t bytes, char *out, size_t out_cap);

#endif
