/* A seeded simulation of scheduler, KV store and readers on the fake engine and a clock of its own:
 * one thread, so a seed replays to the event. Worlds of a few hundred requests differ in every
 * option: tiny memory, few mappings, small rings, failing steps, tight queues, with the prefix
 * cache or without, some with a disk below it that works or errs and a restart half-way. Requests
 * differ in length, sampling, stops and deadlines, and share beginnings; readers are quick, slow,
 * stalled, or leave.
 *
 * What must hold in every world:
 *   each request ends exactly once, and everything that was accepted ends
 *   an answer is the oracle's, a cut one a beginning of it
 *   the KV store's invariants hold after every step, and no frame is in use at the end
 *   nobody overtakes a request that has waited longer than the limit
 *   nothing stands still: whatever is left goes on when time passes
 *
 * Usage: sim [--seed N|random] [--requests N] [--world N] [--verbose] */
#include "base/clock.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "scheduler/scheduler.h"
#include "tests/fake/fake_engine.h"
#include "tests/fake/fake_oracle.h"
#include "tests/unit/kvstore/io_shim.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_REQUEST_DEFAULT 100000
#define N_WORLD_REQUEST   400
#define N_PROMPT_MAX      60
#define N_LIVE_MAX        200
#define N_TICK_MAX        2000000
#define N_REPLAYED        5 /* worlds run twice */
#define N_STILL_MAX       10000
#define N_DOC             4  /* beginnings that prompts of a world share */
#define DISK_NAP_US       50 /* real time, in which the disk gets on */

enum manner { QUICK, SLOW, STALLED, CANCELS, RELEASES, N_MANNER };

struct client {
    struct sch_stream *st;
    struct sch_request req;
    int32_t tokens[N_PROMPT_MAX];
    const char *stops[3];
    int32_t stop_id;
    struct sample_bias bias;
    enum manner manner;
    uint32_t n_event_until; /* events read before it cancels, releases or stalls */
    struct fake_answer want;
    uint32_t n_gen;
    uint32_t n_of_prompt;
    uint64_t submit_us;
    struct buf text;
    bool cancelled;
};

/* When a request stopped waiting, for the check that nobody is overtaken too long. */
struct wait_span {
    uint64_t submit_us;
    uint64_t until_us;
    bool ran;
};

struct world {
    uint64_t id;  /* for messages */
    uint64_t rng; /* state */
    uint64_t now_us;
    uint64_t step_us, row_us;
    struct eng *g;
    struct kv_store *kv;
    struct sch *s;
    struct sch_options o;
    struct kv_options k;
    struct shim shim;
    struct kv_io_hook hook;
    char dir[64]; /* empty: no disk */
    bool restarts;
    int32_t docs[N_DOC][N_PROMPT_MAX];
    uint32_t n_tok_max;
    uint32_t arrival_permille;
    struct client *live[N_LIVE_MAX];
    uint32_t n_live;
    struct wait_span spans[N_WORLD_REQUEST];
    uint32_t n_span;
    uint64_t trace; /* hash of everything the readers saw */
    bool stops_early;
};

struct totals {
    uint64_t n_request, n_refused, n_token, n_step, n_preempted, n_by_finish[5];
    uint64_t n_prompt, n_cached, n_cached_disk, n_recomputed, n_restart;
};

static uint64_t base_seed;

static void broken(const struct world *w, const char *what)
{
    (void)fprintf(stderr, "sim: %s\nreplay: sim --seed %llu --world %llu --verbose\n", what,
                  (unsigned long long)base_seed, (unsigned long long)w->id);
    abort();
}

static uint64_t draw(struct world *w, uint64_t n)
{
    return rng_next(&w->rng) % n;
}

static bool chance(struct world *w, uint32_t permille)
{
    return draw(w, 1000) < permille;
}

static uint64_t world_now(void *arg)
{
    return ((struct world *)arg)->now_us;
}

static void on_step(void *arg, const struct eng_slice *slices, uint32_t n_slice)
{
    struct world *w = arg;
    w->now_us += w->step_us;
    for (uint32_t i = 0; i < n_slice; i++) {
        w->now_us += slices[i].n_tok * w->row_us;
    }
}

static int32_t draw_token(struct world *w)
{
    return FAKE_BYTE_FIRST + (int32_t)draw(w, w->g->info.n_vocab - FAKE_BYTE_FIRST);
}

