/* Chat templates: the Jinja language that model files bring along, compiled once and rendered per
 * request. A template sees nothing but the context it is given and a few pure functions; a
 * rendering is bounded in steps, depth, memory and output, so that no template or conversation can
 * hang or exhaust the server.
 *
 * Language: expressions, filters, tests, macros and call blocks, namespaces, loop controls, set and
 * filter blocks, with, generation, white-space control with trim_blocks and lstrip_blocks on.
 * Source: the Jinja template designer documentation; Python's str, dict and list for methods.
 * Threads: a compiled template is read-only; any number may render it at once. */
#ifndef ENGINE_TEMPLATE_TEMPLATE_H
#define ENGINE_TEMPLATE_TEMPLATE_H

#include "base/buf.h"
#include "base/err.h"
#include "engine/template/value.h"

#include <stddef.h>
#include <stdint.h>

struct tmpl;

/* Errors name line and column. source: UTF-8, n_byte long, copied. */
enum err_code tmpl_compile(const char *source, size_t n_byte, struct tmpl **ret_t, struct err *e);
void tmpl_destroy(struct tmpl *t); /* NULL is legal */

/* Appends the rendering to out. Variables come from `extra` (may be NULL) first, then `context`;
 * both are maps and are only read. now_unix_s: what strftime_now sees, as UTC. ERR_INVALID: the
 * template refuses (raise_exception's message as it stands) or cannot take the conversation;
 * ERR_LIMIT: a bound was hit. On failure out is as it was. */
enum err_code tmpl_render(const struct tmpl *t, const struct tmpl_value *context,
                          const struct tmpl_value *extra, int64_t now_unix_s, struct buf *out,
                          struct err *e);

#endif
