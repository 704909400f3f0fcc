/* The tensors of a whole model. */
#include "engine/arch/arch.h"
#include "engine/load.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN_MAX 64

/* Every token is of the first type: the others tell the two texts of a pair apart. */
static void load_token_type(struct loader *L)
{
    const struct gguf_tensor *t = gguf_find_tensor(L->f, "token_types.weight");
    if (t) {
        t = load_take(L, "token_types.weight", L->m->n_embd, t->ne[1], 1, true);
        L->m->type_embed = t ? load_f32(L, t, 0, L->m->n_embd) : NULL;
    }
    if (L->m->type_embed) {
        load_done(L, t);
    }
}

/* The one-per-model tensors before the blocks. */
static void load_embeddings(struct loader *L)
{
    struct model *m = L->m;
    m->embed = load_take(L, "token_embd.weight", m->n_embd, m->n_vocab, 1, true);
    m->tied = !m->encoder && !load_has(L, -1, "output.weight");
    if (m->embed && !m->tied) {
        load_hash(L, m->embed);
    }
    if (m->n_embd_layer) {
        uint32_t n = m->n_layer * m->n_embd_layer;
        m->layer_embed = load_take(L, "per_layer_token_embd.weight", n, m->n_vocab, 1, true);
        if (m->layer_embed) {
            load_hash(L, m->layer_embed);
        }
        load_linear(L, -1, "per_layer_model_proj", n, m->n_embd, &m->layer_embed_proj, true);
        load_norm(L, -1, "per_layer_proj_norm", m->n_embd_layer, &m->layer_embed_norm, true);
    }
    if (strcmp(m->final_norm_name, "token_embd_norm") != 0) { /* LFM2's name for its last norm */
        load_norm(L, -1, "token_embd_norm", m->n_embd, &m->embed_norm, false);
    }
    load_token_type(L);
    if (m->learned_positions) {
        const struct gguf_tensor *t =
            load_take(L, "position_embd.weight", m->n_embd, m->n_ctx_train, 1, true);
        m->pos_embed = t ? load_f32(L, t, 0, t->n_elem) : NULL;
        if (m->pos_embed) {
            load_done(L, t);
        }
    }
}

/* One slope per head: powers of 2^(-max/n), and those of half the step for heads beyond the last
 * power of two. */
static void make_alibi(struct loader *L)
{
    struct model *m = L->m;
    if (m->alibi_bias_max == 0.0f || L->code) {
        return;
    }
    uint32_t n_head = m->layers[0].n_head;
    uint32_t n_pow2 = 1;
    while (n_pow2 * 2 <= n_head) {
        n_pow2 *= 2;
    }
    m->alibi = malloc(n_head * sizeof *m->alibi);
    if (!m->alibi) {
        L->code = err_set(L->e, ERR_NOMEM, "out of memory for %u slopes", n_head);
        return;
    }
    for (uint32_t h = 0; h < n_head; h++) {
        double step = h < n_pow2 ? h + 1.0 : (2.0 * (h - n_pow2) + 1.0) / 2.0;
        m->alibi[h] = (float)pow(2.0, -(double)m->alibi_bias_max / n_pow2 * step);
    }
}

static void load_ropes(struct loader *L)
{
    struct model *m = L->m;
    uint32_t n_pair = m->rope_params[0].n_rot / 2;
    bool is_long = m->n_ctx > m->rope_params[0].n_ctx_orig;
    float *llama3 = load_vector(L, "rope_freqs.weight", n_pair, false);
    float *longs = load_vector(L, "rope_factors_long.weight", n_pair, false);
    float *shorts = load_vector(L, "rope_factors_short.weight", n_pair, false);
    m->rope_params[0].freq_factors = llama3 ? llama3 : is_long ? longs : shorts;
    m->rope_is_long = longs && is_long;
    for (uint32_t i = 0; i < m->n_rope && !L->code; i++) {
        L->code = rope_init(&m->ropes[i], &m->rope_params[i], L->e);
    }
    m->rope_params[0].freq_factors = NULL;
    free(llama3);
    free(longs);
    free(shorts);
}

static void load_output(struct loader *L)
{
    struct model *m = L->m;
    char full[LOAD_NAME_BYTES];
    load_norm(L, -1, m->final_norm_name, m->n_embd, &m->final_norm, !m->sum_norm);
    if (m->encoder) {
        return;
    }
    if (!m->tied) {
        load_linear(L, -1, "output", m->n_vocab, m->n_embd, &m->output, true);
        return;
    }
    if (!L->code) {
        load_rows(L, m->embed, 0, 0, m->n_vocab, &m->output.w);
    }
    if (!L->code) {
        load_done(L, m->embed);
    }
    m->output.b = load_vector(L, load_name(full, -1, "output", ".bias"), m->n_vocab, false);
}

/* What the engine does not know could change every answer: refuse it. */
static void refuse_unused(struct loader *L)
{
    unsigned n_layer = L->m->n_layer;
    for (uint64_t i = 0; i < gguf_n_tensor(L->f) && !L->code; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(L->f, i);
        char name[SHOWN_MAX];
        snprintf(name, sizeof name, "%.*s", (int)(t->name.n < SHOWN_MAX ? t->name.n : SHOWN_MAX),
                 t->name.s);
        unsigned il;
        if (L->used[i] || (sscanf(name, "blk.%u.", &il) == 1 && il >= n_layer)) {
            continue; /* blocks beyond the last predict further tokens; not run */
        }
        L->code = err_set(L->e, ERR_UNSUPPORTED,
                          "tensor %s has no place in architecture %s as this version knows it",
                          name, L->m->arch->name);
    }
}

static void count_weights(struct loader *L)
{
    for (uint64_t i = 0; i < gguf_n_tensor(L->f); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(L->f, i);
        L->total_bytes += t->n_byte;
        L->m->n_param += t->n_elem;
    }
    L->m->weights_bytes = L->total_bytes;
}

enum err_code model_load_tensors(struct model *m, const struct gguf *f, struct gemm_ctx *gemm,
                                 struct eng_pool *pool, const struct eng_options *options,
                                 struct err *e)
{
    struct loader L = {.m = m, .f = f, .gemm = gemm, .pool = pool, .options = options, .e = e};
    L.used = calloc(gguf_n_tensor(f) + 1, sizeof *L.used);
    L.digests = calloc(gguf_n_tensor(f) + 1, sizeof *L.digests);
    if (!L.used || !L.digests) {
        free(L.used);
        free(L.digests);
        return err_set(e, ERR_NOMEM, "out of memory for the tensor table");
    }
    m->floats_only = true;
    count_weights(&L);
    load_embeddings(&L);
    load_ropes(&L);
    make_alibi(&L);
    for (uint32_t il = 0; il < m->n_layer && !L.code; il++) {
        load_block(&L, (int)il);
    }
    load_output(&L);
    refuse_unused(&L);
    load_digest(&L);
    free(L.used);
    free(L.digests);
    return L.code;
}
