/* Open connections, and the watch over them. libmicrohttpd does not look at suspended connections,
 * so a thread of our own polls every socket for hang-up; and it cuts those whose deadline passed:
 * headers that trickle, bodies slower than 1 KiB/s, unused connections, readers that stall.
 *
 * Threads: open, close and the setters are for the HTTP thread that owns the connection. A slot's
 * socket is only shut down under its lock while it is open, so a reused number is never hit. */
#ifndef SERVER_CONNS_H
#define SERVER_CONNS_H

#include "base/err.h"
#include "server/job.h"
#include "server/metrics.h"

#include <stdbool.h>
#include <stdint.h>

struct srv_conns;
struct srv_conn;

/* n_max connections at once; streams quiet for ping_us get a comment (0: none). on_tick is called
 * by the watch every few hundred ms. */
enum err_code srv_conns_start(uint32_t n_max, uint64_t ping_us, struct srv_metrics *metrics,
                              void (*on_tick)(void *arg), void *arg, struct srv_conns **ret_c,
                              struct err *e);
void srv_conns_stop(struct srv_conns *cs); /* NULL is legal */

/* NULL when all slots are taken. */
struct srv_conn *srv_conn_open(struct srv_conns *cs, int fd);
void srv_conn_close(struct srv_conns *cs, struct srv_conn *c); /* before the socket is closed */

/* Cut the connection at this time, monotonic; 0: never. */
void srv_conn_set_deadline(struct srv_conn *c, uint64_t us);
/* The job to tell when the client hangs up; false when it has already. The slot keeps a reference
 * until srv_conn_clear_job. */
bool srv_conn_set_job(struct srv_conn *c, struct srv_job *j);
void srv_conn_clear_job(struct srv_conn *c);

/* As if every client had hung up: no connection sleeps after this. Any thread. */
void srv_conns_hang_up_all(struct srv_conns *cs);

#endif
