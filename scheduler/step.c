
#include "base/log.h"
#include "scheduler/cache.h"

#include <assert.h>

#define PARALLEL_MIN 65536 /* logits of a step from which on sampling is shared out */

static void add_slice(struct sch *s, struct sch_seq *q, uint32_t n_tok, uint32_t *n_slice)
{
    s->stepping[*n_slice] = q;
    s->slices[*n_slice] = (struct eng_slice){.tokens = q->tokens + q->n_computed,
                                             .n_tok = n_tok,
                                             .pos = q->n_computed,
                                             .kv = kv_seq_base(q->kv),
                                             .state = q->state,
                                             .adapter = q->adapter,
                                             .want_hidden = q->pool != NULL,
                                             .out_from = sch_seq_out_from(q, n_tok)};
    ++*n_slice;
}

/* Whether q can be in a step: its reader has room, and its tokens have memory. */
static bool is_ready(const struct sch_seq *q)
{
    return q->room && !q->follows && kv_seq_n_tok_mapped(q->kv) >= sch_seq_n_tok(q);
}

/* Those that waited for what others compute begin, and all that compute get memory, the oldest
 * first: maybe from those younger and from those whose reader has no room. */
static void plan_memory(struct sch *s)
{
    for (struct sch_link *l = s->running.next; l != &s->running;) {
        struct sch_seq *q = sch_seq_of_link(l);
        uint64_t serial = q->ticket.serial;
        bool computes = q->room && sch_cache_follow(s, q);
        l = computes && !sch_queue_grow(s, q) ? sch_queue_after(s, serial) : q->link.next;
    }
}

/* Every sequence with one token left to compute, the oldest first. */
static uint32_t plan_decodes(struct sch *s, uint32_t *n_slice)
{
    uint32_t n_decode = 0;
    for (struct sch_link *l = s->running.next; l != &s->running; l = l->next) {
        struct sch_seq *q = sch_seq_of_link(l);
        if (is_ready(q) && sch_seq_n_left(q) == 1) {
            add_slice(s, q, 1, n_slice);
            n_decode++;
        }
    }
    return n_decode;
}

/* An encoder reads each text in one piece: as many as fit the budget, the oldest first, one at
 * least. */
static void plan_texts(struct sch *s, uint32_t *n_slice)
{
    struct sch_budget_in in = {.n_step_tok_max = s->o.n_step_tok_max,
                               .itl_target_us = s->o.itl_target_us};
    uint32_t budget = sch_prefill_budget(&s->cost, &in);
    for (struct sch_link *l = s->running.next; l != &s->running; l = l->next) {
        struct sch_seq *q = sch_seq_of_link(l);
        uint32_t n_tok = sch_seq_n_left(q);
        if (is_ready(q) && (n_tok <= budget || !*n_slice)) {
            add_slice(s, q, n_tok, n_slice);
            budget -= n_tok < budget ? n_tok : budget;
        }
    }
}

static void plan_prefills(struct sch *s, uint32_t n_decode, uint32_t *n_slice)
{
    uint32_t n = 0;
    for (struct sch_link *l = s->running.next; l != &s->running; l = l->next) {
        struct sch_seq *q = sch_seq_of_link(l);
        if (!is_ready(q) || sch_seq_n_left(q) < 2) {
            continue;
        }
        bool scores = q->prompt_logprobs && q->n_scored < q->n_prompt;
        s->prefill_of[n] = q;
        s->prefills[n++] = (struct sch_prefill){
            .n_left = sch_seq_n_left(q), .n_max = scores ? q->room : UINT32_MAX, .all_out = scores};
    }
    if (!n) {
        return;
    }
    struct sch_budget_in in = {.n_decode = n_decode,
                               .n_step_tok_max = s->o.n_step_tok_max,
                               .itl_target_us = s->o.itl_target_us};
    uint32_t budget = sch_prefill_budget(&s->cost, &in);
    sch_share_prefill(s->prefills, n, budget, s->o.eng->info.n_step_out_max - n_decode);
    for (uint32_t i = 0; i < n; i++) {
        if (s->prefills[i].n_tok) {
            add_slice(s, s->prefill_of[i], s->prefills[i].n_tok, n_slice);
        }
    }
}

static void count_token(struct sch *s, struct sch_seq *q)
{
    struct sch_stats *n = &s->board.now;
    uint64_t now_us = sch_now(s);
    if (!q->first_us) {
        q->first_us = now_us;
        sch_hist_add(&n->ttft, now_us - q->ticket.submit_us);
    } else {
        sch_hist_add(&n->itl, now_us - q->last_us);
    }
    q->last_us = now_us;
    n->n_gen_tok++;
}

static void charge(struct sch_seq *q, const struct eng_slice *c, uint32_t n_new_gen)
{
    uint32_t end = c->pos + c->n_tok;
    uint64_t n_used = (uint64_t)n_new_gen * SCH_COST_GEN;
    if (end > q->n_charged) {
        uint32_t until = end < q->n_prompt ? end : q->n_prompt;
        n_used += until > q->n_charged ? (uint64_t)(until - q->n_charged) * SCH_COST_PROMPT : 0;
        q->n_charged = end;
    }
    sch_fairness_charge(&q->ticket, n_used);
}

