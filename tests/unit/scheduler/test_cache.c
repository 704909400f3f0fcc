/* What sequences share: nobody's tokens change, nothing is computed twice that need not be, and
 * tenants stay apart. */
#include "base/clock.h"
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

#define N 8

static const struct sch_options caching = {.prefix_cache = true};

static struct sch_stats stats_of(struct rig *r)
{
    struct sch_stats st;
    sch_get_stats(r->s, &st);
    return st;
}

static struct sch_request request(const int32_t *tokens, uint32_t n_tok, uint32_t n_gen)
{
    struct sch_request req = rig_request(tokens, n_tok, n_gen);
    req.ignore_eos = true;
    return req;
}

/* Runs one request to its end and checks its answer; returns how many tokens were cached. */
static uint32_t run_one(struct rig *r, const struct sch_request *req)
{
    struct reader q;
    reader_open(r, &q, *req);
    rig_run(r, &q, 1);
    reader_check(r, &q, req);
    uint32_t n_cached = q.end.n_cached_tok;
    assert_int_equal(n_cached + q.end.n_cache_write_tok, req->n_tok);
    reader_close(&q);
    return n_cached;
}

/* The same prompt again costs one row; a longer one what is new, a shorter one a row; what was
 * generated is there as well. */
static void test_second_time(void **state)
{
    (void)state;
    struct rig r;
    int32_t tokens[400];
    rig_open(&r, NULL, &caching, 0);
    rig_prompt(&r, 1, tokens, 400);
    struct sch_request req = request(tokens, 200, 1);
    assert_int_equal(run_one(&r, &req), 0);
    assert_int_equal(r.n_row, 200);
    assert_int_equal(run_one(&r, &req), 199);
    assert_int_equal(r.n_row, 201);
    req.n_tok = 400;
    assert_int_equal(run_one(&r, &req), 200);
    assert_int_equal(r.n_row, 401);
    req.n_tok = 77;
    assert_int_equal(run_one(&r, &req), 76);
    assert_int_equal(r.n_row, 402);
    rig_close(&r);
}

/* A conversation: each turn's prompt is the last one's, its answer, and a question. */
static void test_turns(void **state)
{
    (void)state;
    struct rig r;
    int32_t tokens[512];
    uint32_t n_tok = 50;
    uint32_t n_known = 0;
    rig_open(&r, NULL, &caching, 0);
    rig_prompt(&r, 2, tokens, 512);
    for (int turn = 0; turn < 6; turn++) {
        struct sch_request req = request(tokens, n_tok, 30);
        struct reader q;
        reader_open(&r, &q, req);
        rig_run(&r, &q, 1);
        reader_check(&r, &q, &req);
        assert_int_equal(q.end.n_cached_tok, n_known);
        memcpy(tokens + n_tok, q.ids, q.n * sizeof *q.ids);
        n_known = n_tok + q.n - 1; /* the last token was never computed */
        n_tok += q.n + 20;
        reader_close(&q);
    }
    rig_close(&r);
}

/* Eight with one prompt, at once: it is computed once, by the first. */
static void test_twins(void **state)
{
    (void)state;
    struct rig r;
    int32_t tokens[400];
    static const uint32_t lens[] = {1, 2, 20, 64, 65, 128, 389};
    rig_open(&r, NULL, &(struct sch_options){.prefix_cache = true, .itl_target_us = 8000}, 0);
    for (size_t k = 0; k < sizeof lens / sizeof *lens; k++) {
        struct reader q[N];
        rig_prompt(&r, 100 + k, tokens, lens[k]);
        struct sch_request req = request(tokens, lens[k], 1);
        uint64_t n_row = r.n_row;
        for (uint32_t i = 0; i < N; i++) {
            req.sample.choice = i;
            reader_open(&r, &q[i], req);
        }
        rig_run(&r, q, N);
        for (uint32_t i = 0; i < N; i++) {
            reader_check(&r, &q[i], &req);
            assert_int_equal(q[i].end.n_cached_tok, i ? lens[k] - 1 : 0);
            reader_close(&q[i]);
        }
        assert_int_equal(r.n_row - n_row, lens[k] + N - 1);
    }
    rig_close(&r);
}

