#include "engine/model.h"

#include <stdlib.h>

static void norm_finish(struct model_norm *n)
{
    free(n->w);
    free(n->b);
}

static void linear_finish(struct model_linear *l)
{
    gemm_weight_finish(&l->w);
    free(l->b);
}

static void ffn_finish(struct model_ffn *f)
{
    linear_finish(&f->gate);
    linear_finish(&f->up);
    linear_finish(&f->down);
}

static void moe_destroy(struct model_moe *moe, uint32_t n_expert)
{
    if (!moe) {
        return;
    }
    linear_finish(&moe->router);
    linear_finish(&moe->shared_gate);
    ffn_finish(&moe->shared);
    for (uint32_t i = 0; i < n_expert; i++) {
        linear_finish(&moe->gate[i]);
        linear_finish(&moe->up[i]);
        linear_finish(&moe->down[i]);
    }
    free(moe->gate); /* up and down lie behind it */
    free(moe->select_bias);
    free(moe);
}

static void mla_destroy(struct model_mla *mla)
{
    if (!mla) {
        return;
    }
    linear_finish(&mla->q_a);
    linear_finish(&mla->kv_a);
    norm_finish(&mla->q_norm);
    norm_finish(&mla->kv_norm);
    for (uint32_t i = 0; i < mla->n_head; i++) {
        linear_finish(&mla->k_b[i]);
        linear_finish(&mla->v_b[i]);
    }
    free(mla->k_b); /* v_b lies behind it */
    free(mla);
}

static void ssm_destroy(struct model_ssm *a)
{
    if (!a) {
        return;
    }
    linear_finish(&a->in);
    linear_finish(&a->gate);
    linear_finish(&a->beta);
    linear_finish(&a->alpha);
    linear_finish(&a->x);
    linear_finish(&a->dt);
    linear_finish(&a->out);
    norm_finish(&a->norm);
    free(a->conv);
    free(a->conv_b);
    free(a->dt_b);
    free(a->a);
    free(a->d);
    free(a);
}

static void layer_finish(struct model_layer *l, uint32_t n_expert)
{
    norm_finish(&l->attn_norm);
    linear_finish(&l->q);
    linear_finish(&l->k);
    linear_finish(&l->v);
    norm_finish(&l->q_norm);
    norm_finish(&l->k_norm);
    linear_finish(&l->o);
    free(l->sinks);
    norm_finish(&l->post_attn_norm);
    norm_finish(&l->attn_sum_norm);
    norm_finish(&l->ffn_sum_norm);
    norm_finish(&l->ffn_norm);
    ffn_finish(&l->ffn);
    norm_finish(&l->post_ffn_norm);
    linear_finish(&l->attn_gate);
    ssm_destroy(l->ssm);
    moe_destroy(l->moe, n_expert);
    mla_destroy(l->mla);
    if (l->input) {
        linear_finish(&l->input->gate);
        linear_finish(&l->input->proj);
        norm_finish(&l->input->norm);
        free(l->input);
    }
}

void model_destroy(struct model *m)
{
    if (!m) {
        return;
    }
    for (uint32_t i = 0; m->layers && i < m->n_layer; i++) {
        layer_finish(&m->layers[i], m->n_expert);
    }
    free(m->layers);
    for (uint32_t i = 0; i < MODEL_ROPE_MAX; i++) {
        rope_finish(&m->ropes[i]);
    }
    free(m->pos_embed);
    free(m->type_embed);
    norm_finish(&m->embed_norm);
    norm_finish(&m->final_norm);
    linear_finish(&m->output);
    free(m->alibi);
    linear_finish(&m->layer_embed_proj);
    norm_finish(&m->layer_embed_norm);
    free(m);
}
