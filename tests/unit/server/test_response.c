/* How answers are written, byte for byte: the chunks of a stream in OpenAI's order, the whole
 * reply, logprobs, echo, usage, errors. Every chunk must be JSON, and no character may be split. */
#include "fake_engine.h"
#include "server/json_check.h"
#include "server/openai_response.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct fixture {
    struct eng *eng;
    struct srv_model_view view;
    struct srv_answer *a;
    struct buf out;
};

static void begin_with(struct fixture *x, enum srv_api api, const char *body,
                       enum srv_tool_format format)
{
    struct fake_options options = {0};
    struct srv_request r;
    struct srv_fail f = {0};
    struct err e = {0};
    *x = (struct fixture){0};
    assert_int_equal(fake_engine_create(&options, &x->eng, &e), ERR_OK);
    x->view = (struct srv_model_view){x->eng, "m\"1", "fp_0"};
    const struct srv_request_env env = {x->eng->info.n_vocab, srv_sampling_openai()};
    if (!srv_request_parse(api, body, strlen(body), &env, &r, &f)) {
        fail_msg("%s", f.message);
    }
    r.tool_format = format;
    struct srv_prompt_tokens *prompts = calloc(1, sizeof *prompts);
    assert_non_null(prompts);
    assert_int_equal(eng_ids_push(&prompts->ids, FAKE_BOS, &e), ERR_OK);
    assert_int_equal(eng_ids_push(&prompts->ids, FAKE_BYTE_FIRST + 'P', &e), ERR_OK);
    buf_puts(&prompts->echo, "P");
    assert_int_equal(srv_answer_create(&r, prompts, 1, &x->a, &e), ERR_OK);
    (void)strcpy(x->a->id, "ID");
    x->a->created_s = 7;
    srv_response_begin(x->a, &x->view);
}

static void begin(struct fixture *x, enum srv_api api, const char *body)
{
    begin_with(x, api, body, SRV_TOOLS_TEXT);
}

static void end(struct fixture *x)
{
    srv_answer_free(x->a);
    buf_free(&x->out);
    eng_close(x->eng);
}

static void token(struct fixture *x, size_t choice, int32_t id, const char *text,
                  const struct sample_result *logprobs)
{
    const struct sch_event ev = {.kind = SCH_EVENT_TOKEN,
                                 .id = id,
                                 .text = text,
                                 .n_byte = strlen(text),
                                 .logprobs = logprobs};
    srv_response_take(x->a, &x->a->choices[choice], &ev, &x->view);
    if (x->a->request.stream) {
        srv_response_chunk(x->a, &x->a->choices[choice], false, &x->out);
    }
}

static void finish(struct fixture *x, size_t choice, enum sch_finish how)
{
    const struct sch_event ev = {.kind = SCH_EVENT_END, .finish = how};
    struct srv_choice *c = &x->a->choices[choice];
    srv_response_take(x->a, c, &ev, &x->view);
    c->finish = how;
    c->n_cached_tok = 2;
    c->n_cached_disk_tok = 1;
    c->n_cache_write_tok = 3;
    x->a->n_open--;
    if (x->a->request.stream) {
        srv_response_finish_chunk(x->a, c, &x->out);
    }
}

/* Each frame holds JSON, or [DONE]. */
static void check_frames(const struct buf *out)
{
    const char *at = buf_str(out);
    while (*at) {
        const char *stop = strstr(at, "\n\n");
        assert_non_null(stop);
        assert_int_equal(strncmp(at, "data: ", 6), 0);
        at += 6;
        size_t n = (size_t)(stop - at);
        if (strncmp(at, "[DONE]", 6) != 0) {
            struct err e = {0};
            char *copy = strndup(at, n);
            assert_non_null(copy);
            if (srv_json_check(copy, n, &e) != ERR_OK) {
                fail_msg("%s in %s", e.msg, copy);
            }
            free(copy);
        }
        at = stop + 2;
    }
}

#define CHAT_HEAD                                                                                  \
    "data: {\"id\":\"ID\",\"object\":\"chat.completion.chunk\",\"created\":7,"                     \
    "\"model\":\"m\\\"1\",\"system_fingerprint\":\"fp_0\",\"choices\":"
#define TEXT_HEAD                                                                                  \
    "data: {\"id\":\"ID\",\"object\":\"text_completion\",\"created\":7,"                           \
    "\"model\":\"m\\\"1\",\"system_fingerprint\":\"fp_0\",\"choices\":"
