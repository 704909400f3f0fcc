#include "optim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { JOBS_PER_LAYER = 3, MAX_SIDE = 640, MIN_SIDE = 256 };

struct optim_work {
    float *x, *g, *a, *b;
    bf16 *xb, *ab, *bb;
    uint32_t *packed;
    bf16 *scratch;
};

int optim_alloc(struct optim *o, const struct model *m)
{
    o->mean = must_alloc(m->at.n_param * 4);
    o->square = must_alloc(m->at.n_param * 4);
    return 0;
}

struct optim_work *optim_work_new(void)
{
    struct optim_work *w = must_alloc(sizeof *w);
    size_t big = (size_t)MAX_SIDE * MIN_SIDE, small = (size_t)MIN_SIDE * MIN_SIDE;
    w->x = must_alloc(big * 4);
    w->g = must_alloc(big * 4);
    w->a = must_alloc(small * 4);
    w->b = must_alloc(small * 4);
    w->xb = must_alloc(big * 2);
    w->ab = must_alloc(small * 2);
    w->bb = must_alloc(small * 2);
    w->packed = must_alloc(big * 2);
    w->scratch = must_alloc((size_t)VOCAB * DIM * 2);
    return w;
}

/* x[r, c], r <= c, towards the nearest matrix with orthonormal rows: Newton-Schulz of degree five
 * (K. Jordan et al., Muon, 2024). */
static void orthogonalize(struct optim_work *w, size_t r, size_t c)
{
    double norm = 1e-14;
    for (size_t i = 0; i < r * c; i++) {
        norm += (double)w->x[i] * w->x[i];
    }
    float inv = (float)(1 / sqrt(norm));
    for (size_t i = 0; i < r * c; i++) {
        w->x[i] *= inv;
    }
    for (int step = 0; step < 5; step++) {
        to_bf16_n(w->xb, w->x, r * c);
        pack_t(w->packed, w->xb, c, r, c);
        mm(w->a, r, w->xb, c, w->packed, r, r, c, 0);
        to_bf16_n(w->ab, w->a, r * r);
        pack_n(w->packed, w->ab, r, r, r);
        mm(w->b, r, w->ab, r, w->packed, r, r, r, 0);
        for (size_t i = 0; i < r * r; i++) {
            w->b[i] = -4.7750f * w->a[i] + 2.0315f * w->b[i];
        }
        to_bf16_n(w->bb, w->b, r * r);
        pack_n(w->packed, w->xb, c, r, c);
        for (size_t i = 0; i < r * c; i++) {
            w->x[i] *= 3.4445f;
        }
        mm(w->x, c, w->bb, r, w->packed, r, c, r, 1);
    }
}

static void muon(struct optim *o, struct model *m, const float *grad, size_t at, size_t rows,
                 size_t cols, double lr, double decay, struct optim_work *w)
{
    float *mean = o->mean + at, *p = m->param + at;
    size_t n = rows * cols;
    int tall = rows > cols;
    size_t r = tall ? cols : rows, c = tall ? rows : cols;
    for (size_t i = 0; i < n; i++) {
        float g = grad[at + i];
        mean[i] = 0.95f * mean[i] + g;
        size_t to = tall ? (i % cols) * rows + i / cols : i;
        w->x[to] = g + 0.95f * mean[i];
    }
    orthogonalize(w, r, c);
    float k = (float)(lr * 0.2 * sqrt((double)c)), keep = (float)(1 - lr * decay);
    for (size_t i = 0; i < n; i++) {
        size_t from = tall ? (i % cols) * rows + i / cols : i;
        p[i] = p[i] * keep - k * w->x[from];
    }
}

static void adam(struct optim *o, struct model *m, const float *grad, size_t at, size_t n,
                 double lr, uint64_t step)
{
    double b1 = 0.9, b2 = 0.98;
    float k = (float)(lr / (1 - pow(b1, (double)step))),
          s = (float)(1 / (1 - pow(b2, (double)step)));
    for (size_t i = at; i < at + n; i++) {
        float g = grad[i];
        o->mean[i] = 0.9f * o->mean[i] + 0.1f * g;
        o->square[i] = 0.98f * o->square[i] + 0.02f * g * g;
        m->param[i] -= k * o->mean[i] / (sqrtf(o->square[i] * s) + 1e-10f);
    }
}

int optim_n_job(void)
{
    return N_LAYER * JOBS_PER_LAYER + 1;
}

void optim_job(struct optim *o, struct model *m, const float *grad, int job, double lr,
               double decay, uint64_t step, struct optim_work *w)
{
    if (job == N_LAYER * JOBS_PER_LAYER) {
        adam(o, m, grad, m->at.embed, (size_t)VOCAB * DIM, lr, step);
        adam(o, m, grad, m->at.norm, DIM, lr, step);
        model_pack(m, m->at.embed, VOCAB, DIM, w->scratch);
        return;
    }
    const struct layer_at *y = &m->at.layer[job / JOBS_PER_LAYER];
    size_t k = y->qkv + (size_t)OUT * DIM, v = k + (size_t)N_KV * HEAD * DIM;
    switch (job % JOBS_PER_LAYER) {
    case 0:
        muon(o, m, grad, y->qkv, OUT, DIM, lr, decay, w);
        muon(o, m, grad, k, N_KV * HEAD, DIM, lr, decay, w);
        muon(o, m, grad, v, N_KV * HEAD, DIM, lr, decay, w);
        model_pack(m, y->qkv, QKV, DIM, w->scratch);
        muon(o, m, grad, y->out, DIM, OUT, lr, decay, w);
        model_pack(m, y->out, DIM, OUT, w->scratch);
        break;
    case 1:
        muon(o, m, grad, y->gate_up, FFN, DIM, lr, decay, w);
        muon(o, m, grad, y->gate_up + (size_t)FFN * DIM, FFN, DIM, lr, decay, w);
        model_pack(m, y->gate_up, GATE_UP, DIM, w->scratch);
        break;
    default:
        muon(o, m, grad, y->down, DIM, FFN, lr, decay, w);
        model_pack(m, y->down, DIM, FFN, w->scratch);
        adam(o, m, grad, y->norm1, DIM, lr, step);
        adam(o, m, grad, y->norm2, DIM, lr, step);
        break;
    }
}
