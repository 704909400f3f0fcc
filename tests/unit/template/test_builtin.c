/* The built-in chat formats, letter by letter. */
#include "engine/template/builtin.h"
#include "engine/template/template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct tmpl_value *text(struct tmpl_arena *a, const char *s)
{
    return tmpl_string(a, s, strlen(s));
}

static struct tmpl_value *message(struct tmpl_arena *a, const char *role,
                                  struct tmpl_value *content)
{
    struct tmpl_value *m = tmpl_map(a);
    assert_true(tmpl_map_set(a, m, "role", 4, text(a, role)));
    assert_true(tmpl_map_set(a, m, "content", 7, content));
    return m;
}

static struct tmpl_value *conversation(struct tmpl_arena *a, bool prompt)
{
    struct tmpl_value *list = tmpl_list(a);
    struct tmpl_value *context = tmpl_map(a);
    struct tmpl_value *parts = tmpl_list(a);
    struct tmpl_value *part = tmpl_map(a);
    assert_true(tmpl_map_set(a, part, "text", 4, text(a, "And you?")));
    assert_true(tmpl_list_add(a, parts, part));
    assert_true(tmpl_list_add(a, list, message(a, "system", text(a, "Be kind."))));
    assert_true(tmpl_list_add(a, list, message(a, "user", text(a, "Hello "))));
    assert_true(tmpl_list_add(a, list, message(a, "assistant", text(a, "Hi."))));
    assert_true(tmpl_list_add(a, list, message(a, "user", parts)));
    assert_true(tmpl_map_set(a, context, "messages", 8, list));
    assert_true(tmpl_map_set(a, context, "add_generation_prompt", 21, tmpl_bool(a, prompt)));
    return context;
}

static enum err_code render(enum tmpl_builtin kind, struct tmpl_arena *a,
                            const struct tmpl_value *context, struct buf *out, struct err *e)
{
    struct tmpl *t = NULL;
    struct tmpl_value *names = tmpl_map(a);
    const char *source = tmpl_builtin_source(kind);
    assert_true(tmpl_map_set(a, names, "bos_token", 9, text(a, "<s>")));
    assert_true(tmpl_map_set(a, names, "eos_token", 9, text(a, "</s>")));
    if (tmpl_compile(source, strlen(source), &t, e) != ERR_OK) {
        fail_msg("%s: %s", tmpl_builtin_name(kind), e->msg);
    }
    enum err_code code = tmpl_render(t, context, names, 0, out, e);
    tmpl_destroy(t);
    return code;
}

static void check(enum tmpl_builtin kind, bool prompt, const char *want)
{
    struct tmpl_arena *a = NULL;
    struct err e = {0};
    struct buf out = {0};
    assert_int_equal(tmpl_arena_create(1 << 20, &a, &e), ERR_OK);
    assert_int_equal(render(kind, a, conversation(a, prompt), &out, &e), ERR_OK);
    assert_string_equal(buf_str(&out), want);
    buf_free(&out);
    tmpl_arena_destroy(a);
}

static void test_formats(void **state)
{
    (void)state;
    check(TMPL_BUILTIN_CHATML, true,
          "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello <|im_end|>\n"
          "<|im_start|>assistant\nHi.<|im_end|>\n<|im_start|>user\nAnd you?<|im_end|>\n"
          "<|im_start|>assistant\n");
    check(TMPL_BUILTIN_LLAMA2, true,
          "[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHello [/INST] Hi. </s><s>[INST] And you? [/INST]");
    check(TMPL_BUILTIN_LLAMA3, true,
          "<|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
          "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
          "<|start_header_id|>assistant<|end_header_id|>\n\nHi.<|eot_id|>"
          "<|start_header_id|>user<|end_header_id|>\n\nAnd you?<|eot_id|>"
          "<|start_header_id|>assistant<|end_header_id|>\n\n");
    check(TMPL_BUILTIN_GEMMA, true,
          "<start_of_turn>user\nBe kind.\n\nHello<end_of_turn>\n<start_of_turn>model\nHi."
          "<end_of_turn>\n<start_of_turn>user\nAnd you?<end_of_turn>\n<start_of_turn>model\n");
    check(TMPL_BUILTIN_PLAIN, false,
          "system: Be kind.\nuser: Hello\nassistant: Hi.\nuser: And you?\n");
}

static struct tmpl_value *one(struct tmpl_arena *a, const char *key, struct tmpl_value *v)
{
    struct tmpl_value *m = tmpl_map(a);
    assert_true(tmpl_map_set(a, m, key, strlen(key), v));
    return m;
}

