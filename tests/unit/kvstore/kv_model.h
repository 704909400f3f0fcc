/* A model-free stand-in for the engine: the "KV" of a token is a hash over the sequence's tenant
 * and all tokens up to it, written into its chunk. Whoever reads a wrong, stale or foreign chunk
 * reads a wrong hash. */
#ifndef TESTS_KV_MODEL_H
#define TESTS_KV_MODEL_H

#include "base/rng.h"
#include "kvstore/kvstore.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct kv_model {
    size_t chunk_bytes;
    uint32_t chunk_tok;
};

static inline uint64_t kv_model_next(uint64_t state, int32_t token)
{
    return rng_mix(state, (uint64_t)token + 1);
}

static inline uint64_t *kv_model_word(const struct kv_model *m, const struct kv_seq *q, uint32_t t)
{
    char *base = kv_seq_base(q);
    return (uint64_t *)(void *)(base + t / m->chunk_tok * m->chunk_bytes) + t % m->chunk_tok;
}

/* "Computes" tokens [from, to), which must be mapped: writes, as an engine would, before
 * committing.
 */
static inline void kv_model_compute(const struct kv_model *m, struct kv_seq *q, uint64_t tenant,
                                    const int32_t *tokens, uint32_t from, uint32_t to)
{
    uint64_t h = from > 0 ? *kv_model_word(m, q, from - 1) : tenant;
    for (uint32_t t = from; t < to; t++) {
        h = kv_model_next(h, tokens[t]);
        *kv_model_word(m, q, t) = h;
    }
}

/* The first token of [0, n_tok) whose KV is wrong, n_tok when none is. */
static inline uint32_t kv_model_verify(const struct kv_model *m, const struct kv_seq *q,
                                       uint64_t tenant, const int32_t *tokens, uint32_t n_tok)
{
    uint64_t h = tenant;
    for (uint32_t t = 0; t < n_tok; t++) {
        h = kv_model_next(h, tokens[t]);
        if (*kv_model_word(m, q, t) != h) {
            return t;
        }
    }
    return n_tok;
}

/* An identity of tenant k. */
static inline struct kv_identity kv_model_identity(uint64_t tenant)
{
    char name[32];
    int n = snprintf(name, sizeof name, "tenant-%llu", (unsigned long long)tenant);
    const struct kv_field fields[] = {
        {KV_FIELD_WEIGHTS, 4, "test"},
        {KV_FIELD_TENANT, (uint32_t)n, name},
    };
    struct kv_identity id = {{0}, {0}};
    (void)kv_identity_make(fields, 2, &id, NULL);
    return id;
}

#endif
