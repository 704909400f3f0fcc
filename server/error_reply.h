/* What a client is told when something fails: an HTTP status and OpenAI's error object. The one
 * place where errors of the folders below become HTTP. Values; any thread. */
#ifndef SERVER_ERROR_REPLY_H
#define SERVER_ERROR_REPLY_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct srv_fail {
    int status;             /* 0: nothing failed */
    const char *code;       /* static; NULL: null */
    char param[96];         /* the request's field at fault; "": null */
    char message[300];      /* one line, UTF-8 */
    uint32_t retry_after_s; /* sent as Retry-After with 429 and 503 */
};

/* Fills f and returns false, so that a check reads `return srv_fail(f, 400, …)`. code and param may
 * be NULL. 429 and 503 ask for a retry after a second; change retry_after_s for more. */
bool srv_fail(struct srv_fail *f, int status, const char *code, const char *param, const char *fmt,
              ...) __attribute__((format(printf, 5, 6)));

/* An error of a lower folder: ERR_INVALID and ERR_LIMIT are 400, ERR_FULL is 429, … */
bool srv_fail_of(struct srv_fail *f, const struct err *e, const char *param);

/* Appends {"error":{"message":…,"type":…,"param":…,"code":…}}. */
void srv_fail_json(const struct srv_fail *f, struct buf *out);

#endif
