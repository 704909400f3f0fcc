#include "server/http.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "server/answer.h"
#include "server/auth.h"
#include "server/conns.h"
#include "server/control.h"
#include "server/headers.h"
#include "server/prep.h"
#include "server/srv.h"

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <microhttpd.h>

#define POOL_BYTES         ((size_t)32 * 1024) /* libmicrohttpd's memory per connection */
#define BACKLOG            1024
#define SWALLOW_BYTES      ((uint64_t)64 << 20) /* of a refused body: more is not read */
#define BODY_BYTES_PER_S   1024                 /* slower bodies are cut */
#define REPLY_BYTES_PER_S  ((uint64_t)64 * 1024)
#define SECOND_US          ((uint64_t)1000000)
#define STREAM_BLOCK_BYTES ((size_t)16 * 1024)
#define SEND_BUFFER_BYTES                                                                          \
    (128 * 1024) /* the kernel's per connection: a slow reader holds no more */

struct srv_http {
    struct srv *srv;
    struct MHD_Daemon *daemon;
    struct srv_conns *conns;
    uint16_t port;
};

static struct srv_conn *conn_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

static void set_deadline_in(struct MHD_Connection *connection, uint64_t us)
{
    struct srv_conn *c = conn_of(connection);
    if (c) {
        srv_conn_set_deadline(c, us ? clock_mono_us() + us : 0);
    }
}

/* ---- replies */

static const char *content_type(enum srv_content content)
{
    switch (content) {
    case SRV_CONTENT_SSE: return "text/event-stream; charset=utf-8";
    case SRV_CONTENT_METRICS: return "text/plain; version=0.0.4; charset=utf-8";
    case SRV_CONTENT_JSON: return "application/json";
    case SRV_CONTENT_NONE: break;
    }
    return NULL;
}

static void header(struct MHD_Response *response, const char *name, const char *value)
{
    (void)MHD_add_response_header(response, name, value);
}

static void add_cors(const struct srv *s, const struct srv_job *j, struct MHD_Response *response)
{
    if (!s->cfg->cors_origin) {
        return;
    }
    header(response, "Access-Control-Allow-Origin", s->cfg->cors_origin);
    header(response, "Vary", "Origin");
    header(response, "Access-Control-Expose-Headers", "x-request-id, retry-after");
    if (j->allow) {
        header(response, "Access-Control-Allow-Methods", j->allow);
        header(response, "Access-Control-Allow-Headers",
               "authorization, content-type, x-api-key, x-request-id");
        header(response, "Access-Control-Max-Age", "600");
    }
}

static void add_headers(const struct srv_job *j, struct MHD_Response *response)
{
    const char *type = content_type(j->content);
    header(response, "x-request-id", j->request_id);
    if (type) {
        header(response, "Content-Type", type);
    }
    if (j->content == SRV_CONTENT_SSE) {
        header(response, "Cache-Control", "no-cache");
        header(response, "X-Accel-Buffering", "no"); /* proxies pass each chunk on at once */
    }
    if (j->retry_after_s) {
        char seconds[16];
        (void)snprintf(seconds, sizeof seconds, "%" PRIu32, j->retry_after_s);
        header(response, "Retry-After", seconds);
    }
    if (j->status == 401) {
        header(response, "WWW-Authenticate", "Bearer");
    }
    if (j->allow) {
        header(response, "Allow", j->allow);
    }
    if (j->must_close) {
        header(response, "Connection", "close");
    }
    add_cors(j->srv, j, response);
}

/* libmicrohttpd asks for bytes of a stream. Nothing there: sleep until srv_job_stream_put. */
static ssize_t read_stream(void *cls, uint64_t pos, char *to, size_t max)
{
    (void)pos;
    struct srv_job *j = cls;
    ssize_t n = 0;
    bool kick = false;
    (void)pthread_mutex_lock(&j->mu);
    size_t there = j->out.len - j->out_off;
    if (j->gone) {
        n = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (there) {
        n = (ssize_t)(there < max ? there : max);
        memcpy(to, j->out.data + j->out_off, (size_t)n);
        j->out_off += (size_t)n;
        kick = j->out_full && there - (size_t)n <= SRV_OUT_BYTES_RESUME;
        j->out_full = j->out_full && !kick;
        set_deadline_in(j->connection, j->srv->cfg->stall_s * SECOND_US);
    } else if (j->out_end) {
        n = j->out_broken ? MHD_CONTENT_READER_END_WITH_ERROR : MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        set_deadline_in(j->connection, 0);
        j->suspended = true;
        MHD_suspend_connection(j->connection);
    }
    (void)pthread_mutex_unlock(&j->mu);
    if (kick) {
        srv_answer_kick(j);
    }
    return n;
}

static void stream_done(void *cls)
{
    srv_job_unref(cls);
}

static struct MHD_Response *make_response(struct srv_job *j)
{
    struct MHD_Response *response = NULL;
    if (j->streaming) {
        srv_job_ref(j);
        response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES,
                                                     read_stream, j, stream_done);
        if (!response) {
            srv_job_unref(j);
        }
        return response;
    }
    static char nothing[1];
    if (!j->out.len) {
        return MHD_create_response_from_buffer(0, nothing, MHD_RESPMEM_PERSISTENT);
    }
    response = MHD_create_response_from_buffer(j->out.len, j->out.data, MHD_RESPMEM_MUST_FREE);
    if (response) {
        j->out = (struct buf){0}; /* libmicrohttpd frees it */
    }
    return response;
}

