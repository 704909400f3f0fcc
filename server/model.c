#include "server/model.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/host.h"
#include "base/log.h"
#include "base/units.h"
#include "server/answer.h"
#include "server/disk_room.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* When --kv-ram does not say: a share of free memory, but for small models no more than so many
 * times what all running sequences could fill, since each frame costs a little by itself. */
#define KV_SHARE_PERCENT 60
#define KV_FULL_TIMES    8
/* When --kv-disk does not say: beyond so many times the memory the index costs more than it finds.
 */
#define KV_DISK_BYTES_MAX ((uint64_t)64 << 30)
#define KV_DISK_TIMES     16
/* At the end, for KV that is not on disk yet. */
#define FLUSH_US 10000000

static const char *const kv_type_names[] = {"auto", "f32", "bf16", "int8"};

/* Weights that are mapped, not copied, still count as free memory: they are taken off here. */
static uint64_t default_kv_bytes(const struct eng_info *info, uint64_t n_running,
                                 uint64_t free_before)
{
    uint64_t most = UINT64_MAX;
    uint64_t weights = info->weights_bytes;
    uint64_t free_after = host_free_bytes();
    uint64_t left = free_before > weights ? free_before - weights : 0;
    uint64_t budget = left < free_after ? left : free_after;
    uint64_t least = 2 * (uint64_t)info->chunk_bytes;
    budget = budget / 100 * KV_SHARE_PERCENT;
    if (units_mul(KV_FULL_TIMES * n_running, info->n_ctx, &most) &&
        units_mul(most, info->kv_bytes_per_tok, &most) && budget > most) {
        budget = most;
    }
    return budget > least ? budget : least;
}

/* Where the KV of this model is kept on disk, if anywhere. */
static enum err_code disk_options(const struct srv *s, uint64_t ram_bytes,
                                  struct kv_disk_options *ret_o, struct err *e)
{
    const struct cfg *cfg = s->cfg;
    static const enum kv_backend backends[] = {KV_BACKEND_AUTO, KV_BACKEND_URING, KV_BACKEND_PREAD};
    struct kv_disk_options o = {.dir = cfg->kv_dir,
                                .cap_bytes = cfg->kv_disk_bytes,
                                .key_file = cfg->kv_key_file,
                                .backend = backends[cfg->kv_io]};
    if (!sch_can_share(s->eng)) {
        log_warn("kv-dir: no effect with this model, whose sequences share no KV");
        return ERR_OK;
    }
    if (!o.cap_bytes) {
        uint64_t room = srv_disk_room_bytes(o.dir);
        uint64_t most = KV_DISK_BYTES_MAX;
        most = ram_bytes < most / KV_DISK_TIMES ? ram_bytes * KV_DISK_TIMES : most;
        o.cap_bytes = room < most ? room : most;
    }
    enum err_code code = sch_kv_fingerprint(s->eng, o.fingerprint, e);
    if (code == ERR_OK) {
        *ret_o = o;
    }
    return code;
}

static enum err_code open_kv(struct srv *s, uint64_t free_before, struct err *e)
{
    const struct eng_info *info = &s->eng->info;
    uint64_t bytes = s->cfg->kv_ram_bytes ? s->cfg->kv_ram_bytes
                                          : default_kv_bytes(info, s->cfg->n_running, free_before);
    if (bytes < info->chunk_bytes) {
        return err_set(e, ERR_INVALID, "kv-ram: %" PRIu64 " bytes; this model needs at least %zu",
                       bytes, info->chunk_bytes);
    }
    struct kv_options options = {
        .ram_bytes = bytes,
        .chunk_tok = info->chunk_tok,
        .chunk_bytes = info->chunk_bytes,
        .n_seq_tok_max = info->n_ctx,
    };
    enum err_code code = s->cfg->kv_dir ? disk_options(s, bytes, &options.disk, e) : ERR_OK;
    return code == ERR_OK ? kv_store_create(&options, &s->kv, e) : code;
}

