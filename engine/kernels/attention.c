#include "engine/kernels/attention.h"

#include "base/rng.h"
#include "engine/kernels/attention_impl.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define DIM_MAX           4096U
#define HEADS_MAX         65536U
#define CHUNK_BYTES_MAX   ((uint64_t)1 << 40)
#define BLOCK_ROWS_MAX    256U /* rows of a unit: they share each part while it is in L2 */
#define PARTIAL_BYTES_MAX ((size_t)64 << 20) /* beyond, units are not split any more */
#define UNITS_PER_THREAD  4U                 /* aimed at, for balance */
#define WRITE_TOK         64U                /* tokens whose K and V one item writes */
#define SERIAL_WRITE_MAX  16384U             /* values the caller writes without waking anybody */
#define WHOLE             UINT32_MAX

/* Rows [row, row + n_row) of one KV head of one slice, against all keys they see. */
struct unit {
    uint32_t slice;
    uint32_t kv_head;
    uint32_t row;
    uint32_t n_row;
    uint32_t part;     /* first part any row sees */
    uint32_t part_end; /* after the last */
    size_t partial;    /* floats into ctx.partials, when the parts are items of their own */
    bool split;
};

struct item {
    uint32_t unit;
    uint32_t part; /* WHOLE: all of the unit's, one after the other */
};

/* Scratch of one worker; all pointers into one allocation. */
struct worker {
    uint8_t *memory;
    void *q;      /* [BLOCK_ROWS_MAX, k_pad] prepared */
    float *acc_m; /* [BLOCK_ROWS_MAX] */
    float *acc_l; /* [BLOCK_ROWS_MAX] */
    float *acc_o; /* [BLOCK_ROWS_MAX, v_pad] */
    float *m;     /* [ATT_ROWS] */
    float *l;     /* [ATT_ROWS] */
    float *o;     /* [ATT_ROWS, v_pad] */
    void *v_tail; /* one V group */
    void *part_scratch;
};

struct att_ctx {
    const struct att_kernel *kernel;
    enum eng_kv_type type;
    struct eng_pool *pool;
    uint32_t n_layer;
    struct att_layer *layers; /* [n_layer] */
    uint32_t chunk_tok;
    size_t chunk_bytes;
    size_t tok_bytes;
    uint32_t n_worker;
    struct worker *workers; /* [n_worker] */

    /* What a call works through; grown as needed, kept. */
    struct unit *units;
    size_t units_cap;
    _Atomic uint32_t *parts_left; /* [n_unit] of split units */
    size_t parts_left_cap;
    struct item *items;
    size_t items_cap;
    float *partials;
    size_t partials_cap;
};

/* One call, as its items see it. */
struct call {
    struct att_ctx *c;
    const struct att_params *p;
    const struct att_slice *slices;
    uint32_t n_slice;
    const struct att_layer *layer;
    uint32_t n_group; /* query heads per KV head */
    uint32_t n_unit;
    uint32_t n_item;
    size_t n_partial;
    uint64_t tok_per_item; /* of the writing items */
};

