#include "engine/forward_parts.h"

#include "base/units.h"
#include "engine/quant/formats.h"

#include <math.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#define SCRATCH_ALIGN     64
#define N_TOK_MAX         512
#define N_TOK_MIN         64
#define SCRATCH_BYTES_MAX (384ull << 20)
#define N_OUT_MAX         256
#define N_OUT_MIN         64
#define LOGITS_BYTES_MAX  (128ull << 20)
#define ITEM_VALUES       8192 /* a pool item should touch at least so many values */

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
    struct widths w = {.ff = m->n_ff_shared};
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
    f->n_tok_max = N_TOK_MAX;
    for (;;) {
        struct parts ps = {.n = 0};
        want_all(&ps, f, f->n_tok_max, 0);
        want_moe(&ps, f, f->n_tok_max);
        if (parts_bytes(&ps) <= SCRATCH_BYTES_MAX || f->n_tok_max <= N_TOK_MIN) {
            break;
        }
        f->n_tok_max /= 2;
    }
    if (f->n_out_max > f->n_tok_max) {
        f->n_out_max = f->n_tok_max;
    }
}

static enum err_code take_scratch(struct fwd *f, struct err *e)
{
    struct parts ps = {.n = 0};
    want_all(&ps, f, f->n_tok_max, f->n_out_max);
    want_moe(&ps, f, f->n_tok_max);
    uint64_t n_byte = parts_bytes(&ps);
    f->memory = aligned_alloc(SCRATCH_ALIGN, n_byte);
    if (!f->memory) {
        return err_set(e, ERR_NOMEM, "out of memory for %llu bytes of scratch",
                       (unsigned long long)n_byte);
    }
    memset(f->memory, 0, n_byte);
    char *at = f->memory;
    for (uint32_t i = 0; i < ps.n; i++) {
        memcpy(ps.list[i].ret_p, &at, sizeof at);
        at += ps.list[i].n_byte;
    }
    return ERR_OK;
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
            f->last_kv_layer = i;
        }
    }
    choose_limits(f);
    enum err_code code = take_scratch(f, e);
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
    for (uint32_t i = 0; f->moe.acts && i < f->env.m->n_expert; i++) {
        gemm_act_finish(&f->moe.acts[i]);
    }
    free(f->memory);
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

/* ---- work on rows -----------------------------------------------------------------------------
 */

struct rows_job {
    const struct fwd *f;
    fwd_row_fn fn;
    const void *arg;
    uint32_t n_row;
    uint32_t n_per_item;
};

static void rows_item(void *arg, uint32_t item, uint32_t worker)
{
    (void)worker;
    const struct rows_job *j = arg;
    uint32_t from = item * j->n_per_item;
    uint32_t to = j->n_row - from < j->n_per_item ? j->n_row : from + j->n_per_item;
    for (uint32_t row = from; row < to; row++) {
        j->fn(j->f, j->arg, row);
    }
}

void fwd_rows(const struct fwd *f, uint32_t n_row, size_t n_value, fwd_row_fn fn, const void *arg)
{
    if (n_row == 0) {
        return;
    }
    uint32_t n_per_item = n_value >= ITEM_VALUES ? 1 : (uint32_t)(ITEM_VALUES / (n_value + 1)) + 1;
    struct rows_job j = {f, fn, arg, n_row, n_per_item};
    eng_pool_run(f->env.pool, (n_row + n_per_item - 1) / n_per_item, rows_item, &j);
}

void fwd_norm_row(const struct fwd *f, const struct model_norm *norm, float *y, const float *x,
                  uint32_t n, uint32_t n_group)
{
    const struct model *m = f->env.m;
    for (uint32_t g = 0; g < n_group; g++) {
        size_t at = (size_t)g * n;
        const float *w = norm->w && norm->per_group ? norm->w + at : norm->w;
        if (m->layernorm) {
            f->env.vec->layernorm(y + at, x + at, w, norm->b, n, m->norm_eps);
        } else {
            f->env.vec->rmsnorm(y + at, x + at, w, n, m->norm_eps);
        }
    }
}

struct norm_arg {
    const struct model_norm *norm;
    float *dst;
    const float *src;
};

