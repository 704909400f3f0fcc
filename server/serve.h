/* The server's life: open the port, load the model behind it, serve, drain, end. */
#ifndef SERVER_SERVE_H
#define SERVER_SERVE_H

#include "config/options.h"
#include "engine/engine.h"

/* Makes the model: eng_open for the real one, something small in tests. */
typedef enum err_code srv_open_fn(const struct cfg *cfg, struct eng **ret_g, struct err *e);

/* Serves until SIGTERM or SIGINT, then drains; a second such signal ends the process at once.
 * SIGHUP reads the API keys again. `open` runs in the background while the port answers 503; the
 * server closes what it made. Called by main, before any other thread. Returns the exit status;
 * errors are logged. */
int srv_run(const struct cfg *cfg, srv_open_fn *open);

#endif
