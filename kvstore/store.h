/* Inside of the KV store, shared by the files of this folder and by nobody else. */
#ifndef KVSTORE_STORE_H
#define KVSTORE_STORE_H

#include "kvstore/address_range.h"
#include "kvstore/arena.h"
#include "kvstore/evict.h"
#include "kvstore/kvstore.h"
#include "kvstore/pager.h"
#include "kvstore/prefix_index.h"
#include "kvstore/sketch.h"
#include "kvstore/spill.h"

#include <pthread.h>

#define KV_SLOT_NONE UINT32_MAX
#define KV_JOB_NONE  UINT32_MAX

struct kv_seq {
    struct kv_store *store;
    struct kv_seq *prev; /* in store->seqs or store->closing */
    struct kv_seq *next;
    struct kv_range range;

    /* For sequences with an identity; a plain one has root KV_NODE_NONE and no tables. */
    uint32_t root;
    uint32_t n_tok;   /* [0, n_tok) is written */
    uint32_t n_path;  /* nodes[0…n_path) are sealed and hold a reference each */
    uint32_t n_plan;  /* nodes[n_path…n_plan): NONE, or filling with this sequence as leader */
    uint32_t *nodes;  /* [n_chunk_max] */
    int32_t *tail;    /* [T] the tokens of the chunk that is being written */
    bool is_unlisted; /* nodes ran out or a parent went: what follows is private */
    struct kv_retention retention;
    uint32_t n_retained; /* nodes[0…n_retained) know of it */
};

struct kv_counters {
    uint64_t n_tok_asked;
    uint64_t n_tok_hit_ram;
    uint64_t n_tok_hit_disk;
    uint64_t n_evict_ram;
    uint64_t n_evict_disk;
    uint64_t n_copy;
    uint64_t n_expired;
    uint64_t n_punched;
    uint64_t n_vma_copy;
    uint64_t n_read; /* slots */
    uint64_t n_write;
    uint64_t n_write_dropped;
    uint64_t n_corrupt;
    uint64_t n_io_error;
    uint64_t n_io_late;
};

struct kv_store {
    struct kv_options options;
    struct kv_arena arena;
    struct kv_pager pager;
    struct kv_index index;
    struct kv_seq *seqs;
    struct kv_seq *closing; /* closed, but the kernel refused to unmap them: tried again */
    uint64_t n_seq;         /* in seqs */
    uint64_t n_vma;         /* of both lists */
    uint32_t *frame_buf;    /* [n_chunk_max] frames on their way into a range */
    uint32_t *check_buf;    /* [max(n_frame, nodes)] */
    uint32_t n_chunk_max;   /* per sequence */

    struct kv_tenant *tenants; /* [KV_TENANTS_MAX] */
    uint32_t n_tenant_seen;    /* entries from here on were never used */
    uint32_t n_slot;           /* of the disk; 0: none */
    struct kv_sketch sketch;
    double clock_ram; /* ageing, see evict.h */
    double clock_disk;
    struct kv_counters counters;
    struct kv_spill spill;
    uint64_t now_us; /* monotonic, as of the last kv_poll */
    uint32_t now_s;  /* Unix time, likewise */

    uint32_t n_pin_frame; /* nodes with pins_ram */
    uint32_t n_pin_slot;
    uint32_t n_timed; /* nodes with kept_until_s or expires_s */
    uint32_t sweep_at;
    uint64_t swept_us;

    pthread_mutex_t stats_mu;
    struct kv_stats stats; /* guarded by stats_mu: a whole copy for other threads */
};

/* Copies the counters to where other threads read them; ends every call that changes one. */
void kv_publish(struct kv_store *s);

/* kvstore.c: a frame for chunk_idx behind prev_frame, evicting where none is free; counted as
 * mapped once. KV_FRAME_NONE: nothing may go. */
uint32_t kv_frame_take(struct kv_store *s, uint32_t prev_frame, uint32_t chunk_idx);
/* Evicts and gives memory back, a little at each call, while more frames are in use than may be. */
void kv_shrink(struct kv_store *s);
/* Appends frames, already counted as mapped, within the VMA budget; what does not get mapped is
 * uncounted again. */
enum err_code kv_seq_append(struct kv_seq *q, const uint32_t *frames, uint32_t n, bool read_only,
                            struct err *e);
/* Makes chunks [0, n_ro) read-only; false when the kernel refused. */
bool kv_seq_protect(struct kv_seq *q, uint32_t n_ro);
/* Cuts the range to n_chunk and lets the frames go; false when the kernel refused. */
bool kv_seq_cut(struct kv_seq *q, uint32_t n_chunk);

/* cache.c: what a sequence with an identity does besides its mappings. */
void kv_seq_leave_index(struct kv_seq *q);
/* The root of an identity, made where it is not there yet; and a new child. NONE: no nodes left. */
uint32_t kv_root_of(struct kv_store *s, const uint8_t root[32], const uint8_t tenant[32]);
uint32_t kv_child_new(struct kv_store *s, uint32_t parent, const int32_t *tokens, uint32_t n_tok);
/* Makes chunk n_tok / T writable when it is not: a private copy. */
enum err_code kv_seq_own_tail(struct kv_seq *q, struct err *e);
void kv_seq_truncate(struct kv_seq *q, uint32_t n_tok);
/* The planned node of that chunk is gone, or was filled by another. */
void kv_seq_lost_plan(struct kv_seq *q, uint32_t chunk_idx);

/* pin.c: q's retention reaches the nodes of its path that do not know of it yet. */
void kv_retain_path(struct kv_seq *q);
void kv_retain_node(struct kv_seq *q, uint32_t node);
/* Sets when a node's pin and life end; the earlier values given up. */
void kv_node_set_times(struct kv_store *s, uint32_t node, uint32_t kept_until_s,
                       uint32_t expires_s);
/* A node's pins follow its other fields: called by kv_node_update. */
void kv_node_pins_follow(struct kv_store *s, uint32_t node);
/* Ends pins and lives whose time has come; a little of it at each call. */
void kv_retention_sweep(struct kv_store *s);

/* cache.c */
enum err_code kv_cache_check(const struct kv_store *s, struct err *e);

#endif
