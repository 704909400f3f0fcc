#include "engine/template/builtin.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    enum tmpl_builtin kind;
    const char *name;
    const char *mark; /* what tells the format, in a template or a vocabulary */
} formats[] = {
    {TMPL_BUILTIN_PLAIN, "plain", NULL},
    {TMPL_BUILTIN_CHATML, "chatml", "<|im_start|>"},
    {TMPL_BUILTIN_LLAMA2, "llama-2", "[INST]"},
    {TMPL_BUILTIN_LLAMA3, "llama-3", "<|start_header_id|>"},
    {TMPL_BUILTIN_GEMMA, "gemma", "<start_of_turn>"},
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

static enum tmpl_kind kind_of(const struct tmpl_value *v)
{
    return v ? tmpl_kind_of(v) : TMPL_UNDEFINED;
}

struct turn {
    const char *role;
    struct buf text;
};

static enum err_code content_text(const struct tmpl_value *content, size_t i_message,
                                  struct buf *out, struct err *e)
{
    size_t n = 0;
    const char *s = tmpl_string_of(content, &n);
    if (s) {
        buf_append(out, s, n);
        return ERR_OK;
    }
    if (kind_of(content) == TMPL_UNDEFINED || kind_of(content) == TMPL_NONE) {
        return ERR_OK;
    }
    if (kind_of(content) != TMPL_LIST) {
        return err_set(e, ERR_INVALID, "messages[%zu].content is neither text nor a list of parts",
                       i_message);
    }
    for (size_t i = 0; i < tmpl_len(content); i++) {
        s = tmpl_string_of(tmpl_map_get(tmpl_list_at(content, i), "text"), &n);
        if (!s) {
            return err_set(e, ERR_INVALID, "messages[%zu].content[%zu] is not a text part",
                           i_message, i);
        }
        if (out->len) {
            buf_putc(out, '\n');
        }
        buf_append(out, s, n);
    }
    return ERR_OK;
}

/* Cuts ASCII white space at both ends, as the templates of these formats do. */
static void trim(struct buf *b)
{
    static const char space[] = " \t\r\n\v\f";
    size_t lead = b->data ? strspn(b->data, space) : 0;
    buf_drop(b, lead);
    while (b->len && strchr(space, b->data[b->len - 1])) {
        b->data[--b->len] = 0;
    }
}

static void put(struct buf *out, const struct buf *text)
{
    buf_append(out, buf_str(text), text->len);
}

static void render_marked(const struct turn *turns, size_t n, bool prompt, const char *before,
                          const char *between, const char *after, struct buf *out)
{
    for (size_t i = 0; i < n; i++) {
        buf_printf(out, "%s%s%s", before, turns[i].role, between);
        put(out, &turns[i].text);
        buf_puts(out, after);
    }
    if (prompt) {
        buf_printf(out, "%s%s%s", before, "assistant", between);
    }
}

/* A system text goes into the user turn that follows it; [/INST] asks for the answer. */
static void render_llama2(const struct turn *turns, size_t n, const char *bos, const char *eos,
                          struct buf *out)
{
    const struct turn *system = NULL;
    size_t begin = out->len;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(turns[i].role, "system") == 0) {
            system = &turns[i];
        } else if (strcmp(turns[i].role, "assistant") == 0) {
            buf_putc(out, ' ');
            put(out, &turns[i].text);
            buf_printf(out, " %s", eos);
        } else {
            if (out->len > begin) {
                buf_puts(out, bos);
            }
            buf_puts(out, "[INST] ");
            if (system) {
                buf_puts(out, "<<SYS>>\n");
                put(out, &system->text);
                buf_puts(out, "\n<</SYS>>\n\n");
                system = NULL;
            }
            put(out, &turns[i].text);
            buf_puts(out, " [/INST]");
        }
    }
    if (system) { /* nothing followed it: ask with it alone */
        buf_puts(out, "[INST] <<SYS>>\n");
        put(out, &system->text);
        buf_puts(out, "\n<</SYS>>\n\n [/INST]");
    }
}

/* Two roles only; a system text opens the user turn that follows it. */
static void render_gemma(const struct turn *turns, size_t n, bool prompt, struct buf *out)
{
    const struct turn *system = NULL;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(turns[i].role, "system") == 0 && i + 1 < n) {
            system = &turns[i];
            continue;
        }
        bool model = strcmp(turns[i].role, "assistant") == 0;
        buf_printf(out, "<start_of_turn>%s\n", model ? "model" : "user");
        if (system && !model) {
            put(out, &system->text);
            buf_puts(out, "\n\n");
            system = NULL;
        }
        put(out, &turns[i].text);
        buf_puts(out, "<end_of_turn>\n");
    }
    if (prompt) {
        buf_puts(out, "<start_of_turn>model\n");
    }
}

static void render(enum tmpl_builtin kind, const struct turn *turns, size_t n, bool prompt,
                   const char *bos, const char *eos, struct buf *out)
{
    switch (kind) {
    case TMPL_BUILTIN_CHATML:
        render_marked(turns, n, prompt, "<|im_start|>", "\n", "<|im_end|>\n", out);
        break;
    case TMPL_BUILTIN_LLAMA3:
        render_marked(turns, n, prompt, "<|start_header_id|>", "<|end_header_id|>\n\n",
                      "<|eot_id|>", out);
        break;
    case TMPL_BUILTIN_LLAMA2: render_llama2(turns, n, bos, eos, out); break;
    case TMPL_BUILTIN_GEMMA: render_gemma(turns, n, prompt, out); break;
    case TMPL_BUILTIN_PLAIN: render_marked(turns, n, prompt, "", ": ", "\n", out); break;
    }
}

enum err_code tmpl_render_builtin(enum tmpl_builtin kind, const struct tmpl_value *context,
                                  const char *bos, const char *eos, struct buf *out, struct err *e)
{
    enum err_code code = ERR_OK;
    const struct tmpl_value *messages = tmpl_map_get(context, "messages");
    size_t n = tmpl_len(messages);
    if (kind_of(messages) != TMPL_LIST || n == 0) {
        return err_set(e, ERR_INVALID, "messages is empty");
    }
    struct turn *turns = calloc(n, sizeof *turns);
    if (!turns) {
        return err_set(e, ERR_NOMEM, "out of memory for %zu messages", n);
    }
    for (size_t i = 0; i < n; i++) {
        const struct tmpl_value *message = tmpl_list_at(messages, i);
        size_t n_role = 0;
        turns[i].role = tmpl_string_of(tmpl_map_get(message, "role"), &n_role);
        if (!turns[i].role) {
            code = err_set(e, ERR_INVALID, "messages[%zu].role is not text", i);
            goto out;
        }
        code = content_text(tmpl_map_get(message, "content"), i, &turns[i].text, e);
        if (code != ERR_OK) {
            goto out;
        }
        if (!buf_ok(&turns[i].text)) {
            code = err_set(e, ERR_NOMEM, "out of memory for messages[%zu]", i);
            goto out;
        }
        /* ChatML keeps a message as it is; the templates of the other formats trim it. */
        if (kind != TMPL_BUILTIN_CHATML) {
            trim(&turns[i].text);
        }
    }
    render(kind, turns, n, tmpl_bool_of(tmpl_map_get(context, "add_generation_prompt"), true), bos,
           eos, out);
    if (!buf_ok(out)) {
        code = err_set(e, ERR_NOMEM, "out of memory for the prompt");
    }
out:
    for (size_t i = 0; i < n; i++) {
        buf_free(&turns[i].text);
    }
    free(turns);
    return code;
}
