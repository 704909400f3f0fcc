/* How a sequence enters the prefix index, fills it, and leaves it; match.c is how it finds. */
#include "kvstore/cache.h"
#include "base/buf.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define N_REDUNDANT_MAX 8

enum err_code kv_identity_make(const struct kv_field *fields, uint32_t n_field,
                               struct kv_identity *ret_id, struct err *e)
{
    struct buf b = {0};
    struct kv_identity id;
    buf_append(&b, "kv1", 4);
    hash_sha256("", 0, id.tenant);
    for (uint32_t i = 0; i < n_field; i++) {
        const uint32_t head[2] = {fields[i].type, fields[i].n_byte};
        buf_append(&b, head, sizeof head);
        buf_append(&b, fields[i].bytes, fields[i].n_byte);
        if (fields[i].type == KV_FIELD_TENANT) {
            hash_sha256(fields[i].bytes, fields[i].n_byte, id.tenant);
        }
    }
    if (!buf_ok(&b)) {
        buf_free(&b);
        return err_set(e, ERR_NOMEM, "no memory for a cache identity");
    }
    hash_sha256(b.data, b.len, id.root);
    buf_free(&b);
    *ret_id = id;
    return ERR_OK;
}

uint32_t kv_root_of(struct kv_store *s, const uint8_t root[32], const uint8_t tenant[32])
{
    uint32_t i = kv_index_by_key(&s->index, root);
    if (i == KV_NODE_NONE) {
        uint32_t t = kv_tenant_of(s, tenant);
        i = kv_index_root(&s->index, root, t);
        if (i != KV_NODE_NONE) {
            s->tenants[t].n_node++;
        }
    }
    return i != KV_NODE_NONE && node_at(s, i)->state == KV_NODE_ROOT ? i : KV_NODE_NONE;
}

uint32_t kv_child_new(struct kv_store *s, uint32_t parent, const int32_t *tokens, uint32_t n_tok)
{
    uint32_t i = kv_index_add(&s->index, parent, tokens, n_tok);
    if (i != KV_NODE_NONE) {
        s->tenants[node_at(s, i)->tenant].n_node++;
    }
    return i;
}

void kv_path_push(struct kv_seq *q, uint32_t node)
{
    struct kv_store *s = q->store;
    q->nodes[q->n_path++] = node;
    q->n_plan = q->n_plan > q->n_path ? q->n_plan : q->n_path;
    node_at(s, node)->n_ref++;
    kv_node_touch(s, node);
    kv_node_update(s, node);
}

void kv_plans_drop(struct kv_seq *q, uint32_t chunk_idx)
{
    while (q->n_plan > chunk_idx && q->n_plan > q->n_path) {
        uint32_t node = q->nodes[--q->n_plan];
        if (node != KV_NODE_NONE) {
            node_at(q->store, node)->leader = NULL;
            q->nodes[q->n_plan] = KV_NODE_NONE;
            kv_node_drop(q->store, node);
        }
    }
}

/* ---- Sequences with an identity ---- */

/* Gives a plainly opened sequence its place below the root. */
static enum err_code seq_enter(struct kv_seq *q, uint32_t root, struct err *e)
{
    struct kv_store *s = q->store;
    q->nodes = malloc(s->n_chunk_max * sizeof *q->nodes);
    q->tail = calloc(s->options.chunk_tok, sizeof *q->tail);
    if (!q->nodes || !q->tail) {
        return err_set(e, ERR_NOMEM, "no memory for a KV sequence of %u chunks", s->n_chunk_max);
    }
    memset(q->nodes, 0xff, s->n_chunk_max * sizeof *q->nodes);
    q->root = root;
    node_at(s, root)->n_ref++;
    return ERR_OK;
}

enum err_code kv_seq_open_prompt(struct kv_store *s, const struct kv_identity *id,
                                 const int32_t *tokens, uint32_t n_tok, struct kv_seq **ret_q,
                                 struct kv_match *ret_m, struct err *e)
{
    if (n_tok == 0 || n_tok > s->options.n_seq_tok_max) {
        return err_set(e, n_tok ? ERR_LIMIT : ERR_INVALID,
                       "a KV sequence of %u tokens: must have 1 to %u", n_tok,
                       s->options.n_seq_tok_max);
    }
    struct kv_seq *q = NULL;
    enum err_code code = kv_seq_open(s, &q, e);
    if (code) {
        return code;
    }
    uint32_t root = kv_root_of(s, id->root, id->tenant);
    s->counters.n_tok_asked += n_tok;
    if (root != KV_NODE_NONE) {
        code = seq_enter(q, root, e);
        if (code) {
            kv_node_collect(s, root);
            kv_seq_close(q);
            return code;
        }
    }
    kv_seq_follow(q, tokens, n_tok, true, ret_m);
    *ret_q = q;
    return ERR_OK;
}