static const struct att_kernel *kernel_of(enum kern_isa isa, enum eng_kv_type type)
{
    switch (isa) {
#if defined(__x86_64__)
    case KERN_AVX2: return att_kernel_avx2(type);
    case KERN_AVX512: return att_kernel_avx512(type);
    case KERN_AMX: return att_kernel_amx(type);
#endif
    default: return att_kernel_scalar(type);
    }
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static size_t round64(size_t n)
{
    return (n + 63) / 64 * 64;
}

/* ---- creation ---- */

/* Lays the chunk out; tok_bytes must not depend on chunk_tok. */
static void lay_out(struct att_ctx *c, const struct att_kv_shape *shapes, uint32_t chunk_tok)
{
    size_t off = 0;
    c->tok_bytes = 0;
    for (uint32_t i = 0; i < c->n_layer; i++) {
        struct att_layer *l = &c->layers[i];
        att_layer_init(l, c->type, shapes[i].n_kv_head, shapes[i].d_k, shapes[i].d_v, chunk_tok);
        l->off = off;
        off += l->n_kv_head * l->head_bytes;
        c->tok_bytes += l->n_kv_head * att_layer_tok_bytes(l, c->type);
    }
    c->chunk_tok = chunk_tok;
    c->chunk_bytes = (off + 4095) / 4096 * 4096;
}

static enum err_code check_shapes(const struct att_kv_shape *shapes, uint32_t n_layer,
                                  struct err *e)
{
    uint64_t chunk_bytes = 0;
    for (uint32_t i = 0; i < n_layer; i++) {
        const struct att_kv_shape *s = &shapes[i];
        if (!s->n_kv_head) {
            continue;
        }
        if (s->n_kv_head > HEADS_MAX || !s->d_k || !s->d_v || s->d_k > DIM_MAX ||
            s->d_v > DIM_MAX) {
            return err_set(e, ERR_LIMIT,
                           "layer %u has %u KV heads of %u and %u values; at most %u heads of %u "
                           "are possible",
                           i, s->n_kv_head, s->d_k, s->d_v, HEADS_MAX, DIM_MAX);
        }
        chunk_bytes += (uint64_t)s->n_kv_head * (s->d_k + s->d_v + 64) * 4 * 256;
        if (chunk_bytes > CHUNK_BYTES_MAX) {
            return err_set(e, ERR_LIMIT, "%u layers of KV heads are more than a chunk can hold",
                           n_layer);
        }
    }
    return ERR_OK;
}

static enum err_code worker_init(struct worker *w, const struct att_ctx *c, struct err *e)
{
    size_t k_bytes = 0;
    size_t v_pad = 0;
    size_t v_group = 0;
    size_t scratch = 0;
    for (uint32_t i = 0; i < c->n_layer; i++) {
        const struct att_layer *l = &c->layers[i];
        size_t q_bytes = l->k_group_bytes / ATT_K_GROUP; /* of one row of K */
        q_bytes = q_bytes /
                  (c->type == ENG_KV_INT8   ? 1
                   : c->type == ENG_KV_BF16 ? 2
                                            : 4) *
                  c->kernel->q_elem_bytes;
        size_t s = l->n_kv_head ? c->kernel->scratch_bytes(l) : 0;
        k_bytes = q_bytes > k_bytes ? q_bytes : k_bytes;
        v_pad = (size_t)l->v_tiles * 16 > v_pad ? (size_t)l->v_tiles * 16 : v_pad;
        v_group = l->v_group_bytes > v_group ? l->v_group_bytes : v_group;
        scratch = s > scratch ? s : scratch;
    }
    const size_t sizes[] = {
        BLOCK_ROWS_MAX * k_bytes,
        BLOCK_ROWS_MAX * sizeof(float),
        BLOCK_ROWS_MAX * sizeof(float),
        BLOCK_ROWS_MAX * v_pad * sizeof(float),
        ATT_ROWS * sizeof(float),
        ATT_ROWS * sizeof(float),
        ATT_ROWS * v_pad * sizeof(float),
        v_group,
        scratch,
    };
    enum { N_SIZE = sizeof sizes / sizeof *sizes };
    size_t off[N_SIZE + 1] = {0};
    for (int i = 0; i < N_SIZE; i++) {
        off[i + 1] = off[i] + round64(sizes[i]);
    }
    w->memory = aligned_alloc(64, off[N_SIZE] + 64);
    if (!w->memory) {
        return err_set(e, ERR_NOMEM, "no memory for %zu bytes of attention scratch", off[N_SIZE]);
    }
    w->q = w->memory;
    w->acc_m = (float *)(void *)(w->memory + off[1]);
    w->acc_l = (float *)(void *)(w->memory + off[2]);
    w->acc_o = (float *)(void *)(w->memory + off[3]);
    w->m = (float *)(void *)(w->memory + off[4]);
    w->l = (float *)(void *)(w->memory + off[5]);
    w->o = (float *)(void *)(w->memory + off[6]);
    w->v_tail = w->memory + off[7];
    w->part_scratch = w->memory + off[8];
    return ERR_OK;
}

enum err_code att_ctx_create(enum kern_isa isa, enum eng_kv_type kv_type,
                             const struct att_kv_shape *shapes, uint32_t n_layer,
                             struct eng_pool *pool, struct att_ctx **ret_c, struct err *e)
{
    assert(kv_type == ENG_KV_F32 || kv_type == ENG_KV_BF16 || kv_type == ENG_KV_INT8);
    enum err_code code = check_shapes(shapes, n_layer, e);
    if (code != ERR_OK) {
        return code;
    }
    struct att_ctx *c = calloc(1, sizeof *c);
    if (!c) {
        return err_set(e, ERR_NOMEM, "no memory for the attention context");
    }
    c->kernel = kernel_of(isa, kv_type);
    c->type = kv_type;
    c->pool = pool;
    c->n_layer = n_layer;
    c->n_worker = eng_pool_n_thread(pool);
    c->layers = calloc(n_layer ? n_layer : 1, sizeof *c->layers);
    c->workers = calloc(c->n_worker, sizeof *c->workers);
    if (!c->layers || !c->workers) {
        code = err_set(e, ERR_NOMEM, "no memory for the attention context");
        goto out;
    }
    const size_t huge = (size_t)2 << 20;
    uint32_t chunk_tok = 64;
    while (chunk_tok <= 256) {
        lay_out(c, shapes, chunk_tok);
        if (c->chunk_bytes % huge == 0) {
            break;
        }
        chunk_tok *= 2;
    }
    if (chunk_tok > 256 || !c->chunk_bytes) {
        lay_out(c, shapes, 64);
    }
    for (uint32_t i = 0; i < c->n_worker && code == ERR_OK; i++) {
        code = worker_init(&c->workers[i], c, e);
    }
out:
    if (code != ERR_OK) {
        att_ctx_destroy(c);
        return code;
    }
    *ret_c = c;
    return ERR_OK;
}

void att_ctx_destroy(struct att_ctx *c)
{
    if (!c) {
        return;
    }
    for (uint32_t i = 0; c->workers && i < c->n_worker; i++) {
        free(c->workers[i].memory);
    }
    free(c->workers);
    free(c->layers);
    free(c->units);
    free(c->parts_left);
    free(c->items);
    free(c->partials);
    free(c);
}

uint32_t att_chunk_tok(const struct att_ctx *c)
{
    return c->chunk_tok;
}

size_t att_chunk_bytes(const struct att_ctx *c)
{
    return c->chunk_bytes;
}

size_t att_bytes_per_tok(const struct att_ctx *c)
{
    return c->tok_bytes;
}

/* Version 1 of the layout, the KV type and its shape. */
uint64_t att_layout_id(const struct att_ctx *c)
{
    uint64_t h = rng_mix(1, (uint64_t)c->type << 32 | c->chunk_tok);
    for (uint32_t i = 0; i < c->n_layer; i++) {
        const struct att_layer *l = &c->layers[i];
        h = rng_mix(h, (uint64_t)l->n_kv_head << 32 | l->d_k);
        h = rng_mix(h, l->d_v);
    }
    return h;
}

/* ---- work of one item ---- */

/* Keys [lo, hi) that token i of the slice sees. */
static void visible_range(const struct att_params *p, const struct att_slice *s, uint32_t i,
                          uint32_t *ret_lo, uint32_t *ret_hi)
{
    uint32_t pos = s->pos + i;
    if (p->bidirectional) {
        uint32_t half = p->window / 2;
        uint32_t end = s->pos + s->n_tok;
        *ret_lo = p->window && pos > half ? pos - half : 0;
        *ret_hi = p->window && end - pos > half + 1 ? pos + half + 1 : end;
        return;
    }
    *ret_lo = p->window && pos + 1 > p->window ? pos + 1 - p->window : 0;
    *ret_hi = pos + 1;
}

static uint8_t *head_at(const struct call *k, const struct att_slice *s, uint32_t kv_head,
                        uint32_t tok)
{
    const struct att_ctx *c = k->c;
    return (uint8_t *)s->kv + tok / c->chunk_tok * c->chunk_bytes + k->layer->off +
           kv_head * k->layer->head_bytes;
}

/* K and V of tokens [i, i + n) of a slice at one head: one token, or sixteen that are one K group.
 */
static void write_group(const struct call *k, const struct att_slice *s, uint32_t h, uint32_t i,
                        bool sixteen)
{
    const struct att_layer *l = k->layer;
    uint8_t *head = head_at(k, s, h, s->pos + i);
    const uint32_t t = (s->pos + i) % k->c->chunk_tok;
    const float *k_row = s->k + i * s->ldk + (size_t)h * l->d_k;
    const float *v_row = s->v + i * s->ldv + (size_t)h * l->d_v;
    if (sixteen) {
        k->c->kernel->write16(l, head, t, k_row, s->ldk, v_row, s->ldv);
    } else {
        att_kv_write(l, k->c->type, head, t, k_row, v_row);
    }
}

static void write_toks(const struct call *k, const struct att_slice *s, uint32_t i, uint32_t end)
{
    while (i < end) {
        const bool sixteen =
            k->c->kernel->write16 && (s->pos + i) % ATT_K_GROUP == 0 && end - i >= ATT_K_GROUP;
        for (uint32_t h = 0; h < k->layer->n_kv_head; h++) {
            write_group(k, s, h, i, sixteen);
        }
        i += sixteen ? ATT_K_GROUP : 1;
    }
}

/* Writes tokens [item · tok_per_item, …) of all slices' tokens in a row. */
static void write_item(void *arg, uint32_t item, uint32_t worker)
{
    (void)worker;
    const struct call *k = arg;
    uint64_t from = (uint64_t)item * k->tok_per_item;
    uint64_t to = from + k->tok_per_item;
    uint64_t first = 0;
    for (uint32_t i = 0; i < k->n_slice && first < to; i++) {
        const struct att_slice *s = &k->slices[i];
        uint64_t lo = from > first ? from - first : 0;
        uint64_t hi = to - first < s->n_tok ? to - first : s->n_tok;
        if (s->k && lo < hi) {
            write_toks(k, s, (uint32_t)lo, (uint32_t)hi);
        }
        first += s->n_tok;
    }
}

/* Points at the keys and values of part `part` that rows of the unit see. The group of 32 tokens
 * that the sequence ends in is read from a copy, without whatever lies behind the end. */
static void point_at_keys(const struct call *k, const struct unit *u, uint32_t part,
                          struct worker *w, struct att_part *a)
{
    const struct att_slice *s = &k->slices[u->slice];
    const struct att_layer *l = k->layer;
    const uint32_t n_written = s->pos + s->n_tok;
    uint32_t from;
    uint32_t end;
    uint32_t unused;
    visible_range(k->p, s, u->row / k->n_group, &from, &unused);
    visible_range(k->p, s, (u->row + u->n_row - 1) / k->n_group, &unused, &end);
    a->tok0 = part * ATT_SPLIT_TOK;
    end = min_u32(end - a->tok0, ATT_SPLIT_TOK);
    from = from > a->tok0 ? from - a->tok0 : 0;
    for (uint32_t t = from / ATT_V_GROUP * ATT_V_GROUP; t < end; t += ATT_V_GROUP) {
        const uint32_t i = t / ATT_V_GROUP;
        const uint8_t *head = head_at(k, s, u->kv_head, a->tok0 + t);
        uint32_t in = (a->tok0 + t) % k->c->chunk_tok;
        a->k[(size_t)2 * i] = head + in / ATT_K_GROUP * l->k_group_bytes;
        a->k[(size_t)2 * i + 1] = head + (in / ATT_K_GROUP + 1) * l->k_group_bytes;
        a->v[i] = head + l->v_off + in / ATT_V_GROUP * l->v_group_bytes;
        a->k_scale[i] = (const uint16_t *)(const void *)(head + l->k_scale_off) + in;
        a->v_scale[i] = (const uint16_t *)(const void *)(head + l->v_scale_off) + in;
        if (n_written - a->tok0 - t < ATT_V_GROUP) {
            att_v_group_copy(l, k->c->type, w->v_tail, a->v[i], n_written - a->tok0 - t);
            a->v[i] = w->v_tail;
        }
    }
    if (k->c->kernel->stage) {
        k->c->kernel->stage(a, from, end);
    }
}

/* Sets the rows [row, row + n_row) of a unit; false when none sees a key of this part. */
static bool set_rows(const struct call *k, const struct unit *u, uint32_t row, uint32_t n_row,
                     struct att_part *a)
{
    const struct att_slice *s = &k->slices[u->slice];
    a->n_row = n_row;
    a->lo_min = ATT_SPLIT_TOK;
    a->hi_max = 0;
    for (uint32_t r = 0; r < n_row; r++) {
        uint32_t i = (row + r) / k->n_group;
        uint32_t head = u->kv_head * k->n_group + (row + r) % k->n_group;
        uint32_t lo;
        uint32_t hi;
        visible_range(k->p, s, i, &lo, &hi);
        lo = lo > a->tok0 ? lo - a->tok0 : 0;
        hi = hi > a->tok0 ? min_u32(hi - a->tok0, ATT_SPLIT_TOK) : 0;
        a->lo[r] = lo;
        a->hi[r] = hi;
        a->pos[r] = s->pos + i;
        a->slope[r] = k->p->alibi ? k->p->alibi[head] : 0;
        if (lo < hi) {
            a->lo_min = min_u32(a->lo_min, lo);
            a->hi_max = hi > a->hi_max ? hi : a->hi_max;
        }
    }
    return a->hi_max != 0;
}

static void prepare_q(const struct call *k, const struct unit *u, struct worker *w)
{
    const struct att_slice *s = &k->slices[u->slice];
    const uint32_t n_pad = k->layer->k_pad;
    const size_t q_bytes = (size_t)n_pad * k->c->kernel->q_elem_bytes;
    for (uint32_t r = 0; r < u->n_row; r++) {
        uint32_t i = (u->row + r) / k->n_group;
        uint32_t head = u->kv_head * k->n_group + (u->row + r) % k->n_group;
        k->c->kernel->prep_q((uint8_t *)w->q + r * q_bytes,
                             s->q + i * s->ldq + (size_t)head * k->layer->d_k, k->layer->d_k,
                             n_pad);
    }
}

static void finish_rows(const struct call *k, const struct unit *u, const float *m, const float *l,
                        const float *o)
{
    const struct att_slice *s = &k->slices[u->slice];
    const size_t n_col = (size_t)k->layer->v_tiles * 16;
    for (uint32_t r = 0; r < u->n_row; r++) {
        uint32_t i = (u->row + r) / k->n_group;
        uint32_t head = u->kv_head * k->n_group + (u->row + r) % k->n_group;
        float sink = k->p->sinks ? k->p->sinks[head] * 1.44269504F : -INFINITY;
        k->c->kernel->finish(s->out + i * s->ldo + (size_t)head * k->layer->d_v, k->layer->d_v,
                             m[r], l[r], o + r * n_col, sink);
    }
}

/* All parts of a unit in order, each shared by its blocks of rows while it is in cache. */
static void run_whole(const struct call *k, const struct unit *u, struct worker *w,
                      struct att_part *a)
{
    const struct att_kernel *kernel = k->c->kernel;
    const size_t n_col = (size_t)k->layer->v_tiles * 16;
    const size_t q_bytes = (size_t)k->layer->k_pad * kernel->q_elem_bytes;
    for (uint32_t r = 0; r < u->n_row; r++) {
        w->acc_m[r] = -INFINITY;
        w->acc_l[r] = 0;
    }
    bool begun[BLOCK_ROWS_MAX / ATT_ROWS] = {false};
    for (uint32_t part = u->part; part < u->part_end; part++) {
        point_at_keys(k, u, part, w, a);
        for (uint32_t row = 0; row < u->n_row; row += ATT_ROWS) {
            if (!set_rows(k, u, u->row + row, min_u32(ATT_ROWS, u->n_row - row), a)) {
                continue;
            }
            bool first = !begun[row / ATT_ROWS];
            begun[row / ATT_ROWS] = true;
            a->q = (const uint8_t *)w->q + row * q_bytes;
            a->m = first ? w->acc_m + row : w->m;
            a->l = first ? w->acc_l + row : w->l;
            a->o = first ? w->acc_o + row * n_col : w->o;
            kernel->part(a);
            if (!first) {
                kernel->merge(a->n_row, (uint32_t)n_col, w->acc_m + row, w->acc_l + row,
                              w->acc_o + row * n_col, w->m, w->l, w->o);
            }
        }
    }
    finish_rows(k, u, w->acc_m, w->acc_l, w->acc_o);
}

/* Floats that one part of a split unit leaves: m, l and o of its rows. */
static size_t partial_floats(const struct call *k, const struct unit *u)
{
    return (size_t)u->n_row * (2 + (size_t)k->layer->v_tiles * 16);
}

/* One part of a unit; whoever finishes the last one merges them all, in index order. */
static void run_part(const struct call *k, uint32_t unit, uint32_t part, struct worker *w,
                     struct att_part *a)
{
    const struct unit *u = &k->c->units[unit];
    const struct att_kernel *kernel = k->c->kernel;
    const uint32_t n_col = k->layer->v_tiles * 16;
    const size_t n_float = partial_floats(k, u);
    float *mine = k->c->partials + u->partial + (part - u->part) * n_float;
    point_at_keys(k, u, part, w, a);
    a->q = w->q;
    a->m = mine;
    a->l = mine + u->n_row;
    a->o = mine + (size_t)2 * u->n_row;
    bool any = set_rows(k, u, u->row, u->n_row, a);
    assert(any); /* the parts between the first and the last key that a row sees */
    kernel->part(a);
    /* acq_rel: the last one sees what the others left. */
    if (atomic_fetch_sub_explicit(&k->c->parts_left[unit], 1, memory_order_acq_rel) != 1) {
        return;
    }
    float *acc = k->c->partials + u->partial;
    for (uint32_t i = 1; i < u->part_end - u->part; i++) {
        const float *next = acc + i * n_float;
        kernel->merge(u->n_row, n_col, acc, acc + u->n_row, acc + (size_t)2 * u->n_row, next,
                      next + u->n_row, next + (size_t)2 * u->n_row);
    }
    finish_rows(k, u, acc, acc + u->n_row, acc + (size_t)2 * u->n_row);
}

static void run_item(void *arg, uint32_t item, uint32_t worker)
{
    const struct call *k = arg;
    const struct item *it = &k->c->items[item];
    const struct unit *u = &k->c->units[it->unit];
    struct worker *w = &k->c->workers[worker];
    struct att_part a = {
        .layer = k->layer,
        .scale = k->p->scale,
        .softcap = k->p->softcap,
        .alibi = k->p->alibi != NULL,
        .scratch = w->part_scratch,
    };
    prepare_q(k, u, w);
    if (it->part == WHOLE) {
        run_whole(k, u, w, &a);
    } else {
        run_part(k, it->unit, it->part, w, &a);
    }
    k->c->kernel->release();
}

/* ---- planning ---- */

static enum err_code grow(void **data, size_t *cap, size_t n, size_t size, struct err *e)
{
    if (n <= *cap) {
        return ERR_OK;
    }
    size_t want = n + n / 2 + 16;
    void *p = aligned_alloc(64, round64(want * size));
    if (!p) {
        return err_set(e, ERR_NOMEM, "no memory for %zu pieces of attention work", n);
    }
    free(*data); /* nothing in it outlives a call */
    *data = p;
    *cap = want;
    return ERR_OK;
}

static uint64_t unit_cost(const struct call *k, const struct att_slice *s, uint32_t row,
                          uint32_t n_row)
{
    uint32_t lo;
    uint32_t hi;
    uint32_t lo_last;
    visible_range(k->p, s, row / k->n_group, &lo, &hi);
    visible_range(k->p, s, (row + n_row - 1) / k->n_group, &lo_last, &hi);
    /* reading a key costs about what sixteen rows' use of it does */
    return (uint64_t)(hi - lo) * (n_row + 16);
}

static uint64_t total_cost(const struct call *k)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < k->n_slice; i++) {
        const struct att_slice *s = &k->slices[i];
        uint32_t n_row = s->n_tok * k->n_group;
        for (uint32_t row = 0; row < n_row; row += BLOCK_ROWS_MAX) {
            total += unit_cost(k, s, row, min_u32(BLOCK_ROWS_MAX, n_row - row));
        }
    }
    return total * k->layer->n_kv_head;
}

