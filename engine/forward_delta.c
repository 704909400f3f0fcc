/* Gated delta nets (Qwen3-Next, Qwen 3.5). Source: arXiv:2412.06464. */
#include "engine/forward_ssm.h"

/* Q and K of one row, each head to length 1; Q scaled. */
static void unit_qk_row(const struct fwd *f, const void *arg, uint32_t row)
{
    const struct model_ssm *a = arg;
    float *x = f->ssm.conv + (size_t)row * a->n_channel;
    for (uint32_t g = 0; g < 2 * a->n_group; g++, x += a->d_state) {
        float sum = 0;
        for (uint32_t i = 0; i < a->d_state; i++) {
            sum += x[i] * x[i];
        }
        float s = 1.0f / fmaxf(sqrtf(sum), f->env.m->norm_eps);
        s = g < a->n_group ? s / sqrtf((float)a->d_state) : s;
        f->env.vec->scale(x, x, s, a->d_state);
    }
}

/* One head of one slice, token by token, with its state S [d_k, d_v]:
 *   S = S · exp(g);  S += k ⊗ (v - Sᵀk) · beta;  y = Sᵀq */
static void delta_item(void *arg, uint32_t item, uint32_t worker)
{
    (void)worker;
    const struct ssm_job *job = arg;
    const struct fwd *f = job->f;
    const struct model_ssm *a = job->l->ssm;
    const struct fwd_slice *slice = &f->slices[item / job->n_block];
    uint32_t head = item % job->n_block;
    uint32_t n_each = a->n_head / a->n_group;
    uint32_t k_head = a->heads_tiled ? head % a->n_group : head / n_each;
    uint32_t d = a->d_state;
    float *state = ssm_scan_state(slice, a) + (size_t)head * d * d;
    float delta[SSM_STATE_MAX];
    for (uint32_t t = 0; t < slice->n_row; t++) {
        size_t row = slice->row0 + t;
        const float *q = f->ssm.conv + row * a->n_channel + (size_t)k_head * d;
        const float *k = q + (size_t)a->n_group * d;
        const float *v = f->ssm.conv + row * a->n_channel + (2ull * a->n_group + head) * d;
        /* beta and alpha of a head: two products, or one that holds those of each K head in turn.
         */
        const float *ba = f->ssm.beta + row * 2 * a->n_head;
        const float *pair = ba + 2ull * (head / n_each) * n_each + head % n_each;
        float beta_in = a->alpha.w.data ? f->ssm.beta[row * a->n_head + head] : pair[0];
        float alpha_in = a->alpha.w.data ? f->ssm.dt[row * a->n_head + head] : pair[n_each];
        float beta = 1.0f / (1.0f + expf(-beta_in));
        float keep = ssm_exp(ssm_softplus(alpha_in + a->dt_b[head]) * a->a[head]);
        float *y = f->ssm.y + row * a->d_inner + (size_t)head * d;
        memset(delta, 0, d * sizeof *delta);
        for (uint32_t i = 0; i < d; i++) {
            float *si = state + (size_t)i * d;
            for (uint32_t j = 0; j < d; j++) {
                si[j] *= keep;
                delta[j] += si[j] * k[i];
            }
        }
        for (uint32_t j = 0; j < d; j++) {
            delta[j] = (v[j] - delta[j]) * beta;
            y[j] = 0;
        }
        for (uint32_t i = 0; i < d; i++) {
            float *si = state + (size_t)i * d;
            for (uint32_t j = 0; j < d; j++) {
                si[j] += k[i] * delta[j];
                y[j] += si[j] * q[i];
            }
        }
    }
}

/* y = norm of each head · silu(z) */
static void gate_delta_row(const struct fwd *f, const void *arg, uint32_t row)
{
    const struct model_ssm *a = arg;
    float *y = f->ssm.y + (size_t)row * a->d_inner;
    fwd_norm_row(f, &a->norm, y, y, a->d_state, a->n_head);
    f->env.vec->act_mul(y, f->ssm.gate + (size_t)row * a->d_inner, y, VEC_SILU, a->d_inner);
}

enum err_code ssm_delta_net(struct fwd *f, const struct model_layer *l, const float *h,
                            struct err *e)
{
    const struct model_ssm *a = l->ssm;
    struct fwd_product products[] = {{.lin = &a->in, .y = f->ssm.in},
                                     {.lin = &a->gate, .y = f->ssm.gate},
                                     {.lin = &a->beta, .y = f->ssm.beta},
                                     {.lin = &a->alpha, .y = f->ssm.dt}};
    enum err_code code = fwd_products(f, h, f->n_row, products, a->alpha.w.data ? 4 : 3, e);
    if (code) {
        return code;
    }
    ssm_convolve(f, l);
    fwd_rows(f, f->n_row, 2ull * a->n_group * a->d_state, unit_qk_row, a);
    ssm_run_blocks(f, l, a->n_head, delta_item);
    fwd_rows(f, f->n_row, 2ull * a->d_inner, gate_delta_row, a);
    return ERR_OK;
}
