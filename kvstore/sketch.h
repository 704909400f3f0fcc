/* How often chunks were used that the cache no longer holds: a count-min sketch of keys, halved
 * every so many uses, so that it forgets. A chunk that comes back is not a stranger.
 * Source: Einziger, Friedman, Manes, "TinyLFU: A Highly Efficient Cache Admission Policy", 2017.
 *
 * Thread: the store's. */
#ifndef KVSTORE_SKETCH_H
#define KVSTORE_SKETCH_H

#include "base/err.h"

#include <stdint.h>

#define KV_SKETCH_ROWS 4

struct kv_sketch {
    uint8_t *counts;   /* [KV_SKETCH_ROWS, n_column] */
    uint32_t n_column; /* a power of two */
    uint64_t n_use;    /* since the last halving */
    uint64_t n_use_max;
};

/* For a cache of n_chunk chunks. */
enum err_code kv_sketch_init(struct kv_sketch *k, uint32_t n_chunk, struct err *e);
void kv_sketch_finish(struct kv_sketch *k); /* a zeroed one is legal */
void kv_sketch_add(struct kv_sketch *k, const uint8_t key[32]);
/* At least the uses counted and not halved away; at most 255. */
uint32_t kv_sketch_get(const struct kv_sketch *k, const uint8_t key[32]);

#endif
