/* Pins and retention: until when a chunk is held against eviction, and when it is forgotten. */
#include "base/clock.h"
#include "kvstore/cache.h"

#define PIN_PERCENT 50
/* A time moves on only when it would by so much of its length (1/n): to move it costs a write. */
#define TIME_STEP 8
#define SWEEP_US  UINT64_C(30000000) /* for all nodes once */

/* Whether one more of n_all may be pinned where n_pin are, n_own of them by the same tenant. */
static bool has_share(const struct kv_store *s, uint64_t n_all, uint64_t n_pin, uint64_t n_own)
{
    uint32_t percent = s->options.pin_percent ? s->options.pin_percent : PIN_PERCENT;
    uint64_t n_max = n_all * percent / 100;
    return n_pin < n_max && n_own < n_max / kv_n_tenant(s);
}

void kv_node_pins_follow(struct kv_store *s, uint32_t node)
{
    struct kv_node *n = node_at(s, node);
    struct kv_tenant *t = &s->tenants[n->tenant];
    bool is_kept = n->state == KV_NODE_SEALED && n->kept_until_s > s->now_s;
    bool ram = is_kept && n->frame != KV_FRAME_NONE;
    bool disk = is_kept && n->slot != KV_SLOT_NONE;
    if (ram && !n->pins_ram) {
        ram = has_share(s, s->arena.n_frame, s->n_pin_frame, t->n_pin_frame);
    }
    if (disk && !n->pins_disk) {
        disk = has_share(s, s->n_slot, s->n_pin_slot, t->n_pin_slot);
    }
    t->n_pin_frame = t->n_pin_frame + ram - n->pins_ram;
    s->n_pin_frame = s->n_pin_frame + ram - n->pins_ram;
    t->n_pin_slot = t->n_pin_slot + disk - n->pins_disk;
    s->n_pin_slot = s->n_pin_slot + disk - n->pins_disk;
    n->pins_ram = ram;
    n->pins_disk = disk;
}

void kv_node_set_times(struct kv_store *s, uint32_t node, uint32_t kept_until_s, uint32_t expires_s)
{
    struct kv_node *n = node_at(s, node);
    bool was_timed = n->kept_until_s || n->expires_s;
    s->n_timed = s->n_timed + (kept_until_s || expires_s) - was_timed;
    bool is_changed = n->kept_until_s != kept_until_s || n->expires_s != expires_s;
    n->kept_until_s = kept_until_s;
    n->expires_s = expires_s;
    kv_node_update(s, node);
    if (is_changed && n->slot != KV_SLOT_NONE) {
        kv_spill_want_mark(s, node);
    }
}

/* ---- Retention ---- */

/* When a stretch of so many seconds from now ends; `old` where that is hardly later. */
static uint32_t later(const struct kv_store *s, uint32_t old, uint32_t length_s)
{
    uint64_t end = (uint64_t)s->now_s + length_s;
    end = end < KV_PIN_FOR_GOOD ? end : KV_PIN_FOR_GOOD - 1;
    return end > (uint64_t)old + length_s / TIME_STEP ? (uint32_t)end : old;
}

void kv_retain_node(struct kv_seq *q, uint32_t node)
{
    struct kv_store *s = q->store;
    struct kv_node *n = node_at(s, node);
    const struct kv_retention *r = &q->retention;
    uint32_t kept = r->keep_s ? later(s, n->kept_until_s, r->keep_s) : n->kept_until_s;
    uint32_t expires = 0;
    if (r->ttl_s && (!n->is_retained || n->expires_s)) {
        expires = later(s, n->expires_s, r->ttl_s);
    }
    bool ram_only = r->ram_only && (!n->is_retained || n->ram_only);
    bool is_freed = n->is_retained && n->ram_only && !ram_only;
    n->is_retained = true;
    n->ram_only = ram_only;
    if (kept != n->kept_until_s || expires != n->expires_s) {
        kv_node_set_times(s, node, kept, expires);
    }
    if (is_freed && n->state == KV_NODE_SEALED) {
        (n->n_tok == s->options.chunk_tok ? kv_spill_want : kv_spill_want_tail)(s, node);
    }
}

void kv_retain_path(struct kv_seq *q)
{
    if (q->retention.leaves_nothing) {
        return;
    }
    for (; q->n_retained < q->n_path; q->n_retained++) {
        kv_retain_node(q, q->nodes[q->n_retained]);
    }
}

void kv_seq_retain(struct kv_seq *q, const struct kv_retention *r)
{
    q->retention = *r;
    q->n_retained = 0;
    if (r->leaves_nothing && q->root != KV_NODE_NONE) {
        kv_plans_drop(q, 0);
    }
}

/* ---- Pins ---- */

