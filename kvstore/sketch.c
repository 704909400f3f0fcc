#include "kvstore/sketch.h"

#include <stdlib.h>
#include <string.h>

#define COLUMNS_PER_CHUNK 32
#define N_COLUMN_MAX      ((uint32_t)1 << 24)
/* Uses after which all counts are halved, per chunk of the cache. */
#define USES_PER_CHUNK 12

enum err_code kv_sketch_init(struct kv_sketch *k, uint32_t n_chunk, struct err *e)
{
    memset(k, 0, sizeof *k);
    k->n_column = 1024;
    while (k->n_column < N_COLUMN_MAX && k->n_column / COLUMNS_PER_CHUNK < n_chunk) {
        k->n_column *= 2;
    }
    k->n_use_max = (uint64_t)n_chunk * USES_PER_CHUNK;
    k->counts = calloc(KV_SKETCH_ROWS, k->n_column);
    return k->counts ? ERR_OK : err_set(e, ERR_NOMEM, "no memory for the sketch of uses");
}

void kv_sketch_finish(struct kv_sketch *k)
{
    free(k->counts);
    memset(k, 0, sizeof *k);
}

/* Keys are SHA-256 digests: any four bytes of one are a hash. */
static uint8_t *count_of(const struct kv_sketch *k, const uint8_t key[32], uint32_t row)
{
    uint32_t h;
    memcpy(&h, key + sizeof h * (row + 1), sizeof h);
    return k->counts + (size_t)row * k->n_column + (h & (k->n_column - 1));
}

void kv_sketch_add(struct kv_sketch *k, const uint8_t key[32])
{
    for (uint32_t row = 0; row < KV_SKETCH_ROWS; row++) {
        uint8_t *n = count_of(k, key, row);
        *n = (uint8_t)(*n + (*n < UINT8_MAX));
    }
    if (++k->n_use < k->n_use_max) {
        return;
    }
    k->n_use = 0;
    for (size_t i = 0; i < (size_t)KV_SKETCH_ROWS * k->n_column; i++) {
        k->counts[i] /= 2;
    }
}

uint32_t kv_sketch_get(const struct kv_sketch *k, const uint8_t key[32])
{
    uint32_t n = UINT8_MAX;
    for (uint32_t row = 0; row < KV_SKETCH_ROWS; row++) {
        uint32_t c = *count_of(k, key, row);
        n = c < n ? c : n;
    }
    return n;
}
