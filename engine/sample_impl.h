/* Inside the sampler: exponentials of a row, and selection without sorting it. Everything here is a
 * pure function with a fixed order of additions. */
#ifndef ENGINE_SAMPLE_IMPL_H
#define ENGINE_SAMPLE_IMPL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SAMPLE_BLOCK 256 /* ids summed in lanes; a draw walks block sums first */

struct sample_cand {
    float logit;
    int32_t id;
    float w; /* exp((logit - max) / T) */
};

/* A place in the order (logit falling, id rising); what stands at or before it is kept. */
struct sample_cut {
    float logit;
    int32_t id;
};

static inline bool sample_before(float logit_a, int32_t id_a, float logit_b, int32_t id_b)
{
    return logit_a > logit_b || (logit_a == logit_b && id_a < id_b);
}

/* The greatest value, NaN passed over; -INFINITY when there is none. */
float sample_max(const float *x, size_t n);
/* Lowest index of the greatest value, -1 when no value is above -INFINITY. */
int32_t sample_argmax(const float *x, size_t n);
/* w[i] = exp((x[i] - max) / T), 0 for NaN and -INFINITY; block_sum [ceil(n / SAMPLE_BLOCK)] f64
 * gets each block's sum. Returns their sum. w and block_sum may be NULL. */
double sample_weights(const float *x, size_t n, float max, float temperature, float *w,
                      double *block_sum);
/* Σ of the w that are at least w_min. */
double sample_mass_from(const float *w, size_t n, float w_min);
float sample_weight(float x, float max, float temperature);

/* The best k of x (values above -INFINITY only), unordered, into cand: room for
 * min(n, max(2k, 64)). Returns how many, at most k. */
size_t sample_select_top(const float *x, size_t n, size_t k, struct sample_cand *cand);
/* The last place of the best k of cand; reorders cand. 1 <= k <= n. */
struct sample_cut sample_cut_of_count(struct sample_cand *cand, size_t n, size_t k);
/* The first place at which the running sum of w reaches mass, or the last; reorders cand. */
struct sample_cut sample_cut_of_mass(struct sample_cand *cand, size_t n, double mass);

#endif
