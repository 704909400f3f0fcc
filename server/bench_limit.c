#include "server/bench_limit.h"

#include "engine/kernels/roofline.h"
#include "engine/threads.h"

#include <stdlib.h>

#define READ_BYTES ((size_t)512 << 20) /* more than the caches of most machines */

struct bench_limit {
    struct eng_pool *pool;
    struct roof *roof;
    enum kern_isa isa;
};

enum err_code bench_limit_create(const struct eng_info *info, struct bench_limit **ret_l,
                                 struct err *e)
{
    struct bench_limit *l = calloc(1, sizeof *l);
    if (!l) {
        return err_set(e, ERR_NOMEM, "out of memory for the measurement of this machine's limits");
    }
    enum err_code code = kern_isa_by_name(info->isa, &l->isa, e);
    code = code ? code : eng_pool_create(info->n_thread, &l->pool, e);
    code = code ? code : roof_create(l->pool, READ_BYTES, &l->roof, e);
    if (code) {
        bench_limit_destroy(l);
        return code;
    }
    *ret_l = l;
    return ERR_OK;
}

void bench_limit_destroy(struct bench_limit *l)
{
    if (l) {
        roof_destroy(l->roof);
        eng_pool_destroy(l->pool);
        free(l);
    }
}

struct bench_roof bench_limit_measure(struct bench_limit *l)
{
    const enum roof_unit unit = l->isa == KERN_AMX      ? ROOF_BF16
                                : l->isa == KERN_SCALAR ? ROOF_F32
                                                        : ROOF_I8;
    return (struct bench_roof){.read_bytes_per_s = roof_read_bytes_per_s(l->roof),
                               .flop_per_s = roof_flop_per_s(l->roof, l->isa, unit)};
}

/* Weights that every row is multiplied with: all but those of the vocabulary. */
static double layer_params(const struct eng_info *info)
{
    const double vocab = (double)info->n_vocab * info->n_embd;
    return (double)info->n_param - (info->embed_bytes ? 2 : 1) * vocab;
}

double bench_limit_prefill(const struct eng_info *info, const struct bench_roof *r, uint32_t n_tok)
{
    if (info->moe || r->flop_per_s <= 0) {
        return 0;
    }
    /* Scores and values of the keys up to each row, in heads as wide together as a row. */
    const double attention = 2.0 * info->n_layer * (double)info->n_embd * n_tok;
    return r->flop_per_s / (2 * layer_params(info) + attention);
}

double bench_limit_decode(const struct eng_info *info, const struct bench_roof *r, uint32_t n_seq,
                          uint32_t n_depth)
{
    if (info->moe || r->flop_per_s <= 0 || r->read_bytes_per_s <= 0) {
        return 0;
    }
    const double vocab = (double)info->n_vocab * info->n_embd;
    const double kv = (double)info->kv_bytes_per_tok * n_depth + 2.0 * (double)info->state_bytes;
    const double n_byte = (double)(info->weights_bytes - info->embed_bytes) + n_seq * kv;
    const double read_s = n_byte / r->read_bytes_per_s;
    const double multiply_s = 2 * n_seq * (layer_params(info) + vocab) / r->flop_per_s;
    return n_seq / (read_s > multiply_s ? read_s : multiply_s);
}