/* A tool, a call of it and its result; with_system: behind a text of the user's own. */
static struct tmpl_value *tool_talk(struct tmpl_arena *a, bool with_system)
{
    struct tmpl_value *list = tmpl_list(a);
    struct tmpl_value *context = tmpl_map(a);
    struct tmpl_value *calls = tmpl_list(a);
    struct tmpl_value *tools = tmpl_list(a);
    struct tmpl_value *function = one(a, "name", text(a, "f"));
    struct tmpl_value *calling = message(a, "assistant", tmpl_none(a));
    assert_true(tmpl_map_set(a, function, "arguments", 9, one(a, "x", tmpl_int(a, 1))));
    assert_true(tmpl_list_add(a, calls, one(a, "function", function)));
    assert_true(tmpl_map_set(a, calling, "tool_calls", 10, calls));
    if (with_system) {
        assert_true(tmpl_list_add(a, list, message(a, "system", text(a, "Be kind."))));
    }
    assert_true(tmpl_list_add(a, list, message(a, "user", text(a, "Q"))));
    assert_true(tmpl_list_add(a, list, calling));
    assert_true(tmpl_list_add(a, list, message(a, "tool", text(a, "7"))));
    assert_true(tmpl_list_add(a, tools, one(a, "type", text(a, "function"))));
    assert_true(tmpl_map_set(a, context, "messages", 8, list));
    assert_true(tmpl_map_set(a, context, "tools", 5, tools));
    return context;
}

#define RULES                                                                                      \
    "You can call functions. These are there, one per line:\n<tools>\n"                            \
    "{\"type\": \"function\"}\n</tools>\nTo call one, answer with its name and arguments as JSON " \
    "in this form, once for each call:\n<tool_call>\n{\"name\": \"...\", \"arguments\": {...}}\n"  \
    "</tool_call>"
#define CALL   "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>"
#define RESULT "<tool_response>\n7\n</tool_response>"

static void check_tools(enum tmpl_builtin kind, bool with_system, const char *want)
{
    struct tmpl_arena *a = NULL;
    struct err e = {0};
    struct buf out = {0};
    assert_int_equal(tmpl_arena_create(1 << 20, &a, &e), ERR_OK);
    assert_int_equal(render(kind, a, tool_talk(a, with_system), &out, &e), ERR_OK);
    assert_string_equal(buf_str(&out), want);
    buf_free(&out);
    tmpl_arena_destroy(a);
}

static void test_tools(void **state)
{
    (void)state;
    check_tools(TMPL_BUILTIN_CHATML, true,
                "<|im_start|>system\nBe kind.\n\n" RULES
                "<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
                "<|im_start|>assistant\n" CALL "<|im_end|>\n<|im_start|>user\n" RESULT
                "<|im_end|>\n<|im_start|>assistant\n");
    check_tools(TMPL_BUILTIN_CHATML, false,
                "<|im_start|>system\n" RULES "<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
                "<|im_start|>assistant\n" CALL "<|im_end|>\n<|im_start|>user\n" RESULT
                "<|im_end|>\n<|im_start|>assistant\n");
    check_tools(TMPL_BUILTIN_LLAMA2, false,
                "[INST] <<SYS>>\n" RULES "\n<</SYS>>\n\nQ [/INST] " CALL " </s><s>[INST] " RESULT
                " [/INST]");
    check_tools(TMPL_BUILTIN_GEMMA, true,
                "<start_of_turn>user\nBe kind.\n\n" RULES "\n\nQ<end_of_turn>\n"
                "<start_of_turn>model\n" CALL "<end_of_turn>\n<start_of_turn>user\n" RESULT
                "<end_of_turn>\n<start_of_turn>model\n");
    check_tools(TMPL_BUILTIN_PLAIN, true,
                "system: Be kind.\n\n" RULES "\nuser: Q\nassistant: " CALL "\nuser: " RESULT
                "\nassistant: ");
}

static bool has_one(void *arg, const char *token)
{
    return arg && strcmp(arg, token) == 0;
}

static void test_detect(void **state)
{
    (void)state;
    char im_start[] = "<|im_start|>";
    assert_int_equal(tmpl_builtin_detect("x <|start_header_id|> y", has_one, im_start),
                     TMPL_BUILTIN_LLAMA3);
    assert_int_equal(tmpl_builtin_detect(NULL, has_one, im_start), TMPL_BUILTIN_CHATML);
    assert_int_equal(tmpl_builtin_detect("{{ nothing known }}", has_one, NULL), TMPL_BUILTIN_PLAIN);
    assert_string_equal(tmpl_builtin_name(TMPL_BUILTIN_LLAMA2), "llama-2");
}

static void test_bad_messages(void **state)
{
    (void)state;
    struct tmpl_arena *a = NULL;
    struct err e = {0};
    struct buf out = {0};
    assert_int_equal(tmpl_arena_create(1 << 20, &a, &e), ERR_OK);
    struct tmpl_value *context = tmpl_map(a);
    assert_int_equal(render(TMPL_BUILTIN_CHATML, a, context, &out, &e), ERR_INVALID);
    struct tmpl_value *list = tmpl_list(a);
    assert_true(tmpl_list_add(a, list, message(a, "user", tmpl_int(a, 1))));
    assert_true(tmpl_map_set(a, context, "messages", 8, list));
    assert_int_equal(render(TMPL_BUILTIN_CHATML, a, context, &out, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "neither text nor a list"));
    buf_free(&out);
    tmpl_arena_destroy(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_formats), cmocka_unit_test(test_tools),
                                       cmocka_unit_test(test_detect),
                                       cmocka_unit_test(test_bad_messages)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
