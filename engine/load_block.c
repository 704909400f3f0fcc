/* The tensors of one block: attention of either kind, dense and expert FFNs, their norms. */
#include "engine/load.h"

#include "engine/quant/formats.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Q or K norm: of each head (shared or its own weights), or over the whole projection. */
static void load_qk_norm(struct loader *L, int il, const char *name, uint32_t n_head, uint32_t d,
                         struct model_norm *norm)
{
    char full[LOAD_NAME_BYTES];
    if (L->m->qk_norm == MODEL_QK_NORM_NONE) {
        return;
    }
    if (L->m->qk_norm == MODEL_QK_NORM_FULL) {
        load_norm(L, il, name, n_head * d, norm, true);
        return;
    }
    const struct gguf_tensor *t = gguf_find_tensor(L->f, load_name(full, il, name, ".weight"));
    if (!t || t->ne[1] == 1) {
        load_norm(L, il, name, d, norm, false);
        return;
    }
    t = load_take(L, full, d, n_head, 1, true);
    norm->w = t ? load_f32(L, t, 0, t->n_elem) : NULL;
    norm->present = norm->w != NULL;
    norm->per_group = true;
    if (norm->w) {
        load_done(L, t);
    }
}

/* attn_kv_b of older files holds, head by head, d_nope rows that take a latent row to K and d_v
 * rows that take it to V. K's are needed the other way round: [kv_rank, d_nope]. */
static void split_kv_b(struct loader *L, int il, struct model_mla *a)
{
    struct model *m = L->m;
    uint32_t d = a->d_nope + a->d_v;
    char full[LOAD_NAME_BYTES];
    const struct gguf_tensor *t = load_take(L, load_name(full, il, "attn_kv_b", ".weight"),
                                            m->kv_rank, (uint64_t)a->n_head * d, 1, true);
    size_t n = (size_t)m->kv_rank * a->d_nope;
    float *turned = malloc(n * sizeof *turned);
    uint16_t *half = malloc(n * sizeof *half);
    if (!turned || !half) {
        L->code = L->code ? L->code : err_set(L->e, ERR_NOMEM, "out of memory for tensor %s", full);
    }
    for (uint32_t h = 0; h < a->n_head && !L->code; h++) {
        float *k = load_f32(L, t, (uint64_t)h * d * m->kv_rank, n);
        for (size_t i = 0; k && i < n; i++) {
            size_t to = i % m->kv_rank * a->d_nope + i / m->kv_rank;
            turned[to] = k[i];
            half[to] = quant_f32_to_f16(k[i]);
        }
        free(k);
        bool exact = t->type == GGUF_TYPE_F32 || t->type == GGUF_TYPE_BF16;
        if (!L->code) {
            L->code = gemm_weight_pack(L->gemm, exact ? GGUF_TYPE_F32 : GGUF_TYPE_F16, m->kv_rank,
                                       a->d_nope, exact ? (const void *)turned : half, &a->k_b[h].w,
                                       L->e);
        }
        load_rows(L, t, 0, h * d + a->d_nope, a->d_v, &a->v_b[h].w);
    }
    free(turned);
    free(half);
    if (!L->code) {
        load_done(L, t);
    }
}

static void load_head_stack(struct loader *L, int il, const char *name, uint32_t n_head,
                            uint32_t n_out, uint32_t n_in, struct model_linear *lins)
{
    char full[LOAD_NAME_BYTES];
    const struct gguf_tensor *t =
        load_take(L, load_name(full, il, name, ".weight"), n_in, n_out, n_head, true);
    for (uint32_t i = 0; i < n_head; i++) {
        load_rows(L, t, i, 0, n_out, &lins[i].w);
    }
    if (!L->code) {
        load_done(L, t);
    }
}

/* Latent attention in place of load_qkv. */
static void load_mla(struct loader *L, int il, struct model_layer *l)
{
    struct model *m = L->m;
    struct model_mla *a = calloc(1, sizeof *a);
    struct model_linear *lins = calloc(2ull * l->n_head, sizeof *lins);
    if (!a || !lins) {
        free(a);
        free(lins);
        L->code = L->code ? L->code : err_set(L->e, ERR_NOMEM, "out of memory for attention");
        return;
    }
    l->mla = a;
    *a = (struct model_mla){.k_b = lins,
                            .v_b = lins + l->n_head,
                            .n_head = l->n_head,
                            .d_nope = m->d_nope,
                            .d_v = m->d_v_mla};
    uint32_t n_rot = m->rope_params[0].n_rot;
    uint32_t n_q = l->n_head * (a->d_nope + n_rot);
    if (m->q_rank) {
        load_linear(L, il, "attn_q_a", m->q_rank, m->n_embd, &a->q_a, true);
        load_norm(L, il, "attn_q_a_norm", m->q_rank, &a->q_norm, true);
        load_linear(L, il, "attn_q_b", n_q, m->q_rank, &l->q, true);
    } else {
        load_linear(L, il, "attn_q", n_q, m->n_embd, &l->q, true);
    }
    load_linear(L, il, "attn_kv_a_mqa", m->kv_rank + n_rot, m->n_embd, &a->kv_a, true);
    load_norm(L, il, "attn_kv_a_norm", m->kv_rank, &a->kv_norm, true);
    if (load_has(L, il, "attn_k_b.weight")) {
        load_head_stack(L, il, "attn_k_b", l->n_head, m->kv_rank, a->d_nope, a->k_b);
        load_head_stack(L, il, "attn_v_b", l->n_head, a->d_v, m->kv_rank, a->v_b);
    } else {
        split_kv_b(L, il, a);
    }
}

