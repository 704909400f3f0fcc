#include "server/openai_fields.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *srv_json_kind(const cJSON *v)
{
    if (cJSON_IsString(v)) {
        return "a string";
    }
    if (cJSON_IsNumber(v)) {
        return "a number";
    }
    if (cJSON_IsBool(v)) {
        return "a boolean";
    }
    if (cJSON_IsArray(v)) {
        return "an array";
    }
    return cJSON_IsObject(v) ? "an object" : "null";
}

static bool wrong_type(const char *name, const cJSON *v, const char *want, struct srv_fail *f)
{
    return srv_fail(f, 400, "invalid_type", name, "%.64s must be %s, not %s", name, want,
                    srv_json_kind(v));
}

static bool out_of_memory(struct srv_fail *f)
{
    return srv_fail(f, 503, "out_of_memory", NULL, "out of memory for the request");
}

bool srv_read_ids(const cJSON *array, uint32_t n_vocab, const char *param, int32_t **ret_ids,
                  size_t *ret_n, struct srv_fail *f)
{
    size_t n = 0;
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, array)
    {
        n++;
    }
    int32_t *ids = calloc(n ? n : 1, sizeof *ids);
    if (!ids) {
        return out_of_memory(f);
    }
    size_t i = 0;
    cJSON_ArrayForEach(item, array)
    {
        double v = cJSON_IsNumber(item) ? item->valuedouble : -1;
        if (!(v >= 0 && v < n_vocab) || v != floor(v)) {
            free(ids);
            if (!cJSON_IsNumber(item)) {
                return srv_fail(f, 400, "invalid_type", param,
                                "%.64s[%zu] must be a token id, not %s", param, i,
                                srv_json_kind(item));
            }
            return srv_fail(f, 400, "invalid_token_id", param,
                            "%.64s[%zu]: %.17g is not a token id from 0 to %u", param, i, v,
                            n_vocab - 1);
        }
        ids[i++] = (int32_t)v;
    }
    *ret_ids = ids;
    *ret_n = n;
    return true;
}

static bool read_prompt(const struct srv_field_in *in, const cJSON *v, const char *param,
                        struct srv_prompt *p, struct srv_fail *f)
{
    if (cJSON_IsString(v)) {
        p->text = v->valuestring;
        p->n_byte = strlen(v->valuestring);
        return true;
    }
    if (!cJSON_IsArray(v)) {
        return wrong_type(param, v, "a string or an array of token ids", f);
    }
    return srv_read_ids(v, in->n_vocab, param, &p->ids, &p->n_id, f);
}

/* Of a completion, or the inputs of an embedding. */
bool srv_field_prompt(const struct srv_field_in *in, struct srv_request *r, struct srv_fail *f)
{
    const char *name = in->name;
    const cJSON *v = in->value;
    const cJSON *first = cJSON_IsArray(v) ? v->child : NULL;
    bool several = cJSON_IsString(first) || cJSON_IsArray(first);
    size_t n = several ? (size_t)cJSON_GetArraySize(v) : 1;
    size_t n_max = r->api == SRV_API_EMBEDDING ? SRV_INPUT_MAX : SRV_PROMPT_MAX;
    if (!cJSON_IsString(v) && !cJSON_IsArray(v)) {
        return wrong_type(name, v, "a string or an array", f);
    }
    if (cJSON_IsArray(v) && !first) {
        return srv_fail(f, 400, "invalid_value", name, "%s is empty", name);
    }
    if (n > n_max) {
        return srv_fail(f, 400, "invalid_value", name, "%s has %zu items; at most %zu", name, n,
                        n_max);
    }
    r->prompts = calloc(n, sizeof *r->prompts);
    if (!r->prompts) {
        return out_of_memory(f);
    }
    r->n_prompt = n;
    if (!several) {
        return read_prompt(in, v, name, &r->prompts[0], f);
    }
    const cJSON *item = NULL;
    size_t i = 0;
    cJSON_ArrayForEach(item, v)
    {
        char param[32];
        (void)snprintf(param, sizeof param, "%s[%zu]", name, i);
        if (!read_prompt(in, item, param, &r->prompts[i], f)) {
            return false;
        }
        i++;
    }
    return true;
}

