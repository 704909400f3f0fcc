#include "scheduler/cache.h"

#include "base/units.h"

#include <assert.h>
#include <stdlib.h>

/* A sequence whose reader has had no room for so long gives way to others that want in. */
#define PARK_US 1000000

#define WAIT_MAX_DEFAULT_US 10000000

#define STATE_ALIGN ((size_t)64)

/* Frames in I/O come free by themselves: so long they are waited for before a sequence gives its
 * memory back for it, and, where none could, before the one that needs it fails. */
#define IO_WAIT_US       20000
#define IO_WAIT_ALONE_US 10000000

/* Requests that wait and whose KV is already read from disk for them. */
#define N_PREFETCH 16

/* Keeps a list in order of serial: joiners are mostly the youngest. */
static void insert_in_order(struct sch_link *head, struct sch_seq *q)
{
    struct sch_link *at = head;
    while (at->prev != head && sch_seq_of_link(at->prev)->ticket.serial > q->ticket.serial) {
        at = at->prev;
    }
    sch_list_insert_before(at, &q->link);
}

void sch_queue_enter(struct sch *s, struct sch_seq *q)
{
    struct err e;
    q->phase = SCH_WAITING;
    q->ticket.serial = s->next_serial++;
    s->n_waiting++;
    if (sch_fairness_join(&s->fairness, &q->ticket, q->tenant, &e)) {
        sch_queue_end(s, q, SCH_FINISH_ERROR, &e);
        return;
    }
    if (q->deadline_us && q->deadline_us < s->waiting_deadline_us) {
        s->waiting_deadline_us = q->deadline_us;
    }
    if (s->n_waiting <= N_PREFETCH) {
        (void)sch_cache_look(s, q);
    }
    if (atomic_load_explicit(&q->st->cancelled, memory_order_relaxed)) {
        /* The flag may have been looked at while q was still in the inbox. */
        atomic_store_explicit(&s->cancel_seen, true, memory_order_relaxed);
    }
}

void sch_queue_publish(struct sch *s)
{
    struct sch_stats *n = &s->board.now;
    n->n_running = s->n_running;
    n->n_queued = s->n_parked; /* those never run are added by the reader */
    n->last_step_end_us = sch_now(s);
    sch_stats_publish(&s->board);
}

/* Takes q out of where its phase has it. */
static void leave_phase(struct sch *s, struct sch_seq *q)
{
    switch (q->phase) {
    case SCH_WAITING:
        sch_fairness_take(&q->ticket);
        s->n_waiting--;
        (void)atomic_fetch_sub_explicit(&s->n_queued, 1, memory_order_relaxed);
        break;
    case SCH_RUNNING:
        sch_list_remove(&q->link);
        s->n_running--;
        break;
    case SCH_PARKED:
        sch_list_remove(&q->link);
        s->n_parked--;
        break;
    }
}

void sch_queue_end(struct sch *s, struct sch_seq *q, enum sch_finish finish,
                   const struct err *error)
{
    struct sch_stats *n = &s->board.now;
    uint64_t now_us = sch_now(s);
    leave_phase(s, q);
    sch_cache_close(s, q);
    if (q->ticket.tenant) {
        sch_fairness_leave(&s->fairness, &q->ticket);
    }
    struct sch_event end = sch_seq_end_event(q, finish, error);
    uint64_t submit_us = q->ticket.submit_us;
    end.queue_us = (q->admit_us ? q->admit_us : now_us) - submit_us;
    end.ttft_us = q->first_us ? q->first_us - submit_us : 0;
    end.total_us = now_us - submit_us;
    n->n_finished[finish]++;
    sch_hist_add(&n->e2e, end.total_us);
    sch_queue_publish(s); /* who has read the END finds it counted */
    sch_stream_end(q->st, &end);
    sch_seq_destroy(q);
}

/* Gives q's memory back. It goes on later, from its prompt and its answer so far: what the cache
 * still has of them then, the rest computed again. */
