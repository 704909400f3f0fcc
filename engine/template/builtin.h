/* Chat formats for models whose file brings no template, or whose template this build cannot run:
 * the handful of layouts nearly every chat model was trained on. Pure; any thread. */
#ifndef ENGINE_TEMPLATE_BUILTIN_H
#define ENGINE_TEMPLATE_BUILTIN_H

#include "base/buf.h"
#include "base/err.h"
#include "engine/template/value.h"

#include <stdbool.h>

enum tmpl_builtin {
    TMPL_BUILTIN_PLAIN,  /* "user: …\nassistant: …": for models without any chat tokens */
    TMPL_BUILTIN_CHATML, /* <|im_start|>role\n…<|im_end|> */
    TMPL_BUILTIN_LLAMA2, /* [INST] <<SYS>>…<</SYS>> … [/INST] */
    TMPL_BUILTIN_LLAMA3, /* <|start_header_id|>role<|end_header_id|>\n\n…<|eot_id|> */
    TMPL_BUILTIN_GEMMA,  /* <start_of_turn>role\n…<end_of_turn> */
};

/* The format that fits: by the marks in the model's own template where it has one (NULL: none),
 * else by the control tokens of its vocabulary, which has_token looks up. */
enum tmpl_builtin tmpl_builtin_detect(const char *template_text,
                                      bool (*has_token)(void *arg, const char *text), void *arg);
const char *tmpl_builtin_name(enum tmpl_builtin kind); /* "chatml", … */

/* Appends the conversation in `context` to out: a map with `messages`, a list of maps with `role`
 * and `content` (a string, a list of parts with `text`, or none), and `add_generation_prompt`.
 * bos and eos are the texts of those tokens ("" where there is none); the result does not begin
 * with bos, which tokenizing adds. ERR_INVALID names the message that is wrong. */
enum err_code tmpl_render_builtin(enum tmpl_builtin kind, const struct tmpl_value *context,
                                  const char *bos, const char *eos, struct buf *out, struct err *e);

#endif