bool srv_field_encoding_format(const struct srv_field_in *in, struct srv_request *r,
                               struct srv_fail *f)
{
    const char *word = cJSON_IsString(in->value) ? in->value->valuestring : "";
    r->base64 = strcmp(word, "base64") == 0;
    return r->base64 || strcmp(word, "float") == 0 ||
           srv_fail(f, 400, "invalid_value", in->name, "%s must be \"float\" or \"base64\"",
                    in->name);
}

bool srv_field_messages(const struct srv_field_in *in, struct srv_request *r, struct srv_fail *f)
{
    const cJSON *item = NULL;
    size_t i = 0;
    if (!cJSON_IsArray(in->value)) {
        return wrong_type("messages", in->value, "an array", f);
    }
    if (!in->value->child) {
        return srv_fail(f, 400, "invalid_value", "messages", "messages is empty");
    }
    cJSON_ArrayForEach(item, in->value)
    {
        char param[32];
        (void)snprintf(param, sizeof param, "messages[%zu]", i++);
        if (!cJSON_IsObject(item)) {
            return wrong_type(param, item, "an object", f);
        }
    }
    r->messages = in->value;
    return true;
}

static bool read_stop(const cJSON *v, struct srv_request *r, struct srv_fail *f)
{
    if (!cJSON_IsString(v)) {
        return wrong_type("stop", v, "a string or an array of strings", f);
    }
    size_t n = strlen(v->valuestring);
    if (n == 0 || n > SRV_STOP_BYTES_MAX) {
        return srv_fail(f, 400, "invalid_value", "stop",
                        "stop: a string of %zu bytes; it must have 1 to %d", n, SRV_STOP_BYTES_MAX);
    }
    if (r->n_stop == SCH_STOP_MAX) {
        return srv_fail(f, 400, "invalid_value", "stop", "stop has more than %d strings",
                        SCH_STOP_MAX);
    }
    r->stop[r->n_stop++] = v->valuestring;
    return true;
}

bool srv_field_stop(const struct srv_field_in *in, struct srv_request *r, struct srv_fail *f)
{
    const cJSON *item = NULL;
    if (!cJSON_IsArray(in->value)) {
        return read_stop(in->value, r, f);
    }
    cJSON_ArrayForEach(item, in->value)
    {
        if (!read_stop(item, r, f)) {
            return false;
        }
    }
    return true;
}

bool srv_field_stop_ids(const struct srv_field_in *in, struct srv_request *r, struct srv_fail *f)
{
    size_t n = 0;
    if (!cJSON_IsArray(in->value)) {
        return wrong_type(in->name, in->value, "an array of token ids", f);
    }
    if (!srv_read_ids(in->value, in->n_vocab, in->name, &r->stop_ids, &n, f)) {
        return false;
    }
    if (n > SRV_STOP_ID_MAX) {
        return srv_fail(f, 400, "invalid_value", in->name, "%s has %zu ids; at most %d", in->name,
                        n, SRV_STOP_ID_MAX);
    }
    r->n_stop_id = (uint32_t)n;
    return true;
}

bool srv_field_logit_bias(const struct srv_field_in *in, struct srv_request *r, struct srv_fail *f)
{
    const cJSON *item = NULL;
    if (!cJSON_IsObject(in->value)) {
        return wrong_type(in->name, in->value, "an object of token id to bias", f);
    }
    int n = cJSON_GetArraySize(in->value);
    if (n > SRV_LOGIT_BIAS_MAX) {
        return srv_fail(f, 400, "invalid_value", in->name, "logit_bias has %d entries; at most %d",
                        n, SRV_LOGIT_BIAS_MAX);
    }
    r->bias = calloc(n ? (size_t)n : 1, sizeof *r->bias);
    if (!r->bias) {
        return out_of_memory(f);
    }
    cJSON_ArrayForEach(item, in->value)
    {
        char *end = NULL;
        const char *key = item->string;
        bool digits = key[0] >= '0' && key[0] <= '9';
        errno = 0;
        unsigned long id = digits ? strtoul(key, &end, 10) : ULONG_MAX;
        if (!digits || errno || *end || id >= in->n_vocab) {
            return srv_fail(f, 400, "invalid_token_id", in->name,
                            "logit_bias: \"%.40s\" is not a token id from 0 to %u", key,
                            in->n_vocab - 1);
        }
        if (!cJSON_IsNumber(item) || !(fabs(item->valuedouble) <= 100)) {
            return srv_fail(f, 400, "invalid_value", in->name,
                            "logit_bias[\"%.40s\"] must be a number from -100 to 100", key);
        }
        r->bias[r->n_bias++] =
            (struct sample_bias){.id = (int32_t)id, .bias = (float)item->valuedouble};
    }
    return true;
}

