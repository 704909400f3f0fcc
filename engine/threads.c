#include "engine/threads.h"

#include "base/host.h"

#include <assert.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* A few hundred pauses are about ten microseconds: longer than the gap between two phases of a
 * step, shorter than what a lost core would cost. */
#define N_SPIN       400
#define N_THREAD_MAX 1024
#define WORKER_NICE  5

struct worker {
    struct eng_pool *pool;
    pthread_t thread;
    uint32_t id;
};

struct eng_pool {
    uint32_t n_thread;
    struct worker *workers; /* [n_thread - 1]; worker 0 is the caller */

    /* The job. Written by the caller while no item is out, read by whoever took an item: taking one
     * (an acquire on ticket) orders the reads after the caller's release, and an item that is out
     * keeps the caller from writing the next job. */
    eng_pool_fn fn;
    void *arg;
    uint32_t n_item;

    /* Items not yet taken, under the number of the job so that a worker who comes late cannot take
     * an item of the next job for one of this. */
    alignas(64) _Atomic uint64_t ticket; /* job << 32 | items left */
    alignas(64) _Atomic uint32_t n_done; /* items finished; futex of the caller */
    _Atomic uint32_t caller_sleeps;
    alignas(64) _Atomic uint32_t epoch; /* futex of idle workers, changed to wake them */
    _Atomic uint32_t n_asleep;
    _Atomic bool stop;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, uint32_t n)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static void pause_once(void)
{
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Denormals are flushed on every thread that runs items, so that who runs one does not matter.
 * Returns what to give to fp_restore. */
static uint64_t fp_flush_denormals(void)
{
#if defined(__x86_64__)
    uint32_t was = _mm_getcsr();
    _mm_setcsr(was | 0x8040U); /* FTZ, DAZ */
    return was;
#elif defined(__aarch64__)
    uint64_t was;
    __asm__ volatile("mrs %0, fpcr" : "=r"(was));
    __asm__ volatile("msr fpcr, %0" : : "r"(was | (1ULL << 24)));
    return was;
#else
    return 0;
#endif
}

static void fp_restore(uint64_t was)
{
#if defined(__x86_64__)
    _mm_setcsr((uint32_t)was);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(was));
#endif
}

/* Takes items until none is left. */
static void work(struct eng_pool *p, uint32_t worker)
{
    uint32_t n = 0;
    uint32_t n_item = 0;
    uint64_t t = atomic_load_explicit(&p->ticket, memory_order_acquire);
    while ((uint32_t)t) {
        /* acquire: see the job; the caller's release heads the sequence of these exchanges. */
        if (!atomic_compare_exchange_weak_explicit(&p->ticket, &t, t - 1, memory_order_acquire,
                                                   memory_order_acquire)) {
            continue;
        }
        n_item = p->n_item;
        p->fn(p->arg, n_item - (uint32_t)t, worker);
        n++;
        t--;
        if ((uint32_t)t) {
            t = atomic_load_explicit(&p->ticket, memory_order_acquire);
        }
    }
    if (!n) {
        return;
    }
    /* seq_cst, against the caller's store of caller_sleeps and its load of n_done: one of us sees
     * the other. It also releases what the items wrote. */
    if (atomic_fetch_add(&p->n_done, n) + n == n_item && atomic_load(&p->caller_sleeps)) {
        futex_wake(&p->n_done, 1);
    }
}

/* Waits until there are items or the pool ends (false). */
static bool wait_for_job(struct eng_pool *p)
{
    for (;;) {
        for (int i = 0; i < N_SPIN; i++) {
            if ((uint32_t)atomic_load_explicit(&p->ticket, memory_order_relaxed)) {
                return true; /* work() takes items with acquire */
            }
            if (atomic_load_explicit(&p->stop, memory_order_relaxed)) {
                return false;
            }
            pause_once();
        }
        uint32_t epoch = atomic_load(&p->epoch);
        /* seq_cst, against the caller's store of ticket and its load of n_asleep. */
        (void)atomic_fetch_add(&p->n_asleep, 1);
        if (!(uint32_t)atomic_load(&p->ticket) && !atomic_load(&p->stop)) {
            futex_wait(&p->epoch, epoch);
        }
        (void)atomic_fetch_sub(&p->n_asleep, 1);
    }
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    char name[16];
    (void)snprintf(name, sizeof name, "kernel-%u", w->id);
    (void)pthread_setname_np(pthread_self(), name);
    id_t tid = (id_t)syscall(SYS_gettid);
    (void)setpriority(PRIO_PROCESS, tid, getpriority(PRIO_PROCESS, tid) + WORKER_NICE);
    (void)fp_flush_denormals();
    while (wait_for_job(w->pool)) {
        work(w->pool, w->id);
    }
    return NULL;
}

