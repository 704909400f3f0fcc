/* The parameter table: types, both sides of every range, what is refused by name, what is let pass,
 * and the messages of a chat. */
#include "server/chat_values.h"
#include "server/openai_request.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define N_VOCAB 320

static bool parse(enum srv_api api, const char *body, struct srv_request *r, struct srv_fail *f)
{
    *f = (struct srv_fail){0};
    const struct srv_request_env env = {N_VOCAB, srv_sampling_openai()};
    return srv_request_parse(api, body, strlen(body), &env, r, f);
}

/* The parameters after the one that each API needs. */
static bool parse_with(enum srv_api api, const char *more, struct srv_request *r,
                       struct srv_fail *f)
{
    char body[4096];
    (void)snprintf(body, sizeof body, "{%s%s%s}",
                   api == SRV_API_CHAT ? "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]"
                                       : "\"prompt\":\"x\"",
                   *more ? "," : "", more);
    return parse(api, body, r, f);
}

struct param_case {
    const char *json;
    const char *param; /* NULL: accepted */
};

static void check_cases(enum srv_api api, const struct param_case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct srv_request r;
        struct srv_fail f;
        bool good = parse_with(api, cases[i].json, &r, &f);
        if (good != !cases[i].param) {
            fail_msg("%s: %s", cases[i].json, good ? "accepted" : f.message);
        }
        if (good) {
            srv_request_finish(&r);
            continue;
        }
        assert_int_equal(f.status, 400);
        assert_string_equal(f.param, cases[i].param);
        assert_true(f.message[0]);
        assert_null(r.root);
    }
}

