/* The kernel workers: a pool that runs one job at a time, its items handed out by an atomic
 * counter. The caller works too, so n_thread = 1 has no other thread. Between items nothing is
 * shared; a job ends when all items are done (spin a little, then futex, so that losing a core
 * costs microseconds and not milliseconds). Which worker runs which item is not determined: results
 * must not depend on it. Created and used by one thread (the scheduler's); an item must not run a
 * job itself. */
#ifndef ENGINE_THREADS_H
#define ENGINE_THREADS_H

#include "base/err.h"

#include <stdint.h>

struct eng_pool;

/* n_thread counts the caller; 0: host_cores(). Each worker is pinned to no CPU but niced a little
 * below the server's threads, takes no signals, and flushes denormals as the kernels expect (the
 * caller does while it runs a job). Permission for AMX tiles is the process's own and must have
 * been asked for before (kern_isa_detect). ERR_LIMIT above 1024 threads, ERR_NOMEM. */
enum err_code eng_pool_create(uint32_t n_thread, struct eng_pool **ret_pool, struct err *e);
void eng_pool_destroy(struct eng_pool *pool); /* NULL is legal */
uint32_t eng_pool_n_thread(const struct eng_pool *pool);

/* worker is in [0, n_thread), distinct for items that run at the same time: it picks scratch. */
typedef void (*eng_pool_fn)(void *arg, uint32_t item, uint32_t worker);
/* Runs fn for every item in [0, n_item), handed out in ascending order; returns when all are done
 * and their writes are visible. */
void eng_pool_run(struct eng_pool *pool, uint32_t n_item, eng_pool_fn fn, void *arg);

#endif
