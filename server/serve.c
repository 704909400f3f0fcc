#include "server/serve.h"

#include "base/clock.h"
#include "base/log.h"
#include "server/answer.h"
#include "server/auth.h"
#include "server/http.h"
#include "server/model.h"
#include "server/prep.h"
#include "server/srv.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define LAST_REPLIES_MS 5000 /* for replies under way when the scheduler has ended */
#define FD_RESERVE      64   /* beside connections: model, logs, eventfds */
#define POLL_MS         100

struct life {
    struct srv srv;
    struct cfg cfg; /* the caller's, with what this machine allows */
    srv_open_fn *open;
    pthread_t loader;
    pthread_t drainer;
    atomic_bool load_failed;
    atomic_bool drained;
    /* Of the watch's thread: when work was last seen to move. */
    uint64_t n_step_seen;
    uint64_t moved_us;
};

/* ---- the heartbeat, several times a second */

static void on_tick(void *arg)
{
    struct life *l = arg;
    struct srv *s = &l->srv;
    struct sch_stats st;
    uint64_t now_us = clock_mono_us();
    if (srv_phase_of(s) != SRV_READY) {
        return;
    }
    sch_get_stats(s->sch, &st);
    if (st.n_step != l->n_step_seen || !srv_n_unfinished(&st)) {
        l->n_step_seen = st.n_step;
        l->moved_us = now_us;
    }
    bool stuck = now_us - l->moved_us > s->cfg->stuck_s * 1000000;
    if (stuck && !atomic_exchange_explicit(&s->stuck, stuck, memory_order_relaxed)) {
        log_error("no step has ended for %" PRIu64 " s although work waits", s->cfg->stuck_s);
    } else if (!stuck) {
        atomic_store_explicit(&s->stuck, false, memory_order_relaxed);
    }
}

/* ---- loading and draining, each on a thread of its own */

/* A name that can stand between quotes in a shell's and in Python's strings as it is. */
static bool is_plain(const char *name)
{
    return !name[strspn(name,
                        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/: ")];
}

/* Where it listens, and two lines that work when pasted. */
static void print_address(const struct srv *s)
{
    const struct cfg *cfg = s->cfg;
    bool v6 = strchr(cfg->host, ':') != NULL;
    bool any = strcmp(cfg->host, "0.0.0.0") == 0 || strcmp(cfg->host, "::") == 0;
    const char *host = any ? "127.0.0.1" : cfg->host;
    struct buf url = {0};
    buf_printf(&url, "http://%s%s%s:%u", v6 && !any ? "[" : "", host, v6 && !any ? "]" : "",
               srv_http_port(s->http));
    log_info("ready: %s", buf_str(&url));
    bool encoder = s->eng->info.encoder;
    log_info("try: curl %s/v1/%s -H 'Content-Type: application/json' %s-d '%s'", buf_str(&url),
             encoder ? "embeddings" : "chat/completions",
             cfg->api_key_file ? "-H \"Authorization: Bearer $KEY\" " : "",
             encoder ? "{\"input\":\"Hello\"}"
                     : "{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}],"
                       "\"max_tokens\":64}");
    if (!encoder && is_plain(s->model_name)) {
        log_info("or: python3 -c \"from openai import OpenAI; print(OpenAI(base_url='%s/v1', "
                 "api_key='%s').chat.completions.create(model='%s', max_tokens=64, "
                 "messages=[{'role': 'user', 'content': 'Hello'}]).choices[0].message.content)\"",
                 buf_str(&url), cfg->api_key_file ? "$KEY" : "none", s->model_name);
    }
    buf_free(&url);
}

static void *run_loader(void *arg)
{
    struct life *l = arg;
    struct srv *s = &l->srv;
    struct err e = {0};
    if (srv_model_open(s, l->open, &e) != ERR_OK) {
        log_error("%s", e.msg);
        atomic_store_explicit(&l->load_failed, true, memory_order_release);
        (void)kill(getpid(), SIGTERM);
        return NULL;
    }
    /* release: whoever reads the phase sees the model */
    int loading = SRV_LOADING;
    if (atomic_compare_exchange_strong_explicit(&s->phase, &loading, SRV_READY,
                                                memory_order_release, memory_order_relaxed)) {
        print_address(s);
    }
    return NULL;
}

static void *run_drainer(void *arg)
{
    struct life *l = arg;
    struct srv *s = &l->srv;
    (void)pthread_join(l->loader, NULL);
    if (s->sch) {
        srv_model_drain(s);
    }
    srv_http_stop(s->http, LAST_REPLIES_MS);
    atomic_store_explicit(&l->drained, true, memory_order_release);
    return NULL;
}

/* ---- signals */

static void reload_keys(struct srv *s)
{
    struct err e = {0};
    if (srv_auth_reload(s->auth, &e) != ERR_OK) {
        log_error("%s; the keys stay as they were", e.msg);
    } else {
        log_info("API keys read again");
    }
}

/* Returns once everything has ended. */
static void serve_signals(struct life *l, const sigset_t *set)
{
    const struct timespec tick = {.tv_nsec = POLL_MS * 1000000L};
    bool draining = false;
    while (!atomic_load_explicit(&l->drained, memory_order_acquire)) {
        int sig = sigtimedwait(set, NULL, &tick);
        if (sig == SIGHUP) {
            reload_keys(&l->srv);
        }
        if (sig != SIGTERM && sig != SIGINT) {
            continue;
        }
        if (draining) {
            log_warn("ended at once");
            _exit(atomic_load_explicit(&l->load_failed, memory_order_acquire) ? 1 : 128 + sig);
        }
        draining = true;
        if (!atomic_load_explicit(&l->load_failed, memory_order_acquire)) {
            log_info("draining: running answers have %" PRIu64 " s; again to end at once",
                     l->srv.cfg->drain_s);
        }
        atomic_store_explicit(&l->srv.phase, SRV_DRAINING, memory_order_release);
        int failed = pthread_create(&l->drainer, NULL, run_drainer, l);
        if (failed) {
            log_error("cannot drain: %s", strerror(failed));
            _exit(1);
        }
    }
    if (draining) {
        (void)pthread_join(l->drainer, NULL);
    }
}

/* ---- start */

/* As many connections as the process may have files. */
static void fit_connections(struct cfg *cfg)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return;
    }
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    uint64_t room = limit.rlim_cur > FD_RESERVE ? limit.rlim_cur - FD_RESERVE : 1;
    if (limit.rlim_cur != RLIM_INFINITY && cfg->n_connection > room) {
        log_warn("connections: %" PRIu64 " instead of %" PRIu64
                 ", since the process may open %" PRIu64 " files (ulimit -n)",
                 room, cfg->n_connection, (uint64_t)limit.rlim_cur);
        cfg->n_connection = room;
    }
}

