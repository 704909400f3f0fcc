#include "engine/sample.h"

#include "base/rng.h"
#include "engine/sample_impl.h"
#include "engine/sample_state.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_SORT_MAX 64 /* so few are put in order of ids by insertion */

struct sample_scratch {
    uint32_t n_vocab;
    float *raw;               /* [n_vocab] f32 the row before any change */
    float *w;                 /* [n_vocab] f32 weights of a whole row */
    double *block_sum;        /* [n_block] f64 */
    struct sample_cand *cand; /* [n_vocab + SAMPLE_BLOCK] kept ids, rising */
    struct sample_cand *work; /* the same room, for selections that reorder */
};

enum err_code sample_scratch_create(uint32_t n_vocab, struct sample_scratch **ret_c, struct err *e)
{
    struct sample_scratch *c = calloc(1, sizeof *c);
    if (!c) {
        return err_set(e, ERR_NOMEM, "out of memory for sampling scratch");
    }
    size_t n = (size_t)n_vocab + SAMPLE_BLOCK;
    c->n_vocab = n_vocab;
    c->raw = malloc(n * sizeof *c->raw);
    c->w = malloc(n * sizeof *c->w);
    c->block_sum = malloc((n / SAMPLE_BLOCK + 1) * sizeof *c->block_sum);
    c->cand = malloc(n * sizeof *c->cand);
    c->work = malloc(n * sizeof *c->work);
    if (!c->raw || !c->w || !c->block_sum || !c->cand || !c->work) {
        sample_scratch_destroy(c);
        return err_set(e, ERR_NOMEM, "out of memory to sample from %u ids", n_vocab);
    }
    *ret_c = c;
    return ERR_OK;
}

void sample_scratch_destroy(struct sample_scratch *c)
{
    if (c) {
        free(c->raw);
        free(c->w);
        free(c->block_sum);
        free(c->cand);
        free(c->work);
        free(c);
    }
}

static float clamp_max(float max)
{
    return max < FLT_MAX ? max : FLT_MAX;
}

/* log softmax(x)[i] = x[i] - log_sum; -INFINITY where the row or the entry has no mass. */
static float logprob_of(float x, double log_sum)
{
    if (!(x > -INFINITY)) {
        return -INFINITY;
    }
    return (float)((double)clamp_max(x) - log_sum);
}

void sample_score(const struct sample_params *p, struct sample_scratch *c, const float *logits,
                  int32_t id, struct sample_result *ret_r)
{
    uint32_t n_top = p->n_top_logprob < SAMPLE_TOP_MAX ? p->n_top_logprob : SAMPLE_TOP_MAX;
    n_top = n_top < c->n_vocab ? n_top : c->n_vocab;
    *ret_r = (struct sample_result){.id = id};
    if (!p->want_logprob && !n_top) {
        return;
    }
    float max = clamp_max(sample_max(logits, c->n_vocab));
    double log_sum = 0;
    if (max > -INFINITY) {
        log_sum = (double)max + log(sample_weights(logits, c->n_vocab, max, 1.0F, NULL, NULL));
    }
    if (id >= 0 && (uint32_t)id < c->n_vocab && p->want_logprob) {
        ret_r->logprob = logprob_of(logits[id], log_sum);
    }
    size_t n = n_top ? sample_select_top(logits, c->n_vocab, n_top, c->work) : 0;
    for (size_t i = 0; i < n; i++) {
        struct sample_cand best = c->work[i];
        size_t at = i;
        while (at &&
               sample_before(best.logit, best.id, c->work[at - 1].logit, c->work[at - 1].id)) {
            c->work[at] = c->work[at - 1];
            at--;
        }
        c->work[at] = best;
    }
    for (size_t i = 0; i < n; i++) {
        ret_r->top[i].id = c->work[i].id;
        ret_r->top[i].logprob = logprob_of(c->work[i].logit, log_sum);
    }
    ret_r->n_top = (uint32_t)n;
}

static void apply_penalties(const struct sample_params *p, const struct sample_state *s,
                            float *logits)
{
    float r = p->repetition_penalty;
    for (uint32_t i = 0; i < s->n_seen; i++) {
        const struct sample_seen *q = &s->seen[i];
        float l = logits[q->id];
        l = l > 0 ? l / r : l * r;
        if (q->n_gen) {
            l = l - p->presence_penalty - p->frequency_penalty * (float)q->n_gen;
        }
        logits[q->id] = l;
    }
}

