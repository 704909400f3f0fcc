/* How fast the disk tier gives a prompt back: writes chunks of 2 MiB, opens the store anew, and
 * measures from opening the prompt until its last chunk is mapped, verified. Prints one line of
 * JSON.
 *
 *     kv_restore --dir DIR [--chunks N] [--backend auto|io_uring|pread] [--rounds N]
 *                [--read-rate BYTES_S] [--latency US] [--min-rate BYTES_S] [--key-file FILE]
 *
 * --read-rate puts the store's own throttle in front of a disk that the host caches. Exit 1 when
 * slower than --min-rate in the best round. */
#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "kvstore/kvstore.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define T           64
#define CHUNK_BYTES ((size_t)2 << 20)

struct settings {
    const char *dir;
    const char *backend;
    const char *key_file;
    uint32_t n_chunk;
    uint32_t n_round;
    uint64_t read_bytes_s;
    uint64_t latency_us;
    double min_bytes_s;
};

static struct kv_store *store_new(const struct settings *o, bool throttled)
{
    struct kv_options k = {
        .ram_bytes = (o->n_chunk + 4) * (uint64_t)CHUNK_BYTES,
        .chunk_tok = T,
        .chunk_bytes = CHUNK_BYTES,
        .n_seq_tok_max = (o->n_chunk + 1) * T,
        .prefault_bytes = UINT64_MAX - 1, /* as a server that has run for a while */
        .disk = {.dir = o->dir,
                 .key_file = o->key_file,
                 .cap_bytes = (o->n_chunk + 20) * ((uint64_t)CHUNK_BYTES + 8192),
                 .io_timeout_us = 60000000,
                 .throttle_read_bytes_s = throttled ? o->read_bytes_s : 0,
                 .throttle_latency_us = throttled ? o->latency_us : 0,
                 .backend = strcmp(o->backend, "pread") == 0      ? KV_BACKEND_PREAD
                            : strcmp(o->backend, "io_uring") == 0 ? KV_BACKEND_URING
                                                                  : KV_BACKEND_AUTO}};
    struct kv_store *s = NULL;
    struct err e;
    if (kv_store_create(&k, &s, &e)) {
        (void)fprintf(stderr, "kv_restore: %s\n", e.msg);
    }
    return s;
}

static uint64_t *word(const struct kv_seq *q, uint32_t chunk, size_t i)
{
    char *base = kv_seq_base(q);
    return (uint64_t *)(void *)(base + chunk * CHUNK_BYTES) + i;
}

/* Writes the prompt; false when it did not get to the disk. */
static bool fill(const struct settings *o, const struct kv_identity *id, const int32_t *tokens)
{
    struct kv_store *s = store_new(o, false);
    struct kv_seq *q = NULL;
    struct kv_match m;
    bool done = s && kv_seq_open_prompt(s, id, tokens, o->n_chunk * T + 1, &q, &m, NULL) == ERR_OK;
    while (done && m.n_tok_pending > m.n_tok_ready) { /* of an earlier run */
        kv_poll(s);
        kv_seq_follow(q, tokens, o->n_chunk * T + 1, true, &m);
    }
    done = done && kv_seq_grow(q, o->n_chunk * T, NULL) == ERR_OK;
    if (done && m.n_tok_ready < o->n_chunk * T) {
        for (uint32_t c = kv_seq_n_tok(q) / T; c < o->n_chunk; c++) {
            for (size_t i = 0; i < CHUNK_BYTES / sizeof(uint64_t); i++) {
                *word(q, c, i) = rng_mix(c, i);
            }
        }
        uint32_t from = kv_seq_n_tok(q);
        kv_seq_commit(q, tokens + from, o->n_chunk * T - from);
    }
    kv_seq_close(q);
    uint64_t begin_us = clock_mono_us();
    done = done && kv_flush(s, 60000000);
    (void)fprintf(stderr, "kv_restore: written in %.2f s\n",
                  (double)(clock_mono_us() - begin_us) / 1e6);
    kv_store_destroy(s);
    return done;
}

