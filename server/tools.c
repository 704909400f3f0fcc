#include "server/tools.h"

#include "engine/template/value.h"

#include <string.h>

#define ARENA_BYTES ((size_t)1 << 20)
#define NEEDLE      "kvasir_needle"

static struct tmpl_value *text(struct tmpl_arena *a, const char *s)
{
    return tmpl_string(a, s, strlen(s));
}

static bool set(struct tmpl_arena *a, struct tmpl_value *map, const char *key, struct tmpl_value *v)
{
    return tmpl_map_set(a, map, key, strlen(key), v);
}

static struct tmpl_value *message(struct tmpl_arena *a, const char *role, const char *content)
{
    struct tmpl_value *m = tmpl_map(a);
    bool ok = set(a, m, "role", text(a, role)) && set(a, m, "content", text(a, content));
    return ok ? m : NULL;
}

/* {"type":"function","function":{"name":"f",KEY:v}} */
static struct tmpl_value *function(struct tmpl_arena *a, const char *key, struct tmpl_value *v)
{
    struct tmpl_value *inner = tmpl_map(a);
    struct tmpl_value *outer = tmpl_map(a);
    bool ok = set(a, inner, "name", text(a, "f")) && set(a, inner, "description", text(a, "d")) &&
              set(a, inner, key, v) && set(a, outer, "id", text(a, "abcdefgh1")) &&
              set(a, outer, "type", text(a, "function")) && set(a, outer, "function", inner);
    return ok ? outer : NULL;
}

/* A question, a call of f with the arguments given, and its result. */
static struct tmpl_value *talk(struct tmpl_arena *a, struct tmpl_value *arguments)
{
    struct tmpl_value *context = tmpl_map(a);
    struct tmpl_value *messages = tmpl_list(a);
    struct tmpl_value *calls = tmpl_list(a);
    struct tmpl_value *tools = tmpl_list(a);
    struct tmpl_value *schema = tmpl_map(a);
    struct tmpl_value *asked = message(a, "assistant", "");
    struct tmpl_value *result = message(a, "tool", "1");
    bool ok = set(a, schema, "type", text(a, "object")) &&
              set(a, schema, "properties", tmpl_map(a)) &&
              tmpl_list_add(a, tools, function(a, "parameters", schema)) &&
              tmpl_list_add(a, calls, function(a, "arguments", arguments)) &&
              set(a, asked, "tool_calls", calls) &&
              set(a, result, "tool_call_id", text(a, "abcdefgh1")) &&
              set(a, result, "name", text(a, "f")) &&
              tmpl_list_add(a, messages, message(a, "user", "q")) &&
              tmpl_list_add(a, messages, asked) && tmpl_list_add(a, messages, result) &&
              set(a, context, "messages", messages) && set(a, context, "tools", tools) &&
              set(a, context, "add_generation_prompt", tmpl_bool(a, true));
    return ok ? context : NULL;
}

/* Whether a call whose arguments are {NEEDLE: "x"}, or that as text, comes out as JSON or in the
 * template's own form: not at all, as Python's repr or as JSON in JSON is wrong. */
static bool shows_well(const struct eng *eng, bool as_text)
{
    struct tmpl_arena *a = NULL;
    struct buf out = {0};
    struct err e = {0};
    bool good = false;
    if (tmpl_arena_create(ARENA_BYTES, &a, &e) != ERR_OK) {
        return false;
    }
    struct tmpl_value *arguments = as_text ? text(a, "{\"" NEEDLE "\": \"x\"}") : tmpl_map(a);
    bool made = as_text || set(a, arguments, NEEDLE, text(a, "x"));
    const struct tmpl_value *context = made ? talk(a, arguments) : NULL;
    if (context && eng_render_chat(eng, context, &out, &e) == ERR_OK && buf_ok(&out)) {
        const char *s = buf_str(&out);
        good = strstr(s, NEEDLE) && !strstr(s, "'" NEEDLE) && !strstr(s, "\\\"" NEEDLE);
    }
    buf_free(&out);
    tmpl_arena_destroy(a);
    return good;
}

static enum srv_tool_format format_of(const char *t)
{
    if (strstr(t, "<|channel|>") && strstr(t, "<|message|>")) {
        return SRV_TOOLS_HARMONY;
    }
    if (strstr(t, "<tool_call>")) {
        return SRV_TOOLS_TAGS;
    }
    if (strstr(t, "[TOOL_CALLS]")) {
        return SRV_TOOLS_MISTRAL;
    }
    bool json = strstr(t, "{\"name\": ") && strstr(t, "\"parameters\": ");
    return strstr(t, "<|python_tag|>") || json ? SRV_TOOLS_JSON : SRV_TOOLS_TEXT;
}

/* Marks that are one token each, which detokenizing would leave out where they are control tokens.
 */
static void learn_ids(const struct eng *eng, struct srv_tools *t)
{
    static const struct {
        enum srv_tool_format format;
        const char *mark;
    } marks[] = {{SRV_TOOLS_TAGS, "<tool_call>"},      {SRV_TOOLS_TAGS, "</tool_call>"},
                 {SRV_TOOLS_MISTRAL, "[TOOL_CALLS]"},  {SRV_TOOLS_MISTRAL, "[ARGS]"},
                 {SRV_TOOLS_MISTRAL, "[CALL_ID]"},     {SRV_TOOLS_HARMONY, "<|start|>"},
                 {SRV_TOOLS_HARMONY, "<|channel|>"},   {SRV_TOOLS_HARMONY, "<|message|>"},
                 {SRV_TOOLS_HARMONY, "<|constrain|>"}, {SRV_TOOLS_HARMONY, "<|end|>"},
                 {SRV_TOOLS_JSON, "<|python_tag|>"}};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
        struct eng_ids ids = {0};
        struct err e = {0};
        const char *mark = marks[i].mark;
        if (marks[i].format == t->format && t->n_show_id < SCH_SHOW_MAX &&
            eng_tokenize(eng, mark, strlen(mark), ENG_TOKENIZE_PARSE_SPECIAL, &ids, &e) == ERR_OK &&
            ids.n == 1) {
            t->show_ids[t->n_show_id++] = ids.ids[0];
        }
        eng_ids_free(&ids);
    }
}

void srv_tools_learn(const struct eng *eng, struct srv_tools *ret_t)
{
    const char *source = eng->info.chat_template;
    *ret_t = (struct srv_tools){0};
    if (!source) {
        return;
    }
    ret_t->text_arguments = !shows_well(eng, false) && shows_well(eng, true);
    ret_t->shown = strstr(source, "tools") != NULL;
    if (ret_t->shown) {
        ret_t->format = format_of(source);
        learn_ids(eng, ret_t);
    }
}