/* Rows of this slice's units: few enough that none costs more than `target`, if that can be. */
static uint32_t rows_per_unit(const struct call *k, const struct att_slice *s, uint64_t target)
{
    uint32_t n_row = s->n_tok * k->n_group;
    uint32_t rows = BLOCK_ROWS_MAX;
    while (rows > ATT_ROWS) {
        uint32_t last = min_u32(rows, n_row);
        if (unit_cost(k, s, n_row - last, last) <= target) {
            break;
        }
        rows /= 2;
    }
    return rows;
}

static void plan_slice(struct call *k, uint32_t slice, uint64_t target)
{
    struct att_ctx *c = k->c;
    const struct att_slice *s = &k->slices[slice];
    const uint32_t n_row = s->n_tok * k->n_group;
    const uint32_t rows = rows_per_unit(k, s, target);
    const uint32_t n_block = (n_row + rows - 1) / rows;
    for (uint32_t h = 0; h < k->layer->n_kv_head; h++) {
        for (uint32_t b = n_block; b-- > 0;) { /* the longest first */
            struct unit *u = &c->units[k->n_unit];
            uint32_t lo;
            uint32_t hi;
            *u = (struct unit){.slice = slice, .kv_head = h, .row = b * rows};
            u->n_row = min_u32(rows, n_row - u->row);
            visible_range(k->p, s, u->row / k->n_group, &lo, &hi);
            u->part = lo / ATT_SPLIT_TOK;
            visible_range(k->p, s, (u->row + u->n_row - 1) / k->n_group, &lo, &hi);
            u->part_end = (hi - 1) / ATT_SPLIT_TOK + 1;
            uint32_t n_part = u->part_end - u->part;
            size_t n_float = n_part * partial_floats(k, u);
            u->split = c->n_worker > 1 && n_part > 1 && u->n_row <= ATT_ROWS &&
                       unit_cost(k, s, u->row, u->n_row) > target &&
                       (k->n_partial + n_float) * sizeof(float) <= PARTIAL_BYTES_MAX;
            if (u->split) {
                u->partial = k->n_partial;
                k->n_partial += n_float;
            }
            k->n_item += u->split ? n_part : 1;
            k->n_unit++;
        }
    }
}

