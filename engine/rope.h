/* Rotary position embeddings. A struct rope is one variant a model uses (most have one; Gemma has
 * a second for its local layers): the angle each pair turns per position, and a magnitude. Built at
 * load, then read only. Angles are computed in double, so that position 100 000 is as exact as 1.
 * Source: RoFormer (arXiv:2104.09864); position interpolation (arXiv:2306.15595); YaRN
 * (arXiv:2309.00071); LongRoPE and Llama 3 arrive as factors that divide each frequency. */
#ifndef ENGINE_ROPE_H
#define ENGINE_ROPE_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum rope_pairs {
    ROPE_PAIRS_ADJACENT, /* (2i, 2i+1): llama */
    ROPE_PAIRS_HALVES,   /* (i, i + n_rot/2): NeoX */
};

enum rope_scaling { ROPE_SCALING_NONE, ROPE_SCALING_LINEAR, ROPE_SCALING_YARN };

struct rope_params {
    enum rope_pairs pairs;
    uint32_t n_rot; /* leading values of each head that turn; even */
    double freq_base;
    enum rope_scaling scaling;
    double factor;             /* of the context's extension, >= 1 as a rule; 1: none */
    double n_ctx_orig;         /* YaRN: the context before extension */
    double ext_factor;         /* YaRN: weight of the ramp, 1 as a rule */
    double beta_fast;          /* YaRN: turns within n_ctx_orig above which a pair is left alone */
    double beta_slow;          /* YaRN: turns below which a pair is fully interpolated */
    double magnitude;          /* cos and sin are multiplied by it; 1: none */
    const float *freq_factors; /* [n_rot/2] divisors of the frequencies, or NULL */
};

struct rope {
    enum rope_pairs pairs;
    uint32_t n_rot;
    double *turn; /* [n_rot/2] radians per position */
    double magnitude;
};

enum err_code rope_init(struct rope *r, const struct rope_params *p, struct err *e);
void rope_finish(struct rope *r);
/* cos_sin: out [n_rot/2][2] f32 for one position. Any thread. */
void rope_row(const struct rope *r, uint32_t pos, float *cos_sin);

#endif
