#include "kvstore/evict.h"

#include "kvstore/store.h"

#include <assert.h>
#include <string.h>

/* Most chunks are never used again. One seen once counts for less than its one use; on a trace of
 * conversations 0.35 hits 16 % of chunks in 5,000 frames where 1 hits 14 %. The disk is large
 * enough to wait for the second use. */
#define WORTH_ONCE 0.35
/* A chunk on disk comes back for a small part of what computing it again costs. */
#define COST_RESTORE 0.25
/* Attention makes later chunks dearer: by as much again at this depth. */
#define DEPTH_DOUBLE_TOK 16384.0

/* ---- Pairing heaps over the nodes' links ---- */

static struct kv_heap_link *link_of(const struct kv_store *s, uint32_t node, bool disk)
{
    struct kv_node *n = &s->index.nodes[node];
    return disk ? &n->link_disk : &n->link_ram;
}

static uint32_t *heap_of(struct kv_store *s, uint32_t node, bool disk)
{
    struct kv_tenant *t = &s->tenants[s->index.nodes[node].tenant];
    return disk ? &t->heap_disk : &t->heap_ram;
}

static bool before(const struct kv_store *s, uint32_t a, uint32_t b, bool disk)
{
    double pa = link_of(s, a, disk)->priority;
    double pb = link_of(s, b, disk)->priority;
    return pa != pb ? pa < pb : a < b;
}

static uint32_t heap_merge(struct kv_store *s, uint32_t a, uint32_t b, bool disk)
{
    if (a == KV_NODE_NONE || b == KV_NODE_NONE) {
        return a == KV_NODE_NONE ? b : a;
    }
    if (before(s, b, a, disk)) {
        uint32_t t = a;
        a = b;
        b = t;
    }
    struct kv_heap_link *la = link_of(s, a, disk);
    struct kv_heap_link *lb = link_of(s, b, disk);
    lb->next = la->child;
    if (la->child != KV_NODE_NONE) {
        link_of(s, la->child, disk)->prev = b;
    }
    lb->prev = a;
    la->child = b;
    return a;
}

/* Merges a list of siblings into one heap: in pairs, then from the last pair back. */
static uint32_t heap_merge_list(struct kv_store *s, uint32_t first, bool disk)
{
    uint32_t pairs = KV_NODE_NONE; /* a stack through next */
    while (first != KV_NODE_NONE) {
        uint32_t a = first;
        uint32_t b = link_of(s, a, disk)->next;
        first = b == KV_NODE_NONE ? KV_NODE_NONE : link_of(s, b, disk)->next;
        link_of(s, a, disk)->next = link_of(s, a, disk)->prev = KV_NODE_NONE;
        if (b != KV_NODE_NONE) {
            link_of(s, b, disk)->next = link_of(s, b, disk)->prev = KV_NODE_NONE;
        }
        a = heap_merge(s, a, b, disk);
        link_of(s, a, disk)->next = pairs;
        pairs = a;
    }
    uint32_t root = KV_NODE_NONE;
    while (pairs != KV_NODE_NONE) {
        uint32_t a = pairs;
        pairs = link_of(s, a, disk)->next;
        link_of(s, a, disk)->next = KV_NODE_NONE;
        root = heap_merge(s, root, a, disk);
    }
    return root;
}

static void heap_insert(struct kv_store *s, uint32_t node, bool disk)
{
    struct kv_heap_link *l = link_of(s, node, disk);
    uint32_t *heap = heap_of(s, node, disk);
    l->child = l->next = l->prev = KV_NODE_NONE;
    l->in_heap = true;
    *heap = heap_merge(s, *heap, node, disk);
}

static void heap_remove(struct kv_store *s, uint32_t node, bool disk)
{
    struct kv_heap_link *l = link_of(s, node, disk);
    uint32_t *heap = heap_of(s, node, disk);
    uint32_t below = heap_merge_list(s, l->child, disk);
    if (*heap == node) {
        *heap = below;
    } else {
        struct kv_heap_link *p = link_of(s, l->prev, disk);
        if (p->child == node) {
            p->child = l->next;
        } else {
            p->next = l->next;
        }
        if (l->next != KV_NODE_NONE) {
            link_of(s, l->next, disk)->prev = l->prev;
        }
        *heap = heap_merge(s, *heap, below, disk);
    }
    l->child = l->next = l->prev = KV_NODE_NONE;
    l->in_heap = false;
}

