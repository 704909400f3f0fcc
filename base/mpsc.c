#include "base/mpsc.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct mpsc {
    pthread_mutex_t mu;
    pthread_cond_t ready;
    void **ring; /* guarded by mu, as all below */
    size_t n_item_max;
    size_t head; /* next to take */
    size_t n_item;
    size_t n_kick;
    bool closed;
};

enum err_code mpsc_create(size_t n_item_max, struct mpsc **ret_q, struct err *e)
{
    struct mpsc *q = calloc(1, sizeof *q);
    void **ring = calloc(n_item_max ? n_item_max : 1, sizeof *ring);
    if (!q || !ring) {
        free(q);
        free(ring);
        return err_set(e, ERR_NOMEM, "out of memory for a queue of %zu items", n_item_max);
    }
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&q->mu, NULL);
    (void)pthread_cond_init(&q->ready, &attr);
    (void)pthread_condattr_destroy(&attr);
    q->ring = ring;
    q->n_item_max = n_item_max;
    *ret_q = q;
    return ERR_OK;
}

void mpsc_destroy(struct mpsc *q)
{
    if (!q) {
        return;
    }
    (void)pthread_cond_destroy(&q->ready);
    (void)pthread_mutex_destroy(&q->mu);
    free(q->ring);
    free(q);
}

bool mpsc_push(struct mpsc *q, void *item)
{
    (void)pthread_mutex_lock(&q->mu);
    bool taken = !q->closed && q->n_item < q->n_item_max;
    if (taken) {
        q->ring[(q->head + q->n_item) % q->n_item_max] = item;
        q->n_item++;
        (void)pthread_cond_signal(&q->ready);
    }
    (void)pthread_mutex_unlock(&q->mu);
    return taken;
}

static struct timespec deadline_after(uint64_t timeout_us)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    uint64_t ns = (uint64_t)t.tv_nsec + (timeout_us % 1000000) * 1000;
    t.tv_sec += (time_t)(timeout_us / 1000000 + ns / 1000000000);
    t.tv_nsec = (long)(ns % 1000000000);
    return t;
}

void *mpsc_pop(struct mpsc *q, uint64_t timeout_us)
{
    void *item = NULL;
    (void)pthread_mutex_lock(&q->mu);
    if (!q->n_item && timeout_us) {
        struct timespec until = deadline_after(timeout_us);
        while (!q->n_item && !q->closed && !q->n_kick) {
            if (pthread_cond_timedwait(&q->ready, &q->mu, &until)) {
                break;
            }
        }
    }
    if (q->n_item) {
        item = q->ring[q->head];
        q->head = (q->head + 1) % q->n_item_max;
        q->n_item--;
    } else if (q->n_kick) {
        q->n_kick--;
    }
    (void)pthread_mutex_unlock(&q->mu);
    return item;
}

void mpsc_kick(struct mpsc *q)
{
    (void)pthread_mutex_lock(&q->mu);
    /* One kick is enough for a consumer that has not looked yet. */
    q->n_kick = 1;
    (void)pthread_cond_signal(&q->ready);
    (void)pthread_mutex_unlock(&q->mu);
}

void mpsc_close(struct mpsc *q)
{
    (void)pthread_mutex_lock(&q->mu);
    q->closed = true;
    (void)pthread_cond_broadcast(&q->ready);
    (void)pthread_mutex_unlock(&q->mu);
}

size_t mpsc_len(struct mpsc *q)
{
    (void)pthread_mutex_lock(&q->mu);
    size_t n = q->n_item;
    (void)pthread_mutex_unlock(&q->mu);
    return n;
}
