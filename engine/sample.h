/* From one row of logits to one token. Pure: the draw is keyed by (seed, choice, position), so the
 * same request gives the same tokens whatever else runs.
 *
 * With l the raw logits, in this order:
 *   penalties    r = repetition_penalty on every id seen (prompt and answer): l / r if l > 0,
 *                else l · r (Keskar et al. 2019); then l - presence - frequency · n for every id
 *                that the answer holds n >= 1 times (OpenAI)
 *   bias         l + bias
 *   forbidden    forbid[] and bias -INFINITY: never picked
 *   temperature  w = exp((l - max l) / T); T = 0: the greatest l, the lowest id on ties, done
 *   top-k        the k first in the order (l falling, then id rising)
 *   top-p        of those, the shortest such prefix with Σ w >= top_p · Σ w of all that top-k left
 *   min-p        of those, w >= min_p (the best has w = 1 and always stays)
 *   draw         u in [0, 1) from (seed, choice, pos): the first id, in rising order of ids, at
 *                which the running sum of w exceeds u · Σ w
 * NaN logits count as -INFINITY, +INFINITY as FLT_MAX; w below e^-87 counts as 0. */
#ifndef ENGINE_SAMPLE_H
#define ENGINE_SAMPLE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sample_bias {
    int32_t id;
    float bias; /* added to the logit; -INFINITY forbids */
};

struct sample_params {
    float temperature; /* 0: greedy, lowest id on ties */
    uint32_t top_k;    /* 0: all */
    float top_p;       /* 1: all */
    float min_p;       /* 0: all; relative to the best probability */
    float
        repetition_penalty;  /* 1: none; divides positive, multiplies negative logits of seen ids */
    float presence_penalty;  /* 0: none; of generated ids, as OpenAI has it */
    float frequency_penalty; /* 0: none; times the count among generated ids */
    uint64_t seed;
    uint32_t choice;                /* which of n */
    const struct sample_bias *bias; /* [n_bias], the request's; ids out of range do nothing */
    uint32_t n_bias;
    uint32_t n_top_logprob; /* alternatives wanted in the result, at most SAMPLE_TOP_MAX */
    bool want_logprob;
    const int32_t *forbid; /* [n_forbid] ids that must not come now */
    uint32_t n_forbid;
};

#define SAMPLE_TOP_MAX 20

struct sample_result {
    int32_t id;
    float logprob; /* natural log of softmax(raw logits)[id], before any change; 0 unless wanted */
    uint32_t n_top;
    struct {
        int32_t id;
        float logprob;
    } top[SAMPLE_TOP_MAX]; /* most likely first, lowest id on ties */
};

/* Scratch for one row: one per thread that samples, for any number of sequences. */
struct sample_scratch;
enum err_code sample_scratch_create(uint32_t n_vocab, struct sample_scratch **ret_c, struct err *e);
void sample_scratch_destroy(struct sample_scratch *c); /* NULL is legal */

/* Counts of seen and generated ids of one sequence, only for requests with penalties. */
struct sample_state;
bool sample_needs_state(const struct sample_params *p);
/* Room for n_tok_max accepted tokens is taken here, so that accepting never allocates. */
enum err_code sample_state_create(uint32_t n_vocab, uint32_t n_tok_max, struct sample_state **ret_s,
                                  struct err *e);
void sample_state_destroy(struct sample_state *s); /* NULL is legal */
/* Tells the state of a token of the prompt (generated false) or of the answer. NULL does nothing.
 */
void sample_state_accept(struct sample_state *s, int32_t id, bool generated);

/* s is NULL where sample_needs_state is false. logits: [n_vocab] f32, changed in place. pos: the
 * position the token will have. When nothing remains the lowest id that is not forbidden is taken,
 * or 0 when all are. */
void sample_pick(const struct sample_params *p, const struct sample_state *s,
                 struct sample_scratch *c, float *logits, uint32_t pos,
                 struct sample_result *ret_r);

/* The result for a token already known (of a prompt): id, its log-probability and the best
 * n_top_logprob as p wants them. logits: [n_vocab] f32, not changed. */
void sample_score(const struct sample_params *p, struct sample_scratch *c, const float *logits,
                  int32_t id, struct sample_result *ret_r);

#endif