/* ---- Tenants ---- */

uint32_t kv_tenant_of(struct kv_store *s, const uint8_t digest[32])
{
    uint32_t unused = 0;
    for (uint32_t i = 1; i < KV_TENANTS_MAX; i++) {
        struct kv_tenant *t = &s->tenants[i];
        if (t->n_node > 0 && memcmp(t->digest, digest, sizeof t->digest) == 0) {
            return i;
        }
        if (t->n_node == 0 && unused == 0) {
            unused = i;
        }
    }
    memcpy(s->tenants[unused].digest, digest, sizeof s->tenants[unused].digest);
    s->n_tenant_seen = s->n_tenant_seen > unused ? s->n_tenant_seen : unused + 1;
    return unused;
}

uint32_t kv_n_tenant(const struct kv_store *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_tenant_seen; i++) {
        n += s->tenants[i].n_node > 0;
    }
    return n;
}

/* ---- Nodes ---- */

static double cost_of(const struct kv_store *s, const struct kv_node *n)
{
    double tok = (double)n->n_tok / s->options.chunk_tok;
    double depth_tok = (double)n->depth * s->options.chunk_tok;
    return tok * (1.0 + depth_tok / DEPTH_DOUBLE_TOK);
}

void kv_node_renew(struct kv_store *s, uint32_t node)
{
    struct kv_node *n = &s->index.nodes[node];
    double cost = cost_of(s, n);
    double back = n->slot == KV_SLOT_NONE ? 1.0 : COST_RESTORE;
    bool ram = n->link_ram.in_heap;
    bool disk = n->link_disk.in_heap;
    if (ram) {
        heap_remove(s, node, false);
    }
    if (disk) {
        heap_remove(s, node, true);
    }
    n->link_ram.priority = s->clock_ram + (n->freq > 1 ? n->freq : WORTH_ONCE) * cost * back;
    n->link_disk.priority = s->clock_disk + n->freq * cost;
    if (ram) {
        heap_insert(s, node, false);
    }
    if (disk) {
        heap_insert(s, node, true);
    }
}

void kv_node_touch(struct kv_store *s, uint32_t node)
{
    struct kv_node *n = &s->index.nodes[node];
    if (n->freq == 0) {
        n->freq = kv_sketch_get(&s->sketch, n->key);
    }
    kv_sketch_add(&s->sketch, n->key);
    n->freq += n->freq < UINT32_MAX;
    kv_node_renew(s, node);
}

static bool may_leave_ram(const struct kv_node *n)
{
    return n->state == KV_NODE_SEALED && n->frame != KV_FRAME_NONE && n->n_ref == 0 &&
           !n->pins_ram && n->n_child_ram == 0 && n->job_write == KV_JOB_NONE;
}

static bool may_leave_disk(const struct kv_node *n)
{
    return n->state == KV_NODE_SEALED && n->slot != KV_SLOT_NONE && !n->pins_disk &&
           n->n_child_disk == 0 && n->job_read == KV_JOB_NONE && n->job_write == KV_JOB_NONE;
}

static void heaps_follow(struct kv_store *s, uint32_t node)
{
    struct kv_node *n = &s->index.nodes[node];
    if (may_leave_ram(n) != n->link_ram.in_heap) {
        (n->link_ram.in_heap ? heap_remove : heap_insert)(s, node, false);
    }
    if (may_leave_disk(n) != n->link_disk.in_heap) {
        (n->link_disk.in_heap ? heap_remove : heap_insert)(s, node, true);
    }
}

static bool counts_ram(const struct kv_node *n)
{
    return n->state == KV_NODE_FILLING || n->frame != KV_FRAME_NONE || n->job_read != KV_JOB_NONE;
}

static bool counts_disk(const struct kv_node *n)
{
    return n->slot != KV_SLOT_NONE || n->job_write != KV_JOB_NONE;
}

