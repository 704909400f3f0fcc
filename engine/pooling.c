#include "engine/engine.h"

#include <math.h>

/* The positions that count: [from, to). */
static void range_of(enum eng_pooling pooling, uint32_t n_tok, uint32_t *ret_from, uint32_t *ret_to)
{
    *ret_from = pooling == ENG_POOLING_LAST ? n_tok - 1 : 0;
    *ret_to = pooling == ENG_POOLING_CLS ? 1 : n_tok;
}

void eng_pool_add(enum eng_pooling pooling, const float *hidden, uint32_t pos, uint32_t n_row,
                  uint32_t n_tok, uint32_t n_embd, double *sum)
{
    uint32_t from;
    uint32_t to;
    range_of(pooling, n_tok, &from, &to);
    for (uint32_t t = 0; t < n_row; t++) {
        if (pos + t < from || pos + t >= to) {
            continue;
        }
        for (uint32_t i = 0; i < n_embd; i++) {
            sum[i] += (double)hidden[(size_t)t * n_embd + i];
        }
    }
}

void eng_pool_end(enum eng_pooling pooling, const double *sum, uint32_t n_tok, uint32_t n_embd,
                  bool normalize, float *out)
{
    uint32_t from;
    uint32_t to;
    range_of(pooling, n_tok, &from, &to);
    double length = 0;
    for (uint32_t i = 0; i < n_embd; i++) {
        out[i] = (float)(sum[i] / (to - from));
        length += (double)out[i] * (double)out[i];
    }
    length = sqrt(length);
    for (uint32_t i = 0; normalize && length > 0 && i < n_embd; i++) {
        out[i] = (float)((double)out[i] / length);
    }
}
