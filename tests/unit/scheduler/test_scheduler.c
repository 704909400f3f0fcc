/* The scheduler step by step, on a fake engine and a clock that the test moves. */
#include "base/rng.h"
#include "tests/unit/scheduler/rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N_STREAM 64

/* Requests of all kinds and lengths: greedy and drawn, with stops, minimums and penalties. */
static struct sch_request mixed_request(const struct rig *r, uint32_t i, int32_t *tokens)
{
    static const char *const stops[] = {"STOP", "e\xcc", " of and", "\xe6\x97\xa5\xe6", "w30"};
    uint32_t n_tok = 1 + (uint32_t)(rng_mix(i, 1) % 200);
    rig_prompt(r, i, tokens, n_tok);
    struct sch_request q = rig_request(tokens, n_tok, 1 + (uint32_t)(rng_mix(i, 2) % 120));
    q.sample.temperature = i % 3 == 1 ? 0.8F : 0;
    q.sample.top_p = i % 6 == 1 ? 0.9F : 1;
    q.sample.top_k = i % 5 == 1 ? 20 : 0;
    q.sample.seed = i;
    q.sample.repetition_penalty = i % 7 == 3 ? 1.3F : 1;
    q.stop = stops;
    q.n_stop = i % 4 == 2 ? 5 : 0;
    q.keep_stop = i % 8 == 2;
    q.n_gen_min = i % 9 == 4 ? 10 : 0;
    q.ignore_eos = i % 2;
    q.show_special = i % 5 == 3;
    return q;
}

static void run_mixed(struct rig *r)
{
    static struct reader readers[N_STREAM];
    static int32_t tokens[N_STREAM][512];
    struct sch_request req[N_STREAM];
    for (uint32_t i = 0; i < N_STREAM; i++) {
        req[i] = mixed_request(r, i, tokens[i]);
        reader_open(r, &readers[i], req[i]);
        if (i % 3 == 0) {
            (void)sch_step(r->s);
        }
    }
    rig_run(r, readers, N_STREAM);
    for (uint32_t i = 0; i < N_STREAM; i++) {
        reader_check(r, &readers[i], &req[i]);
        reader_close(&readers[i]);
    }
}

static void test_together_as_alone(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, &(struct fake_options){.seed = 1},
             &(struct sch_options){.itl_target_us = 20000, .n_running_max = N_STREAM}, 0);
    run_mixed(&r);
    struct fake_counts c = fake_engine_counts(r.g);
    print_message("%u steps, up to %u rows and %u sequences in one\n", (unsigned)c.n_step,
                  (unsigned)c.n_row_max, (unsigned)c.n_slice_max);
    assert_true(c.n_slice_max > 40);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_together_as_alone),
    };
    return cmocka_run_group_tests_name("scheduler", tests, NULL, NULL);
}