/* Eight that share a beginning, in few frames: it lies in memory once. */
static void test_shared_beginning(void **state)
{
    (void)state;
    struct rig r;
    int32_t tokens[N][330];
    struct reader q[N];
    struct sch_request req[N];
    rig_open(&r, NULL, &caching, 5 + 2 * N);
    for (uint32_t i = 0; i < N; i++) {
        rig_prompt(&r, 7, tokens[i], 320);
        rig_prompt(&r, 8 + i, tokens[i] + 320, 10);
        req[i] = request(tokens[i], 330, 20);
        reader_open(&r, &q[i], req[i]);
    }
    rig_run(&r, q, N);
    for (uint32_t i = 0; i < N; i++) {
        reader_check(&r, &q[i], &req[i]);
        assert_int_equal(q[i].end.n_cached_tok, i ? 320 : 0);
        reader_close(&q[i]);
    }
    assert_int_equal(r.n_row, 330 + (N - 1) * 10 + N * 19);
    assert_int_equal(stats_of(&r).n_preempted, 0);
    rig_close(&r);
}

/* Who waits goes on when the one it waits for is cancelled, or stands still. */
static void test_leader_fails(void **state)
{
    (void)state;
    int32_t tokens[400];
    for (int stalls = 0; stalls < 2; stalls++) {
        struct rig r;
        struct reader q[3];
        struct sch_request req[3];
        rig_open(
            &r, NULL,
            &(struct sch_options){.prefix_cache = true, .itl_target_us = 4000, .n_event_max = 30},
            0);
        rig_prompt(&r, 3, tokens, 400);
        for (int i = 0; i < 3; i++) {
            req[i] = request(tokens, 400, 20);
            req[i].prompt_logprobs = stalls && i == 0;
            reader_open(&r, &q[i], req[i]);
        }
        for (int i = 0; i < 3; i++) {
            assert_true(sch_step(r.s));
        }
        if (!stalls) {
            sch_cancel(q[0].st);
        }
        for (int i = 0; i < 100000 && !(q[1].n_end && q[2].n_end); i++) {
            if (!sch_step(r.s)) {
                r.now_us += 1000;
            }
            (void)reader_drain(&q[1]);
            (void)reader_drain(&q[2]);
        }
        reader_check(&r, &q[1], &req[1]);
        reader_check(&r, &q[2], &req[2]);
        assert_int_equal(q[2].end.n_cached_tok, 399);
        rig_run(&r, q, 1);
        assert_int_equal(q[0].end.finish, stalls ? SCH_FINISH_LENGTH : SCH_FINISH_CANCELLED);
        for (int i = 0; i < 3; i++) {
            reader_close(&q[i]);
        }
        rig_close(&r);
    }
}

static void test_nobody_elses(void **state)
{
    (void)state;
    struct rig r;
    int32_t tokens[300];
    static const struct {
        const char *tenant, *salt;
    } who[] = {{"", NULL}, {"a", NULL}, {"b", NULL}, {"a", "x"}, {"a", "y"}, {"", "a"}, {"", ""}};
    const uint32_t n_who = sizeof who / sizeof *who;
    struct reader q[sizeof who / sizeof *who];
    rig_open(&r, NULL, &caching, 0);
    rig_prompt(&r, 5, tokens, 300);
    struct sch_request req = request(tokens, 300, 1);
    for (int round = 0; round < 2; round++) { /* at once, and then each again: its own alone */
        for (uint32_t i = 0; i < n_who; i++) {
            req.tenant = who[i].tenant;
            req.cache_salt = who[i].salt;
            reader_open(&r, &q[i], req);
        }
        rig_run(&r, q, n_who);
        for (uint32_t i = 0; i < n_who; i++) {
            assert_int_equal(q[i].end.n_cached_tok, round ? 299 : 0);
            reader_close(&q[i]);
        }
    }
    assert_int_equal(r.n_row, n_who * 301);
    rig_close(&r);
}

