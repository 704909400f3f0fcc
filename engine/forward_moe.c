/* Mixtures of experts. The router scores every expert for every row; each row visits its best
 * n_used. Visits are sorted by expert so that each expert's weights are read once for all its rows,
 * and a row's results are summed in ascending order of expert id, whatever order they were made in.
 * Source: arXiv:2401.04088 (Mixtral), arXiv:2412.19437 (DeepSeek-V3: groups, selection bias). */
#include "engine/forward_parts.h"

#include <math.h>
#include <string.h>

#define WEIGHT_SUM_MIN 6.103515625e-5f /* keeps the division sane when all weights vanish */

/* Ids go from best to worst; ties and NaN to the lowest id. taken[e] is set for what is chosen. */
static uint32_t best_of(const float *score, uint32_t from, uint32_t to)
{
    uint32_t best = from;
    for (uint32_t i = from; i < to; i++) {
        if (score[i] > score[best] || (isnan(score[best]) && !isnan(score[i]))) {
            best = i;
        }
    }
    return best;
}

/* Leaves only the experts of the best groups; a group counts by its two best. */
static void keep_best_groups(const struct model *m, float *select)
{
    uint32_t n_group = m->n_expert_group;
    uint32_t n_each = m->n_expert / n_group;
    float score[MODEL_EXPERT_MAX];
    bool keep[MODEL_EXPERT_MAX] = {false};
    for (uint32_t g = 0; g < n_group; g++) {
        uint32_t from = g * n_each;
        uint32_t first = best_of(select, from, from + n_each);
        float kept = select[first];
        select[first] = -INFINITY;
        float second = select[best_of(select, from, from + n_each)];
        select[first] = kept;
        score[g] = n_each > 1 ? kept + second : kept;
    }
    for (uint32_t i = 0; i < m->n_expert_group_used; i++) {
        uint32_t g = best_of(score, 0, n_group);
        keep[g] = true;
        score[g] = -INFINITY;
    }
    for (uint32_t i = 0; i < m->n_expert; i++) {
        if (!keep[i / n_each]) {
            select[i] = -INFINITY;
        }
    }
}

/* The n_used best by `select`, in ascending order of id. */
static void choose_experts(const struct model *m, const float *select, uint32_t *ids)
{
    bool taken[MODEL_EXPERT_MAX] = {false};
    for (uint32_t i = 0; i < m->n_expert_used; i++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t e = 0; e < m->n_expert; e++) {
            if (!taken[e] && (best == UINT32_MAX || select[e] > select[best])) {
                best = e;
            }
        }
        taken[best] = true;
    }
    for (uint32_t e = 0, i = 0; e < m->n_expert; e++) {
        if (taken[e]) {
            ids[i++] = e;
        }
    }
}

static void expert_weights(const struct fwd *f, const float *probs, const uint32_t *ids, float *w)
{
    const struct model *m = f->env.m;
    float sum = 0;
    for (uint32_t i = 0; i < m->n_expert_used; i++) {
        w[i] = probs[ids[i]];
    }
    if (m->gating == MODEL_GATING_SOFTMAX_SELECTED) {
        f->env.vec->softmax(w, w, m->n_expert_used);
    }
    for (uint32_t i = 0; i < m->n_expert_used; i++) {
        sum += w[i];
    }
    float scale = m->expert_weights_scale;
    if (m->expert_weights_norm) {
        scale /= fmaxf(sum, WEIGHT_SUM_MIN);
    }
    for (uint32_t i = 0; i < m->n_expert_used; i++) {
        w[i] *= scale;
    }
}

/* Which experts one row visits, and how much each counts. */
static void route_row(const struct fwd *f, const void *arg, uint32_t row)
{
    const struct model *m = f->env.m;
    const struct model_moe *moe = arg;
    float *probs = f->moe.router + (size_t)row * m->n_expert;
    float select[MODEL_EXPERT_MAX];
    if (m->gating == MODEL_GATING_SOFTMAX) {
        f->env.vec->softmax(probs, probs, m->n_expert);
    } else if (m->gating == MODEL_GATING_SIGMOID) {
        for (uint32_t e = 0; e < m->n_expert; e++) {
            probs[e] = 1.0f / (1.0f + expf(-probs[e]));
        }
    }
    for (uint32_t e = 0; e < m->n_expert; e++) {
        float s = moe->select_bias ? probs[e] + moe->select_bias[e] : probs[e];
        select[e] = isnan(s) ? -INFINITY : s;
    }
    if (m->n_expert_group > 1) {
        keep_best_groups(m, select);
    }
    uint32_t *ids = f->moe.expert + (size_t)row * m->n_expert_used;
    choose_experts(m, select, ids);
    expert_weights(f, probs, ids, f->moe.weight + (size_t)row * m->n_expert_used);
}

/* Sorts all visits by expert, then row. */
static void lay_slots(struct fwd *f)
{
    const struct model *m = f->env.m;
    struct fwd_moe *o = &f->moe;
    uint32_t n_visit = f->n_row * m->n_expert_used;
    memset(o->first, 0, (m->n_expert + 1) * sizeof *o->first);
    for (uint32_t i = 0; i < n_visit; i++) {
        o->first[o->expert[i] + 1]++;
    }
    for (uint32_t e = 0; e < m->n_expert; e++) {
        o->first[e + 1] += o->first[e];
    }
    memcpy(o->next, o->first, m->n_expert * sizeof *o->next);
    for (uint32_t i = 0; i < n_visit; i++) {
        uint32_t slot = o->next[o->expert[i]]++;
        o->slot[i] = slot;
        o->slot_row[slot] = i / m->n_expert_used;
    }
}

