/* How a sequence finds what the prefix index has of its prompt, and takes it over. */
#include "kvstore/cache.h"

#include <string.h>

/* Plans leave so many of the nodes (1/n) to what is written. */
#define PLAN_RESERVE 8

/* ---- What others may take from a node ---- */

/* The frame behind a node and how many of its tokens are written there. */
static uint32_t written(const struct kv_store *s, uint32_t node, uint32_t *ret_frame)
{
    const struct kv_node *n = node_at(s, node);
    const uint32_t n_tok_chunk = s->options.chunk_tok;
    if (n->state == KV_NODE_SEALED && n->frame != KV_FRAME_NONE) {
        *ret_frame = n->frame;
        return n->n_tok;
    }
    if (n->state == KV_NODE_FILLING && n->leader->n_tok > n->depth * n_tok_chunk) {
        *ret_frame = n->leader->range.frames[n->depth];
        return n->leader->n_tok - n->depth * n_tok_chunk;
    }
    return 0;
}

void kv_visit_nearest(void *arg, uint32_t node, uint32_t n_common)
{
    struct kv_nearest *best = arg;
    uint32_t frame = KV_FRAME_NONE;
    uint32_t n = written(best->store, node, &frame);
    n = n < n_common ? n : n_common;
    if (n > best->n_common) {
        best->node = node;
        best->frame = frame;
        best->n_common = n;
    }
}

/* ---- Matching ---- */

static bool vma_fits(const struct kv_seq *q, const uint32_t *frames, uint32_t n, bool read_only)
{
    const struct kv_store *s = q->store;
    return s->n_vma - kv_range_n_vma(&q->range) +
               kv_range_n_vma_with(&q->range, frames, n, read_only) <=
           s->options.n_vma_max;
}

static void count_hit(struct kv_store *s, uint32_t node, uint32_t n_tok)
{
    struct kv_node *n = node_at(s, node);
    *(n->from_disk ? &s->counters.n_tok_hit_disk : &s->counters.n_tok_hit_ram) += n_tok;
    n->from_disk = false;
}

/* Copies sealed chunks behind q's path, as long as the copies lie side by side: all of them take
 * one mapping. For when sharing would take more than are left. */
static void copy_full(struct kv_seq *q, const int32_t *tokens, uint32_t n_tok_max)
{
    struct kv_store *s = q->store;
    const uint32_t n_tok_chunk = s->options.chunk_tok;
    uint32_t first = q->n_path;
    for (uint32_t c = first; (c + 1) * n_tok_chunk <= n_tok_max; c++) {
        uint32_t node =
            kv_index_child(&s->index, parent_of(q, c), tokens + c * n_tok_chunk, n_tok_chunk);
        if (node == KV_NODE_NONE || node_at(s, node)->state != KV_NODE_SEALED ||
            node_at(s, node)->frame == KV_FRAME_NONE) {
            return;
        }
        node_at(s, node)->n_ref++; /* making room does not take it */
        kv_node_update(s, node);
        uint32_t prev = c > first ? q->range.frames[c - 1] : KV_FRAME_NONE; /* where most is free */
        uint32_t frame = kv_frame_take(s, prev, c);
        bool has_frame = frame != KV_FRAME_NONE;
        if (has_frame && c > first && frame != prev + 1) {
            kv_arena_unmap(&s->arena, frame);
            has_frame = false;
        }
        if (has_frame) {
            memcpy(kv_arena_frame(&s->arena, frame),
                   kv_arena_frame(&s->arena, node_at(s, node)->frame), s->options.chunk_bytes);
            has_frame = kv_seq_append(q, &frame, 1, true, NULL) == ERR_OK;
        }
        if (has_frame) {
            kv_path_push(q, node);
            count_hit(s, node, n_tok_chunk);
            q->n_tok = q->n_path * n_tok_chunk;
            s->counters.n_vma_copy++;
        }
        node_at(s, node)->n_ref--;
        kv_node_update(s, node);
        if (!has_frame) {
            return;
        }
    }
}

