#include "server/answer.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "server/embeddings.h"
#include "server/model.h"
#include "server/openai_response.h"
#include "server/srv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* The inbox is a stack that wakers push to without waiting; the thread takes all of it at once. */
struct srv_answerer {
    pthread_t thread;
    int wake_fd; /* eventfd: written when the stack was empty before a push */
    struct srv_job *_Atomic inbox;
    atomic_bool stopping;
};

/* ---- life */

enum err_code srv_answer_create(struct srv_request *request, struct srv_prompt_tokens *prompts,
                                size_t n_prompt, struct srv_answer **ret_a, struct err *e)
{
    struct srv_answer *a = calloc(1, sizeof *a);
    size_t n_choice = n_prompt * (size_t)request->n;
    struct srv_choice *choices = calloc(n_choice, sizeof *choices);
    if (!a || !choices) {
        free(a);
        free(choices);
        return err_set(e, ERR_NOMEM, "out of memory for %zu choices", n_choice);
    }
    for (size_t i = 0; i < n_choice; i++) {
        choices[i].index = (uint32_t)i;
        choices[i].i_prompt = i / (size_t)request->n;
        bool channels =
            request->api == SRV_API_CHAT && srv_tool_format_always(request->tool_format);
        if (request->tools || channels) {
            srv_tool_reader_init(&choices[i].tools, request->tool_format, request->tools,
                                 !request->parallel_tool_calls);
        }
    }
    a->choices = choices;
    a->n_choice = n_choice;
    a->n_open = n_choice;
    a->prompts = prompts;
    a->n_prompt = n_prompt;
    a->created_s = clock_unix_s();
    (void)snprintf(a->id, sizeof a->id, "%s-%016" PRIx64,
                   request->api == SRV_API_CHAT ? "chatcmpl" : "cmpl", rng_entropy());
    a->request = *request;
    *request = (struct srv_request){0};
    *ret_a = a;
    return ERR_OK;
}

void srv_prompt_tokens_free(struct srv_prompt_tokens *prompts, size_t n_prompt)
{
    for (size_t i = 0; i < n_prompt; i++) {
        eng_ids_free(&prompts[i].ids);
        buf_free(&prompts[i].echo);
    }
    free(prompts);
}

void srv_answer_free(struct srv_answer *a)
{
    if (!a) {
        return;
    }
    for (size_t i = 0; i < a->n_choice; i++) {
        struct srv_choice *c = &a->choices[i];
        free(c->stop_matched);
        free(c->vector);
        srv_tool_reader_finish(&c->tools);
        buf_free(&c->text);
        buf_free(&c->ids);
        buf_free(&c->logprobs.items);
        buf_free(&c->logprobs.values);
        buf_free(&c->logprobs.tops);
        buf_free(&c->logprobs.offsets);
    }
    free(a->choices);
    srv_prompt_tokens_free(a->prompts, a->n_prompt);
    srv_request_finish(&a->request);
    buf_free(&a->prefix);
    free(a);
}

/* ---- submitting */

static void wake(void *arg)
{
    srv_answer_kick(arg);
}

