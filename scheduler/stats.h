/* Counters and histograms of the scheduler. The scheduler thread counts in its own copy and
 * publishes it once a step; readers copy what was published. */
#ifndef SCHEDULER_STATS_H
#define SCHEDULER_STATS_H

#include "scheduler/scheduler.h"

#include <pthread.h>

struct sch_stats_board {
    struct sch_stats now; /* owner: scheduler thread */
    pthread_mutex_t mu;
    struct sch_stats published; /* guarded by mu */
};

void sch_hist_add(struct sch_hist *h, uint64_t us);
void sch_stats_init(struct sch_stats_board *b);
void sch_stats_finish(struct sch_stats_board *b);
void sch_stats_publish(struct sch_stats_board *b);
void sch_stats_read(struct sch_stats_board *b, struct sch_stats *ret_stats);

#endif
