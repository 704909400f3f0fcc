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

struct chat_options {
    const struct vocab *vocab; /* outlives the load */
    const char *path;          /* a file that holds the template to use; NULL: the model's own */
    bool fallback;             /* one that does not parse gives way to a built-in, with a warning */
};

/* A template that does not parse is named with line and column. */
enum err_code chat_load(const struct gguf *f, const struct chat_options *o, struct chat **ret_c,
                        struct err *e);
void chat_destroy(struct chat *c);             /* NULL is legal */
const char *chat_source(const struct chat *c); /* the text of the template in use */
/* As eng_render_chat. */
enum err_code chat_render(const struct chat *c, const struct tmpl_value *context, struct buf *out,
                          struct err *e);

#endif