/* A disk beside which time is real, so that its worlds do not replay. */
static void choose_disk(struct world *w)
{
    static const enum shim_fault faults[] = {SHIM_NONE,  SHIM_NONE,       SHIM_EIO,
                                             SHIM_SHORT, SHIM_FLIP,       SHIM_LATENCY,
                                             SHIM_TORN,  SHIM_NO_PAYLOAD, SHIM_EAGAIN};
    struct err e;
    (void)snprintf(w->dir, sizeof w->dir, "/tmp/kvasir-sim-XXXXXX");
    if (!mkdtemp(w->dir)) {
        broken(w, "no temporary directory");
    }
    w->shim = (struct shim){.rng = rng_next(&w->rng)};
    w->shim.fault = faults[draw(w, sizeof faults / sizeof *faults)];
    w->shim.every = 2 + (uint32_t)draw(w, 20);
    w->shim.torn_bytes = 512 * (uint32_t)draw(w, 9);
    w->hook = (struct kv_io_hook){.wrap = shim_wrap, .arg = &w->shim};
    w->k.disk =
        (struct kv_disk_options){.dir = w->dir,
                                 .cap_bytes = (32 + draw(w, 1000)) << 10,
                                 .backend = chance(w, 500) ? KV_BACKEND_PREAD : KV_BACKEND_AUTO,
                                 .io_timeout_us = 200000,
                                 .tail_idle_us = 1 + draw(w, 20000),
                                 .hook = &w->hook};
    if (sch_kv_fingerprint(w->g, w->k.disk.fingerprint, &e)) {
        broken(w, e.msg);
    }
    w->restarts = chance(w, 700);
}

