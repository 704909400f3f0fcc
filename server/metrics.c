#include "server/metrics.h"

#include "base/clock.h"
#include "base/host.h"
#include "server/srv.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#ifdef HAVE_JEMALLOC
#include <jemalloc/jemalloc.h>
#endif

static const uint64_t size_bounds[SRV_SIZE_BUCKETS - 1] = {
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000};

void srv_size_hist_add(struct srv_size_hist *h, uint64_t v)
{
    size_t i = 0;
    while (i < SRV_SIZE_BUCKETS - 1 && v > size_bounds[i]) {
        i++;
    }
    srv_count(&h->n_by_bucket[i]);
    (void)atomic_fetch_add_explicit(&h->sum, v, memory_order_relaxed);
}

uint64_t srv_n_unfinished(const struct sch_stats *st)
{
    uint64_t n_finished = 0;
    for (size_t i = 0; i < sizeof st->n_finished / sizeof *st->n_finished; i++) {
        n_finished += st->n_finished[i];
    }
    return st->n_submitted > n_finished ? st->n_submitted - n_finished : 0;
}

/* ---- writing: every sample carries the model's name, as vLLM's do */

struct page {
    struct buf *out;
    struct buf labels; /* model_name="…" */
};

static void head(struct page *p, const char *name, const char *type, const char *help)
{
    buf_printf(p->out, "# HELP kvasir_%s %s\n# TYPE kvasir_%s %s\n", name, help, name, type);
}

static void sample(struct page *p, const char *name, const char *more_labels, double v)
{
    buf_printf(p->out, "kvasir_%s{%s%s} %.17g\n", name, buf_str(&p->labels), more_labels, v);
}

static void single(struct page *p, const char *name, const char *type, const char *help, double v)
{
    head(p, name, type, help);
    sample(p, name, "", v);
}

static uint64_t read_counter(atomic_uint_fast64_t *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}

static void put_bucket(struct page *p, const char *name, double bound, uint64_t n)
{
    buf_printf(p->out, "kvasir_%s_bucket{%s,le=\"%.10g\"} %" PRIu64 "\n", name, buf_str(&p->labels),
               bound, n);
}

static void put_tail(struct page *p, const char *name, double sum, uint64_t n)
{
    buf_printf(p->out,
               "kvasir_%s_bucket{%s,le=\"+Inf\"} %" PRIu64 "\nkvasir_%s_sum{%s} %.17g\n"
               "kvasir_%s_count{%s} %" PRIu64 "\n",
               name, buf_str(&p->labels), n, name, buf_str(&p->labels), sum, name,
               buf_str(&p->labels), n);
}

/* The scheduler's times are in µs; Prometheus wants seconds. */
static void time_hist(struct page *p, const char *name, const char *help, const struct sch_hist *h)
{
    uint64_t n = 0;
    head(p, name, "histogram", help);
    for (size_t i = 0; i + 1 < SCH_HIST_BUCKETS; i++) {
        n += h->n_by_bucket[i];
        put_bucket(p, name, (double)sch_hist_bounds_us[i] / 1e6, n);
    }
    n += h->n_by_bucket[SCH_HIST_BUCKETS - 1];
    put_tail(p, name, (double)h->sum_us / 1e6, n);
}

static void size_hist(struct page *p, const char *name, const char *help, struct srv_size_hist *h)
{
    uint64_t n = 0;
    head(p, name, "histogram", help);
    for (size_t i = 0; i + 1 < SRV_SIZE_BUCKETS; i++) {
        n += read_counter(&h->n_by_bucket[i]);
        put_bucket(p, name, (double)size_bounds[i], n);
    }
    n += read_counter(&h->n_by_bucket[SRV_SIZE_BUCKETS - 1]);
    put_tail(p, name, (double)read_counter(&h->sum), n);
}

static void put_finishes(struct page *p, const struct sch_stats *st)
{
    static const char *const words[] = {NULL, "stop", "length", "abort", "error"};
    head(p, "request_success_total", "counter", "Sequences ended, by how.");
    for (size_t i = 1; i < sizeof words / sizeof *words; i++) {
        char label[48];
        (void)snprintf(label, sizeof label, ",finished_reason=\"%s\"", words[i]);
        sample(p, "request_success_total", label, (double)st->n_finished[i]);
    }
}

