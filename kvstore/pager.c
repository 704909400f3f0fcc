#include "kvstore/pager.h"

#include "base/clock.h"
#include "base/host.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define MPOL_INTERLEAVE_MODE 3 /* linux/mempolicy.h; libnuma is not needed for one call */
#define N_NODE_MAX           64
#define STEP_BYTES           KV_HUGE_BYTES
#define WATCH_US             500000
#define RESERVE_MAX          ((uint64_t)1 << 30)
#define RESERVE_DEN          16 /* of the arena */

/* ---- Pages ---- */

static bool shmem_takes_advice(void)
{
    char line[128] = "";
    FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "re");
    if (!f) {
        return false;
    }
    bool has_line = fgets(line, sizeof line, f) != NULL;
    (void)fclose(f);
    return has_line && !strstr(line, "[never]") && !strstr(line, "[deny]");
}

static void interleave(const struct kv_arena *a)
{
    unsigned long mask = 0;
    uint32_t n_node = 0;
    for (uint32_t i = 0; i < N_NODE_MAX; i++) {
        char path[64];
        (void)snprintf(path, sizeof path, "/sys/devices/system/node/node%u/meminfo", i);
        if (access(path, R_OK) == 0) {
            mask |= 1ul << i;
            n_node++;
        }
    }
    if (n_node > 1) { /* a refusal leaves first touch */
        (void)syscall(SYS_mbind, a->bytes, a->n_frame * a->frame_bytes, MPOL_INTERLEAVE_MODE, &mask,
                      (unsigned long)N_NODE_MAX + 1, 0u);
    }
}

/* Populates [at, at + n); true when it was collapsed into a huge page. Only what is there can be.
 */
static bool populate(struct kv_pager *p, uint64_t at, uint64_t n, bool *can_collapse)
{
    if (madvise(p->bytes + at, n, MADV_POPULATE_WRITE) != 0) {
        return false; /* no memory, or a kernel before 5.14: populated when touched */
    }
    (void)atomic_fetch_add(&p->populated_bytes, n);
    if (!*can_collapse || n != STEP_BYTES) {
        return false;
    }
    bool is_huge = madvise(p->bytes + at, n, MADV_COLLAPSE) == 0;
    *can_collapse = is_huge || errno != EINVAL;
    return is_huge;
}

/* ---- Memory left ---- */

/* How many frames may be in use: fewer while less than the reserve is left, more again when twice
 * that is. */
static void watch(struct kv_pager *p)
{
    uint64_t n_frame = p->n_byte / p->frame_bytes;
    uint64_t limit = atomic_load(&p->n_frame_limit);
    uint64_t left = p->left();
    uint64_t before = limit;
    if (left < p->reserve_bytes) {
        uint64_t n = (p->reserve_bytes - left) / p->frame_bytes + 1;
        limit = limit > n ? limit - n : 1;
    } else if (left > 2 * p->reserve_bytes) {
        uint64_t n = (left - 2 * p->reserve_bytes) / (2 * p->frame_bytes);
        limit = limit + n < n_frame ? limit + n : n_frame;
    }
    atomic_store(&p->n_frame_limit, limit);
    if (limit < before && before == n_frame) {
        log_warn("kv: %llu MiB of memory left; cached KV gives way",
                 (unsigned long long)(left >> 20));
    }
}

/* ---- The thread ---- */

/* Waits until there is something to populate or it is time to look; false at the end. */
static bool wait(struct kv_pager *p, uint64_t done, uint64_t *ret_want)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + WATCH_US * UINT64_C(1000);
    until.tv_sec += (time_t)(ns / 1000000000);
    until.tv_nsec = (long)(ns % 1000000000);
    (void)pthread_mutex_lock(&p->mu);
    int code = 0;
    while (!p->stop && p->want_bytes <= done && code == 0) {
        code = pthread_cond_timedwait(&p->cond, &p->mu, &until);
    }
    bool stop = p->stop;
    *ret_want = p->want_bytes;
    (void)pthread_mutex_unlock(&p->mu);
    return !stop;
}

static void *run(void *arg)
{
    struct kv_pager *p = arg;
    uint64_t done = 0;
    uint64_t want;
    bool can_collapse = true;
    uint64_t n_frame = p->n_byte / p->frame_bytes;
    uint64_t watched_us = 0;
    while (wait(p, done, &want)) {
        uint64_t now_us = clock_mono_us();
        if (now_us - watched_us >= WATCH_US) {
            watched_us = now_us;
            watch(p);
        }
        if (atomic_load(&p->n_frame_limit) < n_frame) { /* no memory to take ahead of need */
            done = want;
        }
        if (done < want) { /* a page, then look again */
            uint64_t n = p->n_byte - done < STEP_BYTES ? p->n_byte - done : STEP_BYTES;
            if (populate(p, done, n, &can_collapse)) {
                (void)atomic_fetch_add(&p->huge_bytes, n);
            }
            done += n;
        }
    }
    return NULL;
}

enum err_code kv_pager_start(struct kv_pager *p, const struct kv_arena *a, uint64_t ahead_bytes,
                             uint64_t (*left)(void), struct err *e)
{
    memset(p, 0, sizeof *p);
    p->bytes = a->bytes;
    p->n_byte = (uint64_t)a->n_frame * a->frame_bytes;
    p->frame_bytes = a->frame_bytes;
    p->ahead_bytes = ahead_bytes;
    p->left = left ? left : host_free_bytes;
    p->reserve_bytes =
        p->n_byte / RESERVE_DEN < RESERVE_MAX ? p->n_byte / RESERVE_DEN : RESERVE_MAX;
    atomic_store(&p->n_frame_limit, a->n_frame);
    interleave(a);
    if (shmem_takes_advice()) {
        (void)madvise(p->bytes, p->n_byte, MADV_HUGEPAGE);
    }
    if (ahead_bytes == 0) {
        return ERR_OK;
    }
    p->want_bytes = ahead_bytes < p->n_byte ? ahead_bytes : p->n_byte;
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&p->mu, NULL);
    (void)pthread_cond_init(&p->cond, &attr);
    (void)pthread_condattr_destroy(&attr);
    int errno_value = pthread_create(&p->thread, NULL, run, p);
    if (errno_value != 0) {
        (void)pthread_cond_destroy(&p->cond);
        (void)pthread_mutex_destroy(&p->mu);
        return err_errno(e, ERR_NOMEM, errno_value, "cannot start the pager thread");
    }
    p->has_thread = true;
    return ERR_OK;
}

void kv_pager_stop(struct kv_pager *p)
{
    if (!p->has_thread) {
        return;
    }
    (void)pthread_mutex_lock(&p->mu);
    p->stop = true;
    (void)pthread_cond_signal(&p->cond);
    (void)pthread_mutex_unlock(&p->mu);
    (void)pthread_join(p->thread, NULL);
    (void)pthread_cond_destroy(&p->cond);
    (void)pthread_mutex_destroy(&p->mu);
    p->has_thread = false;
}

void kv_pager_took(struct kv_pager *p, uint32_t frame)
{
    uint64_t end = ((uint64_t)frame + 1) * p->frame_bytes;
    if (!p->has_thread || end <= p->top_bytes) {
        return;
    }
    p->top_bytes = end;
    (void)pthread_mutex_lock(&p->mu);
    p->want_bytes = end + p->ahead_bytes < p->n_byte ? end + p->ahead_bytes : p->n_byte;
    (void)pthread_cond_signal(&p->cond);
    (void)pthread_mutex_unlock(&p->mu);
}
