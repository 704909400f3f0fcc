/* The running server: what all its parts share. One per process, made by srv_run (serve.h); it
 * outlives every thread and job. */
#ifndef SERVER_SRV_H
#define SERVER_SRV_H

#include "config/options.h"
#include "engine/engine.h"
#include "kvstore/kvstore.h"
#include "scheduler/scheduler.h"
#include "server/metrics.h"
#include "server/sampling.h"
#include "server/tools.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum srv_phase {
    SRV_LOADING, /* the port is open, the model is not there yet */
    SRV_READY,
    SRV_DRAINING, /* running answers end, new requests are refused */
    SRV_STOPPED,
};

struct srv {
    const struct cfg *cfg;
    struct srv_auth *auth;
    struct srv_prep *prep;
    struct srv_answerer *answerer;
    struct srv_http *http;
    struct srv_metrics metrics;

    atomic_int phase;          /* enum srv_phase */
    atomic_bool stuck;         /* work waits and no step ends: set by the watch of srv_run */
    atomic_size_t n_body_byte; /* of request bodies in memory */

    /* Written by the loader before phase becomes SRV_READY, read-only after. */
    struct eng *eng;
    struct kv_store *kv;
    struct sch *sch;
    struct srv_tools tools;       /* how the model's template shows and calls them */
    struct srv_sampling sampling; /* of requests that do not say */
    bool embeds;                  /* /v1/embeddings works */
    enum eng_pooling pooling;     /* how */
    char **adapter_names;         /* [info.n_adapter] "MODEL:ADAPTER" */
    char *model_name;             /* the alias, else the file's name without its suffix */
    int64_t model_created_s;
    char fingerprint[24]; /* of model and arithmetic: system_fingerprint */
};

/* acquire: what the loader wrote before SRV_READY is then seen */
static inline enum srv_phase srv_phase_of(struct srv *s)
{
    return (enum srv_phase)atomic_load_explicit(&s->phase, memory_order_acquire);
}

#endif
