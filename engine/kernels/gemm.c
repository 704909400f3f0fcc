#include "engine/kernels/gemm.h"

#include "base/units.h"
#include "engine/kernels/gemm_impl.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define HUGE_PAGE       ((size_t)2 << 20)
#define SLAB_BYTES      ((size_t)64 << 20)
#define DATA_ALIGN      64
#define DATA_PAD        64   /* kernels may read a vector that begins at a weight\'s last byte */
#define N_JOB_BATCH     1024 /* jobs of one parallel phase; more run as several phases */
#define PACK_ITEM       (64 * 1024) /* bytes one item packs at least */
#define ITEM_ELEM_MIN   65536       /* weights one item multiplies at least: some microseconds */
#define FEW_TOK         32          /* rows up to which memory and not arithmetic is the limit */
#define ITEM_PER_THREAD 3           /* so that a thread that was held up costs little */

/* Packed weights lie in slabs on huge pages: a model with thousands of small expert matrices must
 * not cost a mapping each. A slab lives as long as a weight or the context holds it. */
struct slab {
    uint8_t *base;
    size_t n_byte;
    size_t used;
    uint32_t n_ref;
};

struct gemm_ctx {
    enum kern_isa isa;
    struct eng_pool *pool;
    struct slab *slab; /* the one being filled, or NULL */
    uint8_t *scratch;  /* [n_thread][GEMM_SCRATCH_BYTES] */
    uint32_t n_thread;
    struct phase_job {
        uint32_t first_item;
        uint32_t n_item_group; /* items side by side over the outputs */
        uint32_t n_group;      /* groups of one item */
        uint32_t n_tok;        /* rows of one item */
    } * phase;                 /* [N_JOB_BATCH] */
};

static uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return a / b + (a % b != 0);
}

/* Anonymous memory on a huge page boundary. NULL when refused. */
static uint8_t *map_huge(size_t n_byte)
{
    size_t n_map = n_byte + HUGE_PAGE;
    uint8_t *m = mmap(NULL, n_map, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED) {
        return NULL;
    }
    size_t head = units_align((size_t)m, HUGE_PAGE) - (size_t)m;
    if (head) {
        munmap(m, head);
    }
    munmap(m + head + n_byte, HUGE_PAGE - head);
    (void)madvise(m + head, n_byte, MADV_HUGEPAGE); /* advice: slower without, not wrong */
    return m + head;
}

static void slab_unref(struct slab *s)
{
    if (s && --s->n_ref == 0) {
        munmap(s->base, s->n_byte);
        free(s);
    }
}

static struct slab *slab_create(size_t n_byte)
{
    struct slab *s = calloc(1, sizeof *s);
    if (!s) {
        return NULL;
    }
    s->n_byte = units_align(n_byte, 4096);
    s->base = map_huge(s->n_byte);
    s->n_ref = 1;
    if (!s->base) {
        free(s);
        return NULL;
    }
    return s;
}

/* Zeroed bytes in some slab, whose reference the caller gets. NULL: out of memory. */
static void *slab_take(struct gemm_ctx *c, size_t n_byte, struct slab **ret_slab)
{
    struct slab *s = c->slab;
    if (n_byte > SLAB_BYTES / 2) {
        s = slab_create(n_byte);
        if (s) {
            *ret_slab = s;
        }
        return s ? s->base : NULL;
    }
    if (!s || s->n_byte - s->used < n_byte) {
        s = slab_create(SLAB_BYTES);
        if (!s) {
            return NULL;
        }
        slab_unref(c->slab);
        c->slab = s;
    }
    uint8_t *data = s->base + s->used;
    s->used = units_align(s->used + n_byte, DATA_ALIGN);
    s->used = s->used < s->n_byte ? s->used : s->n_byte;
    s->n_ref++;
    *ret_slab = s;
    return data;
}

