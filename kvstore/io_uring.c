/* io_uring: one ring, created and used by the I/O thread alone. */
#include "kvstore/io.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define DESTROY_WAIT_S 5

/* Entries besides the depth asked for: operations that were given up but not given back,
 * cancellations, the eventfd. */
#define SPARE 64

struct io_uring_backend {
    struct kv_io io;
    struct io_uring ring;
    uint32_t n_file;        /* that can be registered; 0: none */
    bool *is_registered;    /* [n_file] */
    uint32_t n_out;         /* operations the kernel has */
    struct kv_io_op *queue; /* those for which there was no entry */
    struct kv_io_op **queue_end;
    int wake_fd;
    bool is_watching; /* a read of wake_fd is out */
    uint64_t wake_count;
};

static void watch(struct io_uring_backend *u)
{
    struct io_uring_sqe *sqe = u->is_watching ? NULL : io_uring_get_sqe(&u->ring);
    if (sqe) {
        io_uring_prep_read(sqe, u->wake_fd, &u->wake_count, sizeof u->wake_count, 0);
        io_uring_sqe_set_data(sqe, NULL);
        u->is_watching = true;
    }
}

static bool prepare(struct io_uring_backend *u, struct kv_io_op *op)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (!sqe) {
        return false;
    }
    bool is_registered = op->file < u->n_file && u->is_registered[op->file];
    int fd = is_registered ? (int)op->file : op->fd;
    if (op->kind == KV_IO_READ) {
        io_uring_prep_read(sqe, fd, op->buf, (unsigned)op->n_byte, op->offset);
    } else {
        io_uring_prep_write(sqe, fd, op->buf, (unsigned)op->n_byte, op->offset);
    }
    if (is_registered) {
        sqe->flags |= IOSQE_FIXED_FILE;
    }
    io_uring_sqe_set_data(sqe, op);
    u->n_out++;
    return true;
}

static void pump(struct io_uring_backend *u)
{
    while (u->queue && prepare(u, u->queue)) {
        u->queue = u->queue->next;
    }
    if (!u->queue) {
        u->queue_end = &u->queue;
    }
}

static void uring_submit(struct kv_io *io, struct kv_io_op *op)
{
    struct io_uring_backend *u = (struct io_uring_backend *)io;
    assert(op->kind <= KV_IO_WRITE);
    op->next = NULL;
    *u->queue_end = op;
    u->queue_end = &op->next;
    pump(u);
}

/* Takes what is complete off the ring. */
static struct kv_io_op *collect(struct io_uring_backend *u)
{
    struct kv_io_op *done = NULL;
    struct io_uring_cqe *cqe;
    while (io_uring_peek_cqe(&u->ring, &cqe) == 0 && cqe) {
        void *data = io_uring_cqe_get_data(cqe);
        struct kv_io_op *op = data;
        if (data == &u->ring) {
            /* what became of a cancellation shows in the operation itself */
        } else if (op) {
            op->result = cqe->res;
            op->next = done;
            done = op;
            u->n_out--;
        } else {
            u->is_watching = false;
        }
        io_uring_cqe_seen(&u->ring, cqe);
    }
    return done;
}

static struct kv_io_op *uring_reap(struct kv_io *io, uint64_t timeout_us)
{
    struct io_uring_backend *u = (struct io_uring_backend *)io;
    watch(u);
    struct __kernel_timespec wait = {.tv_sec = (int64_t)(timeout_us / 1000000),
                                     .tv_nsec = (int64_t)(timeout_us % 1000000 * 1000)};
    struct io_uring_cqe *cqe;
    /* EINTR, ETIME, EAGAIN and EBUSY alike: what is complete is complete, the rest comes later. */
    (void)io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &wait, NULL);
    struct kv_io_op *done = collect(u);
    pump(u);
    return done;
}

static void uring_cancel(struct kv_io *io, struct kv_io_op *op)
{
    struct io_uring_backend *u = (struct io_uring_backend *)io;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (sqe) { /* else it comes back when it does */
        io_uring_prep_cancel(sqe, op, 0);
        io_uring_sqe_set_data(sqe, &u->ring);
    }
}

static void uring_attach(struct kv_io *io, uint32_t file, int fd)
{
    struct io_uring_backend *u = (struct io_uring_backend *)io;
    if (file < u->n_file) {
        u->is_registered[file] = io_uring_register_files_update(&u->ring, file, &fd, 1) == 1;
    }
}

static void uring_kick(struct kv_io *io)
{
    struct io_uring_backend *u = (struct io_uring_backend *)io;
    const uint64_t one = 1;
    ssize_t n = write(u->wake_fd, &one, sizeof one); /* full: it will wake anyway */
    (void)n;
}

static bool uring_destroy(struct kv_io *io)
{
    struct io_uring_backend *u = (struct io_uring_backend *)io;
    for (int i = 0; i < DESTROY_WAIT_S * 20 && (u->n_out > 0 || u->queue); i++) {
        (void)uring_reap(io, 50000);
    }
    if (u->n_out > 0) {
        return false; /* the kernel still has buffers */
    }
    io_uring_queue_exit(&u->ring);
    (void)close(u->wake_fd);
    free(u->is_registered);
    free(u);
    return true;
}

static const struct kv_io_impl uring_impl = {
    .name = "io_uring",
    .submit = uring_submit,
    .reap = uring_reap,
    .cancel = uring_cancel,
    .attach = uring_attach,
    .kick = uring_kick,
    .destroy = uring_destroy,
};

enum err_code kv_io_uring_create(uint32_t depth, uint32_t n_file, struct kv_io **ret_io,
                                 struct err *e)
{
    struct io_uring_backend *u = calloc(1, sizeof *u);
    bool *is_registered = calloc(n_file + 1, sizeof *is_registered);
    if (!u || !is_registered) {
        free(u);
        free(is_registered);
        return err_set(e, ERR_NOMEM, "no memory for io_uring");
    }
    u->io = (struct kv_io){&uring_impl, depth};
    u->is_registered = is_registered;
    u->queue_end = &u->queue;
    u->wake_fd = eventfd(0, EFD_CLOEXEC);
    /* Completions are then handled when we ask for them, not by interrupting us (Linux 6.1). */
    int code = io_uring_queue_init(depth + SPARE, &u->ring,
                                   IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
    if (code == -EINVAL) {
        code = io_uring_queue_init(depth + SPARE, &u->ring, 0);
    }
    if (code < 0 || u->wake_fd < 0) {
        enum err_code ret =
            err_errno(e, ERR_UNSUPPORTED, code < 0 ? -code : errno, "the kernel gives no io_uring");
        if (code >= 0) {
            io_uring_queue_exit(&u->ring);
        }
        if (u->wake_fd >= 0) {
            (void)close(u->wake_fd);
        }
        free(is_registered);
        free(u);
        return ret;
    }
    /* Saves the kernel a look-up and a reference per operation (Linux 5.19); not needed. */
    u->n_file = io_uring_register_files_sparse(&u->ring, n_file) == 0 ? n_file : 0;
    *ret_io = &u->io;
    return ERR_OK;
}