static void put_frames(struct page *p, const struct kv_stats *kv)
{
    const struct {
        const char *state;
        uint64_t n;
    } states[] = {{"free", kv->n_frame_free},
                  {"active", kv->n_frame_active},
                  {"cached", kv->n_frame_cached},
                  {"loading", kv->n_frame_loading},
                  {"writing", kv->n_frame_writing}};
    head(p, "kv_frames", "gauge", "Frames of KV memory by state; they add up to kv_frames_total.");
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        char label[40];
        (void)snprintf(label, sizeof label, ",state=\"%s\"", states[i].state);
        sample(p, "kv_frames", label, (double)states[i].n);
    }
    single(p, "kv_frames_total", "gauge", "Frames of KV memory.", (double)kv->n_frame_total);
    single(p, "kv_frame_bytes", "gauge", "Bytes of one frame.", (double)kv->chunk_bytes);
    single(p, "kv_frame_tokens", "gauge", "Tokens of one frame.", (double)kv->chunk_tok);
    single(p, "kv_mappings", "gauge", "Memory mappings the KV store uses.", (double)kv->n_vma);
    single(p, "kv_sequences", "gauge", "Sequences with a KV range.", (double)kv->n_seq);
    uint64_t used = kv->n_frame_total - kv->n_frame_free - kv->n_frame_cached;
    single(p, "kv_cache_usage_perc", "gauge", "Share of KV memory in use by running sequences.",
           kv->n_frame_total ? (double)used / (double)kv->n_frame_total : 0);
}

static void tiers(struct page *p, const char *name, const char *help, uint64_t n_ram,
                  uint64_t n_disk)
{
    head(p, name, "counter", help);
    sample(p, name, ",tier=\"ram\"", (double)n_ram);
    sample(p, name, ",tier=\"disk\"", (double)n_disk);
}

static void put_cache(struct page *p, const struct sch_stats *st)
{
    const struct kv_stats *kv = &st->kv;
    single(p, "prompt_tokens_cached_total", "counter", "Prompt tokens found in the cache.",
           (double)st->n_cached_tok);
    single(p, "prefix_cache_queries_total", "counter", "Tokens looked up in the prefix cache.",
           (double)st->n_prompt_tok);
    single(p, "prefix_cache_hits_total", "counter", "Tokens found in the prefix cache.",
           (double)st->n_cached_tok);
    tiers(p, "prefix_cache_hits_by_tier_total", "Tokens found, by where they were.",
          st->n_cached_tok - st->n_cached_disk_tok, st->n_cached_disk_tok);
    single(p, "recomputed_tokens_total", "counter",
           "Tokens computed again because the sequence had given its memory back.",
           (double)st->n_recomputed_tok);
    tiers(p, "kv_evictions_total", "Chunks evicted, by from where.", kv->n_evict_ram,
          kv->n_evict_disk);
    single(p, "kv_chunks", "gauge", "Chunks the prefix index knows.", (double)kv->n_node);
    single(p, "kv_copies_total", "counter", "Chunks copied where a sequence left a shared one.",
           (double)kv->n_copy);
    single(p, "kv_expired_total", "counter", "Chunks forgotten by age.", (double)kv->n_expired);
    single(p, "kv_frames_pinned", "gauge", "Frames held against eviction.",
           (double)kv->n_frame_pinned);
}

static void put_disk(struct page *p, const struct kv_stats *kv)
{
    single(p, "kv_disk_up", "gauge", "1 while KV is read from and written to disk.",
           kv->disk_is_open && !kv->disk_is_paused);
    single(p, "kv_disk_slots", "gauge", "Chunks the disk has room for.", (double)kv->n_slot);
    single(p, "kv_disk_slots_used", "gauge", "Chunks on disk.", (double)kv->n_slot_used);
    single(p, "kv_disk_bytes", "gauge", "Bytes of the files on disk.", (double)kv->disk_bytes);
    single(p, "kv_disk_reads_total", "counter", "Chunks read.", (double)kv->n_disk_read);
    single(p, "kv_disk_writes_total", "counter", "Chunks written.", (double)kv->n_disk_write);
    single(p, "kv_disk_writes_dropped_total", "counter", "Chunks not written: no room, no worth.",
           (double)kv->n_disk_write_dropped);
    single(p, "kv_disk_queue", "gauge", "Chunks to be written.", (double)kv->n_disk_queued);
    single(p, "kv_disk_corrupt_total", "counter", "Chunks that failed verification.",
           (double)kv->n_disk_corrupt);
    single(p, "kv_disk_errors_total", "counter", "Reads and writes that failed.",
           (double)kv->n_disk_error);
    single(p, "kv_disk_late_total", "counter", "Reads and writes past their deadline.",
           (double)kv->n_disk_late);
}

