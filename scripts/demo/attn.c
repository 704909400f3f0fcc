/* Causal attention in blocks of 64 x 64, transposed: scores are [key, query], so that a vector
 * holds queries. */
#include "model.h"

#include <math.h>
#include <string.h>

enum { B = 64 };

struct attn_work {
    bf16 vt[HEAD * (MAX_LEN + PAD_T)], kt[HEAD * (MAX_LEN + PAD_T)];
    float dk[MAX_LEN * HEAD], dv[MAX_LEN * HEAD];
    float s[B * B], dp[B * B], acc[HEAD * B];
    bf16 p[B * B], ds[B * B];
    uint32_t q_t[B * HEAD / 2], q_n[B * HEAD / 2], do_t[B * HEAD / 2], do_n[B * HEAD / 2];
    uint32_t pp[B * B / 2];
    float max[B], sum[B], delta[B];
};

struct attn_work *attn_work_new(void)
{
    return must_alloc(sizeof(struct attn_work));
}

/* 2^x for x <= 0, to 2e-7. */
static inline float exp2_fast(float x)
{
    x = x < -126.0f ? -126.0f : x;
    float whole = __builtin_rintf(x), f = x - whole;
    float p = 1.535336188319500e-4f;
    p = p * f + 1.339887440266574e-3f;
    p = p * f + 9.618437357674640e-3f;
    p = p * f + 5.550332471162809e-2f;
    p = p * f + 2.402264791363012e-1f;
    p = p * f + 6.931472028550421e-1f;
    p = p * f + 1.0f;
    union {
        int32_t i;
        float f;
    } two = {.i = ((int32_t)whole + 127) << 23};
    return p * two.f;
}

static const float log2e_scale = 1.4426950408889634f / 8.0f; /* log2(e) / sqrt(HEAD) */

static void mask_block(float *s)
{
    for (size_t k = 0; k < B; k++) {
        for (size_t q = 0; q < k; q++) {
            s[k * B + q] = -1e30f;
        }
    }
}

/* Takes the scores of one block into the running maximum, sum and accumulator; writes p as bf16. */
static void softmax_block(struct attn_work *w)
{
    float max[B], scale[B];
    for (size_t q = 0; q < B; q++) {
        max[q] = w->max[q];
    }
    for (size_t k = 0; k < B; k++) {
        for (size_t q = 0; q < B; q++) {
            float v = w->s[k * B + q] * log2e_scale;
            w->s[k * B + q] = v;
            max[q] = v > max[q] ? v : max[q];
        }
    }
    for (size_t q = 0; q < B; q++) {
        scale[q] = exp2_fast(w->max[q] - max[q]);
        w->max[q] = max[q];
        w->sum[q] *= scale[q];
    }
    for (size_t k = 0; k < B; k++) {
        for (size_t q = 0; q < B; q++) {
            float v = exp2_fast(w->s[k * B + q] - max[q]);
            w->sum[q] += v;
            w->p[k * B + q] = to_bf16(v);
        }
    }
    for (size_t d = 0; d < HEAD; d++) {
        for (size_t q = 0; q < B; q++) {
            w->acc[d * B + q] *= scale[q];
        }
    }
}

static void forward_head(struct attn_work *w, const bf16 *q, const bf16 *k, size_t len, bf16 *out,
                         float *lse)
{
    size_t ldt = len + PAD_T;
    for (size_t qb = 0; qb < len; qb += B) {
        pack_t(w->q_t, q + qb * QKV, QKV, B, HEAD);
        memset(w->acc, 0, sizeof w->acc);
        for (size_t i = 0; i < B; i++) {
            w->max[i] = -1e30f;
            w->sum[i] = 0;
        }
        for (size_t kb = 0; kb <= qb; kb += B) {
            mm(w->s, B, k + kb * QKV, QKV, w->q_t, B, B, HEAD, 0);
            if (kb == qb) {
                mask_block(w->s);
            }
            softmax_block(w);
            pack_n(w->pp, w->p, B, B, B);
            mm(w->acc, B, w->vt + kb, ldt, w->pp, HEAD, B, B, 1);
        }
        for (size_t i = 0; i < B; i++) {
            float inv = 1.0f / w->sum[i];
            lse[qb + i] = w->max[i] + log2f(w->sum[i]);
            for (size_t d = 0; d < HEAD; d++) {
                out[(qb + i) * OUT + d] = to_bf16(w->acc[d * B + i] * inv);
            }
        }
    }
}

