/* Replays a request trace through the real KV store, without a model: one hash id of the trace is
 * one chunk of 64 tokens, drawn from a generator seeded by the id. Prints one line of JSON with the
 * share of chunks that RAM and disk gave back. Chunks are small (4 KiB), so that what is measured
 * is the store's decisions; everything read back is verified against what was computed.
 *
 *     kv_replay --trace FILE --ram CHUNKS [--disk CHUNKS --dir DIR] [--requests N]
 *               [--backend auto|io_uring|pread] [--min-hit PERCENT]
 *
 * Exit 1 when less was hit than asked for, or anything was wrong; 77 without the trace. */
#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "kvstore/kvstore.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define T             64
#define CHUNK_BYTES   4096
#define N_ID_MAX      512
#define SLOT_OVERHEAD 4096

struct settings {
    const char *trace;
    const char *dir;
    const char *backend;
    uint32_t n_ram;
    uint32_t n_disk;
    uint32_t n_request;
    double hit_min;
};

struct totals {
    uint64_t n_request;
    uint64_t n_chunk;
    uint64_t n_hit;
    uint64_t n_hit_disk;
    uint64_t n_wrong;
    uint64_t n_failed;
    uint64_t open_us; /* matching and mapping, without waiting for the disk */
};

/* The ids of one line; 0 when it has none. */
static uint32_t parse_ids(const char *line, uint32_t ids[N_ID_MAX])
{
    const char *p = strstr(line, "\"hash_ids\"");
    p = p ? strchr(p, '[') : NULL;
    uint32_t n = 0;
    while (p && *p != ']' && n < N_ID_MAX) {
        char *end;
        unsigned long v = strtoul(p + 1, &end, 10);
        if (end == p + 1) {
            break;
        }
        ids[n++] = (uint32_t)v;
        p = end;
    }
    return n;
}

static uint64_t *stamp(const struct kv_seq *q, uint32_t chunk)
{
    char *base = kv_seq_base(q);
    return (uint64_t *)(void *)(base + (size_t)chunk * CHUNK_BYTES);
}

/* What "computing" chunk i leaves: a value of the whole path to it. */
static uint64_t value_of(uint64_t before, uint32_t id)
{
    return rng_mix(before, id);
}

static void request(struct kv_store *s, const struct kv_identity *identity, const uint32_t *ids,
                    uint32_t n_id, struct totals *t)
{
    static int32_t tokens[N_ID_MAX * T + 1]; /* one thread */
    for (uint32_t i = 0; i < n_id * T; i++) {
        tokens[i] = (int32_t)(rng_mix(ids[i / T], i % T) % 100000);
    }
    tokens[n_id * T] = 1; /* a prompt is never matched to its end */
    struct kv_seq *q = NULL;
    struct kv_match m;
    struct kv_stats before;
    struct kv_stats after;
    kv_get_stats(s, &before);
    uint64_t begin_us = clock_mono_us();
    t->n_request++;
    t->n_chunk += n_id;
    if (kv_seq_open_prompt(s, identity, tokens, n_id * T + 1, &q, &m, NULL)) {
        t->n_failed++;
        return;
    }
    t->open_us += clock_mono_us() - begin_us;
    while (m.n_tok_pending > m.n_tok_ready) {
        kv_poll(s);
        kv_seq_follow(q, tokens, n_id * T + 1, true, &m);
    }
    uint32_t n_ready = m.n_tok_ready / T;
    kv_get_stats(s, &after);
    t->n_hit += n_ready;
    t->n_hit_disk += (after.n_tok_hit_disk - before.n_tok_hit_disk) / T;
    if (kv_seq_grow(q, n_id * T, NULL)) {
        t->n_failed++;
        kv_seq_close(q);
        return;
    }
    uint64_t v = 0;
    for (uint32_t i = 0; i < n_id; i++) {
        v = value_of(v, ids[i]);
        if (i < n_ready) {
            t->n_wrong += *stamp(q, i) != v;
        } else {
            *stamp(q, i) = v;
        }
    }
    uint32_t from = kv_seq_n_tok(q);
    kv_seq_commit(q, tokens + from, n_id * T - from);
    kv_seq_close(q);
    (void)kv_flush(s, 10000000); /* the trace leaves time to write */
}

static int settings_parse(struct settings *o, int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i];
        const char *value = argv[i + 1];
        if (strcmp(name, "--trace") == 0) {
            o->trace = value;
        } else if (strcmp(name, "--dir") == 0) {
            o->dir = value;
        } else if (strcmp(name, "--backend") == 0) {
            o->backend = value;
        } else if (strcmp(name, "--ram") == 0) {
            o->n_ram = (uint32_t)strtoul(value, NULL, 10);
        } else if (strcmp(name, "--disk") == 0) {
            o->n_disk = (uint32_t)strtoul(value, NULL, 10);
        } else if (strcmp(name, "--requests") == 0) {
            o->n_request = (uint32_t)strtoul(value, NULL, 10);
        } else if (strcmp(name, "--min-hit") == 0) {
            o->hit_min = strtod(value, NULL);
        } else {
            return 2;
        }
    }
    return o->trace && o->n_ram > 0 && (o->n_disk == 0 || o->dir) && argc % 2 == 1 ? 0 : 2;
}