static void log_access(const struct srv_job *j)
{
    if (j->srv->cfg->access_log) {
        log_info("%s %s %d %.1f ms %s%s%s", j->method_name, j->path, j->status,
                 (double)(clock_mono_us() - j->begin_us) / 1e3, j->request_id,
                 j->tenant[0] ? " " : "", j->tenant);
    }
}

/* The job has its reply: queue it. */
static enum MHD_Result send_reply(struct srv_job *j, struct MHD_Connection *connection)
{
    (void)pthread_mutex_lock(&j->mu);
    uint64_t reply_us =
        j->srv->cfg->stall_s * SECOND_US + j->out.len * SECOND_US / REPLY_BYTES_PER_S;
    struct MHD_Response *response = make_response(j);
    int status = j->status;
    if (response) {
        add_headers(j, response);
    }
    (void)pthread_mutex_unlock(&j->mu);
    if (!response) {
        return MHD_NO;
    }
    j->stage = SRV_STAGE_REPLIED;
    srv_count(&j->srv->metrics.n_by_status[status / 100 < 6 ? status / 100 : 5]);
    set_deadline_in(connection, reply_us);
    enum MHD_Result queued = MHD_queue_response(connection, (unsigned)status, response);
    MHD_destroy_response(response);
    log_access(j);
    return queued;
}

static enum MHD_Result send_fail(struct srv_job *j, struct MHD_Connection *connection,
                                 const struct srv_fail *f)
{
    if (f->status == 405) {
        j->allow = j->route->allow;
    }
    srv_job_fail(j, f);
    return send_reply(j, connection);
}

/* ---- the head of a request */

static enum MHD_Result take_header(void *cls, enum MHD_ValueKind kind, const char *key,
                                   const char *value)
{
    (void)kind;
    srv_headers_take(cls, key, value ? value : "");
    return MHD_YES;
}

static void choose_request_id(struct srv_job *j, const char *wanted)
{
    if (wanted && srv_request_id_ok(wanted)) {
        (void)snprintf(j->request_id, sizeof j->request_id, "%s", wanted);
    } else {
        (void)snprintf(j->request_id, sizeof j->request_id, "req-%016" PRIx64, rng_entropy());
    }
}

/* What the headers decide: who asks, for what, and whether a body may come. */
static bool check_route(struct srv_job *j, enum srv_method method, const struct srv_headers *h,
                        struct srv_fail *f)
{
    struct srv *s = j->srv;
    j->route = srv_route_find(j->path);
    bool open = (j->route && j->route->open) || method == SRV_OPTIONS;
    if (!open && !srv_auth_check(s->auth, h->authorization, h->api_key, j->tenant)) {
        srv_count(&s->metrics.n_auth_fail);
        return srv_fail(f, 401, "invalid_api_key", NULL,
                        h->authorization || h->api_key
                            ? "the API key is not known to this server"
                            : "an API key is needed: send 'Authorization: Bearer KEY'");
    }
    if (!j->route) {
        return srv_fail(f, 404, "not_found", NULL, "no such path: %.120s", j->path);
    }
    if (method == SRV_OPTIONS) {
        return true;
    }
    if (j->route->post ? method != SRV_POST : method != SRV_GET && method != SRV_HEAD) {
        return srv_fail(f, 405, "method_not_allowed", NULL, "%.80s takes %s", j->route->path,
                        j->route->allow);
    }
    if (j->route->post && !h->json_body) {
        return srv_fail(f, 415, "unsupported_media_type", NULL,
                        "the body must be JSON: send 'Content-Type: application/json'");
    }
    if (h->n_content_length && h->content_length > s->cfg->body_bytes_max) {
        return srv_fail(f, 413, "request_too_large", NULL,
                        "the body has %" PRIu64 " bytes; at most %" PRIu64 " are accepted",
                        h->content_length, s->cfg->body_bytes_max);
    }
    return true;
}

