/* Counters of the HTTP side, and the Prometheus page that shows them with the scheduler's, the KV
 * store's and the allocator's. Counting is for any thread; names follow vLLM's with the prefix
 * kvasir_. */
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include "base/buf.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct srv;
struct sch_stats;

#define SRV_SIZE_BUCKETS 16 /* 1, 2, 5, 10, … and beyond */

struct srv_size_hist {
    atomic_uint_fast64_t n_by_bucket[SRV_SIZE_BUCKETS];
    atomic_uint_fast64_t sum;
};

struct srv_metrics {
    uint64_t start_unix_s;
    atomic_uint_fast64_t n_by_status[6]; /* replies, by status / 100 */
    atomic_uint_fast64_t n_disconnect;   /* clients that left before their answer ended */
    atomic_uint_fast64_t n_request_byte;
    atomic_uint_fast64_t n_cut_slow; /* connections closed by a deadline */
    atomic_uint_fast64_t n_auth_fail;
    atomic_uint_fast64_t n_connection; /* open now */
    atomic_uint_fast64_t n_job;        /* requests not yet answered to the end, now */
    struct srv_size_hist prompt_tok;
    struct srv_size_hist gen_tok;
    struct srv_size_hist n_choice;
};

void srv_size_hist_add(struct srv_size_hist *h, uint64_t v);
static inline void srv_count(atomic_uint_fast64_t *counter)
{
    /* relaxed: a figure for people, ordered with nothing */
    (void)atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* Sequences submitted whose end has not come: also right inside a long step, whose other figures
 * come at its end. */
uint64_t srv_n_unfinished(const struct sch_stats *st);
/* Appends the page, text format 0.0.4. */
void srv_metrics_page(struct srv *s, struct buf *out);

#endif
