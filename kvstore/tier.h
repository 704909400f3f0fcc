/* The I/O thread: it writes whole slots from frames and reads them back into frames, with checks.
 * A job is one slot. Its memory and its slot are the job's until it is done, also when nobody waits
 * for it any more: one given up is first reported late, and done only when the kernel has let go of
 * the last buffer.
 *
 *   write: CRCs of the payload's stripes → payload → header
 *   read:  header and payload together → all of both verified
 *   mark:  header → verified → written again with other times
 *
 * Thread: the store's for these functions; jobs change hands under the lock inside. */
#ifndef KVSTORE_TIER_H
#define KVSTORE_TIER_H

#include "base/err.h"
#include "kvstore/disk.h"
#include "kvstore/io.h"
#include "kvstore/kvstore.h"

#include <stdbool.h>
#include <stdint.h>

#define KV_N_JOB       48
#define KV_N_JOB_WRITE 12 /* at most so many of them write, so that reads find room */

enum kv_job_state {
    KV_JOB_IDLE,   /* the store's */
    KV_JOB_QUEUED, /* the I/O thread's from here … */
    KV_JOB_RUNNING,
    KV_JOB_LATE, /* … given up, … */
    KV_JOB_DONE, /* … to here */
};

struct kv_job {
    bool is_write;
    bool is_mark; /* a write of the header alone; no frame */
    int fd;
    uint32_t seg;
    uint32_t slot;
    uint64_t header_offset;
    uint64_t payload_offset;
    uint8_t *bytes;                /* the frame */
    struct kv_slot_header *header; /* one aligned block; for a write all but CRCs filled in */
    struct kv_slot_header *want;   /* for a read: key, count and token ids that must be found; for a
                                      mark also the new times */
    uint64_t begin_us;
    enum err_code result; /* OK, IO, CORRUPT (verification), FULL (ENOSPC), TIMEOUT (given up) */

    /* the store's alone */
    uint32_t node;
    uint32_t generation;
    uint32_t frame;
    bool was_late;

    /* guarded by the tier's lock */
    enum kv_job_state state;

    /* the I/O thread's alone */
    struct kv_io_op *ops; /* [n_piece + 1], the last is the header's */
    bool is_running;      /* begun, and neither given up nor done */
    uint32_t n_out;       /* queued or with the backend */
    uint32_t n_retry;
    bool payload_done;
    int error;       /* the first errno */
    uint8_t *sealed; /* a write's payload encrypted; taken when first needed */
};

struct kv_tier;

struct kv_tier_options {
    enum kv_backend backend;
    uint64_t io_timeout_us; /* without any sign of life */
    uint64_t throttle_read_bytes_s;
    uint64_t throttle_write_bytes_s;
    uint64_t throttle_latency_us;
    const struct kv_io_hook *hook;
    const struct kv_crypt *crypt; /* NULL: none; outlives the tier */
};

/* Starts the thread, which picks a backend by a real write and read in the store's directory. */
enum err_code kv_tier_create(const struct kv_disk *d, const struct kv_tier_options *options,
                             struct kv_tier **ret_t, struct err *e);
/* Waits for what is running, but not for ever. False when the kernel would not give some buffer
 * back: then frames and files must stay for the life of the process. NULL is legal. */
bool kv_tier_destroy(struct kv_tier *t);
const char *kv_tier_backend(const struct kv_tier *t);

/* An idle job to fill in, or KV_JOB_NONE (UINT32_MAX). */
uint32_t kv_tier_job_new(struct kv_tier *t, bool is_write);
struct kv_job *kv_tier_job(struct kv_tier *t, uint32_t job);
void kv_tier_start(struct kv_tier *t, uint32_t job);
/* Jobs newly late or done, each reported once as either, into list[KV_N_JOB]; a done one is idle
 * again after kv_tier_job_free. */
uint32_t kv_tier_poll(struct kv_tier *t, uint32_t list[KV_N_JOB]);
void kv_tier_job_free(struct kv_tier *t, uint32_t job);
bool kv_tier_job_is_done(struct kv_tier *t, uint32_t job);
uint32_t kv_tier_n_busy(const struct kv_tier *t, bool writes);
/* The I/O thread itself hangs in the kernel. */
bool kv_tier_is_stuck(const struct kv_tier *t, uint64_t now_us);

/* Makes one more segment file of d; to be asked for only when the one before has been taken. */
void kv_tier_segment_start(struct kv_tier *t, const struct kv_disk *d);
/* True when that ended, once: *ret_fd is the file or -errno. */
bool kv_tier_segment_take(struct kv_tier *t, int *ret_fd);

#endif
