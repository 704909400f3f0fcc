#include "scheduler/scheduler.h"

#include "base/log.h"
#include "scheduler/cache.h"

#include <assert.h>
#include <stdlib.h>

/* How long the thread sleeps at most: with requests that wait for a reader or a deadline, and with
 * none, for the heartbeat. */
#define NAP_BUSY_US 20000
#define NAP_IDLE_US 500000

static enum err_code check_options(const struct sch_options *o, struct err *e)
{
    if (!o->eng || !o->kv || !o->n_queued_max || !o->n_running_max || !o->n_event_max) {
        return err_set(e, ERR_INVALID,
                       "the scheduler needs an engine, a KV store, and room for at least one "
                       "queued and one running request and one event");
    }
    struct kv_stats kv;
    kv_get_stats(o->kv, &kv);
    const struct eng_info *info = &o->eng->info;
    if (kv.chunk_tok != info->chunk_tok || kv.chunk_bytes != info->chunk_bytes) {
        return err_set(e, ERR_INVALID,
                       "the KV store has chunks of %u tokens, %zu bytes; the engine of %u, %zu",
                       kv.chunk_tok, kv.chunk_bytes, info->chunk_tok, info->chunk_bytes);
    }
    return ERR_OK;
}

bool sch_can_share(const struct eng *eng)
{
    return !eng->info.state_bytes && !eng->info.encoder;
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Cuts the options to what engine and store can do. */
static void fit_options(struct sch *s)
{
    const struct eng_info *info = &s->o.eng->info;
    struct kv_stats kv;
    kv_get_stats(s->o.kv, &kv);
    uint32_t n_step = s->o.n_step_tok_max ? s->o.n_step_tok_max : info->n_step_tok_max;
    s->o.n_step_tok_max = min_u32(n_step, info->n_step_tok_max);
    /* So that all that decode fit one step, each with a row of logits. */
    s->o.n_running_max = min_u32(s->o.n_running_max, s->o.n_step_tok_max);
    s->o.n_running_max = min_u32(s->o.n_running_max, info->n_step_out_max);
    uint64_t n_kv_tok = kv.n_frame_total * kv.chunk_tok;
    s->limits.eng = s->o.eng;
    s->limits.shares = s->o.prefix_cache && sch_can_share(s->o.eng);
    s->limits.n_tok_max = n_kv_tok < info->n_ctx ? (uint32_t)n_kv_tok : info->n_ctx;
    if (info->encoder) { /* a text is one slice */
        s->limits.n_tok_max = min_u32(s->limits.n_tok_max, s->o.n_step_tok_max);
    }
}

static enum err_code find_eog(struct sch *s, struct err *e)
{
    struct eng_ids ids = {0};
    enum err_code code = ERR_OK;
    for (uint32_t id = 0; !code && id < s->o.eng->info.n_vocab; id++) {
        if (eng_is_eog(s->o.eng, (int32_t)id)) {
            code = eng_ids_push(&ids, (int32_t)id, e);
        }
    }
    s->eog = ids.ids;
    s->limits.eog = ids.ids;
    s->limits.n_eog = (uint32_t)ids.n;
    return code;
}

static enum err_code make_scratch(struct sch *s, struct err *e)
{
    const struct eng_info *info = &s->o.eng->info;
    s->n_worker = s->o.eng->impl->parallel ? info->n_thread : 1;
    s->scratch = calloc(s->n_worker, sizeof(struct sample_scratch *));
    s->picks = calloc(info->n_step_out_max, sizeof *s->picks);
    if (!s->scratch || !s->picks) {
        return err_set(e, ERR_NOMEM, "out of memory to sample %u rows", info->n_step_out_max);
    }
    enum err_code code = ERR_OK;
    for (uint32_t i = 0; !code && i < s->n_worker; i++) {
        code = sample_scratch_create(info->n_vocab, &s->scratch[i], e);
    }
    return code;
}

static void destroy(struct sch *s)
{
    sch_fairness_finish(&s->fairness);
    sch_stats_finish(&s->board);
    for (uint32_t i = 0; s->scratch && i < s->n_worker; i++) {
        sample_scratch_destroy(s->scratch[i]);
    }
    free(s->scratch);
    free(s->picks);
    mpsc_destroy(s->inbox);
    free(s->slices);
    free(s->stepping);
    free(s->prefills);
    free(s->prefill_of);
    free(s->eog);
    free(s);
}

enum err_code sch_create(const struct sch_options *options, struct sch **ret_s, struct err *e)
{
    enum err_code code = check_options(options, e);
    if (code) {
        return code;
    }
    struct sch *s = calloc(1, sizeof *s);
    if (!s) {
        return err_set(e, ERR_NOMEM, "out of memory for the scheduler");
    }
    s->o = *options;
    s->waiting_deadline_us = UINT64_MAX;
    sch_list_init(&s->running);
    sch_list_init(&s->parked);
    sch_fairness_init(&s->fairness);
    sch_stats_init(&s->board);
    fit_options(s);
    code = find_eog(s, e);
    if (!code) {
        code = make_scratch(s, e);
    }
    if (!code) {
        code = mpsc_create(s->o.n_queued_max, &s->inbox, e);
    }
    if (code) {
        destroy(s);
        return code;
    }
    uint32_t n = s->o.n_running_max;
    s->slices = calloc(n, sizeof *s->slices);
    s->stepping = calloc(n, sizeof(struct sch_seq *));
    s->prefills = calloc(n, sizeof *s->prefills);
    s->prefill_of = calloc(n, sizeof(struct sch_seq *));
    if (!s->slices || !s->stepping || !s->prefills || !s->prefill_of) {
        destroy(s);
        return err_set(e, ERR_NOMEM, "out of memory for a step of %u sequences", n);
    }
    *ret_s = s;
    return ERR_OK;
}

void sch_destroy(struct sch *s)
{
    if (s) {
        assert(!s->has_thread && !s->n_running && !s->n_parked && !s->n_waiting);
        destroy(s);
    }
}

void sch_kick(struct sch *s)
{
    mpsc_kick(s->inbox);
}

void sch_kick_cancel(struct sch *s)
{
    atomic_store_explicit(&s->cancel_seen, true, memory_order_release);
    mpsc_kick(s->inbox);
}

static bool reserve_place(struct sch *s)
{
    unsigned n = atomic_load_explicit(&s->n_queued, memory_order_relaxed);
    while (n < s->o.n_queued_max) {
        if (atomic_compare_exchange_weak_explicit(&s->n_queued, &n, n + 1, memory_order_relaxed,
                                                  memory_order_relaxed)) {
            return true;
        }
    }
    return false;
}

enum err_code sch_submit(struct sch *s, const struct sch_request *r, struct sch_stream **ret_st,
                         struct err *e)
{
    struct sch_stream *st = NULL;
    struct sch_seq *q = NULL;
    bool placed = false;
    enum err_code code = ERR_OK;
    if (atomic_load_explicit(&s->draining, memory_order_relaxed)) {
        code = err_set(e, ERR_FULL, "the server is going down and takes no new requests");
        goto out;
    }
    placed = reserve_place(s);
    if (!placed) {
        code = err_set(e, ERR_FULL, "the queue is full: %u requests wait", s->o.n_queued_max);
        goto out;
    }
    code = sch_stream_create(s, r, s->o.n_event_max, &st, e);
    if (!code) {
        code = sch_seq_create(&s->limits, r, st, &q, e);
    }
    if (code) {
        goto out;
    }
    q->ticket.submit_us = sch_now(s);
    struct sch_stream *before = *ret_st;
    *ret_st = st; /* before the push: the first wake may come at once */
    if (!mpsc_push(s->inbox, q)) {
        *ret_st = before;
        code = err_set(e, ERR_FULL, "the server is going down and takes no new requests");
        goto out;
    }
    (void)atomic_fetch_add_explicit(&s->n_submitted, 1, memory_order_relaxed);
    return ERR_OK;
out:
    if (placed) {
        (void)atomic_fetch_sub_explicit(&s->n_queued, 1, memory_order_relaxed);
    }
    (void)atomic_fetch_add_explicit(&s->n_rejected, 1, memory_order_relaxed);
    sch_seq_destroy(q);
    sch_stream_discard(st);
    return code;
}

bool sch_step(struct sch *s)
{
    uint32_t n_moved = 0;
    struct sch_seq *q;
    sch_cache_poll(s);
    while ((q = mpsc_pop(s->inbox, 0))) {
        sch_queue_enter(s, q);
        n_moved++;
    }
    uint64_t now_us = sch_now(s);
    if (atomic_load_explicit(&s->draining, memory_order_acquire) &&
        now_us >= atomic_load_explicit(&s->drain_until_us, memory_order_relaxed)) {
        n_moved += s->n_running + s->n_parked + s->n_waiting;
        sch_queue_cancel_all(s);
    }
    n_moved += sch_queue_sweep(s, now_us);
    n_moved += sch_queue_admit(s, now_us);
    bool ran = sch_step_run(s);
    if (s->o.check_kv) {
        struct err e;
        enum err_code broken = kv_check(s->o.kv, &e);
        if (broken) {
            log_error("KV store: %s", e.msg);
        }
        assert(!broken);
    }
    sch_queue_publish(s);
    return ran || n_moved;
}

static bool is_idle(struct sch *s)
{
    return !s->n_running && !s->n_parked && !s->n_waiting &&
           !atomic_load_explicit(&s->n_queued, memory_order_relaxed);
}

/* Nothing more comes in; what came in at the last moment is cancelled. */
static void close_inbox(struct sch *s)
{
    mpsc_close(s->inbox);
    struct sch_seq *q;
    while ((q = mpsc_pop(s->inbox, 0))) {
        sch_queue_enter(s, q);
    }
    sch_queue_cancel_all(s);
    sch_queue_publish(s);
    if (!kv_flush(s->o.kv, s->o.kv_flush_us)) {
        log_warn("not all KV could be written to disk; it will be computed again");
    }
}

static void *run_thread(void *arg)
{
    struct sch *s = arg;
    while (!atomic_load_explicit(&s->draining, memory_order_acquire) || !is_idle(s)) {
        if (sch_step(s)) {
            continue;
        }
        uint64_t nap_us = sch_cache_nap_us(s, is_idle(s) ? NAP_IDLE_US : NAP_BUSY_US);
        struct sch_seq *q = mpsc_pop(s->inbox, nap_us);
        if (q) {
            sch_queue_enter(s, q);
        }
    }
    close_inbox(s);
    return NULL;
}

enum err_code sch_start(struct sch *s, struct err *e)
{
    assert(!s->has_thread);
    int rc = pthread_create(&s->thread, NULL, run_thread, s);
    if (rc) {
        return err_errno(e, ERR_NOMEM, rc, "the scheduler's thread could not start");
    }
    (void)pthread_setname_np(s->thread, "kv-sched");
    s->has_thread = true;
    return ERR_OK;
}

void sch_stop(struct sch *s, uint64_t grace_us)
{
    atomic_store_explicit(&s->drain_until_us, sch_now(s) + grace_us, memory_order_relaxed);
    atomic_store_explicit(&s->draining, true, memory_order_release);
    if (s->has_thread) {
        sch_kick(s);
        (void)pthread_join(s->thread, NULL);
        s->has_thread = false;
        return;
    }
    while (sch_step(s)) {
    }
    close_inbox(s);
}

void sch_get_stats(struct sch *s, struct sch_stats *ret_stats)
{
    sch_stats_read(&s->board, ret_stats);
    ret_stats->n_queued += atomic_load_explicit(&s->n_queued, memory_order_relaxed);
    ret_stats->n_submitted = atomic_load_explicit(&s->n_submitted, memory_order_relaxed);
    ret_stats->n_rejected = atomic_load_explicit(&s->n_rejected, memory_order_relaxed);
    kv_get_stats(s->o.kv, &ret_stats->kv);
}