static void park(struct sch *s, struct sch_seq *q)
{
    assert(q->phase == SCH_RUNNING);
    leave_phase(s, q);
    sch_cache_close(s, q);
    q->n_computed = 0;
    q->is_large = false;
    q->phase = SCH_PARKED;
    insert_in_order(&s->parked, q);
    s->n_parked++;
    s->board.now.n_preempted++;
}

static bool end_if_unwanted(struct sch *s, struct sch_seq *q, uint64_t now_us)
{
    if (atomic_load_explicit(&q->st->cancelled, memory_order_relaxed)) {
        sch_queue_end(s, q, SCH_FINISH_CANCELLED, NULL);
        return true;
    }
    if (q->deadline_us && q->deadline_us <= now_us) {
        struct err e;
        (void)err_set(&e, ERR_TIMEOUT, "the request's deadline passed after %u tokens", q->n_gen);
        sch_queue_end(s, q, SCH_FINISH_ERROR, &e);
        return true;
    }
    if (q->phase == SCH_WAITING) {
        return false;
    }
    q->room = sch_stream_room(q->st);
    if (q->room) {
        q->full_us = 0;
    } else if (!q->full_us) {
        q->full_us = now_us;
    } else if (s->o.reader_stall_us && now_us - q->full_us >= s->o.reader_stall_us) {
        sch_queue_end(s, q, SCH_FINISH_CANCELLED, NULL);
        return true;
    }
    return false;
}

static uint32_t sweep_list(struct sch *s, struct sch_link *head, uint64_t now_us)
{
    uint32_t n_ended = 0;
    struct sch_link *next;
    for (struct sch_link *l = head->next; l != head; l = next) {
        next = l->next;
        n_ended += end_if_unwanted(s, sch_seq_of_link(l), now_us);
    }
    return n_ended;
}

static uint32_t sweep_waiting(struct sch *s, uint64_t now_us)
{
    uint32_t n_ended = 0;
    s->waiting_deadline_us = UINT64_MAX;
    struct sch_link *tenants = &s->fairness.tenants;
    for (struct sch_link *t = tenants->next; t != tenants; t = t->next) {
        struct sch_link *head = &SCH_OWNER_OF(t, struct sch_tenant, link)->waiting;
        struct sch_link *next;
        for (struct sch_link *l = head->next; l != head; l = next) {
            next = l->next;
            struct sch_seq *q = sch_seq_of_ticket(SCH_OWNER_OF(l, struct sch_ticket, link));
            uint64_t deadline_us = q->deadline_us;
            if (end_if_unwanted(s, q, now_us)) {
                n_ended++;
            } else if (deadline_us && deadline_us < s->waiting_deadline_us) {
                s->waiting_deadline_us = deadline_us;
            }
        }
    }
    return n_ended;
}

uint32_t sch_queue_sweep(struct sch *s, uint64_t now_us)
{
    uint32_t n_ended = 0;
    /* The queue may be long, so it is looked through only when something must be found there. */
    if (atomic_exchange_explicit(&s->cancel_seen, false, memory_order_acquire) ||
        now_us >= s->waiting_deadline_us) {
        n_ended += sweep_waiting(s, now_us);
    }
    n_ended += sweep_list(s, &s->parked, now_us);
    n_ended += sweep_list(s, &s->running, now_us);
    return n_ended;
}

/* The parked go first, but for those whose reader has no room; then whoever's turn it is. */
static struct sch_seq *next_to_admit(struct sch *s, uint64_t now_us)
{
    for (struct sch_link *l = s->parked.next; l != &s->parked; l = l->next) {
        if (sch_seq_of_link(l)->room) {
            return sch_seq_of_link(l);
        }
    }
    uint64_t wait_max_us = s->o.wait_max_us ? s->o.wait_max_us : WAIT_MAX_DEFAULT_US;
    uint64_t since_us = now_us > wait_max_us ? now_us - wait_max_us : 0;
    struct sch_ticket *t = sch_fairness_next(&s->fairness, since_us);
    return t ? sch_seq_of_ticket(t) : NULL;
}

