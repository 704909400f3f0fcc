#include "engine/rope.h"

#include <math.h>
#include <stdlib.h>

#define TWO_PI 6.283185307179586

/* The (fractional) pair that makes n_turn turns within the original context. */
static double yarn_pair_of_turns(const struct rope_params *p, double n_turn)
{
    return p->n_rot * log(p->n_ctx_orig / (n_turn * TWO_PI)) / (2.0 * log(p->freq_base));
}

/* How far a pair keeps its trained frequency: 1 for the fast ones, 0 for the slow, a ramp between.
 */
static double yarn_keep(double pair, double low, double high)
{
    double y = (pair - low) / fmax(0.001, high - low);
    return 1.0 - fmin(1.0, fmax(0.0, y));
}

enum err_code rope_init(struct rope *r, const struct rope_params *p, struct err *e)
{
    uint32_t n_pair = p->n_rot / 2;
    double *turn = malloc((n_pair ? n_pair : 1) * sizeof *turn);
    if (!turn) {
        return err_set(e, ERR_NOMEM, "out of memory for %u rotary frequencies", n_pair);
    }
    double low = 0;
    double high = 0;
    if (p->scaling == ROPE_SCALING_YARN) {
        low = fmax(0.0, floor(yarn_pair_of_turns(p, p->beta_fast)));
        high = fmin(p->n_rot - 1.0, ceil(yarn_pair_of_turns(p, p->beta_slow)));
    }
    for (uint32_t i = 0; i < n_pair; i++) {
        double freq = pow(p->freq_base, -2.0 * i / p->n_rot);
        if (p->freq_factors) {
            freq /= p->freq_factors[i];
        }
        double interpolated = p->scaling == ROPE_SCALING_NONE ? freq : freq / p->factor;
        double keep = 0;
        if (p->scaling == ROPE_SCALING_YARN) {
            keep = p->ext_factor * yarn_keep(i, low, high);
        }
        turn[i] = interpolated * (1.0 - keep) + freq * keep;
    }
    *r = (struct rope){
        .pairs = p->pairs, .n_rot = p->n_rot, .turn = turn, .magnitude = p->magnitude};
    return ERR_OK;
}

void rope_finish(struct rope *r)
{
    free(r->turn);
    *r = (struct rope){0};
}

void rope_row(const struct rope *r, uint32_t pos, float *cos_sin)
{
    for (uint32_t i = 0; i < r->n_rot / 2; i++) {
        double angle = pos * r->turn[i];
        cos_sin[2 * i] = (float)(cos(angle) * r->magnitude);
        cos_sin[2 * i + 1] = (float)(sin(angle) * r->magnitude);
    }
}
