#include "kvstore/prefix_index.h"

#include "base/rng.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* A chunk has at most 256 tokens (design.md). */
#define N_TOK_CHUNK_MAX 256

static_assert(sizeof(int32_t) == 4 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "token ids are hashed and stored as they lie in memory");

enum err_code kv_index_init(struct kv_index *x, uint32_t n_node_max, uint32_t n_tok_chunk,
                            struct err *e)
{
    memset(x, 0, sizeof *x);
    if (n_tok_chunk > N_TOK_CHUNK_MAX) {
        return err_set(e, ERR_INVALID, "a KV chunk of %u tokens: at most %u", n_tok_chunk,
                       N_TOK_CHUNK_MAX);
    }
    x->n_tok_chunk = n_tok_chunk;
    x->n_node_max = n_node_max;
    x->n_bucket = 16;
    while (x->n_bucket < n_node_max && x->n_bucket < UINT32_C(1) << 30) {
        x->n_bucket *= 2;
    }
    x->buckets = malloc(x->n_bucket * sizeof *x->buckets);
    x->nodes = calloc(n_node_max, sizeof *x->nodes);
    x->tokens = calloc((size_t)n_node_max * n_tok_chunk, sizeof *x->tokens);
    if (!x->buckets || !x->nodes || !x->tokens) {
        kv_index_finish(x);
        return err_set(e, ERR_NOMEM, "no memory for a prefix index of %u chunks", n_node_max);
    }
    memset(x->buckets, 0xff, x->n_bucket * sizeof *x->buckets);
    x->unused = KV_NODE_NONE;
    for (uint32_t i = n_node_max; i-- > 0;) {
        x->nodes[i].key_next = x->unused;
        x->unused = i;
    }
    return ERR_OK;
}

void kv_index_finish(struct kv_index *x)
{
    free(x->buckets);
    free(x->nodes);
    free(x->tokens);
    memset(x, 0, sizeof *x);
}

void kv_index_key(const uint8_t parent[KV_KEY_BYTES], const int32_t *tokens, uint32_t n_tok,
                  uint8_t ret_key[KV_KEY_BYTES])
{
    uint8_t message[KV_KEY_BYTES + N_TOK_CHUNK_MAX * sizeof *tokens];
    assert(n_tok <= N_TOK_CHUNK_MAX);
    memcpy(message, parent, KV_KEY_BYTES);
    memcpy(message + KV_KEY_BYTES, tokens, n_tok * sizeof *tokens);
    hash_sha256(message, KV_KEY_BYTES + n_tok * sizeof *tokens, ret_key);
}

static uint32_t *bucket_of(const struct kv_index *x, const uint8_t key[KV_KEY_BYTES])
{
    uint32_t h;
    memcpy(&h, key, sizeof h);
    return &x->buckets[h & (x->n_bucket - 1)];
}

static void key_link(struct kv_index *x, uint32_t node)
{
    uint32_t *head = bucket_of(x, x->nodes[node].key);
    x->nodes[node].key_next = *head;
    *head = node;
}

static void key_unlink(struct kv_index *x, uint32_t node)
{
    uint32_t *at = bucket_of(x, x->nodes[node].key);
    while (*at != node) {
        at = &x->nodes[*at].key_next;
    }
    *at = x->nodes[node].key_next;
}

uint32_t kv_index_by_key(const struct kv_index *x, const uint8_t key[KV_KEY_BYTES])
{
    uint32_t i = *bucket_of(x, key);
    while (i != KV_NODE_NONE && memcmp(x->nodes[i].key, key, KV_KEY_BYTES) != 0) {
        i = x->nodes[i].key_next;
    }
    return i;
}

static uint32_t node_new(struct kv_index *x, enum kv_node_state state)
{
    uint32_t i = x->unused;
    if (i == KV_NODE_NONE) {
        return KV_NODE_NONE;
    }
    struct kv_node *n = &x->nodes[i];
    uint32_t generation = n->generation + 1;
    x->unused = n->key_next;
    *n = (struct kv_node){
        .state = state,
        .generation = generation,
        .parent = KV_NODE_NONE,
        .frame = UINT32_MAX,
        .slot = UINT32_MAX,
        .job_read = UINT32_MAX,
        .job_write = UINT32_MAX,
        .children = KV_NODE_NONE,
        .left = KV_NODE_NONE,
        .right = KV_NODE_NONE,
        .weight = (uint32_t)rng_mix(generation, i),
        .key_next = KV_NODE_NONE,
    };
    x->n_node++;
    return i;
}

