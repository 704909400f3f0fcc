/* The pool that turns bodies into submitted requests: strict JSON, schema, chat template, tokens.
 * Its threads keep that work off the HTTP threads, so that control routes and streams never wait
 * behind a tokenizer. */
#ifndef SERVER_PREP_H
#define SERVER_PREP_H

#include "base/err.h"
#include "server/job.h"

#include <stdbool.h>
#include <stddef.h>

struct srv_prep;

/* n_item_max jobs may wait: as many as connections, so that a push never fails. */
enum err_code srv_prep_start(size_t n_thread, size_t n_item_max, struct srv_prep **ret_p,
                             struct err *e);
/* Takes what waits to its end, then stops. NULL is legal. */
void srv_prep_stop(struct srv_prep *p);

/* Takes a reference of its own. Every job is replied to. */
bool srv_prep_push(struct srv_prep *p, struct srv_job *j);

#endif