void kv_node_update(struct kv_store *s, uint32_t node)
{
    struct kv_node *n = &s->index.nodes[node];
    kv_node_pins_follow(s, node);
    if (n->state != KV_NODE_ROOT) {
        struct kv_node *p = &s->index.nodes[n->parent];
        bool ram = counts_ram(n);
        bool disk = counts_disk(n);
        if (ram != n->counts_ram || disk != n->counts_disk) {
            p->n_child_ram = p->n_child_ram + ram - n->counts_ram;
            p->n_child_disk = p->n_child_disk + disk - n->counts_disk;
            n->counts_ram = ram;
            n->counts_disk = disk;
            heaps_follow(s, n->parent);
        }
    }
    heaps_follow(s, node);
}

void kv_node_set_frame(struct kv_store *s, uint32_t node, uint32_t frame)
{
    struct kv_node *n = &s->index.nodes[node];
    struct kv_tenant *t = &s->tenants[n->tenant];
    uint32_t old = n->frame;
    if (old == frame) {
        return;
    }
    n->frame = frame;
    t->n_frame = t->n_frame + (frame != KV_FRAME_NONE) - (old != KV_FRAME_NONE);
    if (frame != KV_FRAME_NONE) {
        assert(!s->arena.frames[frame].held);
        kv_arena_hold(&s->arena, frame, true);
    }
    kv_node_update(s, node); /* before the frame can be handed on */
    if (old != KV_FRAME_NONE) {
        kv_arena_hold(&s->arena, old, false);
    }
}

void kv_node_set_slot(struct kv_store *s, uint32_t node, uint32_t slot)
{
    struct kv_node *n = &s->index.nodes[node];
    struct kv_tenant *t = &s->tenants[n->tenant];
    t->n_slot = t->n_slot + (slot != KV_SLOT_NONE) - (n->slot != KV_SLOT_NONE);
    n->slot = slot;
    kv_node_update(s, node);
}

static bool is_kept(const struct kv_node *n)
{
    return n->n_ref > 0 || n->n_child > 0 || n->frame != KV_FRAME_NONE || n->slot != KV_SLOT_NONE ||
           n->job_read != KV_JOB_NONE || n->job_write != KV_JOB_NONE || n->leader != NULL;
}

/* Takes out one node that nothing keeps; returns its parent. */
static uint32_t node_remove(struct kv_store *s, uint32_t node)
{
    struct kv_node *n = &s->index.nodes[node];
    uint32_t parent = n->parent;
    assert(!n->link_ram.in_heap && !n->link_disk.in_heap);
    if (n->state != KV_NODE_ROOT) {
        struct kv_node *p = &s->index.nodes[parent];
        p->n_child_ram -= n->counts_ram;
        p->n_child_disk -= n->counts_disk;
    }
    s->tenants[n->tenant].n_node--;
    kv_node_set_times(s, node, 0, 0);
    kv_index_remove(&s->index, node);
    if (parent != KV_NODE_NONE) {
        heaps_follow(s, parent);
    }
    return parent;
}

void kv_node_collect(struct kv_store *s, uint32_t node)
{
    while (node != KV_NODE_NONE && !is_kept(&s->index.nodes[node])) {
        node = node_remove(s, node);
    }
}

void kv_node_drop(struct kv_store *s, uint32_t node)
{
    uint32_t at = node;
    uint32_t parent;
    do {
        uint32_t child = kv_index_any_child(&s->index, at);
        while (child != KV_NODE_NONE) {
            at = child;
            child = kv_index_any_child(&s->index, at);
        }
        struct kv_node *n = &s->index.nodes[at];
        assert(n->n_ref == 0);
        if (n->leader) {
            kv_seq_lost_plan(n->leader, n->depth);
            n->leader = NULL;
        }
        n->job_read = n->job_write = KV_JOB_NONE; /* the jobs end on their own, for nobody */
        kv_node_set_frame(s, at, KV_FRAME_NONE);
        kv_slot_release(s, at);
        kv_node_update(s, at);
        parent = node_remove(s, at);
    } while (at != node && (at = parent, true));
    kv_node_collect(s, parent);
}

