#include "kvstore/kvstore.h"

#include "base/clock.h"
#include "kvstore/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Shares of the mappings one process may have that are the store's by default. */
#define VMA_SHARE_NUM   6
#define VMA_SHARE_DEN   10
#define N_SHRINK        16 /* frames given back at once */
#define PREFAULT_BYTES  ((uint64_t)128 << 20)
#define PREFAULT_DEN    8  /* of ram_bytes, where that is less */
#define PIN_PERCENT_MAX 90 /* the rest is for those who run */

static uint32_t default_n_vma_max(void)
{
    long n_max = 65530; /* Linux's own default */
    FILE *f = fopen("/proc/sys/vm/max_map_count", "re");
    if (f) {
        char line[32];
        if (fgets(line, sizeof line, f)) {
            long n = strtol(line, NULL, 10);
            n_max = n > 0 && n < INT32_MAX ? n : n_max;
        }
        (void)fclose(f);
    }
    return (uint32_t)(n_max * VMA_SHARE_NUM / VMA_SHARE_DEN);
}

static enum err_code options_check(const struct kv_options *o, struct err *e)
{
    if (o->chunk_tok == 0 || (o->chunk_tok & (o->chunk_tok - 1)) != 0) {
        return err_set(e, ERR_INVALID, "KV chunk of %u tokens: must be a power of two",
                       o->chunk_tok);
    }
    if (o->chunk_bytes == 0 || o->chunk_bytes % 4096 != 0) {
        return err_set(e, ERR_INVALID, "KV chunk of %zu bytes: must be a multiple of 4096",
                       o->chunk_bytes);
    }
    if (o->n_seq_tok_max == 0) {
        return err_set(e, ERR_INVALID, "the longest KV sequence must have at least one token");
    }
    if (o->ram_bytes < o->chunk_bytes) {
        return err_set(e, ERR_INVALID, "KV budget of %llu bytes is less than one chunk of %zu",
                       (unsigned long long)o->ram_bytes, o->chunk_bytes);
    }
    if (o->ram_bytes / o->chunk_bytes >= KV_FRAME_NONE || o->ram_bytes > INT64_MAX) {
        return err_set(e, ERR_INVALID, "KV budget of %llu bytes has too many chunks of %zu",
                       (unsigned long long)o->ram_bytes, o->chunk_bytes);
    }
    if (o->pin_percent > PIN_PERCENT_MAX) {
        return err_set(e, ERR_INVALID, "pins of %u %% of KV memory: at most %d", o->pin_percent,
                       PIN_PERCENT_MAX);
    }
    return ERR_OK;
}

/* Chunks the index can name: all in RAM and on disk, as many short or planned ones, and roots. */
static uint32_t node_limit(const struct kv_store *s)
{
    uint64_t n = 2 * (uint64_t)s->arena.n_frame + s->n_slot + 1024;
    return n < INT32_MAX ? (uint32_t)n : INT32_MAX;
}

static uint64_t prefault_bytes(const struct kv_options *o)
{
    uint64_t most = o->ram_bytes / PREFAULT_DEN;
    uint64_t n = o->prefault_bytes ? o->prefault_bytes : PREFAULT_BYTES;
    return o->prefault_bytes == KV_NO_PREFAULT ? 0 : n < most ? n : most;
}