static uint64_t n_chunk_of(const struct kv_stats *kv, uint32_t n_tok)
{
    return ((uint64_t)n_tok + kv->chunk_tok - 1) / kv->chunk_tok;
}

/* Whether frames are in I/O, to come free by themselves, and q may wait for them still. */
static bool waits_for_io(struct sch *s, struct sch_seq *q, uint64_t limit_us)
{
    struct kv_stats kv;
    uint64_t now_us = sch_now(s);
    kv_get_stats(s->o.kv, &kv);
    if (!kv.n_frame_loading && !kv.n_frame_writing) {
        return false;
    }
    q->no_kv_us = q->no_kv_us ? q->no_kv_us : now_us;
    return now_us - q->no_kv_us < limit_us;
}

/* Whether n_chunk more chunks leave one for each that runs to grow into, and for those that wait
 * what they will need. */
static bool has_room(struct sch *s, uint64_t n_chunk)
{
    struct kv_stats kv;
    kv_get_stats(s->o.kv, &kv);
    uint64_t n_kept = s->n_running + sch_cache_n_promised(s);
    uint64_t n_cached = kv.n_frame_cached;
    n_cached -= n_cached < kv.n_frame_pinned ? n_cached : kv.n_frame_pinned;
    return !s->n_running || kv.n_frame_free + n_cached >= n_chunk + n_kept;
}

static enum err_code take_state(struct sch *s, struct sch_seq *q, struct err *e)
{
    size_t state_bytes = s->o.eng->info.state_bytes;
    if (state_bytes && !q->state) {
        q->state = aligned_alloc(STATE_ALIGN, units_align(state_bytes, STATE_ALIGN));
        if (!q->state) {
            return err_set(e, ERR_FULL, "no memory now for %zu bytes of recurrent state",
                           state_bytes);
        }
    }
    return ERR_OK;
}

/* Memory for every token known; who follows gets it later. What the cache has counts as there,
 * until that turned out too little. ERR_FULL: not now. */
static enum err_code take_memory(struct sch *s, struct sch_seq *q, struct err *e)
{
    struct kv_stats kv;
    uint32_t n_tok = sch_seq_n_tok(q);
    kv_get_stats(s->o.kv, &kv);
    uint64_t n_chunk = n_chunk_of(&kv, n_tok);
    uint32_t n_tok_there = has_room(s, n_chunk) || q->is_large ? 0 : sch_cache_look(s, q);
    if (!has_room(s, n_chunk - n_tok_there / kv.chunk_tok)) {
        return err_set(e, ERR_FULL, "%u tokens find no KV memory now", n_tok);
    }
    enum err_code code = take_state(s, q, e);
    if (!code) {
        code = sch_cache_open(s, q, e);
    }
    if (code) {
        return code;
    }
    uint32_t n_tok_mapped = q->follows ? q->match.n_tok_pending : kv_seq_n_tok_mapped(q->kv);
    if (!has_room(s, n_chunk - n_chunk_of(&kv, n_tok_mapped))) {
        code = err_set(e, ERR_FULL, "%u tokens find no KV memory now", n_tok);
    } else if (!q->follows) {
        code = kv_seq_grow(q->kv, n_tok, e);
    }
    if (code) {
        q->is_large = true;
        sch_cache_close(s, q);
    }
    return code;
}

static void start_running(struct sch *s, struct sch_seq *q, uint64_t now_us)
{
    struct sch_stats *n = &s->board.now;
    leave_phase(s, q);
    q->phase = SCH_RUNNING;
    insert_in_order(&s->running, q);
    s->n_running++;
    q->no_kv_us = 0;
    if (!q->admit_us) {
        q->admit_us = now_us;
        q->room = sch_stream_room(q->st);
        n->n_prompt_tok += q->n_prompt;
        sch_hist_add(&n->queue, now_us - q->ticket.submit_us);
    }
}