static void pick_item(void *arg, uint32_t item, uint32_t worker)
{
    struct sch *s = arg;
    struct sch_pick *p = &s->picks[item];
    p->used = sch_seq_pick(p->q, s->scratch[worker], p->logits, p->row, &p->result);
}

/* Looks at every row of logits of the step, on all workers where that is worth waking them. */
static void pick_all(struct sch *s, uint32_t n_slice)
{
    size_t n_vocab = s->o.eng->info.n_vocab;
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_slice; i++) {
        const struct eng_slice *c = &s->slices[i];
        for (uint32_t k = c->out_from; !c->want_hidden && k < c->n_tok; k++) {
            s->picks[n++] = (struct sch_pick){.q = s->stepping[i],
                                              .logits = c->logits + (k - c->out_from) * n_vocab,
                                              .row = c->pos + k};
        }
    }
    if (n > 1 && n * n_vocab >= PARALLEL_MIN) {
        eng_parallel(s->o.eng, n, pick_item, s);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        pick_item(s, i, 0);
    }
}

/* Slices with the same adapter stand together, each group in order: the engine takes neighbours
 * through it at once. */
static void group_adapters(struct sch *s, uint32_t n_slice)
{
    for (uint32_t i = 1; s->o.eng->info.n_adapter && i < n_slice; i++) {
        struct eng_slice slice = s->slices[i];
        struct sch_seq *q = s->stepping[i];
        uint32_t at = i;
        for (; at && s->slices[at - 1].adapter > slice.adapter; at--) {
            s->slices[at] = s->slices[at - 1];
            s->stepping[at] = s->stepping[at - 1];
        }
        s->slices[at] = slice;
        s->stepping[at] = q;
    }
}

static uint32_t n_pick(const struct eng_slice *c)
{
    return c->want_hidden ? 0 : c->n_tok - c->out_from;
}

/* Takes what came of a slice's rows, picks[0, n_pick), and counts its tokens. */
static void take_slice(struct sch *s, struct sch_seq *q, const struct eng_slice *c,
                       const struct sch_pick *picks)
{
    struct err e;
    enum sch_finish finish = SCH_FINISH_NONE;
    uint32_t n_gen = q->n_gen;
    sch_cache_commit(s, q, c->n_tok); /* before q may end: what it computed stays for others */
    if (c->want_hidden && c->out_from < c->n_tok) {
        sch_seq_pool(q, s->o.eng, c->hidden, c->pos + c->out_from, c->n_tok - c->out_from);
    }
    for (uint32_t k = 0; k < n_pick(c) && !finish; k++) {
        if (picks[k].used) {
            finish = sch_seq_take(q, s->o.eng, picks[k].row, &picks[k].result, &e);
        }
    }
    if (q->n_gen > n_gen) {
        count_token(s, q);
    }
    charge(q, c, q->n_gen - n_gen);
    q->n_computed += c->n_tok;
    if (!finish && !q->n_gen_max && !sch_seq_n_left(q)) {
        finish = SCH_FINISH_LENGTH;
    }
    if (finish) {
        sch_queue_end(s, q, finish, &e);
    }
}

bool sch_step_run(struct sch *s)
{
    uint32_t n_slice = 0;
    plan_memory(s);
    if (s->o.eng->info.encoder) {
        plan_texts(s, &n_slice);
    } else {
        uint32_t n_decode = plan_decodes(s, &n_slice);
        plan_prefills(s, n_decode, &n_slice);
    }
    if (!n_slice) {
        return false;
    }
    group_adapters(s, n_slice);
    uint32_t n_row = 0;
    for (uint32_t i = 0; i < n_slice; i++) {
        n_row += s->slices[i].n_tok;
    }
    assert(n_row <= s->o.n_step_tok_max);
    struct err e;
    uint64_t start_us = sch_now(s);
    enum err_code code = eng_step(s->o.eng, s->slices, n_slice, &e);
    uint64_t took_us = sch_now(s) - start_us;
    s->board.now.n_step++;
    if (code) {
        log_error("step of %u rows failed, %u requests end: %s", n_row, n_slice, e.msg);
        for (uint32_t i = 0; i < n_slice; i++) {
            sch_queue_end(s, s->stepping[i], SCH_FINISH_ERROR, &e);
        }
        return true;
    }
    sch_cost_add(&s->cost, n_row, took_us);
    if (s->cost.has_slope) {
        kv_set_recompute_rate(s->o.kv, 1e6 / s->cost.b_us);
    }
    sch_hist_add(&s->board.now.step, took_us);
    pick_all(s, n_slice);
    const struct sch_pick *picks = s->picks;
    for (uint32_t i = 0; i < n_slice; i++) {
        take_slice(s, s->stepping[i], &s->slices[i], picks);
        picks += n_pick(&s->slices[i]);
    }
    return true;
}
