/* The replies that need no model and no waiting: health, readiness, metrics, version, models. For
 * the HTTP threads; each is a pure read of the server's state. */
#ifndef SERVER_CONTROL_H
#define SERVER_CONTROL_H

#include "server/job.h"

#include <stdbool.h>

struct srv_control_reply {
    int status;
    enum srv_content content;
    uint32_t retry_after_s;
};

/* Fills out and *ret. False: *f tells what failed. */
bool srv_control(struct srv_job *j, struct buf *out, struct srv_control_reply *ret,
                 struct srv_fail *f);

#endif
