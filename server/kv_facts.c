#include "server/kv_facts.h"

#include "server/srv.h"

#include <inttypes.h>
#include <string.h>

#define ADMIN "admin"

struct fact {
    const char *name;
    uint64_t v;
};

static void put_facts(const char *name, const struct fact *facts, size_t n, struct buf *out)
{
    buf_printf(out, ",\"%s\":{", name);
    for (size_t i = 0; i < n; i++) {
        buf_printf(out, "%s\"%s\":%" PRIu64, i ? "," : "", facts[i].name, facts[i].v);
    }
    buf_putc(out, '}');
}

#define PUT(NAME, FACTS, OUT) put_facts(NAME, FACTS, sizeof FACTS / sizeof *FACTS, OUT)

static double share(uint64_t part, uint64_t whole)
{
    return whole ? (double)part / (double)whole : 0;
}

static void put_disk(const struct srv *s, const struct kv_stats *kv, struct buf *out)
{
    const struct fact slots[] = {
        {"total", kv->n_slot}, {"used", kv->n_slot_used}, {"pinned", kv->n_slot_pinned}};
    const struct fact io[] = {
        {"reads", kv->n_disk_read},      {"writes", kv->n_disk_write},
        {"queued", kv->n_disk_queued},   {"writes_dropped", kv->n_disk_write_dropped},
        {"evictions", kv->n_evict_disk}, {"corrupt", kv->n_disk_corrupt},
        {"errors", kv->n_disk_error},    {"late", kv->n_disk_late}};
    const char *dir = s->cfg->kv_dir;
    if (!dir || !kv->n_slot) {
        buf_puts(out, ",\"disk\":null");
        return;
    }
    const char *state = !kv->disk_is_open ? "locked" : kv->disk_is_paused ? "paused" : "open";
    buf_puts(out, ",\"disk\":{\"dir\":");
    buf_json_string(out, dir, strlen(dir));
    buf_printf(out, ",\"state\":\"%s\",\"bytes\":%" PRIu64, state, kv->disk_bytes);
    PUT("slots", slots, out);
    PUT("chunks", io, out);
    buf_putc(out, '}');
}

bool srv_kv_facts(const struct srv_job *j, struct buf *out, struct srv_fail *f)
{
    const struct srv *s = j->srv;
    struct sch_stats st;
    if (s->cfg->api_key_file && strcmp(j->tenant, ADMIN) != 0) {
        return srv_fail(f, 403, "admin_key_required", NULL,
                        "this needs the API key named " ADMIN " in the key file");
    }
    sch_get_stats(s->sch, &st);
    const struct kv_stats *kv = &st.kv;
    const struct fact frames[] = {
        {"total", kv->n_frame_total},     {"free", kv->n_frame_free},
        {"active", kv->n_frame_active},   {"cached", kv->n_frame_cached},
        {"loading", kv->n_frame_loading}, {"writing", kv->n_frame_writing},
        {"pinned", kv->n_frame_pinned}};
    const struct fact ram[] = {{"frame_bytes", kv->chunk_bytes},
                               {"frame_tokens", kv->chunk_tok},
                               {"mappings", kv->n_vma},
                               {"sequences", kv->n_seq},
                               {"evictions", kv->n_evict_ram},
                               {"copies", kv->n_copy},
                               {"preemptions", st.n_preempted},
                               {"expired", kv->n_expired},
                               {"recomputed_tokens", st.n_recomputed_tok}};
    const struct fact tokens[] = {{"prompt", st.n_prompt_tok},
                                  {"cached", st.n_cached_tok},
                                  {"cached_ram", st.n_cached_tok - st.n_cached_disk_tok},
                                  {"cached_disk", st.n_cached_disk_tok}};
    buf_printf(out, "{\"object\":\"kv\",\"prefix_cache\":%s,\"chunks\":%" PRIu64,
               s->cfg->prefix_cache == CFG_ON && sch_can_share(s->eng) ? "true" : "false",
               kv->n_node);
    PUT("frames", frames, out);
    PUT("ram", ram, out);
    PUT("tokens", tokens, out);
    buf_printf(out, ",\"hit_rate\":{\"ram\":%.6f,\"disk\":%.6f}",
               share(st.n_cached_tok - st.n_cached_disk_tok, st.n_prompt_tok),
               share(st.n_cached_disk_tok, st.n_prompt_tok));
    put_disk(s, kv, out);
    buf_putc(out, '}');
    return true;
}