/* Shares the full chunks of the prompt that lie sealed in RAM behind q's path. */
static void share_full(struct kv_seq *q, const int32_t *tokens, uint32_t n_tok_max)
{
    struct kv_store *s = q->store;
    const uint32_t n_tok_chunk = s->options.chunk_tok;
    uint32_t from = q->n_path;
    uint32_t node = parent_of(q, from);
    uint32_t n = 0;
    while ((from + n + 1) * n_tok_chunk <= n_tok_max) {
        node = kv_index_child(&s->index, node, tokens + (from + n) * n_tok_chunk, n_tok_chunk);
        if (node == KV_NODE_NONE || node_at(s, node)->state != KV_NODE_SEALED ||
            node_at(s, node)->frame == KV_FRAME_NONE) {
            break;
        }
        s->frame_buf[n++] = node_at(s, node)->frame;
    }
    if (n == 0 || !kv_seq_cut(q, from) || !kv_seq_protect(q, from)) {
        return;
    }
    q->n_tok = from * n_tok_chunk; /* what was copied or computed of the next chunk is in it */
    bool fits = vma_fits(q, s->frame_buf, n, true);
    s->n_vma += fits ? 0 : 1; /* one for the copies */
    while (n > 0 && !vma_fits(q, s->frame_buf, n, true)) {
        n--;
    }
    s->n_vma -= fits ? 0 : 1;
    for (uint32_t i = 0; i < n; i++) {
        kv_arena_map(&s->arena, s->frame_buf[i]);
    }
    if (n > 0 && kv_seq_append(q, s->frame_buf, n, true, NULL)) {
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = (from + i) * n_tok_chunk;
        node = kv_index_child(&s->index, parent_of(q, from + i), tokens + at, n_tok_chunk);
        count_hit(s, node, n_tok_chunk);
        kv_path_push(q, node);
    }
    q->n_tok = q->n_path * n_tok_chunk;
    if (!fits) {
        copy_full(q, tokens, n_tok_max);
    }
}

static void visit_on_disk(void *arg, uint32_t node, uint32_t n_common)
{
    struct kv_nearest *best = arg;
    const struct kv_node *n = node_at(best->store, node);
    if (n->state == KV_NODE_SEALED && n->frame == KV_FRAME_NONE && n_common > best->n_common) {
        best->node = node;
        best->n_common = n_common;
    }
}

/* A chunk on disk alone: whether it is, or will soon be, on its way. */
static bool is_coming(struct kv_store *s, uint32_t node)
{
    return node_at(s, node)->job_read != KV_JOB_NONE || kv_load_start(s, node) != KV_LOAD_NO;
}

/* Up to which token the prompt's chunks behind `node`, whose last token is at chunk `from`, are in
 * the making for q (NULL: nobody); starts to read those on disk. *ret_ready: tokens in RAM. */
