#include "server/openai_request.h"

#include "base/rng.h"
#include "server/json_check.h"
#include "server/openai_fields.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum field_kind {
    FIELD_BOOL,
    FIELD_INT,  /* int64_t in [min, max] */
    FIELD_REAL, /* double in [min, max] */
    FIELD_TEXT, /* const char * */
    FIELD_OWN,  /* its own reader */
    FIELD_LET_PASS,
};

#define IN_COMPLETION (1u << SRV_API_COMPLETION)
#define IN_CHAT       (1u << SRV_API_CHAT)
#define IN_BOTH       (IN_COMPLETION | IN_CHAT)
#define IN_EMBEDDING  (1u << SRV_API_EMBEDDING)
#define IN_ALL        (IN_BOTH | IN_EMBEDDING)
#define DIMENSION_MAX 1048576
#define NOWHERE       SIZE_MAX /* checked, then ignored */

struct field {
    const char *name;
    unsigned apis;
    enum field_kind kind;
    size_t offset;
    double min;
    double max;
    srv_field_fn *read;
};

#define AT(FIELD)           .offset = offsetof(struct srv_request, FIELD)
#define BOOL(FIELD)         .kind = FIELD_BOOL, AT(FIELD)
#define INT(FIELD, LO, HI)  .kind = FIELD_INT, AT(FIELD), .min = LO, .max = HI
#define REAL(FIELD, LO, HI) .kind = FIELD_REAL, AT(FIELD), .min = LO, .max = HI
#define OWN(READ)           .kind = FIELD_OWN, .read = READ
#define IGNORED(KIND)       .kind = KIND, .offset = NOWHERE
#define TOK_MAX             16777216.0

