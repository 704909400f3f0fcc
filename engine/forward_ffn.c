/* The feed-forward part: dense, and mixtures of experts. */
#include "engine/forward_parts.h"

static enum vec_act vec_kind(enum model_act act)
{
    switch (act) {
    case MODEL_ACT_GELU: return VEC_GELU_TANH;
    case MODEL_ACT_RELU_SQR: return VEC_RELU_SQR;
    case MODEL_ACT_SWIGLU_OAI: return VEC_GELU_QUICK; /* x · sigmoid(1.702 x), as SwiGLU-OAI has */
    case MODEL_ACT_SILU: break;
    }
    return VEC_SILU;
}

#define OAI_LIMIT 7.0f

/* gpt-oss: both halves clamped, and 1 added to up. */
static void oai_clamp(float *gate, float *up, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        gate[i] = gate[i] > OAI_LIMIT ? OAI_LIMIT : gate[i];
        up[i] = (up[i] > OAI_LIMIT ? OAI_LIMIT : up[i] < -OAI_LIMIT ? -OAI_LIMIT : up[i]) + 1.0f;
    }
}

void fwd_activate(const struct fwd *f, float *gate, float *up, uint32_t n)
{
    enum model_act act = f->env.m->act;
    if (act == MODEL_ACT_SWIGLU_OAI) {
        oai_clamp(gate, up, n);
    }
    if (up) {
        f->env.vec->act_mul(gate, gate, up, vec_kind(act), n);
    } else {
        f->env.vec->act(gate, gate, vec_kind(act), n);
    }
}

static void activate_row(const struct fwd *f, const void *arg, uint32_t row)
{
    const struct model_ffn *ffn = arg;
    size_t at = (size_t)row * ffn->n_ff;
    if (ffn->gate.w.data) {
        fwd_activate(f, f->gate + at, f->up + at, ffn->n_ff);
    } else {
        fwd_activate(f, f->gate + at, NULL, ffn->n_ff);
    }
}

/* down(act(gate h) · up h); without a gate, down(act(up h)). */
enum err_code fwd_ffn(struct fwd *f, const struct model_ffn *ffn, const float *h, float *dst,
                      bool add, struct err *e)
{
    bool gated = ffn->gate.w.data != NULL;
    struct fwd_product products[2] = {{.lin = gated ? &ffn->gate : &ffn->up, .y = f->gate},
                                      {.lin = &ffn->up, .y = f->up}};
    enum err_code code = fwd_products(f, h, f->n_row, products, gated ? 2 : 1, e);
    if (code) {
        return code;
    }
    fwd_rows(f, f->n_row, 2 * (size_t)ffn->n_ff, activate_row, ffn);
    struct fwd_product down = {.lin = &ffn->down, .y = dst, .add = add};
    return fwd_products(f, f->gate, f->n_row, &down, 1, e);
}
