/* Attention and the transformer block. */
#include "engine/forward_parts.h"

#include <math.h>
#include <string.h>

/* ---- attention --------------------------------------------------------------------------------
 */

static void clamp(float *x, float limit, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = x[i] > limit ? limit : x[i] < -limit ? -limit : x[i];
    }
}

static void qk_norm(const struct fwd *f, const struct model_norm *norm, float *x, uint32_t n_head,
                    uint32_t d)
{
    if (!norm->present) {
        return;
    }
    if (f->env.m->qk_norm == MODEL_QK_NORM_FULL) {
        fwd_norm_row(f, norm, x, x, n_head * d, 1);
    } else {
        fwd_norm_row(f, norm, x, x, d, n_head);
    }
}

/* What happens to one row's Q, K and V between their products and attention: norms and rotation.
 * A layer that reads another's KV has Q alone. */
static void finish_qkv_row(const struct fwd *f, const void *arg, uint32_t row)
{
    const struct model *m = f->env.m;
    const struct model_layer *l = arg;
    bool own_kv = l->k.w.data != NULL;
    float *q = f->q + (size_t)row * l->n_head * l->d_k;
    float *k = f->k + (size_t)row * l->n_head_kv * l->d_k;
    float *v = f->v + (size_t)row * l->n_head_kv * l->d_v;
    if (own_kv && !l->v.w.data) {
        memcpy(v, k, (size_t)l->n_head_kv * l->d_v * sizeof *v);
    }
    if (m->attn_clamp != 0.0f) {
        clamp(q, m->attn_clamp, (size_t)l->n_head * l->d_k);
        clamp(k, m->attn_clamp, (size_t)l->n_head_kv * l->d_k);
        clamp(v, m->attn_clamp, (size_t)l->n_head_kv * l->d_v);
    }
    if (!m->qk_norm_after_rope) {
        qk_norm(f, &l->q_norm, q, l->n_head, l->d_k);
        qk_norm(f, &l->k_norm, k, l->n_head_kv, l->d_k);
    }
    if (l->rope >= 0) {
        const struct rope *r = &m->ropes[l->rope];
        const float *cos_sin = f->cos_sin[l->rope] + (size_t)row * r->n_rot;
        int neox = r->pairs == ROPE_PAIRS_HALVES;
        f->env.vec->rope(q, l->n_head, l->d_k, r->n_rot, cos_sin, neox);
        if (own_kv) {
            f->env.vec->rope(k, l->n_head_kv, l->d_k, r->n_rot, cos_sin, neox);
        }
    }
    if (m->qk_norm_after_rope) {
        qk_norm(f, &l->q_norm, q, l->n_head, l->d_k);
        qk_norm(f, &l->k_norm, k, l->n_head_kv, l->d_k);
    }
    if (own_kv && m->v_norm) {
        fwd_norm_row(f, &(struct model_norm){0}, v, v, l->d_v, l->n_head_kv);
    }
    if (m->attn_temp_scale != 0.0f) {
        double turn = floor((double)f->pos[row] / m->attn_temp_len);
        float s = (float)(1.0 + m->attn_temp_scale * log(1.0 + turn));
        f->env.vec->scale(q, q, s, (size_t)l->n_head * l->d_k);
    }
}

static void move_row(float *rows, uint32_t to, uint32_t from, size_t n)
{
    if (n) { /* what a model does not have has no memory */
        memmove(rows + to * n, rows + from * n, n * sizeof *rows);
    }
}

void fwd_drop_rows(struct fwd *f, float *rows, size_t n)
{
    const struct model *m = f->env.m;
    uint32_t to = 0;
    uint32_t n_slice = 0;
    for (uint32_t i = 0; i < f->n_slice; i++) {
        struct fwd_slice s = f->slices[i];
        uint32_t skip = s.n_row - s.n_out;
        uint32_t row0 = to;
        for (uint32_t row = s.row0 + skip; row < s.row0 + s.n_row; row++, to++) {
            if (row == to) {
                continue;
            }
            move_row(f->x, to, row, m->n_embd);
            move_row(f->h, to, row, m->n_embd);
            move_row(f->h_ffn, to, row, m->n_embd);
            move_row(rows, to, row, n);
            if (m->n_embd_layer) {
                move_row(f->layer_in, to, row, (size_t)m->n_layer * m->n_embd_layer);
            }
            for (uint32_t r = 0; r < m->n_rope; r++) {
                move_row(f->cos_sin[r], to, row, m->ropes[r].n_rot);
            }
            f->pos[to] = f->pos[row];
            f->token[to] = f->token[row];
        }
        if (s.n_out) {
            f->slices[n_slice++] = (struct fwd_slice){.kv = s.kv,
                                                      .state = s.state,
                                                      .pos = s.pos + skip,
                                                      .row0 = row0,
                                                      .n_row = s.n_out,
                                                      .n_out = s.n_out,
                                                      .adapter = s.adapter};
        }
    }
    f->n_row = to;
    f->n_slice = n_slice;
}