static bool read_option(const cJSON *object, const char *parent, const char *name, bool *ret_v,
                        struct srv_fail *f)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(object, name);
    if (!v || cJSON_IsNull(v)) {
        return true;
    }
    if (!cJSON_IsBool(v)) {
        char param[96];
        (void)snprintf(param, sizeof param, "%s.%s", parent, name);
        return wrong_type(param, v, "a boolean", f);
    }
    *ret_v = cJSON_IsTrue(v);
    return true;
}

bool srv_field_stream_options(const struct srv_field_in *in, struct srv_request *r,
                              struct srv_fail *f)
{
    bool ignored = false;
    if (!cJSON_IsObject(in->value)) {
        return wrong_type(in->name, in->value, "an object", f);
    }
    return read_option(in->value, in->name, "include_usage", &r->include_usage, f) &&
           read_option(in->value, in->name, "continuous_usage_stats", &r->continuous_usage, f) &&
           read_option(in->value, in->name, "include_obfuscation", &ignored, f);
}

bool srv_field_seed(const struct srv_field_in *in, struct srv_request *r, struct srv_fail *f)
{
    double v = cJSON_IsNumber(in->value) ? in->value->valuedouble : NAN;
    if (isnan(v)) {
        return wrong_type(in->name, in->value, "an integer", f);
    }
    if (v != floor(v) || fabs(v) >= 0x1.0p63) {
        return srv_fail(f, 400, "invalid_value", in->name,
                        "seed: %.17g is not an integer of 64 bits", v);
    }
    r->seed = (uint64_t)(int64_t)v;
    r->has_seed = true;
    return true;
}

bool srv_field_completion_logprobs(const struct srv_field_in *in, struct srv_request *r,
                                   struct srv_fail *f)
{
    double v = cJSON_IsNumber(in->value) ? in->value->valuedouble : NAN;
    if (isnan(v)) {
        return wrong_type(in->name, in->value, "an integer", f);
    }
    if (v != floor(v) || v < 0 || v > SAMPLE_TOP_MAX) {
        return srv_fail(f, 400, "invalid_value", in->name,
                        "logprobs: %.17g is not an integer from 0 to %d", v, SAMPLE_TOP_MAX);
    }
    r->want_logprobs = true;
    r->n_top_logprob = (int64_t)v;
    return true;
}

bool srv_field_response_format(const struct srv_field_in *in, struct srv_request *r,
                               struct srv_fail *f)
{
    (void)r;
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(in->value, "type");
    if (!cJSON_IsObject(in->value) || !cJSON_IsString(type)) {
        return srv_fail(f, 400, "invalid_type", in->name,
                        "response_format must be an object with a type");
    }
    if (strcmp(type->valuestring, "text") != 0) {
        return srv_fail(f, 400, "unsupported_parameter", in->name,
                        "response_format: type \"%.40s\" is not supported, only \"text\"",
                        type->valuestring);
    }
    return true;
}

bool srv_field_modalities(const struct srv_field_in *in, struct srv_request *r, struct srv_fail *f)
{
    (void)r;
    const cJSON *item = NULL;
    if (!cJSON_IsArray(in->value)) {
        return wrong_type(in->name, in->value, "an array", f);
    }
    cJSON_ArrayForEach(item, in->value)
    {
        if (!cJSON_IsString(item) || strcmp(item->valuestring, "text") != 0) {
            return srv_fail(f, 400, "unsupported_parameter", in->name,
                            "modalities: only \"text\" is supported");
        }
    }
    return true;
}