static void fill_request(const struct srv_job *j, const struct srv_answer *a,
                         const struct srv_choice *c, struct sch_request *r)
{
    const struct srv_request *q = &a->request;
    const struct srv_prompt_tokens *p = &a->prompts[c->i_prompt];
    uint64_t limit_s = j->srv->cfg->request_s;
    *r = (struct sch_request){
        .tokens = p->ids.ids,
        .n_tok = (uint32_t)p->ids.n,
        .n_gen_max = q->n_gen_max < 0 ? UINT32_MAX : (uint32_t)q->n_gen_max,
        .n_gen_min = (uint32_t)q->n_gen_min,
        .sample = {.temperature = (float)q->temperature,
                   .top_k = q->top_k > 0 ? (uint32_t)q->top_k : 0,
                   .top_p = (float)q->top_p,
                   .min_p = (float)q->min_p,
                   .repetition_penalty = (float)q->repetition_penalty,
                   .presence_penalty = (float)q->presence_penalty,
                   .frequency_penalty = (float)q->frequency_penalty,
                   .seed = q->seed,
                   .choice = c->index % (uint32_t)q->n,
                   .bias = q->bias,
                   .n_bias = q->n_bias,
                   .n_top_logprob = (uint32_t)q->n_top_logprob,
                   .want_logprob = q->want_logprobs},
        .stop = q->stop,
        .n_stop = q->n_stop,
        .stop_ids = q->stop_ids,
        .n_stop_id = q->n_stop_id,
        .keep_stop = q->keep_stop,
        .ignore_eos = q->ignore_eos,
        .show_special = !q->skip_special,
        .adapter = q->adapter,
        .n_show_id = c->tools.format != SRV_TOOLS_TEXT ? j->srv->tools.n_show_id : 0,
        .embed = q->api == SRV_API_EMBEDDING,
        .pooling = j->srv->pooling,
        .prompt_logprobs = q->echo && q->want_logprobs && q->api == SRV_API_COMPLETION,
        .tenant = j->tenant,
        .cache_salt = q->cache_salt,
        .retention = q->retention,
        .deadline_us = limit_s ? j->begin_us + limit_s * 1000000 : 0,
        .wake = wake,
        .wake_arg = (void *)(uintptr_t)j,
    };
    memcpy(r->show_ids, j->srv->tools.show_ids, sizeof r->show_ids);
}

/* Lets go of a stream; not under mu, since a release waits for a wake that is under way. */
static void release_stream(struct srv_job *j, struct srv_choice *c)
{
    (void)pthread_mutex_lock(&j->mu);
    struct sch_stream *st = c->stream;
    c->stream = NULL;
    (void)pthread_mutex_unlock(&j->mu);
    sch_stream_release(st);
}

static void release_streams(struct srv_job *j, struct srv_answer *a)
{
    for (size_t i = 0; i < a->n_choice; i++) {
        release_stream(j, &a->choices[i]);
    }
}

/* The next choice, in order. */
static bool submit_next(struct srv_job *j, struct srv_answer *a, struct srv_fail *f)
{
    static const char *const params[] = {"prompt", "messages", "input"};
    struct srv_choice *c = &a->choices[a->n_submitted];
    struct sch_request r;
    struct sch_stream *st = NULL;
    struct err e = {0};
    fill_request(j, a, c, &r);
    enum err_code code = sch_submit(j->srv->sch, &r, &st, &e);
    if (code != ERR_OK) {
        bool of_prompt = code == ERR_LIMIT || code == ERR_INVALID;
        return srv_fail_of(f, &e, of_prompt ? params[a->request.api] : NULL);
    }
    a->n_submitted++;
    (void)pthread_mutex_lock(&j->mu);
    c->stream = st;
    bool gone = j->gone;
    (void)pthread_mutex_unlock(&j->mu);
    if (gone) {
        sch_cancel(st); /* and the answer thread, told by the caller or the hang-up, ends it */
    }
    return true;
}

bool srv_answer_submit(struct srv_job *j, struct srv_answer *a, struct srv_fail *f)
{
    struct srv *s = j->srv;
    const struct srv_model_view view = {s->eng, srv_model_name(s, a->request.adapter),
                                        s->fingerprint};
    bool embeds = a->request.api == SRV_API_EMBEDDING;
    size_t n_now = embeds && a->n_choice > SRV_INPUT_WINDOW ? SRV_INPUT_WINDOW : a->n_choice;
    bool good = true;
    srv_response_begin(a, &view);
    /* As if already in the inbox, so that the answer thread stays away until all are submitted. */
    atomic_store_explicit(&j->in_inbox, true, memory_order_relaxed);
    (void)pthread_mutex_lock(&j->mu);
    j->answer = a;
    (void)pthread_mutex_unlock(&j->mu);
    while (good && a->n_submitted < n_now) {
        good = submit_next(j, a, f);
    }
    if (!good) {
        release_streams(j, a);
        a->done = true;
        return false;
    }
    /* release: the answer thread sees all of the above */
    atomic_store_explicit(&j->in_inbox, false, memory_order_release);
    srv_answer_kick(j);
    return true;
}