static void gather_slot(const struct fwd *f, const void *arg, uint32_t slot)
{
    const float *h = arg;
    size_t n = f->env.m->n_embd;
    memcpy(f->moe.in + slot * n, h + f->moe.slot_row[slot] * n, n * sizeof *h);
}

static void activate_slot(const struct fwd *f, const void *arg, uint32_t slot)
{
    (void)arg;
    uint32_t n = f->env.m->n_ff_expert;
    fwd_activate(f, f->moe.gate + (size_t)slot * n, f->moe.up + (size_t)slot * n, n);
}

/* One phase over all experts: y[slots of e] = lins[e] x[slots of e], for one or two matrices. */
static enum err_code expert_products(struct fwd *f, const float *x,
                                     struct model_linear *const *lins, float *const *ys,
                                     uint32_t n_lin, struct err *e)
{
    const struct model *m = f->env.m;
    struct fwd_moe *o = &f->moe;
    uint32_t n_job = 0;
    for (uint32_t id = 0; id < m->n_expert; id++) {
        uint32_t n_slot = o->first[id + 1] - o->first[id];
        if (n_slot == 0) {
            continue;
        }
        const struct gemm_weight *w = &lins[0][id].w;
        for (uint32_t i = 1; i < n_lin; i++) {
            const struct gemm_weight *other = &lins[i][id].w;
            w = gemm_weight_act_rank(other) > gemm_weight_act_rank(w) ? other : w;
        }
        enum err_code code = gemm_act_prepare(f->env.gemm, w, x + (size_t)o->first[id] * w->n_in,
                                              w->n_in, n_slot, &o->acts[id], e);
        if (code) {
            return code;
        }
        for (uint32_t i = 0; i < n_lin; i++) {
            const struct model_linear *lin = &lins[i][id];
            o->jobs[n_job++] = (struct gemm_job){.w = &lin->w,
                                                 .act = &o->acts[id],
                                                 .y = ys[i] + (size_t)o->first[id] * lin->w.n_out,
                                                 .ldy = lin->w.n_out,
                                                 .bias = lin->b};
        }
    }
    gemm_run(f->env.gemm, o->jobs, n_job);
    return ERR_OK;
}

/* y = sum over a row's experts, ascending by id, of weight · result. */
static void combine_row(const struct fwd *f, const void *arg, uint32_t row)
{
    const struct model *m = f->env.m;
    (void)arg;
    const uint32_t *slot = f->moe.slot + (size_t)row * m->n_expert_used;
    const float *w = f->moe.weight + (size_t)row * m->n_expert_used;
    float *y = f->y + (size_t)row * m->n_embd;
    for (uint32_t i = 0; i < m->n_expert_used; i++) {
        const float *r = f->moe.out + (size_t)slot[i] * m->n_embd;
        float s = w[i];
        if (i == 0) {
            f->env.vec->scale(y, r, s, m->n_embd);
        } else {
            f->env.vec->axpy(y, r, s, m->n_embd);
        }
    }
}

/* y += sigmoid(gate) · shared */
static void add_shared_row(const struct fwd *f, const void *arg, uint32_t row)
{
    const float *shared = arg;
    uint32_t n = f->env.m->n_embd;
    float s = 1.0f / (1.0f + expf(-f->moe.router[row]));
    f->env.vec->axpy(f->y + (size_t)row * n, shared + (size_t)row * n, s, n);
}

/* f->y += the expert that every row visits. */
static enum err_code shared_expert(struct fwd *f, const struct model_moe *moe, const float *h,
                                   struct err *e)
{
    if (!moe->shared.up.w.data) {
        return ERR_OK;
    }
    if (!moe->shared_gate.w.data) {
        return fwd_ffn(f, &moe->shared, h, f->y, true, e);
    }
    float *shared = f->moe.in; /* [n_row, n_embd]: free by now */
    struct fwd_product gate = {.lin = &moe->shared_gate, .y = f->moe.router};
    enum err_code code = fwd_products(f, h, f->n_row, &gate, 1, e);
    if (!code) {
        code = fwd_ffn(f, &moe->shared, h, shared, false, e);
    }
    if (!code) {
        fwd_rows(f, f->n_row, f->env.m->n_embd, add_shared_row, shared);
    }
    return code;
}

enum err_code fwd_moe(struct fwd *f, const struct model_layer *l, const float *h, struct err *e)
{
    const struct model *m = f->env.m;
    const struct model_moe *moe = l->moe;
    struct fwd_moe *o = &f->moe;
    struct fwd_product router = {.lin = &moe->router, .y = o->router};
    enum err_code code = fwd_products(f, h, f->n_row, &router, 1, e);
    if (code) {
        return code;
    }
    fwd_rows(f, f->n_row, (size_t)m->n_expert * m->n_expert_used, route_row, moe);
    lay_slots(f);
    uint32_t n_slot = f->n_row * m->n_expert_used;
    fwd_rows(f, n_slot, m->n_embd, gather_slot, h);
    code = expert_products(f, o->in, (struct model_linear *const[]){moe->gate, moe->up},
                           (float *const[]){o->gate, o->up}, 2, e);
    if (code) {
        return code;
    }
    fwd_rows(f, n_slot, 2 * (size_t)m->n_ff_expert, activate_slot, NULL);
    code = expert_products(f, o->gate, (struct model_linear *const[]){moe->down},
                           (float *const[]){o->out}, 1, e);
    if (code) {
        return code;
    }
    fwd_rows(f, f->n_row, (size_t)m->n_embd * m->n_expert_used, combine_row, NULL);
    return shared_expert(f, moe, h, e);
}
