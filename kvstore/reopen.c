/* Opens the store's directory and hangs what it holds into the index. */
#include "base/clock.h"
#include "base/log.h"
#include "kvstore/store.h"

#include <stdlib.h>
#include <string.h>

static struct kv_node *node_at(const struct kv_store *s, uint32_t node)
{
    return &s->index.nodes[node];
}

struct found {
    uint32_t slot;
    uint32_t depth;
    uint32_t n_tok;
    uint32_t freq;
    uint32_t kept_until_s;
    uint32_t expires_s;
    uint64_t generation;
    uint8_t parent[32];
    uint8_t root[32];
    uint8_t tenant[32];
    size_t tokens_at;
};

struct scan {
    struct found *list;
    size_t n;
    size_t n_max;
    int32_t *tokens;
    size_t n_tok;
    size_t n_tok_max;
};

static bool grow(void **list, size_t *n_max, size_t n, size_t item_bytes)
{
    if (n > *n_max) {
        size_t n_new = 2 * n + 64;
        void *more = realloc(*list, n_new * item_bytes);
        if (!more) {
            return false;
        }
        *list = more;
        *n_max = n_new;
    }
    return true;
}

static bool scan_found(void *arg, const struct kv_slot_header *h)
{
    struct scan *c = arg;
    void *list = c->list;
    void *tokens = c->tokens;
    bool has_room = grow(&list, &c->n_max, c->n + 1, sizeof *c->list) &&
                    grow(&tokens, &c->n_tok_max, c->n_tok + h->n_tok, sizeof *c->tokens);
    c->list = list;
    c->tokens = tokens;
    if (!has_room) {
        return false;
    }
    struct found *f = &c->list[c->n++];
    *f = (struct found){.slot = h->slot,
                        .depth = h->depth,
                        .n_tok = h->n_tok,
                        .freq = h->freq,
                        .kept_until_s = h->kept_until_s,
                        .expires_s = h->expires_s,
                        .generation = h->generation,
                        .tokens_at = c->n_tok};
    memcpy(f->parent, h->parent, sizeof f->parent);
    memcpy(f->root, h->root, sizeof f->root);
    memcpy(f->tenant, h->tenant, sizeof f->tenant);
    memcpy(c->tokens + c->n_tok, h->tokens, h->n_tok * sizeof *h->tokens);
    c->n_tok += h->n_tok;
    return true;
}

/* Parents before children, newer before older. */
static int found_compare(const void *a, const void *b)
{
    const struct found *x = a;
    const struct found *y = b;
    if (x->depth != y->depth) {
        return x->depth < y->depth ? -1 : 1;
    }
    return x->generation > y->generation ? -1 : x->generation < y->generation;
}

/* Hangs a slot found on disk into the index; false when it has no place there. */
static bool found_enter(struct kv_store *s, const struct found *f, const int32_t *tokens)
{
    uint32_t parent = KV_NODE_NONE;
    if (f->expires_s && f->expires_s <= s->now_s) {
        return false;
    }
    if (f->depth == 0) {
        parent = kv_root_of(s, f->root, f->tenant);
    } else {
        parent = kv_index_by_key(&s->index, f->parent);
        const struct kv_node *p = parent == KV_NODE_NONE ? NULL : node_at(s, parent);
        if (p && (p->state != KV_NODE_SEALED || p->slot == KV_SLOT_NONE ||
                  p->n_tok != s->options.chunk_tok || p->depth + 1 != f->depth)) {
            parent = KV_NODE_NONE;
        }
    }
    if (parent == KV_NODE_NONE) {
        return false;
    }
    uint32_t node = kv_index_child(&s->index, parent, tokens, f->n_tok);
    if (node == KV_NODE_NONE) {
        node = kv_child_new(s, parent, tokens, f->n_tok);
        if (node == KV_NODE_NONE) {
            kv_node_collect(s, parent);
            return false;
        }
        kv_index_seal(&s->index, node);
        node_at(s, node)->freq = f->freq > 0 ? f->freq - 1 : 0;
    }
    struct kv_node *n = node_at(s, node);
    if (n->state != KV_NODE_SEALED || n->slot != KV_SLOT_NONE || n->job_write != KV_JOB_NONE) {
        return false; /* an older copy, or somebody is computing it right now */
    }
    kv_node_touch(s, node);
    n->is_retained = true;
    if (f->kept_until_s > s->now_s || f->expires_s) { /* before it has a slot to be marked */
        kv_node_set_times(s, node, f->kept_until_s, f->expires_s);
    }
    kv_node_set_slot(s, node, f->slot);
    return true;
}

enum err_code kv_spill_open(struct kv_store *s, struct err *e)
{
    const struct kv_disk_options *o = &s->options.disk;
    struct kv_spill *p = &s->spill;
    struct scan c = {0};
    uint64_t begin_us = clock_mono_us();
    enum err_code code =
        kv_disk_open(&p->disk, o->dir, o->fingerprint, o->cap_bytes, s->options.chunk_tok,
                     s->options.chunk_bytes, p->has_key ? &p->crypt : NULL, e);
    if (code) {
        return code;
    }
    const struct kv_tier_options t = {.backend = o->backend,
                                      .io_timeout_us = o->io_timeout_us,
                                      .throttle_read_bytes_s = o->throttle_read_bytes_s,
                                      .throttle_write_bytes_s = o->throttle_write_bytes_s,
                                      .throttle_latency_us = o->throttle_latency_us,
                                      .hook = o->hook,
                                      .crypt = p->has_key ? &p->crypt : NULL};
    code = kv_tier_create(&p->disk, &t, &p->tier, e);
    if (!code) {
        code = kv_disk_scan(&p->disk, scan_found, &c, e);
    }
    if (code) {
        goto out;
    }
    if (c.n) {
        qsort(c.list, c.n, sizeof *c.list, found_compare);
    }
    uint32_t n_entered = 0;
    for (size_t i = 0; i < c.n; i++) {
        if (found_enter(s, &c.list[i], c.tokens + c.list[i].tokens_at)) {
            n_entered++;
        } else {
            kv_disk_release(&p->disk, c.list[i].slot, false);
        }
    }
    log_info("kv disk: %s by %s%s; %u of %u slots hold chunks, read in %llu ms", p->disk.path,
             kv_tier_backend(p->tier), p->disk.is_direct ? ", O_DIRECT" : ", buffered", n_entered,
             p->disk.n_seg_max * p->disk.n_slot_segment,
             (unsigned long long)((clock_mono_us() - begin_us) / 1000));
out:
    if (code) {
        (void)kv_tier_destroy(p->tier);
        p->tier = NULL;
        kv_disk_close(&p->disk);
    }
    free(c.list);
    free(c.tokens);
    return code;
}
