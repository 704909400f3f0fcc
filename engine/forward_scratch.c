/* The scratch of a forward pass: how much, and where each part of it lies. */
#include "engine/forward_parts.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SCRATCH_ALIGN     64
#define N_TOK_MAX         512
#define N_TOK_MIN         64
#define SCRATCH_BYTES_MAX (384ull << 20)
#define N_TEXT_MAX        8192
#define TEXT_BYTES_MAX    (2048ull << 20)
#define N_OUT_MAX         256
#define N_OUT_MIN         64
#define LOGITS_BYTES_MAX  (128ull << 20)

/* ---- scratch ----------------------------------------------------------------------------------
 */

/* One part of the scratch: where its address goes and its bytes. */
struct part {
    void **ret_p;
    uint64_t n_byte;
};

#define PART_MAX 40

struct parts {
    struct part list[PART_MAX];
    uint32_t n;
};

static void want(struct parts *ps, void *ret_p, uint64_t n_elem, size_t elem_bytes)
{
    if (n_elem) {
        ps->list[ps->n++] = (struct part){ret_p, (n_elem * elem_bytes + SCRATCH_ALIGN - 1) /
                                                     SCRATCH_ALIGN * SCRATCH_ALIGN};
    }
}

/* The widest of each kind of row over all layers. */
struct widths {
    uint32_t q, k, v, att, ff, rope;
};

static uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static struct widths widths_of(const struct model *m)
{
    struct widths w = {.ff = max_u32(m->n_ff_shared, m->n_embd_layer)};
    for (uint32_t i = 0; i < m->n_layer; i++) {
        const struct model_layer *l = &m->layers[i];
        w.q = max_u32(w.q, l->n_head * l->d_k);
        w.k = max_u32(w.k, l->n_head_kv * l->d_k);
        w.v = max_u32(w.v, l->n_head_kv * l->d_v);
        w.att = max_u32(w.att, l->n_head * l->d_v);
        w.ff = max_u32(w.ff, l->n_ff);
    }
    for (uint32_t i = 0; i < m->n_rope; i++) {
        w.rope = max_u32(w.rope, m->ropes[i].n_rot);
    }
    return w;
}

static void want_all(struct parts *ps, struct fwd *f, uint64_t n_tok, uint64_t n_out)
{
    const struct model *m = f->env.m;
    struct widths w = widths_of(m);
    want(ps, &f->slices, n_tok, sizeof *f->slices);
    want(ps, &f->att_slices, n_tok, sizeof *f->att_slices);
    want(ps, &f->token, n_tok, sizeof *f->token);
    want(ps, &f->pos, n_tok, sizeof *f->pos);
    for (uint32_t i = 0; i < m->n_rope; i++) {
        want(ps, &f->cos_sin[i], n_tok * m->ropes[i].n_rot, sizeof(float));
    }
    want(ps, &f->x, n_tok * m->n_embd, sizeof(float));
    want(ps, &f->h, n_tok * m->n_embd, sizeof(float));
    want(ps, &f->h_ffn, n_tok * m->n_embd, sizeof(float));
    want(ps, &f->y, n_tok * m->n_embd, sizeof(float));
    want(ps, &f->q, n_tok * w.q, sizeof(float));
    want(ps, &f->k, n_tok * w.k, sizeof(float));
    want(ps, &f->v, n_tok * w.v, sizeof(float));
    want(ps, &f->att, n_tok * w.att, sizeof(float));
    want(ps, &f->att_gate, m->q_gated ? n_tok * w.att : 0, sizeof(float));
    want(ps, &f->gate, n_tok * w.ff, sizeof(float));
    want(ps, &f->up, n_tok * w.ff, sizeof(float));
    want(ps, &f->logits, n_out * m->n_vocab, sizeof(float));
}

