/* Renders cases from standard input, a line of JSON each: {"t": template, "c": context}. Prints a
 * line for each: {"out": text} or {"error": message}. For test_differential.py. */
#include "base/buf.h"
#include "engine/template/template.h"
#include "server/json_value.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOW_UNIX_S      1785058200 /* 2026-07-26 09:30:00 UTC, as test_differential.py has it */
#define ARENA_BYTES_MAX (16u << 20)

static enum err_code render(const cJSON *item, struct buf *out, struct err *e)
{
    const char *source = cJSON_GetStringValue(cJSON_GetObjectItem(item, "t"));
    struct tmpl *t = NULL;
    struct tmpl_arena *a = NULL;
    enum err_code rc =
        source ? tmpl_compile(source, strlen(source), &t, e) : err_set(e, ERR_INTERNAL, "no case");
    rc = rc ? rc : tmpl_arena_create(ARENA_BYTES_MAX, &a, e);
    if (!rc) {
        const struct tmpl_value *context = srv_json_value(a, cJSON_GetObjectItem(item, "c"));
        rc = tmpl_render(t, context, NULL, NOW_UNIX_S, out, e);
    }
    tmpl_arena_destroy(a);
    tmpl_destroy(t);
    return rc;
}

int main(void)
{
    char *line = NULL;
    size_t cap = 0;
    struct buf text = {0};
    struct buf reply = {0};
    while (getline(&line, &cap, stdin) > 0) {
        struct err e = {.msg = ""};
        cJSON *item = cJSON_Parse(line);
        buf_clear(&text);
        buf_clear(&reply);
        bool ok = !render(item, &text, &e);
        buf_puts(&reply, ok ? "{\"out\":" : "{\"error\":");
        buf_json_string(&reply, ok ? buf_str(&text) : e.msg, ok ? text.len : strlen(e.msg));
        buf_puts(&reply, "}\n");
        fputs(buf_str(&reply), stdout);
        cJSON_Delete(item);
    }
    buf_free(&text);
    buf_free(&reply);
    free(line);
    return 0;
}