/* Over the treap of siblings, and below each. Chains are as deep as sequences have chunks; siblings
 * as deep as the logarithm of their number. */
static void unload_siblings(struct kv_store *s, uint32_t node)
{
    if (node == KV_NODE_NONE) {
        return;
    }
    struct kv_node *n = &s->index.nodes[node];
    unload_siblings(s, n->left);
    unload_siblings(s, n->right);
    kv_node_unload_below(s, node);
    n->job_read = KV_JOB_NONE;
    kv_node_set_frame(s, node, KV_FRAME_NONE);
    kv_node_update(s, node);
}

void kv_node_unload_below(struct kv_store *s, uint32_t node)
{
    if (s->index.nodes[node].n_child_ram > 0) {
        unload_siblings(s, s->index.nodes[node].children);
    }
}

/* ---- Who goes ---- */

/* The node to go next, among the tenants above their floor; where there is none, among all. */
static uint32_t victim(const struct kv_store *s, bool disk)
{
    uint32_t n_tenant = kv_n_tenant(s);
    uint64_t n_total = disk ? s->n_slot : s->arena.n_frame;
    uint64_t n_floor = n_tenant > 1 ? n_total / (2 * (uint64_t)n_tenant) : 0;
    uint32_t best = KV_NODE_NONE;
    bool best_above = false;
    for (uint32_t i = 0; i < s->n_tenant_seen; i++) {
        const struct kv_tenant *t = &s->tenants[i];
        uint32_t top = disk ? t->heap_disk : t->heap_ram;
        if (top == KV_NODE_NONE) {
            continue;
        }
        bool above = (disk ? t->n_slot : t->n_frame) > n_floor;
        if (best == KV_NODE_NONE || (above && !best_above) ||
            (above == best_above && before(s, top, best, disk))) {
            best = top;
            best_above = above;
        }
    }
    return best;
}

bool kv_evict_frame(struct kv_store *s)
{
    uint32_t i = victim(s, false);
    if (i == KV_NODE_NONE) {
        return false;
    }
    double priority = s->index.nodes[i].link_ram.priority;
    s->clock_ram = priority > s->clock_ram ? priority : s->clock_ram;
    s->counters.n_evict_ram++;
    kv_node_set_frame(s, i, KV_FRAME_NONE);
    kv_node_collect(s, i);
    return true;
}

bool kv_evict_slot(struct kv_store *s)
{
    uint32_t i = victim(s, true);
    if (i == KV_NODE_NONE) {
        return false;
    }
    double priority = s->index.nodes[i].link_disk.priority;
    s->clock_disk = priority > s->clock_disk ? priority : s->clock_disk;
    s->counters.n_evict_disk++;
    kv_slot_release(s, i);
    kv_node_collect(s, i);
    return true;
}

/* ---- Checks ---- */

/* Members of the heap below and including `top`, or UINT32_MAX when one comes before its parent or
 * does not belong. */
static uint32_t check_heap(const struct kv_store *s, uint32_t top, uint32_t tenant, bool disk)
{
    if (top == KV_NODE_NONE) {
        return 0;
    }
    uint32_t n = 1;
    uint32_t prev = top;
    if (!link_of(s, top, disk)->in_heap || s->index.nodes[top].tenant != tenant) {
        return UINT32_MAX;
    }
    for (uint32_t c = link_of(s, top, disk)->child; c != KV_NODE_NONE;
         prev = c, c = link_of(s, c, disk)->next) {
        uint32_t n_below = check_heap(s, c, tenant, disk);
        if (n_below == UINT32_MAX || link_of(s, c, disk)->prev != prev || before(s, c, top, disk)) {
            return UINT32_MAX;
        }
        n += n_below;
    }
    return n;
}

