#include "server/job.h"

#include "base/clock.h"
#include "server/answer.h"
#include "server/srv.h"

#include <stdlib.h>

struct srv_job *srv_job_create(struct srv *s)
{
    struct srv_job *j = calloc(1, sizeof *j);
    if (!j) {
        return NULL;
    }
    j->srv = s;
    j->begin_us = clock_mono_us();
    atomic_init(&j->n_ref, 1);
    (void)pthread_mutex_init(&j->mu, NULL);
    return j;
}

void srv_job_ref(struct srv_job *j)
{
    /* relaxed: whoever adds a reference already holds one */
    (void)atomic_fetch_add_explicit(&j->n_ref, 1, memory_order_relaxed);
}

void srv_job_unref(struct srv_job *j)
{
    /* release what we wrote to the one who frees, acquire what the others wrote if that is us */
    if (!j || atomic_fetch_sub_explicit(&j->n_ref, 1, memory_order_acq_rel) != 1) {
        return;
    }
    srv_answer_free(j->answer);
    srv_job_drop_body(j);
    buf_free(&j->out);
    free(j->path);
    (void)pthread_mutex_destroy(&j->mu);
    free(j);
}

bool srv_job_add_body(struct srv_job *j, const char *bytes, size_t n)
{
    /* relaxed: a sum, ordered with nothing */
    size_t before = atomic_fetch_add_explicit(&j->srv->n_body_byte, n, memory_order_relaxed);
    if (before + n <= j->srv->cfg->bodies_bytes_max) {
        buf_append(&j->body, bytes, n);
        if (buf_ok(&j->body)) {
            return true;
        }
    }
    (void)atomic_fetch_sub_explicit(&j->srv->n_body_byte, n, memory_order_relaxed);
    return false;
}

void srv_job_drop_body(struct srv_job *j)
{
    (void)atomic_fetch_sub_explicit(&j->srv->n_body_byte, j->body.len, memory_order_relaxed);
    buf_free(&j->body);
}

/* With mu held. */
static void wake(struct srv_job *j)
{
    if (j->suspended) {
        j->suspended = false;
        j->resume(j->connection);
    }
}

void srv_job_reply(struct srv_job *j, int status, enum srv_content content, struct buf *body)
{
    (void)pthread_mutex_lock(&j->mu);
    if (!j->replied) {
        j->replied = true;
        j->status = status;
        j->content = content;
        j->out = *body;
        *body = (struct buf){0};
        j->out_end = true;
        wake(j);
    }
    (void)pthread_mutex_unlock(&j->mu);
    buf_free(body);
}

void srv_job_fail(struct srv_job *j, const struct srv_fail *f)
{
    struct buf body = {0};
    srv_fail_json(f, &body);
    (void)pthread_mutex_lock(&j->mu);
    if (!j->replied) {
        j->retry_after_s = f->retry_after_s;
    }
    (void)pthread_mutex_unlock(&j->mu);
    srv_job_reply(j, f->status, SRV_CONTENT_JSON, &body);
}

void srv_job_stream_begin(struct srv_job *j)
{
    (void)pthread_mutex_lock(&j->mu);
    if (!j->replied) {
        j->replied = true;
        j->streaming = true;
        j->status = 200;
        j->content = SRV_CONTENT_SSE;
    }
    (void)pthread_mutex_unlock(&j->mu);
}

bool srv_job_stream_put(struct srv_job *j, const struct buf *bytes)
{
    (void)pthread_mutex_lock(&j->mu);
    bool there = !j->gone;
    if (there && bytes->len) {
        if (j->out_off == j->out.len) {
            j->out.len = 0;
            j->out_off = 0;
        }
        buf_append(&j->out, bytes->data, bytes->len);
        j->quiet_us = clock_mono_us();
        if (!buf_ok(&j->out)) {
            j->out_end = true; /* a stream with a hole is no answer: end it */
            j->out_broken = true;
        }
        wake(j);
    }
    (void)pthread_mutex_unlock(&j->mu);
    return there;
}

void srv_job_stream_end(struct srv_job *j, bool broken)
{
    (void)pthread_mutex_lock(&j->mu);
    j->out_end = true;
    j->out_broken = j->out_broken || broken;
    wake(j);
    (void)pthread_mutex_unlock(&j->mu);
}

bool srv_job_is_full(struct srv_job *j)
{
    (void)pthread_mutex_lock(&j->mu);
    j->out_full = j->streaming && !j->gone && j->out.len - j->out_off > SRV_OUT_BYTES_FULL;
    bool full = j->out_full;
    (void)pthread_mutex_unlock(&j->mu);
    return full;
}

void srv_job_ping(struct srv_job *j, uint64_t now_us, uint64_t after_us)
{
    (void)pthread_mutex_lock(&j->mu);
    uint64_t since_us = j->quiet_us ? j->quiet_us : j->begin_us;
    bool waits = j->answer && j->answer->request.stream && !j->gone && !j->out_end &&
                 j->out_off == j->out.len;
    if (waits && now_us > since_us && now_us - since_us >= after_us) {
        j->quiet_us = now_us;
        atomic_store_explicit(&j->ping_due, true, memory_order_relaxed);
        srv_answer_kick(j);
    }
    (void)pthread_mutex_unlock(&j->mu);
}

void srv_job_hangup(struct srv_job *j)
{
    (void)pthread_mutex_lock(&j->mu);
    bool first = !j->gone;
    j->gone = true;
    if (first && j->answer) {
        srv_answer_cancel(j);
        srv_answer_kick(j); /* its ring may hold events already: then no wake comes */
    }
    wake(j);
    (void)pthread_mutex_unlock(&j->mu);
}

bool srv_job_is_gone(struct srv_job *j)
{
    (void)pthread_mutex_lock(&j->mu);
    bool gone = j->gone;
    (void)pthread_mutex_unlock(&j->mu);
    return gone;
}