/* Seconds until all is back; negative when it is not, or wrong. */
static double restore(const struct settings *o, const struct kv_identity *id, const int32_t *tokens)
{
    struct kv_store *s = store_new(o, true);
    struct kv_stats st;
    struct kv_seq *q = NULL;
    struct kv_match m = {0, 0};
    if (!s) {
        return -1;
    }
    do { /* the pager's work is not what is measured */
        clock_sleep_us(20000);
        kv_poll(s);
        kv_get_stats(s, &st);
    } while (st.populated_bytes < o->n_chunk * (uint64_t)CHUNK_BYTES / 10);
    clock_sleep_us(300000);
    uint64_t begin_us = clock_mono_us();
    bool done = kv_seq_open_prompt(s, id, tokens, o->n_chunk * T + 1, &q, &m, NULL) == ERR_OK;
    while (done && m.n_tok_pending > m.n_tok_ready) {
        clock_sleep_us(100);
        kv_poll(s);
        kv_seq_follow(q, tokens, o->n_chunk * T + 1, true, &m);
    }
    double seconds = (double)(clock_mono_us() - begin_us) / 1e6;
    done = done && m.n_tok_ready == o->n_chunk * T;
    for (uint32_t c = 0; c < o->n_chunk && done; c++) {
        size_t i = rng_mix(begin_us, c) % (CHUNK_BYTES / sizeof(uint64_t));
        done = *word(q, c, i) == rng_mix(c, i);
    }
    kv_seq_close(q);
    kv_store_destroy(s);
    return done ? seconds : -1;
}

static int settings_parse(struct settings *o, int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i];
        const char *value = argv[i + 1];
        if (strcmp(name, "--dir") == 0) {
            o->dir = value;
        } else if (strcmp(name, "--backend") == 0) {
            o->backend = value;
        } else if (strcmp(name, "--key-file") == 0) {
            o->key_file = value;
        } else if (strcmp(name, "--chunks") == 0) {
            o->n_chunk = (uint32_t)strtoul(value, NULL, 10);
        } else if (strcmp(name, "--rounds") == 0) {
            o->n_round = (uint32_t)strtoul(value, NULL, 10);
        } else if (strcmp(name, "--read-rate") == 0) {
            o->read_bytes_s = strtoull(value, NULL, 10);
        } else if (strcmp(name, "--latency") == 0) {
            o->latency_us = strtoull(value, NULL, 10);
        } else if (strcmp(name, "--min-rate") == 0) {
            o->min_bytes_s = strtod(value, NULL);
        } else {
            return 2;
        }
    }
    return o->dir && o->n_chunk > 0 && o->n_chunk < 10000 && argc % 2 == 1 ? 0 : 2;
}

int main(int argc, char **argv)
{
    struct settings o = {.backend = "auto", .n_chunk = 256, .n_round = 3};
    if (settings_parse(&o, argc, argv)) {
        (void)fprintf(stderr, "usage: kv_restore --dir DIR [--chunks N] [--backend B] [--rounds N] "
                              "[--read-rate BYTES_S] [--latency US] [--min-rate BYTES_S] "
                              "[--key-file FILE]\n");
        return 2;
    }
    log_init(LOG_LEVEL_WARN, false);
    const struct kv_field field = {KV_FIELD_TENANT, 7, "restore"};
    struct kv_identity id;
    int32_t *tokens = malloc(((size_t)o.n_chunk * T + 1) * sizeof *tokens);
    if (!tokens || kv_identity_make(&field, 1, &id, NULL)) {
        free(tokens);
        return 1;
    }
    for (uint32_t i = 0; i <= o.n_chunk * T; i++) {
        tokens[i] = (int32_t)(rng_mix(7, i) % 100000);
    }
    double best = -1;
    bool done = fill(&o, &id, tokens);
    for (uint32_t i = 0; i < o.n_round && done; i++) {
        double seconds = restore(&o, &id, tokens);
        done = seconds > 0;
        best = best < 0 || seconds < best ? seconds : best;
    }
    free(tokens);
    double bytes_s = done ? (double)o.n_chunk * (double)CHUNK_BYTES / best : 0;
    (void)printf("{\"test\":\"kv_restore\",\"backend\":\"%s\",\"bytes\":%llu,\"seconds\":%.4f,"
                 "\"bytes_per_s\":%.0f,\"throttle_bytes_per_s\":%llu,\"share_of_throttle\":%.3f}\n",
                 o.backend, (unsigned long long)o.n_chunk * CHUNK_BYTES, best, bytes_s,
                 (unsigned long long)o.read_bytes_s,
                 o.read_bytes_s ? bytes_s / (double)o.read_bytes_s : 0);
    return done && bytes_s >= o.min_bytes_s ? 0 : 1;
}
