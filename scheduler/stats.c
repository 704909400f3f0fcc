#include "scheduler/stats.h"

const uint64_t sch_hist_bounds_us[SCH_HIST_BUCKETS - 1] = {
    100,     250,     500,     1000,     2500,     5000,     7500,     10000,
    15000,   25000,   50000,   75000,    100000,   150000,   250000,   500000,
    1000000, 2500000, 5000000, 10000000, 30000000, 60000000, 300000000};

void sch_hist_add(struct sch_hist *h, uint64_t us)
{
    uint32_t i = 0;
    while (i < SCH_HIST_BUCKETS - 1 && us > sch_hist_bounds_us[i]) {
        i++;
    }
    h->n_by_bucket[i]++;
    h->n++;
    h->sum_us += us;
}

void sch_stats_init(struct sch_stats_board *b)
{
    (void)pthread_mutex_init(&b->mu, NULL);
}

void sch_stats_finish(struct sch_stats_board *b)
{
    (void)pthread_mutex_destroy(&b->mu);
}

void sch_stats_publish(struct sch_stats_board *b)
{
    (void)pthread_mutex_lock(&b->mu);
    b->published = b->now;
    (void)pthread_mutex_unlock(&b->mu);
}

void sch_stats_read(struct sch_stats_board *b, struct sch_stats *ret_stats)
{
    (void)pthread_mutex_lock(&b->mu);
    *ret_stats = b->published;
    (void)pthread_mutex_unlock(&b->mu);
}
