#include "server/conns.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define TICK_MS       200
#define PING_LOOK_US  500000 /* how often quiet streams are looked for */
#define N_EVENT_TAKEN 256
#define GONE_US       1000000 /* what a client that closed had sent is answered within, if ever */
#define CUT_AGAIN_US  1000000
#define STOP_ID       UINT64_MAX

struct srv_conn {
    pthread_mutex_t mu;
    uint32_t slot;
    uint32_t generation; /* guarded by mu; tells an event of this socket from one of the last */
    int fd;              /* guarded by mu; -1: not open */
    bool hung_up;        /* guarded by mu */
    bool is_cut;         /* guarded by mu */
    struct srv_job *job; /* guarded by mu; a reference */
    atomic_uint_fast64_t deadline_us;
    atomic_uint_fast64_t gone_us; /* when the client closed its side; 0: it did not */
    uint32_t next_free;           /* guarded by the list's lock */
};

struct srv_conns {
    pthread_mutex_t mu;
    uint32_t first_free; /* guarded by mu; n_max: none */
    uint32_t n_max;
    struct srv_conn *slots; /* [n_max] */
    int epoll_fd;
    int stop_fd;
    pthread_t thread;
    struct srv_metrics *metrics;
    uint64_t ping_us; /* a stream quiet for so long gets a comment; 0: none does */
    void (*on_tick)(void *arg);
    void *arg;
};

struct srv_conn *srv_conn_open(struct srv_conns *cs, int fd)
{
    struct srv_conn *c = NULL;
    (void)pthread_mutex_lock(&cs->mu);
    if (cs->first_free < cs->n_max) {
        c = &cs->slots[cs->first_free];
        cs->first_free = c->next_free;
    }
    (void)pthread_mutex_unlock(&cs->mu);
    if (!c) {
        return NULL;
    }
    (void)pthread_mutex_lock(&c->mu);
    c->fd = fd;
    c->generation += c->generation == UINT32_MAX ? 2 : 1; /* never 0 */
    c->hung_up = false;
    c->is_cut = false;
    atomic_store_explicit(&c->gone_us, 0, memory_order_relaxed);
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLET,
                                .data.u64 = (uint64_t)c->generation << 32 | c->slot};
    (void)pthread_mutex_unlock(&c->mu);
    srv_conn_set_deadline(c, 0);
    if (epoll_ctl(cs->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
        log_warn("cannot watch a connection: %s", strerror(errno));
    }
    return c;
}