static enum err_code open_scheduler(struct srv *s, struct err *e)
{
    const struct cfg *cfg = s->cfg;
    uint64_t n_running = cfg->n_running;
    if (n_running > s->eng->info.n_step_out_max) {
        n_running = s->eng->info.n_step_out_max;
    }
    const struct sch_options options = {
        .eng = s->eng,
        .kv = s->kv,
        .n_queued_max = (uint32_t)cfg->n_queued,
        .n_running_max = (uint32_t)n_running,
        .n_step_tok_max = (uint32_t)cfg->n_step_tok,
        .itl_target_us = (uint32_t)(cfg->itl_ms * 1000),
        .n_event_max = SRV_EVENT_RING,
        .reader_stall_us = cfg->stall_s * 1000000,
        .prefix_cache = cfg->prefix_cache == CFG_ON,
        .kv_flush_us = FLUSH_US,
    };
    enum err_code code = sch_create(&options, &s->sch, e);
    return code == ERR_OK ? sch_start(s->sch, e) : code;
}

/* The option, else what the model's file says; a decoder whose file is silent gives its last row,
 * which alone has seen the whole text. */
static void choose_pooling(struct srv *s)
{
    static const enum eng_pooling chosen[] = {ENG_POOLING_NONE, ENG_POOLING_MEAN, ENG_POOLING_CLS,
                                              ENG_POOLING_LAST, ENG_POOLING_NONE};
    const struct eng_info *info = &s->eng->info;
    s->embeds = info->n_embd && s->cfg->pooling != CFG_POOLING_OFF;
    s->pooling = chosen[s->cfg->pooling];
    if (s->cfg->pooling == CFG_POOLING_AUTO) {
        s->pooling = info->pooling != ENG_POOLING_NONE ? info->pooling
                     : info->encoder                   ? ENG_POOLING_MEAN
                                                       : ENG_POOLING_LAST;
    }
}

/* What makes answers comparable: the model and the arithmetic that ran it. */
static void make_fingerprint(struct srv *s)
{
    const struct eng_info *info = &s->eng->info;
    char text[512];
    uint8_t digest[SHA256_BYTES];
    int n = snprintf(text, sizeof text, "%s|%s|%s|%s|%" PRIu64 "|%d|%s", KVASIR_VERSION, info->name,
                     info->format, info->isa, info->n_param, (int)info->kv_type, info->arch);
    hash_sha256(text, n > 0 && (size_t)n < sizeof text ? (size_t)n : sizeof text - 1, digest);
    (void)snprintf(s->fingerprint, sizeof s->fingerprint, "fp_%02x%02x%02x%02x%02x", digest[0],
                   digest[1], digest[2], digest[3], digest[4]);
}

static void print_summary(const struct srv *s, uint64_t load_us)
{
    const struct eng_info *info = &s->eng->info;
    char weights[32];
    char kv[32];
    char per_tok[32];
    struct kv_stats stats;
    kv_get_stats(s->kv, &stats);
    bool small = info->n_param < 1000000000;
    log_info("model %s: %s %s, %.3g %s parameters, %s of weights, ready in %.1f s", s->model_name,
             info->arch, info->format, (double)info->n_param / (small ? 1e6 : 1e9),
             small ? "million" : "billion",
             units_format_bytes(info->weights_bytes, weights, sizeof weights),
             (double)load_us / 1e6);
    log_info("compute: %s kernels, %u threads; context %u tokens (trained for %u)", info->isa,
             info->n_thread, info->n_ctx, info->n_ctx_train);
    log_info("KV memory: %s holds %" PRIu64 " tokens (%s, %s per token)",
             units_format_bytes(stats.n_frame_total * (uint64_t)stats.chunk_bytes, kv, sizeof kv),
             stats.n_frame_total * stats.chunk_tok, kv_type_names[info->kv_type],
             units_format_bytes(info->kv_bytes_per_tok, per_tok, sizeof per_tok));
    if (s->cfg->kv_dir && stats.n_slot) {
        log_info("KV on disk: %s for %" PRIu64 " tokens in %s",
                 units_format_bytes(stats.n_slot * (uint64_t)stats.chunk_bytes, kv, sizeof kv),
                 stats.n_slot * stats.chunk_tok, s->cfg->kv_dir);
    }
    if (info->n_ctx > info->n_ctx_train && info->n_ctx_train) {
        log_warn("ctx: %u is beyond the %u tokens the model was trained for; answers may degrade",
                 info->n_ctx, info->n_ctx_train);
    }
    if (stats.n_frame_total * stats.chunk_tok < info->n_ctx) {
        log_warn("kv-ram: too small for one sequence of the whole context; longer requests are "
                 "refused");
    }
}