static void want_moe(struct parts *ps, struct fwd *f, uint64_t n_tok)
{
    const struct model *m = f->env.m;
    uint64_t n_slot = n_tok * m->n_expert_used;
    struct fwd_moe *o = &f->moe;
    want(ps, &o->router, n_tok * m->n_expert, sizeof(float));
    want(ps, &o->expert, n_slot, sizeof *o->expert);
    want(ps, &o->weight, n_slot, sizeof(float));
    want(ps, &o->slot, n_slot, sizeof *o->slot);
    want(ps, &o->slot_row, n_slot, sizeof *o->slot_row);
    want(ps, &o->first, m->n_expert + 1, sizeof *o->first);
    want(ps, &o->next, m->n_expert, sizeof *o->next);
    want(ps, &o->in, n_slot * m->n_embd, sizeof(float));
    want(ps, &o->gate, n_slot * m->n_ff_expert, sizeof(float));
    want(ps, &o->up, n_slot * m->n_ff_expert, sizeof(float));
    want(ps, &o->out, n_slot * m->n_embd, sizeof(float));
    want(ps, &o->acts, m->n_expert, sizeof *o->acts);
    want(ps, &o->jobs, 2ull * m->n_expert, sizeof *o->jobs);
}

static void want_ssm(struct parts *ps, struct fwd *f, uint64_t n_tok)
{
    const struct model *m = f->env.m;
    struct fwd_ssm *o = &f->ssm;
    const struct model_ssm *a = NULL;
    for (uint32_t i = 0; i < m->n_layer; i++) {
        a = m->layers[i].ssm ? m->layers[i].ssm : a; /* all of a model have the same sizes */
    }
    if (!a) {
        return;
    }
    want(ps, &o->in, n_tok * a->ld_in, sizeof(float));
    want(ps, &o->conv, n_tok * a->n_channel, sizeof(float));
    want(ps, &o->gate, n_tok * a->d_inner, sizeof(float));
    want(ps, &o->dbc, n_tok * (a->dt_rank + 2ull * a->d_state), sizeof(float));
    want(ps, &o->dt, n_tok * max_u32(a->d_inner, a->n_head), sizeof(float));
    want(ps, &o->beta, n_tok * 2ull * a->n_head, sizeof(float));
    want(ps, &o->y, n_tok * a->d_inner, sizeof(float));
}

static void want_special(struct parts *ps, struct fwd *f, uint64_t n_tok)
{
    const struct model *m = f->env.m;
    uint64_t n_head = m->layers[0].n_head;
    if (m->kv_rank) {
        want(ps, &f->mla.q_a, n_tok * m->q_rank, sizeof(float));
        want(ps, &f->mla.q, n_tok * n_head * (m->d_nope + m->ropes[0].n_rot), sizeof(float));
        want(ps, &f->mla.out, n_tok * n_head * m->d_v_mla, sizeof(float));
        want(ps, &f->mla.acts, n_head, sizeof *f->mla.acts);
        want(ps, &f->mla.jobs, n_head, sizeof *f->mla.jobs);
    }
    want_ssm(ps, f, n_tok);
    want(ps, &f->layer_in, n_tok * m->n_layer * m->n_embd_layer, sizeof(float));
    want(ps, &f->layer_embed, n_tok * m->n_layer * m->n_embd_layer, sizeof(float));
}

static uint64_t parts_bytes(const struct parts *ps)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < ps->n; i++) {
        sum += ps->list[i].n_byte;
    }
    return sum;
}

/* As many rows as keep the scratch within its budget. */
static void choose_limits(struct fwd *f)
{
    uint64_t logits_bytes = (uint64_t)f->env.m->n_vocab * sizeof(float);
    uint64_t n_out = LOGITS_BYTES_MAX / logits_bytes;
    f->n_out_max = n_out < N_OUT_MIN ? N_OUT_MIN : n_out > N_OUT_MAX ? N_OUT_MAX : (uint32_t)n_out;
    uint64_t n_byte_max = SCRATCH_BYTES_MAX;
    f->n_tok_max = N_TOK_MAX;
    if (f->env.m->encoder) { /* a text is read in one step */
        uint32_t n_ctx = f->env.m->n_ctx;
        f->n_tok_max = n_ctx < N_TOK_MAX ? N_TOK_MAX : n_ctx < N_TEXT_MAX ? n_ctx : N_TEXT_MAX;
        n_byte_max = TEXT_BYTES_MAX;
    }
    for (;;) {
        struct parts ps = {.n = 0};
        want_all(&ps, f, f->n_tok_max, 0);
        want_moe(&ps, f, f->n_tok_max);
        want_special(&ps, f, f->n_tok_max);
        if (parts_bytes(&ps) <= n_byte_max || f->n_tok_max <= N_TOK_MIN) {
            break;
        }
        f->n_tok_max /= 2;
    }
    if (f->n_out_max > f->n_tok_max) {
        f->n_out_max = f->n_tok_max;
    }
}

