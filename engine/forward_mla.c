/* Multi-head latent attention: all heads read one latent row per token, so the cache holds
 * kv_rank + n_rot values a token and nothing per head. Q is carried into the latent space by k_b
 * before attention, its result out of it by v_b afterwards: attention itself is multi-query.
 * Source: arXiv:2405.04434 (DeepSeek-V2). */
#include "engine/forward_parts.h"

#include <string.h>

/* Rotates the position part of one row's Q heads and of its latent row, and norms the latter.
 * q: [n_head, d_nope + n_rot]; latent: [kv_rank + n_rot]. */
static void finish_latent_row(const struct fwd *f, const void *arg, uint32_t row)
{
    const struct model *m = f->env.m;
    const struct model_layer *l = arg;
    const struct model_mla *a = l->mla;
    const struct rope *r = &m->ropes[0];
    uint32_t d_q = a->d_nope + r->n_rot;
    uint32_t d_latent = m->kv_rank + r->n_rot;
    const float *cos_sin = f->cos_sin[0] + (size_t)row * r->n_rot;
    int neox = r->pairs == ROPE_PAIRS_HALVES;
    float *q_raw = f->mla.q + (size_t)row * l->n_head * d_q;
    float *q = f->q + (size_t)row * l->n_head * d_latent;
    float *latent = f->k + (size_t)row * d_latent;
    f->env.vec->rope(q_raw + a->d_nope, l->n_head, d_q, r->n_rot, cos_sin, neox);
    for (uint32_t h = 0; h < l->n_head; h++) {
        memcpy(q + (size_t)h * d_latent + m->kv_rank, q_raw + (size_t)h * d_q + a->d_nope,
               r->n_rot * sizeof *q);
    }
    fwd_norm_row(f, &a->kv_norm, latent, latent, m->kv_rank, 1);
    f->env.vec->rope(latent + m->kv_rank, 1, r->n_rot, r->n_rot, cos_sin, neox);
}

static void norm_q_row(const struct fwd *f, const void *arg, uint32_t row)
{
    const struct model_mla *a = arg;
    float *q = f->mla.q_a + (size_t)row * f->env.m->q_rank;
    fwd_norm_row(f, &a->q_norm, q, q, f->env.m->q_rank, 1);
}

/* mla.q [n_row, n_head, d_nope + n_rot] and k [n_row, kv_rank + n_rot] from h. */
static enum err_code project(struct fwd *f, const struct model_layer *l, const float *h,
                             struct err *e)
{
    const struct model_mla *a = l->mla;
    bool in_two = a->q_a.w.data != NULL;
    struct fwd_product products[] = {
        {.lin = in_two ? &a->q_a : &l->q, .y = in_two ? f->mla.q_a : f->mla.q},
        {.lin = &a->kv_a, .y = f->k}};
    enum err_code code = fwd_products(f, h, f->n_row, products, 2, e);
    if (code || !in_two) {
        return code;
    }
    fwd_rows(f, f->n_row, f->env.m->q_rank, norm_q_row, a);
    struct fwd_product q = {.lin = &l->q, .y = f->mla.q};
    return fwd_products(f, f->mla.q_a, f->n_row, &q, 1, e);
}

/* One product per head: y[row][h] = lins[h] x[row][h], heads ldx and ldy floats apart in a row. */
static enum err_code head_products(struct fwd *f, const struct model_linear *lins, uint32_t n_head,
                                   const float *x, uint32_t d_x, float *y, uint32_t d_y,
                                   struct err *e)
{
    for (uint32_t h = 0; h < n_head; h++) {
        enum err_code code = gemm_act_prepare(f->env.gemm, &lins[h].w, x + (size_t)h * d_x,
                                              (size_t)n_head * d_x, f->n_row, &f->mla.acts[h], e);
        if (code) {
            return code;
        }
        f->mla.jobs[h] = (struct gemm_job){.w = &lins[h].w,
                                           .act = &f->mla.acts[h],
                                           .y = y + (size_t)h * d_y,
                                           .ldy = (size_t)n_head * d_y};
    }
    gemm_run(f->env.gemm, f->mla.jobs, n_head);
    return ERR_OK;
}

enum err_code fwd_mla_attention(struct fwd *f, uint32_t il, const float *h, struct err *e)
{
    const struct model *m = f->env.m;
    const struct model_layer *l = &m->layers[il];
    const struct model_mla *a = l->mla;
    uint32_t n_rot = m->ropes[0].n_rot;
    uint32_t d_latent = m->kv_rank + n_rot;
    enum err_code code = project(f, l, h, e);
    if (!code) {
        code = head_products(f, a->k_b, l->n_head, f->mla.q, a->d_nope + n_rot, f->q, d_latent, e);
    }
    if (code) {
        return code;
    }
    fwd_rows(f, f->n_row, (size_t)l->n_head * d_latent, finish_latent_row, l);
    /* V is the latent part of K. */
    code = fwd_attend(f, il, f->k, d_latent, e);
    if (code || f->n_row == 0) {
        return code;
    }
    return head_products(f, a->v_b, l->n_head, f->att, m->kv_rank, f->mla.out, a->d_v, e);
}