static enum MHD_Result on_head(struct srv_job *j, struct MHD_Connection *connection,
                               const char *method_name, const char *version)
{
    struct srv_headers h = {0};
    struct srv_fail f = {0};
    enum srv_method method = srv_method_of(method_name);
    struct srv_conn *c = conn_of(connection);
    if (!c) { /* no slot was free when it came */
        return MHD_NO;
    }
    (void)MHD_get_connection_values(connection, MHD_HEADER_KIND, take_header, &h);
    choose_request_id(j, h.request_id);
    j->connection = connection;
    j->method_name = srv_method_name(method);
    j->head_only = method == SRV_HEAD;
    j->stage = SRV_STAGE_BODY;
    if (!srv_uri_check(j->path, &f)) {
        j->path[0] = 0; /* never shown again */
        j->must_close = true;
        return send_fail(j, connection, &f);
    }
    if (!srv_headers_check(&h, version, &f)) {
        j->must_close = true; /* where the next request begins is uncertain */
        return send_fail(j, connection, &f);
    }
    char *query = strchr(j->path, '?');
    if (query) {
        *query = 0;
    }
    if (!check_route(j, method, &h, &f)) {
        j->early = f;
        bool long_body = h.content_length > SWALLOW_BYTES;
        if (h.expects_continue || long_body) {
            j->must_close = true; /* the body is not read: the connection cannot go on */
            return send_fail(j, connection, &f);
        }
    }
    set_deadline_in(connection, j->srv->cfg->header_s * SECOND_US);
    return MHD_YES;
}

/* ---- the body */

static enum MHD_Result on_body(struct srv_job *j, struct MHD_Connection *connection,
                               const char *bytes, size_t n)
{
    const struct cfg *cfg = j->srv->cfg;
    j->n_body += n;
    uint64_t allowed_us = cfg->header_s * SECOND_US + j->n_body * SECOND_US / BODY_BYTES_PER_S;
    srv_conn_set_deadline(conn_of(connection), j->begin_us + allowed_us);
    (void)atomic_fetch_add_explicit(&j->srv->metrics.n_request_byte, n, memory_order_relaxed);
    if (j->n_body > cfg->body_bytes_max && j->n_body > SWALLOW_BYTES) {
        return MHD_NO; /* chunked and without end */
    }
    if (!j->early.status && j->n_body > cfg->body_bytes_max) {
        (void)srv_fail(&j->early, 413, "request_too_large", NULL,
                       "the body has more than %" PRIu64 " bytes", cfg->body_bytes_max);
    }
    if (!j->early.status && !srv_job_add_body(j, bytes, n)) {
        (void)srv_fail(&j->early, 503, "overloaded", NULL,
                       "too many requests are being received; try again");
    }
    if (j->early.status) {
        srv_job_drop_body(j);
    }
    return MHD_YES;
}

static enum MHD_Result reply_control(struct srv_job *j, struct MHD_Connection *connection)
{
    struct buf out = {0};
    struct srv_control_reply reply;
    struct srv_fail f = {0};
    if (!srv_control(j, &out, &reply, &f)) {
        buf_free(&out);
        return send_fail(j, connection, &f);
    }
    if (!buf_ok(&out)) {
        buf_free(&out);
        (void)srv_fail(&f, 503, "out_of_memory", NULL, "out of memory for the reply");
        return send_fail(j, connection, &f);
    }
    j->retry_after_s = reply.retry_after_s;
    srv_job_reply(j, reply.status, reply.content, &out);
    return send_reply(j, connection);
}

static enum MHD_Result reply_options(struct srv_job *j, struct MHD_Connection *connection)
{
    struct buf nothing = {0};
    j->allow = j->route->allow;
    srv_job_reply(j, 204, SRV_CONTENT_NONE, &nothing);
    return send_reply(j, connection);
}