static void norm_row(const struct fwd *f, const void *arg, uint32_t row)
{
    const struct norm_arg *a = arg;
    size_t at = (size_t)row * f->env.m->n_embd;
    fwd_norm_row(f, a->norm, a->dst + at, a->src + at, f->env.m->n_embd, 1);
}

void fwd_norm(const struct fwd *f, const struct model_norm *norm, float *dst, const float *src)
{
    struct norm_arg a = {norm, dst, src};
    fwd_rows(f, f->n_row, f->env.m->n_embd, norm_row, &a);
}

/* Activations are made for the weight that asks most of them; others read the f32 rows as they are.
 */
static int act_rank(const struct fwd_product *p)
{
    enum gguf_type t = p->lin->w.type;
    return t == GGUF_TYPE_F32 || t == GGUF_TYPE_F16 ? 0 : t == GGUF_TYPE_BF16 ? 1 : 2;
}

enum err_code fwd_products(struct fwd *f, const float *x, uint32_t n_row,
                           const struct fwd_product *products, uint32_t n_product, struct err *e)
{
    const struct fwd_product *first = &products[0];
    for (uint32_t i = 1; i < n_product; i++) {
        first = act_rank(&products[i]) > act_rank(first) ? &products[i] : first;
    }
    const struct gemm_weight *w = &first->lin->w;
    enum err_code code = gemm_act_prepare(f->env.gemm, w, x, w->n_in, n_row, &f->act, e);
    if (code) {
        return code;
    }
    struct gemm_job jobs[FWD_JOB_MAX];
    for (uint32_t i = 0; i < n_product; i++) {
        const struct fwd_product *p = &products[i];
        jobs[i] = (struct gemm_job){.w = &p->lin->w,
                                    .act = &f->act,
                                    .y = p->y,
                                    .ldy = p->lin->w.n_out,
                                    .bias = p->lin->b,
                                    .add = p->add};
    }
    gemm_run(f->env.gemm, jobs, n_product);
    return ERR_OK;
}

/* ---- the step ---------------------------------------------------------------------------------
 */

static enum err_code check_slice(const struct model *m, const struct eng_slice *s, uint32_t i,
                                 struct err *e)
{
    if (s->n_tok == 0 || !s->tokens || !s->kv) {
        return err_set(e, ERR_INVALID, "slice %u has no tokens or no KV memory", i);
    }
    if (s->out_from > s->n_tok) {
        return err_set(e, ERR_INVALID, "slice %u wants logits from row %u of %u", i, s->out_from,
                       s->n_tok);
    }
    if (s->pos > m->n_ctx || s->n_tok > m->n_ctx - s->pos) {
        return err_set(e, ERR_LIMIT, "slice %u ends at position %llu, the context is %u", i,
                       (unsigned long long)s->pos + s->n_tok, m->n_ctx);
    }
    for (uint32_t t = 0; t < s->n_tok; t++) {
        if (s->tokens[t] < 0 || (uint32_t)s->tokens[t] >= m->n_vocab) {
            return err_set(e, ERR_INVALID, "token %d of slice %u is %d, the vocabulary is 0 to %u",
                           (int)t, i, (int)s->tokens[t], m->n_vocab - 1);
        }
    }
    return ERR_OK;
}

static enum err_code check_slices(const struct fwd *f, const struct eng_slice *slices,
                                  uint32_t n_slice, struct err *e)
{
    uint64_t n_row = 0;
    uint64_t n_out = 0;
    for (uint32_t i = 0; i < n_slice; i++) {
        enum err_code code = check_slice(f->env.m, &slices[i], i, e);
        if (code) {
            return code;
        }
        n_row += slices[i].n_tok;
        n_out += slices[i].n_tok - slices[i].out_from;
    }
    if (n_row > f->n_tok_max || n_out > f->n_out_max) {
        return err_set(
            e, ERR_LIMIT, "a step of %llu rows, %llu with logits, is more than %u and %u",
            (unsigned long long)n_row, (unsigned long long)n_out, f->n_tok_max, f->n_out_max);
    }
    return ERR_OK;
}

