#include "engine/chat.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "engine/template/builtin.h"
#include "engine/template/template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEMPLATE_BYTES_MAX ((size_t)1 << 20)
#define NAMES_BYTES_MAX    ((size_t)1 << 20)

struct chat {
    struct tmpl *template;
    char *source; /* its text */
    char *bos;    /* texts of those tokens, "" where there is none */
    char *eos;
};

static bool vocab_has(void *arg, const char *text)
{
    return vocab_find(arg, text, strlen(text)) != ENG_TOKEN_NONE;
}

/* The template's text: of the file given, else the model's; empty when there is none. */
static enum err_code template_text(const struct gguf *f, const char *path, struct buf *out,
                                   struct err *e)
{
    struct gguf_str s;
    if (path) {
        return file_read(path, "chat template", TEMPLATE_BYTES_MAX, out, e);
    }
    if (gguf_get_str(f, "tokenizer.chat_template", &s)) {
        buf_append(out, s.s, s.n < TEMPLATE_BYTES_MAX ? s.n : TEMPLATE_BYTES_MAX);
    }
    return buf_ok(out) ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a chat template");
}

static char *token_text(const struct vocab *v, int32_t id)
{
    struct gguf_str s = id == ENG_TOKEN_NONE ? (struct gguf_str){"", 0} : vocab_text(v, id);
    return strndup(s.s ? s.s : "", s.n);
}

/* The template of that text; without one, or where it does not parse and the options allow it, the
 * built-in that fits. */
static enum err_code compile(struct chat *c, const struct chat_options *o, const struct buf *text,
                             struct err *e)
{
    struct err cause;
    const char *name = o->path ? o->path : "the model's chat template";
    const char *source = buf_str(text);
    size_t n = text->len;
    enum err_code code = ERR_OK;
    if (n) {
        code = tmpl_compile(source, n, &c->template, &cause);
        if (code && !o->fallback) {
            return err_set(e, code, "%s: %s", name, cause.msg);
        }
    }
    if (!c->template) {
        enum tmpl_builtin kind =
            tmpl_builtin_detect(n ? source : NULL, vocab_has, (void *)(uintptr_t)o->vocab);
        if (code) {
            log_warn("%s: %s; the built-in format \"%s\" takes its place", name, cause.msg,
                     tmpl_builtin_name(kind));
        }
        source = tmpl_builtin_source(kind);
        n = strlen(source);
        code = tmpl_compile(source, n, &c->template, e);
    }
    if (!code) {
        c->source = strndup(source, n);
    }
    return code;
}

enum err_code chat_load(const struct gguf *f, const struct chat_options *o, struct chat **ret_c,
                        struct err *e)
{
    struct buf text = {0};
    struct chat *c = calloc(1, sizeof *c);
    enum err_code code = c ? template_text(f, o->path, &text, e)
                           : err_set(e, ERR_NOMEM, "out of memory for a chat template");
    if (!code) {
        code = compile(c, o, &text, e);
    }
    if (code) {
        goto out;
    }
    c->bos = token_text(o->vocab, vocab_facts(o->vocab)->bos);
    c->eos = token_text(o->vocab, vocab_facts(o->vocab)->eos);
    if (!c->source || !c->bos || !c->eos) {
        code = err_set(e, ERR_NOMEM, "out of memory for a chat template");
        goto out;
    }
    *ret_c = c;
    c = NULL;
out:
    buf_free(&text);
    chat_destroy(c);
    return code;
}

void chat_destroy(struct chat *c)
{
    if (!c) {
        return;
    }
    tmpl_destroy(c->template);
    free(c->source);
    free(c->bos);
    free(c->eos);
    free(c);
}

const char *chat_source(const struct chat *c)
{
    return c->source;
}

/* What templates may name besides the request's own values. */
static struct tmpl_value *token_names(const struct chat *c, struct tmpl_arena *a)
{
    struct tmpl_value *names = tmpl_map(a);
    bool ok = tmpl_map_set(a, names, "bos_token", 9, tmpl_string(a, c->bos, strlen(c->bos))) &&
              tmpl_map_set(a, names, "eos_token", 9, tmpl_string(a, c->eos, strlen(c->eos)));
    return ok ? names : NULL;
}

enum err_code chat_render(const struct chat *c, const struct tmpl_value *context, struct buf *out,
                          struct err *e)
{
    struct tmpl_arena *arena = NULL;
    enum err_code code = tmpl_arena_create(NAMES_BYTES_MAX, &arena, e);
    struct tmpl_value *names = code ? NULL : token_names(c, arena);
    if (!code && !names) {
        code = err_set(e, ERR_NOMEM, "out of memory for a chat template's names");
    }
    if (!code) {
        code = tmpl_render(c->template, context, names, clock_unix_s(), out, e);
    }
    tmpl_arena_destroy(arena);
    return code;
}