/* clang-format off */
static const struct field fields[] = {
    {"model", IN_ALL, .kind = FIELD_TEXT, AT(model)},
    {"lora", IN_ALL, .kind = FIELD_TEXT, AT(lora)},
    {"prompt", IN_COMPLETION, OWN(srv_field_prompt)},
    {"messages", IN_CHAT, OWN(srv_field_messages)},
    {"input", IN_EMBEDDING, OWN(srv_field_prompt)},
    {"dimensions", IN_EMBEDDING, INT(n_dimension, 1, DIMENSION_MAX)},
    {"encoding_format", IN_EMBEDDING, OWN(srv_field_encoding_format)},

    {"stream", IN_BOTH, BOOL(stream)},
    {"stream_options", IN_BOTH, OWN(srv_field_stream_options)},
    {"n", IN_BOTH, INT(n, 1, SRV_N_MAX)},
    {"best_of", IN_COMPLETION, INT(best_of, 1, SRV_N_MAX)},
    {"echo", IN_BOTH, BOOL(echo)},
    {"max_tokens", IN_COMPLETION, INT(n_gen_max, 0, TOK_MAX)},
    {"max_tokens", IN_CHAT, INT(n_gen_max, 1, TOK_MAX)},
    {"max_completion_tokens", IN_BOTH, INT(n_gen_max_chat, 1, TOK_MAX)},
    {"min_tokens", IN_BOTH, INT(n_gen_min, 0, TOK_MAX)},

    {"temperature", IN_BOTH, REAL(temperature, 0, 2)},
    {"top_p", IN_BOTH, REAL(top_p, 0, 1)},
    {"top_k", IN_BOTH, INT(top_k, -1, 2147483647)},
    {"min_p", IN_BOTH, REAL(min_p, 0, 1)},
    {"repetition_penalty", IN_BOTH, REAL(repetition_penalty, 0.01, 100)},
    {"presence_penalty", IN_BOTH, REAL(presence_penalty, -2, 2)},
    {"frequency_penalty", IN_BOTH, REAL(frequency_penalty, -2, 2)},
    {"seed", IN_BOTH, OWN(srv_field_seed)},
    {"logit_bias", IN_BOTH, OWN(srv_field_logit_bias)},
    {"logprobs", IN_COMPLETION, OWN(srv_field_completion_logprobs)},
    {"logprobs", IN_CHAT, BOOL(want_logprobs)},
    {"top_logprobs", IN_CHAT, INT(n_top_logprob, 0, SAMPLE_TOP_MAX)},

    {"stop", IN_BOTH, OWN(srv_field_stop)},
    {"stop_token_ids", IN_BOTH, OWN(srv_field_stop_ids)},
    {"include_stop_str_in_output", IN_BOTH, BOOL(keep_stop)},
    {"ignore_eos", IN_BOTH, BOOL(ignore_eos)},
    {"skip_special_tokens", IN_BOTH, BOOL(skip_special)},
    {"spaces_between_special_tokens", IN_BOTH, IGNORED(FIELD_BOOL)},
    {"return_token_ids", IN_BOTH, BOOL(return_token_ids)},
    {"add_special_tokens", IN_ALL, BOOL(add_special)},
    {"add_generation_prompt", IN_CHAT, BOOL(add_generation_prompt)},
    {"continue_final_message", IN_CHAT, BOOL(continue_final_message)},
    {"tools", IN_CHAT, OWN(srv_field_tools)},
    {"tool_choice", IN_CHAT, OWN(srv_field_tool_choice)},
    {"parallel_tool_calls", IN_CHAT, BOOL(parallel_tool_calls)},
    {"chat_template_kwargs", IN_CHAT, OWN(srv_field_kwargs)},

    {"cache_salt", IN_BOTH, OWN(srv_field_cache_salt)},
    {"prompt_cache_key", IN_BOTH, OWN(srv_field_cache_key)},
    {"prompt_cache_retention", IN_BOTH, OWN(srv_field_cache_retention)},
    {"prompt_cache_options", IN_BOTH, OWN(srv_field_cache_options)},

    /* Known, checked, without effect on the answer. */
    {"user", IN_ALL, IGNORED(FIELD_TEXT)},
    {"safety_identifier", IN_ALL, IGNORED(FIELD_TEXT)},
    {"service_tier", IN_BOTH, IGNORED(FIELD_TEXT)},
    {"verbosity", IN_CHAT, IGNORED(FIELD_TEXT)},
    {"store", IN_BOTH, IGNORED(FIELD_BOOL)},
    {"metadata", IN_BOTH, IGNORED(FIELD_LET_PASS)},
    {"prediction", IN_CHAT, IGNORED(FIELD_LET_PASS)},
    {"moderation", IN_CHAT, IGNORED(FIELD_LET_PASS)},
    {"reasoning_effort", IN_CHAT, IGNORED(FIELD_LET_PASS)},

    /* What would change the answer, and cannot be done here. */
    {"response_format", IN_BOTH, OWN(srv_field_response_format)},
    {"modalities", IN_CHAT, OWN(srv_field_modalities)},
    {"function_call", IN_CHAT, OWN(srv_field_tool_choice)},
    {"functions", IN_CHAT, OWN(srv_field_refuse_unless_empty)},
    {"audio", IN_CHAT, OWN(srv_field_refuse)},
    {"web_search_options", IN_CHAT, OWN(srv_field_refuse)},
    {"suffix", IN_COMPLETION, OWN(srv_field_refuse_unless_empty)},
    {"use_beam_search", IN_BOTH, OWN(srv_field_refuse_true)},
    {"prompt_logprobs", IN_BOTH, OWN(srv_field_refuse)},
    {"truncate_prompt_tokens", IN_ALL, OWN(srv_field_refuse)},
    {"allowed_token_ids", IN_BOTH, OWN(srv_field_refuse)},
    {"bad_words", IN_BOTH, OWN(srv_field_refuse_unless_empty)},
    {"chat_template", IN_CHAT, OWN(srv_field_refuse)},
    {"structured_outputs", IN_BOTH, OWN(srv_field_refuse)},
    {"guided_json", IN_BOTH, OWN(srv_field_refuse)},
    {"guided_regex", IN_BOTH, OWN(srv_field_refuse)},
    {"guided_choice", IN_BOTH, OWN(srv_field_refuse)},
    {"guided_grammar", IN_BOTH, OWN(srv_field_refuse)},
    {"grammar", IN_BOTH, OWN(srv_field_refuse_unless_empty)},
    {"json_schema", IN_BOTH, OWN(srv_field_refuse)},
};
/* clang-format on */
#define N_FIELD (sizeof fields / sizeof *fields)

