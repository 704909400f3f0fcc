/* What the prefix cache costs where it gains nothing: steps in which all sequences decode, on an
 * engine that costs next to nothing. One line: µs per step without and with it, and the difference
 * beside a step of 10 ms. Medians of alternating rounds. */
#include "base/clock.h"
#include "base/rng.h"
#include "scheduler/scheduler.h"
#include "tests/fake/fake_engine.h"

#include <stdio.h>
#include <stdlib.h>

#define N_SEQ    32
#define N_PROMPT 8
#define N_GEN    600
#define N_ROUND  15
#define STEP_US  10000.0

static void give_up(const char *what)
{
    (void)fprintf(stderr, "decode_cost: %s\n", what);
    exit(1);
}

/* µs of one step, over a whole run of N_SEQ answers. */
static double round_us(struct eng *g, bool cached, uint64_t seed)
{
    struct err e;
    struct kv_store *kv = NULL;
    struct sch *s = NULL;
    const struct eng_info *info = &g->info;
    const struct kv_options ko = {.ram_bytes = 4096 * (uint64_t)info->chunk_bytes,
                                  .chunk_tok = info->chunk_tok,
                                  .chunk_bytes = info->chunk_bytes,
                                  .n_seq_tok_max = info->n_ctx};
    struct sch_options so = {.eng = g,
                             .n_queued_max = N_SEQ,
                             .n_running_max = N_SEQ,
                             .n_event_max = N_GEN,
                             .prefix_cache = cached};
    struct sch_stream *st[N_SEQ] = {NULL};
    if (kv_store_create(&ko, &kv, &e)) {
        give_up(e.msg);
    }
    so.kv = kv;
    if (sch_create(&so, &s, &e)) {
        give_up(e.msg);
    }
    for (uint32_t i = 0; i < N_SEQ; i++) {
        int32_t tokens[N_PROMPT];
        for (uint32_t k = 0; k < N_PROMPT; k++) {
            tokens[k] = FAKE_BYTE_FIRST + (int32_t)(rng_mix(seed + i, k) % 256);
        }
        const struct sch_request r = {.tokens = tokens,
                                      .n_tok = N_PROMPT,
                                      .n_gen_max = N_GEN,
                                      .ignore_eos = true,
                                      .sample = {.top_p = 1, .repetition_penalty = 1}};
        if (sch_submit(s, &r, &st[i], &e)) {
            give_up(e.msg);
        }
    }
    (void)sch_step(s); /* the prompts */
    uint64_t begin_us = clock_mono_us();
    uint32_t n_step = 0;
    while (sch_step(s)) {
        n_step++;
    }
    double us = (double)(clock_mono_us() - begin_us) / n_step;
    sch_stop(s, 0);
    for (uint32_t i = 0; i < N_SEQ; i++) {
        sch_stream_release(st[i]);
    }
    sch_destroy(s);
    kv_store_destroy(kv);
    return us;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(void)
{
    struct err e;
    struct eng *g = NULL;
    double us[2][N_ROUND];
    if (fake_engine_create(&(struct fake_options){.n_ctx = 1024, .never_eog = true}, &g, &e)) {
        give_up(e.msg);
    }
    for (uint32_t i = 0; i < N_ROUND; i++) {
        us[0][i] = round_us(g, false, i * 1000);
        us[1][i] = round_us(g, true, i * 1000);
    }
    eng_close(g);
    qsort(us[0], N_ROUND, sizeof us[0][0], by_value);
    qsort(us[1], N_ROUND, sizeof us[1][0], by_value);
    double plain = us[0][N_ROUND / 2];
    double cached = us[1][N_ROUND / 2];
    printf("decode of %d: %.1f us a step without the cache, %.1f with it; %.3f %% of a step of "
           "%.0f ms\n",
           N_SEQ, plain, cached, 100 * (cached - plain) / STEP_US, STEP_US / 1000);
    return 0;
}
