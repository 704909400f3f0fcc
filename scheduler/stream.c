#include "scheduler/stream.h"

#include "scheduler/loop.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_COMPACT_BYTES 4096

static void destroy(struct sch_stream *st)
{
    (void)pthread_mutex_destroy(&st->mu);
    (void)pthread_cond_destroy(&st->wake_done);
    free(st->events);
    free(st->results);
    free(st->end_stop);
    free(st->vector);
    buf_free(&st->text);
    buf_free(&st->read_text);
    free(st);
}

enum err_code sch_stream_create(struct sch *s, const struct sch_request *r, uint32_t n_event_max,
                                struct sch_stream **ret_st, struct err *e)
{
    struct sch_stream *st = calloc(1, sizeof *st);
    if (!st) {
        return err_set(e, ERR_NOMEM, "out of memory for a stream");
    }
    (void)pthread_mutex_init(&st->mu, NULL);
    (void)pthread_cond_init(&st->wake_done, NULL);
    bool scored = r->sample.want_logprob || r->sample.n_top_logprob || r->prompt_logprobs;
    st->s = s;
    st->wake = r->wake;
    st->wake_arg = r->wake_arg;
    st->n_event_max = n_event_max;
    st->events = malloc(n_event_max * sizeof *st->events);
    st->results = scored ? malloc(n_event_max * sizeof *st->results) : NULL;
    st->n_embd = s->o.eng->info.n_embd;
    st->vector = r->embed ? calloc(st->n_embd, sizeof *st->vector) : NULL;
    if (!st->events || (scored && !st->results) || (r->embed && !st->vector)) {
        destroy(st);
        return err_set(e, ERR_NOMEM, "out of memory for a ring of %u events", n_event_max);
    }
    *ret_st = st;
    return ERR_OK;
}

void sch_stream_discard(struct sch_stream *st)
{
    if (st) {
        destroy(st);
    }
}

uint32_t sch_stream_room(struct sch_stream *st)
{
    (void)pthread_mutex_lock(&st->mu);
    bool text_full = st->text.len - st->text_head >= SCH_STREAM_TEXT_MAX;
    uint32_t room = text_full ? 0 : st->n_event_max - st->n_event;
    (void)pthread_mutex_unlock(&st->mu);
    return room;
}

/* Called with mu held, after an event went in; returns with it free. */
static void wake_and_unlock(struct sch_stream *st, bool was_empty)
{
    void (*wake)(void *arg) = st->wake;
    if (!was_empty || !wake) {
        (void)pthread_mutex_unlock(&st->mu);
        return;
    }
    st->waking = true;
    (void)pthread_mutex_unlock(&st->mu);
    wake(st->wake_arg);
    (void)pthread_mutex_lock(&st->mu);
    st->waking = false;
    (void)pthread_cond_signal(&st->wake_done);
    (void)pthread_mutex_unlock(&st->mu);
}

bool sch_stream_push(struct sch_stream *st, int32_t id, bool of_prompt, const char *text,
                     size_t n_byte, const struct sample_result *result)
{
    (void)pthread_mutex_lock(&st->mu);
    assert(st->n_event < st->n_event_max && !st->has_end);
    bool was_empty = !st->n_event;
    uint32_t at = (st->head + st->n_event) % st->n_event_max;
    st->events[at] =
        (struct sch_stream_event){.id = id, .n_byte = (uint32_t)n_byte, .of_prompt = of_prompt};
    st->events[at].scored = st->results && result;
    if (st->events[at].scored) {
        st->results[at] = *result;
    }
    buf_append(&st->text, text, n_byte);
    bool ok = buf_ok(&st->text);
    if (!ok) {
        (void)pthread_mutex_unlock(&st->mu);
        return false;
    }
    st->n_event++;
    wake_and_unlock(st, was_empty);
    return true;
}

void sch_stream_end(struct sch_stream *st, const struct sch_event *end)
{
    (void)pthread_mutex_lock(&st->mu);
    assert(!st->has_end);
    bool was_empty = !st->n_event;
    st->end = *end;
    st->end.kind = SCH_EVENT_END;
    if (end->error) {
        st->end_error = *end->error;
        st->end.error = &st->end_error;
    }
    if (end->stop_matched) {
        st->end_stop = strdup(end->stop_matched);
        st->end.stop_matched = st->end_stop;
    }
    if (end->embedding) {
        memcpy(st->vector, end->embedding, st->n_embd * sizeof *st->vector);
        st->end.embedding = st->vector;
    }
    st->has_end = true;
    wake_and_unlock(st, was_empty);

    (void)pthread_mutex_lock(&st->mu);
    st->scheduler_gone = true;
    bool last = st->reader_gone;
    (void)pthread_mutex_unlock(&st->mu);
    if (last) {
        destroy(st);
    }
}

static void pop_token(struct sch_stream *st, struct sch_event *ret_ev)
{
    const struct sch_stream_event *q = &st->events[st->head];
    buf_clear(&st->read_text);
    buf_append(&st->read_text, buf_str(&st->text) + st->text_head, q->n_byte);
    *ret_ev = (struct sch_event){.kind = SCH_EVENT_TOKEN,
                                 .id = q->id,
                                 .of_prompt = q->of_prompt,
                                 .text = buf_str(&st->read_text),
                                 .n_byte = st->read_text.len};
    if (q->scored) {
        st->read_result = st->results[st->head];
        ret_ev->logprobs = &st->read_result;
    }
    st->text_head += q->n_byte;
    if (st->text_head == st->text.len) {
        buf_clear(&st->text);
        st->text_head = 0;
    } else if (st->text_head >= TEXT_COMPACT_BYTES) {
        buf_drop(&st->text, st->text_head);
        st->text_head = 0;
    }
    st->head = (st->head + 1) % st->n_event_max;
    st->n_event--;
}

bool sch_stream_next(struct sch_stream *st, struct sch_event *ret_ev)
{
    (void)pthread_mutex_lock(&st->mu);
    bool has = true;
    bool was_full = false;
    if (st->n_event) {
        was_full =
            st->n_event == st->n_event_max || st->text.len - st->text_head >= SCH_STREAM_TEXT_MAX;
        pop_token(st, ret_ev);
    } else if (st->has_end && !st->end_read) {
        st->end_read = true;
        *ret_ev = st->end;
    } else {
        has = false;
    }
    bool kicks = was_full && !st->scheduler_gone;
    (void)pthread_mutex_unlock(&st->mu);
    if (kicks) {
        sch_kick(st->s);
    }
    return has;
}

void sch_cancel(struct sch_stream *st)
{
    if (!atomic_exchange_explicit(&st->cancelled, true, memory_order_relaxed)) {
        sch_kick_cancel(st->s);
    }
}

void sch_stream_release(struct sch_stream *st)
{
    if (!st) {
        return;
    }
    (void)pthread_mutex_lock(&st->mu);
    bool ended = st->has_end;
    (void)pthread_mutex_unlock(&st->mu);
    if (!ended) {
        sch_cancel(st);
    }
    (void)pthread_mutex_lock(&st->mu);
    st->wake = NULL; /* none begins any more; one may be under way */
    while (st->waking) {
        (void)pthread_cond_wait(&st->wake_done, &st->mu);
    }
    st->reader_gone = true; /* not before: from here on the scheduler may free it */
    bool last = st->scheduler_gone;
    (void)pthread_mutex_unlock(&st->mu);
    if (last) {
        destroy(st);
    }
}
