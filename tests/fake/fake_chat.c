#include "engine/template/value.h"
#include "tests/fake/fake_engine.h"

static void add_content(const struct tmpl_value *content, struct buf *out)
{
    size_t n = 0;
    const char *text = tmpl_string_of(content, &n);
    if (text) {
        buf_append(out, text, n);
        return;
    }
    if (tmpl_kind_of(content) != TMPL_LIST) {
        return;
    }
    for (size_t i = 0; i < tmpl_len(content); i++) {
        text = tmpl_string_of(tmpl_map_get(tmpl_list_at(content, i), "text"), &n);
        if (text) {
            buf_append(out, text, n);
        }
    }
}

enum err_code fake_render_chat(const struct eng *g, const struct tmpl_value *context,
                               struct buf *out, struct err *e)
{
    (void)g;
    const struct tmpl_value *messages = tmpl_map_get(context, "messages");
    if (!messages || tmpl_kind_of(messages) != TMPL_LIST) {
        return err_set(e, ERR_INVALID, "the chat template needs a list of messages");
    }
    for (size_t i = 0; i < tmpl_len(messages); i++) {
        const struct tmpl_value *m = tmpl_list_at(messages, i);
        size_t n = 0;
        const char *role = tmpl_string_of(tmpl_map_get(m, "role"), &n);
        if (!role) {
            return err_set(e, ERR_INVALID, "message %zu has no role", i);
        }
        buf_puts(out, "<|im_start|>");
        buf_append(out, role, n);
        buf_putc(out, '\n');
        const struct tmpl_value *content = tmpl_map_get(m, "content");
        if (content) {
            add_content(content, out);
        }
        buf_puts(out, "<|im_end|>\n");
    }
    const struct tmpl_value *more = tmpl_map_get(context, "add_generation_prompt");
    if (more && tmpl_bool_of(more, false)) {
        buf_puts(out, "<|im_start|>assistant\n");
    }
    return buf_ok(out) ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for the prompt's text");
}
