/* The prefix index: a forest of chunks. A root is one identity (model, arithmetic, adapter,
 * tenant, …); a node below it is one chunk of tokens after its parent's. A path from a root spells
 * a token sequence whose KV exists, in RAM, on disk, or in the making.
 *
 *   root ── [0…T) ── [T…2T) ── [2T…2T+k)        full chunks have children, shorter ones do not
 *               └─── [T…2T)'                    children differ in some token
 *
 * Keys: a root's is the SHA-256 of its typed, length-prefixed fields; a node's is
 * SHA-256(parent's key ‖ tokens as LE32). Finding a child compares the token ids themselves, so no
 * hit rests on a hash; keys name chunks outside this process.
 *
 * Children of one parent form a treap ordered by their tokens, so the longest common prefix with
 * any query lies on one descent.
 *
 * Owner: struct kv_store. Thread: the store's. Indices are stable for a node's life. */
#ifndef KVSTORE_PREFIX_INDEX_H
#define KVSTORE_PREFIX_INDEX_H

#include "base/err.h"
#include "base/hash.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KV_NODE_NONE UINT32_MAX
#define KV_KEY_BYTES SHA256_BYTES

struct kv_seq;

enum kv_node_state {
    KV_NODE_UNUSED,
    KV_NODE_ROOT,
    KV_NODE_FILLING, /* its leader will write these tokens, or has written some */
    KV_NODE_SEALED,  /* written, and never written again */
};

struct kv_heap_link { /* see evict.c */
    double priority;
    uint32_t child;
    uint32_t next;
    uint32_t prev; /* the left sibling, or the parent of a first child */
    bool in_heap;
};

struct kv_node {
    uint8_t key[KV_KEY_BYTES]; /* of roots and sealed nodes */
    enum kv_node_state state;
    uint32_t n_tok; /* 1…T; 0 for a root */
    uint32_t depth; /* index of the chunk in its sequence */
    uint32_t parent;
    uint32_t tenant; /* index into the store's tenants */
    uint32_t n_ref;  /* live sequences whose path holds it */

    uint32_t kept_until_s; /* Unix time: held against eviction before, see pin.c; 0: not */
    uint32_t expires_s;    /* forgotten after; 0: never */
    bool pins_ram;         /* held, and counted as such */
    bool pins_disk;
    bool is_retained; /* a sequence's retention reached it; the next only add to it */
    bool ram_only;    /* not to be written to disk */

    uint32_t frame; /* KV_FRAME_NONE: not in RAM */
    uint32_t slot;  /* KV_SLOT_NONE: not on disk */
    uint32_t job_read;
    uint32_t job_write;
    struct kv_seq *leader; /* while filling */

    uint32_t n_child;
    uint32_t n_child_ram;  /* children filling, loading or in RAM: they keep this node in RAM */
    uint32_t n_child_disk; /* children with a slot: they keep this node's slot */
    bool counts_ram;       /* this node is among its parent's n_child_ram */
    bool counts_disk;

    uint32_t freq;
    bool from_disk; /* loaded, and not hit since */
    uint32_t n_write_try;
    uint64_t retry_us; /* a read was late: not read again before */
    struct kv_heap_link link_ram;
    struct kv_heap_link link_disk;

    uint32_t children; /* treap */
    uint32_t left;
    uint32_t right;
    uint32_t weight;
    uint32_t key_next; /* chain of the table of keys, or of unused nodes */
    uint32_t generation;
};

struct kv_index {
    uint32_t n_tok_chunk; /* T */
    uint32_t n_node_max;
    uint32_t n_node; /* in use */
    uint32_t unused; /* chain */
    uint32_t n_bucket;
    uint32_t *buckets; /* [n_bucket], a power of two */
    struct kv_node *nodes;
    int32_t *tokens; /* [n_node_max, T] */
};

enum err_code kv_index_init(struct kv_index *x, uint32_t n_node_max, uint32_t n_tok_chunk,
                            struct err *e);
void kv_index_finish(struct kv_index *x); /* a zeroed index is legal */

/* The root of that key, made where it is not there yet; KV_NODE_NONE when nodes are used up. */
uint32_t kv_index_root(struct kv_index *x, const uint8_t key[KV_KEY_BYTES], uint32_t tenant);
/* A new child of `parent` with tokens[n_tok], n_tok in 1…T, that no child has yet. It is filling,
 * with nothing attached. KV_NODE_NONE when nodes are used up. */
uint32_t kv_index_add(struct kv_index *x, uint32_t parent, const int32_t *tokens, uint32_t n_tok);
/* Filling becomes sealed: computes the key. */
void kv_index_seal(struct kv_index *x, uint32_t node);
/* Takes a childless node out. */
void kv_index_remove(struct kv_index *x, uint32_t node);

/* The child with exactly these tokens, or KV_NODE_NONE. */
uint32_t kv_index_child(const struct kv_index *x, uint32_t parent, const int32_t *tokens,
                        uint32_t n_tok);
/* Calls visit for the children on the descent towards tokens[n_tok], with the count of tokens each
 * has in common with it. A child with the longest common prefix is always among them. */
void kv_index_near(const struct kv_index *x, uint32_t parent, const int32_t *tokens, uint32_t n_tok,
                   void (*visit)(void *arg, uint32_t node, uint32_t n_common), void *arg);
/* Any child; KV_NODE_NONE: there is none. */
uint32_t kv_index_any_child(const struct kv_index *x, uint32_t parent);
/* The root or sealed node of that key, or KV_NODE_NONE. */
uint32_t kv_index_by_key(const struct kv_index *x, const uint8_t key[KV_KEY_BYTES]);

void kv_index_key(const uint8_t parent[KV_KEY_BYTES], const int32_t *tokens, uint32_t n_tok,
                  uint8_t ret_key[KV_KEY_BYTES]);

static inline int32_t *kv_index_tokens(const struct kv_index *x, uint32_t node)
{
    return x->tokens + (size_t)node * x->n_tok_chunk;
}

/* Structure alone: parents, order of children, counts, the table of keys. */
enum err_code kv_index_check(const struct kv_index *x, struct err *e);

#endif