void attn_forward(struct attn_work *w, const bf16 *qkv, size_t len, bf16 *out, float *lse)
{
    for (size_t g = 0; g < N_KV; g++) {
        const bf16 *k = qkv + (N_HEAD + g) * HEAD, *v = k + N_KV * HEAD;
        transpose(w->vt, len + PAD_T, v, QKV, len, HEAD);
        for (size_t h = g * (N_HEAD / N_KV); h < (g + 1) * (N_HEAD / N_KV); h++) {
            forward_head(w, qkv + h * HEAD, k, len, out + h * HEAD, lse + h * len);
        }
    }
}

/* p and d(score) of one block from the scores and d(p). */
static void backward_block(struct attn_work *w, const float *lse)
{
    for (size_t k = 0; k < B; k++) {
        for (size_t q = 0; q < B; q++) {
            float p = exp2_fast(w->s[k * B + q] * log2e_scale - lse[q]);
            float ds = p * (w->dp[k * B + q] - w->delta[q]) * 0.125f;
            w->p[k * B + q] = to_bf16(p);
            w->ds[k * B + q] = to_bf16(ds);
        }
    }
}

static void backward_head(struct attn_work *w, const bf16 *q, const bf16 *k, const bf16 *v,
                          const bf16 *out, const bf16 *d_out, const float *lse, size_t len,
                          float *dq)
{
    size_t ldt = len + PAD_T;
    for (size_t qb = 0; qb < len; qb += B) {
        const bf16 *o = out + qb * OUT, *go = d_out + qb * OUT;
        pack_t(w->q_t, q + qb * QKV, QKV, B, HEAD);
        pack_n(w->q_n, q + qb * QKV, QKV, B, HEAD);
        pack_t(w->do_t, go, OUT, B, HEAD);
        pack_n(w->do_n, go, OUT, B, HEAD);
        for (size_t i = 0; i < B; i++) {
            float sum = 0;
            for (size_t d = 0; d < HEAD; d++) {
                sum += from_bf16(o[i * OUT + d]) * from_bf16(go[i * OUT + d]);
            }
            w->delta[i] = sum;
        }
        memset(w->acc, 0, sizeof w->acc);
        for (size_t kb = 0; kb <= qb; kb += B) {
            mm(w->s, B, k + kb * QKV, QKV, w->q_t, B, B, HEAD, 0);
            mm(w->dp, B, v + kb * QKV, QKV, w->do_t, B, B, HEAD, 0);
            if (kb == qb) {
                mask_block(w->s);
            }
            backward_block(w, lse + qb);
            mm(w->dv + kb * HEAD, HEAD, w->p, B, w->do_n, B, HEAD, B, 1);
            mm(w->dk + kb * HEAD, HEAD, w->ds, B, w->q_n, B, HEAD, B, 1);
            pack_n(w->pp, w->ds, B, B, B);
            mm(w->acc, B, w->kt + kb, ldt, w->pp, HEAD, B, B, 1);
        }
        for (size_t i = 0; i < B; i++) {
            for (size_t d = 0; d < HEAD; d++) {
                dq[(qb + i) * QKV + d] = w->acc[d * B + i];
            }
        }
    }
}

void attn_backward(struct attn_work *w, const bf16 *qkv, const bf16 *out, const bf16 *d_out,
                   const float *lse, size_t len, float *d_qkv)
{
    for (size_t g = 0; g < N_KV; g++) {
        const bf16 *k = qkv + (N_HEAD + g) * HEAD, *v = k + N_KV * HEAD;
        transpose(w->kt, len + PAD_T, k, QKV, len, HEAD);
        memset(w->dk, 0, len * HEAD * sizeof(float));
        memset(w->dv, 0, len * HEAD * sizeof(float));
        for (size_t h = g * (N_HEAD / N_KV); h < (g + 1) * (N_HEAD / N_KV); h++) {
            backward_head(w, qkv + h * HEAD, k, v, out + h * HEAD, d_out + h * HEAD, lse + h * len,
                          len, d_qkv + h * HEAD);
        }
        for (size_t t = 0; t < len; t++) {
            float *row = d_qkv + t * QKV + (N_HEAD + g) * HEAD;
            memcpy(row, w->dk + t * HEAD, HEAD * sizeof(float));
            memcpy(row + N_KV * HEAD, w->dv + t * HEAD, HEAD * sizeof(float));
        }
    }
}
