/* Between the kinds of layers with a state. Private to engine/forward_*.c. */
#ifndef ENGINE_FORWARD_SSM_H
#define ENGINE_FORWARD_SSM_H

#include "engine/forward_parts.h"

#include <math.h>
#include <string.h>

#define SSM_BLOCK        64    /* channels of one item */
#define SSM_SOFTPLUS_MAX 20.0f /* above it softplus(x) is x */

/* What an item of a recurrent phase works on: block item % n_block of slice item / n_block. */
struct ssm_job {
    struct fwd *f;
    const struct model_layer *l;
    uint32_t n_block; /* of channels or heads, in each slice */
};

/* One phase over all slices' blocks. */
void ssm_run_blocks(struct fwd *f, const struct model_layer *l, uint32_t n_block, eng_pool_fn fn);
/* f->ssm.conv [n_row, n_channel] of the channels in f->ssm.in, and the state for what follows. */
void ssm_convolve(struct fwd *f, const struct model_layer *l);

/* Each kind of layer on h: f->ssm.y [n_row, d_inner]. */
enum err_code ssm_mamba(struct fwd *f, const struct model_layer *l, const float *h, struct err *e);
enum err_code ssm_mamba2(struct fwd *f, const struct model_layer *l, const float *h, struct err *e);
enum err_code ssm_delta_net(struct fwd *f, const struct model_layer *l, const float *h,
                            struct err *e);

/* The matrix state of a slice in a layer. */
static inline float *ssm_scan_state(const struct fwd_slice *s, const struct model_ssm *a)
{
    return (float *)((char *)s->state + a->scan_offset);
}

static inline float ssm_softplus(float x)
{
    return x > SSM_SOFTPLUS_MAX ? x : log1pf(expf(x));
}

/* e^x within 2 ulp, in operations that vectorise; the same bits wherever it is compiled. */
static inline float ssm_exp(float x)
{
    x = x > 88.0f ? 88.0f : x < -87.0f ? -87.0f : x;
    float n = rintf(x * 1.44269504f);
    float r = x - n * 0.693145752f;
    r = r - n * 1.42860677e-6f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

#endif