enum err_code gemm_ctx_create(enum kern_isa isa, struct eng_pool *pool, struct gemm_ctx **ret_c,
                              struct err *e)
{
    struct gemm_ctx *c = calloc(1, sizeof *c);
    if (!c) {
        return err_set(e, ERR_NOMEM, "out of memory for the kernel context");
    }
    c->isa = isa;
    c->pool = pool;
    c->n_thread = eng_pool_n_thread(pool);
    c->phase = calloc(N_JOB_BATCH, sizeof *c->phase);
    c->scratch = map_huge(GEMM_SCRATCH_BYTES * c->n_thread);
    if (!c->phase || !c->scratch) {
        gemm_ctx_destroy(c);
        return err_set(e, ERR_NOMEM, "out of memory for the scratch of %u kernel workers",
                       c->n_thread);
    }
    *ret_c = c;
    return ERR_OK;
}

void gemm_ctx_destroy(struct gemm_ctx *c)
{
    if (!c) {
        return;
    }
    if (c->scratch) {
        munmap(c->scratch, GEMM_SCRATCH_BYTES * c->n_thread);
    }
    slab_unref(c->slab);
    free(c->phase);
    free(c);
}

static const struct gemm_kernel *kernel_for(enum kern_isa isa, enum gguf_type type)
{
    const struct gemm_kernel *k = NULL;
#if defined(__x86_64__)
    if (isa == KERN_AMX && (k = gemm_amx_kernel(type))) {
        return k;
    }
    if (isa == KERN_AVX2) {
        k = gemm_int8_kernel_avx2(type);
        k = k ? k : gemm_float_kernel_avx2(type);
    } else if (isa == KERN_AVX512 || isa == KERN_AMX) {
        k = gemm_int8_kernel_avx512(type);
        k = k ? k : gemm_float_kernel_avx512(type);
    }
#endif
    return k ? k : gemm_generic_kernel(isa, type);
}

struct pack_work {
    const struct gemm_weight *w;
    const uint8_t *src;
    uint32_t n_group;
    uint32_t n_group_item;
};

static void pack_item(void *arg, uint32_t item, uint32_t worker)
{
    const struct pack_work *p = arg;
    const struct gemm_kernel *kernel = p->w->kernel;
    (void)worker;
    uint32_t end = (item + 1) * p->n_group_item;
    end = end < p->n_group ? end : p->n_group;
    for (uint32_t g = item * p->n_group_item; g < end; g++) {
        kernel->pack(p->w, p->src, g, (uint8_t *)p->w->data + p->w->group_bytes * g);
    }
}

enum err_code gemm_weight_pack(struct gemm_ctx *c, enum gguf_type type, uint32_t n_out,
                               uint32_t n_in, const void *src, struct gemm_weight *ret_w,
                               struct err *e)
{
    const struct quant_format *f = quant_format_of(type);
    const struct gemm_kernel *kernel = f && f->dequant ? kernel_for(c->isa, type) : NULL;
    if (!kernel) {
        return err_set(e, ERR_UNSUPPORTED, "no matrix kernel for tensor type %s (%u)",
                       f ? f->name : "unknown", (unsigned)type);
    }
    if (n_out == 0 || n_in == 0 || n_in % f->n_block_elem) {
        return err_set(e, ERR_INVALID, "a %s matrix of %u rows of %u: rows must be multiples of %u",
                       f->name, n_out, n_in, f->n_block_elem);
    }
    struct gemm_weight w = {.type = type, .n_out = n_out, .n_in = n_in, .kernel = kernel};
    uint32_t n_group = ceil_div(n_out, kernel->group_out);
    uint64_t n_byte;
    w.group_bytes = kernel->group_bytes(type, n_in);
    if (!units_mul(w.group_bytes, n_group, &n_byte) || n_byte > SIZE_MAX / 2) {
        return err_set(e, ERR_LIMIT, "a %s matrix of %u rows of %u is too large", f->name, n_out,
                       n_in);
    }
    struct slab *slab = NULL;
    w.n_byte = (size_t)n_byte;
    w.data = slab_take(c, w.n_byte + DATA_PAD, &slab);
    if (!w.data) {
        return err_set(e, ERR_NOMEM, "out of memory for %zu bytes of packed weights", w.n_byte);
    }
    w.slab = slab;
    struct pack_work p = {&w, src, n_group, 1};
    if (w.group_bytes < PACK_ITEM) {
        p.n_group_item = (uint32_t)(PACK_ITEM / w.group_bytes);
    }
    eng_pool_run(c->pool, ceil_div(n_group, p.n_group_item), pack_item, &p);
    *ret_w = w;
    return ERR_OK;
}

