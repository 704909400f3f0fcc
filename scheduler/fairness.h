/* Who is next: tenants take turns by the service they have used, and inside a tenant it is first
 * come, first served. Service is counted in virtual tokens: 1 for a prompt token computed, a tenth
 * for one found in the prefix cache, 2 for a token generated. A tenant that comes back after a
 * pause is lifted to the least counter of those that have work, so that idleness saves nothing up;
 * debts stay. Source: Sheng et al., Fairness in Serving Large Language Models (OSDI 2024), the
 * virtual token counter.
 *
 * One thread (the scheduler's). Knows nothing of sequences but their link. */
#ifndef SCHEDULER_FAIRNESS_H
#define SCHEDULER_FAIRNESS_H

#include "base/err.h"
#include "scheduler/list.h"

#include <stdint.h>

#define SCH_COST_PROMPT     1
#define SCH_COST_GEN        2
#define SCH_CACHED_PER_COST 10

struct sch_tenant {
    struct sch_link link; /* in sch_fairness.tenants */
    struct sch_link waiting;
    uint64_t hash; /* of the name */
    char *name;
    uint64_t n_used;   /* virtual tokens */
    uint32_t n_active; /* its requests that wait or run */
};

/* What a request waits with. */
struct sch_ticket {
    struct sch_link link; /* in its tenant's waiting list, while it waits */
    struct sch_tenant *tenant;
    uint64_t serial;    /* rises with submission */
    uint64_t submit_us; /* when */
};

struct sch_fairness {
    struct sch_link tenants;
    uint32_t n_tenant;
    uint64_t n_used_floor; /* the least counter seen among the active; where a newcomer starts */
};

void sch_fairness_init(struct sch_fairness *f);
void sch_fairness_finish(struct sch_fairness *f); /* nothing is active any more */

/* The request joins its tenant's queue, at the end. */
enum err_code sch_fairness_join(struct sch_fairness *f, struct sch_ticket *t, const char *tenant,
                                struct err *e);
/* The one to admit next, NULL when none waits. Who waits since before `since_us` goes first, the
 * oldest of them at the head. */
struct sch_ticket *sch_fairness_next(struct sch_fairness *f, uint64_t since_us);
/* It stops waiting: it runs, or it ended. */
void sch_fairness_take(struct sch_ticket *t);
void sch_fairness_charge(struct sch_ticket *t, uint64_t n_virtual_tok);
/* The request has ended; it does not wait. */
void sch_fairness_leave(struct sch_fairness *f, struct sch_ticket *t);

#endif
