/* When KV memory or a reader's room runs out: who waits, who gives memory back, and that nobody's
 * tokens change. */
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

#define N 24

static struct sch_stats stats_of(struct rig *r)
{
    struct sch_stats st;
    sch_get_stats(r->s, &st);
    return st;
}

/* 24 requests of up to 400 tokens in 7, 13 and 4096 chunks of 64. */
static void test_tiny_budget_same_tokens(void **state)
{
    (void)state;
    static int32_t tokens[N][200];
    static const uint32_t budgets[] = {7, 13, 4096};
    for (int b = 0; b < 3; b++) {
        struct rig r;
        rig_open(&r, &(struct fake_options){.seed = 9},
                 &(struct sch_options){.itl_target_us = 8000}, budgets[b]);
        r.n_tok_max = 448; /* of all three the same */
        struct reader q[N];
        struct sch_request req[N];
        for (uint32_t i = 0; i < N; i++) {
            uint32_t n_tok = 1 + (uint32_t)(rng_mix(i, 8) % 190);
            rig_prompt(&r, i, tokens[i], n_tok);
            req[i] = rig_request(tokens[i], n_tok, 1 + (uint32_t)(rng_mix(i, 9) % 210));
            req[i].ignore_eos = i % 4 != 0;
            req[i].sample.temperature = i % 2 ? 1 : 0;
            req[i].sample.seed = i;
            req[i].sample.frequency_penalty = i % 5 ? 0 : 0.5F;
            req[i].sample.want_logprob = true;
            req[i].prompt_logprobs = i % 3 == 0;
            reader_open(&r, &q[i], req[i]);
        }
        rig_run(&r, q, N);
        for (uint32_t i = 0; i < N; i++) {
            reader_check(&r, &q[i], &req[i]);
            assert_int_equal(q[i].n_of_prompt, i % 3 ? 0 : req[i].n_tok - 1);
            reader_close(&q[i]);
        }
        struct sch_stats st = stats_of(&r);
        print_message("%u chunks: %u times gave memory back, %u steps\n", budgets[b],
                      (unsigned)st.n_preempted, (unsigned)st.n_step);
        assert_true(b == 2 ? st.n_preempted == 0 : st.n_preempted > 1);
        rig_close(&r);
    }
}

/* One may use all there is, while others wait; and one that fills all of it still ends. */
static void test_one_takes_all(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, NULL, NULL, 4);
    int32_t tokens[256];
    rig_prompt(&r, 4, tokens, 256);
    struct reader q[3];
    struct sch_request small = rig_request(tokens, 20, 30);
    struct sch_request large = rig_request(tokens, 200, 1000);
    small.ignore_eos = large.ignore_eos = true;
    reader_open(&r, &q[0], small);
    reader_open(&r, &q[1], large);
    reader_open(&r, &q[2], small);
    (void)sch_step(r.s);
    assert_int_equal(stats_of(&r).n_running,
                     1); /* strictly in order: nobody passes the large one */
    rig_run(&r, q, 3);
    reader_check(&r, &q[0], &small);
    reader_check(&r, &q[1], &large);
    reader_check(&r, &q[2], &small);
    assert_int_equal(q[1].n, 56);
    for (int i = 0; i < 3; i++) {
        reader_close(&q[i]);
    }
    rig_close(&r);
}

/* The oldest never gives memory: it ends as soon as if it were alone. */
static void test_oldest_goes_on(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, NULL, NULL, 8);
    int32_t tokens[256];
    rig_prompt(&r, 4, tokens, 256);
    struct sch_request req = rig_request(tokens, 60, 300);
    req.ignore_eos = true;
    struct reader q[4];
    for (int i = 0; i < 4; i++) {
        reader_open(&r, &q[i], req);
    }
    uint32_t n_step = 0;
    while (!q[0].n_end) {
        (void)sch_step(r.s);
        n_step++;
        for (int i = 0; i < 4; i++) {
            (void)reader_drain(&q[i]);
        }
    }
    assert_true(n_step <= 302);
    assert_true(stats_of(&r).n_preempted > 0);
    rig_run(&r, q, 4);
    for (int i = 0; i < 4; i++) {
        reader_check(&r, &q[i], &req);
        assert_true(i == 0 || q[i].end.total_us >= q[i - 1].end.total_us);
        reader_close(&q[i]);
    }
    rig_close(&r);
}

/* A full ring holds one sequence and its memory, no other; then it goes on where it was. */
static void test_slow_reader(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, NULL, &(struct sch_options){.n_event_max = 10, .reader_stall_us = 500000}, 0);
    int32_t tokens[64];
    rig_prompt(&r, 1, tokens, 64);
    struct sch_request req = rig_request(tokens, 64, 100);
    req.ignore_eos = true;
    struct reader slow;
    struct reader fast;
    reader_open(&r, &slow, req);
    reader_open(&r, &fast, req);
    while (!fast.n_end) {
        assert_true(sch_step(r.s));
        (void)reader_drain(&fast);
    }
    reader_check(&r, &fast, &req);
    assert_false(sch_step(r.s)); /* nothing can run now */
    struct sch_stats st = stats_of(&r);
    assert_int_equal(st.n_running, 1);
    assert_int_equal(st.kv.n_frame_active, 2);
    assert_int_equal(reader_drain(&slow), 10);
    rig_run(&r, &slow, 1);
    reader_check(&r, &slow, &req);
    reader_close(&slow);
    reader_close(&fast);

    reader_open(&r, &slow, req); /* never reads */
    for (int i = 0; i < 20; i++) {
        (void)sch_step(r.s);
    }
    r.now_us += 499000;
    assert_false(sch_step(r.s));
    r.now_us += 2000;
    assert_true(sch_step(r.s));
    assert_int_equal(reader_drain(&slow), 11);
    assert_int_equal(slow.end.finish, SCH_FINISH_CANCELLED);
    assert_int_equal(slow.n, 10);
    reader_close(&slow);
    rig_close(&r);
}

