/* Finding the scale (and offset) with which integers describe a few numbers best: a search over
 * candidate scales; for each, elements are rounded and the least-squares scale for that rounding is
 * solved for in closed form. n is a multiple of 8, at most 256. Private to quant/. */
#ifndef ENGINE_QUANT_FIT_H
#define ENGINE_QUANT_FIT_H

#include <stdint.h>

#define QUANT_FIT_MAX 256

/* x[i] ~ d * q[i] with q in [q_min, q_max], q_min < 0 < q_max: the d with the least sum of
 * w * (x - d * q)^2 among the candidates. 0 when all are zero. */
float quant_fit_scale(int n, const float *x, const float *w, int q_min, int q_max);

/* x[i] ~ d * q[i] + m with q in [0, q_max]; with `below`, m <= 0. */
void quant_fit_affine(int n, const float *x, const float *w, int q_max, int below, float *ret_d,
                      float *ret_m);

/* q[i] = x[i] nearest to d * q + m, kept in [q_min, q_max]. d = 0 gives the 0 nearest that range.
 */
void quant_fit_round(int n, const float *x, float d, float m, int q_min, int q_max, int8_t *q);

#endif