static enum err_code plan(struct call *k, struct err *e)
{
    struct att_ctx *c = k->c;
    const uint64_t target = total_cost(k) / ((uint64_t)c->n_worker * UNITS_PER_THREAD);
    size_t n_unit_max = 0;
    for (uint32_t i = 0; i < k->n_slice; i++) {
        size_t n_row = (size_t)k->slices[i].n_tok * k->n_group;
        n_unit_max += (n_row + ATT_ROWS - 1) / ATT_ROWS * k->layer->n_kv_head;
    }
    enum err_code code = grow((void **)&c->units, &c->units_cap, n_unit_max, sizeof *c->units, e);
    if (code != ERR_OK) {
        return code;
    }
    for (uint32_t i = 0; i < k->n_slice; i++) {
        plan_slice(k, i, target);
    }
    code = grow((void **)&c->items, &c->items_cap, k->n_item, sizeof *c->items, e);
    if (code == ERR_OK) {
        code =
            grow((void **)&c->parts_left, &c->parts_left_cap, k->n_unit, sizeof *c->parts_left, e);
    }
    if (code == ERR_OK) {
        code = grow((void **)&c->partials, &c->partials_cap, k->n_partial, sizeof *c->partials, e);
    }
    if (code != ERR_OK) {
        return code;
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < k->n_unit; i++) {
        const struct unit *u = &c->units[i];
        if (!u->split) {
            c->items[n++] = (struct item){.unit = i, .part = WHOLE};
            continue;
        }
        atomic_init(&c->parts_left[i], u->part_end - u->part);
        for (uint32_t part = u->part; part < u->part_end; part++) {
            c->items[n++] = (struct item){.unit = i, .part = part};
        }
    }
    return ERR_OK;
}

