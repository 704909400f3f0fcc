#include "server/chat_values.h"

#include "base/buf.h"
#include "server/json_check.h"
#include "server/json_value.h"
#include "server/openai_fields.h"
#include "server/tool_calls.h"

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

static bool set(struct tmpl_arena *a, struct tmpl_value *map, const char *key, struct tmpl_value *v)
{
    return tmpl_map_set(a, map, key, strlen(key), v);
}

/* The arguments of a call as a template wants them. Text that is no JSON object stays as it is. */
static struct tmpl_value *arguments_value(const cJSON *v, bool as_text, struct tmpl_arena *a)
{
    struct tmpl_value *out = NULL;
    if (cJSON_IsString(v) && !as_text) {
        struct err e = {0};
        size_t n = strlen(v->valuestring);
        cJSON *inner = srv_json_check(v->valuestring, n, &e) == ERR_OK
                           ? cJSON_ParseWithLength(v->valuestring, n)
                           : NULL;
        out = srv_json_value(a, cJSON_IsObject(inner) ? inner : v);
        cJSON_Delete(inner);
        return out;
    }
    if (!cJSON_IsString(v) && as_text) {
        char *text = cJSON_PrintUnformatted(v);
        out = text ? tmpl_string(a, text, strlen(text)) : NULL;
        cJSON_free(text);
        return out;
    }
    return srv_json_value(a, v);
}

/* A copy of the object, one of its values replaced. */
static struct tmpl_value *map_with(const cJSON *object, const char *key, struct tmpl_value *v,
                                   struct tmpl_arena *a)
{
    struct tmpl_value *map = tmpl_map(a);
    const cJSON *item = NULL;
    bool fits = map != NULL;
    cJSON_ArrayForEach(item, object)
    {
        bool here = strcmp(item->string, key) == 0;
        fits = fits && set(a, map, item->string, here ? v : srv_json_value(a, item));
    }
    return fits ? map : NULL;
}

/* *ret_v stays NULL when the arena is spent. */
static bool calls_value(const cJSON *calls, size_t i_message, bool text_arguments,
                        struct tmpl_arena *a, struct tmpl_value **ret_v, struct srv_fail *f)
{
    const cJSON *call = NULL;
    size_t i = 0;
    struct tmpl_value *list = tmpl_list(a);
    bool fits = list != NULL;
    cJSON_ArrayForEach(call, calls)
    {
        char param[64];
        const cJSON *function = cJSON_GetObjectItemCaseSensitive(call, "function");
        const cJSON *name = cJSON_GetObjectItemCaseSensitive(function, "name");
        const cJSON *arguments = cJSON_GetObjectItemCaseSensitive(function, "arguments");
        (void)snprintf(param, sizeof param, "messages[%zu].tool_calls[%zu]", i_message, i++);
        if (!cJSON_IsString(name) || !(cJSON_IsString(arguments) || cJSON_IsObject(arguments))) {
            return srv_fail(f, 400, "invalid_type", param,
                            "%s must have a function with a name and arguments", param);
        }
        struct tmpl_value *inner =
            map_with(function, "arguments", arguments_value(arguments, text_arguments, a), a);
        fits = fits && tmpl_list_add(a, list, map_with(call, "function", inner, a));
    }
    *ret_v = fits ? list : NULL;
    return true;
}

/* The name of the call that a result answers, NULL where none is near: calls and their results
 * stand together. */
static const char *name_of_call(const cJSON *messages, const cJSON *result)
{
    const cJSON *id = cJSON_GetObjectItemCaseSensitive(result, "tool_call_id");
    const cJSON *calls = NULL;
    const cJSON *message = result;
    for (int i = 0; i < SRV_CALL_MAX && !calls && message != messages->child; i++) {
        message = message->prev;
        calls = cJSON_GetObjectItemCaseSensitive(message, "tool_calls");
    }
    const cJSON *call = cJSON_IsString(id) && cJSON_IsArray(calls) ? calls->child : NULL;
    for (int i = 0; i < SRV_CALL_MAX && call; i++, call = call->next) {
        const cJSON *is = cJSON_GetObjectItemCaseSensitive(call, "id");
        const cJSON *function = cJSON_GetObjectItemCaseSensitive(call, "function");
        const cJSON *name = cJSON_GetObjectItemCaseSensitive(function, "name");
        if (cJSON_IsString(is) && cJSON_IsString(name) &&
            strcmp(is->valuestring, id->valuestring) == 0) {
            return name->valuestring;
        }
    }
    return NULL;
}

/* All but role and content. */
static bool add_fields(const struct srv_request *r, bool text_arguments, const cJSON *message,
                       size_t i_message, struct tmpl_arena *a, struct tmpl_value *map,
                       struct srv_fail *f)
{
    const cJSON *field = NULL;
    bool fits = true;
    cJSON_ArrayForEach(field, message)
    {
        struct tmpl_value *v = NULL;
        if (strcmp(field->string, "role") == 0 || strcmp(field->string, "content") == 0 ||
            cJSON_IsNull(field)) {
            continue;
        }
        if (strcmp(field->string, "tool_calls") != 0) {
            v = srv_json_value(a, field);
        } else if (!cJSON_IsArray(field)) {
            char param[48];
            (void)snprintf(param, sizeof param, "messages[%zu].tool_calls", i_message);
            return srv_fail(f, 400, "invalid_type", param, "%s must be an array, not %s", param,
                            srv_json_kind(field));
        } else if (!field->child) {
            continue; /* as if it were not there: templates look whether it is */
        } else if (!calls_value(field, i_message, text_arguments, a, &v, f)) {
            return false;
        }
        fits = fits && set(a, map, field->string, v);
    }
    const char *name = tmpl_map_get(map, "name") ? NULL : name_of_call(r->messages, message);
    if (name) {
        fits = fits && set(a, map, "name", tmpl_string(a, name, strlen(name)));
    }
    return fits || out_of_memory(f);
}

static bool add_message(const struct srv_request *r, bool text_arguments, const cJSON *message,
                        size_t i_message, struct tmpl_arena *a, struct tmpl_value *list,
                        struct srv_fail *f)
{
    char param[48];
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
    const cJSON *calls = cJSON_GetObjectItemCaseSensitive(message, "tool_calls");
    const char *name = strcmp(role->valuestring, "developer") == 0 ? "system" : role->valuestring;
    struct tmpl_value *content = NULL;
    if (!content_value(message, i_message, strcmp(name, "assistant") == 0, a, &content, f)) {
        return false;
    }
    struct tmpl_value *map = tmpl_map(a);
    if (calls && calls->child && content && tmpl_kind_of(content) == TMPL_NONE) {
        content = tmpl_string(a, "", 0); /* clients send null; templates add it to text */
    }
    if (!map || !set(a, map, "role", tmpl_string(a, name, strlen(name))) ||
        !set(a, map, "content", content)) {
        return out_of_memory(f);
    }
    return add_fields(r, text_arguments, message, i_message, a, map, f) &&
           (tmpl_list_add(a, list, map) || out_of_memory(f));
}

bool srv_chat_context(const struct srv_request *r, bool text_arguments, struct tmpl_arena *a,
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
        if (!add_message(r, text_arguments, item, i++, a, messages, f)) {
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
    if (!set(a, context, "messages", messages) ||
        !set(a, context, "add_generation_prompt", tmpl_bool(a, r->add_generation_prompt)) ||
        (r->tools && !set(a, context, "tools", srv_json_value(a, r->tools)))) {
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