static enum err_code start(struct life *l, struct err *e)
{
    struct srv *s = &l->srv;
    const struct cfg *cfg = s->cfg;
    enum err_code code = srv_auth_create(cfg->api_key_file, &s->auth, e);
    if (code == ERR_OK) {
        code = srv_answerer_start(&s->answerer, e);
    }
    if (code == ERR_OK) {
        code = srv_prep_start(cfg->n_prep_thread, cfg->n_connection, &s->prep, e);
    }
    if (code == ERR_OK) {
        code = srv_http_start(s, on_tick, l, &s->http, e);
    }
    if (code != ERR_OK) {
        return code;
    }
    log_info("listening on %s port %u", cfg->host, srv_http_port(s->http));
    int failed = pthread_create(&l->loader, NULL, run_loader, l);
    return failed ? err_errno(e, ERR_IO, failed, "loader thread") : ERR_OK;
}

int srv_run(const struct cfg *cfg, srv_open_fn *open)
{
    struct err e = {0};
    sigset_t set;
    int status = 0;
    log_init((enum log_level)cfg->log_level, cfg->log_format == CFG_LOG_JSON);
    struct life *l = calloc(1, sizeof *l);
    if (!l) {
        log_error("out of memory");
        return 1;
    }
    /* Blocked in every thread: signals are taken by serve_signals alone. */
    (void)signal(SIGPIPE, SIG_IGN);
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL);
    l->cfg = *cfg;
    l->open = open;
    l->moved_us = clock_mono_us();
    l->srv.cfg = &l->cfg;
    l->srv.metrics.start_unix_s = (uint64_t)clock_unix_s();
    fit_connections(&l->cfg);
    if (start(l, &e) != ERR_OK) {
        log_error("%s", e.msg);
        srv_http_stop(l->srv.http, 0);
        status = 1;
    } else {
        serve_signals(l, &set);
        status = atomic_load_explicit(&l->load_failed, memory_order_acquire) ? 1 : 0;
    }
    srv_prep_stop(l->srv.prep);
    srv_answerer_stop(l->srv.answerer);
    srv_model_close(&l->srv);
    srv_auth_destroy(l->srv.auth);
    free(l);
    if (status == 0) {
        log_info("stopped");
    }
    return status;
}
