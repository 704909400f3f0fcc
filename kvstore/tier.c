#include "kvstore/tier.h"

#include "base/clock.h"
#include "base/log.h"
#include "kvstore/crc32c.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE_BYTES   ((size_t)1 << 20)
#define N_RETRY_MAX   64 /* of one job, for short and interrupted operations */
#define URING_DEPTH   64
#define N_THREAD      8
#define REAP_US       100000
#define SYNC_EVERY_US 5000000
#define PROBE_US      2000000

struct sync_op {
    struct kv_io_op op;
    bool is_out;
    bool is_dirty;
};

struct kv_tier {
    struct kv_tier_options options;
    int dir_fd; /* the disk's */
    bool is_direct;
    size_t chunk_bytes;
    uint32_t n_piece;
    struct kv_io *io;
    struct kv_job jobs[KV_N_JOB];
    struct sync_op *syncs; /* [n_seg_max] */
    uint32_t n_sync;
    uint64_t synced_us;
    uint32_t n_busy[2]; /* the store's: jobs not idle, by is_write */
    pthread_t thread;
    bool has_thread;
    bool is_stuck; /* buffers are lost to the kernel */

    pthread_mutex_t mu;
    pthread_cond_t ready_cond;
    bool is_ready; /* guarded by mu, and the two below */
    enum err_code ready_code;
    struct err ready_err;
    bool stop;
    atomic_uint n_event; /* jobs late or done that poll has not seen; no order needed: poll locks */
};

/* ---- Choosing a backend ---- */

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
    if (fd < 0 || posix_memalign(&block, KV_DISK_BLOCK, KV_DISK_BLOCK) != 0) {
        if (fd >= 0) {
            (void)close(fd);
        }
        return false;
    }
    memset(block, 0x5a, KV_DISK_BLOCK);
    struct kv_io_op op = {.kind = KV_IO_WRITE, .fd = fd, .buf = block, .n_byte = KV_DISK_BLOCK};
    int64_t n_write = perform(io, &op);
    memset(block, 0, KV_DISK_BLOCK);
    op.kind = KV_IO_READ;
    int64_t n_read = n_write == KV_DISK_BLOCK ? perform(io, &op) : 0;
    bool works = n_read == KV_DISK_BLOCK && *(uint8_t *)block == 0x5a;
    if (n_write != -ETIMEDOUT && n_read != -ETIMEDOUT) { /* else they are the kernel's for good */
        free(block);
        (void)close(fd);
    }
    return works;
}

