/* Asynchronous block I/O, as little of it as the disk tier needs. A backend takes operations and
 * gives each back exactly once, when the kernel is done with its buffer. It neither retries nor
 * judges: a result is what read or write would have returned, -errno for a failure.
 *
 * Thread: all of it belongs to the I/O thread, but kick. Backends: io_uring.c, io_pread.c;
 * io_throttle.c and tests wrap another. */
#ifndef KVSTORE_IO_H
#define KVSTORE_IO_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kv_io_kind {
    KV_IO_READ,
    KV_IO_WRITE,
    KV_IO_SYNC, /* pread backend alone, and so the next */
    KV_IO_CALL, /* any blocking call */
};

enum kv_io_place { KV_OP_IDLE, KV_OP_QUEUED, KV_OP_OUT, KV_OP_LOST }; /* the tier's */

struct kv_io_op {
    enum kv_io_kind kind;
    int fd;
    uint32_t file; /* number under which the backend knows fd, see attach; UINT32_MAX: none */
    uint8_t *buf;  /* not the backend's; stays valid until the operation is given back */
    size_t n_byte;
    uint64_t offset;
    int64_t (*call)(void *arg);
    void *arg;
    int64_t result;        /* bytes, or -errno; set when given back */
    void *owner;           /* the submitter's */
    struct kv_io_op *next; /* the backend's, and the list that reap returns */
    uint64_t due_us;       /* io_throttle.c's */
    enum kv_io_place place;
    uint64_t start_us; /* when the backend got it */
};

struct kv_io;

struct kv_io_impl {
    const char *name;
    void (*submit)(struct kv_io *io, struct kv_io_op *op); /* never blocks, never fails */
    /* Waits at most timeout_us for anything to be done; returns the list of what is, or NULL. */
    struct kv_io_op *(*reap)(struct kv_io *io, uint64_t timeout_us);
    /* Asks for an operation to be given back soon, done or not (-ECANCELED). NULL: it cannot. */
    void (*cancel)(struct kv_io *io, struct kv_io_op *op);
    /* File number `file` of those that operations name is fd from now on. NULL: of no use. */
    void (*attach)(struct kv_io *io, uint32_t file, int fd);
    void (*kick)(struct kv_io *io); /* makes a waiting reap return; any thread */
    /* False when operations are still out and will not come back: the memory must stay. */
    bool (*destroy)(struct kv_io *io);
};

struct kv_io {
    const struct kv_io_impl *impl;
    uint32_t depth; /* operations that it can work on at once; the submitter gives it no more */
};

/* n_file: files that can be attached. ERR_UNSUPPORTED where the kernel or its
 * seccomp filter has no io_uring for us, or this build. */
enum err_code kv_io_uring_create(uint32_t depth, uint32_t n_file, struct kv_io **ret_io,
                                 struct err *e);
enum err_code kv_io_pread_create(uint32_t n_thread, struct kv_io **ret_io, struct err *e);
/* Gives operations back no sooner than a disk of these rates (0: unlimited) and this latency would;
 * owns `inner` from success on. For honest figures on disks that the host caches. */
enum err_code kv_io_throttle_create(struct kv_io *inner, uint64_t read_bytes_s,
                                    uint64_t write_bytes_s, uint64_t latency_us,
                                    struct kv_io **ret_io, struct err *e);

#endif
