/* The chat format of a model: the template of its file (or one given in its place), and a built-in
 * layout for models without one. Loaded once, then read by any thread. */
#ifndef ENGINE_CHAT_H
#define ENGINE_CHAT_H

#include "base/buf.h"
#include "base/err.h"
#include "engine/gguf.h"
#include "engine/template/value.h"
#include "engine/tokenizer/vocab.h"

struct chat;

/* path: a file that holds the template to use, or NULL for the model's own. vocab outlives the
 * result. */
enum err_code chat_load(const struct gguf *f, const struct vocab *vocab, const char *path,
                        struct chat **ret_c, struct err *e);
void chat_destroy(struct chat *c); /* NULL is legal */
/* As eng_render_chat. */
enum err_code chat_render(const struct chat *c, const struct tmpl_value *context, struct buf *out,
                          struct err *e);

#endif
