/* The model behind the server: engine, KV store and scheduler, made together and ended together. */
#ifndef SERVER_MODEL_H
#define SERVER_MODEL_H

#include "server/serve.h"
#include "server/srv.h"

/* Makes the engine with `open`, sizes the KV memory, starts the scheduler and fills s. Prints what
 * came of it. On failure nothing is left behind. */
enum err_code srv_model_open(struct srv *s, srv_open_fn *open, struct err *e);
/* Whether a request's `model` means the one that is served: its name here (the alias, else the
 * file's name without ".gguf"), the file's name, or the name the file gives itself; each also with
 * ":ADAPTER" behind it. *ret_adapter: 0, or 1 + the adapter's index. Ready only. */
bool srv_model_find(const struct srv *s, const char *name, size_t n, uint32_t *ret_adapter);
/* 1 + the index of the adapter of that name, 0: there is none. */
uint32_t srv_model_adapter(const struct srv *s, const char *name, size_t n);
/* What the model is called with that adapter. */
const char *srv_model_name(const struct srv *s, uint32_t adapter);
/* Running answers get drain_s to end. After it every stream has its END. */
void srv_model_drain(struct srv *s);
/* When all streams were released. */
void srv_model_close(struct srv *s);

#endif