static const char *file_name(const struct srv *s)
{
    const char *path = s->cfg->model ? s->cfg->model : "";
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The file's name without ".gguf"; an engine that came without a file has a name of its own. */
static char *name_of(const struct srv *s)
{
    const char *file = file_name(s);
    size_t n = strlen(file);
    static const char suffix[] = ".gguf";
    if (s->cfg->alias || !n) {
        return strdup(s->cfg->alias ? s->cfg->alias : s->eng->info.name);
    }
    size_t n_suffix = sizeof suffix - 1;
    bool has_suffix = n > n_suffix && strcmp(file + n - n_suffix, suffix) == 0;
    return strndup(file, has_suffix ? n - n_suffix : n);
}

static bool same(const char *a, const char *name, size_t n)
{
    return strlen(a) == n && memcmp(a, name, n) == 0;
}

static bool is_base(const struct srv *s, const char *name, size_t n)
{
    return same(s->model_name, name, n) || (n && same(file_name(s), name, n)) ||
           same(s->eng->info.name, name, n);
}

uint32_t srv_model_adapter(const struct srv *s, const char *name, size_t n)
{
    const struct eng_info *info = &s->eng->info;
    for (uint32_t i = 0; i < info->n_adapter; i++) {
        if (same(info->adapters[i].name, name, n)) {
            return i + 1;
        }
    }
    return 0;
}

bool srv_model_find(const struct srv *s, const char *name, size_t n, uint32_t *ret_adapter)
{
    size_t n_base = n; /* adapters' names have no colon */
    while (n_base && name[n_base - 1] != ':') {
        n_base--;
    }
    uint32_t adapter = n_base ? srv_model_adapter(s, name + n_base, n - n_base) : 0;
    bool with = adapter && is_base(s, name, n_base - 1);
    bool found = with || is_base(s, name, n);
    if (found) {
        *ret_adapter = with ? adapter : 0;
    }
    return found;
}

const char *srv_model_name(const struct srv *s, uint32_t adapter)
{
    return adapter ? s->adapter_names[adapter - 1] : s->model_name;
}

/* "MODEL:ADAPTER" of each. */
static enum err_code name_adapters(struct srv *s, struct err *e)
{
    const struct eng_info *info = &s->eng->info;
    bool good = true;
    s->adapter_names = calloc(info->n_adapter + 1, sizeof(char *));
    for (uint32_t i = 0; s->adapter_names && i < info->n_adapter; i++) {
        size_t n = strlen(s->model_name) + strlen(info->adapters[i].name) + 2;
        char *name = malloc(n);
        if (name) {
            (void)snprintf(name, n, "%s:%s", s->model_name, info->adapters[i].name);
            log_info("adapter %s", name);
        }
        good = good && name;
        s->adapter_names[i] = name;
    }
    return good && s->adapter_names ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a name");
}

enum err_code srv_model_open(struct srv *s, srv_open_fn *open, struct err *e)
{
    uint64_t begin_us = clock_mono_us();
    uint64_t free_before = host_free_bytes();
    enum err_code code = open(s->cfg, &s->eng, e);
    if (code == ERR_OK) {
        s->model_name = name_of(s);
        code = s->model_name ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a name");
    }
    if (code == ERR_OK) {
        code = name_adapters(s, e);
    }
    if (code == ERR_OK) {
        code = srv_sampling_make(s->cfg->sampling, &s->eng->info.sampling, &s->sampling, e);
    }
    if (code == ERR_OK) {
        code = open_kv(s, free_before, e);
    }
    if (code == ERR_OK) {
        code = open_scheduler(s, e);
    }
    if (code != ERR_OK) {
        srv_model_close(s);
        return code;
    }
    s->model_created_s = clock_unix_s();
    make_fingerprint(s);
    choose_pooling(s);
    srv_tools_learn(s->eng, &s->tools);
    print_summary(s, clock_mono_us() - begin_us);
    return ERR_OK;
}

void srv_model_drain(struct srv *s)
{
    sch_stop(s->sch, s->cfg->drain_s * 1000000);
}

void srv_model_close(struct srv *s)
{
    sch_destroy(s->sch);
    kv_store_destroy(s->kv);
    for (uint32_t i = 0; s->adapter_names && i < s->eng->info.n_adapter; i++) {
        free(s->adapter_names[i]);
    }
    free(s->adapter_names);
    eng_close(s->eng);
    free(s->model_name);
    s->adapter_names = NULL;
    s->sch = NULL;
    s->kv = NULL;
    s->eng = NULL;
    s->model_name = NULL;
}