void srv_answer_cancel(struct srv_job *j)
{
    struct srv_answer *a = j->answer;
    for (size_t i = 0; a && i < a->n_choice; i++) {
        if (a->choices[i].stream) {
            sch_cancel(a->choices[i].stream);
        }
    }
}

/* ---- the answer thread */

/* The work on a job is over: its sequences are given back, its memory goes with its last holder. */
static void finish(struct srv_job *j, struct srv_answer *a)
{
    release_streams(j, a);
    a->done = true;
}

static void fail_answer(struct srv_job *j, struct srv_answer *a, const struct srv_fail *f)
{
    struct buf out = {0};
    if (a->begun) {
        srv_response_stream_error(f, &out);
        (void)srv_job_stream_put(j, &out);
        srv_job_stream_end(j, false);
    } else {
        srv_job_fail(j, f);
    }
    buf_free(&out);
    finish(j, a);
}

static void fail_of_end(const struct srv_job *j, const struct sch_event *ev, struct srv_fail *f)
{
    if (ev->finish == SCH_FINISH_ERROR && ev->error) {
        (void)srv_fail_of(f, ev->error, NULL);
    } else if (ev->finish == SCH_FINISH_ERROR) {
        (void)srv_fail(f, 500, NULL, NULL, "the model failed");
    } else if (srv_phase_of(j->srv) >= SRV_DRAINING) {
        (void)srv_fail(f, 503, "shutting_down", NULL, "the server is shutting down");
    } else {
        (void)srv_fail(f, 503, "cancelled", NULL,
                       "the answer was cut off: the client did not read it in time");
    }
}

/* A vector's end: it is kept, its stream is let go, and the next input takes its place. A full
 * queue is waited out while other inputs of this request are in it. False: the answer failed. */
static bool end_input(struct srv_job *j, struct srv_answer *a, struct srv_choice *c,
                      const struct sch_event *ev)
{
    struct srv_fail f = {0};
    c->vector = calloc(a->n_embd, sizeof *c->vector);
    if (!c->vector || !ev->embedding) {
        (void)srv_fail(&f, 503, "out_of_memory", NULL, "out of memory for the answer");
        fail_answer(j, a, &f);
        return false;
    }
    memcpy(c->vector, ev->embedding, a->n_embd * sizeof *c->vector);
    release_stream(j, c);
    while (a->n_submitted < a->n_choice) {
        size_t n_inside = a->n_submitted - (a->n_choice - a->n_open);
        if (n_inside >= SRV_INPUT_WINDOW) {
            break;
        }
        if (!submit_next(j, a, &f)) {
            if (f.status == 429 && n_inside) {
                break;
            }
            fail_answer(j, a, &f);
            return false;
        }
    }
    return true;
}

