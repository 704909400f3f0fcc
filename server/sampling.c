#include "server/sampling.h"

#include "base/log.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    double min;
    double max;
    bool integer;
} params[] = {
    {"temperature", 0, 5, false},    {"top_p", 0, 1, false},
    {"min_p", 0, 1, false},          {"repetition_penalty", 0.01, 100, false},
    {"top_k", -1, 2147483647, true},
};
#define N_PARAM (sizeof params / sizeof *params)

static bool set(struct srv_sampling *s, size_t i, double v)
{
    if (!(v >= params[i].min && v <= params[i].max) || (params[i].integer && v != floor(v))) {
        return false;
    }
    double *const fields[] = {&s->temperature, &s->top_p, &s->min_p, &s->repetition_penalty};
    if (params[i].integer) {
        s->top_k = (int64_t)v;
    } else {
        *fields[i] = v;
    }
    return true;
}

struct srv_sampling srv_sampling_openai(void)
{
    return (struct srv_sampling){
        .temperature = 1, .top_p = 1, .repetition_penalty = 1, .top_k = -1};
}

static void take_model(const struct eng_sampling *m, struct srv_sampling *s)
{
    const double values[N_PARAM] = {m->temperature, m->top_p, m->min_p, m->repetition_penalty,
                                    m->top_k};
    for (size_t i = 0; i < N_PARAM; i++) {
        if (!isnan(values[i]) && !set(s, i, values[i])) {
            log_warn("the model's file recommends %s %g, which is left out", params[i].name,
                     values[i]);
        }
    }
}

/* One "name=value" of n bytes. */
static enum err_code take_pair(const char *at, size_t n, struct srv_sampling *s, struct err *e)
{
    char pair[64];
    char *end = NULL;
    size_t n_name = strcspn(at, "=");
    if (n >= sizeof pair || n_name >= n) {
        return err_set(e, ERR_INVALID, "sampling: '%.*s' is not name=value", (int)(n < 60 ? n : 60),
                       at);
    }
    memcpy(pair, at, n);
    pair[n] = 0;
    for (size_t i = 0; i < N_PARAM; i++) {
        if (strlen(params[i].name) != n_name || memcmp(pair, params[i].name, n_name) != 0) {
            continue;
        }
        double v = strtod(pair + n_name + 1, &end);
        if (end == pair + n_name + 1 || *end || !set(s, i, v)) {
            return err_set(e, ERR_INVALID, "sampling: %s is not %s from %g to %g", pair,
                           params[i].integer ? "an integer" : "a number", params[i].min,
                           params[i].max);
        }
        return ERR_OK;
    }
    return err_set(e, ERR_INVALID,
                   "sampling: '%.*s' is not one of temperature, top_p, min_p, repetition_penalty, "
                   "top_k",
                   (int)n_name, pair);
}

enum err_code srv_sampling_make(const char *spec, const struct eng_sampling *model,
                                struct srv_sampling *ret_s, struct err *e)
{
    struct srv_sampling s = srv_sampling_openai();
    enum err_code code = ERR_OK;
    if (strcmp(spec, "openai") != 0) {
        take_model(model, &s);
    }
    bool pairs = strcmp(spec, "openai") != 0 && strcmp(spec, "model") != 0;
    for (const char *at = spec; pairs && !code;) {
        size_t n = strcspn(at, ",");
        code = take_pair(at, n, &s, e);
        pairs = at[n] != 0;
        at += n + (at[n] != 0);
    }
    if (!code) {
        *ret_s = s;
    }
    return code;
}