static const struct param_case both[] = {
    {"\"temperature\":0", NULL},
    {"\"temperature\":2", NULL},
    {"\"temperature\":2.01", "temperature"},
    {"\"temperature\":-0.01", "temperature"},
    {"\"temperature\":\"1\"", "temperature"},
    {"\"temperature\":null", NULL},
    {"\"temperature\":1e308", "temperature"},
    {"\"top_p\":0", NULL},
    {"\"top_p\":1", NULL},
    {"\"top_p\":1.0001", "top_p"},
    {"\"top_p\":-1", "top_p"},
    {"\"top_k\":-1", NULL},
    {"\"top_k\":0", NULL},
    {"\"top_k\":40", NULL},
    {"\"top_k\":-2", "top_k"},
    {"\"top_k\":1.5", "top_k"},
    {"\"top_k\":2147483648", "top_k"},
    {"\"min_p\":0.05", NULL},
    {"\"min_p\":1.1", "min_p"},
    {"\"repetition_penalty\":1.1", NULL},
    {"\"repetition_penalty\":0", "repetition_penalty"},
    {"\"presence_penalty\":-2", NULL},
    {"\"presence_penalty\":2.1", "presence_penalty"},
    {"\"frequency_penalty\":2", NULL},
    {"\"frequency_penalty\":-2.1", "frequency_penalty"},
    {"\"n\":1", NULL},
    {"\"n\":8", NULL},
    {"\"n\":0", "n"},
    {"\"n\":9", "n"},
    {"\"n\":16384", "n"},
    {"\"n\":-1", "n"},
    {"\"n\":[1]", "n"},
    {"\"N\":0", NULL}, /* names are case-sensitive: this is an unknown field */
    {"\"max_tokens\":1", NULL},
    {"\"max_tokens\":16777216", NULL},
    {"\"max_tokens\":16777217", "max_tokens"},
    {"\"max_tokens\":-1", "max_tokens"},
    {"\"max_tokens\":1.5", "max_tokens"},
    {"\"max_tokens\":true", "max_tokens"},
    {"\"max_completion_tokens\":7", NULL},
    {"\"max_completion_tokens\":0", "max_completion_tokens"},
    {"\"max_tokens\":4,\"min_tokens\":4", NULL},
    {"\"max_tokens\":4,\"min_tokens\":5", "min_tokens"},
    {"\"min_tokens\":-1", "min_tokens"},
    {"\"seed\":0", NULL},
    {"\"seed\":-9007199254740993", NULL},
    {"\"seed\":9223372036854775000", NULL},
    {"\"seed\":1e300", "seed"},
    {"\"seed\":0.5", "seed"},
    {"\"seed\":\"1\"", "seed"},
    {"\"stop\":\"a\"", NULL},
    {"\"stop\":[]", NULL},
    {"\"stop\":[\"a\",\"b\"]", NULL},
    {"\"stop\":\"\"", "stop"},
    {"\"stop\":[\"\"]", "stop"},
    {"\"stop\":[1]", "stop"},
    {"\"stop\":{}", "stop"},
    {"\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\",\"c\",\"d\","
     "\"e\",\"f\",\"g\"]",
     NULL},
    {"\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\",\"c\",\"d\","
     "\"e\",\"f\",\"g\",\"h\"]",
     "stop"},
    {"\"stop_token_ids\":[1,319]", NULL},
    {"\"stop_token_ids\":[320]", "stop_token_ids"},
    {"\"stop_token_ids\":[-1]", "stop_token_ids"},
    {"\"stop_token_ids\":1", "stop_token_ids"},
    {"\"logit_bias\":{}", NULL},
    {"\"logit_bias\":{\"0\":100,\"319\":-100}", NULL},
    {"\"logit_bias\":{\"0\":100.5}", "logit_bias"},
    {"\"logit_bias\":{\"320\":1}", "logit_bias"},
    {"\"logit_bias\":{\"-1\":1}", "logit_bias"},
    {"\"logit_bias\":{\" 1\":1}", "logit_bias"},
    {"\"logit_bias\":{\"1x\":1}", "logit_bias"},
    {"\"logit_bias\":{\"\":1}", "logit_bias"},
    {"\"logit_bias\":{\"99999999999999999999999\":1}", "logit_bias"},
    {"\"logit_bias\":{\"1\":\"1\"}", "logit_bias"},
    {"\"logit_bias\":[[1,1]]", "logit_bias"},
    {"\"stream\":true", NULL},
    {"\"stream\":1", "stream"},
    {"\"stream\":\"true\"", "stream"},
    {"\"stream_options\":{\"include_usage\":true}", NULL},
    {"\"stream_options\":{\"include_usage\":1}", "stream_options.include_usage"},
    {"\"stream_options\":true", "stream_options"},
    {"\"user\":\"u\"", NULL},
    {"\"user\":1", "user"},
    {"\"metadata\":{\"a\":\"b\"},\"store\":false,\"service_tier\":\"auto\"", NULL},
    {"\"nonsense\":{\"deep\":[1,2,3]}", NULL},
    {"\"cache_salt\":\"s\",\"prompt_cache_key\":\"k\"", NULL},
    {"\"cache_salt\":\"\"", "cache_salt"},
    {"\"cache_salt\":7", "cache_salt"},
    {"\"prompt_cache_key\":[]", "prompt_cache_key"},
    {"\"prompt_cache_retention\":\"in_memory\"", NULL},
    {"\"prompt_cache_retention\":null", NULL},
    {"\"prompt_cache_retention\":\"25h\"", "prompt_cache_retention"},
    {"\"prompt_cache_retention\":24", "prompt_cache_retention"},
    {"\"prompt_cache_options\":{}", NULL},
    {"\"prompt_cache_options\":{\"mode\":\"implicit\",\"ttl\":\"30d\"}", NULL},
    {"\"prompt_cache_options\":\"explicit\"", "prompt_cache_options"},
    {"\"prompt_cache_options\":{\"mode\":\"never\"}", "prompt_cache_options.mode"},
    {"\"prompt_cache_options\":{\"mode\":1}", "prompt_cache_options.mode"},
    {"\"prompt_cache_options\":{\"ttl\":\"31d\"}", "prompt_cache_options.ttl"},
    {"\"prompt_cache_options\":{\"ttl\":\"0s\"}", "prompt_cache_options.ttl"},
    {"\"prompt_cache_options\":{\"ttl\":\"5\"}", "prompt_cache_options.ttl"},
    {"\"prompt_cache_options\":{\"ttl\":\"5mm\"}", "prompt_cache_options.ttl"},
    {"\"prompt_cache_options\":{\"ttl\":\"99999999999999999999h\"}", "prompt_cache_options.ttl"},
    {"\"prompt_cache_options\":{\"ttl\":300}", "prompt_cache_options.ttl"},
    {"\"ignore_eos\":true,\"skip_special_tokens\":false", NULL},
    {"\"ignore_eos\":\"yes\"", "ignore_eos"},
    {"\"model\":5", "model"},
    {"\"response_format\":{\"type\":\"text\"}", NULL},
    {"\"response_format\":{\"type\":\"json_object\"}", "response_format"},
    {"\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}", "response_format"},
    {"\"response_format\":\"text\"", "response_format"},
    {"\"use_beam_search\":false", NULL},
    {"\"use_beam_search\":true", "use_beam_search"},
    {"\"guided_json\":{}", "guided_json"},
    {"\"grammar\":\"root ::= x\"", "grammar"},
    {"\"grammar\":\"\"", NULL},
};

