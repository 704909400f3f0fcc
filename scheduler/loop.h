/* The scheduler's inside. scheduler.c: what other threads call, and the thread. queue.c: who runs,
 * waits, gives memory back and ends. cache.c: what a sequence need not compute. step.c: one step
 * through the engine. */
#ifndef SCHEDULER_LOOP_H
#define SCHEDULER_LOOP_H

#include "base/clock.h"
#include "base/mpsc.h"
#include "scheduler/fairness.h"
#include "scheduler/policy.h"
#include "scheduler/sequence.h"
#include "scheduler/stats.h"

#include <pthread.h>
#include <stdatomic.h>

/* One row of logits of the present step, and what came of it. */
struct sch_pick {
    const struct sch_seq *q;
    float *logits; /* [n_vocab] f32, the engine's */
    uint32_t row;  /* position */
    bool used;
    struct sample_result result;
};

struct sch {
    struct sch_options o; /* fixed after sch_create, as are limits and eog */
    struct sch_limits limits;
    int32_t *eog;
    struct mpsc *inbox; /* of struct sch_seq * */

    /* Any thread. */
    atomic_uint n_queued; /* submitted, never run yet, not ended */
    atomic_ullong n_submitted;
    atomic_ullong n_rejected;
    atomic_bool draining;         /* no new requests */
    atomic_ullong drain_until_us; /* with draining: when what is left is cancelled */
    atomic_bool cancel_seen;      /* some stream's `cancelled` was set since the last look */
    struct sch_stats_board board;

    /* Owner: scheduler thread. */
    pthread_t thread;
    bool has_thread;
    struct sch_fairness fairness; /* holds those that wait */
    struct sch_link running;      /* in order of serial */
    struct sch_link parked;       /* in order of serial */
    uint32_t n_running;
    uint32_t n_parked;
    uint32_t n_waiting;
    uint32_t n_following; /* of those that run: they wait, see cache.h */
    uint64_t kv_epoch;    /* changes when the cache may have more for those */
    bool was_loading;
    uint64_t next_serial;
    uint64_t waiting_deadline_us; /* the earliest of those that wait; UINT64_MAX: none */
    struct sch_cost cost;
    struct sample_scratch **scratch; /* [n_worker] */
    uint32_t n_worker;
    struct sch_pick *picks;       /* [n_step_out_max] */
    struct eng_slice *slices;     /* [n_running_max] */
    struct sch_seq **stepping;    /* [n_running_max] whose slice it is */
    struct sch_prefill *prefills; /* [n_running_max] */
    struct sch_seq **prefill_of;  /* [n_running_max] whose prefill it is */
};

static inline uint64_t sch_now(const struct sch *s)
{
    return s->o.now_us ? s->o.now_us(s->o.now_arg) : clock_mono_us();
}

/* scheduler.c, any thread: the loop looks again soon; the second also looks at cancellations. */
void sch_kick(struct sch *s);
void sch_kick_cancel(struct sch *s);

/* queue.c, scheduler thread. */
void sch_queue_enter(struct sch *s, struct sch_seq *q); /* from the inbox */
/* Ends whatever was cancelled, ran out of time, or has a reader that stopped reading; learns how
 * much room readers have. Returns how many ended. */
uint32_t sch_queue_sweep(struct sch *s, uint64_t now_us);
/* Lets in who fits; returns how many, or how many ended for want of memory. */
uint32_t sch_queue_admit(struct sch *s, uint64_t now_us);
/* Memory for all of q's tokens, from others if need be. False: q is not in this step; maybe it no
 * longer runs. */
bool sch_queue_grow(struct sch *s, struct sch_seq *q);
/* The first of those that run, or the list's head, that came after `serial`. */
struct sch_link *sch_queue_after(struct sch *s, uint64_t serial);
void sch_queue_end(struct sch *s, struct sch_seq *q, enum sch_finish finish,
                   const struct err *error);
void sch_queue_cancel_all(struct sch *s);
void sch_queue_publish(struct sch *s);

/* step.c, scheduler thread: plans, runs and takes apart one step. False: nothing could run. */
bool sch_step_run(struct sch *s);

#endif
