/* The store's side of the disk tier: what is written when, what is read back, what becomes of the
 * results. Sealed chunks are written soon after, parents first; chunks found on disk are loaded
 * when a prompt asks for them. Everything that goes wrong is a miss.
 *
 * Thread: the store's. */
#ifndef KVSTORE_SPILL_H
#define KVSTORE_SPILL_H

#include "base/err.h"
#include "kvstore/disk.h"
#include "kvstore/tier.h"

#include <stdbool.h>
#include <stdint.h>

struct kv_store;

struct kv_queued {
    uint32_t node;
    uint32_t generation; /* of the node: an entry whose node was reused is void */
    uint64_t due_us;
};

struct kv_queue { /* a ring; full means the newest is not written */
    struct kv_queued *entries;
    uint32_t n_max;
    uint32_t first;
    uint32_t n;
};

struct kv_spill {
    struct kv_crypt crypt; /* of options.disk.key_file */
    bool has_key;
    struct kv_disk disk;
    struct kv_tier *tier; /* NULL: no disk, or its lock is another's */
    uint64_t open_next_us;
    struct kv_queue writes;
    struct kv_queue marks; /* whose header on disk has other times */
    struct kv_queue tails; /* short chunks, written when their session stays idle */
    bool busy[KV_N_JOB];
    bool waits[KV_N_JOB]; /* written, while the parent's write still runs */

    bool makes_segment;
    bool marks_slot; /* a mark runs */

    /* The circuit breaker: closed for a while after a stall or too many errors; then half open, for
     * one job at a time, until one succeeds. */
    uint32_t n_late; /* jobs given up and not done */
    uint32_t n_error_row;
    uint64_t closed_until_us;
    uint64_t closed_for_us; /* 0: open */
    uint64_t write_pause_until_us;
    double write_credit_bytes;
    uint64_t credit_us;
    double restore_bytes_s; /* measured */
    double recompute_tok_s; /* told */
};

enum kv_load { KV_LOAD_NO, KV_LOAD_BUSY, KV_LOAD_STARTED };

enum err_code kv_spill_init(struct kv_store *s, struct err *e);
/* reopen.c: ERR_FULL while another process holds the directory. */
enum err_code kv_spill_open(struct kv_store *s, struct err *e);
/* False when the kernel still holds frames. */
bool kv_spill_finish(struct kv_store *s);

void kv_spill_want(struct kv_store *s, uint32_t node);      /* sealed, full: write it */
void kv_spill_want_mark(struct kv_store *s, uint32_t node); /* on disk, and its times changed */
void kv_spill_want_tail(struct kv_store *s, uint32_t node);
/* Begins to read a chunk that is on disk alone and whose parent is in RAM or being read. */
enum kv_load kv_load_start(struct kv_store *s, uint32_t node);
/* The node gives up its slot. */
void kv_slot_release(struct kv_store *s, uint32_t node);
enum err_code kv_spill_check(const struct kv_store *s, struct err *e);

#endif
