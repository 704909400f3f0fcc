/* What one step runs, as pure functions of what there is to run and of measured step times. No
 * clock, no sequence, no memory: tested on its own. Nothing here may change a token, only when it
 * comes. */
#ifndef SCHEDULER_POLICY_H
#define SCHEDULER_POLICY_H

#include <stdbool.h>
#include <stdint.h>

/* Step time as a line, t = a + b · rows, fitted by least squares with a short memory, so that it
 * follows what longer contexts and other loads do to it. a is never negative, b never zero. */
struct sch_cost {
    double n, x, y, xx, xy; /* decayed sums of 1, rows, µs, rows², rows · µs */
    double a_us;
    double b_us;
    bool has_slope; /* steps of different sizes were seen */
};

void sch_cost_add(struct sch_cost *c, uint32_t n_row, uint64_t us);
/* Rows of a step that takes about us; UINT32_MAX where nothing was measured. */
uint32_t sch_cost_rows(const struct sch_cost *c, uint64_t us);

struct sch_budget_in {
    uint32_t n_decode;       /* rows that decode in this step */
    uint32_t n_step_tok_max; /* rows of any step, > n_decode */
    uint32_t itl_target_us;  /* 0: no slicing by time */
};
/* Prefill rows for this step: as many as keep it near the target beside decodes, near
 * SCH_IDLE_STEP_US without; never fewer than SCH_PREFILL_MIN while rows are left, so that prompts
 * always go on; multiples of SCH_PREFILL_UNIT where there are that many. */
uint32_t sch_prefill_budget(const struct sch_cost *c, const struct sch_budget_in *in);

#define SCH_PREFILL_MIN   32
#define SCH_PREFILL_UNIT  16
#define SCH_PREFILL_FIRST 64 /* beside decodes, before any step was measured */
#define SCH_IDLE_STEP_US  250000

/* One sequence that has more than a decode's row to compute. In order of admission. */
struct sch_prefill {
    uint32_t n_left; /* tokens known but not computed */
    uint32_t n_max;  /* rows it can take now: UINT32_MAX, or what its reader has room for */
    bool all_out;    /* every row gives logits: prompt log-probabilities */
    uint32_t n_tok;  /* out: rows of this step, 0 … min(n_left, n_max) */
};
/* Shares the budget: half to the oldest, so that it ends; the rest to the shortest first, so that a
 * short prompt does not wait for a long one; what remains to the oldest again. n_out_max: rows with
 * logits the prefills may take, at least n. */
void sch_share_prefill(struct sch_prefill *p, uint32_t n, uint32_t budget, uint32_t n_out_max);

#endif
