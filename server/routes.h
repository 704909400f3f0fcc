/* Every path this server answers, in one table: its methods, and whether it is open to those
 * without a key. Paths are compared as they came, undecoded. Pure; any thread. */
#ifndef SERVER_ROUTES_H
#define SERVER_ROUTES_H

#include <stdbool.h>
#include <stddef.h>

enum srv_action {
    /* made at once by the HTTP thread */
    SRV_ACTION_HEALTH,
    SRV_ACTION_READY,
    SRV_ACTION_METRICS,
    SRV_ACTION_VERSION,
    SRV_ACTION_MODELS,
    SRV_ACTION_MODEL,
    SRV_ACTION_KV,
    /* with a body, by the prep pool */
    SRV_ACTION_COMPLETION,
    SRV_ACTION_CHAT,
    SRV_ACTION_EMBEDDING,
    SRV_ACTION_TOKENIZE,
    SRV_ACTION_DETOKENIZE,
};

struct srv_route {
    const char *path;
    bool prefix;       /* the path goes on: an id follows */
    bool post;         /* POST with a JSON body; else GET and HEAD */
    bool open;         /* needs no key */
    const char *allow; /* for the Allow header */
    enum srv_action action;
};

extern const struct srv_route srv_routes[];
extern const size_t srv_n_route;

/* NULL: no such path. */
const struct srv_route *srv_route_find(const char *path);

enum srv_method { SRV_GET, SRV_HEAD, SRV_POST, SRV_OPTIONS, SRV_METHOD_OTHER };
enum srv_method srv_method_of(const char *name);
/* Static, for logs and metrics. */
const char *srv_method_name(enum srv_method m);

#endif
