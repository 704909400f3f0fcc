#include "server/chat_values.h"

#include "base/buf.h"
#include "server/json_value.h"
#include "server/openai_fields.h"

#include <stdio.h>
#include <string.h>

static bool out_of_memory(struct srv_fail *f)
{
    return srv_fail(f, 400, "request_too_large", "messages",
                    "the messages take more memory than one request may");
}

static bool join_parts(const cJSON *parts, size_t i_message, struct buf *out, struct srv_fail *f)
{
    const cJSON *part = NULL;
    size_t i = 0;
    cJSON_ArrayForEach(part, parts)
    {
        char param[64];
        const cJSON *type = cJSON_GetObjectItemCaseSensitive(part, "type");
        const cJSON *text = cJSON_GetObjectItemCaseSensitive(part, "text");
        (void)snprintf(param, sizeof param, "messages[%zu].content[%zu]", i_message, i++);
        if (!cJSON_IsObject(part) || !cJSON_IsString(type)) {
            return srv_fail(f, 400, "invalid_type", param, "%s must be an object with a type",
                            param);
        }
        if (strcmp(type->valuestring, "text") != 0) {
            return srv_fail(f, 400, "unsupported_content", param,
                            "%s: this model takes text only, not \"%.40s\"", param,
                            type->valuestring);
        }
        if (!cJSON_IsString(text)) {
            return srv_fail(f, 400, "invalid_type", param, "%s.text must be a string", param);
        }
        if (i > 1) {
            buf_putc(out, '\n');
        }
        buf_puts(out, text->valuestring);
    }
    return true;
}

/* The message's content as a value; *ret_v stays NULL when the arena is spent. */
static bool content_value(const cJSON *message, size_t i_message, bool may_be_empty,
                          struct tmpl_arena *a, struct tmpl_value **ret_v, struct srv_fail *f)
{
    char param[48];
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(message, "content");
    (void)snprintf(param, sizeof param, "messages[%zu].content", i_message);
    if (!v || cJSON_IsNull(v)) {
        if (!may_be_empty) {
            return srv_fail(f, 400, "missing_required_parameter", param, "%s is missing", param);
        }
        *ret_v = tmpl_none(a);
        return true;
    }
    if (cJSON_IsString(v)) {
        *ret_v = tmpl_string(a, v->valuestring, strlen(v->valuestring));
        return true;
    }
    if (!cJSON_IsArray(v)) {
        return srv_fail(f, 400, "invalid_type", param,
                        "%s must be a string or an array of parts, not %s", param,
                        srv_json_kind(v));
    }
    struct buf text = {0};
    bool good = join_parts(v, i_message, &text, f);
    if (good && buf_ok(&text)) {
        *ret_v = tmpl_string(a, buf_str(&text), text.len);
    }
    buf_free(&text);
    return good;
}

static bool is_role(const char *role)
{
    static const char *const roles[] = {"system",    "developer", "user",
                                        "assistant", "tool",      "function"};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        if (strcmp(role, roles[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool add_message(const cJSON *message, size_t i_message, struct tmpl_arena *a,
                        struct tmpl_value *list, struct srv_fail *f)
{
    char param[48];
    const cJSON *field = NULL;
    const cJSON *role = cJSON_GetObjectItemCaseSensitive(message, "role");
    (void)snprintf(param, sizeof param, "messages[%zu].role", i_message);
    if (!cJSON_IsString(role)) {
        return role ? srv_fail(f, 400, "invalid_type", param, "%s must be a string, not %s", param,
                               srv_json_kind(role))
                    : srv_fail(f, 400, "missing_required_parameter", param, "%s is missing", param);
    }
    if (!is_role(role->valuestring)) {
        return srv_fail(f, 400, "invalid_value", param,
                        "%s: \"%.40s\" is not one of system, developer, user, assistant, tool, "
                        "function",
                        param, role->valuestring);
    }
    const char *name = strcmp(role->valuestring, "developer") == 0 ? "system" : role->valuestring;
    struct tmpl_value *content = NULL;
    if (!content_value(message, i_message, strcmp(name, "assistant") == 0, a, &content, f)) {
        return false;
    }
    struct tmpl_value *map = tmpl_map(a);
    bool fits = map && tmpl_map_set(a, map, "role", 4, tmpl_string(a, name, strlen(name))) &&
                tmpl_map_set(a, map, "content", 7, content);
    cJSON_ArrayForEach(field, message)
    {
        bool done = strcmp(field->string, "role") == 0 || strcmp(field->string, "content") == 0;
        fits = fits && (done || cJSON_IsNull(field) ||
                        tmpl_map_set(a, map, field->string, strlen(field->string),
                                     srv_json_value(a, field)));
    }
    return (fits && tmpl_list_add(a, list, map)) || out_of_memory(f);
}

bool srv_chat_context(const struct srv_request *r, struct tmpl_arena *a,
                      struct tmpl_value **ret_context, struct srv_fail *f)
{
    const cJSON *item = NULL;
    size_t i = 0;
    struct tmpl_value *context = tmpl_map(a);
    struct tmpl_value *messages = tmpl_list(a);
    if (!context || !messages) {
        return out_of_memory(f);
    }
    cJSON_ArrayForEach(item, r->messages)
    {
        if (!add_message(item, i++, a, messages, f)) {
            return false;
        }
    }
    /* The request's own names come first, so that ours below win over them. */
    cJSON_ArrayForEach(item, r->template_kwargs)
    {
        if (!tmpl_map_set(a, context, item->string, strlen(item->string),
                          srv_json_value(a, item))) {
            return out_of_memory(f);
        }
    }
    static const char prompt_key[] = "add_generation_prompt";
    if (!tmpl_map_set(a, context, "messages", 8, messages) ||
        !tmpl_map_set(a, context, prompt_key, sizeof prompt_key - 1,
                      tmpl_bool(a, r->add_generation_prompt))) {
        return out_of_memory(f);
    }
    *ret_context = context;
    return true;
}

static const char *final_string(const struct tmpl_value *context, const char *key, size_t *ret_n)
{
    const struct tmpl_value *messages = tmpl_map_get(context, "messages");
    size_t n = tmpl_len(messages);
    const char *s = NULL;
    *ret_n = 0;
    if (n) {
        s = tmpl_string_of(tmpl_map_get(tmpl_list_at(messages, n - 1), key), ret_n);
    }
    return s ? s : "";
}

const char *srv_chat_final_text(const struct tmpl_value *context, size_t *ret_n)
{
    return final_string(context, "content", ret_n);
}

const char *srv_chat_final_role(const struct tmpl_value *context)
{
    size_t n = 0;
    return final_string(context, "role", &n);
}
