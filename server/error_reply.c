#include "server/error_reply.h"

#include "base/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define FULL_RETRY_S 1

bool srv_fail(struct srv_fail *f, int status, const char *code, const char *param, const char *fmt,
              ...)
{
    va_list ap;
    f->status = status;
    f->code = code;
    f->retry_after_s = status == 429 || status == 503 ? FULL_RETRY_S : 0;
    (void)snprintf(f->param, sizeof f->param, "%s", param ? param : "");
    va_start(ap, fmt);
    (void)vsnprintf(f->message, sizeof f->message, fmt, ap);
    va_end(ap);
    f->message[strlen(f->message) - utf8_incomplete_tail(f->message, strlen(f->message))] = 0;
    return false;
}

bool srv_fail_of(struct srv_fail *f, const struct err *e, const char *param)
{
    switch (e->code) {
    case ERR_INVALID:
    case ERR_UNSUPPORTED: return srv_fail(f, 400, NULL, param, "%s", e->msg);
    case ERR_LIMIT: return srv_fail(f, 400, "context_length_exceeded", param, "%s", e->msg);
    case ERR_NOT_FOUND: return srv_fail(f, 404, NULL, param, "%s", e->msg);
    case ERR_FULL: return srv_fail(f, 429, "rate_limit_exceeded", NULL, "%s", e->msg);
    case ERR_CANCELLED: return srv_fail(f, 503, "cancelled", NULL, "%s", e->msg);
    case ERR_TIMEOUT: return srv_fail(f, 504, "timeout", NULL, "%s", e->msg);
    case ERR_NOMEM: return srv_fail(f, 503, "out_of_memory", NULL, "%s", e->msg);
    default: return srv_fail(f, 500, NULL, NULL, "%s", e->msg);
    }
}

static const char *type_of(int status)
{
    switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 429: return "rate_limit_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

static void put_or_null(struct buf *out, const char *s)
{
    if (s && s[0]) {
        buf_json_string(out, s, strlen(s));
    } else {
        buf_puts(out, "null");
    }
}

void srv_fail_json(const struct srv_fail *f, struct buf *out)
{
    buf_puts(out, "{\"error\":{\"message\":");
    buf_json_string(out, f->message, strlen(f->message));
    buf_printf(out, ",\"type\":\"%s\",\"param\":", type_of(f->status));
    put_or_null(out, f->param);
    buf_puts(out, ",\"code\":");
    put_or_null(out, f->code);
    buf_puts(out, "}}");
}
