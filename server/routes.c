#include "server/routes.h"

#include <string.h>

#define GET_ALLOW  "GET, HEAD, OPTIONS"
#define POST_ALLOW "POST, OPTIONS"

/* clang-format off */
const struct srv_route srv_routes[] = {
    {"/health", .open = true, .allow = GET_ALLOW, .action = SRV_ACTION_HEALTH},
    {"/ready", .open = true, .allow = GET_ALLOW, .action = SRV_ACTION_READY},
    {"/metrics", .allow = GET_ALLOW, .action = SRV_ACTION_METRICS},
    {"/version", .allow = GET_ALLOW, .action = SRV_ACTION_VERSION},
    {"/v1/models", .allow = GET_ALLOW, .action = SRV_ACTION_MODELS},
    {"/v1/kv", .allow = GET_ALLOW, .action = SRV_ACTION_KV},
    {"/v1/models/", .prefix = true, .allow = GET_ALLOW, .action = SRV_ACTION_MODEL},
    {"/v1/completions", .post = true, .allow = POST_ALLOW, .action = SRV_ACTION_COMPLETION},
    {"/v1/chat/completions", .post = true, .allow = POST_ALLOW, .action = SRV_ACTION_CHAT},
    {"/v1/embeddings", .post = true, .allow = POST_ALLOW, .action = SRV_ACTION_EMBEDDING},
    {"/tokenize", .post = true, .allow = POST_ALLOW, .action = SRV_ACTION_TOKENIZE},
    {"/detokenize", .post = true, .allow = POST_ALLOW, .action = SRV_ACTION_DETOKENIZE},
};
/* clang-format on */
const size_t srv_n_route = sizeof srv_routes / sizeof *srv_routes;

const struct srv_route *srv_route_find(const char *path)
{
    for (size_t i = 0; i < srv_n_route; i++) {
        const struct srv_route *r = &srv_routes[i];
        size_t n = strlen(r->path);
        if (r->prefix ? strncmp(path, r->path, n) == 0 && path[n] : strcmp(path, r->path) == 0) {
            return r;
        }
    }
    return NULL;
}

static const char *const method_names[] = {"GET", "HEAD", "POST", "OPTIONS", "OTHER"};

enum srv_method srv_method_of(const char *name)
{
    for (int m = SRV_GET; m < SRV_METHOD_OTHER; m++) {
        if (strcmp(name, method_names[m]) == 0) {
            return (enum srv_method)m;
        }
    }
    return SRV_METHOD_OTHER;
}

const char *srv_method_name(enum srv_method m)
{
    return method_names[m];
}