/* Who stands still for a second gives way to others that want in, and comes back. */
static void test_idle_gives_way(void **state)
{
    (void)state;
    for (int by_memory = 0; by_memory < 2; by_memory++) {
        struct rig r;
        rig_open(&r, NULL,
                 &(struct sch_options){.n_event_max = 10, .n_running_max = by_memory ? 8 : 1},
                 by_memory ? 3 : 0);
        int32_t tokens[150];
        rig_prompt(&r, 1, tokens, 150);
        struct sch_request req = rig_request(tokens, 150, 30);
        req.ignore_eos = true;
        struct reader slow;
        struct reader next;
        reader_open(&r, &slow, req);
        for (int i = 0; i < 20; i++) {
            (void)sch_step(r.s);
        }
        reader_open(&r, &next, req);
        assert_true(sch_step(r.s)); /* it enters the queue */
        assert_false(sch_step(r.s));
        assert_int_equal(stats_of(&r).n_queued, 1);
        r.now_us += 1000000;
        while (!next.n_end) {
            assert_true(sch_step(r.s));
            (void)reader_drain(&next);
        }
        reader_check(&r, &next, &req);
        assert_int_equal(stats_of(&r).n_preempted, 1);
        assert_int_equal(stats_of(&r).n_queued, 1);
        assert_false(sch_step(r.s)); /* its reader has no room: it is not computed again yet */
        assert_int_equal(stats_of(&r).kv.n_frame_active, 0);
        rig_run(&r, &slow, 1);
        reader_check(&r, &slow, &req);
        reader_close(&slow);
        reader_close(&next);
        rig_close(&r);
    }
}

/* Cancelled, timed out and stopped while their memory is with others. */
static void test_ends_while_parked(void **state)
{
    (void)state;
    for (int how = 0; how < 3; how++) {
        struct rig r;
        rig_open(&r, NULL, NULL, 5);
        int32_t tokens[128];
        rig_prompt(&r, 4, tokens, 128);
        struct sch_request req = rig_request(tokens, 120, 180);
        req.ignore_eos = true;
        struct reader q[2];
        reader_open(&r, &q[0], req);
        req.deadline_us = how == 1 ? r.now_us + 300000 : 0;
        reader_open(&r, &q[1], req);
        while (!stats_of(&r).n_preempted) {
            (void)sch_step(r.s);
        }
        (void)reader_drain(&q[1]);
        assert_true(q[1].n > 0);
        if (how == 0) {
            sch_cancel(q[1].st);
            (void)sch_step(r.s);
        } else if (how == 1) {
            r.now_us += 300000;
            (void)sch_step(r.s);
        } else {
            sch_stop(r.s, 0);
        }
        (void)reader_drain(&q[1]);
        assert_int_equal(q[1].n_end, 1);
        assert_int_equal(q[1].end.finish, how == 1 ? SCH_FINISH_ERROR : SCH_FINISH_CANCELLED);
        if (how < 2) {
            rig_run(&r, q, 1);
            reader_check(&r, &q[0], &req);
        }
        reader_close(&q[0]);
        reader_close(&q[1]);
        rig_close(&r);
    }
}

/* No address space for another sequence: it waits like for memory. */
static void test_few_mappings(void **state)
{
    (void)state;
    struct rig r;
    struct err e;
    rig_open(&r, NULL, NULL, 64);
    sch_destroy(r.s);
    kv_store_destroy(r.kv);
    const struct eng_info *info = &r.g->info;
    struct kv_options k = {.ram_bytes = 64 * info->chunk_bytes,
                           .chunk_tok = info->chunk_tok,
                           .chunk_bytes = info->chunk_bytes,
                           .n_seq_tok_max = info->n_ctx,
                           .n_vma_max = 24};
    assert_int_equal(kv_store_create(&k, &r.kv, &e), ERR_OK);
    struct sch_options o = {.eng = r.g,
                            .kv = r.kv,
                            .n_queued_max = 64,
                            .n_running_max = 64,
                            .n_event_max = 1024,
                            .check_kv = true};
    assert_int_equal(sch_create(&o, &r.s, &e), ERR_OK);
    int32_t tokens[100];
    rig_prompt(&r, 4, tokens, 100);
    struct sch_request req = rig_request(tokens, 100, 150);
    req.ignore_eos = true;
    struct reader q[30];
    for (int i = 0; i < 30; i++) {
        reader_open(&r, &q[i], req);
    }
    rig_run(&r, q, 30);
    for (int i = 0; i < 30; i++) {
        reader_check(&r, &q[i], &req);
        reader_close(&q[i]);
    }
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiny_budget_same_tokens),
        cmocka_unit_test(test_one_takes_all),
        cmocka_unit_test(test_oldest_goes_on),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_idle_gives_way),
        cmocka_unit_test(test_ends_while_parked),
        cmocka_unit_test(test_few_mappings),
    };
    return cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}