static const struct param_case of_completions[] = {
    {"\"logprobs\":0", NULL},
    {"\"logprobs\":20", NULL},
    {"\"logprobs\":21", "logprobs"},
    {"\"logprobs\":true", "logprobs"},
    {"\"echo\":true,\"max_tokens\":0", NULL},
    {"\"max_tokens\":0", "max_tokens"},
    {"\"suffix\":\"\"", NULL},
    {"\"suffix\":\"end\"", "suffix"},
    {"\"best_of\":1", NULL},
    {"\"best_of\":2", "best_of"},
    {"\"best_of\":2,\"n\":2", NULL},
};

static const struct param_case of_chat[] = {
    {"\"logprobs\":true,\"top_logprobs\":20", NULL},
    {"\"logprobs\":true,\"top_logprobs\":21", "top_logprobs"},
    {"\"top_logprobs\":1", "top_logprobs"},
    {"\"top_logprobs\":0", NULL},
    {"\"logprobs\":1", "logprobs"},
    {"\"max_tokens\":0", "max_tokens"},
    {"\"tools\":[]", NULL},
    {"\"tools\":{}", "tools"},
    {"\"tools\":[{\"type\":\"function\"}]", "tools[0].function.name"},
    {"\"tools\":[{\"type\":\"custom\"}]", "tools[0]"},
    {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},7]", "tools[1]"},
    {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":[]}}]",
     "tools[0].function.parameters"},
    {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}]", NULL},
    {"\"tool_choice\":\"none\"", NULL},
    {"\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}", "tool_choice"},
    {"\"parallel_tool_calls\":false", NULL},
    {"\"parallel_tool_calls\":1", "parallel_tool_calls"},
    {"\"tool_choice\":\"auto\"", NULL},
    {"\"tool_choice\":\"required\"", "tool_choice"},
    {"\"modalities\":[\"text\"]", NULL},
    {"\"modalities\":[\"text\",\"audio\"]", "modalities"},
    {"\"audio\":{\"voice\":\"x\"}", "audio"},
    {"\"reasoning_effort\":\"low\",\"verbosity\":\"high\"", NULL},
    {"\"chat_template_kwargs\":{\"enable_thinking\":false}", NULL},
    {"\"chat_template_kwargs\":[]", "chat_template_kwargs"},
    {"\"chat_template\":\"{{x}}\"", "chat_template"},
};

static void test_params(void **state)
{
    (void)state;
    check_cases(SRV_API_COMPLETION, both, sizeof both / sizeof *both);
    check_cases(SRV_API_CHAT, both, sizeof both / sizeof *both);
    check_cases(SRV_API_COMPLETION, of_completions, sizeof of_completions / sizeof *of_completions);
    check_cases(SRV_API_CHAT, of_chat, sizeof of_chat / sizeof *of_chat);
}

