/* Which backend the disk tier uses: chosen by a real write and read in the store's directory. */
#include "base/clock.h"
#include "base/log.h"
#include "kvstore/tier_inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define URING_DEPTH 32
#define N_THREAD    8
#define PROBE_US    2000000

/* One operation, waited for. */
static int64_t perform(struct kv_io *io, struct kv_io_op *op)
{
    io->impl->submit(io, op);
    uint64_t until = clock_mono_us() + PROBE_US;
    while (clock_mono_us() < until) {
        if (io->impl->reap(io, 50000) == op) {
            return op->result;
        }
    }
    return -ETIMEDOUT;
}

/* Whether the backend writes and reads a block here; its file is gone afterwards. */
static bool probe(const struct kv_tier *t, struct kv_io *io)
{
    void *block = NULL;
    int fd = openat(t->dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC | (t->is_direct ? O_DIRECT : 0),
                    0600);
    if (fd < 0) { /* a file system without nameless files */
        fd = openat(t->dir_fd, "probe", O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
        (void)unlinkat(t->dir_fd, "probe", 0);
    }
    struct kv_io_op *op = calloc(1, sizeof *op);
    if (fd < 0 || !op || posix_memalign(&block, KV_DISK_BLOCK, KV_DISK_BLOCK) != 0) {
        free(op);
        if (fd >= 0) {
            (void)close(fd);
        }
        return false;
    }
    memset(block, 0x5a, KV_DISK_BLOCK);
    *op = (struct kv_io_op){
        .kind = KV_IO_WRITE, .fd = fd, .file = UINT32_MAX, .buf = block, .n_byte = KV_DISK_BLOCK};
    int64_t n_write = perform(io, op);
    int64_t n_read = 0;
    if (n_write == KV_DISK_BLOCK) {
        memset(block, 0, KV_DISK_BLOCK);
        op->kind = KV_IO_READ;
        n_read = perform(io, op);
    }
    bool works = n_read == KV_DISK_BLOCK && *(uint8_t *)block == 0x5a;
    if (n_write != -ETIMEDOUT && n_read != -ETIMEDOUT) { /* else they are the kernel's for good */
        free(block);
        free(op);
        (void)close(fd);
    }
    return works;
}

static enum err_code data_backend(const struct kv_tier *t, struct kv_io **ret_io, struct err *e)
{
    struct kv_io *io = NULL;
    enum err_code code = ERR_UNSUPPORTED;
    if (t->options.backend != KV_BACKEND_PREAD) {
        code = kv_io_uring_create(URING_DEPTH, t->n_seg_max, &io, e);
        if (code == ERR_OK && !probe(t, io)) {
            (void)io->impl->destroy(io);
            code = err_set(e, ERR_UNSUPPORTED, "io_uring does not read and write here");
        }
    }
    if (code && t->options.backend != KV_BACKEND_URING) {
        if (t->options.backend == KV_BACKEND_AUTO) {
            log_info("kv disk: %s; using pread", e->msg);
        }
        code = kv_io_pread_create(N_THREAD, &io, e);
        if (code == ERR_OK && !probe(t, io)) {
            (void)io->impl->destroy(io);
            code = err_set(e, ERR_IO, "the KV directory cannot be written and read");
        }
    }
    if (code == ERR_OK) {
        *ret_io = io;
    }
    return code;
}

enum err_code kv_tier_backend_create(struct kv_tier *t, struct err *e)
{
    const struct kv_tier_options *o = &t->options;
    struct kv_io *io = NULL;
    enum err_code code = data_backend(t, &io, e);
    if (code == ERR_OK &&
        (o->throttle_read_bytes_s || o->throttle_write_bytes_s || o->throttle_latency_us)) {
        code = kv_io_throttle_create(io, o->throttle_read_bytes_s, o->throttle_write_bytes_s,
                                     o->throttle_latency_us, &io, e);
    }
    if (code == ERR_OK) {
        code = kv_io_pread_create(1, &t->aside, e);
    }
    if (code) {
        if (io) {
            (void)io->impl->destroy(io);
        }
        return code;
    }
    t->io = o->hook ? o->hook->wrap(o->hook->arg, io) : io;
    return ERR_OK;
}
