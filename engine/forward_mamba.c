/* Mamba and Mamba 2. Source: arXiv:2312.00752, arXiv:2405.21060. */
#include "engine/forward_ssm.h"

/* The low-rank dt, B and C of one row, each normed where the model says so. */
static void norm_dbc_row(const struct fwd *f, const void *arg, uint32_t row)
{
    const struct model_ssm *a = arg;
    const struct model_norm none = {0};
    float *x = f->ssm.dbc + (size_t)row * (a->dt_rank + 2ull * a->d_state);
    fwd_norm_row(f, &none, x, x, a->dt_rank, 1);
    fwd_norm_row(f, &none, x + a->dt_rank, x + a->dt_rank, a->d_state, 2);
}

/* For channels of one slice, token by token:
 *   h[s][c] = h[s][c] · exp(dt[c] A[s][c]) + dt[c] x[c] B[s];  y[c] = sum h[s][c] C[s] + D[c] x[c]
 * then y · silu(z). */
static void mamba_item(void *arg, uint32_t item, uint32_t worker)
{
    (void)worker;
    const struct ssm_job *job = arg;
    const struct fwd *f = job->f;
    const struct model_ssm *a = job->l->ssm;
    const struct fwd_slice *slice = &f->slices[item / job->n_block];
    uint32_t c0 = item % job->n_block * SSM_BLOCK;
    uint32_t n = a->d_inner - c0 < SSM_BLOCK ? a->d_inner - c0 : SSM_BLOCK;
    float *h = ssm_scan_state(slice, a) + c0;
    float dt[SSM_BLOCK];
    float gate[SSM_BLOCK];
    for (uint32_t t = 0; t < slice->n_row; t++) {
        size_t row = slice->row0 + t;
        const float *x = f->ssm.conv + row * a->d_inner + c0;
        const float *z = f->ssm.in + row * a->ld_in + a->d_inner + c0;
        const float *b = f->ssm.dbc + row * (a->dt_rank + 2ull * a->d_state) + a->dt_rank;
        float *y = f->ssm.y + row * a->d_inner + c0;
        for (uint32_t c = 0; c < n; c++) {
            dt[c] = ssm_softplus(f->ssm.dt[row * a->d_inner + c0 + c]);
            y[c] = a->d[c0 + c] * x[c];
        }
        for (uint32_t s = 0; s < a->d_state; s++) {
            float *hs = h + (size_t)s * a->d_inner;
            const float *as = a->a + (size_t)s * a->d_inner + c0;
            for (uint32_t c = 0; c < n; c++) {
                hs[c] = hs[c] * ssm_exp(dt[c] * as[c]) + dt[c] * x[c] * b[s];
                y[c] += hs[c] * b[a->d_state + s];
            }
        }
        f->env.vec->act(gate, z, VEC_SILU, n);
        f->env.vec->mul(y, y, gate, n);
    }
}

enum err_code ssm_mamba(struct fwd *f, const struct model_layer *l, const float *h, struct err *e)
{
    const struct model_ssm *a = l->ssm;
    struct fwd_product in = {.lin = &a->in, .y = f->ssm.in};
    struct fwd_product x = {.lin = &a->x, .y = f->ssm.dbc};
    enum err_code code = fwd_products(f, h, f->n_row, &in, 1, e);
    if (code) {
        return code;
    }
    ssm_convolve(f, l);
    code = fwd_products(f, f->ssm.conv, f->n_row, &x, 1, e);
    if (code) {
        return code;
    }
    if (a->norm_dbc) {
        fwd_rows(f, f->n_row, a->dt_rank + 2ull * a->d_state, norm_dbc_row, a);
    }
    /* The first dt_rank values of each dbc row. */
    code = fwd_product_strided(f, &a->dt, f->ssm.dbc, a->dt_rank + 2ull * a->d_state, f->n_row,
                               f->ssm.dt, e);
    if (code) {
        return code;
    }
    ssm_run_blocks(f, l, (a->d_inner + SSM_BLOCK - 1) / SSM_BLOCK, mamba_item);
    return ERR_OK;
}

/* One head of one slice, token by token, with its state [d_state, d_head]:
 *   h[s][i] = h[s][i] · exp(dt A) + B[s] · dt x[i];  y[i] = sum h[s][i] C[s] + D x[i] */
static void mamba2_item(void *arg, uint32_t item, uint32_t worker)
{
    (void)worker;
    const struct ssm_job *job = arg;
    const struct fwd *f = job->f;
    const struct model_ssm *a = job->l->ssm;
    const struct fwd_slice *slice = &f->slices[item / job->n_block];
    uint32_t head = item % job->n_block;
    uint32_t d = a->d_inner / a->n_head;
    uint32_t group = head / (a->n_head / a->n_group);
    float *h = ssm_scan_state(slice, a) + (size_t)head * d * a->d_state;
    for (uint32_t t = 0; t < slice->n_row; t++) {
        size_t row = slice->row0 + t;
        const float *x = f->ssm.conv + row * a->n_channel + (size_t)head * d;
        const float *b = f->ssm.conv + row * a->n_channel + a->d_inner + (size_t)group * a->d_state;
        const float *c = b + (size_t)a->n_group * a->d_state;
        const float *dt_row = f->ssm.in + row * a->ld_in + a->d_inner + a->n_channel;
        float *y = f->ssm.y + row * a->d_inner + (size_t)head * d;
        float dt = ssm_softplus(dt_row[head] + a->dt_b[head]);
        float keep = ssm_exp(dt * a->a[head]);
        for (uint32_t i = 0; i < d; i++) {
            y[i] = a->d[head] * x[i];
        }
        for (uint32_t s = 0; s < a->d_state; s++) {
            float *hs = h + (size_t)s * d;
            for (uint32_t i = 0; i < d; i++) {
                hs[i] = hs[i] * keep + b[s] * (dt * x[i]);
                y[i] += hs[i] * c[s];
            }
        }
    }
}

/* y = norm of each group of (y · silu(z)) */
static void gate_mamba2_row(const struct fwd *f, const void *arg, uint32_t row)
{
    const struct model_ssm *a = arg;
    float *y = f->ssm.y + (size_t)row * a->d_inner;
    float *z = f->ssm.in + (size_t)row * a->ld_in;
    f->env.vec->act_mul(y, z, y, VEC_SILU, a->d_inner);
    if (a->norm.present) {
        fwd_norm_row(f, &a->norm, y, y, a->d_inner / a->n_group, a->n_group);
    }
}

enum err_code ssm_mamba2(struct fwd *f, const struct model_layer *l, const float *h, struct err *e)
{
    const struct model_ssm *a = l->ssm;
    struct fwd_product in = {.lin = &a->in, .y = f->ssm.in};
    enum err_code code = fwd_products(f, h, f->n_row, &in, 1, e);
    if (code) {
        return code;
    }
    ssm_convolve(f, l);
    ssm_run_blocks(f, l, a->n_head, mamba2_item);
    fwd_rows(f, f->n_row, 2ull * a->d_inner, gate_mamba2_row, a);
    return ERR_OK;
}