/* False when the answer ended with an error. */
static bool take_event(struct srv_job *j, struct srv_answer *a, struct srv_choice *c,
                       const struct sch_event *ev, struct buf *out)
{
    struct srv *s = j->srv;
    const struct srv_model_view view = {s->eng, srv_model_name(s, a->request.adapter),
                                        s->fingerprint};
    if (ev->kind == SCH_EVENT_END &&
        (ev->finish == SCH_FINISH_ERROR || ev->finish == SCH_FINISH_CANCELLED)) {
        struct srv_fail f = {0};
        fail_of_end(j, ev, &f);
        if (f.status >= 500) {
            log_warn("request %s failed: %s", j->request_id, f.message);
        }
        fail_answer(j, a, &f);
        return false;
    }
    srv_response_take(a, c, ev, &view);
    if (ev->kind == SCH_EVENT_END) {
        c->ended = true;
        c->finish = ev->finish;
        c->n_cached_tok = ev->n_cached_tok;
        c->n_cached_disk_tok = ev->n_cached_disk_tok;
        c->n_cache_write_tok = ev->n_cache_write_tok;
        c->n_gen_tok = ev->n_gen_tok;
        c->stop_matched = ev->stop_matched ? strdup(ev->stop_matched) : NULL;
        a->n_open--;
        srv_size_hist_add(&s->metrics.prompt_tok, ev->n_prompt_tok);
        srv_size_hist_add(&s->metrics.gen_tok, ev->n_gen_tok);
    }
    if (a->request.api == SRV_API_EMBEDDING) {
        return ev->kind != SCH_EVENT_END || end_input(j, a, c, ev);
    }
    if (a->request.stream && ev->kind == SCH_EVENT_END) {
        srv_response_finish_chunk(a, c, out);
    } else if (a->request.stream && !ev->of_prompt) {
        srv_response_chunk(a, c, false, out);
    }
    return true;
}

/* Takes what one choice has to say. False when the whole answer is over. */
static bool drain_choice(struct srv_job *j, struct srv_answer *a, struct srv_choice *c)
{
    struct buf out = {0};
    struct sch_event ev;
    bool alive = true;
    while (alive && !c->ended && out.len < SRV_OUT_BYTES_FULL && sch_stream_next(c->stream, &ev)) {
        alive = take_event(j, a, c, &ev, &out);
        if (alive && srv_response_bytes(c) > SRV_REPLY_BYTES_MAX) {
            struct srv_fail f = {0};
            (void)srv_fail(&f, 400, "answer_too_large", "stream",
                           "the answer has more than %zu MiB; ask for a stream",
                           SRV_REPLY_BYTES_MAX >> 20);
            fail_answer(j, a, &f);
            alive = false;
        }
    }
    if (alive && out.len) {
        if (!a->begun) {
            a->begun = true;
            srv_job_stream_begin(j);
        }
        alive = srv_job_stream_put(j, &out);
        if (!alive) {
            finish(j, a);
        }
        if (alive && !c->ended && out.len >= SRV_OUT_BYTES_FULL) {
            srv_answer_kick(j); /* there may be more, and no wake for it */
        }
    }
    buf_free(&out);
    return alive;
}

static void end_answer(struct srv_job *j, struct srv_answer *a)
{
    struct buf out = {0};
    if (a->request.stream) {
        srv_response_stream_end(a, &out);
        (void)srv_job_stream_put(j, &out);
        srv_job_stream_end(j, false);
    } else {
        if (a->request.api == SRV_API_EMBEDDING) {
            srv_embeddings_whole(a, srv_model_name(j->srv, a->request.adapter), a->n_embd, &out);
        } else {
            srv_response_whole(a, &out);
        }
        if (buf_ok(&out)) {
            srv_job_reply(j, 200, SRV_CONTENT_JSON, &out);
        } else {
            struct srv_fail f = {0};
            (void)srv_fail(&f, 503, "out_of_memory", NULL, "out of memory for the answer");
            srv_job_fail(j, &f);
        }
    }
    buf_free(&out);
    finish(j, a);
}

/* A comment; it begins the stream if nothing did. */
static void put_ping(struct srv_job *j, struct srv_answer *a)
{
    struct buf out = {0};
    buf_puts(&out, ": ping\n\n");
    if (!a->begun) {
        a->begun = true;
        srv_job_stream_begin(j);
    }
    (void)srv_job_stream_put(j, &out);
    buf_free(&out);
}