static void test_values(void **state)
{
    (void)state;
    struct srv_request r;
    struct srv_fail f;
    assert_true(parse_with(SRV_API_COMPLETION,
                           "\"temperature\":0.5,\"top_k\":7,\"n\":3,\"seed\":-5,\"stop\":[\"x\"],"
                           "\"logprobs\":2,\"logit_bias\":{\"7\":-100},\"stop_token_ids\":[9]",
                           &r, &f));
    assert_true(r.temperature == 0.5);
    assert_int_equal(r.top_k, 7);
    assert_int_equal(r.n, 3);
    assert_true(r.has_seed && r.seed == (uint64_t)-5);
    assert_int_equal(r.n_stop, 1);
    assert_string_equal(r.stop[0], "x");
    assert_true(r.want_logprobs);
    assert_int_equal(r.n_top_logprob, 2);
    assert_int_equal(r.n_bias, 1);
    assert_int_equal(r.bias[0].id, 7);
    assert_true(r.bias[0].bias == -100.0F);
    assert_int_equal(r.n_gen_max, SRV_COMPLETION_TOK);
    assert_int_equal(r.stop_ids[0], 9);
    srv_request_finish(&r);
    assert_true(parse_with(SRV_API_CHAT, "\"max_tokens\":5,\"max_completion_tokens\":6", &r, &f));
    assert_int_equal(r.n_gen_max, 6);
    srv_request_finish(&r);
    assert_true(parse_with(SRV_API_CHAT,
                           "\"cache_salt\":\"s\",\"prompt_cache_retention\":\"in_memory\","
                           "\"prompt_cache_options\":{\"ttl\":\"30m\",\"mode\":\"explicit\"}",
                           &r, &f));
    assert_string_equal(r.cache_salt, "s");
    assert_true(r.retention.ram_only && r.retention.leaves_nothing);
    assert_int_equal(r.retention.keep_s, 1800);
    assert_int_equal(r.retention.ttl_s, 1800);
    srv_request_finish(&r);
    assert_true(parse_with(SRV_API_CHAT, "\"prompt_cache_retention\":\"24h\"", &r, &f));
    assert_int_equal(r.retention.keep_s, 86400);
    assert_int_equal(r.retention.ttl_s, 0);
    srv_request_finish(&r);
    assert_true(parse_with(SRV_API_CHAT, "", &r, &f));
    assert_null(r.cache_salt);
    assert_int_equal(r.n_gen_max, -1);
    assert_true(r.add_generation_prompt);
    srv_request_finish(&r);
}

static void check_body(enum srv_api api, const char *body, const char *param, const char *message)
{
    struct srv_request r;
    struct srv_fail f;
    if (parse(api, body, &r, &f)) {
        fail_msg("accepted %s", body);
    }
    assert_string_equal(f.param, param);
    if (!strstr(f.message, message)) {
        fail_msg("for %s: '%s' does not say '%s'", body, f.message, message);
    }
}

static void test_bodies(void **state)
{
    (void)state;
    check_body(SRV_API_COMPLETION, "", "", "no body");
    check_body(SRV_API_COMPLETION, "{", "", "not valid JSON at byte 1");
    check_body(SRV_API_COMPLETION, "[]", "", "must be a JSON object, not an array");
    check_body(SRV_API_COMPLETION, "{}", "prompt", "prompt is missing");
    check_body(SRV_API_CHAT, "{\"prompt\":\"x\"}", "messages", "messages is missing");
    check_body(SRV_API_CHAT, "{\"messages\":[]}", "messages", "messages is empty");
    check_body(SRV_API_CHAT, "{\"messages\":\"x\"}", "messages", "must be an array, not a string");
    check_body(SRV_API_CHAT, "{\"messages\":[1]}", "messages[0]",
               "must be an object, not a number");
    check_body(SRV_API_COMPLETION, "{\"prompt\":[]}", "prompt", "empty");
    check_body(SRV_API_COMPLETION, "{\"prompt\":5}", "prompt", "not a number");
    check_body(SRV_API_COMPLETION, "{\"prompt\":{}}", "prompt", "not an object");
    check_body(SRV_API_COMPLETION, "{\"prompt\":[-1]}", "prompt", "not a token id from 0 to 319");
    check_body(SRV_API_COMPLETION, "{\"prompt\":[320]}", "prompt", "320 is not a token id");
    check_body(SRV_API_COMPLETION, "{\"prompt\":[1.5]}", "prompt", "not a token id");
    check_body(SRV_API_COMPLETION, "{\"prompt\":[1,\"a\"]}", "prompt", "prompt[1] must be a token");
    check_body(SRV_API_COMPLETION, "{\"prompt\":[\"a\",1]}", "prompt[1]", "prompt[1] must be");
    check_body(SRV_API_COMPLETION, "{\"prompt\":[[1],[]],\"n\":8,\"best_of\":1}", "best_of", "n");
}

