/* What cache.c and match.c share: how a sequence with an identity stands in the prefix index. */
#ifndef KVSTORE_CACHE_H
#define KVSTORE_CACHE_H

#include "kvstore/store.h"

static inline struct kv_node *node_at(const struct kv_store *s, uint32_t node)
{
    return &s->index.nodes[node];
}

/* The node that chunk chunk_idx of q hangs below. */
static inline uint32_t parent_of(const struct kv_seq *q, uint32_t chunk_idx)
{
    return chunk_idx == 0 ? q->root : q->nodes[chunk_idx - 1];
}

/* The child with the most tokens in common of which the KV is written, for kv_index_near. */
struct kv_nearest {
    const struct kv_store *store;
    uint32_t node;
    uint32_t frame;
    uint32_t n_common;
};

void kv_visit_nearest(void *arg, uint32_t node, uint32_t n_common);

/* One more chunk of q's path. */
void kv_path_push(struct kv_seq *q, uint32_t node);
/* Takes back q's plans from chunk_idx on. */
void kv_plans_drop(struct kv_seq *q, uint32_t chunk_idx);
/* Whether somebody else has the frame behind chunk c of q, or a write still reads it. */
static inline bool is_shared(const struct kv_seq *q, uint32_t chunk_idx)
{
    const struct kv_frame *f = &q->store->arena.frames[q->range.frames[chunk_idx]];
    return chunk_idx < q->range.n_ro || f->held || f->n_map > 1 || f->n_write > 0;
}

/* Copies a chunk into the one behind q's path, which gets a frame where it has none. */
bool kv_copy_into_tail(struct kv_seq *q, uint32_t src_frame);

#endif
