/* Per-layer inputs (Gemma 3n and 4): besides the stream of residuals, every block gets a small
 * vector of its own for each token, looked up by id and blended with a projection of the token's
 * embedding. Source: the models' published configurations. */
#include "engine/forward_parts.h"

#include <math.h>

/* Rows are [n_layer, n_embd_layer]. */
static size_t row_size(const struct model *m)
{
    return (size_t)m->n_layer * m->n_embd_layer;
}

/* in = (norm(projection / sqrt(n_embd)) + embedding · sqrt(n_embd_layer)) / sqrt(2) */
static void blend_row(const struct fwd *f, const void *arg, uint32_t row)
{
    (void)arg;
    const struct model *m = f->env.m;
    const struct vec_ops *vec = f->env.vec;
    size_t n = row_size(m);
    float *in = f->layer_in + row * n;
    float *embed = f->layer_embed + row * n;
    vec->scale(in, in, 1.0f / sqrtf((float)m->n_embd), n);
    fwd_norm_row(f, &m->layer_embed_norm, in, in, m->n_embd_layer, m->n_layer);
    fwd_file_row(m->layer_embed, (uint32_t)f->token[row], embed);
    vec->axpy(in, embed, sqrtf((float)m->n_embd_layer), n);
    vec->scale(in, in, 1.0f / sqrtf(2.0f), n);
}

enum err_code fwd_layer_inputs(struct fwd *f, struct err *e)
{
    const struct model *m = f->env.m;
    struct fwd_product p = {.lin = &m->layer_embed_proj, .y = f->layer_in};
    enum err_code code = fwd_products(f, f->x, f->n_row, &p, 1, e);
    if (!code) {
        fwd_rows(f, f->n_row, row_size(m), blend_row, NULL);
    }
    return code;
}

/* gate = gelu(gate) · in[il] */
static void gate_row(const struct fwd *f, const void *arg, uint32_t row)
{
    const struct model *m = f->env.m;
    uint32_t il = *(const uint32_t *)arg;
    uint32_t n = m->n_embd_layer;
    fwd_activate(f, f->gate + (size_t)row * n, f->layer_in + row * row_size(m) + (size_t)il * n, n);
}

/* x = (x + norm(y)) · out_scale */
static void finish_row(const struct fwd *f, const void *arg, uint32_t row)
{
    const struct model *m = f->env.m;
    const struct model_layer *l = arg;
    float *x = f->x + (size_t)row * m->n_embd;
    float *y = f->y + (size_t)row * m->n_embd;
    if (l->input) {
        fwd_norm_row(f, &l->input->norm, y, y, m->n_embd, 1);
        f->env.vec->add(x, x, y, m->n_embd);
    }
    f->env.vec->scale(x, x, l->out_scale, m->n_embd);
}

enum err_code fwd_layer_input(struct fwd *f, uint32_t il, struct err *e)
{
    const struct model_layer *l = &f->env.m->layers[il];
    enum err_code code = ERR_OK;
    if (l->input) {
        struct fwd_product gate = {.lin = &l->input->gate, .y = f->gate};
        struct fwd_product proj = {.lin = &l->input->proj, .y = f->y};
        code = fwd_products(f, f->x, f->n_row, &gate, 1, e);
        fwd_rows(f, code ? 0 : f->n_row, f->env.m->n_embd_layer, gate_row, &il);
        code = code ? code : fwd_products(f, f->gate, f->n_row, &proj, 1, e);
    }
    fwd_rows(f, code ? 0 : f->n_row, f->env.m->n_embd, finish_row, l);
    return code;
}