void eng_pool_run(struct eng_pool *p, uint32_t n_item, eng_pool_fn fn, void *arg)
{
    if (!n_item) {
        return;
    }
    uint64_t fp = fp_flush_denormals();
    if (p->n_thread == 1 || n_item == 1) {
        for (uint32_t i = 0; i < n_item; i++) {
            fn(arg, i, 0);
        }
        fp_restore(fp);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    p->n_item = n_item;
    atomic_store_explicit(&p->n_done, 0, memory_order_relaxed); /* published by ticket */
    uint64_t job = (atomic_load_explicit(&p->ticket, memory_order_relaxed) >> 32) + 1;
    atomic_store(&p->ticket, job << 32 | n_item); /* seq_cst: see wait_for_job */
    uint32_t n_asleep = atomic_load(&p->n_asleep);
    if (n_asleep) {
        (void)atomic_fetch_add(&p->epoch, 1);
        futex_wake(&p->epoch, n_item - 1 < n_asleep ? n_item - 1 : n_asleep);
    }
    work(p, 0);

    uint32_t done = atomic_load_explicit(&p->n_done, memory_order_acquire);
    for (int i = 0; done != n_item && i < N_SPIN; i++) {
        pause_once();
        done = atomic_load_explicit(&p->n_done, memory_order_acquire);
    }
    if (done != n_item) {
        atomic_store(&p->caller_sleeps, 1);
        while ((done = atomic_load(&p->n_done)) != n_item) {
            futex_wait(&p->n_done, done);
        }
        atomic_store(&p->caller_sleeps, 0);
    }
    fp_restore(fp);
}

static void stop_workers(struct eng_pool *p, uint32_t n_worker)
{
    atomic_store(&p->stop, true);
    (void)atomic_fetch_add(&p->epoch, 1);
    futex_wake(&p->epoch, INT32_MAX);
    for (uint32_t i = 0; i < n_worker; i++) {
        (void)pthread_join(p->workers[i].thread, NULL);
    }
}

enum err_code eng_pool_create(uint32_t n_thread, struct eng_pool **ret_pool, struct err *e)
{
    if (!n_thread) {
        n_thread = host_cores();
    }
    if (n_thread > N_THREAD_MAX) {
        return err_set(e, ERR_LIMIT, "%u kernel threads asked for, at most %u are possible",
                       n_thread, N_THREAD_MAX);
    }
    struct eng_pool *p = aligned_alloc(alignof(struct eng_pool), sizeof *p);
    struct worker *workers = calloc(n_thread, sizeof *workers);
    if (!p || !workers) {
        free(workers);
        free(p);
        return err_set(e, ERR_NOMEM, "no memory for a pool of %u threads", n_thread);
    }
    memset(p, 0, sizeof *p);
    p->n_thread = n_thread;
    p->workers = workers;

    /* Signals are for the main thread. */
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    enum err_code code = ERR_OK;
    uint32_t n_started = 0;
    for (; n_started < n_thread - 1; n_started++) {
        struct worker *w = &workers[n_started];
        w->pool = p;
        w->id = n_started + 1;
        int rc = pthread_create(&w->thread, NULL, worker_main, w);
        if (rc != 0) {
            code = err_errno(e, ERR_NOMEM, rc, "cannot start kernel thread %u of %u", w->id,
                             n_thread - 1);
            break;
        }
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code != ERR_OK) {
        stop_workers(p, n_started);
        free(workers);
        free(p);
        return code;
    }
    *ret_pool = p;
    return ERR_OK;
}

void eng_pool_destroy(struct eng_pool *pool)
{
    if (!pool) {
        return;
    }
    stop_workers(pool, pool->n_thread - 1);
    free(pool->workers);
    free(pool);
}

uint32_t eng_pool_n_thread(const struct eng_pool *pool)
{
    return pool->n_thread;
}
