#include "engine/kernels/gemm_float.h"

#include <string.h>

static size_t elem_bytes(enum gguf_type type)
{
    return type == GGUF_TYPE_F32 ? 4 : 2;
}

size_t gemm_float_group_bytes(enum gguf_type type, uint32_t n_in)
{
    return elem_bytes(type) * FLOAT_GROUP_OUT * n_in;
}

void gemm_float_pack(const struct gemm_weight *w, const uint8_t *src, uint32_t group, uint8_t *dst)
{
    size_t elem = elem_bytes(w->type);
    size_t panel = elem * FLOAT_PANEL_OUT * w->n_in;
    for (uint32_t o = 0; o < FLOAT_GROUP_OUT; o++) {
        uint32_t row = group * FLOAT_GROUP_OUT + o;
        const uint8_t *s = src + elem * w->n_in * row;
        uint8_t *d = dst + o / FLOAT_PANEL_OUT * panel + o % FLOAT_PANEL_OUT * elem;
        for (size_t k = 0; k < w->n_in; k++) {
            if (row < w->n_out) {
                memcpy(d + k * FLOAT_PANEL_OUT * elem, s + k * elem, elem);
            } else {
                memset(d + k * FLOAT_PANEL_OUT * elem, 0, elem);
            }
        }
    }
}

void gemm_float_row(const struct gemm_weight *w, uint32_t row, float *dst)
{
    size_t elem = elem_bytes(w->type);
    const uint8_t *s = gemm_group_data(w, row / FLOAT_GROUP_OUT) +
                       row % FLOAT_GROUP_OUT / FLOAT_PANEL_OUT * elem * FLOAT_PANEL_OUT * w->n_in +
                       row % FLOAT_PANEL_OUT * elem;
    for (size_t k = 0; k < w->n_in; k++) {
        const uint8_t *v = s + k * FLOAT_PANEL_OUT * elem;
        if (w->type == GGUF_TYPE_F32) {
            memcpy(&dst[k], v, sizeof dst[k]);
        } else {
            uint16_t h;
            memcpy(&h, v, sizeof h);
            dst[k] = w->type == GGUF_TYPE_BF16 ? quant_bf16_to_f32(h) : quant_f16_to_f32(h);
        }
    }
}

void gemm_float_run(const struct gemm_part *p, gemm_float_block_fn *block)
{
    const struct gemm_weight *w = p->job->w;
    const struct gemm_act *act = p->job->act;
    size_t panel = elem_bytes(w->type) * FLOAT_PANEL_OUT * w->n_in;
    float *acc = p->scratch;
    for (uint32_t g = p->group; g < p->group + p->n_group; g++) {
        uint32_t out = g * FLOAT_GROUP_OUT;
        uint32_t n_out = w->n_out - out < FLOAT_GROUP_OUT ? w->n_out - out : FLOAT_GROUP_OUT;
        uint32_t n_panel = (n_out + FLOAT_PANEL_OUT - 1) / FLOAT_PANEL_OUT;
        uint32_t n_tok;
        for (uint32_t t = p->tok; t < p->tok + p->n_tok; t += n_tok) {
            n_tok = p->tok + p->n_tok - t;
            n_tok = n_tok < FLOAT_TOK_STEP ? n_tok : FLOAT_TOK_STEP;
            memset(acc, 0, sizeof(float) * n_tok * n_panel * FLOAT_PANEL_OUT);
            block(gemm_group_data(w, g), panel, n_panel, w->n_in, act->x + t * act->ldx, act->ldx,
                  n_tok, acc);
            for (uint32_t i = 0; i < n_tok; i++) {
                gemm_emit(p->job, t + i, out, acc + (size_t)i * n_panel * FLOAT_PANEL_OUT, n_out);
            }
        }
    }
}