enum err_code kv_store_create(const struct kv_options *options, struct kv_store **ret_s,
                              struct err *e)
{
    enum err_code code = options_check(options, e);
    if (code) {
        return code;
    }
    struct kv_store *s = calloc(1, sizeof *s);
    if (!s) {
        return err_set(e, ERR_NOMEM, "no memory for the KV store");
    }
    s->options = *options;
    s->options.n_vma_max = options->n_vma_max ? options->n_vma_max : default_n_vma_max();
    s->n_chunk_max = (options->n_seq_tok_max - 1) / options->chunk_tok + 1;
    uint32_t n_frame = (uint32_t)(options->ram_bytes / options->chunk_bytes);
    (void)pthread_mutex_init(&s->stats_mu, NULL);
    code = kv_arena_init(&s->arena, n_frame, options->chunk_bytes, e);
    if (code) {
        goto out;
    }
    code = kv_pager_start(&s->pager, &s->arena, prefault_bytes(options), options->bytes_left, e);
    if (code) {
        goto out;
    }
    s->n_slot =
        options->disk.dir ? kv_disk_n_slot(options->disk.cap_bytes, options->chunk_bytes) : 0;
    uint32_t n_node_max = node_limit(s);
    s->frame_buf = calloc(s->n_chunk_max, sizeof *s->frame_buf);
    s->check_buf = calloc(n_node_max, sizeof *s->check_buf);
    s->tenants = calloc(KV_TENANTS_MAX, sizeof *s->tenants);
    if (!s->frame_buf || !s->check_buf || !s->tenants) {
        code = err_set(e, ERR_NOMEM, "no memory for the KV store's tables");
        goto out;
    }
    for (uint32_t i = 0; i < KV_TENANTS_MAX; i++) {
        s->tenants[i].heap_ram = s->tenants[i].heap_disk = KV_NODE_NONE;
    }
    code = kv_index_init(&s->index, n_node_max, options->chunk_tok, e);
    if (!code) {
        code = kv_sketch_init(&s->sketch, n_frame, e);
    }
    if (code) {
        goto out;
    }
    s->now_us = s->swept_us = clock_mono_us();
    s->now_s = (uint32_t)clock_unix_s();
    code = kv_spill_init(s, e);
    if (code) {
        goto out;
    }
    kv_publish(s);
    *ret_s = s;
    s = NULL;
out:
    kv_store_destroy(s);
    return code;
}

static void list_remove(struct kv_seq **head, struct kv_seq *q)
{
    if (q->prev) {
        q->prev->next = q->next;
    } else {
        *head = q->next;
    }
    if (q->next) {
        q->next->prev = q->prev;
    }
    q->prev = q->next = NULL;
}

static void list_insert(struct kv_seq **head, struct kv_seq *q)
{
    q->prev = NULL;
    q->next = *head;
    if (*head) {
        (*head)->prev = q;
    }
    *head = q;
}

/* Keeps the frames' counts of holders and the VMA count right across a change of q's range. */
static void frames_release(struct kv_store *s, const uint32_t *frames, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        kv_arena_unmap(&s->arena, frames[i]);
    }
}

/* Unmaps a closed sequence and frees it; false when the kernel will not, which leaves all as is. */
static bool seq_free(struct kv_store *s, struct kv_seq *q)
{
    uint32_t n_vma = kv_range_n_vma(&q->range);
    uint32_t *frames = q->range.frames;
    uint32_t n = q->range.n_chunk;
    q->range.frames = NULL; /* needed until their holders are counted off */
    if (!kv_range_finish(&q->range)) {
        q->range.frames = frames;
        return false;
    }
    frames_release(s, frames, n);
    free(frames);
    s->n_vma -= n_vma;
    free(q);
    return true;
}

static void closing_retry(struct kv_store *s)
{
    struct kv_seq *next;
    for (struct kv_seq *q = s->closing; q; q = next) {
        next = q->next;
        list_remove(&s->closing, q);
        if (!seq_free(s, q)) {
            list_insert(&s->closing, q);
            return;
        }
    }
}

void kv_store_destroy(struct kv_store *s)
{
    if (!s) {
        return;
    }
    closing_retry(s);
    kv_pager_stop(&s->pager);
    if (kv_spill_finish(s)) { /* else I/O may still come into the frames */
        kv_arena_finish(&s->arena);
    }
    kv_index_finish(&s->index);
    kv_sketch_finish(&s->sketch);
    free(s->tenants);
    free(s->frame_buf);
    free(s->check_buf);
    (void)pthread_mutex_destroy(&s->stats_mu);
    free(s);
}

enum err_code kv_seq_open(struct kv_store *s, struct kv_seq **ret_q, struct err *e)
{
    closing_retry(s);
    if (s->n_vma >= s->options.n_vma_max) {
        return err_set(e, ERR_FULL, "all %u memory mappings of the KV store are in use",
                       s->options.n_vma_max);
    }
    struct kv_seq *q = calloc(1, sizeof *q);
    if (!q) {
        return err_set(e, ERR_NOMEM, "no memory for a KV sequence");
    }
    enum err_code code = kv_range_init(&q->range, s->n_chunk_max, s->options.chunk_bytes, e);
    if (code) {
        free(q);
        return code;
    }
    q->store = s;
    q->root = KV_NODE_NONE;
    list_insert(&s->seqs, q);
    s->n_seq++;
    s->n_vma += kv_range_n_vma(&q->range);
    kv_publish(s);
    *ret_q = q;
    return ERR_OK;
}