static enum err_code check_node(const struct kv_store *s, uint32_t i, struct err *e)
{
    const struct kv_node *n = &s->index.nodes[i];
    uint32_t n_heap = n->link_ram.in_heap + n->link_disk.in_heap;
    if (may_leave_ram(n) != n->link_ram.in_heap || may_leave_disk(n) != n->link_disk.in_heap) {
        return err_set(e, ERR_INTERNAL, "index node %u is in %u heaps, wrongly", i, n_heap);
    }
    if (n->state == KV_NODE_ROOT) {
        return ERR_OK;
    }
    const struct kv_node *p = &s->index.nodes[n->parent];
    if (n->counts_ram != counts_ram(n) || n->counts_disk != counts_disk(n)) {
        return err_set(e, ERR_INTERNAL, "index node %u is wrongly counted by its parent", i);
    }
    if (p->state != KV_NODE_ROOT) {
        bool parent_ram = counts_ram(p);
        if ((counts_ram(n) && !parent_ram) ||
            (n->slot != KV_SLOT_NONE && p->slot == KV_SLOT_NONE)) {
            return err_set(e, ERR_INTERNAL, "index node %u is kept without its parent", i);
        }
    }
    if (n->state == KV_NODE_FILLING ? n->leader == NULL : n->leader != NULL) {
        return err_set(e, ERR_INTERNAL, "index node %u has the wrong leader", i);
    }
    if ((n->pins_ram && n->frame == KV_FRAME_NONE) || (n->pins_disk && n->slot == KV_SLOT_NONE) ||
        ((n->pins_ram || n->pins_disk) && n->kept_until_s == 0)) {
        return err_set(e, ERR_INTERNAL, "index node %u is pinned without cause", i);
    }
    if (n->frame != KV_FRAME_NONE && !s->arena.frames[n->frame].held) {
        return err_set(e, ERR_INTERNAL, "frame %u of index node %u is not held", n->frame, i);
    }
    return ERR_OK;
}

enum err_code kv_evict_check(const struct kv_store *s, struct err *e)
{
    uint64_t n_held = 0;
    uint32_t n_heap_ram = 0;
    uint32_t n_heap_disk = 0;
    uint32_t n_child_ram = 0;
    uint32_t n_counted_ram = 0;
    uint32_t n_pin = 0;
    uint32_t n_timed = 0;
    for (uint32_t i = 0; i < s->index.n_node_max; i++) {
        const struct kv_node *n = &s->index.nodes[i];
        if (n->state == KV_NODE_UNUSED) {
            continue;
        }
        enum err_code code = check_node(s, i, e);
        if (code) {
            return code;
        }
        n_held += n->frame != KV_FRAME_NONE;
        n_heap_ram += n->link_ram.in_heap;
        n_heap_disk += n->link_disk.in_heap;
        n_child_ram += n->n_child_ram;
        n_counted_ram += n->counts_ram;
        n_pin += n->pins_ram + n->pins_disk;
        n_timed += n->kept_until_s || n->expires_s;
    }
    for (uint32_t i = 0; i < s->n_tenant_seen; i++) {
        const struct kv_tenant *t = &s->tenants[i];
        uint32_t n_ram = check_heap(s, t->heap_ram, i, false);
        uint32_t n_disk = check_heap(s, t->heap_disk, i, true);
        if (n_ram == UINT32_MAX || n_disk == UINT32_MAX) {
            return err_set(e, ERR_INTERNAL, "a heap of tenant %u is out of order", i);
        }
        n_heap_ram -= n_ram;
        n_heap_disk -= n_disk;
        n_held -= t->n_frame;
        n_pin -= t->n_pin_frame + t->n_pin_slot;
    }
    if (n_pin != 0 || n_timed != s->n_timed) {
        return err_set(e, ERR_INTERNAL, "pins or times of the index miscounted");
    }
    if (n_heap_ram != 0 || n_heap_disk != 0 || n_held != 0 || n_child_ram != n_counted_ram) {
        return err_set(e, ERR_INTERNAL, "frames, heaps or children of the index miscounted");
    }
    for (uint32_t f = 0; f < s->arena.n_frame; f++) {
        n_held += s->arena.frames[f].held;
    }
    for (uint32_t i = 0; i < s->index.n_node_max; i++) {
        const struct kv_node *n = &s->index.nodes[i];
        n_held -= n->state != KV_NODE_UNUSED && n->frame != KV_FRAME_NONE;
    }
    return n_held == 0 ? ERR_OK : err_set(e, ERR_INTERNAL, "frames held by no index node");
}