static void step(struct srv_job *j)
{
    struct srv_answer *a = j->answer;
    if (!a || a->done) {
        return;
    }
    if (srv_job_is_gone(j)) {
        srv_count(&j->srv->metrics.n_disconnect);
        finish(j, a);
        return;
    }
    for (size_t i = 0; i < a->n_choice; i++) {
        struct srv_choice *c = &a->choices[i];
        if (!c->ended && c->stream && (srv_job_is_full(j) || !drain_choice(j, a, c))) {
            return; /* the client's reading kicks us again */
        }
    }
    bool ping = atomic_exchange_explicit(&j->ping_due, false, memory_order_relaxed);
    if (!a->n_open) {
        end_answer(j, a);
    } else if (ping) {
        put_ping(j, a);
    }
}

void srv_answer_kick(struct srv_job *j)
{
    struct srv_answerer *t = j->srv->answerer;
    if (atomic_exchange_explicit(&j->in_inbox, true, memory_order_acq_rel)) {
        return;
    }
    srv_job_ref(j);
    struct srv_job *head = atomic_load_explicit(&t->inbox, memory_order_relaxed);
    do {
        j->inbox_next = head;
        /* release: the thread that takes the stack sees inbox_next */
    } while (!atomic_compare_exchange_weak_explicit(&t->inbox, &head, j, memory_order_release,
                                                    memory_order_relaxed));
    if (!head) {
        uint64_t one = 1;
        ssize_t done = write(t->wake_fd, &one, sizeof one);
        (void)done; /* a full counter wakes as well */
    }
}

/* The stack turned round: who came first is served first. */
static struct srv_job *take_inbox(struct srv_answerer *t)
{
    struct srv_job *stack = atomic_exchange_explicit(&t->inbox, NULL, memory_order_acquire);
    struct srv_job *queue = NULL;
    while (stack) {
        struct srv_job *next = stack->inbox_next;
        stack->inbox_next = queue;
        queue = stack;
        stack = next;
    }
    return queue;
}

static void *run(void *arg)
{
    struct srv_answerer *t = arg;
    while (!atomic_load_explicit(&t->stopping, memory_order_acquire)) {
        uint64_t n = 0;
        if (read(t->wake_fd, &n, sizeof n) < 0 && errno != EINTR) {
            log_error("answer thread: read: %s", strerror(errno));
            break;
        }
        struct srv_job *j = take_inbox(t);
        while (j) {
            struct srv_job *next = j->inbox_next;
            /* acq_rel: what comes after the flag is down is pushed again; what came before we see
             */
            (void)atomic_exchange_explicit(&j->in_inbox, false, memory_order_acq_rel);
            step(j);
            srv_job_unref(j);
            j = next;
        }
    }
    return NULL;
}

enum err_code srv_answerer_start(struct srv_answerer **ret_t, struct err *e)
{
    struct srv_answerer *t = calloc(1, sizeof *t);
    if (!t) {
        return err_set(e, ERR_NOMEM, "out of memory for the answer thread");
    }
    t->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (t->wake_fd < 0) {
        enum err_code code = err_errno(e, ERR_IO, errno, "eventfd");
        free(t);
        return code;
    }
    int failed = pthread_create(&t->thread, NULL, run, t);
    if (failed) {
        (void)close(t->wake_fd);
        free(t);
        return err_errno(e, ERR_IO, failed, "answer thread");
    }
    *ret_t = t;
    return ERR_OK;
}

void srv_answerer_stop(struct srv_answerer *t)
{
    if (!t) {
        return;
    }
    uint64_t one = 1;
    atomic_store_explicit(&t->stopping, true, memory_order_release);
    ssize_t done = write(t->wake_fd, &one, sizeof one);
    (void)done;
    (void)pthread_join(t->thread, NULL);
    struct srv_job *j = take_inbox(t);
    while (j) {
        struct srv_job *next = j->inbox_next;
        srv_job_unref(j);
        j = next;
    }
    (void)close(t->wake_fd);
    free(t);
}