static enum MHD_Result on_body_end(struct srv_job *j, struct MHD_Connection *connection)
{
    set_deadline_in(connection, 0);
    if (j->early.status) {
        return send_fail(j, connection, &j->early);
    }
    if (srv_method_of(j->method_name) == SRV_OPTIONS) {
        return reply_options(j, connection);
    }
    if (!j->route->post) {
        return reply_control(j, connection);
    }
    if (srv_phase_of(j->srv) >= SRV_DRAINING) { /* nothing may fall asleep any more */
        struct srv_fail f = {0};
        (void)srv_fail(&f, 503, "shutting_down", NULL, "the server is shutting down");
        j->must_close = true;
        return send_fail(j, connection, &f);
    }
    j->stage = SRV_STAGE_WAIT;
    if (!srv_conn_set_job(conn_of(connection), j)) {
        return MHD_NO; /* hung up while sending */
    }
    /* Asleep before the pool can know of it, so that its reply finds someone to wake. */
    (void)pthread_mutex_lock(&j->mu);
    j->suspended = true;
    MHD_suspend_connection(connection);
    (void)pthread_mutex_unlock(&j->mu);
    if (!srv_prep_push(j->srv->prep, j)) {
        struct srv_fail f = {0};
        (void)srv_fail(&f, 503, "overloaded", NULL, "too many requests at once; try again");
        srv_job_fail(j, &f);
    }
    return MHD_YES;
}

/* Woken: the reply is there, or the client is gone. */
static enum MHD_Result on_wake(struct srv_job *j, struct MHD_Connection *connection)
{
    (void)pthread_mutex_lock(&j->mu);
    bool gone = j->gone;
    bool ready = j->replied;
    if (!gone && !ready) {
        j->suspended = true;
        MHD_suspend_connection(connection);
    }
    (void)pthread_mutex_unlock(&j->mu);
    if (gone) {
        return MHD_NO;
    }
    return ready ? send_reply(j, connection) : MHD_YES;
}

/* ---- libmicrohttpd's callbacks */

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **req_cls)
{
    (void)cls;
    (void)url;
    struct srv_job *j = *req_cls;
    if (!j) { /* no memory when the request began */
        return MHD_NO;
    }
    switch (j->stage) {
    case SRV_STAGE_HEAD: return on_head(j, connection, method, version);
    case SRV_STAGE_BODY:
        if (*upload_size) {
            size_t n = *upload_size;
            *upload_size = 0;
            return on_body(j, connection, upload, n);
        }
        return on_body_end(j, connection);
    case SRV_STAGE_WAIT: return on_wake(j, connection);
    case SRV_STAGE_REPLIED: break;
    }
    return MHD_YES;
}

static void resume_connection(void *connection)
{
    MHD_resume_connection(connection);
}

/* The request line is in: the job begins, with the path as it came. */
static void *on_request_line(void *cls, const char *uri, struct MHD_Connection *connection)
{
    struct srv_http *h = cls;
    struct srv_job *j = srv_job_create(h->srv);
    if (!j) {
        return NULL;
    }
    j->path = strdup(uri);
    if (!j->path) {
        srv_job_unref(j);
        return NULL;
    }
    j->resume = resume_connection;
    srv_count(&h->srv->metrics.n_job);
    set_deadline_in(connection, h->srv->cfg->header_s * SECOND_US);
    return j;
}

static void on_request_done(void *cls, struct MHD_Connection *connection, void **req_cls,
                            enum MHD_RequestTerminationCode how)
{
    struct srv_http *h = cls;
    struct srv_job *j = *req_cls;
    if (!j) {
        return;
    }
    *req_cls = NULL;
    struct srv_conn *c = conn_of(connection);
    if (c) {
        srv_conn_clear_job(c);
        srv_conn_set_deadline(c, clock_mono_us() + h->srv->cfg->idle_s * SECOND_US);
    }
    (void)pthread_mutex_lock(&j->mu);
    j->connection = NULL;
    j->suspended = false;
    (void)pthread_mutex_unlock(&j->mu);
    if (how != MHD_REQUEST_TERMINATED_COMPLETED_OK) {
        srv_job_hangup(j);
    }
    (void)atomic_fetch_sub_explicit(&h->srv->metrics.n_job, 1, memory_order_relaxed);
    srv_job_unref(j);
}

static void on_connection(void *cls, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode how)
{
    struct srv_http *h = cls;
    if (how == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        int n_send = SEND_BUFFER_BYTES;
        (void)setsockopt(info->connect_fd, SOL_SOCKET, SO_SNDBUF, &n_send, sizeof n_send);
        struct srv_conn *c = srv_conn_open(h->conns, info->connect_fd);
        *socket_context = c;
        if (c) {
            srv_conn_set_deadline(c, clock_mono_us() + h->srv->cfg->header_s * SECOND_US);
            srv_count(&h->srv->metrics.n_connection);
        }
    } else if (*socket_context) {
        srv_conn_close(h->conns, *socket_context);
        *socket_context = NULL;
        (void)atomic_fetch_sub_explicit(&h->srv->metrics.n_connection, 1, memory_order_relaxed);
    }
}