void kv_seq_close(struct kv_seq *q)
{
    if (!q) {
        return;
    }
    struct kv_store *s = q->store;
    kv_seq_leave_index(q);
    list_remove(&s->seqs, q);
    s->n_seq--;
    if (!seq_free(s, q)) {
        list_insert(&s->closing, q);
    }
    closing_retry(s);
    kv_publish(s);
}

/* Frames in use beyond what memory allows. */
static uint64_t n_frame_over(const struct kv_store *s)
{
    uint64_t n_used = s->arena.n_frame - s->arena.n_by_state[KV_FRAME_FREE];
    uint64_t limit = atomic_load(&s->pager.n_frame_limit);
    return n_used >= limit && limit < s->arena.n_frame ? n_used - limit + 1 : 0;
}

uint32_t kv_frame_take(struct kv_store *s, uint32_t prev_frame, uint32_t chunk_idx)
{
    if (n_frame_over(s) > 0) {
        (void)kv_evict_frame(s); /* who runs takes what he needs; the cache gives way */
    }
    uint32_t f = kv_arena_take(&s->arena, prev_frame, chunk_idx);
    while (f == KV_FRAME_NONE && kv_evict_frame(s)) {
        f = kv_arena_take(&s->arena, prev_frame, chunk_idx);
    }
    if (f != KV_FRAME_NONE) {
        kv_pager_took(&s->pager, f);
    }
    return f;
}

void kv_shrink(struct kv_store *s)
{
    uint64_t limit = atomic_load(&s->pager.n_frame_limit);
    if (s->arena.n_touched < limit || limit == s->arena.n_frame) {
        return;
    }
    for (uint32_t i = 0; i < N_SHRINK && n_frame_over(s) > 0 && kv_evict_frame(s); i++) {
    }
    uint64_t n_more = s->arena.n_touched - limit;
    s->counters.n_punched +=
        kv_arena_punch(&s->arena, n_more < N_SHRINK ? (uint32_t)n_more : N_SHRINK);
    kv_publish(s);
}

enum err_code kv_seq_append(struct kv_seq *q, const uint32_t *frames, uint32_t n, bool read_only,
                            struct err *e)
{
    struct kv_store *s = q->store;
    struct kv_range *r = &q->range;
    enum err_code code = ERR_OK;
    uint32_t n_chunk_before = r->n_chunk;
    uint64_t n_vma_before = kv_range_n_vma(r);
    uint64_t n_vma_after = kv_range_n_vma_with(r, frames, n, read_only);
    if (s->n_vma - n_vma_before + n_vma_after > s->options.n_vma_max) {
        code = err_set(e, ERR_FULL, "all %u memory mappings of the KV store are in use",
                       s->options.n_vma_max);
    } else {
        code = kv_range_append(r, s->arena.fd, frames, n, read_only, e);
    }
    uint32_t n_new = r->n_chunk - n_chunk_before; /* not 0 after some failures, too */
    frames_release(s, frames + n_new, n - n_new);
    s->n_vma = s->n_vma - n_vma_before + kv_range_n_vma(r);
    return code;
}

bool kv_seq_protect(struct kv_seq *q, uint32_t n_ro)
{
    struct kv_store *s = q->store;
    uint64_t n_vma_before = kv_range_n_vma(&q->range);
    bool done = kv_range_protect(&q->range, n_ro);
    s->n_vma = s->n_vma - n_vma_before + kv_range_n_vma(&q->range);
    return done;
}

bool kv_seq_cut(struct kv_seq *q, uint32_t n_chunk)
{
    struct kv_store *s = q->store;
    struct kv_range *r = &q->range;
    uint32_t n_chunk_before = r->n_chunk;
    uint64_t n_vma_before = kv_range_n_vma(r);
    if (n_chunk >= n_chunk_before) {
        return true;
    }
    if (!kv_range_cut(r, n_chunk)) {
        return false;
    }
    frames_release(s, r->frames + n_chunk, n_chunk_before - n_chunk);
    s->n_vma = s->n_vma - n_vma_before + kv_range_n_vma(r);
    return true;
}