/* Straight from the kernel: zeroed, and resident only as far as steps reach. */
static enum err_code take_scratch(struct fwd *f, struct err *e)
{
    struct parts ps = {.n = 0};
    want_all(&ps, f, f->n_tok_max, f->n_out_max);
    want_moe(&ps, f, f->n_tok_max);
    want_special(&ps, f, f->n_tok_max);
    f->memory_bytes = parts_bytes(&ps);
    f->memory = mmap(NULL, f->memory_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (f->memory == MAP_FAILED) {
        f->memory = NULL;
        return err_set(e, ERR_NOMEM, "out of memory for %llu bytes of scratch",
                       (unsigned long long)f->memory_bytes);
    }
    /* Products write down columns of these rows: with small pages, each line is a page. Advice. */
    (void)madvise(f->memory, f->memory_bytes, MADV_HUGEPAGE);
    char *at = f->memory;
    for (uint32_t i = 0; i < ps.n; i++) {
        memcpy(ps.list[i].ret_p, &at, sizeof at);
        at += ps.list[i].n_byte;
    }
    return ERR_OK;
}

/* Prepares a step's worth of rows for w once, so that the activations' memory is taken now. */
static enum err_code grow_act(struct fwd *f, const struct model_linear *lin, const float *rows,
                              struct err *e)
{
    const struct gemm_weight *w = &lin->w;
    return w->data ? gemm_act_prepare(f->env.gemm, w, rows, w->n_in, f->n_tok_max, &f->act, e)
                   : ERR_OK;
}

static enum err_code grow_acts(struct fwd *f, struct err *e)
{
    const struct model *m = f->env.m;
    enum err_code code = grow_act(f, &m->output, f->h, e);
    for (uint32_t i = 0; i < m->n_layer && !code; i++) {
        const struct model_layer *l = &m->layers[i];
        bool seen = i > 0 && l->ffn.down.w.type == l[-1].ffn.down.w.type &&
                    l->q.w.type == l[-1].q.w.type && l->o.w.type == l[-1].o.w.type;
        if (seen) {
            continue;
        }
        const float *heads = l->mla ? f->mla.out : f->att;
        code = grow_act(f, &l->q, l->mla && l->mla->q_a.w.data ? f->mla.q_a : f->h, e);
        code = code ? code : grow_act(f, &l->o, heads, e);
        code = code ? code : grow_act(f, &l->ffn.up, f->h_ffn, e);
        code = code ? code : grow_act(f, &l->ffn.down, f->gate, e);
        if (l->ssm) {
            code = code ? code : grow_act(f, &l->ssm->in, f->h, e);
            code = code ? code : grow_act(f, &l->ssm->x, f->ssm.conv, e);
            code = code ? code : grow_act(f, &l->ssm->out, f->ssm.y, e);
        }
    }
    return code;
}

enum err_code fwd_create(const struct fwd_env *env, struct fwd **ret_f, struct err *e)
{
    struct fwd *f = calloc(1, sizeof *f);
    if (!f) {
        return err_set(e, ERR_NOMEM, "out of memory for a forward pass");
    }
    f->env = *env;
    for (uint32_t i = 0; i < env->m->n_layer; i++) {
        if (env->m->layers[i].kv_layer == i) {
            f->last_memory_layer = i;
        }
    }
    choose_limits(f);
    enum err_code code = take_scratch(f, e);
    code = code ? code : grow_acts(f, e);
    code = code ? code : fwd_lora_create(f, e);
    if (code) {
        fwd_destroy(f);
        return code;
    }
    *ret_f = f;
    return ERR_OK;
}

void fwd_destroy(struct fwd *f)
{
    if (!f) {
        return;
    }
    gemm_act_finish(&f->act);
    fwd_lora_destroy(f);
    for (uint32_t i = 0; f->moe.acts && i < f->env.m->n_expert; i++) {
        gemm_act_finish(&f->moe.acts[i]);
    }
    for (uint32_t i = 0; f->mla.acts && i < f->env.m->layers[0].n_head; i++) {
        gemm_act_finish(&f->mla.acts[i]);
    }
    if (f->memory) {
        (void)munmap(f->memory, f->memory_bytes);
    }
    free(f);
}

uint32_t fwd_n_tok_max(const struct fwd *f)
{
    return f->n_tok_max;
}

uint32_t fwd_n_out_max(const struct fwd *f)
{
    return f->n_out_max;
}