/* att · sigmoid(gate) */
static void gate_attention_row(const struct fwd *f, const void *arg, uint32_t row)
{
    const struct model_layer *l = arg;
    size_t n = (size_t)l->n_head * l->d_v;
    float *att = f->att + row * n;
    const float *gate = f->att_gate + row * n;
    for (size_t i = 0; i < n; i++) {
        att[i] *= 1.0f / (1.0f + expf(-gate[i]));
    }
}

enum err_code fwd_attend(struct fwd *f, uint32_t il, const float *v, size_t ldv, struct err *e)
{
    const struct model *m = f->env.m;
    const struct model_layer *l = &m->layers[il];
    bool own_kv = l->kv_layer == il;
    size_t ldq = (size_t)l->n_head * l->d_k;
    size_t ldk = (size_t)l->n_head_kv * l->d_k;
    size_t ldo = (size_t)l->n_head * l->d_v;
    for (uint32_t i = 0; i < f->n_slice; i++) {
        const struct fwd_slice *s = &f->slices[i];
        f->att_slices[i] = (struct att_slice){.kv = s->kv,
                                              .pos = s->pos,
                                              .n_tok = s->n_row,
                                              .q = f->q + s->row0 * ldq,
                                              .k = own_kv ? f->k + s->row0 * ldk : NULL,
                                              .v = own_kv ? v + s->row0 * ldv : NULL,
                                              .out = f->att + s->row0 * ldo,
                                              .ldq = ldq,
                                              .ldk = ldk,
                                              .ldv = ldv,
                                              .ldo = ldo};
    }
    float scale = m->attn_scale != 0.0f ? m->attn_scale : 1.0f / sqrtf((float)l->d_k);
    struct att_params p = {.kv_layer = l->kv_layer,
                           .n_head = l->n_head,
                           .scale = scale,
                           .softcap = m->attn_softcap,
                           .window = l->window,
                           .sinks = l->sinks,
                           .alibi = m->alibi,
                           .bidirectional = m->encoder};
    enum err_code code = att_forward(f->env.att, &p, f->att_slices, f->n_slice, e);
    if (code) {
        return code;
    }
    if (l->attn_gate.w.data) {
        fwd_rows(f, f->n_row, ldo, gate_attention_row, l);
    }
    if (il == f->last_memory_layer) {
        fwd_drop_rows(f, f->att, ldo);
    }
    return ERR_OK;
}

enum err_code fwd_attention(struct fwd *f, uint32_t il, const float *h, struct err *e)
{
    const struct model_layer *l = &f->env.m->layers[il];
    if (l->mla) {
        return fwd_mla_attention(f, il, h, e);
    }
    struct fwd_product products[4] = {{.lin = &l->q, .y = f->q}};
    uint32_t n = 1;
    if (l->k.w.data) {
        products[n++] = (struct fwd_product){.lin = &l->k, .y = f->k};
    }
    if (l->v.w.data) {
        products[n++] = (struct fwd_product){.lin = &l->v, .y = f->v};
    }
    if (l->attn_gate.w.data) {
        products[n++] = (struct fwd_product){.lin = &l->attn_gate, .y = f->att_gate};
    }
    enum err_code code = fwd_products(f, h, f->n_row, products, n, e);
    if (code) {
        return code;
    }
    size_t n_value = (size_t)l->n_head * l->d_k + (size_t)l->n_head_kv * (l->d_k + l->d_v);
    fwd_rows(f, f->n_row, n_value, finish_qkv_row, l);
    return fwd_attend(f, il, f->v, (size_t)l->n_head_kv * l->d_v, e);
}

