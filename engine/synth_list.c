#include "engine/synth_list.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void add(struct synth_list *l, enum synth_fill fill, float spread, uint64_t ne0,
                uint64_t ne1, uint64_t ne2, const char *fmt, ...)
    __attribute__((format(printf, 7, 8)));

static void add(struct synth_list *l, enum synth_fill fill, float spread, uint64_t ne0,
                uint64_t ne1, uint64_t ne2, const char *fmt, ...)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 256;
        struct synth_tensor *items = realloc(l->items, cap * sizeof *items);
        if (!items) {
            l->failed = true;
            return;
        }
        l->items = items;
        l->cap = cap;
    }
    struct synth_tensor *t = &l->items[l->n++];
    *t = (struct synth_tensor){.type = GGUF_TYPE_F32,
                               .n_dim = ne2   ? 3
                                        : ne1 ? 2
                                              : 1,
                               .ne = {ne0, ne1, ne2, 0},
                               .fill = fill,
                               .spread = spread};
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(t->name, sizeof t->name, fmt, ap);
    va_end(ap);
}

/* A matrix [out, in] whose outputs vary as much as its inputs do, times gain. */
static void add_matrix(struct synth_list *l, uint64_t in, uint64_t out, uint64_t n_expert,
                       float gain, uint32_t layer, const char *name)
{
    add(l, SYNTH_FILL_WEIGHT, gain / sqrtf((float)in), in, out, n_expert, "blk.%u.%s.weight", layer,
        name);
}

static void add_norm(struct synth_list *l, uint64_t n, uint32_t layer, const char *name)
{
    add(l, SYNTH_FILL_NORM, 0, n, 0, 0, "blk.%u.%s.weight", layer, name);
}

static void add_attention(struct synth_list *l, const struct synth_shape *s, uint32_t i,
                          float branch)
{
    uint64_t n_q = (uint64_t)s->n_head * s->head_dim;
    uint64_t n_kv = (uint64_t)s->n_head_kv * s->head_dim;
    add_norm(l, s->n_embd, i, "attn_norm");
    add_matrix(l, s->n_embd, n_q, 0, 1, i, "attn_q");
    add_matrix(l, s->n_embd, n_kv, 0, 1, i, "attn_k");
    add_matrix(l, s->n_embd, n_kv, 0, 1, i, "attn_v");
    add_matrix(l, n_q, s->n_embd, 0, branch, i, "attn_output");
    if (s->qkv_bias) {
        add(l, SYNTH_FILL_WEIGHT, 0.1f, n_q, 0, 0, "blk.%u.attn_q.bias", i);
        add(l, SYNTH_FILL_WEIGHT, 0.1f, n_kv, 0, 0, "blk.%u.attn_k.bias", i);
        add(l, SYNTH_FILL_WEIGHT, 0.1f, n_kv, 0, 0, "blk.%u.attn_v.bias", i);
    }
    if (s->qk_norm) {
        add_norm(l, s->head_dim, i, "attn_q_norm");
        add_norm(l, s->head_dim, i, "attn_k_norm");
    }
}

static void add_ffn(struct synth_list *l, const struct synth_shape *s, uint32_t i, float branch)
{
    add_norm(l, s->n_embd, i, "ffn_norm");
    if (s->n_expert) {
        add_matrix(l, s->n_embd, s->n_expert, 0, 1, i, "ffn_gate_inp");
        add_matrix(l, s->n_embd, s->n_ff_expert, s->n_expert, 1, i, "ffn_gate_exps");
        add_matrix(l, s->n_embd, s->n_ff_expert, s->n_expert, 1, i, "ffn_up_exps");
        add_matrix(l, s->n_ff_expert, s->n_embd, s->n_expert, branch, i, "ffn_down_exps");
    } else {
        add_matrix(l, s->n_embd, s->n_ff, 0, 1, i, "ffn_gate");
        add_matrix(l, s->n_embd, s->n_ff, 0, 1, i, "ffn_up");
        add_matrix(l, s->n_ff, s->n_embd, 0, branch, i, "ffn_down");
    }
}

/* Residual branches shrink with depth, and logits spread by about 2.5; a tied embedding is small
 * beside what the layers add, so that the output does not echo the input. */
void synth_list_tensors(struct synth_list *l, const struct synth_shape *s, uint32_t n_layer,
                        uint64_t n_vocab)
{
    float branch = 2.0f / sqrtf(2.0f * (float)n_layer);
    float out = 2.5f / sqrtf((float)s->n_embd);
    add(l, SYNTH_FILL_WEIGHT, s->tied ? out : 0.5f, s->n_embd, n_vocab, 0, "token_embd.weight");
    if (s->rope_factor > 0) {
        add(l, SYNTH_FILL_ROPE, 0, s->head_dim / 2, 0, 0, "rope_freqs.weight");
    }
    for (uint32_t i = 0; i < n_layer; i++) {
        add_attention(l, s, i, branch);
        add_ffn(l, s, i, branch);
    }
    add(l, SYNTH_FILL_NORM, 0, s->n_embd, 0, 0, "output_norm.weight");
    if (!s->tied) {
        add(l, SYNTH_FILL_WEIGHT, out, s->n_embd, n_vocab, 0, "output.weight");
    }
}
