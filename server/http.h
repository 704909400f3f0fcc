/* The HTTP side, over libmicrohttpd: an epoll loop per thread, each moving the bytes of its
 * connections. Requests are checked strictly (headers.h), answered at once where that takes no work
 * (control.h), else collected and handed to the prep pool while the connection sleeps. */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include "base/err.h"

#include <stdint.h>

struct srv;
struct srv_http;

/* Opens the port and serves. ERR_IO names the address. on_tick is called by the watch several times
 * a second. */
enum err_code srv_http_start(struct srv *s, void (*on_tick)(void *arg), void *arg,
                             struct srv_http **ret_h, struct err *e);
uint16_t srv_http_port(const struct srv_http *h);
/* With the server draining: waits at most wait_ms for the open requests, then ends them all and
 * closes the port. NULL is legal. */
void srv_http_stop(struct srv_http *h, uint32_t wait_ms);

#endif
