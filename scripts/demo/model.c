#include "model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK = 256,     /* tokens that pass through a layer together: what fits the cache */
    HEAD_ROWS = 128, /* rows of logits computed together */
};

struct layer_act {
    float *x_in, *x_mid, *inv1, *inv2, *lse;
    bf16 *h1, *qkv, *att, *h2, *gate_up, *act;
};

struct work {
    struct layer_act layer[N_LAYER];
    struct attn_work *attn;
    float *x, *dx, *wide, *inv, *logits, *d_hidden, *d_qkv;
    bf16 *half, *half2, *hidden, *d_logits, *turned, *d_att, *final;
    uint32_t *packed;
    uint32_t *row; /* which positions predict something that counts */
};

void *must_alloc(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    if (!p) {
        fprintf(stderr, "demo-trainer: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    memset(p, 0, bytes);
    return p;
}

struct model_at model_layout(void)
{
    struct model_at a = {0};
    size_t n = (size_t)VOCAB * DIM;
    for (int l = 0; l < N_LAYER; l++) {
        struct layer_at *y = &a.layer[l];
        y->norm1 = n;
        y->qkv = y->norm1 + DIM;
        y->out = y->qkv + (size_t)QKV * DIM;
        y->norm2 = y->out + (size_t)DIM * OUT;
        y->gate_up = y->norm2 + DIM;
        y->down = y->gate_up + (size_t)GATE_UP * DIM;
        n = y->down + (size_t)DIM * FFN;
    }
    a.norm = n;
    a.n_param = n + DIM;
    return a;
}

int model_alloc(struct model *m)
{
    m->at = model_layout();
    m->param = must_alloc(m->at.n_param * sizeof(float));
    m->w = must_alloc(m->at.n_param * sizeof(bf16));
    m->wt = must_alloc(m->at.n_param * sizeof(bf16));
    m->cosine = must_alloc(sizeof(float) * MAX_LEN * HEAD / 2);
    m->sine = must_alloc(sizeof(float) * MAX_LEN * HEAD / 2);
    for (int t = 0; t < MAX_LEN; t++) {
        for (int i = 0; i < HEAD / 2; i++) {
            double angle = t * pow(ROPE_BASE, -2.0 * i / HEAD);
            m->cosine[t * HEAD / 2 + i] = (float)cos(angle);
            m->sine[t * HEAD / 2 + i] = (float)sin(angle);
        }
    }
    return 0;
}

static uint64_t next_u64(uint64_t *s)
{
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void fill_normal(float *p, size_t n, double sigma, uint64_t *s)
{
    for (size_t i = 0; i < n; i++) {
        double u = ((double)(next_u64(s) >> 11) + 1) / 9007199254740993.0;
        double v = (double)(next_u64(s) >> 11) / 9007199254740992.0;
        p[i] = (float)(sigma * sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
    }
}

/* The heads of the first layer start by looking one to four tokens back, by the fast rotations and
 * a constant component of the embedding: what induction needs first and learns last. */
static void point_back(float *qkv)
{
    const float amp = 1.15f;
    for (int h = 0; h < N_HEAD + N_KV; h++) {
        for (int i = 0; i < 10; i++) {
            double angle = h < N_HEAD ? (h + 1) * pow(ROPE_BASE, -2.0 * i / HEAD) : 0;
            float *re = qkv + (size_t)(h * HEAD + 2 * i) * DIM, *im = re + DIM;
            for (int d = 0; d < DIM; d++) {
                re[d] *= 0.1f;
                im[d] *= 0.1f;
            }
            re[0] = amp * (float)cos(angle);
            im[0] = -amp * (float)sin(angle);
        }
    }
}

/* One head of a later layer starts as an induction head: its slow half compares this token (or the
 * one before it, back = 1) with what head `back` of the first layer brought to every place, and its
 * values are copied out again. */
static void match_and_copy(struct model *m, int layer, int group, int back, int row, int n)
{
    const struct layer_at *first = &m->at.layer[0], *y = &m->at.layer[layer];
    const float *brought = m->param + first->out;
    const float *seen = m->param + first->qkv + (size_t)(N_HEAD + N_KV) * HEAD * DIM;
    int head = group * (N_HEAD / N_KV);
    float *q = m->param + y->qkv + (size_t)(head * HEAD + row) * DIM;
    float *k = m->param + y->qkv + (size_t)((N_HEAD + group) * HEAD + row) * DIM;
    for (int i = 0; i < n; i++) {
        int of = row - HEAD / 2 + i; /* dimension of the first layer's value */
        for (int d = 0; d < DIM; d++) {
            k[i * DIM + d] = 20.0f * brought[d * OUT + back * HEAD + of];
            q[i * DIM + d] =
                back ? 8.0f * brought[d * OUT + (back - 1) * HEAD + of] : 2.5f * seen[of * DIM + d];
        }
    }
}

static void copy_out(struct model *m, int layer, int group)
{
    const struct layer_at *y = &m->at.layer[layer];
    const float *v = m->param + y->qkv + (size_t)(N_HEAD + N_KV + group) * HEAD * DIM;
    float *out = m->param + y->out + (size_t)group * (N_HEAD / N_KV) * HEAD;
    for (int i = 0; i < HEAD; i++) {
        for (int d = 0; d < DIM; d++) {
            out[d * OUT + i] = 0.5f * v[i * DIM + d];
        }
    }
}

static void wire_induction(struct model *m)
{
    for (int l = 1; l < 4; l++) {
        match_and_copy(m, l, 0, 0, HEAD / 2, HEAD / 2);
        match_and_copy(m, l, 1, 0, HEAD / 2, HEAD / 4);
        match_and_copy(m, l, 1, 1, HEAD / 2 + HEAD / 4, HEAD / 4);
        copy_out(m, l, 0);
        copy_out(m, l, 1);
    }
}

void model_init(struct model *m, uint64_t seed)
{
    float *p = m->param;
    uint64_t s = seed;
    fill_normal(p + m->at.embed, (size_t)VOCAB * DIM, 0.05, &s);
    for (size_t v = 0; v < VOCAB; v++) {
        p[m->at.embed + v * DIM] = 0.3f;
    }
    for (int l = 0; l < N_LAYER; l++) {
        const struct layer_at *y = &m->at.layer[l];
        double small = 0.02 / sqrt(2.0 * N_LAYER);
        fill_normal(p + y->qkv, (size_t)QKV * DIM, 0.04, &s);
        fill_normal(p + y->out, (size_t)DIM * OUT, l == 0 ? 0.006 : small, &s);
        fill_normal(p + y->gate_up, (size_t)GATE_UP * DIM, 0.03, &s);
        fill_normal(p + y->down, (size_t)DIM * FFN, small, &s);
        for (int d = 0; d < DIM; d++) {
            p[y->norm1 + d] = p[y->norm2 + d] = 1.0f;
        }
        if (l == 0) {
            point_back(p + y->qkv);
        }
    }
    wire_induction(m);
    for (int d = 0; d < DIM; d++) {
        p[m->at.norm + d] = 1.0f;
    }
}

void model_pack(struct model *m, size_t at, size_t rows, size_t cols, bf16 *scratch)
{
    to_bf16_n(scratch, m->param + at, rows * cols);
    pack_t(m->w + at / 2, scratch, cols, rows, cols);
    pack_n(m->wt + at / 2, scratch, cols, rows, cols);
}

void model_pack_all(struct model *m)
{
    bf16 *scratch = must_alloc((size_t)VOCAB * DIM * sizeof(bf16));
    model_pack(m, m->at.embed, VOCAB, DIM, scratch);
    for (int l = 0; l < N_LAYER; l++) {
        const struct layer_at *y = &m->at.layer[l];
        model_pack(m, y->qkv, QKV, DIM, scratch);
        model_pack(m, y->out, DIM, OUT, scratch);
        model_pack(m, y->gate_up, GATE_UP, DIM, scratch);
        model_pack(m, y->down, DIM, FFN, scratch);
    }
    free(scratch);
}

struct work *work_new(void)
{
    struct work *w = must_alloc(sizeof *w);
    size_t n = MAX_UNIT;
    for (int l = 0; l < N_LAYER; l++) {
        w->layer[l] = (struct layer_act){
            .x_in = must_alloc(n * DIM * 4),
            .x_mid = must_alloc(n * DIM * 4),
            .inv1 = must_alloc(n * 4),
            .inv2 = must_alloc(n * 4),
            .lse = must_alloc(n * N_HEAD * 4),
            .h1 = must_alloc(n * DIM * 2),
            .qkv = must_alloc(n * QKV * 2),
            .att = must_alloc(n * OUT * 2),
            .h2 = must_alloc(n * DIM * 2),
            .gate_up = must_alloc(n * GATE_UP * 2),
            .act = must_alloc(n * FFN * 2),
        };
    }
    w->attn = attn_work_new();
    w->x = must_alloc(n * DIM * 4);
    w->dx = must_alloc(n * DIM * 4);
    w->d_qkv = must_alloc(n * QKV * 4);
    w->d_att = must_alloc(n * OUT * 2);
    w->final = must_alloc(n * DIM * 2);
    w->wide = must_alloc((size_t)CHUNK * GATE_UP * 4);
    w->inv = must_alloc(n * 4);
    w->logits = must_alloc((size_t)HEAD_ROWS * VOCAB * 4);
    w->d_hidden = must_alloc((size_t)HEAD_ROWS * DIM * 4);
    w->half = must_alloc((size_t)CHUNK * GATE_UP * 2);
    w->half2 = must_alloc((size_t)CHUNK * DIM * 2);
    w->hidden = must_alloc((size_t)HEAD_ROWS * DIM * 2);
    w->d_logits = must_alloc((size_t)HEAD_ROWS * VOCAB * 2);
    w->turned = must_alloc((size_t)VOCAB * (CHUNK + PAD_T) * 2);
    w->packed = must_alloc((size_t)CHUNK * FFN * 2);
    w->row = must_alloc(n * 4);
    return w;
}

/* y = x / rms(x) * gain */
static void norm_forward(const float *x, const float *gain, size_t n, float *inv, bf16 *y)
{
    for (size_t t = 0; t < n; t++) {
        const float *row = x + t * DIM;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int d = 0; d < DIM; d++) {
            sum += row[d] * row[d];
        }
        inv[t] = 1.0f / sqrtf(sum / DIM + NORM_EPS);
        for (int d = 0; d < DIM; d++) {
            y[t * DIM + d] = to_bf16(row[d] * inv[t] * gain[d]);
        }
    }
}

static void norm_backward_row(const float *x, const float *gain, float inv, const float *dy,
                              float *d_gain, float *dx)
{
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int d = 0; d < DIM; d++) {
        dot += dy[d] * gain[d] * x[d];
    }
    dot *= inv * inv * inv / DIM;
    for (int d = 0; d < DIM; d++) {
        d_gain[d] += dy[d] * x[d] * inv;
        dx[d] += inv * gain[d] * dy[d] - dot * x[d];
    }
}

static void norm_backward(const float *x, const float *gain, const float *inv, const float *dy,
                          size_t n, float *d_gain, float *dx)
{
    for (size_t t = 0; t < n; t++) {
        norm_backward_row(x + t * DIM, gain, inv[t], dy + t * DIM, d_gain, dx + t * DIM);
    }
}

static void add_to(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        x[i] += y[i];
    }
}

/* Rotates pairs of neighbours of q and k of a chunk that starts at a token; sign -1 turns back. */
static void rotate(const struct model *m, float *qkv, size_t start, size_t len, float sign)
{
    for (size_t t = 0; t < CHUNK; t++) {
        size_t pos = (start + t) % len * (HEAD / 2);
        const float *c = m->cosine + pos, *s = m->sine + pos;
        for (size_t h = 0; h < N_HEAD + N_KV; h++) {
            float *v = qkv + t * QKV + h * HEAD;
            for (size_t i = 0; i < HEAD / 2; i++) {
                float a = v[2 * i], b = v[2 * i + 1], si = sign * s[i];
                v[2 * i] = a * c[i] - b * si;
                v[2 * i + 1] = a * si + b * c[i];
            }
        }
    }
}

static void gate_forward(const bf16 *gate_up, size_t n, bf16 *act)
{
    for (size_t t = 0; t < n; t++) {
        const bf16 *g = gate_up + t * GATE_UP, *u = g + FFN;
        for (size_t i = 0; i < FFN; i++) {
            float a = from_bf16(g[i]);
            act[t * FFN + i] = to_bf16(a / (1.0f + expf(-a)) * from_bf16(u[i]));
        }
    }
}

/* d_act [n, FFN] f32 to d(gate, up) [n, 2 FFN] bf16 */
static void gate_backward(const bf16 *gate_up, const float *d_act, size_t n, bf16 *d)
{
    for (size_t t = 0; t < n; t++) {
        const bf16 *g = gate_up + t * GATE_UP, *u = g + FFN;
        for (size_t i = 0; i < FFN; i++) {
            float a = from_bf16(g[i]), sig = 1.0f / (1.0f + expf(-a)), da = d_act[t * FFN + i];
            d[t * GATE_UP + i] = to_bf16(da * from_bf16(u[i]) * sig * (1 + a * (1 - sig)));
            d[t * GATE_UP + FFN + i] = to_bf16(da * a * sig);
        }
    }
}

static void layer_forward(const struct model *m, struct work *w, int l, size_t n_row, size_t len)
{
    const struct layer_at *y = &m->at.layer[l];
    struct layer_act *a = &w->layer[l];
    const float *p = m->param;
    size_t n = n_row * len;
    memcpy(a->x_in, w->x, n * DIM * 4);
    for (size_t t = 0; t < n; t += CHUNK) {
        norm_forward(w->x + t * DIM, p + y->norm1, CHUNK, a->inv1 + t, a->h1 + t * DIM);
        mm(w->wide, QKV, a->h1 + t * DIM, DIM, m->w + y->qkv / 2, CHUNK, QKV, DIM, 0);
        rotate(m, w->wide, t, len, 1);
        to_bf16_n(a->qkv + t * QKV, w->wide, (size_t)CHUNK * QKV);
    }
    for (size_t at = 0; at < n; at += len) {
        attn_forward(w->attn, a->qkv + at * QKV, len, a->att + at * OUT, a->lse + at * N_HEAD);
    }
    for (size_t t = 0; t < n; t += CHUNK) {
        float *x = w->x + t * DIM;
        mm(x, DIM, a->att + t * OUT, OUT, m->w + y->out / 2, CHUNK, DIM, OUT, 1);
        memcpy(a->x_mid + t * DIM, x, (size_t)CHUNK * DIM * 4);
        norm_forward(x, p + y->norm2, CHUNK, a->inv2 + t, a->h2 + t * DIM);
        mm(w->wide, GATE_UP, a->h2 + t * DIM, DIM, m->w + y->gate_up / 2, CHUNK, GATE_UP, DIM, 0);
        to_bf16_n(a->gate_up + t * GATE_UP, w->wide, (size_t)CHUNK * GATE_UP);
        gate_forward(a->gate_up + t * GATE_UP, CHUNK, a->act + t * FFN);
        mm(x, DIM, a->act + t * FFN, FFN, m->w + y->down / 2, CHUNK, DIM, FFN, 1);
    }
}

/* grad[out, in] += dy[n, out]^T x[n, in] */
static void weight_grad(struct work *w, float *grad, const bf16 *dy, size_t out, const bf16 *x,
                        size_t in, size_t n)
{
    transpose(w->turned, n + PAD_T, dy, out, n, out);
    pack_n(w->packed, x, in, n, in);
    mm(grad, in, w->turned, n + PAD_T, w->packed, out, in, n, 1);
}

static void mlp_backward(const struct model *m, struct work *w, int l, size_t t, float *grad)
{
    const struct layer_at *y = &m->at.layer[l];
    struct layer_act *a = &w->layer[l];
    float *dx = w->dx + t * DIM;
    to_bf16_n(w->half2, dx, (size_t)CHUNK * DIM);
    weight_grad(w, grad + y->down, w->half2, DIM, a->act + t * FFN, FFN, CHUNK);
    mm(w->wide, FFN, w->half2, DIM, m->wt + y->down / 2, CHUNK, FFN, DIM, 0);
    gate_backward(a->gate_up + t * GATE_UP, w->wide, CHUNK, w->half);
    weight_grad(w, grad + y->gate_up, w->half, GATE_UP, a->h2 + t * DIM, DIM, CHUNK);
    mm(w->wide, DIM, w->half, GATE_UP, m->wt + y->gate_up / 2, CHUNK, DIM, GATE_UP, 0);
    norm_backward(a->x_mid + t * DIM, m->param + y->norm2, a->inv2 + t, w->wide, CHUNK,
                  grad + y->norm2, dx);
    to_bf16_n(w->half2, dx, (size_t)CHUNK * DIM);
    weight_grad(w, grad + y->out, w->half2, DIM, a->att + t * OUT, OUT, CHUNK);
    mm(w->wide, OUT, w->half2, DIM, m->wt + y->out / 2, CHUNK, OUT, DIM, 0);
    to_bf16_n(w->d_att + t * OUT, w->wide, (size_t)CHUNK * OUT);
}

static void layer_backward(const struct model *m, struct work *w, int l, size_t n_row, size_t len,
                           float *grad)
{
    const struct layer_at *y = &m->at.layer[l];
    struct layer_act *a = &w->layer[l];
    size_t n = n_row * len;
    for (size_t t = 0; t < n; t += CHUNK) {
        mlp_backward(m, w, l, t, grad);
    }
    for (size_t at = 0; at < n; at += len) {
        attn_backward(w->attn, a->qkv + at * QKV, a->att + at * OUT, w->d_att + at * OUT,
                      a->lse + at * N_HEAD, len, w->d_qkv + at * QKV);
    }
    for (size_t t = 0; t < n; t += CHUNK) {
        rotate(m, w->d_qkv + t * QKV, t, len, -1);
        to_bf16_n(w->half, w->d_qkv + t * QKV, (size_t)CHUNK * QKV);
        weight_grad(w, grad + y->qkv, w->half, QKV, a->h1 + t * DIM, DIM, CHUNK);
        mm(w->wide, DIM, w->half, QKV, m->wt + y->qkv / 2, CHUNK, DIM, QKV, 0);
        norm_backward(a->x_in + t * DIM, m->param + y->norm1, a->inv1 + t, w->wide, CHUNK,
                      grad + y->norm1, w->dx + t * DIM);
    }
}

/* One row of logits to its gradient; returns the weighted loss. */
static double cross_entropy(const float *logit, uint32_t target, float weight, float scale,
                            bf16 *grad, int *right)
{
    float max = -1e30f, sum = 0;
    for (int v = 0; v < VOCAB; v++) {
        max = logit[v] > max ? logit[v] : max;
    }
#pragma omp simd reduction(+ : sum)
    for (int v = 0; v < VOCAB; v++) {
        sum += expf(logit[v] - max);
    }
    float k = weight * scale, inv = k / sum;
    if (grad) {
        for (int v = 0; v < VOCAB; v++) {
            grad[v] = to_bf16(expf(logit[v] - max) * inv);
        }
        grad[target] = to_bf16(expf(logit[target] - max) * inv - k);
    }
    *right = logit[target] >= max;
    return (double)weight * (max + logf(sum) - logit[target]);
}

/* Logits of the rows that count, their loss, and the way back to w->dx. */
static void head_rows(const struct model *m, struct work *w, const struct unit *u,
                      const uint32_t *row, size_t n, float *grad, float scale, struct loss *sum)
{
    size_t pad = (n + 31) & ~(size_t)31;
    for (size_t i = 0; i < pad; i++) {
        memcpy(w->hidden + i * DIM, w->final + (size_t)row[i < n ? i : 0] * DIM, DIM * 2);
    }
    mm(w->logits, VOCAB, w->hidden, DIM, m->w + m->at.embed / 2, pad, VOCAB, DIM, 0);
    memset(w->d_logits, 0, pad * VOCAB * 2);
    for (size_t i = 0; i < n; i++) {
        float weight = u->weight[row[i] + 1] / 16.0f;
        int right;
        sum->loss += cross_entropy(w->logits + i * VOCAB, u->token[row[i] + 1], weight, scale,
                                   grad ? w->d_logits + i * VOCAB : NULL, &right);
        sum->weight += weight;
        sum->right += right * weight;
    }
    if (!grad) {
        return;
    }
    weight_grad(w, grad + m->at.embed, w->d_logits, VOCAB, w->hidden, DIM, pad);
    mm(w->d_hidden, DIM, w->d_logits, VOCAB, m->wt + m->at.embed / 2, pad, DIM, VOCAB, 0);
    for (size_t i = 0; i < n; i++) {
        size_t at = (size_t)row[i] * DIM;
        norm_backward_row(w->x + at, m->param + m->at.norm, w->inv[row[i]], w->d_hidden + i * DIM,
                          grad + m->at.norm, w->dx + at);
    }
}

struct loss model_step(const struct model *m, struct work *w, const struct unit *u, float *grad,
                       float scale)
{
    size_t n = (size_t)u->n_row * u->len, n_row = 0;
    struct loss sum = {0};
    for (size_t t = 0; t < n; t++) {
        memcpy(w->x + t * DIM, m->param + m->at.embed + (size_t)u->token[t] * DIM, DIM * 4);
        if ((t + 1) % u->len && u->weight[t + 1]) {
            w->row[n_row++] = (uint32_t)t;
        }
    }
    for (int l = 0; l < N_LAYER; l++) {
        layer_forward(m, w, l, u->n_row, u->len);
    }
    norm_forward(w->x, m->param + m->at.norm, n, w->inv, w->final);
    memset(w->dx, 0, n * DIM * 4);
    for (size_t i = 0; i < n_row; i += HEAD_ROWS) {
        size_t k = n_row - i < HEAD_ROWS ? n_row - i : HEAD_ROWS;
        head_rows(m, w, u, w->row + i, k, grad, scale, &sum);
    }
    if (!grad) {
        return sum;
    }
    for (int l = N_LAYER - 1; l >= 0; l--) {
        layer_backward(m, w, l, u->n_row, u->len, grad);
    }
    for (size_t t = 0; t < n; t++) {
        add_to(grad + m->at.embed + (size_t)u->token[t] * DIM, w->dx + t * DIM, DIM);
    }
    return sum;
}