uint32_t kv_seq_n_tok(const struct kv_seq *q)
{
    return q->n_tok;
}

void kv_seq_lost_plan(struct kv_seq *q, uint32_t chunk_idx)
{
    q->nodes[chunk_idx] = KV_NODE_NONE;
}

struct redundant {
    const struct kv_store *store;
    uint32_t n_tok; /* chunks that are a true prefix of so many tokens */
    uint32_t n;
    uint32_t nodes[N_REDUNDANT_MAX];
};

static void visit_redundant(void *arg, uint32_t node, uint32_t n_common)
{
    struct redundant *r = arg;
    const struct kv_node *n = node_at(r->store, node);
    if (n->state == KV_NODE_SEALED && n->n_tok == n_common && n_common < r->n_tok &&
        r->n < N_REDUNDANT_MAX) {
        r->nodes[r->n++] = node;
    }
}

/* Drops short chunks that `longer` now says, too; their pins pass to it. */
static void drop_redundant(struct kv_store *s, uint32_t longer, const int32_t *tokens,
                           uint32_t n_tok)
{
    uint32_t parent = node_at(s, longer)->parent;
    struct redundant r = {.store = s, .n_tok = n_tok};
    kv_index_near(&s->index, parent, tokens, n_tok, visit_redundant, &r);
    for (uint32_t i = 0; i < r.n; i++) {
        const struct kv_node *n = node_at(s, longer);
        uint32_t kept = node_at(s, r.nodes[i])->kept_until_s;
        if (kept > n->kept_until_s) {
            kv_node_set_times(s, longer, kept, n->expires_s);
        }
        kv_node_drop(s, r.nodes[i]);
    }
}

/* The chunk behind q's path is full: it becomes a node, or joins the one that is there. */
static void seal(struct kv_seq *q)
{
    struct kv_store *s = q->store;
    const uint32_t n_tok_chunk = s->options.chunk_tok;
    uint32_t c = q->n_path;
    uint32_t parent = parent_of(q, c);
    if (q->retention.leaves_nothing) {
        q->is_unlisted = true;
        return;
    }
    uint32_t node = kv_index_child(&s->index, parent, q->tail, n_tok_chunk);
    if (c < q->n_plan && q->nodes[c] != node) {
        kv_plans_drop(q, c); /* the tokens became others than those announced */
    }
    if (node == KV_NODE_NONE) {
        node = kv_child_new(s, parent, q->tail, n_tok_chunk);
    }
    if (node == KV_NODE_NONE) {
        kv_plans_drop(q, c);
        q->is_unlisted = true;
        return;
    }
    struct kv_node *n = node_at(s, node);
    if (n->state == KV_NODE_FILLING) {
        if (n->leader && n->leader != q) {
            kv_seq_lost_plan(n->leader, c);
        }
        kv_index_seal(&s->index, node);
    }
    kv_path_push(q, node);
    kv_retain_path(q);
    if (n->frame == KV_FRAME_NONE) {
        n->job_read = KV_JOB_NONE; /* what is being read comes too late */
        kv_node_set_frame(s, node, q->range.frames[c]);
        kv_spill_want(s, node);
    } /* else q keeps a second copy to itself, until it closes */
    drop_redundant(s, node, q->tail, n_tok_chunk);
}

void kv_seq_commit(struct kv_seq *q, const int32_t *tokens, uint32_t n_tok)
{
    struct kv_store *s = q->store;
    const uint32_t n_tok_chunk = s->options.chunk_tok;
    assert(n_tok <= (uint64_t)q->range.n_chunk * n_tok_chunk - q->n_tok);
    if (q->root == KV_NODE_NONE) {
        q->n_tok += n_tok;
        return;
    }
    bool ends_chunk = false;
    while (n_tok > 0) {
        uint32_t k = q->n_tok % n_tok_chunk;
        uint32_t n = n_tok < n_tok_chunk - k ? n_tok : n_tok_chunk - k;
        memcpy(q->tail + k, tokens, n * sizeof *tokens);
        tokens += n;
        n_tok -= n;
        q->n_tok += n;
        ends_chunk = ends_chunk || k + n == n_tok_chunk;
        if (k + n == n_tok_chunk && !q->is_unlisted) {
            seal(q);
        }
    }
    if (!ends_chunk) { /* each step of each sequence that decodes: no more than the copy */
        return;
    }
    /* One mapping more at most: the writable rest. Without room for it sharing goes on; only the
     * guard against writes is late. */
    if (s->n_vma < s->options.n_vma_max) {
        (void)kv_seq_protect(q, q->n_tok / n_tok_chunk);
    }
    kv_publish(s);
}