static bool wrong_type(const struct field *d, const cJSON *v, const char *want, struct srv_fail *f)
{
    return srv_fail(f, 400, "invalid_type", d->name, "%s must be %s, not %s", d->name, want,
                    srv_json_kind(v));
}

static bool read_number(const struct field *d, const cJSON *v, struct srv_request *r,
                        struct srv_fail *f)
{
    bool integer = d->kind == FIELD_INT;
    if (!cJSON_IsNumber(v)) {
        return wrong_type(d, v, integer ? "an integer" : "a number", f);
    }
    double x = v->valuedouble;
    if (!(x >= d->min && x <= d->max) || (integer && x != floor(x))) {
        return srv_fail(f, 400, "invalid_value", d->name, "%s: %.17g is not %s from %.10g to %.10g",
                        d->name, x, integer ? "an integer" : "a number", d->min, d->max);
    }
    if (d->offset == NOWHERE) {
        return true;
    }
    void *field = (char *)r + d->offset;
    if (integer) {
        *(int64_t *)field = (int64_t)x;
    } else {
        *(double *)field = x;
    }
    return true;
}

static bool read_bool(const struct field *d, const cJSON *v, struct srv_request *r,
                      struct srv_fail *f)
{
    if (!cJSON_IsBool(v)) {
        return wrong_type(d, v, "a boolean", f);
    }
    if (d->offset == offsetof(struct srv_request, add_special)) {
        r->add_special = cJSON_IsTrue(v);
    } else if (d->offset != NOWHERE) {
        *(bool *)((char *)r + d->offset) = cJSON_IsTrue(v);
    }
    return true;
}

static bool read_field(const struct field *d, const cJSON *v, uint32_t n_vocab,
                       struct srv_request *r, struct srv_fail *f)
{
    struct srv_field_in in = {.name = d->name, .value = v, .n_vocab = n_vocab};
    switch (d->kind) {
    case FIELD_BOOL: return read_bool(d, v, r, f);
    case FIELD_INT:
    case FIELD_REAL: return read_number(d, v, r, f);
    case FIELD_TEXT:
        if (!cJSON_IsString(v)) {
            return wrong_type(d, v, "a string", f);
        }
        if (d->offset != NOWHERE) {
            *(const char **)((char *)r + d->offset) = v->valuestring;
        }
        return true;
    case FIELD_OWN: return d->read(&in, r, f);
    case FIELD_LET_PASS: return true;
    }
    return true;
}

static bool read_fields(struct srv_request *r, uint32_t n_vocab, struct srv_fail *f)
{
    for (size_t i = 0; i < N_FIELD; i++) {
        if (!(fields[i].apis & 1u << r->api)) {
            continue;
        }
        const cJSON *v = cJSON_GetObjectItemCaseSensitive(r->root, fields[i].name);
        if (v && !cJSON_IsNull(v) && !read_field(&fields[i], v, n_vocab, r, f)) {
            return false;
        }
    }
    return true;
}

