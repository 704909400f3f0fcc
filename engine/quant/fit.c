#include "engine/quant/fit.h"

#include <math.h>
#include <string.h>

/* Four floats; sums run in two of them, so that their order is fixed and they vectorise anywhere.
 */
typedef float lanes __attribute__((vector_size(16)));
#define LANES 4

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

static inline lanes load(const float *at)
{
    lanes v;
    memcpy(&v, at, sizeof v);
    return v;
}

static double total(lanes a, lanes b)
{
    lanes v = a + b;
    return (double)((v[0] + v[2]) + (v[1] + v[3]));
}

/* Weighted sums over a rounding q of x. */
struct sums {
    double q;
    double qq;
    double xq;
};

static struct sums sum_rounding(int n, const float *x, const float *w, float inv, float m, float lo,
                                float hi)
{
    float rounded[QUANT_FIT_MAX];
    lanes q[2] = {0};
    lanes qq[2] = {0};
    lanes xq[2] = {0};
    for (int i = 0; i < n; i++) {
        rounded[i] = clamp(nearest(inv * (x[i] - m)), lo, hi);
    }
    for (int i = 0; i < n; i += 2 * LANES) {
        for (int k = 0; k < 2; k++) {
            int at = i + k * LANES;
            lanes v = load(rounded + at);
            lanes wv = load(w + at) * v;
            q[k] += wv;
            qq[k] += wv * v;
            xq[k] += wv * load(x + at);
        }
    }
    return (struct sums){total(q[0], q[1]), total(qq[0], qq[1]), total(xq[0], xq[1])};
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
        struct sums s = sum_rounding(n, x, w, inv, 0, (float)q_min, (float)q_max);
        /* What the fit takes off the sum of w * x^2; larger is better. */
        if (s.qq > 0 && s.xq * s.xq > gain_best * s.qq) {
            gain_best = s.xq * s.xq / s.qq;
            best = (float)(s.xq / s.qq);
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
    struct affine a = {0, sum_w > 0 ? sum_x / sum_w : 0, 0};
    double det = sum_w * s->qq - s->q * s->q;
    if (det > 1e-12 * sum_w * s->qq) {
        a.d = (sum_w * s->xq - sum_x * s->q) / det;
        a.m = (sum_x * s->qq - s->q * s->xq) / det;
    }
    if (below && a.m > 0) {
        a.m = 0;
        a.d = s->qq > 0 ? s->xq / s->qq : 0;
    }
    a.error =
        a.d * a.d * s->qq + a.m * a.m * sum_w + 2 * (a.d * a.m * s->q - a.d * s->xq - a.m * sum_x);
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
        struct sums s =
            sum_rounding(n, x, w, inv, k < CANDIDATES ? lo : (float)best.m, 0, (float)q_max);
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
