/* Models in which some or all layers carry a state: Mamba, Mamba 2, Granite 4, LFM2, Qwen3-Next and
 * Qwen 3.5. Source: arXiv:2312.00752, arXiv:2405.21060, arXiv:2412.06464; the models' published
 * configurations. */
#include "engine/arch/arch.h"
#include "engine/arch/families.h"

#define INNER_MAX (1u << 18)
#define CONV_MAX  16

static void use_no_rope(struct model *m)
{
    for (uint32_t i = 0; i < m->n_layer; i++) {
        m->layers[i].rope = -1;
    }
}

/* ---- Mamba ------------------------------------------------------------------------------------
 */

void arch_read_mamba(struct meta *k, struct model *m)
{
    m->no_ffn = true;
    use_no_rope(m);
    for (uint32_t i = 0; i < m->n_layer && !k->code; i++) {
        struct model_ssm *a = arch_add_ssm(k, m, i);
        if (!a) {
            return;
        }
        a->kind = MODEL_SSM_MAMBA;
        a->d_conv = meta_u32(k, "ssm.conv_kernel", 2, CONV_MAX);
        a->d_inner = meta_u32(k, "ssm.inner_size", 1, INNER_MAX);
        a->d_state = meta_u32(k, "ssm.state_size", 1, SSM_STATE_MAX);
        a->dt_rank = meta_u32(k, "ssm.time_step_rank", 1, INNER_MAX);
        a->norm_dbc = meta_bool_or(k, "ssm.dt_b_c_rms", false);
        a->n_channel = a->d_inner;
        a->ld_in = 2 * a->d_inner;
        a->conv_silu = true;
    }
}

/* Rows of `in` are z [d_inner], the channels (x, B, C) and dt [n_head]. */
static void add_mamba2(struct meta *k, struct model *m, uint32_t il)
{
    struct model_ssm *a = arch_add_ssm(k, m, il);
    if (!a) {
        return;
    }
    a->kind = MODEL_SSM_MAMBA2;
    a->d_conv = meta_u32(k, "ssm.conv_kernel", 2, CONV_MAX);
    a->d_inner = meta_u32(k, "ssm.inner_size", 1, INNER_MAX);
    a->d_state = meta_u32(k, "ssm.state_size", 1, SSM_STATE_MAX);
    a->n_head = meta_u32(k, "ssm.time_step_rank", 1, INNER_MAX);
    a->n_group = meta_u32(k, "ssm.group_count", 1, INNER_MAX);
    a->n_channel = a->d_inner + 2 * a->n_group * a->d_state;
    a->ld_in = a->d_inner + a->n_channel + a->n_head;
    a->conv_at = a->d_inner;
    a->conv_silu = true;
}

void arch_read_mamba2(struct meta *k, struct model *m)
{
    m->no_ffn = true;
    use_no_rope(m);
    for (uint32_t i = 0; i < m->n_layer && !k->code; i++) {
        add_mamba2(k, m, i);
    }
}

/* Layers without KV heads are Mamba 2. */
void arch_read_granitehybrid(struct meta *k, struct model *m)
{
    arch_read_granite(k, m);
    for (uint32_t i = 0; i < m->n_layer && !k->code; i++) {
        if (m->layers[i].n_head_kv == 0) {
            add_mamba2(k, m, i);
        }
    }
}

/* ---- LFM2 -------------------------------------------------------------------------------------
 */

/* Layers without KV heads are gated short convolutions. */
void arch_read_lfm2(struct meta *k, struct model *m)
{
    arch_use_rope_halves(m);
    m->qk_norm = MODEL_QK_NORM_HEAD;
    m->final_norm_name = "token_embd_norm";
    for (uint32_t i = 0; i < m->n_layer && !k->code; i++) {
        if (m->layers[i].n_head_kv != 0) {
            continue;
        }
        struct model_ssm *a = arch_add_ssm(k, m, i);
        if (!a) {
            return;
        }
        a->kind = MODEL_SSM_SHORT_CONV;
        a->d_conv = meta_u32(k, "shortconv.l_cache", 2, CONV_MAX);
        a->d_inner = m->n_embd;
        a->n_channel = m->n_embd;
        a->ld_in = 3 * m->n_embd;
        a->conv_at = 2 * m->n_embd;
    }
}

void arch_read_lfm2moe(struct meta *k, struct model *m)
{
    arch_read_lfm2(k, m);
    if (!meta_has(k, "expert_gating_func")) {
        m->gating = MODEL_GATING_SIGMOID;
    }
}

/* ---- Qwen3-Next, Qwen 3.5 ---------------------------------------------------------------------
 */

/* One layer in full_attention_interval (the last of each) has attention, whose result is gated; the
 * others are gated delta nets. */
static void read_delta_nets(struct meta *k, struct model *m, bool heads_tiled)
{
    uint32_t interval = meta_u32_or(k, "full_attention_interval", 1, MODEL_LAYER_MAX, 4);
    arch_use_rope_halves(m);
    m->qk_norm = MODEL_QK_NORM_HEAD;
    m->ffn_norm_name = "post_attention_norm";
    m->q_gated = true;
    for (uint32_t i = 0; i < m->n_layer && !k->code; i++) {
        if ((i + 1) % interval == 0) {
            continue;
        }
        struct model_ssm *a = arch_add_ssm(k, m, i);
        if (!a) {
            return;
        }
        a->kind = MODEL_SSM_DELTA_NET;
        a->d_conv = meta_u32(k, "ssm.conv_kernel", 2, CONV_MAX);
        a->d_inner = meta_u32(k, "ssm.inner_size", 1, INNER_MAX);
        a->d_state = meta_u32(k, "ssm.state_size", 1, SSM_STATE_MAX);
        a->n_head = meta_u32(k, "ssm.time_step_rank", 1, INNER_MAX);
        a->n_group = meta_u32(k, "ssm.group_count", 1, INNER_MAX);
        a->n_channel = a->d_inner + 2 * a->n_group * a->d_state;
        a->ld_in = a->n_channel;
        a->conv_silu = true;
        a->heads_tiled = heads_tiled;
    }
}

void arch_read_qwen3next(struct meta *k, struct model *m)
{
    read_delta_nets(k, m, false);
}

/* qwen35, qwen35moe */
void arch_read_qwen35(struct meta *k, struct model *m)
{
    read_delta_nets(k, m, true);
}
