#include "server/control.h"

#include "server/kv_facts.h"
#include "server/model.h"
#include "server/srv.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LOADING_RETRY_S 2

/* Status of the whole, as one word. */
static const char *health_word(struct srv *s)
{
    switch (srv_phase_of(s)) {
    case SRV_LOADING: return "loading";
    case SRV_READY: return atomic_load_explicit(&s->stuck, memory_order_relaxed) ? "stuck" : "ok";
    case SRV_DRAINING: return "draining";
    case SRV_STOPPED: break;
    }
    return "stopped";
}

/* Alive: the model answers, running answers are going on. A draining server is alive. */
static void put_health(struct srv *s, bool for_new_requests, struct buf *out,
                       struct srv_control_reply *ret)
{
    const char *word = health_word(s);
    bool good = strcmp(word, "ok") == 0 || (!for_new_requests && strcmp(word, "draining") == 0);
    ret->status = good ? 200 : 503;
    ret->retry_after_s = good ? 0 : LOADING_RETRY_S;
    buf_printf(out, "{\"status\":\"%s\"}", word);
}

static void put_model(const struct srv *s, uint32_t adapter, struct buf *out)
{
    const struct eng_info *info = &s->eng->info;
    const char *name = srv_model_name(s, adapter);
    buf_puts(out, "{\"id\":");
    buf_json_string(out, name, strlen(name));
    if (adapter) {
        buf_puts(out, ",\"parent\":");
        buf_json_string(out, s->model_name, strlen(s->model_name));
    }
    buf_printf(out,
               ",\"object\":\"model\",\"created\":%" PRId64
               ",\"owned_by\":\"kvasir\",\"max_model_len\":%u,\"meta\":{\"architecture\":",
               s->model_created_s, info->n_ctx);
    buf_json_string(out, info->arch, strlen(info->arch));
    buf_puts(out, ",\"format\":");
    buf_json_string(out, info->format, strlen(info->format));
    buf_printf(out,
               ",\"n_params\":%" PRIu64 ",\"size_bytes\":%" PRIu64
               ",\"n_vocab\":%u,\"n_ctx_train\":%u,\"n_embd\":%u}}",
               info->n_param, info->weights_bytes, info->n_vocab, info->n_ctx_train,
               s->embeds ? info->n_embd : 0);
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    char low = (char)(c | 0x20);
    return low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

/* Model names may hold slashes and spaces, which clients write as %2F and %20. */
static void percent_decode(const char *in, struct buf *out)
{
    for (; *in; in++) {
        int high = *in == '%' ? hex_value(in[1]) : -1;
        int low = high >= 0 ? hex_value(in[2]) : -1;
        if (low >= 0) {
            buf_putc(out, (char)(high * 16 + low));
            in += 2;
        } else {
            buf_putc(out, *in);
        }
    }
}

static bool put_one_model(struct srv *s, const char *encoded, struct buf *out, struct srv_fail *f)
{
    struct buf id = {0};
    percent_decode(encoded, &id);
    uint32_t adapter = 0;
    bool found = srv_model_find(s, buf_str(&id), id.len, &adapter);
    if (found) {
        put_model(s, adapter, out);
    } else {
        (void)srv_fail(f, 404, "model_not_found", "model",
                       "the model '%.100s' does not exist; this server has '%.100s'", buf_str(&id),
                       s->model_name);
    }
    buf_free(&id);
    return found;
}

bool srv_control(struct srv_job *j, struct buf *out, struct srv_control_reply *ret,
                 struct srv_fail *f)
{
    struct srv *s = j->srv;
    *ret = (struct srv_control_reply){.status = 200, .content = SRV_CONTENT_JSON};
    switch (j->route->action) {
    case SRV_ACTION_HEALTH: put_health(s, false, out, ret); return true;
    case SRV_ACTION_READY: put_health(s, true, out, ret); return true;
    case SRV_ACTION_METRICS:
        ret->content = SRV_CONTENT_METRICS;
        srv_metrics_page(s, out);
        return true;
    case SRV_ACTION_VERSION: buf_puts(out, "{\"version\":\"" KVASIR_VERSION "\"}"); return true;
    default: break;
    }
    if (srv_phase_of(s) == SRV_LOADING) {
        return srv_fail(f, 503, "model_loading", NULL, "the model is still loading");
    }
    if (j->route->action == SRV_ACTION_KV) {
        return srv_kv_facts(j, out, f);
    }
    if (j->route->action == SRV_ACTION_MODEL) {
        return put_one_model(s, j->path + strlen(j->route->path), out, f);
    }
    buf_puts(out, "{\"object\":\"list\",\"data\":[");
    for (uint32_t i = 0; i <= s->eng->info.n_adapter; i++) {
        buf_puts(out, i ? "," : "");
        put_model(s, i, out);
    }
    buf_puts(out, "]}");
    return true;
}
