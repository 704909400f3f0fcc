/* Inside of the KV store, shared by the files of this folder and by nobody else. */
#ifndef KVSTORE_STORE_H
#define KVSTORE_STORE_H

#include "kvstore/address_range.h"
#include "kvstore/arena.h"
#include "kvstore/kvstore.h"

#include <pthread.h>

struct kv_seq {
    struct kv_store *store;
    struct kv_seq *prev; /* in store->seqs or store->closing */
    struct kv_seq *next;
    struct kv_range range;
};

struct kv_store {
    struct kv_options options;
    struct kv_arena arena;
    struct kv_seq *seqs;
    struct kv_seq *closing; /* closed, but the kernel refused to unmap them: tried again */
    uint64_t n_seq;         /* in seqs */
    uint64_t n_vma;         /* of both lists */
    uint32_t *frame_buf;    /* [n_chunk_max] frames on their way into a range */
    uint32_t *check_buf;    /* [n_frame] */
    uint32_t n_chunk_max;   /* per sequence */

    pthread_mutex_t stats_mu;
    struct kv_stats stats; /* guarded by stats_mu: a whole copy for other threads */
};

/* Copies the counters to where other threads read them; ends every call that changes one. */
void kv_publish(struct kv_store *s);

#endif