static void open_store(struct world *w)
{
    struct err e;
    if (kv_store_create(&w->k, &w->kv, &e)) {
        broken(w, e.msg);
    }
    w->o.kv = w->kv;
    if (sch_create(&w->o, &w->s, &e)) {
        broken(w, e.msg);
    }
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

static void open_world(struct world *w, uint64_t id)
{
    struct err e;
    *w = (struct world){.id = id, .rng = rng_mix(base_seed, id), .now_us = 1000000};
    struct fake_options f = {.seed = rng_next(&w->rng),
                             .n_ctx = 40 + (uint32_t)draw(w, 120),
                             .chunk_tok = 4U << draw(w, 4),
                             .eog_permille = 1 + (uint32_t)draw(w, 60),
                             .n_step_tok_max = 64 + (uint32_t)draw(w, 100),
                             .fail_permille = chance(w, 200) ? 5 : 0,
                             .on_step = on_step,
                             .on_step_arg = w};
    f.kv_bytes_per_tok = 4096 / f.chunk_tok;
    if (fake_engine_create(&f, &w->g, &e)) {
        broken(w, e.msg);
    }
    uint32_t n_frame = 1 + (uint32_t)draw(w, chance(w, 500) ? 12 : 200);
    w->k = (struct kv_options){.ram_bytes = n_frame * (uint64_t)w->g->info.chunk_bytes,
                               .chunk_tok = f.chunk_tok,
                               .chunk_bytes = w->g->info.chunk_bytes,
                               .n_seq_tok_max = f.n_ctx,
                               .n_vma_max = chance(w, 100) ? 128 : 0};
    w->step_us = draw(w, 3000);
    w->row_us = 1 + draw(w, 200);
    w->o = (struct sch_options){.eng = w->g,
                                .n_queued_max = 1 + (uint32_t)draw(w, 60),
                                .n_running_max = 1 + (uint32_t)draw(w, 40),
                                .n_step_tok_max = chance(w, 300) ? 1 + (uint32_t)draw(w, 60) : 0,
                                .itl_target_us = (uint32_t)draw(w, 20000),
                                .n_event_max = 1 + (uint32_t)draw(w, chance(w, 500) ? 8 : 200),
                                .reader_stall_us = chance(w, 700) ? 1 + draw(w, 5000000) : 0,
                                .wait_max_us = 1 + draw(w, 3000000),
                                .prefix_cache = chance(w, 750),
                                .kv_flush_us = 1000000,
                                .check_kv = true,
                                .now_us = world_now,
                                .now_arg = w};
    for (uint32_t i = 0; i < N_DOC * N_PROMPT_MAX; i++) {
        w->docs[i / N_PROMPT_MAX][i % N_PROMPT_MAX] = draw_token(w);
    }
    if (w->o.prefix_cache && id >= N_REPLAYED && chance(w, 250)) {
        choose_disk(w);
    }
    open_store(w);
    uint32_t n_kv_tok = n_frame * f.chunk_tok;
    w->n_tok_max = n_kv_tok < f.n_ctx ? n_kv_tok : f.n_ctx;
    w->arrival_permille = 20 + (uint32_t)draw(w, 980);
    w->stops_early = chance(w, 100);
}

static void choose_sampling(struct world *w, struct client *c)
{
    struct sample_params *p = &c->req.sample;
    *p = (struct sample_params){.top_p = 1, .repetition_penalty = 1};
    if (chance(w, 400)) {
        p->temperature = 0.2F + (float)draw(w, 100) / 100;
        p->seed = rng_next(&w->rng);
        p->top_p = chance(w, 300) ? 0.9F : 1;
        p->top_k = chance(w, 300) ? 1 + (uint32_t)draw(w, 50) : 0;
        p->min_p = chance(w, 200) ? 0.05F : 0;
    }
    p->frequency_penalty = chance(w, 100) ? 0.7F : 0;
    p->repetition_penalty = chance(w, 100) ? 1.2F : 1;
    p->want_logprob = chance(w, 100);
    p->n_top_logprob = chance(w, 50) ? 3 : 0;
    if (chance(w, 100)) {
        c->bias = (struct sample_bias){(int32_t)draw(w, w->g->info.n_vocab), 20};
        p->bias = &c->bias;
        p->n_bias = 1;
    }
}

static struct client *make_client(struct world *w)
{
    static const char *const stops[] = {"STOP", " of", "\xe6\x97\xa5", "e\xcc", "w3", "\n", "OPST"};
    static const char *const tenants[] = {"", "a", "b", "c"};
    struct client *c = calloc(1, sizeof *c);
    if (!c) {
        broken(w, "out of memory");
    }
    uint32_t n_max = w->n_tok_max - 1 < N_PROMPT_MAX ? w->n_tok_max - 1 : N_PROMPT_MAX;
    n_max = n_max && chance(w, 500) ? 1 + n_max / 4 : n_max;
    struct sch_request *r = &c->req;
    r->n_tok = 1 + (uint32_t)draw(w, n_max ? n_max : 1);
    r->n_tok = r->n_tok > n_max ? n_max : r->n_tok;
    r->tokens = c->tokens;
    const int32_t *doc = w->docs[draw(w, N_DOC)];
    uint32_t n_shared = (uint32_t)draw(w, N_PROMPT_MAX + 1) * chance(w, 700);
    for (uint32_t i = 0; i < r->n_tok; i++) {
        c->tokens[i] = i < n_shared ? doc[i] : draw_token(w);
    }
    r->n_gen_max = chance(w, 30) ? 0 : 1 + (uint32_t)draw(w, chance(w, 200) ? 120 : 20);
    r->n_gen_min = chance(w, 100) ? (uint32_t)draw(w, 15) : 0;
    r->ignore_eos = chance(w, 200);
    r->show_special = chance(w, 100);
    r->keep_stop = chance(w, 300);
    r->prompt_logprobs = chance(w, 60);
    r->tenant = tenants[draw(w, 4)];
    r->cache_salt = chance(w, 100) ? tenants[draw(w, 4)] : NULL;
    if (chance(w, 150)) {
        r->retention.keep_s = chance(w, 500) ? 1 + (uint32_t)draw(w, 3600) : 0;
        r->retention.ttl_s = chance(w, 300) ? 1 + (uint32_t)draw(w, 3600) : 0;
        r->retention.ram_only = chance(w, 200);
        r->retention.leaves_nothing = chance(w, 200);
    }
    r->deadline_us = chance(w, 50) ? w->now_us + draw(w, 400000) : 0;
    if (chance(w, 300)) {
        r->n_stop = 1 + (uint32_t)draw(w, 3);
        for (uint32_t i = 0; i < r->n_stop; i++) {
            c->stops[i] = stops[draw(w, sizeof stops / sizeof *stops)];
        }
        r->stop = c->stops;
    }
    if (chance(w, 100)) {
        c->stop_id = (int32_t)draw(w, w->g->info.n_vocab);
        r->stop_ids = &c->stop_id;
        r->n_stop_id = 1;
    }
    choose_sampling(w, c);
    c->manner = chance(w, 600) ? QUICK : (enum manner)draw(w, N_MANNER);
    c->n_event_until = (uint32_t)draw(w, 25);
    return c;
}

static void end_client(struct client *c)
{
    fake_answer_finish(&c->want);
    buf_free(&c->text);
    free(c);
}

static void arrive(struct world *w, struct totals *t)
{
    struct client *c = make_client(w);
    struct err e;
    if (!c->req.n_tok) { /* a world whose memory holds one token takes no prompt with an answer */
        c->req.n_tok = 1;
        c->req.n_gen_max = 0;
    }
    enum err_code code = sch_submit(w->s, &c->req, &c->st, &e);
    if (code) {
        if (code != ERR_FULL) {
            broken(w, e.msg);
        }
        t->n_refused++;
        end_client(c);
        return;
    }
    fake_expect(w->g, &c->req, w->n_tok_max, &c->want);
    t->n_request++;
    c->submit_us = w->now_us;
    w->live[w->n_live++] = c;
}

static void take_token(struct world *w, struct client *c, const struct sch_event *ev)
{
    if (ev->of_prompt) {
        c->n_of_prompt++;
        if (ev->id != c->tokens[c->n_of_prompt] || !ev->logprobs) {
            broken(w, "a wrong token of the prompt");
        }
        return;
    }
    if (c->n_gen >= c->want.n || ev->id != c->want.ids[c->n_gen]) {
        broken(w, "a token that is not the oracle's");
    }
    c->n_gen++;
    if (!utf8_valid(ev->text, ev->n_byte)) {
        broken(w, "text that is not UTF-8");
    }
    buf_append(&c->text, ev->text, ev->n_byte);
    const struct sample_params *p = &c->req.sample;
    if ((p->want_logprob || p->n_top_logprob) != (ev->logprobs != NULL)) {
        broken(w, "log-probabilities unasked for, or missing");
    }
}

static void take_end(struct world *w, struct client *c, const struct sch_event *ev)
{
    const struct fake_answer *a = &c->want;
    bool whole = ev->finish == SCH_FINISH_STOP || ev->finish == SCH_FINISH_LENGTH;
    if (c->text.len > a->text.len || memcmp(buf_str(&c->text), buf_str(&a->text), c->text.len)) {
        broken(w, "text that is not the oracle's");
    }
    if (whole && (ev->finish != a->finish || c->n_gen != a->n || c->text.len != a->text.len ||
                  !ev->stop_matched != !a->stop_matched ||
                  (a->stop_matched && strcmp(ev->stop_matched, a->stop_matched)))) {
        broken(w, "a whole answer that is not the oracle's");
    }
    if (whole && c->req.prompt_logprobs && c->n_of_prompt + 1 != c->req.n_tok) {
        broken(w, "a prompt not scored to its end");
    }
    bool may_cancel = c->cancelled || w->stops_early || w->o.reader_stall_us || w->restarts;
    if (ev->finish == SCH_FINISH_CANCELLED && !may_cancel) {
        broken(w, "cancelled by nobody");
    }
    if ((ev->finish == SCH_FINISH_ERROR) != (ev->error != NULL) ||
        (ev->error && ev->error->code != ERR_INTERNAL && ev->error->code != ERR_TIMEOUT)) {
        broken(w, ev->error ? ev->error->msg : "an error without a reason");
    }
    if (ev->n_gen_tok != c->n_gen && whole) {
        broken(w, "a wrong count of tokens");
    }
    if (ev->n_cached_tok >= c->req.n_tok || ev->n_cached_disk_tok > ev->n_cached_tok ||
        ev->n_cached_tok + ev->n_cache_write_tok > c->req.n_tok ||
        (c->req.prompt_logprobs && ev->n_cached_tok)) {
        broken(w, "a wrong count of cached tokens");
    }
    if (w->n_span < N_WORLD_REQUEST) {
        w->spans[w->n_span++] = (struct wait_span){.submit_us = c->submit_us,
                                                   .until_us = c->submit_us + ev->queue_us,
                                                   .ran = whole || c->n_gen || c->n_of_prompt};
    }
}

static void mix_trace(struct world *w, uint64_t v)
{
    w->trace = rng_mix(w->trace, v ^ w->now_us);
}

/* Reads as the client's manner is. True when it is done with its stream. */
static bool attend(struct world *w, struct client *c, struct totals *t)
{
    bool reads = c->manner != SLOW || chance(w, 150);
    uint32_t n_max = c->manner == SLOW ? 1 + (uint32_t)draw(w, 5) : UINT32_MAX;
    for (uint32_t n = 0; reads && n < n_max; n++) {
        bool at_turn = c->n_gen + c->n_of_prompt >= c->n_event_until;
        if (c->manner == CANCELS && at_turn && !c->cancelled) {
            c->cancelled = true;
            sch_cancel(c->st);
        }
        if (c->manner == RELEASES && at_turn) {
            sch_stream_release(c->st);
            return true;
        }
        if (c->manner == STALLED && at_turn) {
            c->manner = chance(w, 2) ? QUICK : STALLED; /* one day it goes on */
            break;
        }
        struct sch_event ev;
        if (!sch_stream_next(c->st, &ev)) {
            break;
        }
        mix_trace(w, (uint64_t)ev.kind << 40 | (uint32_t)ev.id);
        if (ev.kind == SCH_EVENT_TOKEN) {
            take_token(w, c, &ev);
            t->n_token++;
            continue;
        }
        take_end(w, c, &ev);
        t->n_by_finish[ev.finish]++;
        if (sch_stream_next(c->st, &ev)) {
            broken(w, "an event after the END");
        }
        sch_stream_release(c->st);
        return true;
    }
    return false;
}

/* Nobody who came later ran while one waited beyond the limit. */
static void check_overtaking(const struct world *w)
{
    for (uint32_t i = 0; i < w->n_span; i++) {
        const struct wait_span *waits = &w->spans[i];
        for (uint32_t k = 0; k < w->n_span; k++) {
            const struct wait_span *runs = &w->spans[k];
            if (runs->ran && runs->submit_us > waits->submit_us &&
                runs->until_us < waits->until_us &&
                runs->until_us > waits->submit_us + w->o.wait_max_us) {
                broken(w, "a request was overtaken after the limit of its wait");
            }
        }
    }
}

static void end_live(struct world *w, struct totals *t)
{
    for (uint32_t i = 0; i < w->n_live; i++) {
        struct client *c = w->live[i];
        struct sch_event ev = {0};
        while (sch_stream_next(c->st, &ev)) {
            if (ev.kind == SCH_EVENT_TOKEN) {
                take_token(w, c, &ev);
            } else {
                take_end(w, c, &ev);
                t->n_by_finish[ev.finish]++;
            }
        }
        if (ev.kind != SCH_EVENT_END) {
            broken(w, "a request without an END after the stop");
        }
        sch_stream_release(c->st);
        end_client(c);
    }
    w->n_live = 0;
}

static void close_store(struct world *w, struct totals *t)
{
    sch_stop(w->s, 0);
    end_live(w, t);
    struct sch_stats st;
    sch_get_stats(w->s, &st);
    uint64_t n_finished = 0;
    for (int i = 0; i < 5; i++) {
        n_finished += st.n_finished[i];
    }
    if (n_finished != st.n_submitted || st.n_running || st.n_queued) {
        broken(w, "accepted and ended requests differ in number");
    }
    uint64_t n_io = st.kv.n_frame_loading + st.kv.n_frame_writing;
    if (st.kv.n_frame_active || st.kv.n_seq || (n_io && !w->dir[0]) ||
        st.kv.n_frame_free + st.kv.n_frame_cached + n_io != st.kv.n_frame_total) {
        broken(w, "KV memory that nobody gave back");
    }
    if (fake_engine_counts(w->g).n_bad_read) {
        broken(w, "KV memory that was not what had been written");
    }
    t->n_step += st.n_step;
    t->n_preempted += st.n_preempted;
    t->n_prompt += st.n_prompt_tok;
    t->n_cached += st.n_cached_tok;
    t->n_cached_disk += st.n_cached_disk_tok;
    t->n_recomputed += st.n_recomputed_tok;
    mix_trace(w, st.n_step ^ st.n_preempted << 32);
    sch_destroy(w->s);
    kv_store_destroy(w->kv);
}

static void close_world(struct world *w, struct totals *t)
{
    close_store(w, t);
    check_overtaking(w);
    eng_close(w->g);
    if (w->dir[0] && nftw(w->dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS)) {
        broken(w, "the temporary directory stays");
    }
}

static uint64_t run_world(uint64_t id, struct totals *t, bool verbose)
{
    static struct world w;
    open_world(&w, id);
    uint64_t n_before = t->n_request;
    uint32_t n_still = 0;
    bool restart = w.restarts;
    for (uint32_t tick = 0;; tick++) {
        uint64_t n_sent = t->n_request - n_before;
        while (n_sent < N_WORLD_REQUEST && w.n_live < N_LIVE_MAX &&
               chance(&w, w.arrival_permille)) {
            arrive(&w, t);
            n_sent = t->n_request - n_before;
            if (chance(&w, 300)) {
                break;
            }
        }
        if (restart && n_sent >= N_WORLD_REQUEST / 2) {
            restart = false;
            t->n_restart++;
            close_store(&w, t);
            open_store(&w);
        }
        bool worked = sch_step(w.s);
        for (uint32_t i = 0; i < w.n_live;) {
            if (attend(&w, w.live[i], t)) {
                end_client(w.live[i]);
                w.live[i] = w.live[--w.n_live];
                worked = true;
            } else {
                i++;
            }
        }
        w.now_us += draw(&w, worked ? 300 : w.dir[0] ? 1000 : 50000);
        if (!worked && w.dir[0]) {
            clock_sleep_us(DISK_NAP_US);
        }
        n_still = worked ? 0 : n_still + 1;
        if (n_still > N_STILL_MAX || tick > N_TICK_MAX) {
            broken(&w, "it stands still");
        }
        if ((n_sent == N_WORLD_REQUEST && !w.n_live) ||
            (w.stops_early && n_sent > N_WORLD_REQUEST / 2)) {
            break;
        }
    }
    close_world(&w, t);
    if (verbose) {
        printf("world %llu: %llu requests, trace %016llx\n", (unsigned long long)id,
               (unsigned long long)(t->n_request - n_before), (unsigned long long)w.trace);
    }
    return w.trace;
}

int main(int argc, char **argv)
{
    base_seed = 1;
    uint64_t n_request = N_REQUEST_DEFAULT;
    long long only = -1;
    bool verbose = false;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(argv[i], "--verbose")) {
            verbose = true;
        } else if (value && !strcmp(argv[i], "--seed")) {
            base_seed = strcmp(value, "random") ? strtoull(value, NULL, 10) : rng_entropy();
            i++;
        } else if (value && !strcmp(argv[i], "--requests")) {
            n_request = strtoull(value, NULL, 10);
            i++;
        } else if (value && !strcmp(argv[i], "--world")) {
            only = strtoll(value, NULL, 10);
            i++;
        } else {
            (void)fprintf(stderr,
                          "usage: sim [--seed N|random] [--requests N] [--world N] [--verbose]\n");
            return 2;
        }
    }
    printf("sim: seed %llu\n", (unsigned long long)base_seed);
    (void)fflush(stdout);
    uint64_t start_us = clock_mono_us();
    struct totals t = {0};
    if (only >= 0) {
        (void)run_world((uint64_t)only, &t, verbose);
    }
    uint64_t n_world = 0;
    while (only < 0 && t.n_request < n_request) {
        uint64_t trace = run_world(n_world, &t, verbose);
        struct totals again = {0};
        if (n_world < N_REPLAYED && trace != run_world(n_world, &again, false)) {
            (void)fprintf(stderr, "sim: world %llu does not replay\n", (unsigned long long)n_world);
            return 1;
        }
        n_world++;
    }
    double s = (double)(clock_mono_us() - start_us) / 1e6;
    printf("sim: %llu requests in %llu worlds, %llu tokens, %llu steps, %.1f s\n"
           "sim: %llu stop, %llu length, %llu cancelled, %llu error; %llu refused, %llu times "
           "memory given back\n"
           "sim: of %llu prompt tokens %llu cached, %llu of them from disk; %llu computed again; "
           "%llu restarts\n",
           (unsigned long long)t.n_request, (unsigned long long)n_world,
           (unsigned long long)t.n_token, (unsigned long long)t.n_step, s,
           (unsigned long long)t.n_by_finish[SCH_FINISH_STOP],
           (unsigned long long)t.n_by_finish[SCH_FINISH_LENGTH],
           (unsigned long long)t.n_by_finish[SCH_FINISH_CANCELLED],
           (unsigned long long)t.n_by_finish[SCH_FINISH_ERROR], (unsigned long long)t.n_refused,
           (unsigned long long)t.n_preempted, (unsigned long long)t.n_prompt,
           (unsigned long long)t.n_cached, (unsigned long long)t.n_cached_disk,
           (unsigned long long)t.n_recomputed, (unsigned long long)t.n_restart);
    return 0;
}