/* Q's projection with attention's gate: of each head d rows of Q, then d of the gate. */
static void load_gated_q(struct loader *L, int il, struct model_layer *l)
{
    uint32_t n = l->n_head * l->d_k;
    char full[LOAD_NAME_BYTES];
    const struct gguf_tensor *t =
        load_take(L, load_name(full, il, "attn_q", ".weight"), L->m->n_embd, 2ull * n, 1, true);
    if (!t) {
        return;
    }
    size_t head_bytes = t->n_byte / l->n_head / 2;
    char *rows = malloc((size_t)l->n_head * head_bytes);
    if (!rows) {
        L->code = err_set(L->e, ERR_NOMEM, "out of memory for tensor %s", full);
        return;
    }
    for (int part = 0; part < 2; part++) {
        for (uint32_t h = 0; h < l->n_head; h++) {
            const char *src = t->data;
            memcpy(rows + h * head_bytes, src + (2ull * h + part) * head_bytes, head_bytes);
        }
        struct gguf_tensor gathered = *t;
        gathered.data = rows;
        gathered.ne[1] = n;
        load_rows(L, &gathered, 0, 0, n, part ? &l->attn_gate.w : &l->q.w);
    }
    free(rows);
    if (!L->code) {
        load_done(L, t);
    }
}

static void load_qkv(struct loader *L, int il, struct model_layer *l)
{
    struct model *m = L->m;
    uint32_t n_q = l->n_head * l->d_k;
    uint32_t n_k = l->n_head_kv * l->d_k;
    uint32_t n_v = l->n_head_kv * l->d_v;
    if (load_has(L, il, "attn_qkv.weight")) {
        load_fused(L, il, "attn_qkv", (const uint32_t[]){n_q, n_k, n_v},
                   (struct model_linear *const[]){&l->q, &l->k, &l->v}, 3, m->n_embd);
    } else {
        if (m->q_gated) {
            load_gated_q(L, il, l);
        } else {
            load_linear(L, il, "attn_q", n_q, m->n_embd, &l->q, true);
        }
        if (l->kv_layer == (uint32_t)il) {
            load_linear(L, il, "attn_k", n_k, m->n_embd, &l->k, true);
            load_linear(L, il, "attn_v", n_v, m->n_embd, &l->v, !m->v_norm);
        }
    }
    load_qk_norm(L, il, "attn_q_norm", l->n_head, l->d_k, &l->q_norm);
    if (l->kv_layer == (uint32_t)il) {
        load_qk_norm(L, il, "attn_k_norm", l->n_head_kv, l->d_k, &l->k_norm);
    } else {
        load_ignore(L, il, "attn_k.weight");
        load_ignore(L, il, "attn_v.weight");
        load_ignore(L, il, "attn_k_norm.weight");
    }
}

static void load_ffn(struct loader *L, int il, const char *suffix, uint32_t n_ff,
                     struct model_ffn *ffn)
{
    struct model *m = L->m;
    char gate[32];
    char up[32];
    char down[32];
    snprintf(gate, sizeof gate, "ffn_gate%s", suffix);
    snprintf(up, sizeof up, "ffn_up%s", suffix);
    snprintf(down, sizeof down, "ffn_down%s", suffix);
    ffn->n_ff = n_ff;
    if (m->gate_up_fused) {
        load_fused(L, il, up, (const uint32_t[]){n_ff, n_ff},
                   (struct model_linear *const[]){&ffn->gate, &ffn->up}, 2, m->n_embd);
    } else {
        load_linear(L, il, gate, n_ff, m->n_embd, &ffn->gate, m->ffn_gated);
        load_linear(L, il, up, n_ff, m->n_embd, &ffn->up, true);
    }
    load_linear(L, il, down, m->n_embd, n_ff, &ffn->down, true);
}

/* n_expert matrices in one tensor, and their biases. */
static void load_expert_stack(struct loader *L, int il, const char *name, uint32_t n_out,
                              uint32_t n_in, struct model_linear *lins)
{
    uint32_t n = L->m->n_expert;
    char full[LOAD_NAME_BYTES];
    const struct gguf_tensor *t =
        load_take(L, load_name(full, il, name, ".weight"), n_in, n_out, n, true);
    const struct gguf_tensor *b =
        load_take(L, load_name(full, il, name, ".bias"), n_out, n, 1, false);
    for (uint32_t i = 0; i < n && !L->code; i++) {
        load_rows(L, t, i, 0, n_out, &lins[i].w);
        if (b && !L->code) {
            lins[i].b = load_f32(L, b, (uint64_t)i * n_out, n_out);
        }
    }
    if (!L->code) {
        load_done(L, t);
    }
    if (b && !L->code) {
        load_done(L, b);
    }
}