static void write_new(struct call *k)
{
    uint64_t n_tok = 0;
    uint64_t n_new = 0;
    for (uint32_t i = 0; i < k->n_slice; i++) {
        n_tok += k->slices[i].n_tok;
        n_new += k->slices[i].k ? k->slices[i].n_tok : 0;
    }
    if (!n_new) {
        return;
    }
    /* Little is one item, which the caller does without waking anybody. */
    const bool little =
        n_new * k->layer->n_kv_head * (k->layer->d_k + k->layer->d_v) <= SERIAL_WRITE_MAX;
    k->tok_per_item = little ? n_tok : WRITE_TOK;
    eng_pool_run(k->c->pool, (uint32_t)((n_tok + k->tok_per_item - 1) / k->tok_per_item),
                 write_item, k);
}

enum err_code att_forward(struct att_ctx *c, const struct att_params *p,
                          const struct att_slice *slices, uint32_t n_slice, struct err *e)
{
    assert(p->kv_layer < c->n_layer);
    struct call k = {
        .c = c,
        .p = p,
        .slices = slices,
        .n_slice = n_slice,
        .layer = &c->layers[p->kv_layer],
    };
    if (!k.layer->n_kv_head || !p->n_head || p->n_head % k.layer->n_kv_head) {
        return err_set(e, ERR_INTERNAL, "attention of %u heads over %u KV heads in layer %u",
                       p->n_head, k.layer->n_kv_head, p->kv_layer);
    }
    k.n_group = p->n_head / k.layer->n_kv_head;
    for (uint32_t i = 0; i < n_slice; i++) {
        const struct att_slice *s = &slices[i];
        uint64_t end = (uint64_t)s->pos + s->n_tok;
        if (end > INT32_MAX || (uint64_t)s->n_tok * k.n_group > INT32_MAX) {
            return err_set(e, ERR_LIMIT, "a sequence of %llu tokens is too long",
                           (unsigned long long)end);
        }
    }
    enum err_code code = plan(&k, e);
    if (code != ERR_OK) {
        return code;
    }
    write_new(&k);
    eng_pool_run(c->pool, k.n_item, run_item, &k);
    return ERR_OK;
}
