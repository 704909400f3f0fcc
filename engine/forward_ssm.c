/* Layers that carry a state from token to token instead of reading a cache: short convolutions
 * (LFM2), Mamba, Mamba 2 and gated delta nets (Qwen3-Next). A sequence's state is the last inputs
 * of each convolution and one matrix per head; tokens are taken strictly one after the other, so
 * that a row's bits do not depend on how a text was cut. Work is spread over slices and channels.
 * Source: arXiv:2312.00752 (Mamba), arXiv:2405.21060 (Mamba 2), arXiv:2412.06464 (gated delta). */
#include "engine/forward_ssm.h"

void ssm_run_blocks(struct fwd *f, const struct model_layer *l, uint32_t n_block, eng_pool_fn fn)
{
    struct ssm_job j = {f, l, n_block};
    eng_pool_run(f->env.pool, f->n_slice * n_block, fn, &j);
}

/* The conv state of a slice in layer l: [d_conv - 1, n_channel], oldest first. */
static float *conv_state(const struct fwd_slice *s, const struct model_ssm *a)
{
    return (float *)((char *)s->state + a->conv_offset);
}

/* Input of channels [c0, c0 + n) at row t of a slice; before its first row, from the state. */
static const float *conv_input(const struct fwd *f, const struct fwd_slice *s,
                               const struct model_ssm *a, int64_t t)
{
    if (t < 0) {
        return conv_state(s, a) + (t + a->d_conv - 1) * a->n_channel;
    }
    return f->ssm.in + (s->row0 + (size_t)t) * a->ld_in + a->conv_at;
}

/* conv[t][c] = b[c] + sum over j of w[j][c] · input[t - d_conv + 1 + j][c], then SiLU; and the
 * state for what comes after. */
static void conv_item(void *arg, uint32_t item, uint32_t worker)
{
    (void)worker;
    const struct ssm_job *job = arg;
    const struct fwd *f = job->f;
    const struct model_ssm *a = job->l->ssm;
    const struct fwd_slice *s = &f->slices[item / job->n_block];
    uint32_t c0 = item % job->n_block * SSM_BLOCK;
    uint32_t n = a->n_channel - c0 < SSM_BLOCK ? a->n_channel - c0 : SSM_BLOCK;
    int64_t n_tap = a->d_conv;
    for (int64_t t = 0; t < s->n_row; t++) {
        float *y = f->ssm.conv + (s->row0 + (size_t)t) * a->n_channel + c0;
        for (uint32_t c = 0; c < n; c++) {
            y[c] = a->conv_b ? a->conv_b[c0 + c] : 0.0f;
        }
        for (int64_t j = 0; j < n_tap; j++) {
            const float *x = conv_input(f, s, a, t - n_tap + 1 + j) + c0;
            const float *w = a->conv + j * a->n_channel + c0;
            for (uint32_t c = 0; c < n; c++) {
                y[c] += w[c] * x[c];
            }
        }
        if (a->conv_silu) {
            f->env.vec->act(y, y, VEC_SILU, n);
        }
    }
    for (int64_t j = 0; j < n_tap - 1; j++) { /* oldest first: never reads what it has written */
        const float *x = conv_input(f, s, a, (int64_t)s->n_row - n_tap + 1 + j) + c0;
        memmove(conv_state(s, a) + j * a->n_channel + c0, x, n * sizeof *x);
    }
}

void ssm_convolve(struct fwd *f, const struct model_layer *l)
{
    ssm_run_blocks(f, l, (l->ssm->n_channel + SSM_BLOCK - 1) / SSM_BLOCK, conv_item);
}

/* Rows of in are [b, c, x]; x becomes b · x, which is what the convolution reads. */
static void gate_input_row(const struct fwd *f, const void *arg, uint32_t row)
{
    const struct model_ssm *a = arg;
    float *b = f->ssm.in + (size_t)row * a->ld_in;
    float *x = b + 2ull * a->d_inner;
    f->env.vec->mul(x, x, b, a->d_inner);
}

static void gate_output_row(const struct fwd *f, const void *arg, uint32_t row)
{
    const struct model_ssm *a = arg;
    const float *c = f->ssm.in + (size_t)row * a->ld_in + a->d_inner;
    f->env.vec->mul(f->ssm.y + (size_t)row * a->d_inner, f->ssm.conv + (size_t)row * a->d_inner, c,
                    a->d_inner);
}

static enum err_code short_conv(struct fwd *f, const struct model_layer *l, const float *h,
                                struct err *e)
{
    const struct model_ssm *a = l->ssm;
    struct fwd_product in = {.lin = &a->in, .y = f->ssm.in};
    enum err_code code = fwd_products(f, h, f->n_row, &in, 1, e);
    if (code) {
        return code;
    }
    fwd_rows(f, f->n_row, a->d_inner, gate_input_row, a);
    ssm_convolve(f, l);
    fwd_rows(f, f->n_row, a->d_inner, gate_output_row, a);
    return ERR_OK;
}

enum err_code fwd_ssm_layer(struct fwd *f, uint32_t il, const float *h, struct err *e)
{
    const struct model_layer *l = &f->env.m->layers[il];
    enum err_code code = ERR_OK;
    switch (l->ssm->kind) {
    case MODEL_SSM_MAMBA: code = ssm_mamba(f, l, h, e); break;
    case MODEL_SSM_MAMBA2: code = ssm_mamba2(f, l, h, e); break;
    case MODEL_SSM_SHORT_CONV: code = short_conv(f, l, h, e); break;
    case MODEL_SSM_DELTA_NET: code = ssm_delta_net(f, l, h, e); break;
    }
    if (!code && il == f->last_memory_layer) {
        fwd_drop_rows(f, f->ssm.y, l->ssm->d_inner);
    }
    return code;
}