static struct kv_store *store_new(const struct settings *o)
{
    struct kv_options k = {.ram_bytes = (uint64_t)o->n_ram * CHUNK_BYTES,
                           .chunk_tok = T,
                           .chunk_bytes = CHUNK_BYTES,
                           .n_seq_tok_max = N_ID_MAX * T + 1};
    if (o->n_disk > 0) {
        k.disk.dir = o->dir;
        k.disk.cap_bytes = 8192 + (uint64_t)o->n_disk * (CHUNK_BYTES + SLOT_OVERHEAD);
        k.disk.backend = strcmp(o->backend, "pread") == 0      ? KV_BACKEND_PREAD
                         : strcmp(o->backend, "io_uring") == 0 ? KV_BACKEND_URING
                                                               : KV_BACKEND_AUTO;
    }
    struct kv_store *s = NULL;
    struct err e;
    if (kv_store_create(&k, &s, &e)) {
        (void)fprintf(stderr, "kv_replay: %s\n", e.msg);
    }
    return s;
}

static void report(const struct settings *o, const struct totals *t, const struct kv_stats *st,
                   uint64_t wall_us)
{
    double n = (double)(t->n_chunk ? t->n_chunk : 1);
    (void)printf("{\"test\":\"kv_replay\",\"requests\":%llu,\"chunks\":%llu,\"ram_chunks\":%u,"
                 "\"disk_slots\":%llu,\"hit_percent\":%.2f,\"hit_ram_percent\":%.2f,"
                 "\"hit_disk_percent\":%.2f,\"slots_written\":%llu,\"slots_read\":%llu,"
                 "\"evicted_ram\":%llu,\"evicted_disk\":%llu,\"writes_dropped\":%llu,"
                 "\"io_errors\":%llu,\"io_late\":%llu,\"corrupt\":%llu,\"open_us_per_request\":%."
                 "1f,\"wall_s\":%.1f,\"wrong\":%llu,\"failed\":%llu}\n",
                 (unsigned long long)t->n_request, (unsigned long long)t->n_chunk, o->n_ram,
                 (unsigned long long)st->n_slot, 100.0 * (double)t->n_hit / n,
                 100.0 * (double)(t->n_hit - t->n_hit_disk) / n, 100.0 * (double)t->n_hit_disk / n,
                 (unsigned long long)st->n_disk_write, (unsigned long long)st->n_disk_read,
                 (unsigned long long)st->n_evict_ram, (unsigned long long)st->n_evict_disk,
                 (unsigned long long)st->n_disk_write_dropped, (unsigned long long)st->n_disk_error,
                 (unsigned long long)st->n_disk_late, (unsigned long long)st->n_disk_corrupt,
                 (double)t->open_us / (double)(t->n_request ? t->n_request : 1),
                 (double)wall_us / 1e6, (unsigned long long)t->n_wrong,
                 (unsigned long long)t->n_failed);
}

int main(int argc, char **argv)
{
    struct settings o = {.backend = "auto", .n_request = UINT32_MAX};
    if (settings_parse(&o, argc, argv)) {
        (void)fprintf(stderr, "usage: kv_replay --trace FILE --ram CHUNKS [--disk CHUNKS --dir DIR]"
                              " [--requests N] [--backend B] [--min-hit PERCENT]\n");
        return 2;
    }
    log_init(LOG_LEVEL_WARN, false);
    FILE *f = fopen(o.trace, "re");
    if (!f) {
        (void)printf("kv_replay: no %s: skipped\n", o.trace);
        return 77;
    }
    struct kv_store *s = store_new(&o);
    struct totals t = {0};
    struct kv_stats st = {0};
    struct err e = {0};
    uint64_t begin_us = clock_mono_us();
    char *line = NULL;
    size_t cap = 0;
    if (s) {
        const struct kv_field field = {KV_FIELD_TENANT, 5, "trace"};
        struct kv_identity identity;
        (void)kv_identity_make(&field, 1, &identity, NULL);
        uint32_t ids[N_ID_MAX];
        while (t.n_request < o.n_request && getline(&line, &cap, f) > 0) {
            uint32_t n = parse_ids(line, ids);
            if (n > 0) {
                request(s, &identity, ids, n, &t);
            }
        }
        kv_get_stats(s, &st);
        report(&o, &t, &st, clock_mono_us() - begin_us);
        if (kv_check(s, &e)) {
            (void)fprintf(stderr, "kv_replay: %s\n", e.msg);
        }
        kv_store_destroy(s);
    }
    free(line);
    (void)fclose(f);
    bool is_good = s && !e.code && t.n_wrong == 0 && t.n_failed == 0 &&
                   100.0 * (double)t.n_hit >= o.hit_min * (double)t.n_chunk;
    return is_good ? 0 : 1;
}
