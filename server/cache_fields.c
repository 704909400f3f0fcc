/* The parameters that say who may share a prompt's KV and how long it is kept. */
#include "server/openai_fields.h"

#include <stdlib.h>
#include <string.h>

#define HOUR_S    3600
#define TTL_S_MAX (30 * 24 * HOUR_S)

static bool read_name(const struct srv_field_in *in, const char **ret_text, struct srv_fail *f)
{
    if (!cJSON_IsString(in->value)) {
        return srv_fail(f, 400, "invalid_type", in->name, "%s must be a string, not %s", in->name,
                        srv_json_kind(in->value));
    }
    size_t n = strlen(in->value->valuestring);
    if (n == 0 || n > SRV_CACHE_SALT_MAX) {
        return srv_fail(f, 400, "invalid_value", in->name,
                        "%s: a string of %zu bytes; it must have 1 to %d", in->name, n,
                        SRV_CACHE_SALT_MAX);
    }
    *ret_text = in->value->valuestring;
    return true;
}

bool srv_field_cache_salt(const struct srv_field_in *in, struct srv_request *r, struct srv_fail *f)
{
    return read_name(in, &r->cache_salt, f);
}

/* A hint where to route: one process finds a prompt without it, and it is never a namespace. */
bool srv_field_cache_key(const struct srv_field_in *in, struct srv_request *r, struct srv_fail *f)
{
    const char *hint = NULL;
    (void)r;
    return read_name(in, &hint, f);
}

bool srv_field_cache_retention(const struct srv_field_in *in, struct srv_request *r,
                               struct srv_fail *f)
{
    const char *word = cJSON_IsString(in->value) ? in->value->valuestring : "";
    if (strcmp(word, "24h") == 0) {
        r->retention.keep_s = 24 * HOUR_S;
    } else if (strcmp(word, "in_memory") == 0 || strcmp(word, "in-memory") == 0) {
        r->retention.ram_only = true;
    } else {
        return srv_fail(f, 400, cJSON_IsString(in->value) ? "invalid_value" : "invalid_type",
                        in->name, "%s must be \"in_memory\" or \"24h\"", in->name);
    }
    return true;
}

/* Seconds of "90s", "30m", "24h" or "7d"; 0: not that. */
static uint32_t read_ttl(const cJSON *v)
{
    static const char units[] = "smhd";
    static const uint32_t unit_s[] = {1, 60, HOUR_S, 24 * HOUR_S};
    const char *text = cJSON_IsString(v) ? v->valuestring : "";
    char *end = NULL;
    if (*text < '0' || *text > '9') {
        return 0;
    }
    unsigned long long n = strtoull(text, &end, 10);
    const char *unit = *end && !end[1] ? strchr(units, *end) : NULL;
    if (!unit || n > TTL_S_MAX || n * unit_s[unit - units] > TTL_S_MAX) {
        return 0;
    }
    return (uint32_t)n * unit_s[unit - units];
}

bool srv_field_cache_options(const struct srv_field_in *in, struct srv_request *r,
                             struct srv_fail *f)
{
    const cJSON *mode = cJSON_GetObjectItemCaseSensitive(in->value, "mode");
    const cJSON *ttl = cJSON_GetObjectItemCaseSensitive(in->value, "ttl");
    if (!cJSON_IsObject(in->value)) {
        return srv_fail(f, 400, "invalid_type", in->name, "%s must be an object, not %s", in->name,
                        srv_json_kind(in->value));
    }
    if (mode && !cJSON_IsNull(mode)) {
        const char *word = cJSON_IsString(mode) ? mode->valuestring : "";
        if (strcmp(word, "implicit") != 0 && strcmp(word, "explicit") != 0) {
            return srv_fail(f, 400, "invalid_value", "prompt_cache_options.mode",
                            "prompt_cache_options.mode must be \"implicit\" or \"explicit\"");
        }
        /* Nothing is left unless it is asked for, and nothing in a request asks for it. */
        r->retention.leaves_nothing = word[0] == 'e';
    }
    if (ttl && !cJSON_IsNull(ttl)) {
        uint32_t s = read_ttl(ttl);
        if (!s) {
            return srv_fail(f, 400, "invalid_value", "prompt_cache_options.ttl",
                            "prompt_cache_options.ttl must be a time from \"1s\" to \"30d\", in "
                            "s, m, h or d");
        }
        r->retention.keep_s = s;
        r->retention.ttl_s = s;
    }
    return true;
}