static void node_free(struct kv_index *x, uint32_t node)
{
    x->nodes[node].state = KV_NODE_UNUSED;
    x->nodes[node].key_next = x->unused;
    x->unused = node;
    x->n_node--;
}

uint32_t kv_index_root(struct kv_index *x, const uint8_t key[KV_KEY_BYTES], uint32_t tenant)
{
    uint32_t i = kv_index_by_key(x, key);
    if (i != KV_NODE_NONE) {
        return x->nodes[i].state == KV_NODE_ROOT ? i : KV_NODE_NONE;
    }
    i = node_new(x, KV_NODE_ROOT);
    if (i != KV_NODE_NONE) {
        memcpy(x->nodes[i].key, key, KV_KEY_BYTES);
        x->nodes[i].tenant = tenant;
        key_link(x, i);
    }
    return i;
}

/* Tokens in common, and in *ret_order the sign of (tokens of the node − query); the shorter of two
 * where one begins the other comes first. */
static uint32_t compare(const struct kv_index *x, uint32_t node, const int32_t *tokens,
                        uint32_t n_tok, int *ret_order)
{
    const int32_t *own = kv_index_tokens(x, node);
    uint32_t n_own = x->nodes[node].n_tok;
    uint32_t n = n_own < n_tok ? n_own : n_tok;
    uint32_t i = 0;
    while (i < n && own[i] == tokens[i]) {
        i++;
    }
    if (i < n) {
        *ret_order = own[i] < tokens[i] ? -1 : 1;
    } else {
        *ret_order = n_own == n_tok ? 0 : n_own < n_tok ? -1 : 1;
    }
    return i;
}

/* Splits a treap by the query into what comes before it and the rest. */
static void treap_split(struct kv_index *x, uint32_t root, const int32_t *tokens, uint32_t n_tok,
                        uint32_t *ret_before, uint32_t *ret_rest)
{
    if (root == KV_NODE_NONE) {
        *ret_before = *ret_rest = KV_NODE_NONE;
        return;
    }
    int order;
    struct kv_node *n = &x->nodes[root];
    (void)compare(x, root, tokens, n_tok, &order);
    if (order < 0) {
        treap_split(x, n->right, tokens, n_tok, &n->right, ret_rest);
        *ret_before = root;
    } else {
        treap_split(x, n->left, tokens, n_tok, ret_before, &n->left);
        *ret_rest = root;
    }
}

static uint32_t treap_merge(struct kv_index *x, uint32_t a, uint32_t b)
{
    if (a == KV_NODE_NONE || b == KV_NODE_NONE) {
        return a == KV_NODE_NONE ? b : a;
    }
    if (x->nodes[a].weight > x->nodes[b].weight) {
        x->nodes[a].right = treap_merge(x, x->nodes[a].right, b);
        return a;
    }
    x->nodes[b].left = treap_merge(x, a, x->nodes[b].left);
    return b;
}

uint32_t kv_index_add(struct kv_index *x, uint32_t parent, const int32_t *tokens, uint32_t n_tok)
{
    assert(n_tok >= 1 && n_tok <= x->n_tok_chunk);
    uint32_t i = node_new(x, KV_NODE_FILLING);
    if (i == KV_NODE_NONE) {
        return KV_NODE_NONE;
    }
    struct kv_node *n = &x->nodes[i];
    struct kv_node *p = &x->nodes[parent];
    assert(p->state == KV_NODE_ROOT || p->n_tok == x->n_tok_chunk);
    n->parent = parent;
    n->n_tok = n_tok;
    n->depth = p->state == KV_NODE_ROOT ? 0 : p->depth + 1;
    n->tenant = p->tenant;
    memcpy(kv_index_tokens(x, i), tokens, n_tok * sizeof *tokens);
    uint32_t before;
    uint32_t rest;
    treap_split(x, p->children, tokens, n_tok, &before, &rest);
    p->children = treap_merge(x, treap_merge(x, before, i), rest);
    p->n_child++;
    return i;
}

void kv_index_seal(struct kv_index *x, uint32_t node)
{
    struct kv_node *n = &x->nodes[node];
    assert(n->state == KV_NODE_FILLING);
    kv_index_key(x->nodes[n->parent].key, kv_index_tokens(x, node), n->n_tok, n->key);
    n->state = KV_NODE_SEALED;
    n->leader = NULL;
    key_link(x, node);
}