static void load_moe(struct loader *L, int il, struct model_layer *l)
{
    struct model *m = L->m;
    struct model_moe *moe = calloc(1, sizeof *moe);
    struct model_linear *lins = calloc(3ull * m->n_expert, sizeof *lins);
    if (!moe || !lins) {
        free(moe);
        free(lins);
        L->code = L->code ? L->code : err_set(L->e, ERR_NOMEM, "out of memory for experts");
        return;
    }
    l->moe = moe;
    moe->gate = lins;
    moe->up = lins + m->n_expert;
    moe->down = lins + 2ull * m->n_expert;
    char full[LOAD_NAME_BYTES];
    load_linear(L, il, "ffn_gate_inp", m->n_expert, m->n_embd, &moe->router, true);
    moe->select_bias =
        load_vector(L, load_name(full, il, "exp_probs_b", ".bias"), m->n_expert, false);
    load_expert_stack(L, il, "ffn_gate_exps", m->n_ff_expert, m->n_embd, moe->gate);
    load_expert_stack(L, il, "ffn_up_exps", m->n_ff_expert, m->n_embd, moe->up);
    load_expert_stack(L, il, "ffn_down_exps", m->n_embd, m->n_ff_expert, moe->down);
    if (m->n_ff_shared) {
        load_ffn(L, il, "_shexp", m->n_ff_shared, &moe->shared);
        load_linear(L, il, "ffn_gate_inp_shexp", 1, m->n_embd, &moe->shared_gate, false);
    }
}

/* The norms in front of attention and FFN. A second one makes the first the FFN's (Falcon 40B). */
static void load_pre_norms(struct loader *L, int il, struct model_layer *l)
{
    const struct model *m = L->m;
    if (!m->pre_norm) {
        return;
    }
    if (load_has(L, il, "attn_norm_2.weight")) {
        load_norm(L, il, "attn_norm", m->n_embd, &l->ffn_norm, true);
        load_norm(L, il, "attn_norm_2", m->n_embd, &l->attn_norm, true);
        return;
    }
    bool required = il > 0 || !m->first_layer_unnormed;
    load_norm(L, il, "attn_norm", m->n_embd, &l->attn_norm, required);
    if (!m->ffn_norm_shared && !m->no_ffn) {
        load_norm(L, il, m->ffn_norm_name, m->n_embd, &l->ffn_norm, true);
    }
}

static void load_layer_input(struct loader *L, int il, struct model_layer *l)
{
    struct model *m = L->m;
    char full[LOAD_NAME_BYTES];
    float *scale = load_vector(L, load_name(full, il, "layer_output_scale", ".weight"), 1, false);
    l->out_scale = scale ? scale[0] : 1.0f;
    free(scale);
    if (!m->n_embd_layer) {
        return;
    }
    l->input = calloc(1, sizeof *l->input);
    if (!l->input) {
        L->code = L->code ? L->code : err_set(L->e, ERR_NOMEM, "out of memory for a block");
        return;
    }
    load_linear(L, il, "inp_gate", m->n_embd_layer, m->n_embd, &l->input->gate, true);
    load_linear(L, il, "proj", m->n_embd, m->n_embd_layer, &l->input->proj, true);
    load_norm(L, il, "post_norm", m->n_embd, &l->input->norm, true);
}

void load_block(struct loader *L, int il)
{
    struct model *m = L->m;
    struct model_layer *l = &m->layers[il];
    char full[LOAD_NAME_BYTES];
    load_pre_norms(L, il, l);
    uint32_t d_head = m->kv_rank ? m->d_v_mla : l->d_v;
    if (l->ssm) {
        load_ssm(L, il, l->ssm);
    } else if (m->kv_rank) {
        load_mla(L, il, l);
    } else {
        load_qkv(L, il, l);
    }
    if (!l->ssm) {
        load_linear(L, il, "attn_output", m->n_embd, l->n_head * d_head, &l->o, true);
    }
    l->sinks = load_vector(L, load_name(full, il, "attn_sinks", ".weight"), l->n_head, false);
    if (m->sum_norm) {
        load_norm(L, il, "attn_output_norm", m->n_embd, &l->attn_sum_norm, true);
        load_norm(L, il, "layer_output_norm", m->n_embd, &l->ffn_sum_norm, true);
    }
    if (m->post_norm) {
        load_norm(L, il, "post_attention_norm", m->n_embd, &l->post_attn_norm, true);
        load_norm(L, il, "post_ffw_norm", m->n_embd, &l->post_ffn_norm, true);
    }
    if (l->is_moe) {
        load_moe(L, il, l);
    } else if (!m->no_ffn) {
        load_ffn(L, il, "", l->n_ff, &l->ffn);
    }
    load_layer_input(L, il, l);
}