/* The path stays as it came: routes are compared undecoded, before any key is looked at. */
static size_t keep_escapes(void *cls, struct MHD_Connection *connection, char *text)
{
    (void)cls;
    (void)connection;
    return strlen(text);
}

static void log_library(void *cls, const char *fmt, va_list ap)
    __attribute__((format(printf, 2, 0)));
static void log_library(void *cls, const char *fmt, va_list ap)
{
    (void)cls;
    char line[300];
    (void)vsnprintf(line, sizeof line, fmt, ap);
    line[strcspn(line, "\r\n")] = 0;
    log_debug("http: %s", line);
}

/* ---- opening the port */

static enum err_code listen_on(const char *host, uint64_t port, int *ret_fd, uint16_t *ret_port,
                               struct err *e)
{
    char service[8];
    int one = 1;
    int fd = -1;
    struct addrinfo *found = NULL;
    const struct addrinfo hints = {.ai_family = AF_UNSPEC,
                                   .ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    (void)snprintf(service, sizeof service, "%" PRIu64, port);
    int failed = getaddrinfo(host, service, &hints, &found);
    if (failed) {
        return err_set(e, ERR_IO, "host: %.80s: %s", host, gai_strerror(failed));
    }
    enum err_code code = ERR_OK;
    struct sockaddr_storage bound = {0};
    socklen_t n_bound = sizeof bound;
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0 ||
        getsockname(fd, (struct sockaddr *)&bound, &n_bound) != 0) {
        code = err_errno(e, ERR_IO, errno, "cannot listen on %.80s port %" PRIu64, host, port);
        if (fd >= 0) {
            (void)close(fd);
        }
    } else {
        *ret_fd = fd;
        *ret_port =
            ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&bound)->sin6_port
                                              : ((struct sockaddr_in *)(void *)&bound)->sin_port);
    }
    freeaddrinfo(found);
    return code;
}

enum err_code srv_http_start(struct srv *s, void (*on_tick)(void *arg), void *arg,
                             struct srv_http **ret_h, struct err *e)
{
    const struct cfg *cfg = s->cfg;
    int fd = -1;
    struct srv_http *h = calloc(1, sizeof *h);
    if (!h) {
        return err_set(e, ERR_NOMEM, "out of memory for the HTTP server");
    }
    h->srv = s;
    /* Each loop takes its share of the connections; accepting is uneven, so each may take half
     * more. */
    unsigned n_thread = (unsigned)(cfg->n_http_thread < cfg->n_connection ? cfg->n_http_thread : 1);
    unsigned n_max = (unsigned)cfg->n_connection;
    enum err_code code = listen_on(cfg->host, cfg->port, &fd, &h->port, e);
    if (code == ERR_OK) {
        code = srv_conns_start(n_max, cfg->ping_s * SECOND_US, &s->metrics, on_tick, arg, &h->conns,
                               e);
    }
    if (code != ERR_OK) {
        goto fail;
    }
    unsigned flags =
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC | MHD_USE_ERROR_LOG;
    h->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, on_request, h, MHD_OPTION_EXTERNAL_LOGGER, log_library, NULL,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_THREAD_POOL_SIZE, n_thread > 1 ? n_thread : 0u,
        MHD_OPTION_CONNECTION_LIMIT, n_max, MHD_OPTION_CONNECTION_TIMEOUT, 0u,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, POOL_BYTES, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes,
        NULL, MHD_OPTION_URI_LOG_CALLBACK, on_request_line, h, MHD_OPTION_NOTIFY_COMPLETED,
        on_request_done, h, MHD_OPTION_NOTIFY_CONNECTION, on_connection, h, MHD_OPTION_END);
    if (!h->daemon) {
        code =
            err_set(e, ERR_IO, "cannot start the HTTP server on %.80s port %u", cfg->host, h->port);
        goto fail;
    }
    *ret_h = h;
    return ERR_OK;
fail:
    if (fd >= 0) {
        (void)close(fd);
    }
    srv_conns_stop(h->conns);
    free(h);
    return code;
}

uint16_t srv_http_port(const struct srv_http *h)
{
    return h->port;
}

void srv_http_stop(struct srv_http *h, uint32_t wait_ms)
{
    if (!h) {
        return;
    }
    uint64_t until_us = clock_mono_us() + (uint64_t)wait_ms * 1000;
    while (clock_mono_us() < until_us &&
           atomic_load_explicit(&h->srv->metrics.n_job, memory_order_relaxed)) {
        clock_sleep_us(5000);
    }
    /* libmicrohttpd must not be stopped with connections asleep. */
    srv_conns_hang_up_all(h->conns);
    MHD_stop_daemon(h->daemon);
    srv_conns_stop(h->conns);
    free(h);
}