void kv_index_remove(struct kv_index *x, uint32_t node)
{
    struct kv_node *n = &x->nodes[node];
    assert(n->n_child == 0);
    if (n->state != KV_NODE_FILLING) {
        key_unlink(x, node);
    }
    if (n->state != KV_NODE_ROOT) {
        struct kv_node *p = &x->nodes[n->parent];
        uint32_t *at = &p->children;
        while (*at != node) {
            int order;
            (void)compare(x, *at, kv_index_tokens(x, node), n->n_tok, &order);
            at = order < 0 ? &x->nodes[*at].right : &x->nodes[*at].left;
        }
        *at = treap_merge(x, n->left, n->right);
        p->n_child--;
    }
    node_free(x, node);
}

uint32_t kv_index_child(const struct kv_index *x, uint32_t parent, const int32_t *tokens,
                        uint32_t n_tok)
{
    uint32_t i = x->nodes[parent].children;
    while (i != KV_NODE_NONE) {
        int order;
        (void)compare(x, i, tokens, n_tok, &order);
        if (order == 0) {
            return i;
        }
        i = order < 0 ? x->nodes[i].right : x->nodes[i].left;
    }
    return KV_NODE_NONE;
}

void kv_index_near(const struct kv_index *x, uint32_t parent, const int32_t *tokens, uint32_t n_tok,
                   void (*visit)(void *arg, uint32_t node, uint32_t n_common), void *arg)
{
    uint32_t i = x->nodes[parent].children;
    while (i != KV_NODE_NONE) {
        int order;
        uint32_t n_common = compare(x, i, tokens, n_tok, &order);
        visit(arg, i, n_common);
        i = order < 0 ? x->nodes[i].right : x->nodes[i].left;
    }
}

uint32_t kv_index_any_child(const struct kv_index *x, uint32_t parent)
{
    return x->nodes[parent].children;
}

/* Walks a treap in order; *prev is the node before. Returns how many nodes, or UINT32_MAX for a
 * fault. */
static uint32_t check_treap(const struct kv_index *x, uint32_t root, uint32_t parent,
                            uint32_t *prev)
{
    if (root == KV_NODE_NONE) {
        return 0;
    }
    const struct kv_node *n = &x->nodes[root];
    uint32_t n_left = check_treap(x, n->left, parent, prev);
    if (n_left == UINT32_MAX || n->parent != parent || n->state < KV_NODE_FILLING) {
        return UINT32_MAX;
    }
    if (*prev != KV_NODE_NONE) {
        int order;
        (void)compare(x, *prev, kv_index_tokens(x, root), n->n_tok, &order);
        if (order >= 0) {
            return UINT32_MAX;
        }
    }
    *prev = root;
    uint32_t n_right = check_treap(x, n->right, parent, prev);
    return n_right == UINT32_MAX ? UINT32_MAX : n_left + 1 + n_right;
}

enum err_code kv_index_check(const struct kv_index *x, struct err *e)
{
    uint32_t n_used = 0;
    uint32_t n_child = 0;
    uint32_t n_root = 0;
    for (uint32_t i = 0; i < x->n_node_max; i++) {
        const struct kv_node *n = &x->nodes[i];
        if (n->state == KV_NODE_UNUSED) {
            continue;
        }
        n_used++;
        n_root += n->state == KV_NODE_ROOT;
        uint32_t prev = KV_NODE_NONE;
        if (check_treap(x, n->children, i, &prev) != n->n_child) {
            return err_set(e, ERR_INTERNAL, "the children of index node %u are out of order", i);
        }
        n_child += n->n_child;
        if (n->state != KV_NODE_ROOT && n->depth > 0 &&
            (x->nodes[n->parent].depth + 1 != n->depth ||
             x->nodes[n->parent].n_tok != x->n_tok_chunk)) {
            return err_set(e, ERR_INTERNAL, "index node %u hangs at a wrong depth", i);
        }
        if (n->state != KV_NODE_FILLING && kv_index_by_key(x, n->key) != i) {
            return err_set(e, ERR_INTERNAL, "index node %u is not found by its key", i);
        }
    }
    if (n_used != x->n_node || n_child + n_root != n_used) {
        return err_set(e, ERR_INTERNAL, "%u index nodes, counted %u; %u children of %u roots",
                       n_used, x->n_node, n_child, n_root);
    }
    return ERR_OK;
}