/* What no single parameter can tell. */
static bool check_whole(struct srv_request *r, struct srv_fail *f)
{
    static const char *const names[] = {"prompt", "messages", "input"};
    const char *needed = names[r->api];
    if (r->api == SRV_API_CHAT ? !r->messages : !r->n_prompt) {
        return srv_fail(f, 400, "missing_required_parameter", needed, "%s is missing", needed);
    }
    if (r->best_of && r->best_of != r->n) {
        return srv_fail(f, 400, "unsupported_parameter", "best_of",
                        "best_of: only the value of n is supported");
    }
    if (r->api == SRV_API_EMBEDDING) {
        r->n_gen_max = 0;
        return true;
    }
    if ((size_t)r->n * (r->n_prompt ? r->n_prompt : 1) > SRV_CHOICE_MAX) {
        return srv_fail(f, 400, "invalid_value", "n", "%zu prompts × n = %d choices; at most %d",
                        r->n_prompt, (int)(r->n * (int64_t)r->n_prompt), SRV_CHOICE_MAX);
    }
    if (r->api == SRV_API_CHAT && r->n_top_logprob && !r->want_logprobs) {
        return srv_fail(f, 400, "invalid_value", "top_logprobs",
                        "top_logprobs needs logprobs to be true");
    }
    if (r->n_gen_max_chat >= 0) {
        r->n_gen_max = r->n_gen_max_chat; /* the newer name wins */
    }
    if (r->n_gen_max < 0 && r->api == SRV_API_COMPLETION) {
        r->n_gen_max = SRV_COMPLETION_TOK;
    }
    if (r->n_gen_max >= 0 && r->n_gen_min > r->n_gen_max) {
        return srv_fail(f, 400, "invalid_value", "min_tokens",
                        "min_tokens is %d, above max_tokens %d", (int)r->n_gen_min,
                        (int)r->n_gen_max);
    }
    if (r->n_gen_max == 0 && !r->echo) {
        return srv_fail(f, 400, "invalid_value", "max_tokens",
                        "max_tokens is 0 and echo is not on");
    }
    if (r->tools_off) {
        r->tools = NULL;
    }
    if (r->continue_final_message && r->add_generation_prompt) {
        r->add_generation_prompt = false;
    }
    if (!r->has_seed) {
        r->seed = rng_entropy();
    }
    return true;
}

bool srv_body_object(const char *body, size_t n_byte, cJSON **ret_root, struct srv_fail *f)
{
    struct err e = {0};
    if (n_byte == 0) {
        return srv_fail(f, 400, "invalid_json", NULL,
                        "the request has no body; send a JSON object");
    }
    enum err_code code = srv_json_check(body, n_byte, &e);
    if (code == ERR_NOMEM) {
        return srv_fail_of(f, &e, NULL);
    }
    if (code != ERR_OK) {
        return srv_fail(f, 400, "invalid_json", NULL, "%s", e.msg);
    }
    cJSON *root = cJSON_ParseWithLength(body, n_byte);
    if (!root) {
        return srv_fail(f, 503, "out_of_memory", NULL, "out of memory for the request");
    }
    if (!cJSON_IsObject(root)) {
        const char *kind = srv_json_kind(root);
        cJSON_Delete(root);
        return srv_fail(f, 400, "invalid_type", NULL, "the body must be a JSON object, not %s",
                        kind);
    }
    *ret_root = root;
    return true;
}

bool srv_request_parse(enum srv_api api, const char *body, size_t n_byte,
                       const struct srv_request_env *env, struct srv_request *r, struct srv_fail *f)
{
    *r = (struct srv_request){
        .api = api,
        .n = 1,
        .n_gen_max = -1,
        .n_gen_max_chat = -1,
        .temperature = env->sampling.temperature,
        .top_p = env->sampling.top_p,
        .min_p = env->sampling.min_p,
        .top_k = env->sampling.top_k,
        .repetition_penalty = env->sampling.repetition_penalty,
        .skip_special = true,
        .parallel_tool_calls = true,
        .add_special = -1,
        .add_generation_prompt = true,
    };
    if (!srv_body_object(body, n_byte, &r->root, f) || !read_fields(r, env->n_vocab, f) ||
        !check_whole(r, f)) {
        srv_request_finish(r);
        return false;
    }
    return true;
}

void srv_request_finish(struct srv_request *r)
{
    for (size_t i = 0; i < r->n_prompt; i++) {
        free(r->prompts[i].ids);
    }
    free(r->prompts);
    free(r->bias);
    free(r->stop_ids);
    cJSON_Delete(r->root);
    *r = (struct srv_request){0};
}
