#include "engine/forward_parts.h"

#include "engine/quant/formats.h"

#include <string.h>

#define ITEM_VALUES 8192 /* a pool item should touch at least so many values */

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
            if (norm->b) {
                f->env.vec->add(y + at, y + at, norm->b, n);
            }
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

/* fwd_products of rows [row0, row0 + n_row) of the step. */
static enum err_code products_from(struct fwd *f, const float *x, uint32_t row0, uint32_t n_row,
                                   const struct fwd_product *products, uint32_t n_product,
                                   struct err *e)
{
    const struct gemm_weight *w = &products[0].lin->w;
    for (uint32_t i = 1; i < n_product; i++) {
        const struct gemm_weight *other = &products[i].lin->w;
        w = gemm_weight_act_rank(other) > gemm_weight_act_rank(w) ? other : w;
    }
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
    return fwd_lora_products(f, x, row0, n_row, products, jobs, n_product, e);
}

enum err_code fwd_products(struct fwd *f, const float *x, uint32_t n_row,
                           const struct fwd_product *products, uint32_t n_product, struct err *e)
{
    return products_from(f, x, 0, n_row, products, n_product, e);
}

/* ---- the step ---------------------------------------------------------------------------------
 */

enum err_code fwd_product_strided(struct fwd *f, const struct model_linear *lin, const float *x,
                                  size_t ldx, uint32_t n_row, float *y, struct err *e)
{
    enum err_code code = gemm_act_prepare(f->env.gemm, &lin->w, x, ldx, n_row, &f->act, e);
    if (!code) {
        struct gemm_job job = {
            .w = &lin->w, .act = &f->act, .y = y, .ldy = lin->w.n_out, .bias = lin->b};
        gemm_run(f->env.gemm, &job, 1);
    }
    return code;
}

static enum err_code check_slice(const struct fwd *f, const struct eng_slice *s, uint32_t i,
                                 struct err *e)
{
    const struct model *m = f->env.m;
    uint32_t n_adapter = f->env.loras ? f->env.loras->n : 0;
    if (s->adapter > n_adapter) {
        return err_set(e, ERR_INVALID, "slice %u wants adapter %u of %u", i, s->adapter, n_adapter);
    }
    if (s->n_tok == 0 || !s->tokens || !s->kv) {
        return err_set(e, ERR_INVALID, "slice %u has no tokens or no KV memory", i);
    }
    if (m->state_bytes && (!s->state || (uintptr_t)s->state % 64 != 0)) {
        return err_set(e, ERR_INVALID, "slice %u has no memory for its recurrent state", i);
    }
    if (s->out_from > s->n_tok) {
        return err_set(e, ERR_INVALID, "slice %u wants logits from row %u of %u", i, s->out_from,
                       s->n_tok);
    }
    if (m->encoder && (s->pos || !s->want_hidden)) {
        return err_set(e, ERR_INVALID,
                       "slice %u: this model reads a text in one piece and gives hidden states", i);
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
        enum err_code code = check_slice(f, &slices[i], i, e);
        if (code) {
            return code;
        }
        n_row += slices[i].n_tok;
        n_out += slices[i].want_hidden ? 0 : slices[i].n_tok - slices[i].out_from;
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
        if (s->pos == 0 && f->env.m->state_bytes) {
            memset(s->state, 0, f->env.m->state_bytes);
        }
        f->slices[i] = (struct fwd_slice){.kv = s->kv,
                                          .state = s->state,
                                          .pos = s->pos,
                                          .row0 = f->n_row,
                                          .n_row = s->n_tok,
                                          .n_out = s->n_tok - s->out_from,
                                          .adapter = s->adapter};
        for (uint32_t t = 0; t < s->n_tok; t++) {
            f->token[f->n_row] = s->tokens[t];
            f->pos[f->n_row] = s->pos + t;
            f->n_row++;
        }
    }
}

void fwd_file_row(const struct gguf_tensor *t, uint64_t row, float *dst)
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
        fwd_file_row(m->embed, token, x);
    }
    if (m->embed_scale != 1.0f) {
        vec->scale(x, x, m->embed_scale, m->n_embd);
    }
    if (m->pos_embed) {
        vec->add(x, x, m->pos_embed + (size_t)f->pos[row] * m->n_embd, m->n_embd);
    }
    if (m->type_embed) {
        vec->add(x, x, m->type_embed, m->n_embd);
    }
    if (m->embed_norm.present) {
        fwd_norm_row(f, &m->embed_norm, x, x, m->n_embd, 1);
    }
    for (uint32_t i = 0; i < m->n_rope; i++) {
        rope_row(&m->ropes[i], f->pos[row], f->cos_sin[i] + (size_t)row * m->ropes[i].n_rot);
    }
}

static void scale_logits_row(const struct fwd *f, const void *arg, uint32_t row)
{
    const struct model *m = f->env.m;
    float *y = (float *)(uintptr_t)arg + (size_t)row * m->n_vocab;
    if (m->logit_scale != 1.0f) {
        f->env.vec->scale(y, y, m->logit_scale, m->n_vocab);
    }
    if (m->final_softcap != 0.0f) {
        f->env.vec->softcap(y, y, m->final_softcap, m->n_vocab);
    }
}

/* logits [n_row, n_vocab] of rows [row0, row0 + n_row) of h. */
static enum err_code output_logits(struct fwd *f, uint32_t row0, uint32_t n_row, float *logits,
                                   struct err *e)
{
    const struct model *m = f->env.m;
    struct fwd_product output = {.lin = &m->output, .y = logits};
    enum err_code code =
        products_from(f, f->h + (size_t)row0 * m->n_embd, row0, n_row, &output, 1, e);
    if (!code && (m->logit_scale != 1.0f || m->final_softcap != 0.0f)) {
        fwd_rows(f, n_row, m->n_vocab, scale_logits_row, logits);
    }
    return code;
}

/* The last norm on the rows that are left, and what each slice asked for; neighbouring slices that
 * want logits share a product. */
static enum err_code output(struct fwd *f, struct eng_slice *slices, uint32_t n_slice,
                            struct err *e)
{
    const struct model *m = f->env.m;
    const struct model_norm *norm = &m->final_norm;
    float *logits = f->logits;
    enum err_code code = ERR_OK;
    if (norm->present) {
        fwd_norm(f, norm, f->h, f->x);
    } else if (f->n_row) {
        memcpy(f->h, f->x, (size_t)f->n_row * m->n_embd * sizeof *f->h);
    }
    uint32_t row = 0;
    for (uint32_t i = 0; i < n_slice && !code;) {
        uint32_t n_row = 0;
        uint32_t first = i;
        for (; i < n_slice && slices[i].want_hidden == slices[first].want_hidden; i++) {
            uint32_t n_out = slices[i].n_tok - slices[i].out_from;
            bool hidden = slices[i].want_hidden;
            slices[i].hidden = hidden && n_out ? f->h + (size_t)(row + n_row) * m->n_embd : NULL;
            slices[i].logits = hidden || !n_out ? NULL : logits + (size_t)n_row * m->n_vocab;
            n_row += n_out;
        }
        if (!slices[first].want_hidden && n_row) {
            code = output_logits(f, row, n_row, logits, e);
            logits += (size_t)n_row * m->n_vocab;
        }
        row += n_row;
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
    if (m->n_embd_layer) {
        code = fwd_layer_inputs(f, e);
    }
    for (uint32_t il = 0; il < m->n_layer && f->n_row && !code; il++) {
        code = fwd_block(f, il, e);
    }
    return code ? code : output(f, slices, n_slice, e);
}