struct within {
    const struct kv_store *store;
    uint32_t node;
    uint32_t n_tok;
};

/* The longest chunk that lies wholly within the tokens asked for. */
static void visit_within(void *arg, uint32_t node, uint32_t n_common)
{
    struct within *w = arg;
    const struct kv_node *n = node_at(w->store, node);
    if (n->state == KV_NODE_SEALED && n->n_tok == n_common && n_common > w->n_tok) {
        w->node = node;
        w->n_tok = n_common;
    }
}

/* The sealed chunk behind `node` that begins with tokens[0…n_tok), or NONE. */
static uint32_t chunk_within(const struct kv_store *s, uint32_t node, const int32_t *tokens,
                             uint32_t n_tok)
{
    struct within w = {.store = s, .node = KV_NODE_NONE};
    const uint32_t n_tok_chunk = s->options.chunk_tok;
    if (n_tok > 0) {
        kv_index_near(&s->index, node, tokens, n_tok < n_tok_chunk ? n_tok : n_tok_chunk,
                      visit_within, &w);
    }
    return w.node;
}

uint32_t kv_pin(struct kv_store *s, const struct kv_identity *id, const int32_t *tokens,
                uint32_t n_tok, uint32_t until_unix_s)
{
    uint32_t node = kv_index_by_key(&s->index, id->root);
    uint32_t at = 0;
    bool is_whole = true;
    uint32_t n_pinned = 0;
    while (node != KV_NODE_NONE && at < n_tok &&
           (at == 0 || node_at(s, node)->n_tok == s->options.chunk_tok)) {
        node = chunk_within(s, node, tokens + at, n_tok - at);
        if (node == KV_NODE_NONE) {
            break;
        }
        struct kv_node *n = node_at(s, node);
        if (until_unix_s > n->kept_until_s) {
            uint32_t expires =
                n->expires_s && n->expires_s < until_unix_s ? until_unix_s : n->expires_s;
            kv_node_set_times(s, node, until_unix_s, expires);
        }
        at += n->n_tok;
        is_whole = is_whole && (n->pins_ram || n->pins_disk);
        n_pinned = is_whole ? at : n_pinned;
    }
    kv_publish(s);
    return n_pinned;
}

uint32_t kv_unpin(struct kv_store *s, const struct kv_identity *id, const int32_t *tokens,
                  uint32_t n_tok)
{
    uint32_t node = kv_index_by_key(&s->index, id->root);
    uint32_t at = 0;
    uint32_t n_unpinned = 0;
    while (node != KV_NODE_NONE && at < n_tok &&
           (at == 0 || node_at(s, node)->n_tok == s->options.chunk_tok)) {
        node = chunk_within(s, node, tokens + at, n_tok - at);
        if (node == KV_NODE_NONE) {
            break;
        }
        struct kv_node *n = node_at(s, node);
        n_unpinned += n->kept_until_s > s->now_s ? n->n_tok : 0;
        at += n->n_tok;
        kv_node_set_times(s, node, 0, n->expires_s);
    }
    kv_publish(s);
    return n_unpinned;
}

/* ---- Time ---- */

static void sweep_node(struct kv_store *s, uint32_t node)
{
    struct kv_node *n = node_at(s, node);
    if (n->state != KV_NODE_SEALED) {
        return;
    }
    if (n->kept_until_s && n->kept_until_s <= s->now_s) {
        kv_node_set_times(s, node, 0, n->expires_s);
    }
    if (n->expires_s && n->expires_s <= s->now_s && n->n_ref == 0 && n->n_child == 0) {
        s->counters.n_expired++;
        kv_node_drop(s, node);
    }
}

void kv_retention_sweep(struct kv_store *s)
{
    uint64_t us = s->now_us - s->swept_us;
    us = us < SWEEP_US ? us : SWEEP_US;
    uint64_t n = s->index.n_node_max * us / SWEEP_US;
    if (n == 0) {
        return;
    }
    s->swept_us = s->now_us;
    if (s->n_timed == 0) {
        return;
    }
    for (; n > 0 && s->n_timed > 0; n--) {
        s->sweep_at = (s->sweep_at + 1) % s->index.n_node_max;
        sweep_node(s, s->sweep_at);
    }
    kv_publish(s);
}

uint32_t kv_pins_give_way(struct kv_store *s)
{
    uint32_t n_chunk = 0;
    for (uint32_t i = 0; s->n_pin_frame > 0 && i < s->index.n_node_max; i++) {
        const struct kv_node *n = node_at(s, i);
        if (n->state == KV_NODE_SEALED && n->pins_ram && n->n_ref == 0) {
            kv_node_set_times(s, i, 0, n->expires_s);
            n_chunk++;
        }
    }
    kv_publish(s);
    return n_chunk;
}