static void apply_bias(const struct sample_params *p, uint32_t n_vocab, float *logits)
{
    for (uint32_t i = 0; i < p->n_bias; i++) {
        if (p->bias[i].id >= 0 && (uint32_t)p->bias[i].id < n_vocab) {
            /* +INFINITY in the row must not undo a ban. */
            float *l = &logits[p->bias[i].id];
            *l = p->bias[i].bias == -INFINITY ? -INFINITY : *l + p->bias[i].bias;
        }
    }
    for (uint32_t i = 0; i < p->n_forbid; i++) {
        if (p->forbid[i] >= 0 && (uint32_t)p->forbid[i] < n_vocab) {
            logits[p->forbid[i]] = -INFINITY;
        }
    }
}

static bool is_forbidden(const struct sample_params *p, int32_t id)
{
    for (uint32_t i = 0; i < p->n_forbid; i++) {
        if (p->forbid[i] == id) {
            return true;
        }
    }
    for (uint32_t i = 0; i < p->n_bias; i++) {
        if (p->bias[i].id == id && p->bias[i].bias == -INFINITY) {
            return true;
        }
    }
    return false;
}

static int32_t lowest_allowed(const struct sample_params *p, uint32_t n_vocab)
{
    for (int32_t id = 0; id < (int32_t)n_vocab; id++) {
        if (!is_forbidden(p, id)) {
            return id;
        }
    }
    return 0;
}

static int32_t draw_from_row(const struct sample_scratch *c, double sum, double u)
{
    double target = u * sum;
    double acc = 0;
    size_t n_block = (c->n_vocab + SAMPLE_BLOCK - 1) / SAMPLE_BLOCK;
    size_t last = 0; /* the last block with any mass: where rounding may leave us */
    size_t b = 0;
    for (; b < n_block; b++) {
        if (c->block_sum[b] > 0) {
            last = b;
            if (acc + c->block_sum[b] > target) {
                break;
            }
        }
        acc += c->block_sum[b];
    }
    size_t first_id = last * SAMPLE_BLOCK;
    size_t end = first_id + SAMPLE_BLOCK < c->n_vocab ? first_id + SAMPLE_BLOCK : c->n_vocab;
    acc = b < n_block ? acc : -INFINITY;
    int32_t id = 0;
    for (size_t i = first_id; i < end; i++) {
        acc += (double)c->w[i];
        if (c->w[i] > 0) {
            id = (int32_t)i;
            if (acc > target) {
                break;
            }
        }
    }
    return id;
}

static int32_t draw_from_cand(const struct sample_cand *cand, size_t n, double u)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)cand[i].w;
    }
    double target = u * sum;
    double acc = 0;
    int32_t id = cand[0].id;
    for (size_t i = 0; i < n; i++) {
        acc += (double)cand[i].w;
        if (cand[i].w > 0) {
            id = cand[i].id;
            if (acc > target) {
                break;
            }
        }
    }
    return id;
}

static size_t keep_up_to(struct sample_cand *cand, size_t n, struct sample_cut cut)
{
    size_t n_kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (!sample_before(cut.logit, cut.id, cand[i].logit, cand[i].id)) {
            cand[n_kept++] = cand[i];
        }
    }
    return n_kept;
}

static void sort_by_id(struct sample_cand *cand, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        struct sample_cand v = cand[i];
        size_t at = i;
        for (; at && cand[at - 1].id > v.id; at--) {
            cand[at] = cand[at - 1];
        }
        cand[at] = v;
    }
}

/* Fills cand, ids rising, with the best k and their weights; *ret_mass: the sum of these. */
static size_t gather_top_k(const struct sample_params *p, struct sample_scratch *c,
                           const float *logits, float max, double *ret_mass)
{
    size_t n = 0;
    if (p->top_k <= N_SORT_MAX) {
        n = sample_select_top(logits, c->n_vocab, p->top_k, c->cand);
        sort_by_id(c->cand, n);
    } else {
        size_t n_best = sample_select_top(logits, c->n_vocab, p->top_k, c->work);
        struct sample_cut cut = sample_cut_of_count(c->work, n_best, n_best);
        for (size_t i = 0; i < c->n_vocab; i++) {
            if (logits[i] > -INFINITY && !sample_before(cut.logit, cut.id, logits[i], (int32_t)i)) {
                c->cand[n++] = (struct sample_cand){.logit = logits[i], .id = (int32_t)i};
            }
        }
    }
    *ret_mass = 0;
    for (size_t i = 0; i < n; i++) {
        c->cand[i].w = sample_weight(c->cand[i].logit, max, p->temperature);
        *ret_mass += (double)c->cand[i].w;
    }
    return n;
}

