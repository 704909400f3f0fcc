/* From one row of logits to one token. Order: penalties, logit bias, (mask), temperature, top-k,
 * top-p, min-p, draw. Pure: the draw is keyed by (seed, choice, position), so the same request
 * gives the same tokens whatever else runs. Any thread, one scratch each. */
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
    const struct sample_bias *bias; /* [n_bias], the request's */
    uint32_t n_bias;
    uint32_t n_top_logprob; /* alternatives wanted in the result, at most SAMPLE_TOP_MAX */
    bool want_logprob;
};

#define SAMPLE_TOP_MAX 20

struct sample_result {
    int32_t id;
    float logprob; /* natural log of softmax(raw logits)[id], before any change; 0 unless wanted */
    uint32_t n_top;
    struct {
        int32_t id;
        float logprob;
    } top[SAMPLE_TOP_MAX]; /* most likely first */
};

struct sample_state; /* per sequence: counts of seen and generated ids; scratch for candidates */

enum err_code sample_state_create(uint32_t n_vocab, struct sample_state **ret_s, struct err *e);
void sample_state_destroy(struct sample_state *s); /* NULL is legal */
/* Tells the state of a token of the prompt (generated false) or of the answer. */
void sample_state_accept(struct sample_state *s, int32_t id, bool generated);

/* logits: [n_vocab] f32, changed in place. pos: the position the token will have. NaN logits count
 * as -infinity; when nothing remains the lowest id that is not forbidden is taken. */
void sample_pick(const struct sample_params *p, struct sample_state *s, float *logits, uint32_t pos,
                 struct sample_result *ret_r);

#endif
