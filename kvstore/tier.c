#include "kvstore/tier.h"

#include "base/clock.h"
#include "kvstore/tier_inside.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define STUCK_FACTOR   2  /* of io_timeout_us, without a round of the I/O thread */
#define DESTROY_WAIT_S 15 /* for a thread that hangs in the kernel */

static void *run(void *arg)
{
    struct kv_tier *t = arg;
    struct err e = {0};
    enum err_code code = kv_tier_backend_create(t, &e);
    for (uint32_t i = 0; code == ERR_OK && t->io->impl->attach && i < t->n_seg_first; i++) {
        t->io->impl->attach(t->io, i, t->seg_fds_first[i]);
    }
    atomic_store(&t->beat_us, clock_mono_us());
    (void)pthread_mutex_lock(&t->mu);
    t->is_ready = true;
    t->ready_code = code;
    t->ready_err = e;
    (void)pthread_cond_signal(&t->cond);
    (void)pthread_mutex_unlock(&t->mu);
    while (code == ERR_OK && kv_tier_turn(t)) {
    }
    bool is_stuck = false;
    if (code == ERR_OK) {
        is_stuck = !t->io->impl->destroy(t->io);
        is_stuck = !t->aside->impl->destroy(t->aside) || is_stuck;
    }
    (void)pthread_mutex_lock(&t->mu);
    t->is_stuck = is_stuck;
    t->has_ended = true;
    (void)pthread_cond_signal(&t->cond);
    (void)pthread_mutex_unlock(&t->mu);
    return NULL;
}

/* ---- The store's side ---- */

static void jobs_finish(struct kv_tier *t)
{
    for (uint32_t i = 0; i < KV_N_JOB; i++) {
        free(t->jobs[i].header);
        free(t->jobs[i].want);
        free(t->jobs[i].ops);
        free(t->jobs[i].sealed);
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
    t->n_piece = (uint32_t)((d->chunk_bytes - 1) / KV_PIECE_BYTES + 1);
    t->n_seg_max = d->n_seg_max;
    t->n_seg_first = d->n_seg;
    t->seg_fds_first = d->seg_fds;
    t->synced_us = clock_mono_us();
    t->syncs = calloc(t->n_seg_max, sizeof *t->syncs);
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&t->mu, NULL);
    (void)pthread_cond_init(&t->cond, &attr);
    (void)pthread_condattr_destroy(&attr);
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
        (void)pthread_cond_wait(&t->cond, &t->mu);
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
    bool is_stuck = false;
    if (t->has_thread) {
        struct timespec until;
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += DESTROY_WAIT_S;
        (void)pthread_mutex_lock(&t->mu);
        t->stop = true;
        if (t->io && !t->has_ended) { /* under the lock: it has not destroyed io yet */
            t->io->impl->kick(t->io);
        }
        int code = 0;
        while (!t->has_ended && code == 0) {
            code = pthread_cond_timedwait(&t->cond, &t->mu, &until);
        }
        bool has_ended = t->has_ended;
        is_stuck = !has_ended || t->is_stuck;
        (void)pthread_mutex_unlock(&t->mu);
        (void)(has_ended ? pthread_join(t->thread, NULL) : pthread_detach(t->thread));
    }
    if (is_stuck) {
        return false; /* operations and headers lie in t */
    }
    if (t->segment.state != KV_SEGMENT_IDLE && t->segment.op.result > 0) {
        (void)close((int)t->segment.op.result); /* made, and not taken any more */
    }
    jobs_finish(t);
    free(t->syncs);
    (void)pthread_cond_destroy(&t->cond);
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
    t->jobs[i].is_mark = false;
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

bool kv_tier_is_stuck(const struct kv_tier *t, uint64_t now_us)
{
    uint64_t beat_us = atomic_load(&t->beat_us);
    return t->n_busy[false] + t->n_busy[true] > 0 && now_us > beat_us &&
           now_us - beat_us > STUCK_FACTOR * t->options.io_timeout_us;
}

void kv_tier_segment_start(struct kv_tier *t, const struct kv_disk *d)
{
    (void)pthread_mutex_lock(&t->mu);
    t->segment.dir_fd = t->dir_fd;
    t->segment.parent_fd = d->parent_fd;
    t->segment.cap_bytes = d->cap_bytes;
    t->segment.seg = d->n_seg;
    t->segment.n_byte = kv_segment_bytes(d);
    t->segment.state = KV_SEGMENT_QUEUED;
    (void)pthread_mutex_unlock(&t->mu);
    t->io->impl->kick(t->io);
}

bool kv_tier_segment_take(struct kv_tier *t, int *ret_fd)
{
    (void)pthread_mutex_lock(&t->mu);
    bool is_done = t->segment.state == KV_SEGMENT_DONE;
    if (is_done) {
        *ret_fd = (int)t->segment.op.result;
        t->segment.state = KV_SEGMENT_IDLE;
    }
    (void)pthread_mutex_unlock(&t->mu);
    return is_done;
}