static void path_release(struct kv_seq *q, uint32_t n_path)
{
    struct kv_store *s = q->store;
    while (q->n_path > n_path) {
        uint32_t node = q->nodes[--q->n_path];
        q->nodes[q->n_path] = KV_NODE_NONE;
        node_at(s, node)->n_ref--;
        kv_node_update(s, node);
        kv_node_collect(s, node);
    }
    q->n_plan = q->n_path;
    q->n_retained = q->n_retained < n_path ? q->n_retained : n_path;
}

void kv_seq_truncate(struct kv_seq *q, uint32_t n_tok)
{
    if (n_tok >= q->n_tok) {
        return;
    }
    if (q->root != KV_NODE_NONE) {
        uint32_t c = n_tok / q->store->options.chunk_tok;
        uint32_t k = n_tok % q->store->options.chunk_tok;
        kv_plans_drop(q, 0);
        if (c < q->n_path) {
            memcpy(q->tail, kv_index_tokens(&q->store->index, q->nodes[c]), k * sizeof *q->tail);
            path_release(q, c);
        }
    }
    q->n_tok = n_tok;
}

enum err_code kv_seq_own_tail(struct kv_seq *q, struct err *e)
{
    struct kv_store *s = q->store;
    struct kv_range *r = &q->range;
    uint32_t c = q->n_tok / s->options.chunk_tok;
    if (q->root == KV_NODE_NONE || c >= r->n_chunk || !is_shared(q, c)) {
        return ERR_OK;
    }
    uint32_t src = r->frames[c];
    uint32_t frame = kv_frame_take(s, c > 0 ? r->frames[c - 1] : KV_FRAME_NONE, c);
    if (frame == KV_FRAME_NONE) {
        return err_set(e, ERR_FULL, "KV memory is full: a private copy needs one frame");
    }
    memcpy(kv_arena_frame(&s->arena, frame), kv_arena_frame(&s->arena, src),
           s->options.chunk_bytes);
    s->counters.n_copy++;
    if (!kv_seq_cut(q, c)) {
        kv_arena_unmap(&s->arena, frame);
        return err_set(e, ERR_NOMEM, "cannot unmap KV memory");
    }
    enum err_code code = kv_seq_append(q, &frame, 1, false, e);
    if (code) { /* what this chunk held is out of reach now */
        q->n_tok = c * s->options.chunk_tok;
    }
    return code;
}

/* What q wrote of its last chunk stays in the index as a short chunk. */
static void leave_tail(struct kv_seq *q)
{
    struct kv_store *s = q->store;
    uint32_t c = q->n_tok / s->options.chunk_tok;
    uint32_t n_tok = q->n_tok % s->options.chunk_tok;
    if (n_tok == 0 || q->is_unlisted || q->retention.leaves_nothing || c != q->n_path ||
        c >= q->range.n_chunk || is_shared(q, c)) {
        return;
    }
    uint32_t parent = parent_of(q, c);
    struct kv_nearest best = {.store = s, .node = KV_NODE_NONE};
    kv_index_near(&s->index, parent, q->tail, n_tok, kv_visit_nearest, &best);
    if (best.n_common == n_tok) {
        return; /* another chunk says all of it */
    }
    uint32_t node = kv_index_child(&s->index, parent, q->tail, n_tok);
    if (node == KV_NODE_NONE) {
        node = kv_child_new(s, parent, q->tail, n_tok);
        if (node == KV_NODE_NONE) {
            return;
        }
        kv_index_seal(&s->index, node);
    }
    node_at(s, node)->job_read = KV_JOB_NONE;
    kv_node_touch(s, node);
    kv_retain_node(q, node);
    kv_node_set_frame(s, node, q->range.frames[c]);
    kv_spill_want_tail(s, node);
    drop_redundant(s, node, q->tail, n_tok);
}

void kv_seq_leave_index(struct kv_seq *q)
{
    struct kv_store *s = q->store;
    if (q->root == KV_NODE_NONE) {
        return;
    }
    kv_plans_drop(q, 0);
    q->n_retained = 0; /* the last use counts */
    kv_retain_path(q);
    leave_tail(q);
    path_release(q, 0);
    node_at(s, q->root)->n_ref--;
    kv_node_collect(s, q->root);
    free(q->nodes);
    free(q->tail);
    q->nodes = NULL;
    q->tail = NULL;
    q->root = KV_NODE_NONE;
    q->n_plan = 0;
}

