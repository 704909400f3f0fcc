/* Inside of the disk tier, shared by tier.c (the store's side), tier_jobs.c (the I/O thread's) and
 * tier_backend.c. */
#ifndef KVSTORE_TIER_INSIDE_H
#define KVSTORE_TIER_INSIDE_H

#include "kvstore/tier.h"

#include <pthread.h>
#include <stdatomic.h>

#define KV_PIECE_BYTES ((size_t)1 << 20)

struct kv_op_list {
    struct kv_io_op *first;
    struct kv_io_op **end;
};

struct kv_sync_op {
    struct kv_io_op op;
    bool is_dirty;
};

enum kv_segment_state { KV_SEGMENT_IDLE, KV_SEGMENT_QUEUED, KV_SEGMENT_RUNNING, KV_SEGMENT_DONE };

/* The making of one segment file. */
struct kv_segment_call {
    struct kv_io_op op;
    int parent_fd;
    uint64_t cap_bytes;
    int dir_fd;
    uint32_t seg;
    uint64_t n_byte;
    enum kv_segment_state state; /* guarded by the tier's mu */
};

struct kv_tier {
    struct kv_tier_options options;
    int dir_fd; /* the disk's */
    bool is_direct;
    size_t chunk_bytes;
    uint32_t n_piece;
    uint32_t n_seg_max;
    uint32_t n_seg_first; /* the disk's segments at the start; not used once is_ready */
    const int *seg_fds_first;
    struct kv_job jobs[KV_N_JOB];
    uint32_t n_busy[2]; /* the store's: jobs not idle, by is_write */
    pthread_t thread;
    bool has_thread;

    /* the I/O thread's */
    struct kv_io *io;
    struct kv_io *aside;       /* one thread for what blocks: syncs, new segments */
    struct kv_op_list todo[2]; /* reads, writes that io has no room for */
    uint32_t n_out[2];         /* with io, and not given up */
    uint32_t n_lost;           /* with io, given up */
    uint32_t n_aside;          /* with aside */
    uint64_t progress_us;      /* when io last gave something back, or got the first */
    uint64_t checked_us;       /* deadlines */
    struct kv_sync_op *syncs;  /* [n_seg_max] */
    uint64_t synced_us;
    struct kv_segment_call segment;

    pthread_mutex_t mu;
    pthread_cond_t cond; /* is_ready, has_ended */
    bool is_ready;       /* guarded by mu, and the five below */
    bool has_ended;
    bool is_stuck; /* buffers are lost to the kernel */
    enum err_code ready_code;
    struct err ready_err;
    bool stop;
    atomic_uint n_event; /* jobs late or done that poll has not seen; no order needed: poll locks */
    _Atomic uint64_t beat_us; /* when the I/O thread last went round; no order needed */
};

/* tier_backend.c: io and aside, probed by a real write and read. */
enum err_code kv_tier_backend_create(struct kv_tier *t, struct err *e);
/* tier_jobs.c: one round of the I/O thread; false when it was told to stop. */
bool kv_tier_turn(struct kv_tier *t);

#endif