/* ---- the block --------------------------------------------------------------------------------
 */

/* Whether what a part gives goes to the residual as it is, so that its last product may add it. */
static bool adds_directly(const struct fwd *f, const struct model_norm *post)
{
    return !post->present && f->env.m->residual_scale == 1.0f;
}

struct residual_arg {
    const struct model_norm *post;
};

/* x += scale · norm(y) */
static void residual_row(const struct fwd *f, const void *arg, uint32_t row)
{
    const struct model *m = f->env.m;
    const struct residual_arg *a = arg;
    float *x = f->x + (size_t)row * m->n_embd;
    float *y = f->y + (size_t)row * m->n_embd;
    if (a->post->present) {
        fwd_norm_row(f, a->post, y, y, m->n_embd, 1);
    }
    f->env.vec->axpy(x, y, m->residual_scale, m->n_embd);
}

static void add_residual(const struct fwd *f, const struct model_norm *post)
{
    struct residual_arg a = {post};
    fwd_rows(f, f->n_row, f->env.m->n_embd, residual_row, &a);
}

/* x += post_norm(W_o attention(h)), or what stands in for attention */
static enum err_code attention_part(struct fwd *f, uint32_t il, const float *h, struct err *e)
{
    const struct model_layer *l = &f->env.m->layers[il];
    enum err_code code = l->ssm ? fwd_ssm_layer(f, il, h, e) : fwd_attention(f, il, h, e);
    if (code || f->n_row == 0) {
        return code;
    }
    bool direct = adds_directly(f, &l->post_attn_norm);
    struct fwd_product p = {
        .lin = l->ssm ? &l->ssm->out : &l->o, .y = direct ? f->x : f->y, .add = direct};
    const float *mixed = l->ssm ? f->ssm.y : l->mla ? f->mla.out : f->att;
    code = fwd_products(f, mixed, f->n_row, &p, 1, e);
    if (!code && !direct) {
        add_residual(f, &l->post_attn_norm);
    }
    return code;
}

/* x += post_norm(FFN(h)) */
static enum err_code ffn_part(struct fwd *f, const struct model_layer *l, const float *h,
                              struct err *e)
{
    bool direct = !l->moe && adds_directly(f, &l->post_ffn_norm);
    enum err_code code =
        l->moe ? fwd_moe(f, l, h, e) : fwd_ffn(f, &l->ffn, h, direct ? f->x : f->y, direct, e);
    if (!code && !direct) {
        add_residual(f, &l->post_ffn_norm);
    }
    return code;
}

/* Sequential: x += attention(norm(x)); x += FFN(norm(x)).
 * Parallel:   x += attention(norm(x)) + FFN(norm(x)), of the same x.
 * Models without pre-norms read x itself and norm what the parts give instead. */
enum err_code fwd_block(struct fwd *f, uint32_t il, struct err *e)
{
    const struct model *m = f->env.m;
    const struct model_layer *l = &m->layers[il];
    const float *h = f->x;
    if (l->attn_norm.present) {
        fwd_norm(f, &l->attn_norm, f->h, f->x);
        h = f->h;
    }
    const float *h_ffn = h;
    if (m->parallel && l->ffn_norm.present) {
        fwd_norm(f, &l->ffn_norm, f->h_ffn, f->x);
        h_ffn = f->h_ffn;
    }
    enum err_code code = attention_part(f, il, h, e);
    if (code || f->n_row == 0) {
        return code;
    }
    if (l->attn_sum_norm.present) {
        fwd_norm(f, &l->attn_sum_norm, f->x, f->x);
    }
    if (m->no_ffn) {
        return ERR_OK;
    }
    if (!m->parallel) {
        h_ffn = f->x;
        if (l->ffn_norm.present) {
            fwd_norm(f, &l->ffn_norm, f->h_ffn, f->x);
            h_ffn = f->h_ffn;
        }
    }
    code = ffn_part(f, l, h_ffn, e);
    if (!code && l->ffn_sum_norm.present) {
        fwd_norm(f, &l->ffn_sum_norm, f->x, f->x);
    }
    if (!code && (l->input || l->out_scale != 1.0f)) {
        code = fwd_layer_input(f, il, e);
    }
    return code;
}