/* Takes n frames to follow q's last one, into frame_buf. */
static bool frames_take(struct kv_seq *q, uint32_t n)
{
    struct kv_store *s = q->store;
    uint32_t n_chunk = q->range.n_chunk;
    uint32_t prev = n_chunk > 0 ? q->range.frames[n_chunk - 1] : KV_FRAME_NONE;
    if (n > s->arena.n_by_state[KV_FRAME_FREE] + s->arena.n_by_state[KV_FRAME_CACHED]) {
        return false; /* before anything is evicted in vain */
    }
    for (uint32_t i = 0; i < n; i++) {
        prev = kv_frame_take(s, prev, n_chunk + i);
        if (prev == KV_FRAME_NONE) {
            frames_release(s, s->frame_buf, i);
            return false;
        }
        s->frame_buf[i] = prev;
    }
    return true;
}

enum err_code kv_seq_grow(struct kv_seq *q, uint32_t n_tok, struct err *e)
{
    struct kv_store *s = q->store;
    struct kv_range *r = &q->range;
    if (n_tok > s->options.n_seq_tok_max) {
        return err_set(e, ERR_LIMIT, "a KV sequence of %u tokens: the longest is %u", n_tok,
                       s->options.n_seq_tok_max);
    }
    enum err_code code = n_tok > q->n_tok ? kv_seq_own_tail(q, e) : ERR_OK;
    uint32_t n_want = n_tok == 0 ? 0 : (n_tok - 1) / s->options.chunk_tok + 1;
    if (!code && n_want > r->n_chunk) {
        uint32_t n_more = n_want - r->n_chunk;
        closing_retry(s);
        code =
            frames_take(q, n_more)
                ? kv_seq_append(q, s->frame_buf, n_more, false, e)
                : err_set(e, ERR_FULL, "KV memory is full: %u more of %u frames needed, %llu free",
                          n_more, s->arena.n_frame,
                          (unsigned long long)s->arena.n_by_state[KV_FRAME_FREE]);
    }
    kv_publish(s);
    return code;
}

void kv_seq_shrink(struct kv_seq *q, uint32_t n_tok)
{
    kv_seq_truncate(q, n_tok);
    /* A refusal keeps the frames until the next shrink or the close: only memory is late. */
    (void)kv_seq_cut(q, n_tok == 0 ? 0 : (n_tok - 1) / q->store->options.chunk_tok + 1);
    kv_publish(q->store);
}

void *kv_seq_base(const struct kv_seq *q)
{
    return q->range.base;
}

uint32_t kv_seq_n_tok_mapped(const struct kv_seq *q)
{
    uint64_t n = (uint64_t)q->range.n_chunk * q->store->options.chunk_tok;
    return n < q->store->options.n_seq_tok_max ? (uint32_t)n : q->store->options.n_seq_tok_max;
}

