#include "engine/sample_impl.h"

#include "base/rng.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define N_LANE      16
#define N_CAND_MIN  64
#define EXP_ARG_MIN (-87.0F)

float sample_max(const float *x, size_t n)
{
    float lane[N_LANE];
    for (size_t k = 0; k < N_LANE; k++) {
        lane[k] = -INFINITY;
    }
    size_t i = 0;
    for (; i + N_LANE <= n; i += N_LANE) {
        for (size_t k = 0; k < N_LANE; k++) {
            lane[k] = x[i + k] > lane[k] ? x[i + k] : lane[k];
        }
    }
    for (; i < n; i++) {
        lane[0] = x[i] > lane[0] ? x[i] : lane[0];
    }
    float max = lane[0];
    for (size_t k = 1; k < N_LANE; k++) {
        max = lane[k] > max ? lane[k] : max;
    }
    return max;
}

int32_t sample_argmax(const float *x, size_t n)
{
    size_t best_at = 0;
    float best = -INFINITY;
    for (size_t i = 0; i < n; i += SAMPLE_BLOCK) {
        size_t len = n - i < SAMPLE_BLOCK ? n - i : SAMPLE_BLOCK;
        float max = sample_max(x + i, len);
        if (max > best) {
            best = max;
            best_at = i;
        }
    }
    if (best == -INFINITY) {
        return -1;
    }
    while (x[best_at] != best) {
        best_at++;
    }
    return (int32_t)best_at;
}

/* exp for -87 <= x <= 0 within 2 ulp, in plain arithmetic that compilers turn into vectors: x is
 * split into n·ln 2 + r, |r| <= ln 2 / 2, and a Taylor polynomial of degree 7 gives exp(r).
 * Source: Cody and Waite, Software Manual for the Elementary Functions (1980), the two-part ln 2.
 */
static inline float exp_nonpositive(float x)
{
    const float rounder = 12582912.0F; /* 1.5 · 2^23: adding it rounds to the nearest integer */
    float shifted = x * 1.44269504F + rounder;
    float n = shifted - rounder;
    float r = x - n * 0.693359375F;
    r = r + n * 2.12194440e-4F;
    float y = 1.0F / 5040;
    y = y * r + 1.0F / 720;
    y = y * r + 1.0F / 120;
    y = y * r + 1.0F / 24;
    y = y * r + 1.0F / 6;
    y = y * r + 0.5F;
    y = y * r + 1.0F;
    y = y * r + 1.0F;
    int32_t exponent = ((int32_t)n + 127) * (1 << 23);
    float scale;
    memcpy(&scale, &exponent, sizeof scale);
    return y * scale;
}

/* A FLT_MAX in the row makes the difference overflow to -INFINITY: weight 0, as it should. No
 * branches, so that a loop over it becomes vectors. */
static inline float weight(float x, float max, float temperature)
{
    float finite = x > -INFINITY ? x : -INFINITY; /* NaN too */
    finite = finite < FLT_MAX ? finite : FLT_MAX;
    float arg = (finite - max) / temperature;
    float w = exp_nonpositive(arg >= EXP_ARG_MIN ? arg : 0.0F);
    return arg >= EXP_ARG_MIN ? w : 0.0F;
}

float sample_weight(float x, float max, float temperature)
{
    return weight(x, max, temperature);
}

double sample_weights(const float *x, size_t n, float max, float temperature, float *w,
                      double *block_sum)
{
    float block[SAMPLE_BLOCK];
    double sum = 0;
    for (size_t i = 0; i < n; i += SAMPLE_BLOCK) {
        size_t len = n - i < SAMPLE_BLOCK ? n - i : SAMPLE_BLOCK;
        float *out = w ? w + i : block;
        for (size_t k = 0; k < len; k++) {
            out[k] = weight(x[i + k], max, temperature);
        }
        float lane[N_LANE] = {0};
        size_t k = 0;
        for (; k + N_LANE <= len; k += N_LANE) {
            for (size_t j = 0; j < N_LANE; j++) {
                lane[j] += out[k + j];
            }
        }
        double s = 0;
        for (; k < len; k++) {
            s += (double)out[k];
        }
        for (size_t j = 0; j < N_LANE; j++) {
            s += (double)lane[j];
        }
        if (block_sum) {
            block_sum[i / SAMPLE_BLOCK] = s;
        }
        sum += s;
    }
    return sum;
}

