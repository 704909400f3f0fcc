#include "tests/golden/same.h"

#include "tests/golden/golden.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

float *same_prompt_logits(struct eng *e, const struct same_prompt *p)
{
    float *logits = malloc((size_t)p->n * e->info.n_vocab * sizeof *logits);
    void *kv = golden_kv(e);
    if (!golden_logits(e, kv, p->ids, p->n, 0, p->n, logits)) {
        free(logits);
        logits = NULL;
    }
    free(kv);
    return logits;
}

bool same_in_slices(struct eng *e, const struct same_prompt *p, const float *want)
{
    static const uint32_t steps[] = {1, 7, 16};
    size_t n = (size_t)p->n * e->info.n_vocab;
    float *got = malloc(n * sizeof *got);
    bool ok = true;
    for (size_t i = 0; ok && i < sizeof steps / sizeof steps[0]; i++) {
        void *kv = golden_kv(e);
        ok = golden_logits(e, kv, p->ids, p->n, 0, steps[i], got) &&
             memcmp(got, want, n * sizeof *got) == 0;
        if (!ok) {
            fprintf(stderr, "%s: slices of %u give other bits\n", p->name, steps[i]);
        }
        free(kv);
    }
    free(got);
    return ok;
}

bool same_in_batch(struct eng *e, const struct same_prompt *p, const float *want)
{
    uint32_t half = p->n / 2;
    uint32_t rest = p->n - half;
    size_t n_vocab = e->info.n_vocab;
    int32_t other[8] = {1, 400, 7, 300, 11, 12, 13, 14};
    void *kv = golden_kv(e);
    void *kv_other = golden_kv(e);
    struct err err;
    struct eng_slice first[] = {{.tokens = other,
                                 .n_tok = 5,
                                 .pos = 0,
                                 .kv = kv_other,
                                 .state = golden_state(e, kv_other),
                                 .out_from = 4},
                                {.tokens = p->ids,
                                 .n_tok = half,
                                 .pos = 0,
                                 .kv = kv,
                                 .state = golden_state(e, kv),
                                 .out_from = half}};
    struct eng_slice second[] = {{.tokens = other + 5,
                                  .n_tok = 3,
                                  .pos = 5,
                                  .kv = kv_other,
                                  .state = golden_state(e, kv_other),
                                  .out_from = 1},
                                 {.tokens = p->ids + half,
                                  .n_tok = rest,
                                  .pos = half,
                                  .kv = kv,
                                  .state = golden_state(e, kv),
                                  .out_from = 2}};
    bool ok = !eng_step(e, first, 2, &err) && !eng_step(e, second, 2, &err);
    size_t n = (rest - 2) * n_vocab;
    ok = ok && memcmp(second[1].logits, want + (half + 2) * n_vocab, n * sizeof(float)) == 0;
    if (!ok) {
        fprintf(stderr, "%s: beside another sequence it gives other bits\n", p->name);
    }
    free(kv);
    free(kv_other);
    return ok;
}

bool same_from_copy(struct eng *e, const struct same_prompt *p, const float *want)
{
    uint32_t half = p->n / 2;
    uint32_t rest = p->n - half;
    size_t n = (size_t)p->n * e->info.n_vocab;
    float *got = malloc(n * sizeof *got);
    void *kv = golden_kv(e);
    void *copy = golden_kv(e);
    bool ok = golden_logits(e, kv, p->ids, half, 0, half, got);
    memcpy(copy, kv, golden_kv_bytes(e));
    /* What the first range's owner does with it afterwards is its own affair. */
    ok = ok && golden_logits(e, kv, p->ids, 3, half, 3, got);
    ok = ok && golden_logits(e, copy, p->ids + half, rest, half, rest,
                             got + (size_t)half * e->info.n_vocab);
    size_t at = (size_t)half * e->info.n_vocab;
    ok = ok && memcmp(got + at, want + at, (n - at) * sizeof *got) == 0;
    if (!ok) {
        fprintf(stderr, "%s: over a copy of its KV it gives other bits\n", p->name);
    }
    free(kv);
    free(copy);
    free(got);
    return ok;
}

bool same_on_two_threads(const char *model, const char *isa, const struct same_prompt *p,
                         const float *want)
{
    struct eng *e = golden_open(model, isa, 2);
    float *got = e ? same_prompt_logits(e, p) : NULL;
    bool ok = got && memcmp(got, want, (size_t)p->n * e->info.n_vocab * sizeof *got) == 0;
    if (!ok) {
        fprintf(stderr, "%s: two threads give other bits\n", p->name);
    }
    free(got);
    eng_close(e);
    return ok;
}