void gemm_weight_finish(struct gemm_weight *w)
{
    slab_unref(w->slab);
    *w = (struct gemm_weight){0};
}

void gemm_weight_row(const struct gemm_ctx *c, const struct gemm_weight *w, uint32_t row,
                     float *dst)
{
    (void)c;
    assert(row < w->n_out);
    ((const struct gemm_kernel *)w->kernel)->row(w, row, dst);
}

struct act_work {
    const struct gemm_kernel *kernel;
    const struct gemm_act *act;
};

static void act_item(void *arg, uint32_t item, uint32_t worker)
{
    const struct act_work *a = arg;
    (void)worker;
    a->kernel->act_make(a->act, item);
}

/* Aligned for vectors, and on huge pages where it is large. */
static enum err_code act_grow(struct gemm_act *act, size_t n_byte, struct err *e)
{
    if (n_byte <= act->cap) {
        return ERR_OK;
    }
    void *data;
    size_t align = n_byte >= HUGE_PAGE ? HUGE_PAGE : DATA_ALIGN;
    if (posix_memalign(&data, align, units_align(n_byte, align)) != 0) {
        return err_set(e, ERR_NOMEM, "out of memory for %zu bytes of activations", n_byte);
    }
    if (align == HUGE_PAGE) {
        (void)madvise(data, units_align(n_byte, align), MADV_HUGEPAGE);
    }
    free(act->data);
    act->data = data;
    act->cap = n_byte;
    return ERR_OK;
}

uint32_t gemm_weight_act_rank(const struct gemm_weight *w)
{
    return (uint32_t)((const struct gemm_kernel *)w->kernel)->act;
}

enum err_code gemm_act_prepare(struct gemm_ctx *c, const struct gemm_weight *w, const float *x,
                               size_t ldx, uint32_t n_tok, struct gemm_act *act, struct err *e)
{
    const struct gemm_kernel *kernel = w->kernel;
    if (kernel->act_bytes) {
        enum err_code code = act_grow(act, kernel->act_bytes(w->n_in, n_tok), e);
        if (code != ERR_OK) {
            return code;
        }
    }
    act->n_tok = n_tok;
    act->n_in = w->n_in;
    act->rank = gemm_weight_act_rank(w);
    act->x = x;
    act->ldx = ldx;
    if (kernel->act_make) {
        struct act_work a = {kernel, act};
        eng_pool_run(c->pool, ceil_div(n_tok, ACT_TOK_BLOCK), act_item, &a);
    }
    return ERR_OK;
}

void gemm_act_finish(struct gemm_act *act)
{
    free(act->data);
    *act = (struct gemm_act){0};
}

/* Cuts one job: by groups of outputs and blocks of rows. Few rows: items of some microseconds, in
 * whole runs of the groups that work together. Many: the largest blocks the kernel likes, halved
 * until every thread has several. */