static void test_prompts(void **state)
{
    (void)state;
    struct srv_request r;
    struct srv_fail f;
    assert_true(parse(SRV_API_COMPLETION, "{\"prompt\":[1,2,319]}", &r, &f));
    assert_int_equal(r.n_prompt, 1);
    assert_int_equal(r.prompts[0].n_id, 3);
    assert_int_equal(r.prompts[0].ids[2], 319);
    srv_request_finish(&r);
    assert_true(parse(SRV_API_COMPLETION, "{\"prompt\":[\"a\",[5],\"bc\"]}", &r, &f));
    assert_int_equal(r.n_prompt, 3);
    assert_string_equal(r.prompts[2].text, "bc");
    assert_int_equal(r.prompts[1].ids[0], 5);
    srv_request_finish(&r);

    char body[4096] = "{\"n\":2,\"prompt\":[\"a\"";
    for (int i = 0; i < 63; i++) {
        (void)strcat(body, ",\"a\"");
    }
    char more[4096];
    (void)snprintf(more, sizeof more, "%s]}", body);
    assert_true(parse(SRV_API_COMPLETION, more, &r, &f)); /* 64 × 2 = 128 */
    srv_request_finish(&r);
    (void)snprintf(more, sizeof more, "%s,\"b\"]}", body);
    check_body(SRV_API_COMPLETION, more, "n", "at most 128");
}

/* ---- who decides what a request leaves out */

static void test_sampling(void **state)
{
    (void)state;
    struct err e = {0};
    struct srv_sampling s = {0};
    const struct eng_sampling silent = {NAN, NAN, NAN, NAN, NAN};
    const struct eng_sampling model = {
        .temperature = 0.6, .top_k = 20, .top_p = 0.95, .min_p = 7, .repetition_penalty = NAN};
    assert_int_equal(srv_sampling_make("model", &silent, &s, &e), ERR_OK);
    assert_true(s.temperature == 1 && s.top_p == 1 && s.top_k == -1 && s.min_p == 0);
    assert_int_equal(srv_sampling_make("model", &model, &s, &e), ERR_OK);
    assert_true(s.temperature == 0.6 && s.top_k == 20 && s.top_p == 0.95);
    assert_true(s.min_p == 0 && s.repetition_penalty == 1); /* 7 is out of range: left out */
    assert_int_equal(srv_sampling_make("openai", &model, &s, &e), ERR_OK);
    assert_true(s.temperature == 1 && s.top_k == -1);
    assert_int_equal(srv_sampling_make("temperature=0,min_p=0.05", &model, &s, &e), ERR_OK);
    assert_true(s.temperature == 0 && s.min_p == 0.05 && s.top_k == 20);
    static const char *const wrong[] = {"warm",          "temperature", "temperature=",
                                        "temperature=9", "top_k=1.5",   "top_q=1",
                                        "top_k=1,",      "top_k=nan",   "="};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(srv_sampling_make(wrong[i], &model, &s, &e), ERR_INVALID);
        assert_non_null(strstr(e.msg, "sampling: "));
    }
    /* The request wins. */
    const struct srv_request_env env = {N_VOCAB, s};
    struct srv_request r;
    struct srv_fail f = {0};
    const char body[] = "{\"prompt\":\"x\",\"top_k\":3}";
    assert_true(srv_request_parse(SRV_API_COMPLETION, body, strlen(body), &env, &r, &f));
    assert_true(r.top_k == 3 && r.temperature == 0 && r.min_p == 0.05);
    srv_request_finish(&r);
}

/* ---- messages */

static bool context_of(const char *messages, struct tmpl_arena *a, struct tmpl_value **ret,
                       struct srv_fail *f)
{
    char body[2048];
    struct srv_request r;
    (void)snprintf(body, sizeof body, "{\"messages\":%s,\"chat_template_kwargs\":{\"k\":[1,2.5]}}",
                   messages);
    assert_true(parse(SRV_API_CHAT, body, &r, f));
    bool good = srv_chat_context(&r, false, a, ret, f);
    srv_request_finish(&r);
    return good;
}

