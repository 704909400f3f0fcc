/* pread and pwrite on a few threads, for where io_uring is refused; and whatever else blocks.
 * Threads wait on a semaphore: a condition variable of glibc 2.36 may lose a signal when several
 * threads wait (its bug 25847), and an operation with it. */
#include "kvstore/io.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define N_THREAD_MAX 16
/* How long destroy waits for operations that hang in the kernel. */
#define DESTROY_WAIT_S 5

struct io_pread {
    struct kv_io io;
    sem_t todo_sem; /* one up for each operation in todo, and for each thread at the end */
    pthread_mutex_t mu;
    pthread_cond_t done_cond;
    /* guarded by mu */
    struct kv_io_op *todo;
    struct kv_io_op **todo_end;
    struct kv_io_op *done;
    uint32_t n_running; /* threads that have not returned */
    bool kicked;
    bool stop;
    uint32_t n_thread;
    pthread_t threads[N_THREAD_MAX];
};

static int64_t perform(const struct kv_io_op *op)
{
    ssize_t n = 0;
    switch (op->kind) {
    case KV_IO_READ: n = pread(op->fd, op->buf, op->n_byte, (off_t)op->offset); break;
    case KV_IO_WRITE: n = pwrite(op->fd, op->buf, op->n_byte, (off_t)op->offset); break;
    case KV_IO_SYNC: n = fdatasync(op->fd); break;
    case KV_IO_CALL: return op->call(op->arg);
    }
    return n < 0 ? -errno : n;
}

static void *run(void *arg)
{
    struct io_pread *p = arg;
    (void)pthread_mutex_lock(&p->mu);
    while (!p->stop) {
        struct kv_io_op *op = p->todo;
        if (!op) {
            (void)pthread_mutex_unlock(&p->mu);
            (void)sem_wait(&p->todo_sem); /* EINTR: looks again */
            (void)pthread_mutex_lock(&p->mu);
            continue;
        }
        p->todo = op->next;
        if (!p->todo) {
            p->todo_end = &p->todo;
        }
        (void)pthread_mutex_unlock(&p->mu);
        int64_t result = perform(op);
        (void)pthread_mutex_lock(&p->mu);
        op->result = result;
        op->next = p->done;
        p->done = op;
        (void)pthread_cond_signal(&p->done_cond);
    }
    p->n_running--;
    (void)pthread_cond_signal(&p->done_cond);
    (void)pthread_mutex_unlock(&p->mu);
    return NULL;
}

static void pread_submit(struct kv_io *io, struct kv_io_op *op)
{
    struct io_pread *p = (struct io_pread *)io;
    (void)pthread_mutex_lock(&p->mu);
    op->next = NULL;
    *p->todo_end = op;
    p->todo_end = &op->next;
    (void)pthread_mutex_unlock(&p->mu);
    (void)sem_post(&p->todo_sem);
}

/* What no thread has taken yet comes back at once; the rest when its call returns. */
static void pread_cancel(struct kv_io *io, struct kv_io_op *op)
{
    struct io_pread *p = (struct io_pread *)io;
    (void)pthread_mutex_lock(&p->mu);
    struct kv_io_op **at = &p->todo;
    while (*at && *at != op) {
        at = &(*at)->next;
    }
    if (*at) {
        *at = op->next;
        p->todo_end = op->next ? p->todo_end : at;
        op->result = -ECANCELED;
        op->next = p->done;
        p->done = op;
    }
    (void)pthread_mutex_unlock(&p->mu);
}

static struct timespec after_us(uint64_t us)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    uint64_t ns = (uint64_t)t.tv_nsec + us % 1000000 * 1000;
    t.tv_sec += (time_t)(us / 1000000 + ns / 1000000000);
    t.tv_nsec = (long)(ns % 1000000000);
    return t;
}

static struct kv_io_op *pread_reap(struct kv_io *io, uint64_t timeout_us)
{
    struct io_pread *p = (struct io_pread *)io;
    struct timespec until = after_us(timeout_us);
    (void)pthread_mutex_lock(&p->mu);
    int code = 0;
    while (!p->done && !p->kicked && timeout_us > 0 && code == 0) {
        code = pthread_cond_timedwait(&p->done_cond, &p->mu, &until);
    }
    struct kv_io_op *done = p->done;
    p->done = NULL;
    p->kicked = false;
    (void)pthread_mutex_unlock(&p->mu);
    return done;
}

static void pread_kick(struct kv_io *io)
{
    struct io_pread *p = (struct io_pread *)io;
    (void)pthread_mutex_lock(&p->mu);
    p->kicked = true;
    (void)pthread_cond_signal(&p->done_cond);
    (void)pthread_mutex_unlock(&p->mu);
}

static bool pread_destroy(struct kv_io *io)
{
    struct io_pread *p = (struct io_pread *)io;
    struct timespec until = after_us(DESTROY_WAIT_S * UINT64_C(1000000));
    (void)pthread_mutex_lock(&p->mu);
    p->stop = true;
    for (uint32_t i = 0; i < p->n_thread; i++) {
        (void)sem_post(&p->todo_sem);
    }
    int code = 0;
    while (p->n_running > 0 && code == 0) {
        code = pthread_cond_timedwait(&p->done_cond, &p->mu, &until);
    }
    bool is_idle = p->n_running == 0;
    (void)pthread_mutex_unlock(&p->mu);
    if (!is_idle) {
        for (uint32_t i = 0; i < p->n_thread; i++) {
            (void)pthread_detach(p->threads[i]);
        }
        return false; /* they still use p */
    }
    for (uint32_t i = 0; i < p->n_thread; i++) {
        (void)pthread_join(p->threads[i], NULL);
    }
    (void)sem_destroy(&p->todo_sem);
    (void)pthread_cond_destroy(&p->done_cond);
    (void)pthread_mutex_destroy(&p->mu);
    free(p);
    return true;
}

static const struct kv_io_impl pread_impl = {
    .name = "pread",
    .submit = pread_submit,
    .reap = pread_reap,
    .cancel = pread_cancel,
    .kick = pread_kick,
    .destroy = pread_destroy,
};

enum err_code kv_io_pread_create(uint32_t n_thread, struct kv_io **ret_io, struct err *e)
{
    struct io_pread *p = calloc(1, sizeof *p);
    if (!p) {
        return err_set(e, ERR_NOMEM, "no memory for I/O threads");
    }
    p->io.impl = &pread_impl;
    p->todo_end = &p->todo;
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&p->mu, NULL);
    (void)sem_init(&p->todo_sem, 0, 0);
    (void)pthread_cond_init(&p->done_cond, &attr);
    (void)pthread_condattr_destroy(&attr);
    n_thread = n_thread < N_THREAD_MAX ? n_thread : N_THREAD_MAX;
    int code = 0;
    while (p->n_thread < n_thread && code == 0) {
        (void)pthread_mutex_lock(&p->mu);
        p->n_running++; /* before it can end */
        (void)pthread_mutex_unlock(&p->mu);
        code = pthread_create(&p->threads[p->n_thread], NULL, run, p);
        (void)pthread_mutex_lock(&p->mu);
        p->n_running -= code != 0;
        (void)pthread_mutex_unlock(&p->mu);
        p->n_thread += code == 0;
    }
    if (p->n_thread == 0) {
        (void)pread_destroy(&p->io);
        return err_errno(e, ERR_NOMEM, code, "cannot start I/O threads");
    }
    p->io.depth = p->n_thread;
    *ret_io = &p->io;
    return ERR_OK;
}
