#include "scheduler/policy.h"

/* A step's weight halves every 34 steps. */
#define DECAY          0.98
#define SLOPE_MIN_US   1e-3
#define N_VARIANCE_MIN 0.5 /* rows²: below it the steps were all of one size */

void sch_cost_add(struct sch_cost *c, uint32_t n_row, uint64_t us)
{
    double x = (double)n_row;
    double y = (double)us;
    c->n = c->n * DECAY + 1;
    c->x = c->x * DECAY + x;
    c->y = c->y * DECAY + y;
    c->xx = c->xx * DECAY + x * x;
    c->xy = c->xy * DECAY + x * y;
    double mean_x = c->x / c->n;
    double mean_y = c->y / c->n;
    double var_x = c->xx / c->n - mean_x * mean_x;
    if (var_x > N_VARIANCE_MIN) {
        c->b_us = (c->xy / c->n - mean_x * mean_y) / var_x;
        c->has_slope = true;
    } else if (!c->has_slope) {
        c->b_us = mean_y / mean_x; /* no better guess: all of it grows with the rows */
    }
    double b_max_us = mean_y / mean_x; /* beyond it a would be negative */
    c->b_us = c->b_us < b_max_us ? c->b_us : b_max_us;
    c->b_us = c->b_us > SLOPE_MIN_US ? c->b_us : SLOPE_MIN_US;
    double a_us = mean_y - c->b_us * mean_x;
    c->a_us = a_us > 0 ? a_us : 0;
}

uint32_t sch_cost_rows(const struct sch_cost *c, uint64_t us)
{
    if (c->n <= 0) {
        return UINT32_MAX;
    }
    double rows = ((double)us - c->a_us) / c->b_us + 0.5;
    if (rows < 0) {
        return 0;
    }
    return rows < (double)UINT32_MAX ? (uint32_t)rows : UINT32_MAX;
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

uint32_t sch_prefill_budget(const struct sch_cost *c, const struct sch_budget_in *in)
{
    uint32_t room = in->n_step_tok_max - in->n_decode;
    if (!in->itl_target_us) {
        return room;
    }
    uint64_t target_us = in->itl_target_us;
    if (!in->n_decode) {
        target_us = target_us > SCH_IDLE_STEP_US ? target_us : SCH_IDLE_STEP_US;
    }
    uint32_t rows = sch_cost_rows(c, target_us);
    if (rows == UINT32_MAX) {
        return min_u32(room, SCH_PREFILL_FIRST);
    }
    rows -= min_u32(rows, in->n_decode);
    rows = max_u32(rows, SCH_PREFILL_MIN);
    rows -= rows % SCH_PREFILL_UNIT;
    return min_u32(rows, room);
}

/* Gives one sequence up to n more rows. Each has one row with logits for itself; further ones come
 * from the pool. */
static uint32_t give(struct sch_prefill *p, uint32_t n, uint32_t *out_pool)
{
    uint32_t more = min_u32(n, min_u32(p->n_left, p->n_max) - p->n_tok);
    if (p->all_out) {
        uint32_t own = p->n_tok ? 0 : 1;
        more = min_u32(more, *out_pool + own);
        *out_pool -= more > own ? more - own : 0;
    }
    p->n_tok += more;
    return more;
}

void sch_share_prefill(struct sch_prefill *p, uint32_t n, uint32_t budget, uint32_t n_out_max)
{
    uint32_t out_pool = n_out_max - min_u32(n, n_out_max);
    for (uint32_t i = 0; i < n; i++) {
        p[i].n_tok = 0;
    }
    /* The oldest that can take any. */
    uint32_t oldest = 0;
    while (oldest < n && !min_u32(p[oldest].n_left, p[oldest].n_max)) {
        oldest++;
    }
    if (oldest < n) {
        budget -= give(&p[oldest], budget - budget / 2, &out_pool);
    }
    uint32_t done_len = 0; /* every sequence with fewer left has had its turn */
    uint32_t done_idx = 0; /* … and of those with as many, every one before this */
    while (budget) {
        uint32_t best = n;
        for (uint32_t i = 0; i < n; i++) {
            bool had = p[i].n_left < done_len || (p[i].n_left == done_len && i < done_idx);
            if (i != oldest && !had && (best == n || p[i].n_left < p[best].n_left)) {
                best = i;
            }
        }
        if (best == n) {
            break;
        }
        budget -= give(&p[best], budget, &out_pool);
        done_len = p[best].n_left;
        done_idx = best + 1;
    }
    if (oldest < n) {
        (void)give(&p[oldest], budget, &out_pool);
    }
}