static void put_scheduler(struct page *p, const struct sch_stats *st)
{
    single(p, "num_requests_running", "gauge", "Sequences running.", (double)st->n_running);
    uint64_t n_open = srv_n_unfinished(st);
    single(p, "num_requests_waiting", "gauge", "Sequences submitted and not running.",
           n_open > st->n_running ? (double)(n_open - st->n_running) : 0);
    single(p, "num_requests_submitted_total", "counter", "Sequences submitted.",
           (double)st->n_submitted);
    single(p, "admission_rejections_total", "counter", "Sequences refused.",
           (double)st->n_rejected);
    single(p, "num_preemptions_total", "counter",
           "Sequences that gave their memory back to run on "
           "later.",
           (double)st->n_preempted);
    single(p, "prompt_tokens_total", "counter", "Prompt tokens taken in.",
           (double)st->n_prompt_tok);
    single(p, "generation_tokens_total", "counter", "Tokens generated.", (double)st->n_gen_tok);
    single(p, "steps_total", "counter", "Steps of the model.", (double)st->n_step);
    single(p, "last_step_age_seconds", "gauge", "Since a step of the model last ended.",
           st->last_step_end_us ? (double)(clock_mono_us() - st->last_step_end_us) / 1e6 : 0);
    put_finishes(p, st);
    time_hist(p, "time_to_first_token_seconds", "From submission to the first token.", &st->ttft);
    time_hist(p, "inter_token_latency_seconds", "Between two tokens of a sequence.", &st->itl);
    time_hist(p, "e2e_request_latency_seconds", "From submission to the end.", &st->e2e);
    time_hist(p, "request_queue_time_seconds", "From submission to running.", &st->queue);
    time_hist(p, "step_duration_seconds", "One step of the model.", &st->step);
    put_cache(p, st);
    put_frames(p, &st->kv);
    put_disk(p, &st->kv);
}

static void put_http(struct page *p, struct srv_metrics *m)
{
    head(p, "http_requests_total", "counter", "HTTP replies by class of status.");
    for (int i = 2; i < 6; i++) {
        char label[32];
        (void)snprintf(label, sizeof label, ",status=\"%dxx\"", i);
        sample(p, "http_requests_total", label, (double)read_counter(&m->n_by_status[i]));
    }
    single(p, "http_connections", "gauge", "Open connections.",
           (double)read_counter(&m->n_connection));
    single(p, "http_requests_in_flight", "gauge", "Requests not yet answered to the end.",
           (double)read_counter(&m->n_job));
    single(p, "http_request_bytes_total", "counter", "Bytes of request bodies.",
           (double)read_counter(&m->n_request_byte));
    single(p, "http_disconnects_total", "counter", "Clients that left before their answer ended.",
           (double)read_counter(&m->n_disconnect));
    single(p, "http_slow_connections_cut_total", "counter", "Connections closed by a deadline.",
           (double)read_counter(&m->n_cut_slow));
    single(p, "http_auth_failures_total", "counter", "Requests with a wrong key or none.",
           (double)read_counter(&m->n_auth_fail));
    size_hist(p, "request_prompt_tokens", "Prompt tokens of a sequence.", &m->prompt_tok);
    size_hist(p, "request_generation_tokens", "Tokens generated by a sequence.", &m->gen_tok);
    size_hist(p, "request_params_n", "Choices of a request.", &m->n_choice);
}

static void put_allocator(struct page *p)
{
#ifdef HAVE_JEMALLOC
    static const char *const names[] = {"allocated", "active", "resident", "mapped", "retained"};
    uint64_t epoch = 1;
    size_t n_epoch = sizeof epoch;
    (void)mallctl("epoch", &epoch, &n_epoch, &epoch, n_epoch); /* refreshes the figures */
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char key[32];
        char name[48];
        size_t v = 0;
        size_t n = sizeof v;
        (void)snprintf(key, sizeof key, "stats.%s", names[i]);
        (void)snprintf(name, sizeof name, "jemalloc_%s_bytes", names[i]);
        if (mallctl(key, &v, &n, NULL, 0) == 0) {
            single(p, name, "gauge", "jemalloc's statistic of this name.", (double)v);
        }
    }
#else
    (void)p;
#endif
}

/* A label's value: backslash, quote and newline are escaped. */
static void put_label(struct buf *out, const char *s)
{
    for (; *s; s++) {
        if (*s == '\n') {
            buf_puts(out, "\\n");
            continue;
        }
        if (*s == '\\' || *s == '"') {
            buf_putc(out, '\\');
        }
        buf_putc(out, *s);
    }
}

void srv_metrics_page(struct srv *s, struct buf *out)
{
    struct page p = {.out = out};
    enum srv_phase phase = srv_phase_of(s);
    bool loaded = phase >= SRV_READY && s->sch;
    buf_puts(&p.labels, "model_name=\"");
    put_label(&p.labels, loaded ? s->model_name : "");
    buf_putc(&p.labels, '"');

    single(&p, "up", "gauge", "1 while requests are taken.", phase == SRV_READY);
    single(&p, "process_start_time_seconds", "gauge", "When the process started, Unix time.",
           (double)s->metrics.start_unix_s);
    single(&p, "process_resident_memory_bytes", "gauge", "Resident memory of the process.",
           (double)host_rss_bytes());
    put_http(&p, &s->metrics);
    if (loaded) {
        struct sch_stats st = {0};
        sch_get_stats(s->sch, &st);
        put_scheduler(&p, &st);
    }
    put_allocator(&p);
    buf_free(&p.labels);
}
