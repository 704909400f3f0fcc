/* Adapters in a step: beside a product, A x is computed for the rows that asked for one; B times
 * that is added after it. Neighbouring rows with the same adapter go through it together; a row's
 * result depends on that row alone, and rows without an adapter are never touched. */
#include "engine/forward_parts.h"

#include <stdlib.h>
#include <string.h>

/* Rows [row0, row0 + n_row) of the step, all with one adapter. */
struct run {
    const struct lora *lora;
    uint32_t row0;
    uint32_t n_row;
};

/* The next run of rows that have an adapter, from row `from` up to `to`. */
static bool next_run(const struct fwd *f, uint32_t from, uint32_t to, struct run *run)
{
    uint32_t adapter = 0;
    for (uint32_t i = 0; i < f->n_slice; i++) {
        const struct fwd_slice *s = &f->slices[i];
        uint32_t begin = s->row0 > from ? s->row0 : from;
        uint32_t end = s->row0 + s->n_row < to ? s->row0 + s->n_row : to;
        if (begin >= end) {
            continue;
        }
        if (adapter && s->adapter != adapter) {
            break;
        }
        if (s->adapter) {
            run->row0 = adapter ? run->row0 : begin;
            run->n_row = end - run->row0;
            adapter = s->adapter;
        }
    }
    run->lora = adapter ? &f->env.loras->loras[adapter - 1] : NULL;
    return adapter != 0;
}

/* t = A x of all jobs, beside the products' own jobs; then y += B t. */
static enum err_code run_jobs(struct fwd *f, const struct gemm_job *jobs, uint32_t n_product,
                              struct err *e)
{
    struct fwd_lora *o = f->lora;
    enum err_code code = ERR_OK;
    memcpy(o->down + o->n_job, jobs, n_product * sizeof *jobs);
    gemm_run(f->env.gemm, o->down, o->n_job + n_product);
    for (uint32_t i = 0; i < o->n_job && !code; i++) {
        const struct gemm_job *down = &o->down[i];
        code = gemm_act_prepare(f->env.gemm, o->up[i].w, down->y, down->ldy, down->act->n_tok,
                                &o->up_acts[i], e);
    }
    if (!code && o->n_job) {
        gemm_run(f->env.gemm, o->up, o->n_job);
    }
    o->n_job = 0;
    o->n_t = 0;
    return code;
}

static enum err_code add_job(struct fwd *f, const struct run *run, const struct lora_pair *p,
                             const float *x, float *y, struct err *e)
{
    struct fwd_lora *o = f->lora;
    uint32_t i = o->n_job++;
    float *t = o->t + o->n_t;
    o->n_t += (size_t)run->n_row * p->rank;
    o->down[i] = (struct gemm_job){.w = &p->a, .act = &o->down_acts[i], .y = t, .ldy = p->rank};
    o->up[i] = (struct gemm_job){
        .w = &p->b, .act = &o->up_acts[i], .y = y, .ldy = p->b.n_out, .add = true};
    return gemm_act_prepare(f->env.gemm, &p->a, x, p->a.n_in, run->n_row, &o->down_acts[i], e);
}

/* One product's job for a run of rows that begins `at` rows behind x. */
static enum err_code add_run(struct fwd *f, const struct run *run, size_t at, const float *x,
                             const struct fwd_product *product, struct err *e)
{
    const struct model_linear *lin = product->lin;
    const struct lora_pair *p = lin->lora_id ? &run->lora->pairs[lin->lora_id - 1] : NULL;
    if (!p || !p->rank) {
        return ERR_OK;
    }
    return add_job(f, run, p, x + at * lin->w.n_in, product->y + at * lin->w.n_out, e);
}

enum err_code fwd_lora_products(struct fwd *f, const float *x, uint32_t row0, uint32_t n_row,
                                const struct fwd_product *products, const struct gemm_job *jobs,
                                uint32_t n_product, struct err *e)
{
    struct fwd_lora *o = f->lora;
    struct run run;
    uint32_t from = row0;
    uint32_t n_own = n_product; /* the products' own jobs, not run yet */
    enum err_code code = ERR_OK;
    while (o && !code && next_run(f, from, row0 + n_row, &run)) {
        size_t n_t = (size_t)run.n_row * f->env.loras->rank_max * n_product;
        if (o->n_job + n_product > FWD_LORA_JOB_MAX || o->n_t + n_t > o->n_t_max) {
            code = run_jobs(f, jobs, n_own, e);
            n_own = 0;
        }
        for (uint32_t i = 0; i < n_product && !code; i++) {
            code = add_run(f, &run, run.row0 - row0, x, &products[i], e);
        }
        from = run.row0 + run.n_row;
    }
    if (code) {
        return code;
    }
    if (o && o->n_job) {
        return run_jobs(f, jobs, n_own, e);
    }
    if (n_own) {
        gemm_run(f->env.gemm, jobs, n_own);
    }
    return ERR_OK;
}

enum err_code fwd_lora_create(struct fwd *f, struct err *e)
{
    const struct lora_set *set = f->env.loras;
    if (!set || !set->n) {
        return ERR_OK;
    }
    struct fwd_lora *o = calloc(1, sizeof *o);
    f->lora = o;
    if (o) {
        o->n_t_max = (size_t)f->n_tok_max * set->rank_max * FWD_JOB_MAX;
        o->t = malloc((o->n_t_max + 1) * sizeof *o->t);
    }
    return o && o->t ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for adapters");
}

void fwd_lora_destroy(struct fwd *f)
{
    if (f->lora) {
        for (uint32_t i = 0; i < FWD_LORA_JOB_MAX; i++) {
            gemm_act_finish(&f->lora->down_acts[i]);
            gemm_act_finish(&f->lora->up_acts[i]);
        }
        free(f->lora->t);
        free(f->lora);
    }
}