static bool check_tool(const cJSON *tool, size_t i, struct srv_fail *f)
{
    char param[64];
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(tool, "type");
    const cJSON *function = cJSON_GetObjectItemCaseSensitive(tool, "function");
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(function, "name");
    const cJSON *schema = cJSON_GetObjectItemCaseSensitive(function, "parameters");
    (void)snprintf(param, sizeof param, "tools[%zu]", i);
    if (!cJSON_IsObject(tool) || !cJSON_IsString(type)) {
        return srv_fail(f, 400, "invalid_type", param, "%s must be an object with a type", param);
    }
    if (strcmp(type->valuestring, "function") != 0) {
        return srv_fail(f, 400, "unsupported_parameter", param,
                        "%s: only tools of type \"function\" are supported, not \"%.40s\"", param,
                        type->valuestring);
    }
    if (!cJSON_IsString(name) || !name->valuestring[0]) {
        (void)snprintf(param, sizeof param, "tools[%zu].function.name", i);
        return srv_fail(f, 400, "missing_required_parameter", param, "%s must be a name", param);
    }
    if (schema && !cJSON_IsNull(schema) && !cJSON_IsObject(schema)) {
        (void)snprintf(param, sizeof param, "tools[%zu].function.parameters", i);
        return wrong_type(param, schema, "an object", f);
    }
    return true;
}

bool srv_field_tools(const struct srv_field_in *in, struct srv_request *r, struct srv_fail *f)
{
    const cJSON *tool = NULL;
    size_t i = 0;
    if (!cJSON_IsArray(in->value)) {
        return wrong_type(in->name, in->value, "an array", f);
    }
    cJSON_ArrayForEach(tool, in->value)
    {
        if (i == SRV_TOOL_MAX) {
            return srv_fail(f, 400, "invalid_value", in->name, "tools has more than %d items",
                            SRV_TOOL_MAX);
        }
        if (!check_tool(tool, i++, f)) {
            return false;
        }
    }
    r->tools = i ? in->value : NULL;
    return true;
}

bool srv_field_tool_choice(const struct srv_field_in *in, struct srv_request *r, struct srv_fail *f)
{
    const char *word = cJSON_IsString(in->value) ? in->value->valuestring : "";
    r->tools_off = strcmp(word, "none") == 0;
    return r->tools_off || strcmp(word, "auto") == 0 ||
           srv_fail(f, 400, "unsupported_parameter", in->name,
                    "%s: only \"none\" and \"auto\" are supported; a call cannot be forced",
                    in->name);
}

bool srv_field_kwargs(const struct srv_field_in *in, struct srv_request *r, struct srv_fail *f)
{
    if (!cJSON_IsObject(in->value)) {
        return wrong_type(in->name, in->value, "an object", f);
    }
    r->template_kwargs = in->value;
    return true;
}

bool srv_field_refuse(const struct srv_field_in *in, struct srv_request *r, struct srv_fail *f)
{
    (void)r;
    return srv_fail(f, 400, "unsupported_parameter", in->name,
                    "%s is not supported by this server; leave it out", in->name);
}

bool srv_field_refuse_unless_empty(const struct srv_field_in *in, struct srv_request *r,
                                   struct srv_fail *f)
{
    const cJSON *v = in->value;
    bool empty = cJSON_IsString(v) ? !v->valuestring[0]
                                   : (cJSON_IsArray(v) || cJSON_IsObject(v)) && !v->child;
    return empty || srv_field_refuse(in, r, f);
}

bool srv_field_refuse_true(const struct srv_field_in *in, struct srv_request *r, struct srv_fail *f)
{
    if (!cJSON_IsBool(in->value)) {
        return wrong_type(in->name, in->value, "a boolean", f);
    }
    return cJSON_IsFalse(in->value) || srv_field_refuse(in, r, f);
}