static uint32_t cut_job(const struct gemm_ctx *c, const struct gemm_job *job, struct phase_job *pj)
{
    const struct gemm_kernel *k = job->w->kernel;
    uint32_t n_tok = job->act->n_tok;
    uint32_t n_group = ceil_div(job->w->n_out, k->group_out);
    uint32_t n_item_want = c->n_thread * ITEM_PER_THREAD;
    pj->n_tok = n_tok < k->n_tok_max ? n_tok : k->n_tok_max;
    if (n_tok <= FEW_TOK) {
        uint64_t elem = (uint64_t)k->group_out * job->w->n_in;
        uint32_t n = elem < ITEM_ELEM_MIN ? (uint32_t)(ITEM_ELEM_MIN / elem) : 1;
        pj->n_group = ceil_div(n, k->n_group_few) * k->n_group_few;
    } else {
        pj->n_group = k->n_group_max;
    }
    while (pj->n_group > 1 && ceil_div(n_group, pj->n_group) * ceil_div(n_tok, pj->n_tok) <
                                  (n_tok <= FEW_TOK ? c->n_thread : n_item_want)) {
        pj->n_group = ceil_div(pj->n_group, 2);
    }
    while (pj->n_tok >= 2 * k->tok_block &&
           ceil_div(n_group, pj->n_group) * ceil_div(n_tok, pj->n_tok) < c->n_thread) {
        pj->n_tok = ceil_div(pj->n_tok, 2 * k->tok_block) * k->tok_block;
    }
    pj->n_item_group = ceil_div(n_group, pj->n_group);
    return pj->n_item_group * ceil_div(n_tok, pj->n_tok);
}

struct run_work {
    struct gemm_ctx *c;
    const struct gemm_job *jobs;
    uint32_t n_job;
    uint32_t n_item;
};

/* What one item computes, without scratch. */
static struct gemm_part part_of(const struct run_work *r, uint32_t item)
{
    uint32_t lo = 0, hi = r->n_job - 1;
    while (lo < hi) { /* the last job that begins at or before item */
        uint32_t mid = (lo + hi + 1) / 2;
        if (r->c->phase[mid].first_item <= item) {
            lo = mid;
        } else {
            hi = mid - 1;
        }
    }
    const struct phase_job *pj = &r->c->phase[lo];
    const struct gemm_job *job = &r->jobs[lo];
    const struct gemm_kernel *k = job->w->kernel;
    uint32_t i = item - pj->first_item;
    struct gemm_part part = {
        .job = job,
        .group = i % pj->n_item_group * pj->n_group,
        .n_group = pj->n_group,
        .tok = i / pj->n_item_group * pj->n_tok,
        .n_tok = pj->n_tok,
    };
    uint32_t n_group = ceil_div(job->w->n_out, k->group_out);
    part.n_group = part.n_group < n_group - part.group ? part.n_group : n_group - part.group;
    part.n_tok = part.n_tok < job->act->n_tok - part.tok ? part.n_tok : job->act->n_tok - part.tok;
    return part;
}

static void run_item(void *arg, uint32_t item, uint32_t worker)
{
    const struct run_work *r = arg;
    struct gemm_part part = part_of(r, item);
    part.scratch = r->c->scratch + GEMM_SCRATCH_BYTES * worker;
    if (r->n_item - item > r->c->n_thread) { /* the others take those between */
        struct gemm_part next = part_of(r, item + r->c->n_thread);
        part.next = gemm_group_data(next.job->w, next.group);
        part.next_group_bytes = next.job->w->group_bytes;
    }
    ((const struct gemm_kernel *)part.job->w->kernel)->run(&part);
}

static void run_phase(struct gemm_ctx *c, const struct gemm_job *jobs, uint32_t n_job)
{
    struct run_work r = {c, jobs, n_job, 0};
    uint32_t n_item = 0;
    for (uint32_t j = 0; j < n_job; j++) {
        assert(jobs[j].act->n_in == jobs[j].w->n_in);
        assert(jobs[j].act->rank >= gemm_weight_act_rank(jobs[j].w));
        c->phase[j].first_item = n_item;
        n_item += jobs[j].act->n_tok ? cut_job(c, &jobs[j], &c->phase[j]) : 0;
    }
    r.n_item = n_item;
    if (n_item) {
        eng_pool_run(c->pool, n_item, run_item, &r);
    }
}

void gemm_run(struct gemm_ctx *c, const struct gemm_job *jobs, uint32_t n_job)
{
    while (n_job) {
        uint32_t n = n_job < N_JOB_BATCH ? n_job : N_JOB_BATCH;
        run_phase(c, jobs, n);
        jobs += n;
        n_job -= n;
    }
}