static void test_chat_values(void **state)
{
    (void)state;
    struct tmpl_arena *a = NULL;
    struct tmpl_value *context = NULL;
    struct srv_fail f = {0};
    struct err e = {0};
    size_t n = 0;
    assert_int_equal(tmpl_arena_create(1 << 20, &a, &e), ERR_OK);
    assert_true(context_of("[{\"role\":\"developer\",\"content\":\"S\"},"
                           "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
                           "{\"type\":\"text\",\"text\":\"b\"}],\"name\":\"N\"},"
                           "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\","
                           "\"function\":{\"name\":\"fn\",\"arguments\":\"{\\\"x\\\":[1]}\"}}]},"
                           "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"7\"},"
                           "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[]}]",
                           a, &context, &f));
    const struct tmpl_value *messages = tmpl_map_get(context, "messages");
    assert_int_equal(tmpl_len(messages), 5);
    assert_string_equal(tmpl_string_of(tmpl_map_get(tmpl_list_at(messages, 0), "role"), &n),
                        "system");
    assert_string_equal(tmpl_string_of(tmpl_map_get(tmpl_list_at(messages, 1), "content"), &n),
                        "a\nb");
    assert_string_equal(tmpl_string_of(tmpl_map_get(tmpl_list_at(messages, 1), "name"), &n), "N");
    assert_string_equal(tmpl_string_of(tmpl_map_get(tmpl_list_at(messages, 2), "content"), &n), "");
    const struct tmpl_value *calls = tmpl_map_get(tmpl_list_at(messages, 2), "tool_calls");
    assert_int_equal(tmpl_len(calls), 1);
    const struct tmpl_value *called = tmpl_map_get(tmpl_list_at(calls, 0), "function");
    assert_int_equal(tmpl_len(tmpl_map_get(tmpl_map_get(called, "arguments"), "x")), 1);
    assert_string_equal(tmpl_string_of(tmpl_map_get(tmpl_list_at(messages, 3), "name"), &n), "fn");
    assert_int_equal(tmpl_kind_of(tmpl_map_get(tmpl_list_at(messages, 4), "content")), TMPL_NONE);
    assert_null(tmpl_map_get(tmpl_list_at(messages, 4), "tool_calls"));
    assert_true(tmpl_bool_of(tmpl_map_get(context, "add_generation_prompt"), false));
    assert_int_equal(tmpl_kind_of(tmpl_list_at(tmpl_map_get(context, "k"), 0)), TMPL_INT);
    assert_int_equal(tmpl_kind_of(tmpl_list_at(tmpl_map_get(context, "k"), 1)), TMPL_FLOAT);
    assert_string_equal(srv_chat_final_role(context), "assistant");
    tmpl_arena_destroy(a);
}

static void test_bad_messages(void **state)
{
    (void)state;
    static const struct {
        const char *messages;
        const char *param;
    } cases[] = {
        {"[{}]", "messages[0].role"},
        {"[{\"role\":1}]", "messages[0].role"},
        {"[{\"role\":\"wizard\",\"content\":\"x\"}]", "messages[0].role"},
        {"[{\"role\":\"user\"}]", "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":null}]", "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":7}]", "messages[0].content"},
        {"[{\"role\":\"assistant\",\"tool_calls\":{}}]", "messages[0].tool_calls"},
        {"[{\"role\":\"assistant\",\"tool_calls\":[1]}]", "messages[0].tool_calls[0]"},
        {"[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\"}}]}]",
         "messages[0].tool_calls[0]"},
        {"[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"user\",\"content\":{}}]",
         "messages[1].content"},
        {"[{\"role\":\"user\",\"content\":[\"x\"]}]", "messages[0].content[0]"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]", "messages[0].content[0]"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]",
         "messages[0].content[0]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tmpl_arena *a = NULL;
        struct tmpl_value *context = NULL;
        struct srv_fail f = {0};
        struct err e = {0};
        assert_int_equal(tmpl_arena_create(1 << 20, &a, &e), ERR_OK);
        assert_false(context_of(cases[i].messages, a, &context, &f));
        assert_string_equal(f.param, cases[i].param);
        assert_int_equal(f.status, 400);
        tmpl_arena_destroy(a);
    }
    /* Larger than the arena: refused, not cut. */
    struct tmpl_arena *a = NULL;
    struct tmpl_value *context = NULL;
    struct srv_fail f = {0};
    struct err e = {0};
    assert_int_equal(tmpl_arena_create(100, &a, &e), ERR_OK);
    assert_false(context_of("[{\"role\":\"user\",\"content\":\"x\"}]", a, &context, &f));
    assert_string_equal(f.code, "request_too_large");
    tmpl_arena_destroy(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_params),      cmocka_unit_test(test_values),
        cmocka_unit_test(test_bodies),      cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_sampling),    cmocka_unit_test(test_chat_values),
        cmocka_unit_test(test_bad_messages)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
