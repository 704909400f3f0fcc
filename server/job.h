/* One HTTP request on its way through the server: its bytes in, its bytes out, and the one lock
 * between the thread that moves them and the threads that make them.
 *
 * Threads and references. The HTTP thread of the connection fills the job, then hands it to the
 * prep pool and suspends the connection. Prep replies, or hands it to the answer thread, which
 * appends what the model says. Whoever adds bytes resumes the connection if it sleeps: `out` is
 * tested for emptiness and the connection suspended under the same lock, so no wake-up is lost.
 * Each holder has a reference; the last one frees it. */
#ifndef SERVER_JOB_H
#define SERVER_JOB_H

#include "base/buf.h"
#include "server/error_reply.h"
#include "server/routes.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct srv;
struct srv_answer;

#define SRV_REQUEST_ID_MAX   64
#define SRV_TENANT_MAX       64
#define SRV_OUT_BYTES_FULL   ((size_t)64 * 1024) /* a stream's answer pauses above this… */
#define SRV_OUT_BYTES_RESUME ((size_t)32 * 1024) /* …until the client took it down to this */

enum srv_stage { SRV_STAGE_HEAD, SRV_STAGE_BODY, SRV_STAGE_WAIT, SRV_STAGE_REPLIED };

enum srv_content { SRV_CONTENT_NONE, SRV_CONTENT_JSON, SRV_CONTENT_SSE, SRV_CONTENT_METRICS };

struct srv_job {
    struct srv *srv;
    atomic_uint n_ref;

    /* Of the HTTP thread until the job is handed on, then read-only. */
    char *path; /* raw, without the query */
    enum srv_stage stage;
    const struct srv_route *route;
    const char *method_name; /* static */
    struct srv_fail early;   /* decided from the headers; replied once the body is in */
    bool must_close;
    bool head_only;
    struct buf body;
    size_t n_body; /* received, kept or not */
    char request_id[SRV_REQUEST_ID_MAX + 1];
    char tenant[SRV_TENANT_MAX + 1];
    uint64_t begin_us;

    pthread_mutex_t mu;
    /* guarded by mu from here on */
    void (*resume)(void *connection); /* called with mu held */
    void *connection;                 /* NULL once the HTTP thread has let go of it */
    bool suspended;
    bool gone; /* the client has left: nothing more will be read */

    bool replied; /* status and content are fixed */
    int status;
    enum srv_content content;
    uint32_t retry_after_s;
    const char *allow; /* of a 405 or OPTIONS; static */
    bool streaming;
    struct buf out;
    size_t out_off;    /* bytes of out already taken */
    bool out_end;      /* nothing more comes */
    bool out_broken;   /* it ended before its time: the connection is cut, not closed in order */
    uint64_t quiet_us; /* since when nothing was added to a stream; 0: since begin_us */
    bool out_full;     /* the answer thread waits for room */

    struct srv_answer *answer; /* the model's part, or NULL; the answer thread's */
    /* The answer thread's inbox (see answer.h). */
    atomic_bool in_inbox;
    atomic_bool ping_due;
    struct srv_job *inbox_next;
};

/* One reference, for the HTTP thread. NULL when memory is out. */
struct srv_job *srv_job_create(struct srv *s);
void srv_job_ref(struct srv_job *j);
void srv_job_unref(struct srv_job *j); /* NULL is legal */
/* Adds to the body; false when the bodies of all requests together would pass their limit, or
 * memory is out. Of whoever holds the job at that stage, as is dropping it. */
bool srv_job_add_body(struct srv_job *j, const char *bytes, size_t n);
void srv_job_drop_body(struct srv_job *j);

/* The whole reply; `body` is taken over and left empty. A second reply is ignored. */
void srv_job_reply(struct srv_job *j, int status, enum srv_content content, struct buf *body);
void srv_job_fail(struct srv_job *j, const struct srv_fail *f);

/* A reply that grows: 200, text/event-stream. */
void srv_job_stream_begin(struct srv_job *j);
/* False once the client is gone. */
bool srv_job_stream_put(struct srv_job *j, const struct buf *bytes);
void srv_job_stream_end(struct srv_job *j, bool broken);

/* Bytes waiting to be taken; above SRV_OUT_BYTES_FULL it also asks for a call to srv_answer_kick
 * when there is room again. */
bool srv_job_is_full(struct srv_job *j);

/* If this is a stream that has been quiet for after_us, asks the answer thread for a comment that
 * keeps clients and proxies from giving up. */
void srv_job_ping(struct srv_job *j, uint64_t now_us, uint64_t after_us);

/* The client has gone: the answer is cancelled, the connection resumed so that it ends. */
void srv_job_hangup(struct srv_job *j);
bool srv_job_is_gone(struct srv_job *j);

#endif
