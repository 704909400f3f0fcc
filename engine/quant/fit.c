#include "engine/quant/fit.h"

#include <math.h>
#include <string.h>

#define LANES 8

/* Candidate scales: the one that just holds the largest element, widened or narrowed by up to this
 * many steps of the quantised range in either direction. */
#define CANDIDATES      21
#define CANDIDATE_STEP  0.1f
#define CANDIDATE_FIRST (-1.0f)
/* After the search: rounds of "round with the fitted scale, fit again". */
#define REFINEMENTS 2

/* The nearest whole number for |v| < 2^22, half to even. */
static inline float nearest(float v)
{
    return (v + 12582912.0f) - 12582912.0f;
}

static inline float clamp(float v, float lo, float hi)
{
    v = v < lo ? lo : v;
    return v > hi ? hi : v;
}

/* Sums over a rounding q of x, by lanes so that they vectorise with one fixed order. */
struct sums {
    float q[LANES];
    float qq[LANES];
    float xq[LANES];
};

static void sum_rounding(int n, const float *x, const float *w, float inv, float m, float lo,
                         float hi, struct sums *s)
{
    memset(s, 0, sizeof *s);
    for (int i = 0; i < n; i += LANES) {
        for (int k = 0; k < LANES; k++) {
            float q = clamp(nearest(inv * (x[i + k] - m)), lo, hi);
            float wq = w[i + k] * q;
            s->q[k] += wq;
            s->qq[k] += wq * q;
            s->xq[k] += wq * x[i + k];
        }
    }
}

static double total(const float lanes[LANES])
{
    double sum = 0;
    for (int k = 0; k < LANES; k++) {
        sum += (double)lanes[k];
    }
    return sum;
}

float quant_fit_scale(int n, const float *x, const float *w, int q_min, int q_max)
{
    float largest = 0;
    for (int i = 0; i < n; i++) {
        largest = fabsf(x[i]) > fabsf(largest) ? x[i] : largest;
    }
    if (!(fabsf(largest) > 1e-30f)) {
        return 0;
    }
    /* The negative side reaches further, so the largest element lies there. */
    float full = (float)q_min / largest;
    double gain_best = 0;
    float best = 1.0f / full;
    for (int k = 0; k < CANDIDATES + REFINEMENTS; k++) {
        float step = CANDIDATE_FIRST + CANDIDATE_STEP * (float)k;
        float inv = k < CANDIDATES ? full * (1.0f - step / (float)q_min) : 1.0f / best;
        struct sums s;
        sum_rounding(n, x, w, inv, 0, (float)q_min, (float)q_max, &s);
        double xq = total(s.xq);
        double qq = total(s.qq);
        /* What the fit takes off the sum of w * x^2; larger is better. */
        if (qq > 0 && xq * xq > gain_best * qq) {
            gain_best = xq * xq / qq;
            best = (float)(xq / qq);
        }
    }
    return best;
}

struct affine {
    double d;
    double m;
    double error; /* without the constant sum of w * x^2 */
};

static struct affine solve(const struct sums *s, double sum_w, double sum_x, int below)
{
    double q = total(s->q);
    double qq = total(s->qq);
    double xq = total(s->xq);
    struct affine a = {0, sum_w > 0 ? sum_x / sum_w : 0, 0};
    double det = sum_w * qq - q * q;
    if (det > 1e-12 * sum_w * qq) {
        a.d = (sum_w * xq - sum_x * q) / det;
        a.m = (sum_x * qq - q * xq) / det;
    }
    if (below && a.m > 0) {
        a.m = 0;
        a.d = qq > 0 ? xq / qq : 0;
    }
    a.error = a.d * a.d * qq + a.m * a.m * sum_w + 2 * (a.d * a.m * q - a.d * xq - a.m * sum_x);
    return a;
}

void quant_fit_affine(int n, const float *x, const float *w, int q_max, int below, float *ret_d,
                      float *ret_m)
{
    float lo = x[0];
    float hi = x[0];
    double sum_w = 0;
    double sum_x = 0;
    for (int i = 0; i < n; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
        sum_w += (double)w[i];
        sum_x += (double)w[i] * (double)x[i];
    }
    lo = below && lo > 0 ? 0 : lo;
    if (!(hi - lo > 1e-30f)) {
        *ret_d = 0;
        *ret_m = lo;
        return;
    }
    struct affine best = {(double)((hi - lo) / (float)q_max), (double)lo, INFINITY};
    for (int k = 0; k < CANDIDATES + REFINEMENTS; k++) {
        float step = CANDIDATE_FIRST + CANDIDATE_STEP * (float)k;
        float inv = k < CANDIDATES ? ((float)q_max + step) / (hi - lo) : (float)(1.0 / best.d);
        struct sums s;
        sum_rounding(n, x, w, inv, k < CANDIDATES ? lo : (float)best.m, 0, (float)q_max, &s);
        struct affine a = solve(&s, sum_w, sum_x, below);
        if (a.error < best.error && a.d > 0) {
            best = a;
        }
    }
    *ret_d = (float)best.d;
    *ret_m = (float)best.m;
}

void quant_fit_round(int n, const float *x, float d, float m, int q_min, int q_max, int8_t *q)
{
    float inv = d != 0 ? 1.0f / d : 0;
    for (int i = 0; i < n; i++) {
        float v = clamp((x[i] - m) * inv, (float)q_min, (float)q_max);
        q[i] = (int8_t)nearest(v);
    }
}
