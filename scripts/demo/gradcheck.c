/* Compares model_step's gradient with central differences along random directions, one per tensor.
 */
#include "model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static double loss_at(struct model *m, struct work *w, const struct unit *u)
{
    model_pack_all(m);
    struct loss l = model_step(m, w, u, NULL, 1);
    return l.loss;
}

/* Bf16 rounds weights: the step is made large, along the gradient itself, where the slope is
 * steepest. */
static int check(struct model *m, struct work *w, const struct unit *u, const float *grad,
                 const char *name, size_t at, size_t n)
{
    double norm = 0, *old = malloc(n * sizeof *old);
    for (size_t i = 0; i < n; i++) {
        old[i] = m->param[at + i];
        norm += (double)grad[at + i] * grad[at + i];
    }
    norm = sqrt(norm);
    double h = fmin(0.2, fmax(0.01, 20 / norm));
    double loss[2];
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < n; i++) {
            m->param[at + i] = (float)(old[i] + (side ? h : -h) * grad[at + i] / norm);
        }
        loss[side] = loss_at(m, w, u);
    }
    for (size_t i = 0; i < n; i++) {
        m->param[at + i] = (float)old[i];
    }
    free(old);
    double slope = (loss[1] - loss[0]) / (2 * h);
    int ok = fabs(slope - norm) < 0.05 * norm;
    printf("%-10s gradient %10.4f, difference %10.4f %s\n", name, norm, slope, ok ? "" : "WRONG");
    return !ok;
}

/* Weights of middling size everywhere: nothing is steep, and every path carries a gradient. */
static void fill(struct model *m)
{
    model_init(m, 1);
    uint32_t s = 1;
    for (size_t i = 0; i < m->at.n_param; i++) {
        s = s * 1664525u + 1013904223u;
        if (m->param[i] != 1.0f) {
            m->param[i] = ((float)(s >> 8) / 8388608.0f - 1) * 0.08f;
        }
    }
}

int main(void)
{
    static uint16_t token[512];
    static uint8_t weight[512];
    struct unit u = {.n_row = 2, .len = 256, .token = token, .weight = weight};
    for (int i = 0; i < 512; i++) {
        token[i] = (uint16_t)((unsigned)i * 2654435761u % VOCAB);
        weight[i] = i % 3 ? 16 : 0;
    }
    struct model m;
    mm_process_init();
    mm_thread_init();
    model_alloc(&m);
    fill(&m);
    struct work *w = work_new();
    float *grad = must_alloc(m.at.n_param * 4);
    model_pack_all(&m);
    struct loss l = model_step(&m, w, &u, grad, 1);
    printf("loss %.4f\n", l.loss / l.weight);
    int bad = check(&m, w, &u, grad, "embed", m.at.embed, (size_t)VOCAB * DIM);
    bad += check(&m, w, &u, grad, "norm", m.at.norm, DIM);
    for (int y = 0; y < N_LAYER; y += N_LAYER - 1) {
        const struct layer_at *a = &m.at.layer[y];
        bad += check(&m, w, &u, grad, "norm1", a->norm1, DIM);
        size_t kv = a->qkv + (size_t)OUT * DIM, v = kv + (size_t)N_KV * HEAD * DIM;
        bad += check(&m, w, &u, grad, "q", a->qkv, (size_t)OUT * DIM);
        bad += check(&m, w, &u, grad, "k", kv, (size_t)N_KV * HEAD * DIM);
        bad += check(&m, w, &u, grad, "v", v, (size_t)N_KV * HEAD * DIM);
        bad += check(&m, w, &u, grad, "out", a->out, (size_t)DIM * OUT);
        bad += check(&m, w, &u, grad, "norm2", a->norm2, DIM);
        bad += check(&m, w, &u, grad, "gate_up", a->gate_up, (size_t)2 * FFN * DIM);
        bad += check(&m, w, &u, grad, "down", a->down, (size_t)DIM * FFN);
    }
    return bad != 0;
}