void srv_conn_close(struct srv_conns *cs, struct srv_conn *c)
{
    srv_conn_clear_job(c);
    (void)pthread_mutex_lock(&c->mu);
    (void)epoll_ctl(cs->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
    c->fd = -1;
    (void)pthread_mutex_unlock(&c->mu);
    srv_conn_set_deadline(c, 0);
    (void)pthread_mutex_lock(&cs->mu);
    c->next_free = cs->first_free;
    cs->first_free = c->slot;
    (void)pthread_mutex_unlock(&cs->mu);
}

void srv_conn_set_deadline(struct srv_conn *c, uint64_t us)
{
    /* relaxed: the watch may see it a tick late */
    atomic_store_explicit(&c->deadline_us, us, memory_order_relaxed);
}

bool srv_conn_set_job(struct srv_conn *c, struct srv_job *j)
{
    (void)pthread_mutex_lock(&c->mu);
    bool there = !c->hung_up;
    srv_job_ref(j);
    struct srv_job *old = c->job;
    c->job = j;
    (void)pthread_mutex_unlock(&c->mu);
    srv_job_unref(old);
    return there;
}

void srv_conn_clear_job(struct srv_conn *c)
{
    (void)pthread_mutex_lock(&c->mu);
    struct srv_job *old = c->job;
    c->job = NULL;
    (void)pthread_mutex_unlock(&c->mu);
    srv_job_unref(old);
}

/* generation 0: whichever connection it is now. */
static void hang_up(struct srv_conn *c, uint32_t generation)
{
    struct srv_job *j = NULL;
    (void)pthread_mutex_lock(&c->mu);
    if (c->fd >= 0 && (!generation || c->generation == generation)) {
        c->hung_up = true;
        atomic_store_explicit(&c->gone_us, clock_mono_us(), memory_order_relaxed);
        j = c->job;
        if (j) {
            srv_job_ref(j);
        }
    }
    (void)pthread_mutex_unlock(&c->mu);
    if (j) {
        srv_job_hangup(j);
        srv_job_unref(j);
    }
}

void srv_conns_hang_up_all(struct srv_conns *cs)
{
    for (uint32_t i = 0; i < cs->n_max; i++) {
        hang_up(&cs->slots[i], 0);
    }
}

/* When to cut c; 0: not at all. A client that closed in the middle of a request is one reason:
 * libmicrohttpd may have taken the last bytes and the end in one event, and wait for more. */
static uint64_t cut_us_of(const struct srv_conn *c)
{
    uint64_t deadline_us = atomic_load_explicit(&c->deadline_us, memory_order_relaxed);
    uint64_t gone_us = atomic_load_explicit(&c->gone_us, memory_order_relaxed);
    bool deadline_first = !gone_us || (deadline_us && deadline_us < gone_us + GONE_US);
    return deadline_first ? deadline_us : gone_us + GONE_US;
}

/* Once more each second until it is closed: an event may come while the library looks away. */
static void cut(struct srv_conns *cs, struct srv_conn *c, uint64_t now_us)
{
    bool is_slow = !atomic_load_explicit(&c->gone_us, memory_order_relaxed) && !c->is_cut;
    (void)shutdown(c->fd, SHUT_RDWR); /* libmicrohttpd sees the end and closes */
    c->is_cut = true;
    atomic_store_explicit(&c->gone_us, 0, memory_order_relaxed);
    atomic_store_explicit(&c->deadline_us, now_us + CUT_AGAIN_US, memory_order_relaxed);
    if (is_slow) {
        srv_count(&cs->metrics->n_cut_slow);
    }
}

static void cut_late(struct srv_conns *cs)
{
    uint64_t now_us = clock_mono_us();
    for (uint32_t i = 0; i < cs->n_max; i++) {
        struct srv_conn *c = &cs->slots[i];
        uint64_t cut_us = cut_us_of(c);
        if (!cut_us || now_us < cut_us) {
            continue;
        }
        (void)pthread_mutex_lock(&c->mu);
        /* Looked at again: the slot may belong to another connection by now. And where an answer is
         * being made, the job knows of the hang-up. */
        cut_us =
            c->job ? atomic_load_explicit(&c->deadline_us, memory_order_relaxed) : cut_us_of(c);
        if (c->fd >= 0 && cut_us && now_us >= cut_us) {
            cut(cs, c, now_us);
        }
        (void)pthread_mutex_unlock(&c->mu);
    }
}

static void ping_quiet(struct srv_conns *cs)
{
    uint64_t now_us = clock_mono_us();
    for (uint32_t i = 0; i < cs->n_max; i++) {
        struct srv_conn *c = &cs->slots[i];
        (void)pthread_mutex_lock(&c->mu);
        struct srv_job *j = c->job;
        if (j) {
            srv_job_ref(j);
        }
        (void)pthread_mutex_unlock(&c->mu);
        if (j) {
            srv_job_ping(j, now_us, cs->ping_us);
            srv_job_unref(j);
        }
    }
}

static void *watch(void *arg)
{
    struct srv_conns *cs = arg;
    struct epoll_event events[N_EVENT_TAKEN];
    uint64_t next_tick_us = 0;
    uint64_t next_ping_us = 0;
    for (;;) {
        int n = epoll_wait(cs->epoll_fd, events, N_EVENT_TAKEN, TICK_MS);
        for (int i = 0; i < n; i++) {
            if (events[i].data.u64 == STOP_ID) {
                return NULL;
            }
            hang_up(&cs->slots[(uint32_t)events[i].data.u64], (uint32_t)(events[i].data.u64 >> 32));
        }
        uint64_t now_us = clock_mono_us();
        if (now_us >= next_tick_us) {
            next_tick_us = now_us + (uint64_t)TICK_MS * 1000;
            cut_late(cs);
            if (cs->ping_us && now_us >= next_ping_us) {
                next_ping_us = now_us + PING_LOOK_US;
                ping_quiet(cs);
            }
            cs->on_tick(cs->arg);
        }
    }
}

enum err_code srv_conns_start(uint32_t n_max, uint64_t ping_us, struct srv_metrics *metrics,
                              void (*on_tick)(void *arg), void *arg, struct srv_conns **ret_c,
                              struct err *e)
{
    struct srv_conns *cs = calloc(1, sizeof *cs);
    struct srv_conn *slots = calloc(n_max, sizeof *slots);
    struct epoll_event stop = {.events = EPOLLIN, .data.u64 = STOP_ID};
    enum err_code code = ERR_OK;
    int failed = 0;
    if (!cs || !slots) {
        free(cs);
        free(slots);
        return err_set(e, ERR_NOMEM, "out of memory for %u connections", n_max);
    }
    cs->n_max = n_max;
    cs->ping_us = ping_us;
    cs->slots = slots;
    cs->metrics = metrics;
    cs->on_tick = on_tick;
    cs->arg = arg;
    (void)pthread_mutex_init(&cs->mu, NULL);
    for (uint32_t i = 0; i < n_max; i++) {
        (void)pthread_mutex_init(&slots[i].mu, NULL);
        slots[i].slot = i;
        slots[i].fd = -1;
        slots[i].next_free = i + 1;
    }
    cs->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    cs->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (cs->epoll_fd < 0 || cs->stop_fd < 0 ||
        epoll_ctl(cs->epoll_fd, EPOLL_CTL_ADD, cs->stop_fd, &stop) != 0) {
        code = err_errno(e, ERR_IO, errno, "cannot watch connections");
        goto fail;
    }
    failed = pthread_create(&cs->thread, NULL, watch, cs);
    if (failed) {
        code = err_errno(e, ERR_IO, failed, "cannot watch connections");
        goto fail;
    }
    *ret_c = cs;
    return ERR_OK;
fail:
    if (cs->epoll_fd >= 0) {
        (void)close(cs->epoll_fd);
    }
    if (cs->stop_fd >= 0) {
        (void)close(cs->stop_fd);
    }
    free(slots);
    free(cs);
    return code;
}

void srv_conns_stop(struct srv_conns *cs)
{
    uint64_t one = 1;
    if (!cs) {
        return;
    }
    ssize_t done = write(cs->stop_fd, &one, sizeof one);
    (void)done;
    (void)pthread_join(cs->thread, NULL);
    for (uint32_t i = 0; i < cs->n_max; i++) {
        srv_job_unref(cs->slots[i].job);
        (void)pthread_mutex_destroy(&cs->slots[i].mu);
    }
    (void)pthread_mutex_destroy(&cs->mu);
    (void)close(cs->epoll_fd);
    (void)close(cs->stop_fd);
    free(cs->slots);
    free(cs);
}
