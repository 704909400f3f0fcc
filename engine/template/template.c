#include "engine/template/template.h"

#include "engine/template/interp.h"

#include <stdlib.h>
#include <string.h>

#define SOURCE_BYTES_MAX (1U << 20)
#define AST_BYTES_MAX    (256U << 20) /* a node is large; 1 MiB of source stays below this */

struct tmpl {
    struct tmpl_arena *a; /* tokens and nodes */
    struct body body;
    locale_t locale;
};

enum err_code tmpl_compile(const char *source, size_t n_byte, struct tmpl **ret_t, struct err *e)
{
    if (n_byte > SOURCE_BYTES_MAX) {
        return err_set(e, ERR_LIMIT, "chat template of %zu bytes (at most %u)", n_byte,
                       SOURCE_BYTES_MAX);
    }
    struct tmpl *t = calloc(1, sizeof *t);
    if (!t) {
        return err_set(e, ERR_NOMEM, "out of memory for a chat template");
    }
    enum err_code rc = tmpl_arena_create(AST_BYTES_MAX, &t->a, e);
    if (!rc) {
        rc = tmpl_parse(t->a, source, n_byte, &t->body, e);
    }
    if (!rc) {
        t->locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
        if (!t->locale) {
            t->locale = newlocale(LC_CTYPE_MASK, "C", (locale_t)0);
        }
        if (!t->locale) {
            rc = err_set(e, ERR_NOMEM, "out of memory for a chat template");
        }
    }
    if (rc) {
        tmpl_destroy(t);
        return rc;
    }
    *ret_t = t;
    return ERR_OK;
}

void tmpl_destroy(struct tmpl *t)
{
    if (!t) {
        return;
    }
    if (t->locale) {
        freelocale(t->locale);
    }
    tmpl_arena_destroy(t->a);
    free(t);
}

enum err_code tmpl_render(const struct tmpl *t, const struct tmpl_value *context,
                          const struct tmpl_value *extra, int64_t now_unix_s, struct buf *out,
                          struct err *e)
{
    struct err scratch = {0};
    struct buf text = {0};
    struct tmpl_arena *a = NULL;
    time_t now = (time_t)now_unix_s;
    if (context->kind != TMPL_MAP || (extra && extra->kind != TMPL_MAP)) {
        return err_set(e, ERR_INTERNAL, "a template's context must be a map");
    }
    enum err_code rc = tmpl_arena_create(INTERP_ARENA_MAX, &a, e);
    if (rc) {
        return rc;
    }
    /* The given maps are the outermost scopes: read, never written, since the template's own
     * variables go into the scope inside them. */
    struct scope outermost = {.vars = (struct tmpl_value *)context};
    struct scope given = {.outer = &outermost, .vars = (struct tmpl_value *)extra};
    struct scope own = {.outer = &given};
    struct interp in = {.a = a,
                        .scope = &own,
                        .out = &text,
                        .fuel = INTERP_FUEL_MAX,
                        .locale = t->locale,
                        .e = &scratch};
    (void)gmtime_r(&now, &in.now);
    if (interp_run(&in, &t->body) && buf_ok(&text)) {
        buf_append(out, buf_str(&text), text.len);
    } else {
        rc = scratch.code ? scratch.code : ERR_INTERNAL;
        rc = err_set(e, buf_ok(&text) ? rc : ERR_NOMEM, "%s",
                     buf_ok(&text) ? scratch.msg : "out of memory for a rendered template");
    }
    buf_free(&text);
    tmpl_arena_destroy(a);
    return rc;
}