static uint32_t pending_to(struct kv_store *s, const struct kv_seq *q, uint32_t node, uint32_t from,
                           const int32_t *tokens, uint32_t n_tok_max, uint32_t *ret_ready)
{
    const uint32_t n_tok_chunk = s->options.chunk_tok;
    uint32_t at = from;
    *ret_ready = from * n_tok_chunk;
    for (; (at + 1) * n_tok_chunk <= n_tok_max; at++) {
        const int32_t *chunk = tokens + at * n_tok_chunk;
        uint32_t child = kv_index_child(&s->index, node, chunk, n_tok_chunk);
        if (child == KV_NODE_NONE) {
            break;
        }
        const struct kv_node *n = node_at(s, child);
        bool is_there = n->state == KV_NODE_SEALED && n->frame != KV_FRAME_NONE;
        if (is_there && at * n_tok_chunk == *ret_ready) {
            *ret_ready += n_tok_chunk;
            if (q) { /* it could not be mapped, so there is no use in waiting */
                break;
            }
        }
        if (!is_there && (n->state == KV_NODE_FILLING ? n->leader == q : !is_coming(s, child))) {
            break;
        }
        node = child;
    }
    /* The chunk in which the prompt leaves the index: worth a read from a quarter of it. */
    uint32_t n = n_tok_max - at * n_tok_chunk;
    struct kv_nearest ram = {.store = s, .node = KV_NODE_NONE};
    struct kv_nearest disk = ram;
    n = n < n_tok_chunk ? n : n_tok_chunk;
    kv_index_near(&s->index, node, tokens + at * n_tok_chunk, n, kv_visit_nearest, &ram);
    disk.n_common = ram.n_common + n_tok_chunk / 4;
    kv_index_near(&s->index, node, tokens + at * n_tok_chunk, n, visit_on_disk, &disk);
    if (disk.node != KV_NODE_NONE && is_coming(s, disk.node)) {
        return at * n_tok_chunk + disk.n_common;
    }
    return at * n_tok_chunk;
}

uint32_t kv_prefetch(struct kv_store *s, const struct kv_identity *id, const int32_t *tokens,
                     uint32_t n_tok)
{
    uint32_t root = kv_index_by_key(&s->index, id->root);
    uint32_t n_ready = 0;
    if (root != KV_NODE_NONE && n_tok > 0) {
        (void)pending_to(s, NULL, root, 0, tokens, n_tok - 1, &n_ready);
    }
    return n_ready;
}

/* Moves a frame whose only holder is a short chunk of the index to q: it goes on filling it. */
static bool adopt(struct kv_seq *q, const struct kv_nearest *best)
{
    struct kv_store *s = q->store;
    struct kv_node *n = node_at(s, best->node);
    if (n->state != KV_NODE_SEALED || n->n_tok != best->n_common || n->n_child > 0 ||
        n->n_tok == s->options.chunk_tok || n->slot != KV_SLOT_NONE ||
        (n->kept_until_s > s->now_s && q->retention.keep_s == 0) ||
        s->arena.frames[best->frame].n_map > 0 || n->job_write != KV_JOB_NONE ||
        q->range.n_chunk > q->n_path || !vma_fits(q, &best->frame, 1, false)) {
        return false;
    }
    kv_arena_map(&s->arena, best->frame);
    if (kv_seq_append(q, &best->frame, 1, false, NULL)) {
        return false;
    }
    kv_node_drop(s, best->node);
    return true;
}

bool kv_copy_into_tail(struct kv_seq *q, uint32_t src_frame)
{
    struct kv_store *s = q->store;
    struct kv_range *r = &q->range;
    uint32_t c = q->n_path;
    kv_arena_map(&s->arena, src_frame); /* so that making room cannot take it */
    if (r->n_chunk == c || is_shared(q, c)) {
        uint32_t prev = c > 0 ? r->frames[c - 1] : KV_FRAME_NONE;
        uint32_t frame = kv_frame_take(s, prev, c);
        if (frame != KV_FRAME_NONE && kv_seq_cut(q, c)) {
            q->n_tok = q->n_tok < c * s->options.chunk_tok ? q->n_tok : c * s->options.chunk_tok;
            (void)kv_seq_append(q, &frame, 1, false, NULL);
        } else if (frame != KV_FRAME_NONE) {
            kv_arena_unmap(&s->arena, frame);
        }
    }
    bool has_room = r->n_chunk > c && !is_shared(q, c);
    if (has_room) {
        memcpy(kv_arena_frame(&s->arena, r->frames[c]), kv_arena_frame(&s->arena, src_frame),
               s->options.chunk_bytes);
        s->counters.n_copy++;
    }
    kv_arena_unmap(&s->arena, src_frame);
    return has_room;
}

