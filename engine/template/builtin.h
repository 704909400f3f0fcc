/* Chat formats for models whose file brings no template, or one that does not parse: the handful of
 * layouts nearly every chat model was trained on, as templates of their own. All of them take
 * tools, in the form most open models know: definitions between <tools> and </tools> behind the
 * system text, each call as JSON between <tool_call> and </tool_call>, each result between
 * <tool_response> and </tool_response>. Pure; any thread. */
#ifndef ENGINE_TEMPLATE_BUILTIN_H
#define ENGINE_TEMPLATE_BUILTIN_H

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

/* The template, static. It takes messages (content: a string, a list of parts with `text`, or none;
 * tool_calls), tools and add_generation_prompt, which is true unless given, and does not begin with
 * bos_token, which tokenizing adds. */
const char *tmpl_builtin_source(enum tmpl_builtin kind);

#endif
