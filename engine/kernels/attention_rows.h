/* What attention does to single rows in sixteen lanes: raw scores to logits, parts together, and
 * the last division. Included by each instruction set's file, compiled with its flags. */
#ifndef ENGINE_KERNELS_ATTENTION_ROWS_H
#define ENGINE_KERNELS_ATTENTION_ROWS_H

#include "engine/kernels/attention_impl.h"
#include "engine/kernels/lanes.h"

#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* 2^x: 0 below -126, relative error below 1.2e-7, exactly 1 at 0; x is at most 0 or NaN here.
 * 2^r = 1 + r P(r) on |r| <= 0.5, P minimax of degree 5 (2.0e-9, Remez). */
INLINE v16 exp2_lanes(v16 x)
{
    const v16 min = v16_set1(-126.0F);
    v16 c = v16_max(min, x); /* NaN passes: it is second */
    v16 n = v16_round(c);
    v16 r = v16_sub(c, n);
    v16 p = v16_set1(1.535315406e-4F);
    p = v16_fma(p, r, v16_set1(1.339913255e-3F));
    p = v16_fma(p, r, v16_set1(9.618439847e-3F));
    p = v16_fma(p, r, v16_set1(5.550331854e-2F));
    p = v16_fma(p, r, v16_set1(2.402264788e-1F));
    p = v16_fma(p, r, v16_set1(6.931472031e-1F));
    p = v16_fma(p, r, v16_set1(1.0F));
    return v16_if_lt(x, min, v16_set1(0.0F), v16_scale2(p, n));
}

/* Sixteen raw scores of row r at token t, made logits times log2 e. */
INLINE v16 logits(const struct att_part *a, enum eng_kv_type type, uint32_t r, uint32_t t, v16 s)
{
    const v16 log2e = v16_set1(1.44269504F);
    if (type == ENG_KV_INT8) {
        s = v16_mul(s, v16_load_bf16(a->k_scale[t / ATT_V_GROUP] + t % ATT_V_GROUP));
    }
    if (a->softcap == 0 && !a->alibi) {
        return v16_mul(s, v16_set1(a->scale * 1.44269504F));
    }
    s = v16_mul(s, v16_set1(a->scale));
    if (a->softcap != 0) {
        v16 cap = v16_set1(a->softcap);
        s = v16_mul(v16_tanh(v16_div(s, cap)), cap);
    }
    if (a->alibi) {
        static const float lane[V16_N] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        float from = (float)((int64_t)a->tok0 + t - a->pos[r]);
        s = v16_fma(v16_add(v16_load(lane), v16_set1(from)), v16_set1(a->slope[r]), s);
    }
    return v16_mul(s, log2e);
}

/* Lanes of the sixteen tokens from t that are in [lo, hi), `fill` in the others. */
INLINE v16 visible(v16 x, uint32_t lo, uint32_t hi, uint32_t t, v16 fill)
{
    if (lo <= t && t + V16_N <= hi) {
        return x;
    }
    return v16_keep(x, lo > t ? lo - t : 0, hi - t < V16_N ? hi - t : V16_N, fill);
}

static void merge(uint32_t n_row, uint32_t n_col, float *m, float *l, float *o, const float *part_m,
                  const float *part_l, const float *part_o)
{
    for (uint32_t r = 0; r < n_row; r++, o += n_col, part_o += n_col) {
        if (part_l[r] == 0) {
            continue; /* this part holds nothing the row sees */
        }
        if (l[r] == 0) {
            m[r] = part_m[r];
            l[r] = part_l[r];
            memcpy(o, part_o, n_col * sizeof *o);
            continue;
        }
        float top = m[r] > part_m[r] ? m[r] : part_m[r];
        v16 fa = exp2_lanes(v16_set1(m[r] - top));
        v16 fb = exp2_lanes(v16_set1(part_m[r] - top));
        float f[2][V16_N];
        v16_store(f[0], fa);
        v16_store(f[1], fb);
        m[r] = top;
        l[r] = l[r] * f[0][0] + part_l[r] * f[1][0];
        for (uint32_t c = 0; c < n_col; c += V16_N) {
            v16_store(o + c, v16_fma(v16_load(part_o + c), fb, v16_mul(v16_load(o + c), fa)));
        }
    }
}

static void finish(float *out, uint32_t d_v, float m, float l, const float *o, float sink)
{
    if (l == 0) {
        memset(out, 0, d_v * sizeof *out);
        return;
    }
    float top = m > sink ? m : sink;
    float f[V16_N]; /* lane 0: what m is worth under top; the others: the sink */
    v16_store(f, exp2_lanes(v16_keep(v16_set1(m - top), 0, 1, v16_set1(sink - top))));
    v16 s = v16_set1(f[0] / (l * f[0] + f[1]));
    for (uint32_t c = 0; c < d_v; c += V16_N) {
        uint32_t n = d_v - c < V16_N ? d_v - c : V16_N;
        v16_store_n(out + c, v16_mul(v16_load_n(o + c, n), s), n);
    }
}

#endif