enum err_code kv_seq_fork(struct kv_seq *q, uint32_t n_tok, struct kv_seq **ret_q, struct err *e)
{
    struct kv_store *s = q->store;
    struct kv_seq *f = NULL;
    const uint32_t n_tok_chunk = s->options.chunk_tok;
    uint32_t c = n_tok / n_tok_chunk;
    if (q->root == KV_NODE_NONE || n_tok > q->n_tok) {
        return err_set(e, ERR_INVALID, "a KV sequence of %u tokens cannot be forked at %u",
                       q->n_tok, n_tok);
    }
    enum err_code code = kv_seq_open(s, &f, e);
    if (code) {
        return code;
    }
    code = seq_enter(f, q->root, e);
    if (code) {
        goto out;
    }
    f->retention = q->retention;
    if (c > 0) {
        for (uint32_t i = 0; i < c; i++) {
            kv_arena_map(&s->arena, q->range.frames[i]);
        }
        code = kv_seq_append(f, q->range.frames, c, true, e);
        if (code) {
            goto out;
        }
    }
    for (uint32_t i = 0; i < c && i < q->n_path; i++) {
        kv_path_push(f, q->nodes[i]);
    }
    /* An unlisted sequence's tail tokens are not those of a chunk it was cut back to. */
    f->is_unlisted = q->is_unlisted && c >= q->n_path;
    f->n_tok = c * n_tok_chunk;
    if (n_tok > f->n_tok) {
        uint32_t n_path = f->n_path;
        f->n_path = c; /* where the copy goes */
        bool copied = kv_copy_into_tail(f, q->range.frames[c]);
        f->n_path = n_path;
        if (!copied) {
            code = err_set(e, ERR_FULL, "KV memory is full: a fork needs one frame");
            goto out;
        }
        const int32_t *tail = c < q->n_path ? kv_index_tokens(&s->index, q->nodes[c]) : q->tail;
        memcpy(f->tail, tail, (n_tok - f->n_tok) * sizeof *tail);
        f->n_tok = n_tok;
    }
    kv_publish(s);
    *ret_q = f;
    f = NULL;
out:
    kv_seq_close(f);
    return code;
}

/* ---- Checks ---- */

static enum err_code check_path(const struct kv_store *s, const struct kv_seq *q, struct err *e)
{
    uint32_t c_tok = q->n_tok / s->options.chunk_tok;
    if (q->n_path > c_tok || q->n_tok > (uint64_t)q->range.n_chunk * s->options.chunk_tok ||
        (!q->is_unlisted && q->n_path != c_tok)) {
        return err_set(e, ERR_INTERNAL, "a sequence of %u tokens has a path of %u chunks", q->n_tok,
                       q->n_path);
    }
    s->check_buf[q->root]++;
    for (uint32_t i = 0; i < q->n_plan; i++) {
        uint32_t node = q->nodes[i];
        if (i >= q->n_path) {
            if (node != KV_NODE_NONE && node_at(s, node)->leader != q) {
                return err_set(e, ERR_INTERNAL, "chunk %u is planned by another sequence", i);
            }
            continue;
        }
        const struct kv_node *n = node_at(s, node);
        if (n->state != KV_NODE_SEALED || n->depth != i || n->parent != parent_of(q, i) ||
            n->frame == KV_FRAME_NONE) {
            return err_set(e, ERR_INTERNAL, "chunk %u of a path is not a sealed child in RAM", i);
        }
        s->check_buf[node]++;
    }
    return ERR_OK;
}

enum err_code kv_cache_check(const struct kv_store *s, struct err *e)
{
    enum err_code code = kv_index_check(&s->index, e);
    if (!code) {
        code = kv_evict_check(s, e);
    }
    memset(s->check_buf, 0, s->index.n_node_max * sizeof *s->check_buf);
    for (const struct kv_seq *q = s->seqs; q && !code; q = q->next) {
        if (q->root != KV_NODE_NONE) {
            code = check_path(s, q, e);
        }
    }
    for (uint32_t i = 0; i < s->index.n_node_max && !code; i++) {
        const struct kv_node *n = node_at(s, i);
        if (n->state != KV_NODE_UNUSED && n->n_ref != s->check_buf[i]) {
            code = err_set(e, ERR_INTERNAL, "index node %u has %u references, counted %u", i,
                           s->check_buf[i], n->n_ref);
        }
        if (n->state == KV_NODE_FILLING &&
            (!n->leader || n->leader->nodes[n->depth] != i || n->depth < n->leader->n_path)) {
            code = err_set(e, ERR_INTERNAL, "index node %u is filled by nobody", i);
        }
    }
    return code;
}
