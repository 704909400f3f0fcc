#include "engine/template/builtin.h"

#include <stddef.h>
#include <string.h>

/* What all layouts share. body: the text of a message, calls and all. rules: what the model is told
 * of its tools. system_of: a system text with them. */
#define COMMON                                                                                     \
    "{%- if not messages -%}{{- raise_exception('messages is empty') -}}{%- endif -%}"             \
    "{%- macro body(m) -%}"                                                                        \
    "{{- '<tool_response>\\n' if m.role == 'tool' else '' -}}"                                     \
    "{%- if m.content is string -%}{{- m.content -}}"                                              \
    "{%- elif m.content is iterable and m.content is not mapping -%}"                              \
    "{{- m.content | map(attribute='text') | join('\\n') -}}"                                      \
    "{%- elif m.content -%}"                                                                       \
    "{{- raise_exception('a content is neither text nor a list of parts') -}}{%- endif -%}"        \
    "{%- for call in m.tool_calls or [] -%}"                                                       \
    "{{- ('\\n' if m.content or not loop.first else '') + '<tool_call>\\n'"                        \
    " + ({'name': call.function.name, 'arguments': call.function.arguments} | tojson)"             \
    " + '\\n</tool_call>' -}}{%- endfor -%}"                                                       \
    "{{- '\\n</tool_response>' if m.role == 'tool' else '' -}}"                                    \
    "{%- endmacro -%}"                                                                             \
    "{%- macro rules() -%}"                                                                        \
    "{{- 'You can call functions. These are there, one per line:\\n<tools>\\n' -}}"                \
    "{%- for t in tools -%}{{- (t | tojson) + '\\n' -}}{%- endfor -%}"                             \
    "{{- '</tools>\\nTo call one, answer with its name and arguments as JSON in this form, once "  \
    "for each call:\\n<tool_call>\\n{\"name\": \"...\", \"arguments\": {...}}\\n</tool_call>' -}}" \
    "{%- endmacro -%}"                                                                             \
    "{%- macro system_of(text) -%}"                                                                \
    "{{- text + ('\\n\\n' if text and tools else '') + (rules() if tools else '') -}}"             \
    "{%- endmacro -%}"                                                                             \
    "{%- set asks = add_generation_prompt is not defined or add_generation_prompt -%}"

/* Every message between the same marks. TRIM: "" or "| trim". */
#define MARKED(BEFORE, BETWEEN, AFTER, TRIM)                                                       \
    COMMON                                                                                         \
    "{%- if tools and messages[0].role != 'system' -%}"                                            \
    "{{- '" BEFORE "system" BETWEEN "' + system_of('') + '" AFTER "' -}}{%- endif -%}"             \
    "{%- for m in messages -%}"                                                                    \
    "{%- set text = body(m) " TRIM " -%}"                                                          \
    "{{- '" BEFORE "' + ('user' if m.role == 'tool' else m.role) + '" BETWEEN "'"                  \
    " + (system_of(text) if loop.first and m.role == 'system' else text) + '" AFTER "' -}}"        \
    "{%- endfor -%}"                                                                               \
    "{{- '" BEFORE "assistant" BETWEEN "' if asks else '' -}}"

static const char plain[] = MARKED("", ": ", "\\n", "| trim");
/* ChatML keeps a message as it is; the templates of the other formats trim it. */
static const char chatml[] = MARKED("<|im_start|>", "\\n", "<|im_end|>\\n", "");
static const char llama3[] =
    MARKED("<|start_header_id|>", "<|end_header_id|>\\n\\n", "<|eot_id|>", "| trim");

/* A system text goes into the user turn that follows it; [/INST] asks for the answer. */
static const char llama2[] = COMMON
    "{%- set ns = namespace(system=system_of(''), some=false) -%}"
    "{%- for m in messages -%}"
    "{%- if m.role == 'system' -%}"
    "{%- set ns.system = system_of(body(m) | trim) -%}"
    "{%- else -%}"
    "{%- if m.role == 'assistant' -%}"
    "{{- ' ' + (body(m) | trim) + ' ' + eos_token -}}"
    "{%- else -%}"
    "{{- (bos_token if ns.some else '') + '[INST] ' -}}"
    "{{- '<<SYS>>\\n' + ns.system + '\\n<</SYS>>\\n\\n' if ns.system else '' -}}"
    "{{- (body(m) | trim) + ' [/INST]' -}}"
    "{%- set ns.system = '' -%}"
    "{%- endif -%}"
    "{%- set ns.some = true -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{{- '[INST] <<SYS>>\\n' + ns.system + '\\n<</SYS>>\\n\\n [/INST]' if ns.system else '' -}}";

/* Two roles only; a system text opens the user turn that follows it. */
static const char gemma[] =
    COMMON "{%- set ns = namespace(system=system_of('')) -%}"
           "{%- for m in messages -%}"
           "{%- if m.role == 'system' and not loop.last -%}"
           "{%- set ns.system = system_of(body(m) | trim) -%}"
           "{%- else -%}"
           "{%- set model = m.role == 'assistant' -%}"
           "{{- '<start_of_turn>' + ('model' if model else 'user') + '\\n' -}}"
           "{%- if ns.system and not model -%}"
           "{{- ns.system + '\\n\\n' -}}{%- set ns.system = '' -%}"
           "{%- endif -%}"
           "{{- (body(m) | trim) + '<end_of_turn>\\n' -}}"
           "{%- endif -%}"
           "{%- endfor -%}"
           "{{- '<start_of_turn>model\\n' if asks else '' -}}";

static const struct {
    enum tmpl_builtin kind;
    const char *name;
    const char *mark; /* what tells the format, in a template or a vocabulary */
    const char *source;
} formats[] = {
    {TMPL_BUILTIN_PLAIN, "plain", NULL, plain},
    {TMPL_BUILTIN_CHATML, "chatml", "<|im_start|>", chatml},
    {TMPL_BUILTIN_LLAMA2, "llama-2", "[INST]", llama2},
    {TMPL_BUILTIN_LLAMA3, "llama-3", "<|start_header_id|>", llama3},
    {TMPL_BUILTIN_GEMMA, "gemma", "<start_of_turn>", gemma},
};
#define N_FORMAT (sizeof formats / sizeof *formats)

enum tmpl_builtin tmpl_builtin_detect(const char *template_text,
                                      bool (*has_token)(void *arg, const char *text), void *arg)
{
    for (size_t i = 0; i < N_FORMAT; i++) {
        if (template_text && formats[i].mark && strstr(template_text, formats[i].mark)) {
            return formats[i].kind;
        }
    }
    for (size_t i = 0; i < N_FORMAT; i++) {
        if (formats[i].mark && has_token(arg, formats[i].mark)) {
            return formats[i].kind;
        }
    }
    return TMPL_BUILTIN_PLAIN;
}

const char *tmpl_builtin_name(enum tmpl_builtin kind)
{
    return formats[kind].name;
}

const char *tmpl_builtin_source(enum tmpl_builtin kind)
{
    return formats[kind].source;
}