/* Lays the slices' tokens out as rows. */
static void lay_rows(struct fwd *f, const struct eng_slice *slices, uint32_t n_slice)
{
    f->n_row = 0;
    f->n_slice = n_slice;
    for (uint32_t i = 0; i < n_slice; i++) {
        const struct eng_slice *s = &slices[i];
        f->slices[i] = (struct fwd_slice){.kv = s->kv,
                                          .pos = s->pos,
                                          .row0 = f->n_row,
                                          .n_row = s->n_tok,
                                          .n_out = s->n_tok - s->out_from};
        for (uint32_t t = 0; t < s->n_tok; t++) {
            f->token[f->n_row] = s->tokens[t];
            f->pos[f->n_row] = s->pos + t;
            f->n_row++;
        }
    }
}

/* One row of a matrix that stayed in the mapped file, as f32. */
static void file_row(const struct gguf_tensor *t, uint64_t row, float *dst)
{
    const struct quant_format *format = quant_format_of(t->type);
    size_t row_bytes = t->ne[0] / format->n_block_elem * format->n_block_byte;
    format->dequant((const char *)t->data + row * row_bytes, dst, t->ne[0]);
}

/* x = embedding of the token (+ of the position); the row's rotary angles. */
static void embed_row(const struct fwd *f, const void *arg, uint32_t row)
{
    (void)arg;
    const struct model *m = f->env.m;
    const struct vec_ops *vec = f->env.vec;
    float *x = f->x + (size_t)row * m->n_embd;
    uint32_t token = (uint32_t)f->token[row];
    if (m->tied) {
        gemm_weight_row(f->env.gemm, &m->output.w, token, x);
    } else {
        file_row(m->embed, token, x);
    }
    if (m->embed_scale != 1.0f) {
        vec->scale(x, x, m->embed_scale, m->n_embd);
    }
    if (m->pos_embed) {
        vec->add(x, x, m->pos_embed + (size_t)f->pos[row] * m->n_embd, m->n_embd);
    }
    for (uint32_t i = 0; i < m->n_rope; i++) {
        rope_row(&m->ropes[i], f->pos[row], f->cos_sin[i] + (size_t)row * m->ropes[i].n_rot);
    }
}

static void scale_logits_row(const struct fwd *f, const void *arg, uint32_t row)
{
    (void)arg;
    const struct model *m = f->env.m;
    float *y = f->logits + (size_t)row * m->n_vocab;
    if (m->logit_scale != 1.0f) {
        f->env.vec->scale(y, y, m->logit_scale, m->n_vocab);
    }
    if (m->final_softcap != 0.0f) {
        f->env.vec->softcap(y, y, m->final_softcap, m->n_vocab);
    }
}

/* logits [n_row, n_vocab] of the rows that are left. */
static enum err_code output_logits(struct fwd *f, struct err *e)
{
    const struct model *m = f->env.m;
    fwd_norm(f, &m->final_norm, f->h, f->x);
    enum err_code code = fwd_products(
        f, f->h, f->n_row, (const struct fwd_product[]){{.lin = &m->output, .y = f->logits}}, 1, e);
    if (!code && (m->logit_scale != 1.0f || m->final_softcap != 0.0f)) {
        fwd_rows(f, f->n_row, m->n_vocab, scale_logits_row, NULL);
    }
    return code;
}

enum err_code fwd_step(struct fwd *f, struct eng_slice *slices, uint32_t n_slice, struct err *e)
{
    const struct model *m = f->env.m;
    enum err_code code = check_slices(f, slices, n_slice, e);
    if (code || n_slice == 0) {
        return code;
    }
    lay_rows(f, slices, n_slice);
    fwd_rows(f, f->n_row, m->n_embd, embed_row, NULL);
    for (uint32_t il = 0; il < m->n_layer && f->n_row && !code; il++) {
        code = fwd_block(f, il, e);
    }
    if (!code && f->n_row) {
        code = output_logits(f, e);
    }
    float *logits = f->logits;
    for (uint32_t i = 0; i < n_slice; i++) {
        uint32_t n_out = slices[i].n_tok - slices[i].out_from;
        slices[i].logits = n_out ? logits : NULL;
        logits += (size_t)n_out * m->n_vocab;
    }
    return code;
}
