/* A disk that misbehaves: stands between the disk tier and its backend and, for one operation in
 * `every`, does what `fault` says. Settings may change while it runs. */
#ifndef TESTS_IO_SHIM_H
#define TESTS_IO_SHIM_H

#include "base/clock.h"
#include "base/rng.h"
#include "kvstore/io.h"
#include "kvstore/kvstore.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum shim_fault {
    SHIM_NONE,
    SHIM_EIO,
    SHIM_ENOSPC,     /* of writes */
    SHIM_SHORT,      /* less than asked for, truthfully */
    SHIM_EAGAIN,     /* nothing done, and said so */
    SHIM_LATENCY,    /* 20 ms */
    SHIM_NEVER,      /* does not come back before the backend is destroyed */
    SHIM_FLIP,       /* one bit of what was read */
    SHIM_TORN,       /* writes torn_bytes, claims all */
    SHIM_NO_PAYLOAD, /* claims payload writes without doing them */
    SHIM_NO_HEADER,
    SHIM_N_FAULT,
    SHIM_STALL, /* everything hangs, until the fault is taken away */
};

struct shim {
    struct kv_io io;
    struct kv_io *inner;
    atomic_int fault;
    atomic_uint every;
    atomic_uint torn_bytes;
    atomic_uint n_op;
    atomic_uint n_fault;
    uint64_t rng;
    struct kv_io_op *ready; /* done by the shim itself */
    struct kv_io_op *slow;
    struct kv_io_op *stalled;
    struct kv_io_op *lost;
};

static inline void shim_submit(struct kv_io *io, struct kv_io_op *op)
{
    struct shim *s = (struct shim *)io;
    uint32_t every = atomic_load(&s->every);
    int fault = atomic_load(&s->fault);
    uint64_t r = rng_next(&s->rng);
    if (fault == SHIM_STALL) {
        op->next = s->stalled;
        s->stalled = op;
        atomic_fetch_add(&s->n_fault, 1);
        return;
    }
    bool is_header = op->n_byte == 4096;
    atomic_fetch_add(&s->n_op, 1);
    op->due_us = 0;
    if (fault == SHIM_NONE || every == 0 || r % every != 0 ||
        (op->kind == KV_IO_READ && (fault == SHIM_ENOSPC || fault >= SHIM_TORN)) ||
        (op->kind == KV_IO_WRITE && fault == SHIM_FLIP) ||
        (is_header && fault == SHIM_NO_PAYLOAD) || (!is_header && fault == SHIM_NO_HEADER)) {
        s->inner->impl->submit(s->inner, op);
        return;
    }
    atomic_fetch_add(&s->n_fault, 1);
    struct kv_io_op **list = &s->ready;
    op->result = (int64_t)op->n_byte;
    switch (fault) {
    case SHIM_EIO: op->result = -EIO; break;
    case SHIM_ENOSPC: op->result = -ENOSPC; break;
    case SHIM_EAGAIN: op->result = -EAGAIN; break;
    case SHIM_SHORT: {
        size_t n = 1 + (size_t)(r >> 20) % op->n_byte;
        ssize_t done = op->kind == KV_IO_READ
                           ? pread(op->fd, op->buf, op->n_byte, (off_t)op->offset)
                           : pwrite(op->fd, op->buf, op->n_byte, (off_t)op->offset);
        op->result = done < 0 ? -errno : (int64_t)n;
        break;
    }
    case SHIM_LATENCY:
        op->due_us = clock_mono_us() + 20000;
        s->inner->impl->submit(s->inner, op);
        return;
    case SHIM_NEVER: list = &s->lost; break;
    case SHIM_FLIP: {
        ssize_t done = pread(op->fd, op->buf, op->n_byte, (off_t)op->offset);
        op->result = done < 0 ? -errno : done;
        op->buf[(r >> 24) % op->n_byte] ^= (uint8_t)(1 << (r >> 16 & 7));
        break;
    }
    case SHIM_TORN: {
        size_t n = atomic_load(&s->torn_bytes);
        n = n < op->n_byte ? n : op->n_byte;
        /* Not block-sized, so past O_DIRECT: by way of the block that is there. */
        uint8_t *block = NULL;
        if (posix_memalign((void **)&block, 4096, op->n_byte) == 0) {
            if (pread(op->fd, block, op->n_byte, (off_t)op->offset) == (ssize_t)op->n_byte) {
                memcpy(block, op->buf, n);
                ssize_t done = pwrite(op->fd, block, op->n_byte, (off_t)op->offset);
                (void)done;
            }
            free(block);
        }
        break;
    }
    default: break; /* NO_PAYLOAD, NO_HEADER */
    }
    op->next = *list;
    *list = op;
}

static inline struct kv_io_op *shim_reap(struct kv_io *io, uint64_t timeout_us)
{
    struct shim *s = (struct shim *)io;
    while (s->stalled && atomic_load(&s->fault) != SHIM_STALL) {
        struct kv_io_op *op = s->stalled;
        s->stalled = op->next;
        op->due_us = 0;
        s->inner->impl->submit(s->inner, op);
    }
    uint64_t wait = s->ready ? 0 : s->slow && timeout_us > 1000 ? 1000 : timeout_us;
    struct kv_io_op *fresh = s->inner->impl->reap(s->inner, wait);
    struct kv_io_op *done = s->ready;
    struct kv_io_op *slow = s->slow;
    uint64_t now = clock_mono_us();
    s->ready = s->slow = NULL;
    for (int pass = 0; pass < 2; pass++) {
        struct kv_io_op *op = pass ? slow : fresh;
        while (op) {
            struct kv_io_op *next = op->next;
            struct kv_io_op **list = op->due_us > now ? &s->slow : &done;
            op->next = *list;
            *list = op;
            op = next;
        }
    }
    return done;
}

static inline void shim_kick(struct kv_io *io)
{
    struct shim *s = (struct shim *)io;
    s->inner->impl->kick(s->inner);
}

static inline bool shim_destroy(struct kv_io *io)
{
    struct shim *s = (struct shim *)io;
    return s->inner->impl->destroy(s->inner);
}

static const struct kv_io_impl shim_impl = {
    .name = "shim",
    .submit = shim_submit,
    .reap = shim_reap,
    .kick = shim_kick,
    .destroy = shim_destroy,
};

/* For a struct kv_io_hook whose arg is a struct shim. */
static inline struct kv_io *shim_wrap(void *arg, struct kv_io *inner)
{
    struct shim *s = arg;
    s->io = (struct kv_io){&shim_impl, inner->depth};
    s->inner = inner;
    s->ready = s->slow = s->stalled = s->lost = NULL;
    return &s->io;
}

#endif
