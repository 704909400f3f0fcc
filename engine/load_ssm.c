/* The tensors of layers with a state. */
#include "engine/load.h"

#include <stdlib.h>

/* Values of a row-major [n_row, n_col] tensor as [n_col, n_row] f32. */
static float *load_turned(struct loader *L, const char *full, uint32_t n_row, uint32_t n_col)
{
    const struct gguf_tensor *t = load_take(L, full, n_col, n_row, 1, true);
    float *v = t ? load_f32(L, t, 0, t->n_elem) : NULL;
    float *turned = v ? malloc(t->n_elem * sizeof *turned) : NULL;
    if (v && !turned) {
        L->code = err_set(L->e, ERR_NOMEM, "out of memory for tensor %s", full);
    }
    for (size_t i = 0; turned && i < (size_t)n_row * n_col; i++) {
        turned[i % n_col * n_row + i / n_col] = v[i];
    }
    free(v);
    if (turned) {
        load_done(L, t);
    }
    return turned;
}

/* n values, however the file's shape spells that. */
static float *load_values(struct loader *L, const char *full, uint32_t n)
{
    const struct gguf_tensor *t = gguf_find_tensor(L->f, full);
    uint64_t ne0 = t && t->ne[0] == 1 ? 1 : n;
    t = load_take(L, full, ne0, n / ne0, 1, true);
    float *v = t ? load_f32(L, t, 0, n) : NULL;
    if (v) {
        load_done(L, t);
    }
    return v;
}

static void load_group_norm(struct loader *L, int il, struct model_ssm *a)
{
    char full[LOAD_NAME_BYTES];
    bool per_group = a->kind == MODEL_SSM_MAMBA2;
    load_name(full, il, "ssm_norm", ".weight");
    const struct gguf_tensor *t =
        per_group ? load_take(L, full, a->d_inner / a->n_group, a->n_group, 1, true)
                  : load_take(L, full, a->d_state, 1, 1, true);
    a->norm.w = t ? load_f32(L, t, 0, t->n_elem) : NULL;
    a->norm.present = a->norm.w != NULL;
    a->norm.per_group = per_group;
    if (a->norm.w) {
        load_done(L, t);
    }
}

/* The tensors of Mamba, Mamba 2 and delta nets, as far as each has them. */
static void load_scan(struct loader *L, int il, struct model_ssm *a)
{
    char full[LOAD_NAME_BYTES];
    uint32_t n_embd = L->m->n_embd;
    if (a->kind == MODEL_SSM_DELTA_NET) {
        load_linear(L, il, "attn_qkv", a->ld_in, n_embd, &a->in, true);
        load_linear(L, il, "attn_gate", a->d_inner, n_embd, &a->gate, true);
        if (load_has(L, il, "ssm_ba.weight")) {
            load_linear(L, il, "ssm_ba", 2 * a->n_head, n_embd, &a->beta, true);
        } else {
            load_linear(L, il, "ssm_beta", a->n_head, n_embd, &a->beta, true);
            load_linear(L, il, "ssm_alpha", a->n_head, n_embd, &a->alpha, true);
        }
    } else {
        load_linear(L, il, "ssm_in", a->ld_in, n_embd, &a->in, true);
    }
    a->conv = load_turned(L, load_name(full, il, "ssm_conv1d", ".weight"), a->n_channel, a->d_conv);
    a->conv_b = load_vector(L, load_name(full, il, "ssm_conv1d", ".bias"), a->n_channel, false);
    load_name(full, il, "ssm_a", "");
    if (a->kind == MODEL_SSM_MAMBA) {
        load_linear(L, il, "ssm_x", a->dt_rank + 2 * a->d_state, a->d_inner, &a->x, true);
        load_linear(L, il, "ssm_dt", a->d_inner, a->dt_rank, &a->dt, true);
        a->a = load_turned(L, full, a->d_inner, a->d_state);
        a->d = load_values(L, load_name(full, il, "ssm_d", ""), a->d_inner);
    } else {
        a->a = load_values(L, full, a->n_head);
        a->dt_b = load_vector(L, load_name(full, il, "ssm_dt", ".bias"), a->n_head, true);
        load_group_norm(L, il, a);
    }
    if (a->kind == MODEL_SSM_MAMBA2) {
        a->d = load_values(L, load_name(full, il, "ssm_d", ""), a->n_head);
    }
    load_linear(L, il, "ssm_out", n_embd, a->d_inner, &a->out, true);
}

void load_ssm(struct loader *L, int il, struct model_ssm *a)
{
    char full[LOAD_NAME_BYTES];
    if (a->kind != MODEL_SSM_SHORT_CONV) {
        load_scan(L, il, a);
        return;
    }
    load_linear(L, il, "shortconv.in_proj", a->ld_in, L->m->n_embd, &a->in, true);
    a->conv =
        load_turned(L, load_name(full, il, "shortconv.conv", ".weight"), a->n_channel, a->d_conv);
    load_linear(L, il, "shortconv.out_proj", L->m->n_embd, a->d_inner, &a->out, true);
}