void kv_publish(struct kv_store *s)
{
    const uint64_t *n = s->arena.n_by_state;
    (void)pthread_mutex_lock(&s->stats_mu);
    s->stats = (struct kv_stats){
        .n_frame_total = s->arena.n_frame,
        .n_frame_free = n[KV_FRAME_FREE],
        .n_frame_active = n[KV_FRAME_ACTIVE],
        .n_frame_cached = n[KV_FRAME_CACHED],
        .n_frame_loading = n[KV_FRAME_LOADING],
        .n_frame_writing = n[KV_FRAME_WRITING],
        .n_frame_limit = atomic_load(&s->pager.n_frame_limit),
        .n_frame_touched = s->arena.n_touched,
        .n_frame_punched = s->counters.n_punched,
        .populated_bytes = atomic_load(&s->pager.populated_bytes),
        .huge_bytes = atomic_load(&s->pager.huge_bytes),
        .n_vma = s->n_vma,
        .n_vma_max = s->options.n_vma_max,
        .n_vma_copy = s->counters.n_vma_copy,
        .n_seq = s->n_seq,
        .chunk_bytes = s->options.chunk_bytes,
        .chunk_tok = s->options.chunk_tok,
        .n_node = s->index.n_node,
        .n_tok_asked = s->counters.n_tok_asked,
        .n_tok_hit_ram = s->counters.n_tok_hit_ram,
        .n_tok_hit_disk = s->counters.n_tok_hit_disk,
        .n_evict_ram = s->counters.n_evict_ram,
        .n_evict_disk = s->counters.n_evict_disk,
        .n_copy = s->counters.n_copy,
        .n_frame_pinned = s->n_pin_frame,
        .n_slot_pinned = s->n_pin_slot,
        .n_expired = s->counters.n_expired,
        .n_slot = s->n_slot,
        .n_slot_used = s->spill.disk.n_taken,
        .disk_bytes = s->spill.tier ? kv_disk_bytes(&s->spill.disk) : 0,
        .n_disk_read = s->counters.n_read,
        .n_disk_write = s->counters.n_write,
        .n_disk_write_dropped = s->counters.n_write_dropped,
        .n_disk_queued = s->spill.writes.n + s->spill.tails.n,
        .n_disk_corrupt = s->counters.n_corrupt,
        .n_disk_error = s->counters.n_io_error,
        .n_disk_late = s->counters.n_io_late,
        .disk_is_open = s->spill.tier != NULL,
        .disk_is_paused = s->now_us < s->spill.closed_until_us,
    };
    (void)pthread_mutex_unlock(&s->stats_mu);
}

void kv_get_stats(const struct kv_store *s, struct kv_stats *ret_stats)
{
    pthread_mutex_t *mu = (pthread_mutex_t *)&s->stats_mu; /* a lock is not the store's content */
    (void)pthread_mutex_lock(mu);
    *ret_stats = s->stats;
    (void)pthread_mutex_unlock(mu);
}

/* Adds the holders of one list's frames to check_buf and its VMAs to *n_vma. */
static enum err_code check_seqs(const struct kv_store *s, const struct kv_seq *q, uint64_t *n_seq,
                                uint64_t *n_vma, struct err *e)
{
    const struct kv_seq *prev = NULL;
    for (; q; prev = q, q = q->next) {
        enum err_code code = kv_range_check(&q->range, e);
        if (code) {
            return code;
        }
        if (q->prev != prev || q->store != s || q->range.n_chunk_max != s->n_chunk_max) {
            return err_set(e, ERR_INTERNAL, "a KV sequence is wrongly listed");
        }
        for (uint32_t i = 0; i < q->range.n_chunk; i++) {
            if (q->range.frames[i] >= s->arena.n_frame) {
                return err_set(e, ERR_INTERNAL, "chunk %u on frame %u of %u", i, q->range.frames[i],
                               s->arena.n_frame);
            }
            s->check_buf[q->range.frames[i]]++;
        }
        *n_vma += kv_range_n_vma(&q->range);
        ++*n_seq;
    }
    return ERR_OK;
}

enum err_code kv_check(const struct kv_store *s, struct err *e)
{
    enum err_code code = kv_arena_check(&s->arena, e);
    if (code) {
        return code;
    }
    uint64_t n_seq = 0;
    uint64_t n_closing = 0;
    uint64_t n_vma = 0;
    memset(s->check_buf, 0, s->arena.n_frame * sizeof *s->check_buf);
    code = check_seqs(s, s->seqs, &n_seq, &n_vma, e);
    if (!code) {
        code = check_seqs(s, s->closing, &n_closing, &n_vma, e);
    }
    if (code) {
        return code;
    }
    for (uint32_t f = 0; f < s->arena.n_frame; f++) {
        if (s->check_buf[f] != s->arena.frames[f].n_map) {
            return err_set(e, ERR_INTERNAL, "frame %u has %u holders, counted %u", f,
                           s->check_buf[f], s->arena.frames[f].n_map);
        }
    }
    if (n_seq != s->n_seq || n_vma != s->n_vma || n_vma > s->options.n_vma_max) {
        return err_set(e, ERR_INTERNAL, "%llu sequences, counted %llu; %llu VMAs, counted %llu",
                       (unsigned long long)n_seq, (unsigned long long)s->n_seq,
                       (unsigned long long)n_vma, (unsigned long long)s->n_vma);
    }
    code = kv_cache_check(s, e);
    return code ? code : kv_spill_check(s, e);
}