/* Of those whose reader has not read for PARK_US, the one that stands still longest. */
static struct sch_seq *find_idle(struct sch *s, uint64_t now_us)
{
    struct sch_seq *idle = NULL;
    for (struct sch_link *l = s->running.next; l != &s->running; l = l->next) {
        struct sch_seq *q = sch_seq_of_link(l);
        if (q->full_us && now_us - q->full_us >= PARK_US && (!idle || q->full_us < idle->full_us)) {
            idle = q;
        }
    }
    return idle;
}

uint32_t sch_queue_admit(struct sch *s, uint64_t now_us)
{
    uint32_t n_moved = 0;
    for (;;) {
        struct sch_seq *q = next_to_admit(s, now_us);
        if (!q) {
            return n_moved;
        }
        struct err e;
        enum err_code code = ERR_FULL;
        if (s->n_running < s->o.n_running_max) {
            code = take_memory(s, q, &e);
        }
        if (!code) {
            start_running(s, q, now_us);
        } else if (code == ERR_FULL && s->n_running) {
            struct sch_seq *idle = find_idle(s, now_us);
            if (!idle) {
                return n_moved;
            }
            park(s, idle);
        } else if (code == ERR_FULL && waits_for_io(s, q, IO_WAIT_ALONE_US)) {
            return n_moved;
        } else if (code == ERR_FULL && kv_pins_give_way(s->o.kv)) {
            n_moved++;
            continue;
        } else if (code == ERR_FULL && q->shares) {
            q->shares = false; /* what it shares may stand in its own way */
        } else {               /* alone, and still no memory: waiting would not help */
            sch_queue_end(s, q, SCH_FINISH_ERROR, &e);
        }
        n_moved++;
    }
}

/* Who gives memory to `q`: a sequence whose reader has no room, else the youngest of all, which may
 * be q itself. So the oldest that can run never gives any, and some request always ends. */
static struct sch_seq *find_victim(struct sch *s)
{
    for (struct sch_link *l = s->running.prev; l != &s->running; l = l->prev) {
        if (!sch_seq_of_link(l)->room) {
            return sch_seq_of_link(l);
        }
    }
    return sch_seq_of_link(s->running.prev);
}

struct sch_link *sch_queue_after(struct sch *s, uint64_t serial)
{
    struct sch_link *l = s->running.next;
    while (l != &s->running && sch_seq_of_link(l)->ticket.serial <= serial) {
        l = l->next;
    }
    return l;
}

bool sch_queue_grow(struct sch *s, struct sch_seq *q)
{
    if (kv_seq_n_tok_mapped(q->kv) >= sch_seq_n_tok(q)) {
        return true;
    }
    for (;;) {
        struct err e;
        bool alone = s->n_running == 1;
        enum err_code code = kv_seq_grow(q->kv, sch_seq_n_tok(q), &e);
        if (!code) {
            q->no_kv_us = 0;
            return true;
        }
        if (code == ERR_FULL && waits_for_io(s, q, alone ? IO_WAIT_ALONE_US : IO_WAIT_US)) {
            return false;
        }
        if (code == ERR_FULL && alone && kv_pins_give_way(s->o.kv)) {
            continue;
        }
        if (code != ERR_FULL || (alone && !q->shares)) {
            sch_queue_end(s, q, SCH_FINISH_ERROR, &e);
            return false;
        }
        q->shares = q->shares && !alone; /* what it shares may stand in its own way */
        struct sch_seq *victim = find_victim(s);
        park(s, victim);
        if (victim == q) {
            return false;
        }
    }
}

void sch_queue_cancel_all(struct sch *s)
{
    while (!sch_list_empty(&s->running)) {
        sch_queue_end(s, sch_seq_of_link(s->running.next), SCH_FINISH_CANCELLED, NULL);
    }
    while (!sch_list_empty(&s->parked)) {
        sch_queue_end(s, sch_seq_of_link(s->parked.next), SCH_FINISH_CANCELLED, NULL);
    }
    struct sch_ticket *t;
    while ((t = sch_fairness_next(&s->fairness, 0))) {
        sch_queue_end(s, sch_seq_of_ticket(t), SCH_FINISH_CANCELLED, NULL);
    }
}
