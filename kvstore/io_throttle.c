/* A disk of given speed in front of a faster one: each operation is given back when its share of
 * the bandwidth, served in order of submission, and the latency have passed. */
#include "base/clock.h"
#include "kvstore/io.h"

#include <stdlib.h>

struct io_throttle {
    struct kv_io io;
    struct kv_io *inner;
    uint64_t bytes_s[2]; /* by kind: read, write */
    uint64_t free_us[2]; /* when the direction is through with what was submitted */
    uint64_t latency_us;
    struct kv_io_op *held; /* done, but not due */
};

static void throttle_submit(struct kv_io *io, struct kv_io_op *op)
{
    struct io_throttle *t = (struct io_throttle *)io;
    uint64_t now = clock_mono_us();
    op->due_us = now;
    if (op->kind <= KV_IO_WRITE && t->bytes_s[op->kind] > 0) {
        uint64_t *free_us = &t->free_us[op->kind];
        uint64_t us = (uint64_t)op->n_byte * 1000000 / t->bytes_s[op->kind];
        *free_us = (*free_us > now ? *free_us : now) + us;
        op->due_us = *free_us + t->latency_us;
    }
    t->inner->impl->submit(t->inner, op);
}

/* Moves from `from` what is due to *done, the rest to held; returns when the next is due. */
static uint64_t sort(struct io_throttle *t, struct kv_io_op *from, struct kv_io_op **done)
{
    uint64_t now = clock_mono_us();
    uint64_t next = UINT64_MAX;
    while (from) {
        struct kv_io_op *op = from;
        from = op->next;
        struct kv_io_op **list = op->due_us <= now ? done : &t->held;
        if (op->due_us > now && op->due_us < next) {
            next = op->due_us;
        }
        op->next = *list;
        *list = op;
    }
    return next;
}

static struct kv_io_op *throttle_reap(struct kv_io *io, uint64_t timeout_us)
{
    struct io_throttle *t = (struct io_throttle *)io;
    struct kv_io_op *done = NULL;
    struct kv_io_op *held = t->held;
    t->held = NULL;
    uint64_t next = sort(t, held, &done);
    uint64_t now = clock_mono_us();
    uint64_t wait = next == UINT64_MAX ? timeout_us : next > now ? next - now : 0;
    wait = done ? 0 : wait < timeout_us ? wait : timeout_us;
    struct kv_io_op *fresh = t->inner->impl->reap(t->inner, wait);
    (void)sort(t, fresh, &done);
    held = t->held;
    t->held = NULL;
    (void)sort(t, held, &done);
    return done;
}

static void throttle_cancel(struct kv_io *io, struct kv_io_op *op)
{
    struct io_throttle *t = (struct io_throttle *)io;
    if (t->inner->impl->cancel) {
        t->inner->impl->cancel(t->inner, op);
    }
}

static void throttle_attach(struct kv_io *io, uint32_t file, int fd)
{
    struct io_throttle *t = (struct io_throttle *)io;
    if (t->inner->impl->attach) {
        t->inner->impl->attach(t->inner, file, fd);
    }
}

static void throttle_kick(struct kv_io *io)
{
    struct io_throttle *t = (struct io_throttle *)io;
    t->inner->impl->kick(t->inner);
}

static bool throttle_destroy(struct kv_io *io)
{
    struct io_throttle *t = (struct io_throttle *)io;
    bool is_idle = t->inner->impl->destroy(t->inner);
    if (is_idle) {
        free(t);
    }
    return is_idle;
}

static const struct kv_io_impl throttle_impl = {
    .name = "throttled",
    .submit = throttle_submit,
    .reap = throttle_reap,
    .cancel = throttle_cancel,
    .attach = throttle_attach,
    .kick = throttle_kick,
    .destroy = throttle_destroy,
};

enum err_code kv_io_throttle_create(struct kv_io *inner, uint64_t read_bytes_s,
                                    uint64_t write_bytes_s, uint64_t latency_us,
                                    struct kv_io **ret_io, struct err *e)
{
    struct io_throttle *t = calloc(1, sizeof *t);
    if (!t) {
        return err_set(e, ERR_NOMEM, "no memory for the I/O throttle");
    }
    *t = (struct io_throttle){.io = {&throttle_impl, inner->depth},
                              .inner = inner,
                              .bytes_s = {read_bytes_s, write_bytes_s},
                              .latency_us = latency_us};
    *ret_io = &t->io;
    return ERR_OK;
}