double sample_mass_from(const float *w, size_t n, float w_min)
{
    double sum = 0;
    for (size_t i = 0; i < n; i += SAMPLE_BLOCK) {
        size_t len = n - i < SAMPLE_BLOCK ? n - i : SAMPLE_BLOCK;
        float lane[N_LANE] = {0};
        size_t k = 0;
        for (; k + N_LANE <= len; k += N_LANE) {
            for (size_t j = 0; j < N_LANE; j++) {
                lane[j] += w[i + k + j] >= w_min ? w[i + k + j] : 0.0F;
            }
        }
        for (; k < len; k++) {
            lane[0] += w[i + k] >= w_min ? w[i + k] : 0.0F;
        }
        for (size_t j = 0; j < N_LANE; j++) {
            sum += (double)lane[j];
        }
    }
    return sum;
}

static void swap(struct sample_cand *a, struct sample_cand *b)
{
    struct sample_cand t = *a;
    *a = *b;
    *b = t;
}

/* Puts those that stand before the pivot first; returns where the pivot ends up. The pivot is
 * chosen by hash: no arrangement of a row makes the selection slow. n >= 1. */
static size_t partition(struct sample_cand *c, size_t n, uint64_t turn)
{
    swap(&c[rng_mix(n, turn) % n], &c[n - 1]);
    struct sample_cand pivot = c[n - 1];
    size_t at = 0;
    for (size_t i = 0; i + 1 < n; i++) {
        if (sample_before(c[i].logit, c[i].id, pivot.logit, pivot.id)) {
            swap(&c[i], &c[at++]);
        }
    }
    swap(&c[at], &c[n - 1]);
    return at;
}

struct sample_cut sample_cut_of_count(struct sample_cand *cand, size_t n, size_t k)
{
    size_t lo = 0;
    size_t hi = n;
    for (uint64_t turn = 0;; turn++) {
        size_t at = lo + partition(cand + lo, hi - lo, turn);
        if (at + 1 == k) {
            return (struct sample_cut){cand[at].logit, cand[at].id};
        }
        if (at + 1 < k) {
            lo = at + 1;
        } else {
            hi = at;
        }
    }
}

struct sample_cut sample_cut_of_mass(struct sample_cand *cand, size_t n, double mass)
{
    size_t lo = 0;
    size_t hi = n;
    double before_lo = 0;
    struct sample_cut cut = {-INFINITY, INT32_MAX};
    for (uint64_t turn = 0; lo < hi; turn++) {
        size_t at = lo + partition(cand + lo, hi - lo, turn);
        double up_to_pivot = before_lo;
        for (size_t i = lo; i <= at; i++) {
            up_to_pivot += (double)cand[i].w;
        }
        if (up_to_pivot >= mass) {
            cut = (struct sample_cut){cand[at].logit, cand[at].id};
            hi = at;
        } else {
            before_lo = up_to_pivot;
            lo = at + 1;
        }
    }
    return cut;
}

size_t sample_select_top(const float *x, size_t n, size_t k, struct sample_cand *cand)
{
    size_t cap = 2 * k > N_CAND_MIN ? 2 * k : N_CAND_MIN;
    cap = cap < n ? cap : n;
    size_t n_cand = 0;
    float floor = -INFINITY; /* ids rise, so an equal value comes too late once k are there */
    for (size_t i = 0; i < n; i += SAMPLE_BLOCK) {
        size_t len = n - i < SAMPLE_BLOCK ? n - i : SAMPLE_BLOCK;
        if (!(sample_max(x + i, len) > floor)) {
            continue;
        }
        for (size_t j = i; j < i + len; j++) {
            if (!(x[j] > floor)) {
                continue;
            }
            if (n_cand == cap) {
                floor = sample_cut_of_count(cand, n_cand, k).logit;
                n_cand = k;
                if (!(x[j] > floor)) {
                    continue;
                }
            }
            cand[n_cand++] = (struct sample_cand){.logit = x[j], .id = (int32_t)j};
        }
    }
    if (n_cand > k) {
        (void)sample_cut_of_count(cand, n_cand, k);
        n_cand = k;
    }
    return n_cand;
}
