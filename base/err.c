#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Drops an incomplete UTF-8 character at the end of a message that snprintf cut. */
static void trim_partial_char(char *msg, size_t cap)
{
    size_t n = strlen(msg);
    if (n + 1 < cap) {
        return;
    }
    while (n > 0 && ((unsigned char)msg[n - 1] & 0xc0) == 0x80) {
        n--;
    }
    if (n > 0 && (unsigned char)msg[n - 1] >= 0xc0) {
        n--;
    }
    msg[n] = 0;
}

enum err_code err_set(struct err *e, enum err_code code, const char *fmt, ...)
{
    if (!e) {
        return code;
    }
    va_list ap;
    va_start(ap, fmt);
    e->code = code;
    (void)vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    trim_partial_char(e->msg, sizeof e->msg);
    return code;
}

enum err_code err_errno(struct err *e, enum err_code code, int errno_value, const char *fmt, ...)
{
    if (!e) {
        return code;
    }
    char what[180];
    char reason[64];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    trim_partial_char(what, sizeof what);
    return err_set(e, code, "%s: %s", what, strerror_r(errno_value, reason, sizeof reason));
}

const char *err_code_name(enum err_code code)
{
    switch (code) {
    case ERR_OK: return "ok";
    case ERR_INVALID: return "invalid";
    case ERR_NOT_FOUND: return "not_found";
    case ERR_LIMIT: return "limit";
    case ERR_FULL: return "full";
    case ERR_NOMEM: return "no_memory";
    case ERR_IO: return "io";
    case ERR_CORRUPT: return "corrupt";
    case ERR_UNSUPPORTED: return "unsupported";
    case ERR_CANCELLED: return "cancelled";
    case ERR_TIMEOUT: return "timeout";
    case ERR_INTERNAL: return "internal";
    }
    return "unknown";
}
