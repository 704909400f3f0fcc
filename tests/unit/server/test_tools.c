/* Tool calls: each form a model may write them in, fed in pieces of every size; what is no call
 * stays text; and what is learned of real templates, by rendering a conversation as clients send it
 * against the reference's rendering. */
#include "base/file.h"
#include "engine/template/template.h"
#include "server/chat_values.h"
#include "server/tool_calls.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define NOW_UNIX_S 1785058200 /* the goldens' clock */

static const char tools_json[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{\"s\":{\"type\":\"string\"},\"i\":{\"type\":\"integer\"}}}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"g\"}}]";

struct reading {
    enum srv_tool_format format;
    const char *answer;
    const char *text;  /* what stays text */
    const char *calls; /* "f{…}g{…}" */
    bool single;
};

#define F1 "{\"name\":\"f\",\"arguments\":{\"s\":\"a\"}}"
#define G1 "{\"name\": \"g\", \"arguments\": {}}"

static const struct reading readings[] = {
    {SRV_TOOLS_TAGS, "Just text < and <tool", "Just text < and <tool", "", false},
    {SRV_TOOLS_TAGS, "  text \n ", "  text \n ", "", false},
    {SRV_TOOLS_TAGS, "<tool_call>\n" F1 "\n</tool_call>", "", "f{\"s\":\"a\"}", false},
    {SRV_TOOLS_TAGS,
     "Let me look.\n\n<tool_call>" F1 "</tool_call>\n<tool_call>" G1 "</tool_call>\n",
     "Let me look.", "f{\"s\":\"a\"}g{}", false},
    {SRV_TOOLS_TAGS, "<tool_call>" F1 "</tool_call>\n<tool_call>" G1 "</tool_call>", "",
     "f{\"s\":\"a\"}", true},
    {SRV_TOOLS_TAGS, "<tool_call>" F1, "", "f{\"s\":\"a\"}", false}, /* ended without its mark */
    {SRV_TOOLS_TAGS, "<tool_call>{\"name\":\"f\",\"arg", "<tool_call>{\"name\":\"f\",\"arg", "",
     false},
    {SRV_TOOLS_TAGS, "a <tool_call>{broken</tool_call> b", "a<tool_call>{broken</tool_call> b", "",
     false},
    {SRV_TOOLS_TAGS, "<tool_call>{\"name\":\"h\",\"arguments\":{}}</tool_call>", /* no such tool */
     "<tool_call>{\"name\":\"h\",\"arguments\":{}}</tool_call>", "", false},
    {SRV_TOOLS_TAGS, "<tool_call>{\"name\":\"f\",\"arguments\":[1]}</tool_call>",
     "<tool_call>{\"name\":\"f\",\"arguments\":[1]}</tool_call>", "", false},
    {SRV_TOOLS_TAGS, "<tool_call>[" F1 ",{\"name\":\"h\"}]</tool_call>",
     "<tool_call>[" F1 ",{\"name\":\"h\"}]</tool_call>", "", false},
    {SRV_TOOLS_TAGS, "<tool_call>{\"name\":\"f\",\"arguments\":\"{\\\"i\\\": 1}\"}</tool_call>", "",
     "f{\"i\":1}", false},
    {SRV_TOOLS_TAGS, "<tool_call>{\"name\":\"f\",\"arguments\":{\"s\":\"}</tool\"}}</tool_call>!",
     "!", "f{\"s\":\"}</tool\"}", false},
    {SRV_TOOLS_TAGS,
     "<tool_call>\n<function=f>\n<parameter=s>\n12\nlines\n</parameter>\n<parameter=i>\n12\n"
     "</parameter>\n</function>\n</tool_call>",
     "", "f{\"s\":\"12\\nlines\",\"i\":12}", false},
    {SRV_TOOLS_TAGS, "<tool_call><function=g></function></tool_call>", "", "g{}", false},
    {SRV_TOOLS_TAGS, "<tool_call><function=f><parameter=s>x</function></tool_call>",
     "<tool_call><function=f><parameter=s>x</function></tool_call>", "", false},
    {SRV_TOOLS_TAGS,
     "<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>7</arg_value>\n<arg_key>i</arg_key>"
     "<arg_value>7</arg_value>\n</tool_call>",
     "", "f{\"s\":\"7\",\"i\":7}", false},
    {SRV_TOOLS_TAGS, "<tool_call>g</tool_call>", "", "g{}", false},
    {SRV_TOOLS_MISTRAL, "[TOOL", "[TOOL", "", false},
    {SRV_TOOLS_MISTRAL, "[TOOL_CALLS][" F1 ", " G1 "]", "", "f{\"s\":\"a\"}g{}", false},
    {SRV_TOOLS_MISTRAL, "Hm. [TOOL_CALLS]f[ARGS]{\"s\": \"]{\\\"\"}[TOOL_CALLS]g[CALL_ID]a[ARGS]{}",
     "Hm.", "f{\"s\":\"]{\\\"\"}g{}", false},
    {SRV_TOOLS_MISTRAL, "[TOOL_CALLS]g{}", "", "g{}", false},
    {SRV_TOOLS_MISTRAL, "[TOOL_CALLS]g{} and", "[TOOL_CALLS]g{} and", "", false},
    {SRV_TOOLS_MISTRAL, "[TOOL_CALLS]", "[TOOL_CALLS]", "", false},
    {SRV_TOOLS_MISTRAL, "[TOOL_CALLS][" F1 "", "[TOOL_CALLS][" F1 "", "", false},
    {SRV_TOOLS_JSON, "\n{\"name\": \"f\", \"parameters\": {\"i\": 3}}", "", "f{\"i\":3}", false},
    {SRV_TOOLS_JSON,
     "<|python_tag|>{\"name\":\"f\",\"parameters\":{}}; {\"name\":\"g\",\"parameters\":{}}", "",
     "f{}g{}", false},
    {SRV_TOOLS_JSON, "{\"answer\": 42}", "{\"answer\": 42}", "", false},
    {SRV_TOOLS_JSON, "{\"name\":\"f\",\"parameters\":{}} is how",
     "{\"name\":\"f\",\"parameters\":{}} is how", "", false},
    {SRV_TOOLS_JSON, "<|python_tag|>print(1)", "<|python_tag|>print(1)", "", false},
    {SRV_TOOLS_JSON, "<b>bold</b> {}", "<b>bold</b> {}", "", false},
    {SRV_TOOLS_HARMONY,
     "<|channel|>analysis<|message|>Hm < "
     "<|en<|end|><|start|>assistant<|channel|>final<|message|>Hello <|",
     "(Hm < <|en)Hello <|", "", false},
    {SRV_TOOLS_HARMONY,
     "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"i\": 1}<|call|>", "",
     "f{\"i\":1}", false},
    {SRV_TOOLS_HARMONY,
     "<|channel|>commentary<|message|>First:<|end|><|start|>assistant to=functions.g<|channel|>"
     "commentary<|message|>{}",
     "First:", "g{}", false},
    {SRV_TOOLS_HARMONY, " to=functions.f<|channel|>commentary<|message|>{broken", "{broken", "",
     false},
    {SRV_TOOLS_HARMONY, "<|channel|>commentary to=functions.h<|message|>{}", "{}", "", false},
    {SRV_TOOLS_HARMONY, "No channels <|message|> here", "No channels <|message|> here", "", false},
    {SRV_TOOLS_HARMONY, "<|channel|>fin", "", "", false},
    {SRV_TOOLS_TEXT, "<tool_call>" F1 "</tool_call>", "<tool_call>" F1 "</tool_call>", "", false},
};

static void check_reading(const struct reading *want, const cJSON *tools, size_t n_piece)
{
    struct srv_tool_reader r;
    struct buf text = {0};
    struct buf calls = {0};
    size_t n = strlen(want->answer);
    srv_tool_reader_init(&r, want->format, tools, want->single);
    for (size_t at = 0; at < n; at += n_piece) {
        srv_tool_reader_feed(&r, want->answer + at, n - at < n_piece ? n - at : n_piece, &text);
    }
    srv_tool_reader_end(&r, &text);
    if (r.thought.len) {
        struct buf both = {0};
        buf_printf(&both, "(%s)%s", buf_str(&r.thought), buf_str(&text));
        buf_free(&text);
        text = both;
    }
    for (size_t i = 0; i < r.n_call; i++) {
        buf_printf(&calls, "%s%s", r.calls[i].name, r.calls[i].arguments);
        assert_int_equal(strlen(r.calls[i].id), SRV_CALL_ID_LEN);
    }
    if (strcmp(buf_str(&text), want->text) != 0 || strcmp(buf_str(&calls), want->calls) != 0) {
        fail_msg("%s in pieces of %zu: text \"%s\", calls %s", want->answer, n_piece,
                 buf_str(&text), buf_str(&calls));
    }
    srv_tool_reader_finish(&r);
    buf_free(&text);
    buf_free(&calls);
}

static void test_readings(void **state)
{
    (void)state;
    cJSON *tools = cJSON_Parse(tools_json);
    assert_non_null(tools);
    for (size_t i = 0; i < sizeof readings / sizeof *readings; i++) {
        size_t n = strlen(readings[i].answer);
        for (size_t n_piece = 1; n_piece <= n; n_piece++) {
            check_reading(&readings[i], tools, n_piece);
        }
    }
    cJSON_Delete(tools);
}

/* Text goes out as soon as it cannot be a call any more. */
static void test_streams(void **state)
{
    (void)state;
    struct srv_tool_reader r;
    struct buf text = {0};
    srv_tool_reader_init(&r, SRV_TOOLS_TAGS, NULL, false);
    srv_tool_reader_feed(&r, "Hello <to", 9, &text);
    assert_string_equal(buf_str(&text), "Hello");
    srv_tool_reader_feed(&r, "e ", 2, &text);
    assert_string_equal(buf_str(&text), "Hello <toe");
    for (int i = 0; i < 10000; i++) {
        srv_tool_reader_feed(&r, "\n", 1, &text);
    }
    assert_true(text.len > 5000); /* white space is not held back for ever */
    srv_tool_reader_end(&r, &text);
    assert_int_equal(text.len, 10 + 1 + 10000);
    srv_tool_reader_finish(&r);
    buf_free(&text);
}

/* ---- templates */

/* An engine that is a template. */
struct template_eng {
    struct eng eng;
    struct tmpl *t;
    struct tmpl_arena *arena;
    struct tmpl_value *names;
};

static enum err_code render(const struct eng *g, const struct tmpl_value *context, struct buf *out,
                            struct err *e)
{
    const struct template_eng *x = (const struct template_eng *)g;
    return tmpl_render(x->t, context, x->names, NOW_UNIX_S, out, e);
}

static enum err_code tokenize(const struct eng *g, const char *text, size_t n_byte, unsigned flags,
                              struct eng_ids *out, struct err *e)
{
    (void)g;
    (void)flags;
    (void)text;
    return eng_ids_push(out, (int32_t)n_byte, e);
}

static const struct eng_impl template_impl = {.render_chat = render, .tokenize = tokenize};

static void template_open(struct template_eng *x, const char *source)
{
    static const char *const names[] = {"bos_token", "<s>",   "eos_token", "</s>",
                                        "unk_token", "<unk>", "pad_token", "<pad>"};
    struct err e = {0};
    *x = (struct template_eng){.eng = {.impl = &template_impl, .info = {.chat_template = source}}};
    assert_int_equal(tmpl_compile(source, strlen(source), &x->t, &e), ERR_OK);
    assert_int_equal(tmpl_arena_create(1 << 16, &x->arena, &e), ERR_OK);
    x->names = tmpl_map(x->arena);
    for (size_t i = 0; i < 8; i += 2) {
        assert_true(tmpl_map_set(x->arena, x->names, names[i], strlen(names[i]),
                                 tmpl_string(x->arena, names[i + 1], strlen(names[i + 1]))));
    }
}

static void template_close(struct template_eng *x)
{
    tmpl_destroy(x->t);
    tmpl_arena_destroy(x->arena);
}

/* The conversation as the server renders it. */
static void render_request(const struct template_eng *x, const struct srv_tools *learned,
                           const cJSON *conversation, struct buf *out)
{
    struct srv_request r;
    struct srv_fail f = {0};
    struct err e = {0};
    struct tmpl_arena *a = NULL;
    struct tmpl_value *context = NULL;
    char *body = cJSON_PrintUnformatted(conversation);
    const struct srv_request_env env = {1000, srv_sampling_openai()};
    if (!srv_request_parse(SRV_API_CHAT, body, strlen(body), &env, &r, &f)) {
        fail_msg("%s", f.message);
    }
    assert_int_equal(tmpl_arena_create(1 << 24, &a, &e), ERR_OK);
    assert_true(srv_chat_context(&r, learned->text_arguments, a, &context, &f));
    if (eng_render_chat(&x->eng, context, out, &e) != ERR_OK) {
        buf_printf(out, "refused: %s", e.msg);
    }
    tmpl_arena_destroy(a);
    srv_request_finish(&r);
    free(body);
}

static cJSON *read_json(const char *folder, const char *name)
{
    char path[512];
    struct buf text = {0};
    struct err e = {0};
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    cJSON *v = file_read(path, name, (size_t)64 << 20, &text, &e) == ERR_OK
                   ? cJSON_ParseWithLength(buf_str(&text), text.len)
                   : NULL;
    buf_free(&text);
    return v;
}

/* A call with its arguments as text, as clients send it, comes out as the reference renders it with
 * values, or with text for templates that want that. */
static bool check_template(const char *folder, const cJSON *row, const cJSON *contexts)
{
    char path[512];
    struct buf source = {0};
    struct buf out = {0};
    struct err e = {0};
    struct template_eng x;
    struct srv_tools learned;
    (void)snprintf(path, sizeof path, "%s/%s", folder, row->string);
    assert_int_equal(file_read(path, "template", 1 << 20, &source, &e), ERR_OK);
    template_open(&x, buf_str(&source));
    srv_tools_learn(&x.eng, &learned);
    const char *like = learned.text_arguments ? "tool_call_str" : "tool_call_obj";
    const cJSON *want = cJSON_GetObjectItem(cJSON_GetObjectItem(row, like), "text");
    bool good = true;
    if (want) {
        render_request(&x, &learned, cJSON_GetObjectItem(contexts, "tool_call_str"), &out);
        good = strcmp(buf_str(&out), want->valuestring) == 0;
        print_message("%s %s: form %d, %s\n", good ? "ok" : "FAIL", row->string,
                      (int)learned.format, like);
        if (!good) {
            print_message("%s\n---- want\n%s\n", buf_str(&out), want->valuestring);
        }
    } else {
        print_message("-- %s: refuses calls\n", row->string);
    }
    template_close(&x);
    buf_free(&source);
    buf_free(&out);
    return good;
}

static void test_templates(void **state)
{
    (void)state;
    char folder[400];
    const char *shared = getenv("KVASIR_SHARED");
    (void)snprintf(folder, sizeof folder, "%s/data/templates", shared ? shared : "../shared");
    cJSON *goldens = read_json(folder, "goldens.json");
    cJSON *contexts = read_json(folder, "contexts.json");
    if (!goldens || !contexts) {
        print_message("skipped: no template goldens in %s\n", folder);
        cJSON_Delete(goldens);
        cJSON_Delete(contexts);
        skip();
    }
    const cJSON *row = NULL;
    bool good = true;
    cJSON_ArrayForEach(row, goldens)
    {
        good = check_template(folder, row, contexts) && good;
    }
    cJSON_Delete(goldens);
    cJSON_Delete(contexts);
    assert_true(good);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_readings),
                                       cmocka_unit_test(test_streams),
                                       cmocka_unit_test(test_templates)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
