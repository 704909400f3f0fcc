/* What this machine could do at this moment with what a bench measures: fractions say more than
 * speeds. Memory is read and the matrix units run for some tens of milliseconds, right after what
 * is compared. One thread. */
#ifndef SERVER_BENCH_LIMIT_H
#define SERVER_BENCH_LIMIT_H

#include "base/err.h"
#include "engine/engine.h"

struct bench_limit; /* owned by its creator */

enum err_code bench_limit_create(const struct eng_info *info, struct bench_limit **ret_l,
                                 struct err *e);
void bench_limit_destroy(struct bench_limit *l); /* NULL is legal */

struct bench_roof {
    double read_bytes_per_s;
    double flop_per_s;
};

struct bench_roof bench_limit_measure(struct bench_limit *l);

/* The most tokens per second that reading the weights and KV once a step and multiplying at the
 * peak allow. 0: not known (a mixture of experts reads what its rows chose). */
double bench_limit_prefill(const struct eng_info *info, const struct bench_roof *r, uint32_t n_tok);
double bench_limit_decode(const struct eng_info *info, const struct bench_roof *r, uint32_t n_seq,
                          uint32_t n_depth);

#endif