static enum err_code backend_create(struct kv_tier *t, struct err *e)
{
    struct kv_io *io = NULL;
    enum err_code code = ERR_UNSUPPORTED;
    if (t->options.backend != KV_BACKEND_PREAD) {
        code = kv_io_uring_create(URING_DEPTH, &io, e);
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
    if (code) {
        return code;
    }
    const struct kv_tier_options *o = &t->options;
    if (o->throttle_read_bytes_s || o->throttle_write_bytes_s || o->throttle_latency_us) {
        code = kv_io_throttle_create(io, o->throttle_read_bytes_s, o->throttle_write_bytes_s,
                                     o->throttle_latency_us, &io, e);
    }
    if (code) {
        (void)io->impl->destroy(io);
        return code;
    }
    t->io = o->hook ? o->hook->wrap(o->hook->arg, io) : io;
    return ERR_OK;
}

/* ---- Jobs on the I/O thread ---- */

static void op_start(struct kv_tier *t, struct kv_job *j, struct kv_io_op *op, uint8_t *buf,
                     size_t n_byte, uint64_t offset)
{
    *op = (struct kv_io_op){.kind = j->is_write ? KV_IO_WRITE : KV_IO_READ,
                            .fd = j->fd,
                            .buf = buf,
                            .n_byte = n_byte,
                            .offset = offset,
                            .owner = j};
    j->n_out++;
    t->io->impl->submit(t->io, op);
}

static void payload_start(struct kv_tier *t, struct kv_job *j)
{
    for (uint32_t i = 0; i < t->n_piece; i++) {
        size_t at = i * PIECE_BYTES;
        size_t n = t->chunk_bytes - at < PIECE_BYTES ? t->chunk_bytes - at : PIECE_BYTES;
        op_start(t, j, &j->ops[i], j->bytes + at, n, j->payload_offset + at);
    }
}

static void header_start(struct kv_tier *t, struct kv_job *j)
{
    op_start(t, j, &j->ops[t->n_piece], (uint8_t *)j->header, KV_DISK_BLOCK, j->header_offset);
}

static void job_start(struct kv_tier *t, struct kv_job *j)
{
    j->n_out = 0;
    j->n_retry = 0;
    j->error = 0;
    j->payload_done = false;
    if (j->is_write) {
        kv_crc32c_stripes(j->bytes, t->chunk_bytes, KV_STRIPE_BYTES, j->header->stripe_crc);
        kv_slot_header_seal(j->header);
    } else {
        memset(j->header, 0, KV_DISK_BLOCK);
        header_start(t, j);
    }
    payload_start(t, j);
}

/* Whether what was read is the chunk that was asked for, to the last byte. */
static bool read_verified(const struct kv_tier *t, const struct kv_job *j)
{
    const struct kv_slot_header *h = j->header;
    const struct kv_slot_header *w = j->want;
    uint32_t crcs[KV_SLOT_STRIPES_MAX];
    if (memcmp(h->magic, KV_SLOT_MAGIC, sizeof h->magic) != 0 ||
        h->crc != kv_crc32c(h, offsetof(struct kv_slot_header, crc)) ||
        h->version != KV_DISK_VERSION || h->slot != j->slot || h->chunk_bytes != t->chunk_bytes ||
        memcmp(h->fingerprint, w->fingerprint, sizeof h->fingerprint) != 0 ||
        memcmp(h->key, w->key, sizeof h->key) != 0 ||
        memcmp(h->root, w->root, sizeof h->root) != 0 || h->n_tok != w->n_tok ||
        memcmp(h->tokens, w->tokens, w->n_tok * sizeof *w->tokens) != 0) {
        return false;
    }
    kv_crc32c_stripes(j->bytes, t->chunk_bytes, KV_STRIPE_BYTES, crcs);
    size_t n_stripe = (t->chunk_bytes - 1) / KV_STRIPE_BYTES + 1;
    return memcmp(crcs, h->stripe_crc, n_stripe * sizeof *crcs) == 0;
}

static void job_done(struct kv_tier *t, struct kv_job *j)
{
    enum err_code result = ERR_OK;
    if (j->error) {
        result = j->error == ENOSPC || j->error == EDQUOT ? ERR_FULL : ERR_IO;
    } else if (!j->is_write && !read_verified(t, j)) {
        result = ERR_CORRUPT;
    }
    if (j->is_write && !j->error) {
        t->syncs[j->seg].is_dirty = true;
        t->syncs[j->seg].op.fd = j->fd;
    }
    (void)pthread_mutex_lock(&t->mu);
    j->result = result;
    j->state = KV_JOB_DONE;
    (void)pthread_mutex_unlock(&t->mu);
    (void)atomic_fetch_add(&t->n_event, 1);
}

/* Goes on with an operation that came back incomplete; false when it is final. */
static bool op_retry(struct kv_tier *t, struct kv_job *j, struct kv_io_op *op)
{
    bool is_again = op->result == -EAGAIN || op->result == -EINTR;
    bool is_short = op->result > 0 && (size_t)op->result < op->n_byte;
    if ((!is_again && !is_short) || j->error || j->n_retry >= N_RETRY_MAX) {
        return false;
    }
    j->n_retry++;
    if (is_short) { /* to the last whole block, as O_DIRECT wants it */
        size_t n = (size_t)op->result & ~(size_t)(KV_DISK_BLOCK - 1);
        op->buf += n;
        op->offset += n;
        op->n_byte -= n;
    }
    t->io->impl->submit(t->io, op);
    return true;
}

static void op_done(struct kv_tier *t, struct kv_io_op *op)
{
    struct kv_job *j = op->owner;
    if (op->kind == KV_IO_SYNC) { /* its result bounds nothing we promise */
        ((struct sync_op *)op)->is_out = false;
        return;
    }
    if (op_retry(t, j, op)) {
        return;
    }
    if (op->result != (int64_t)op->n_byte && j->error == 0) {
        j->error = op->result < 0 ? (int)-op->result : EIO;
    }
    if (--j->n_out > 0) {
        return;
    }
    if (j->is_write && !j->error && !j->payload_done) {
        j->payload_done = true;
        header_start(t, j);
        return;
    }
    job_done(t, j);
}

static void syncs_start(struct kv_tier *t, uint64_t now_us)
{
    if (now_us - t->synced_us < SYNC_EVERY_US) {
        return;
    }
    t->synced_us = now_us;
    for (uint32_t i = 0; i < t->n_sync; i++) {
        struct sync_op *y = &t->syncs[i];
        if (y->is_dirty && !y->is_out) {
            y->op = (struct kv_io_op){.kind = KV_IO_SYNC, .fd = y->op.fd};
            y->is_dirty = false;
            y->is_out = true;
            t->io->impl->submit(t->io, &y->op);
        }
    }
}

/* Takes queued jobs and marks late ones. Returns how many run. */
static uint32_t jobs_turn(struct kv_tier *t, uint64_t now_us, bool *ret_stop)
{
    uint32_t fresh[KV_N_JOB];
    uint32_t n_fresh = 0;
    uint32_t n_run = 0;
    (void)pthread_mutex_lock(&t->mu);
    *ret_stop = t->stop;
    for (uint32_t i = 0; i < KV_N_JOB; i++) {
        struct kv_job *j = &t->jobs[i];
        if (j->state == KV_JOB_QUEUED) {
            j->state = KV_JOB_RUNNING;
            fresh[n_fresh++] = i;
        }
        if (j->state == KV_JOB_RUNNING && now_us > j->deadline_us) {
            j->state = KV_JOB_LATE;
            (void)atomic_fetch_add(&t->n_event, 1);
        }
        n_run += j->state == KV_JOB_RUNNING || j->state == KV_JOB_LATE;
    }
    (void)pthread_mutex_unlock(&t->mu);
    for (uint32_t i = 0; i < n_fresh; i++) {
        job_start(t, &t->jobs[fresh[i]]);
    }
    return n_run;
}

static void *run(void *arg)
{
    struct kv_tier *t = arg;
    struct err e = {0};
    enum err_code code = backend_create(t, &e);
    (void)pthread_mutex_lock(&t->mu);
    t->is_ready = true;
    t->ready_code = code;
    t->ready_err = e;
    (void)pthread_cond_signal(&t->ready_cond);
    (void)pthread_mutex_unlock(&t->mu);
    bool stop = code != ERR_OK;
    while (!stop) {
        uint64_t now = clock_mono_us();
        (void)jobs_turn(t, now, &stop);
        syncs_start(t, now);
        struct kv_io_op *op = t->io->impl->reap(t->io, stop ? 0 : REAP_US);
        while (op) {
            struct kv_io_op *next = op->next;
            op_done(t, op);
            op = next;
        }
    }
    if (code == ERR_OK) {
        t->is_stuck = !t->io->impl->destroy(t->io);
    }
    return NULL;
}

/* ---- The store's side ---- */

static void jobs_finish(struct kv_tier *t)
{
    for (uint32_t i = 0; i < KV_N_JOB; i++) {
        free(t->jobs[i].header);
        free(t->jobs[i].want);
        free(t->jobs[i].ops);
    }
}

static bool jobs_init(struct kv_tier *t)
{
    for (uint32_t i = 0; i < KV_N_JOB; i++) {
        void *header = NULL;
        if (posix_memalign(&header, KV_DISK_BLOCK, KV_DISK_BLOCK) != 0) {
            return false;
        }
        t->jobs[i].header = header;
        t->jobs[i].want = malloc(sizeof *t->jobs[i].want);
        t->jobs[i].ops = calloc(t->n_piece + 1, sizeof *t->jobs[i].ops);
        if (!t->jobs[i].want || !t->jobs[i].ops) {
            return false;
        }
    }
    return true;
}

enum err_code kv_tier_create(const struct kv_disk *d, const struct kv_tier_options *options,
                             struct kv_tier **ret_t, struct err *e)
{
    struct kv_tier *t = calloc(1, sizeof *t);
    if (!t) {
        return err_set(e, ERR_NOMEM, "no memory for the KV disk tier");
    }
    t->options = *options;
    t->dir_fd = d->dir_fd;
    t->is_direct = d->is_direct;
    t->chunk_bytes = d->chunk_bytes;
    t->n_piece = (uint32_t)((d->chunk_bytes - 1) / PIECE_BYTES + 1);
    t->n_sync = d->n_seg_max;
    t->synced_us = clock_mono_us();
    t->syncs = calloc(t->n_sync, sizeof *t->syncs);
    (void)pthread_mutex_init(&t->mu, NULL);
    (void)pthread_cond_init(&t->ready_cond, NULL);
    enum err_code code = ERR_OK;
    if (!t->syncs || !jobs_init(t)) {
        code = err_set(e, ERR_NOMEM, "no memory for the KV disk tier");
        goto out;
    }
    int errno_value = pthread_create(&t->thread, NULL, run, t);
    if (errno_value != 0) {
        code = err_errno(e, ERR_NOMEM, errno_value, "cannot start the I/O thread");
        goto out;
    }
    t->has_thread = true;
    (void)pthread_mutex_lock(&t->mu);
    while (!t->is_ready) {
        (void)pthread_cond_wait(&t->ready_cond, &t->mu);
    }
    code = t->ready_code;
    if (code && e) {
        *e = t->ready_err;
    }
    (void)pthread_mutex_unlock(&t->mu);
out:
    if (code) {
        (void)kv_tier_destroy(t);
    } else {
        *ret_t = t;
    }
    return code;
}

bool kv_tier_destroy(struct kv_tier *t)
{
    if (!t) {
        return true;
    }
    if (t->has_thread) {
        (void)pthread_mutex_lock(&t->mu);
        t->stop = true;
        if (t->io) { /* under the lock: once it sees stop, the thread destroys io */
            t->io->impl->kick(t->io);
        }
        (void)pthread_mutex_unlock(&t->mu);
        (void)pthread_join(t->thread, NULL);
    }
    if (t->is_stuck) {
        return false; /* ops and headers lie in t */
    }
    jobs_finish(t);
    free(t->syncs);
    (void)pthread_cond_destroy(&t->ready_cond);
    (void)pthread_mutex_destroy(&t->mu);
    free(t);
    return true;
}

const char *kv_tier_backend(const struct kv_tier *t)
{
    return t->io->impl->name;
}

uint32_t kv_tier_job_new(struct kv_tier *t, bool is_write)
{
    if (is_write && t->n_busy[true] >= KV_N_JOB_WRITE) {
        return UINT32_MAX;
    }
    if (t->n_busy[false] + t->n_busy[true] >= KV_N_JOB) {
        return UINT32_MAX;
    }
    uint32_t i = 0;
    (void)pthread_mutex_lock(&t->mu);
    while (t->jobs[i].state != KV_JOB_IDLE) {
        i++;
    }
    (void)pthread_mutex_unlock(&t->mu);
    t->jobs[i].is_write = is_write;
    t->jobs[i].was_late = false;
    t->jobs[i].begin_us = clock_mono_us();
    t->n_busy[is_write]++;
    return i;
}

struct kv_job *kv_tier_job(struct kv_tier *t, uint32_t job)
{
    return &t->jobs[job];
}

void kv_tier_start(struct kv_tier *t, uint32_t job)
{
    (void)pthread_mutex_lock(&t->mu);
    t->jobs[job].state = KV_JOB_QUEUED;
    (void)pthread_mutex_unlock(&t->mu);
    t->io->impl->kick(t->io);
}

uint32_t kv_tier_poll(struct kv_tier *t, uint32_t list[KV_N_JOB])
{
    uint32_t n = 0;
    if (atomic_load(&t->n_event) == 0) {
        return 0;
    }
    (void)pthread_mutex_lock(&t->mu);
    atomic_store(&t->n_event, 0);
    for (uint32_t i = 0; i < KV_N_JOB; i++) {
        struct kv_job *j = &t->jobs[i];
        if (j->state == KV_JOB_DONE || (j->state == KV_JOB_LATE && !j->was_late)) {
            list[n++] = i;
        }
    }
    (void)pthread_mutex_unlock(&t->mu);
    return n;
}

void kv_tier_job_free(struct kv_tier *t, uint32_t job)
{
    (void)pthread_mutex_lock(&t->mu);
    t->jobs[job].state = KV_JOB_IDLE;
    (void)pthread_mutex_unlock(&t->mu);
    t->n_busy[t->jobs[job].is_write]--;
}

bool kv_tier_job_is_done(struct kv_tier *t, uint32_t job)
{
    (void)pthread_mutex_lock(&t->mu);
    bool is_done = t->jobs[job].state == KV_JOB_DONE;
    (void)pthread_mutex_unlock(&t->mu);
    return is_done;
}

uint32_t kv_tier_n_busy(const struct kv_tier *t, bool writes)
{
    return t->n_busy[writes];
}