/* Log-probabilities of the prompt need all its rows; a model with recurrent state more than KV. */
static void test_not_shared(void **state)
{
    (void)state;
    struct rig r;
    int32_t tokens[200];
    rig_open(&r, NULL, &caching, 0);
    rig_prompt(&r, 5, tokens, 200);
    struct sch_request req = request(tokens, 200, 5);
    struct sch_request scored = req;
    scored.prompt_logprobs = true;
    assert_int_equal(run_one(&r, &req), 0);
    assert_int_equal(run_one(&r, &scored), 0);
    assert_int_equal(run_one(&r, &req), 199);
    rig_close(&r);

    struct err e;
    rig_open(&r, NULL, &caching, 0);
    sch_destroy(r.s);
    r.g->info.state_bytes = 100;
    struct sch_options o = {.eng = r.g,
                            .kv = r.kv,
                            .n_queued_max = 9,
                            .n_running_max = 9,
                            .n_event_max = 99,
                            .prefix_cache = true};
    assert_int_equal(sch_create(&o, &r.s, &e), ERR_OK);
    for (int i = 0; i < 2; i++) {
        struct reader q;
        reader_open(&r, &q, req);
        rig_run(&r, &q, 1);
        reader_check(&r, &q, &req);
        assert_int_equal(q.end.n_cached_tok + q.end.n_cache_write_tok, 0);
        reader_close(&q);
    }
    rig_close(&r);
}

/* Memory given back is found again, as far as nobody needed it. */
static void test_preempted(void **state)
{
    (void)state;
    uint64_t n_row[2];
    for (int cached = 0; cached < 2; cached++) {
        struct rig r;
        int32_t tokens[6][200];
        struct reader q[6];
        struct sch_request req[6];
        rig_open(&r, NULL, &(struct sch_options){.prefix_cache = cached}, 24);
        for (uint32_t i = 0; i < 6; i++) {
            rig_prompt(&r, i, tokens[i], 200);
            req[i] = request(tokens[i], 200, 200);
            reader_open(&r, &q[i], req[i]);
        }
        rig_run(&r, q, 6);
        for (uint32_t i = 0; i < 6; i++) {
            reader_check(&r, &q[i], &req[i]);
            assert_int_equal(q[i].end.n_cached_tok, 0); /* its own is not counted */
            reader_close(&q[i]);
        }
        struct sch_stats st = stats_of(&r);
        n_row[cached] = r.n_row;
        print_message("%s: %u times gave memory back, %u rows, %u computed again\n",
                      cached ? "cached" : "plain", (unsigned)st.n_preempted, (unsigned)r.n_row,
                      (unsigned)st.n_recomputed_tok);
        assert_true(st.n_preempted > 0);
        assert_int_equal(r.n_row, 6 * 399 + (cached ? st.n_recomputed_tok : r.n_row - 6 * 399));
        rig_close(&r);
    }
    assert_true(n_row[1] < n_row[0]);
}

/* What a client asked to be held gives way to a request that could not run otherwise. */
static void test_held_gives_way(void **state)
{
    (void)state;
    struct rig r;
    int32_t tokens[400];
    rig_open(&r, NULL, &caching, 8);
    rig_prompt(&r, 1, tokens, 400);
    struct sch_request held = request(tokens, 250, 1);
    held.retention.keep_s = 3600;
    assert_int_equal(run_one(&r, &held), 0);
    struct kv_stats kv = stats_of(&r).kv;
    assert_in_range(kv.n_frame_pinned, 1, 4);
    rig_prompt(&r, 2, tokens, 400);
    struct sch_request large = request(tokens, 400, 100); /* all 8 frames */
    struct reader q;
    reader_open(&r, &q, large);
    rig_run(&r, &q, 1);
    reader_check(&r, &q, &large);
    reader_close(&q);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_second_time),    cmocka_unit_test(test_turns),
        cmocka_unit_test(test_twins),          cmocka_unit_test(test_shared_beginning),
        cmocka_unit_test(test_leader_fails),   cmocka_unit_test(test_nobody_elses),
        cmocka_unit_test(test_not_shared),     cmocka_unit_test(test_preempted),
        cmocka_unit_test(test_held_gives_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