/* Takes over what is there of the chunk in which the prompt leaves the index. */
static void share_part(struct kv_seq *q, const int32_t *tokens, uint32_t n_tok_max)
{
    struct kv_store *s = q->store;
    const uint32_t n_tok_chunk = s->options.chunk_tok;
    uint32_t at = q->n_path * n_tok_chunk;
    /* All of a chunk is share_full's: here is one only when no mapping was left for it. */
    uint32_t n = n_tok_max - at < n_tok_chunk ? n_tok_max - at : n_tok_chunk - 1;
    struct kv_nearest best = {.store = s, .node = KV_NODE_NONE, .n_common = q->n_tok - at};
    kv_index_near(&s->index, parent_of(q, q->n_path), tokens + at, n, kv_visit_nearest, &best);
    if (best.node == KV_NODE_NONE) {
        return;
    }
    struct kv_node *node = node_at(s, best.node);
    uint64_t *n_hit = node->from_disk ? &s->counters.n_tok_hit_disk : &s->counters.n_tok_hit_ram;
    if (node->state == KV_NODE_SEALED) {
        node->from_disk = false;
        kv_node_touch(s, best.node);
    }
    uint32_t n_more = at + best.n_common - q->n_tok;
    if (adopt(q, &best) || kv_copy_into_tail(q, best.frame)) {
        memcpy(q->tail, tokens + at, best.n_common * sizeof *tokens);
        q->n_tok = at + best.n_common;
        *n_hit += n_more;
    }
}

/* Shows the full chunks of the prompt that q is about to compute. */
static void plan(struct kv_seq *q, const int32_t *tokens, uint32_t n_tok)
{
    struct kv_store *s = q->store;
    if (q->retention.leaves_nothing) {
        return;
    }
    const uint32_t n_tok_chunk = s->options.chunk_tok;
    uint32_t parent = parent_of(q, q->n_path);
    for (uint32_t c = q->n_path; (c + 1) * n_tok_chunk <= n_tok; c++) {
        const int32_t *chunk = tokens + c * n_tok_chunk;
        uint32_t node = kv_index_child(&s->index, parent, chunk, n_tok_chunk);
        if (node == KV_NODE_NONE &&
            s->index.n_node < s->index.n_node_max - s->index.n_node_max / PLAN_RESERVE) {
            node = kv_child_new(s, parent, chunk, n_tok_chunk);
            if (node != KV_NODE_NONE) {
                node_at(s, node)->leader = q;
                kv_node_update(s, node);
            }
        }
        if (node == KV_NODE_NONE || node_at(s, node)->leader != q) {
            return;
        }
        q->nodes[c] = node;
        q->n_plan = q->n_plan > c + 1 ? q->n_plan : c + 1;
        parent = node;
    }
}

static void match_more(struct kv_seq *q, const int32_t *tokens, uint32_t n_tok, bool wait,
                       struct kv_match *ret_m)
{
    uint32_t n_tok_pending = q->n_tok;
    if (!q->is_unlisted && n_tok > q->n_tok) {
        share_full(q, tokens, n_tok - 1);
        if (wait) {
            uint32_t n_ready;
            n_tok_pending = pending_to(q->store, q, parent_of(q, q->n_path), q->n_path, tokens,
                                       n_tok - 1, &n_ready);
        }
        if (!wait || n_tok_pending <= q->n_tok) {
            share_part(q, tokens, n_tok - 1);
            plan(q, tokens, n_tok);
            n_tok_pending = q->n_tok;
        }
    }
    kv_publish(q->store);
    *ret_m = (struct kv_match){.n_tok_ready = q->n_tok, .n_tok_pending = n_tok_pending};
}

void kv_seq_follow(struct kv_seq *q, const int32_t *tokens, uint32_t n_tok, bool wait,
                   struct kv_match *ret_m)
{
    if (q->root == KV_NODE_NONE) {
        *ret_m = (struct kv_match){.n_tok_ready = q->n_tok, .n_tok_pending = q->n_tok};
        return;
    }
    match_more(q, tokens, n_tok, wait, ret_m);
}