/* A weight below which no id can be kept, so that few need to be looked at one by one: what weighs
 * less than w_min is outside the shortest prefix of top_p · mass once the ids from w_min on weigh
 * that much. Rows of models are peaked, so the first guesses mostly do. */
static float weight_floor(const struct sample_params *p, const struct sample_scratch *c,
                          double mass)
{
    float w_min = p->min_p < 1 ? p->min_p : 1;
    if (p->top_p < 1) {
        /* A little more than needed, since sums in another order round otherwise. */
        double enough = (double)p->top_p * mass * (1 + 1e-5);
        for (float guess = 1.0F / 16; guess > w_min && guess > 1e-9F; guess /= 16) {
            if (sample_mass_from(c->w, c->n_vocab, guess) >= enough) {
                return guess;
            }
        }
    }
    return w_min > 0 ? w_min : FLT_MIN;
}

/* The same without top-k: every id that top-p and min-p could keep. */
static size_t gather_row(const struct sample_params *p, struct sample_scratch *c,
                         const float *logits, float max, double *ret_mass)
{
    *ret_mass = sample_weights(logits, c->n_vocab, max, p->temperature, c->w, NULL);
    float w_min = weight_floor(p, c, *ret_mass);
    size_t n = 0;
    for (size_t i = 0; i < c->n_vocab; i += SAMPLE_BLOCK) {
        size_t len = c->n_vocab - i < SAMPLE_BLOCK ? c->n_vocab - i : SAMPLE_BLOCK;
        if (sample_max(c->w + i, len) < w_min) {
            continue;
        }
        for (size_t j = i; j < i + len; j++) {
            if (c->w[j] >= w_min) {
                c->cand[n++] =
                    (struct sample_cand){.logit = logits[j], .id = (int32_t)j, .w = c->w[j]};
            }
        }
    }
    return n;
}

static int32_t draw_filtered(const struct sample_params *p, struct sample_scratch *c,
                             const float *logits, float max, double u)
{
    double mass = 0;
    size_t n = p->top_k && p->top_k < c->n_vocab ? gather_top_k(p, c, logits, max, &mass)
                                                 : gather_row(p, c, logits, max, &mass);
    if (p->top_p < 1) {
        for (size_t i = 0; i < n; i++) {
            c->work[i] = c->cand[i];
        }
        n = keep_up_to(c->cand, n, sample_cut_of_mass(c->work, n, (double)p->top_p * mass));
    }
    if (p->min_p > 0) {
        float w_min = p->min_p < 1 ? p->min_p : 1;
        size_t n_kept = 0;
        for (size_t i = 0; i < n; i++) {
            if (c->cand[i].w >= w_min) {
                c->cand[n_kept++] = c->cand[i];
            }
        }
        n = n_kept;
    }
    return draw_from_cand(c->cand, n, u);
}

static int32_t pick_id(const struct sample_params *p, struct sample_scratch *c, const float *logits,
                       uint32_t pos)
{
    if (!(p->temperature > 0) || p->top_k == 1) {
        int32_t id = sample_argmax(logits, c->n_vocab);
        return id >= 0 ? id : lowest_allowed(p, c->n_vocab);
    }
    float max = clamp_max(sample_max(logits, c->n_vocab));
    if (max == -INFINITY) {
        return lowest_allowed(p, c->n_vocab);
    }
    double u = rng_unit(rng_mix(p->seed, p->choice), pos);
    bool filtered = (p->top_k && p->top_k < c->n_vocab) || p->top_p < 1 || p->min_p > 0;
    if (filtered) {
        return draw_filtered(p, c, logits, max, u);
    }
    double sum = sample_weights(logits, c->n_vocab, max, p->temperature, c->w, c->block_sum);
    return draw_from_row(c, sum, u);
}

void sample_pick(const struct sample_params *p, const struct sample_state *s,
                 struct sample_scratch *c, float *logits, uint32_t pos, struct sample_result *ret_r)
{
    bool changes = s || p->n_bias || p->n_forbid;
    bool scored = p->want_logprob || p->n_top_logprob;
    const float *raw = logits;
    if (scored && changes) {
        memcpy(c->raw, logits, c->n_vocab * sizeof *logits);
        raw = c->raw;
    }
    if (s) {
        apply_penalties(p, s, logits);
    }
    apply_bias(p, c->n_vocab, logits);
    int32_t id = pick_id(p, c, logits, pos);
    sample_score(p, c, raw, id, ret_r);
}
