/* A thread that looks after the arena's pages, so that no step waits for the kernel to clear one:
 * it populates memory ahead of the frames handed out, as huge pages where it can, and watches how
 * much memory the machine and the cgroup have left.
 *
 * Huge pages of a memfd: where shmem_enabled allows, by madvise and first touch; else by
 * MADV_COLLAPSE (Linux 6.1), which does not ask; else there are none. Memory of several NUMA nodes
 * is interleaved, since all threads read all of it.
 *
 * Owner: struct kv_store. Thread: the store's; kv_pager_get any. */
#ifndef KVSTORE_PAGER_H
#define KVSTORE_PAGER_H

#include "kvstore/arena.h"

#include <pthread.h>
#include <stdatomic.h>

struct kv_pager {
    uint8_t *bytes;
    uint64_t n_byte;
    uint64_t ahead_bytes;
    uint64_t frame_bytes;
    uint64_t reserve_bytes; /* below so much left, cached frames go */
    uint64_t (*left)(void);
    uint64_t top_bytes; /* the store's: end of the highest frame handed out */
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t mu;
    pthread_cond_t cond;
    bool stop;           /* guarded by mu */
    uint64_t want_bytes; /* guarded by mu: populated up to here is wanted */
    /* For anybody to read; no order needed. */
    _Atomic uint64_t n_frame_limit; /* frames that may be in use while anything can be evicted */
    _Atomic uint64_t populated_bytes;
    _Atomic uint64_t huge_bytes;
};

/* left: NULL for host_free_bytes. Without a thread everything is populated when first touched. */
enum err_code kv_pager_start(struct kv_pager *p, const struct kv_arena *a, uint64_t ahead_bytes,
                             uint64_t (*left)(void), struct err *e);
void kv_pager_stop(struct kv_pager *p); /* a zeroed one is legal */
/* To be told of every frame handed out. */
void kv_pager_took(struct kv_pager *p, uint32_t frame);

#endif
