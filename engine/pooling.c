#include "engine/engine.h"

#include <math.h>

void eng_pool_hidden(enum eng_pooling pooling, const float *hidden, uint32_t n_tok, uint32_t n_embd,
                     bool normalize, float *out)
{
    uint32_t from = pooling == ENG_POOLING_LAST ? n_tok - 1 : 0;
    uint32_t to = pooling == ENG_POOLING_CLS ? 1 : n_tok;
    double length = 0;
    for (uint32_t i = 0; i < n_embd; i++) {
        double sum = 0;
        for (uint32_t t = from; t < to; t++) {
            sum += (double)hidden[(size_t)t * n_embd + i];
        }
        out[i] = (float)(sum / (to - from));
        length += (double)out[i] * (double)out[i];
    }
    length = sqrt(length);
    for (uint32_t i = 0; normalize && length > 0 && i < n_embd; i++) {
        out[i] = (float)((double)out[i] / length);
    }
}