#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]"

static void test_chat_stream(void **state)
{
    (void)state;
    struct fixture x;
    begin(&x, SRV_API_CHAT,
          "{" MESSAGES ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    token(&x, 0, 300, "Hé", NULL);
    token(&x, 0, 301, "", NULL); /* held back: no chunk */
    token(&x, 0, 302, "\xf0\x9f\x98\x80\n", NULL);
    finish(&x, 0, SCH_FINISH_STOP);
    srv_response_stream_end(x.a, &x.out);
    assert_string_equal(
        buf_str(&x.out),
        CHAT_HEAD "[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":"
                  "null,\"finish_reason\":null}],\"usage\":null}\n\n" CHAT_HEAD
                  "[{\"index\":0,\"delta\":{\"content\":\"Hé\"},\"logprobs\":null,"
                  "\"finish_reason\":null}],\"usage\":null}\n\n" CHAT_HEAD
                  "[{\"index\":0,\"delta\":{\"content\":\"\xf0\x9f\x98\x80\\n\"},\"logprobs\":null,"
                  "\"finish_reason\":null}],\"usage\":null}\n\n" CHAT_HEAD
                  "[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
                  "\"usage\":null}\n\n" CHAT_HEAD
                  "[],\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":3,\"total_tokens\":5,"
                  "\"prompt_tokens_details\":{\"cached_tokens\":2,\"cache_write_tokens\":3},"
                  "\"kvasir\":{\"cached_tokens\":{\"ram\":1,\"disk\":1}}}}\n\ndata: [DONE]\n\n");
    check_frames(&x.out);
    end(&x);
}

#define TOOLS ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}]"

/* A call is one delta, whole; the finish says so. */
static void test_calls(void **state)
{
    (void)state;
    static const char call[] =
        "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":\"\\\"\"}}</tool_call>";
    struct fixture x;
    begin_with(&x, SRV_API_CHAT, "{" MESSAGES TOOLS ",\"stream\":true}", SRV_TOOLS_TAGS);
    token(&x, 0, 300, "See: ", NULL);
    token(&x, 0, 301, call, NULL);
    memcpy(x.a->choices[0].tools.calls[0].id, "ABCDEFGHI", 9);
    buf_clear(&x.out);
    x.a->choices[0].n_call_sent = 0;
    finish(&x, 0, SCH_FINISH_STOP);
    assert_string_equal(
        buf_str(&x.out),
        CHAT_HEAD "[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"ABCDEFGHI\","
                  "\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"
                  "\"{\\\"a\\\":\\\"\\\\\\\"\\\"}\"}}]},\"logprobs\":null,\"finish_reason\":null}]}"
                  "\n\n" CHAT_HEAD "[{\"index\":0,\"delta\":{},\"logprobs\":null,"
                  "\"finish_reason\":\"tool_calls\"}]}\n\n");
    check_frames(&x.out);
    end(&x);

    begin_with(&x, SRV_API_CHAT, "{" MESSAGES TOOLS "}", SRV_TOOLS_TAGS);
    token(&x, 0, 301, call, NULL);
    finish(&x, 0, SCH_FINISH_LENGTH);
    srv_response_whole(x.a, &x.out);
    assert_non_null(strstr(buf_str(&x.out), "\"content\":null,\"tool_calls\":[{\"id\":\""));
    assert_non_null(strstr(buf_str(&x.out), "\"finish_reason\":\"length\""));
    end(&x);
}

/* Answers in channels: the thinking goes its own way, without tools too. */
static void test_channels(void **state)
{
    (void)state;
    struct fixture x;
    begin_with(&x, SRV_API_CHAT, "{" MESSAGES ",\"stream\":true}", SRV_TOOLS_HARMONY);
    token(&x, 0, 300, "<|channel|>analysis<|message|>Hm", NULL);
    token(&x, 0, 301, "<|end|><|start|>assistant<|channel|>final<|message|>Hi", NULL);
    finish(&x, 0, SCH_FINISH_STOP);
    assert_non_null(strstr(buf_str(&x.out), "\"delta\":{\"reasoning_content\":\"Hm\"}"));
    assert_non_null(strstr(buf_str(&x.out), "\"delta\":{\"content\":\"Hi\"}"));
    assert_non_null(strstr(buf_str(&x.out), "\"finish_reason\":\"stop\""));
    check_frames(&x.out);
    end(&x);

    begin_with(&x, SRV_API_CHAT, "{" MESSAGES "}", SRV_TOOLS_HARMONY);
    token(&x, 0, 300, "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant", NULL);
    token(&x, 0, 301, "<|channel|>final<|message|>Hi", NULL);
    finish(&x, 0, SCH_FINISH_STOP);
    srv_response_whole(x.a, &x.out);
    assert_non_null(
        strstr(buf_str(&x.out), "\"content\":\"Hi\",\"reasoning_content\":\"Hm\",\"refusal\""));
    end(&x);

    begin_with(&x, SRV_API_COMPLETION, "{\"prompt\":\"P\"}", SRV_TOOLS_HARMONY);
    token(&x, 0, 300, "<|channel|>x", NULL);
    finish(&x, 0, SCH_FINISH_STOP);
    srv_response_whole(x.a, &x.out); /* a completion is what the model says */
    assert_non_null(strstr(buf_str(&x.out), "\"text\":\"<|channel|>x\""));
    end(&x);
}

static void test_completion_stream(void **state)
{
    (void)state;
    struct fixture x;
    begin(&x, SRV_API_COMPLETION, "{\"prompt\":\"P\",\"stream\":true,\"echo\":true,\"n\":2}");
    token(&x, 1, 300, "b", NULL);
    token(&x, 0, 300, "a", NULL);
    finish(&x, 1, SCH_FINISH_LENGTH);
    finish(&x, 0, SCH_FINISH_STOP);
    srv_response_stream_end(x.a, &x.out);
    assert_string_equal(
        buf_str(&x.out), TEXT_HEAD
        "[{\"index\":1,\"text\":\"Pb\",\"logprobs\":null,\"finish_reason\":null}]}\n\n" TEXT_HEAD
        "[{\"index\":0,\"text\":\"Pa\",\"logprobs\":null,\"finish_reason\":null}]}\n\n" TEXT_HEAD
        "[{\"index\":1,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"length\"}]}"
        "\n\n" TEXT_HEAD
        "[{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n"
        "data: [DONE]\n\n");
    check_frames(&x.out);
    end(&x);
}

static void test_whole_chat(void **state)
{
    (void)state;
    struct fixture x;
    begin(&x, SRV_API_CHAT, "{" MESSAGES ",\"stop\":\"END\"}");
    token(&x, 0, 300, "one ", NULL);
    token(&x, 0, 301, "\"two\"", NULL);
    x.a->choices[0].stop_matched = strdup("END");
    finish(&x, 0, SCH_FINISH_STOP);
    srv_response_whole(x.a, &x.out);
    assert_string_equal(
        buf_str(&x.out),
        "{\"id\":\"ID\",\"object\":\"chat.completion\",\"created\":7,\"model\":\"m\\\"1\","
        "\"system_fingerprint\":\"fp_0\",\"choices\":[{\"index\":0,\"message\":{\"role\":"
        "\"assistant\",\"content\":\"one \\\"two\\\"\",\"refusal\":null},\"logprobs\":null,"
        "\"finish_reason\":\"stop\",\"stop_reason\":\"END\"}],\"usage\":{\"prompt_tokens\":2,"
        "\"completion_tokens\":2,\"total_tokens\":4,\"prompt_tokens_details\":{\"cached_tokens\":2,"
        "\"cache_write_tokens\":3},"
        "\"kvasir\":{\"cached_tokens\":{\"ram\":1,\"disk\":1}}}}");
    end(&x);
}

static void test_empty_answer(void **state)
{
    (void)state;
    struct fixture x;
    begin(&x, SRV_API_COMPLETION, "{\"prompt\":\"P\",\"echo\":true,\"max_tokens\":0}");
    finish(&x, 0, SCH_FINISH_LENGTH);
    srv_response_whole(x.a, &x.out);
    assert_non_null(strstr(buf_str(&x.out), "\"text\":\"P\""));
    end(&x);
    begin(&x, SRV_API_CHAT, "{" MESSAGES ",\"stream\":true}");
    finish(&x, 0, SCH_FINISH_STOP);
    srv_response_stream_end(x.a, &x.out);
    assert_non_null(strstr(buf_str(&x.out), "\"role\":\"assistant\""));
    assert_non_null(strstr(buf_str(&x.out), "\"finish_reason\":\"stop\""));
    check_frames(&x.out);
    end(&x);
}

/* Tokens of the fake vocabulary: 4 + b is the byte b. */
static void test_logprobs(void **state)
{
    (void)state;
    const struct sample_result first = {
        .id = FAKE_BYTE_FIRST + 'a',
        .logprob = -0.5F,
        .n_top = 2,
        .top = {{FAKE_BYTE_FIRST + 'b', -0.25F}, {FAKE_BYTE_FIRST + 'a', -0.5F}}};
    const struct sample_result half = {.id = FAKE_BYTE_FIRST + 0xc3, .logprob = -1.0F / 0.0F};
    struct fixture x;
    begin(&x, SRV_API_CHAT, "{" MESSAGES ",\"logprobs\":true,\"top_logprobs\":2}");
    token(&x, 0, first.id, "a", &first);
    token(&x, 0, half.id, "", &half);
    finish(&x, 0, SCH_FINISH_STOP);
    srv_response_whole(x.a, &x.out);
    assert_non_null(strstr(
        buf_str(&x.out),
        "\"logprobs\":{\"content\":[{\"token\":\"a\",\"logprob\":-0.5,\"bytes\":[97],"
        "\"top_logprobs\":[{\"token\":\"b\",\"logprob\":-0.25,\"bytes\":[98]},{\"token\":\"a\","
        "\"logprob\":-0.5,\"bytes\":[97]}]},{\"token\":\"\xef\xbf\xbd\",\"logprob\":-9999,"
        "\"bytes\":[195],\"top_logprobs\":[]}],\"refusal\":null}"));
    end(&x);

    begin(&x, SRV_API_COMPLETION, "{\"prompt\":\"P\",\"logprobs\":1,\"echo\":true}");
    const struct sch_event of_prompt = {.kind = SCH_EVENT_TOKEN,
                                        .id = FAKE_BYTE_FIRST + 'P',
                                        .of_prompt = true,
                                        .text = "",
                                        .logprobs = &first};
    srv_response_take(x.a, &x.a->choices[0], &of_prompt, &x.view);
    token(&x, 0, first.id, "a", &first);
    finish(&x, 0, SCH_FINISH_LENGTH);
    srv_response_whole(x.a, &x.out);
    const char *got = strstr(buf_str(&x.out), "\"text\":");
    assert_non_null(got);
    /* <s> has no text, so P begins at 0. */
    static const char want[] =
        "\"text\":\"Pa\",\"logprobs\":{\"tokens\":[\"<s>\",\"P\",\"a\"],"
        "\"token_logprobs\":[null,-0.5,-0.5],\"top_logprobs\":[null,{\"b\":-0.25,\"a\":-0.5},"
        "{\"b\":-0.25,\"a\":-0.5}],\"text_offset\":[0,0,1]},\"finish_reason\":\"length\"}";
    assert_int_equal(strncmp(got, want, sizeof want - 1), 0);
    end(&x);
}

static void test_ids_and_errors(void **state)
{
    (void)state;
    struct fixture x;
    begin(&x, SRV_API_CHAT, "{" MESSAGES ",\"stream\":true,\"return_token_ids\":true}");
    token(&x, 0, 300, "a", NULL);
    token(&x, 0, 301, "", NULL);
    finish(&x, 0, SCH_FINISH_STOP); /* the held id comes with the end */
    const char *text = buf_str(&x.out);
    assert_non_null(strstr(text, "\"prompt_token_ids\":[0,84]"));
    assert_non_null(strstr(text, "\"token_ids\":[300]"));
    assert_non_null(strstr(text, "\"token_ids\":[301]"));
    check_frames(&x.out);
    buf_clear(&x.out);
    struct srv_fail f = {0};
    assert_false(srv_fail(&f, 500, NULL, NULL, "it \"broke\""));
    srv_response_stream_error(&f, &x.out);
    assert_string_equal(buf_str(&x.out),
                        "data: {\"error\":{\"message\":\"it \\\"broke\\\"\",\"type\":"
                        "\"server_error\",\"param\":null,\"code\":null}}\n\ndata: [DONE]\n\n");
    end(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat_stream), cmocka_unit_test(test_calls),
        cmocka_unit_test(test_channels),    cmocka_unit_test(test_completion_stream),
        cmocka_unit_test(test_whole_chat),  cmocka_unit_test(test_empty_answer),
        cmocka_unit_test(test_logprobs),    cmocka_unit_test(test_ids_and_errors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
