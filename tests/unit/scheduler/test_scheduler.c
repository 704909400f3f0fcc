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

/* Rows sampled on three workers, whichever takes which. */
static void test_sampling_on_workers(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, &(struct fake_options){.seed = 1, .n_thread = 3, .n_vocab = 4000}, NULL, 0);
    run_mixed(&r);
    rig_close(&r);
}

/* No slicing, budget or chunk size changes an answer. */
static void test_slicing_does_not_matter(void **state)
{
    (void)state;
    static const struct {
        uint32_t n_step_tok_max, itl_target_us, n_running_max, chunk_tok, n_event_max;
    } cases[] = {{0, 0, 64, 64, 1024}, {7, 0, 64, 64, 1024}, {0, 1, 5, 16, 3}, {1, 0, 1, 128, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rig r;
        rig_open(&r, &(struct fake_options){.seed = 1, .chunk_tok = cases[i].chunk_tok},
                 &(struct sch_options){.n_step_tok_max = cases[i].n_step_tok_max,
                                       .itl_target_us = cases[i].itl_target_us,
                                       .n_running_max = cases[i].n_running_max,
                                       .n_event_max = cases[i].n_event_max},
                 0);
        run_mixed(&r);
        rig_close(&r);
    }
}

/* The vector of a prompt, from the hidden state of each of its rows. */
static void expect_vector(const struct rig *r, const struct sch_request *req, float *out)
{
    uint32_t n_embd = r->g->info.n_embd;
    double sum[64] = {0};
    for (uint32_t t = 0; t < req->n_tok; t++) {
        float row[64];
        fake_hidden(r->g, req->tokens, t + 1, row);
        eng_pool_add(req->pooling, row, t, 1, req->n_tok, n_embd, sum);
    }
    eng_pool_end(req->pooling, sum, req->n_tok, n_embd, true, out);
}

#define N_VECTOR 24

static void run_vectors(struct rig *r, bool beside)
{
    static struct reader readers[N_VECTOR];
    static int32_t tokens[N_VECTOR][512];
    struct sch_request req[N_VECTOR];
    for (uint32_t i = 0; i < N_VECTOR; i++) {
        uint32_t n_tok = 1 + (uint32_t)(rng_mix(i, 4) % 200);
        rig_prompt(r, i, tokens[i], n_tok);
        req[i] = rig_request(tokens[i], n_tok, 0);
        req[i].embed = true;
        req[i].pooling = (enum eng_pooling)(ENG_POOLING_MEAN + i % 3);
        if (beside && i % 2) {
            req[i] = mixed_request(r, i, tokens[i]);
        }
        reader_open(r, &readers[i], req[i]);
    }
    rig_run(r, readers, N_VECTOR);
    for (uint32_t i = 0; i < N_VECTOR; i++) {
        if (!req[i].embed) {
            reader_check(r, &readers[i], &req[i]);
        } else {
            float want[64];
            expect_vector(r, &req[i], want);
            assert_int_equal(readers[i].end.finish, SCH_FINISH_LENGTH);
            assert_non_null(readers[i].end.embedding);
            assert_memory_equal(readers[i].end.embedding, want, r->g->info.n_embd * sizeof *want);
        }
        reader_close(&readers[i]);
    }
}

/* A long prompt whose memory an older answer takes while it is being read. */
static void test_embedding_parked(void **state)
{
    (void)state;
    struct rig r;
    static int32_t tokens[2][512];
    struct reader q[2];
    float want[64];
    rig_open(&r, &(struct fake_options){.n_embd = 32, .chunk_tok = 16, .never_eog = true},
             &(struct sch_options){.n_step_tok_max = 2}, 20);
    rig_prompt(&r, 1, tokens[0], 16);
    rig_prompt(&r, 2, tokens[1], 272); /* 17 chunks of 20 */
    struct sch_request answer = rig_request(tokens[0], 16, 200);
    struct sch_request embed = rig_request(tokens[1], 272, 0);
    embed.embed = true;
    reader_open(&r, &q[0], answer);
    reader_open(&r, &q[1], embed);
    rig_run(&r, q, 2);
    struct sch_stats stats;
    sch_get_stats(r.s, &stats);
    assert_true(stats.n_preempted > 0);
    reader_check(&r, &q[0], &answer);
    expect_vector(&r, &embed, want);
    assert_memory_equal(q[1].end.embedding, want, r.g->info.n_embd * sizeof *want);
    reader_close(&q[0]);
    reader_close(&q[1]);
    rig_close(&r);
}

/* Vectors are what each prompt alone gives: beside answers and in slices. */
static void test_embeddings(void **state)
{
    (void)state;
    struct rig r;
    const struct fake_options fake = {.seed = 1, .n_embd = 32, .chunk_tok = 16};
    rig_open(&r, &fake, NULL, 0);
    run_vectors(&r, true);
    rig_close(&r);
    rig_open(&r, &fake, &(struct sch_options){.n_step_tok_max = 7, .n_running_max = 6}, 0);
    run_vectors(&r, true);
    rig_close(&r);
}

static void test_encoder(void **state)
{
    (void)state;
    struct rig r;
    struct err e;
    struct sch_stream *st = NULL;
    static int32_t tokens[512];
    const struct fake_options fake = {.n_embd = 32, .encoder = true, .n_step_tok_max = 256};
    rig_open(&r, &fake, &(struct sch_options){.itl_target_us = 1}, 0);
    run_vectors(&r, false);
    assert_true(fake_engine_counts(r.g).n_slice_max > 1);
    rig_prompt(&r, 1, tokens, 257);
    struct sch_request req = rig_request(tokens, 20, 5);
    assert_int_equal(sch_submit(r.s, &req, &st, &e), ERR_UNSUPPORTED);
    req = rig_request(tokens, 257, 0); /* no step holds it */
    req.embed = true;
    assert_int_equal(sch_submit(r.s, &req, &st, &e), ERR_LIMIT);
    rig_close(&r);
    rig_open(&r, &(struct fake_options){0}, NULL, 0);
    req.n_tok = 20;
    assert_int_equal(sch_submit(r.s, &req, &st, &e), ERR_UNSUPPORTED);
    rig_close(&r);
}

/* The same prompt with different adapters shares steps, grouped, and no KV: the fake engine counts
 * a bad read when a sequence finds what another adapter wrote. */
static uint32_t n_ungrouped;

static void count_groups(void *arg, const struct eng_slice *slices, uint32_t n_slice)
{
    (void)arg;
    for (uint32_t i = 1; i < n_slice; i++) {
        n_ungrouped += slices[i].adapter < slices[i - 1].adapter;
    }
}

static void test_adapters(void **state)
{
    (void)state;
    struct rig r;
    static struct reader readers[24];
    static int32_t tokens[200];
    struct err e;
    struct sch_stream *st = NULL;
    const struct fake_options fake = {
        .n_adapter = 3, .never_eog = true, .on_step = count_groups, .chunk_tok = 16};
    n_ungrouped = 0;
    rig_open(&r, &fake, &(struct sch_options){.prefix_cache = true}, 0);
    rig_prompt(&r, 1, tokens, 200);
    for (uint32_t round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < 24; i++) {
            struct sch_request req = rig_request(tokens, 200, 20);
            req.adapter = i % 4;
            reader_open(&r, &readers[i], req);
        }
        rig_run(&r, readers, 24);
        for (uint32_t i = 0; i < 24; i++) {
            assert_int_equal(readers[i].n, 20);
            assert_memory_equal(readers[i].ids, readers[i % 4].ids, 20 * sizeof(int32_t));
            assert_true(i % 4 == 0 || memcmp(readers[i].ids, readers[0].ids, 20 * sizeof(int32_t)));
            assert_true(!round || readers[i].end.n_cached_tok >= 192);
        }
        for (uint32_t i = 0; i < 24; i++) {
            reader_close(&readers[i]);
        }
    }
    struct sch_request req = rig_request(tokens, 200, 20);
    req.adapter = 4;
    assert_int_equal(sch_submit(r.s, &req, &st, &e), ERR_INVALID);
    assert_int_equal(fake_engine_counts(r.g).n_bad_read, 0);
    assert_int_equal(n_ungrouped, 0);
    rig_close(&r);
}

static void test_finish_reasons(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, &(struct fake_options){.never_eog = true}, NULL, 0);
    int32_t tokens[512];
    rig_prompt(&r, 5, tokens, 512);
    struct reader q;

    struct sch_request req = rig_request(tokens, 10, 7);
    reader_open(&r, &q, req);
    rig_run(&r, &q, 1);
    reader_check(&r, &q, &req);
    assert_int_equal(q.end.finish, SCH_FINISH_LENGTH);
    assert_int_equal(q.n, 7);
    int32_t third = q.ids[2];
    reader_close(&q);

    req.stop_ids = &third;
    req.n_stop_id = 1;
    for (int keep = 0; keep < 2; keep++) {
        req.keep_stop = keep;
        reader_open(&r, &q, req);
        rig_run(&r, &q, 1);
        reader_check(&r, &q, &req);
        assert_int_equal(q.end.finish, SCH_FINISH_STOP);
        assert_false(q.has_stop);
        assert_int_equal(q.n, 3);
        reader_close(&q);
    }

    req = rig_request(tokens, 500, 100); /* cut to the context of 512 */
    reader_open(&r, &q, req);
    rig_run(&r, &q, 1);
    reader_check(&r, &q, &req);
    assert_int_equal(q.n, 12);
    reader_close(&q);

    req = rig_request(tokens, 512, 0); /* prefill alone may fill the context */
    reader_open(&r, &q, req);
    rig_run(&r, &q, 1);
    assert_int_equal(q.end.finish, SCH_FINISH_LENGTH);
    assert_int_equal(q.n, 0);
    reader_close(&q);
    rig_close(&r);
}

static void test_minimum(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, &(struct fake_options){.eog_permille = 300}, NULL, 0);
    int32_t tokens[8];
    uint32_t n_longer = 0;
    for (uint32_t i = 0; i < 40; i++) {
        struct reader q;
        rig_prompt(&r, i, tokens, 8);
        struct sch_request req = rig_request(tokens, 8, 60);
        req.n_gen_min = 20;
        reader_open(&r, &q, req);
        rig_run(&r, &q, 1);
        reader_check(&r, &q, &req);
        assert_true(q.n > 20);
        for (uint32_t k = 0; k < 20; k++) {
            assert_false(eng_is_eog(r.g, q.ids[k]));
        }
        reader_close(&q);
        req.n_gen_min = 0;
        req.ignore_eos = true;
        reader_open(&r, &q, req);
        rig_run(&r, &q, 1);
        reader_check(&r, &q, &req);
        n_longer += q.n == 60;
        reader_close(&q);
    }
    assert_int_equal(n_longer, 40);
    rig_close(&r);
}

static void test_prompt_logprobs(void **state)
{
    (void)state;
    for (uint32_t n_event_max = 4; n_event_max <= 1024; n_event_max *= 16) {
        struct rig r;
        rig_open(&r, &(struct fake_options){.n_step_out_max = 64},
                 &(struct sch_options){.n_event_max = n_event_max, .n_running_max = 8}, 0);
        int32_t tokens[200];
        rig_prompt(&r, 3, tokens, 200);
        struct sch_request req = rig_request(tokens, 200, 5);
        req.prompt_logprobs = true;
        req.sample.n_top_logprob = 3;
        req.sample.want_logprob = true;
        struct sample_scratch *c = NULL;
        struct err e;
        assert_int_equal(sample_scratch_create(r.g->info.n_vocab, &c, &e), ERR_OK);
        float *logits = malloc(r.g->info.n_vocab * sizeof *logits);
        struct reader q;
        reader_open(&r, &q, req);
        int32_t all[205];
        memcpy(all, tokens, sizeof tokens);
        uint32_t at = 1;
        struct sch_event ev = {0};
        while (ev.kind != SCH_EVENT_END) {
            (void)sch_step(r.s);
            while (sch_stream_next(q.st, &ev) && ev.kind == SCH_EVENT_TOKEN) {
                assert_int_equal(ev.of_prompt, at < 200);
                all[at] = at < 200 ? all[at] : ev.id;
                assert_int_equal(ev.id, all[at]);
                struct sample_result want;
                fake_logits(r.g, all, at, logits);
                sample_score(&req.sample, c, logits, ev.id, &want);
                assert_non_null(ev.logprobs);
                assert_memory_equal(ev.logprobs, &want, sizeof want);
                at++;
            }
        }
        assert_int_equal(at, 205);
        reader_close(&q);

        req.n_gen_max = 0; /* echo alone */
        req.sample.want_logprob = false;
        req.sample.n_top_logprob = 0;
        reader_open(&r, &q, req);
        rig_run(&r, &q, 1);
        assert_int_equal(q.n_of_prompt, 199);
        assert_int_equal(q.n, 0);
        assert_int_equal(q.end.finish, SCH_FINISH_LENGTH);
        reader_close(&q);
        free(logits);
        sample_scratch_destroy(c);
        rig_close(&r);
    }
}

static enum err_code try_submit(struct rig *r, struct sch_request req, struct err *e)
{
    struct sch_stream *st = NULL;
    enum err_code code = sch_submit(r->s, &req, &st, e);
    assert_true(!st == (code != ERR_OK));
    sch_stream_release(st);
    return code;
}

static void test_bad_requests(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, NULL, NULL, 4); /* 4 chunks of 64 tokens */
    int32_t tokens[600] = {0};
    struct err e;
    struct sch_request req = rig_request(tokens, 10, 5);
    req.n_tok = 0;
    assert_int_equal(try_submit(&r, req, &e), ERR_INVALID);
    req.n_tok = 256;
    assert_int_equal(try_submit(&r, req, &e), ERR_LIMIT);
    assert_non_null(strstr(e.msg, "KV memory of 256 tokens"));
    req.n_tok = 255;
    assert_int_equal(try_submit(&r, req, &e), ERR_OK);
    tokens[9] = (int32_t)r.g->info.n_vocab;
    req.n_tok = 10;
    assert_int_equal(try_submit(&r, req, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "prompt token 9 is 320"));
    tokens[9] = -1;
    assert_int_equal(try_submit(&r, req, &e), ERR_INVALID);
    tokens[9] = 0;
    const char *stops[SCH_STOP_MAX + 1] = {"a", ""};
    req.stop = stops;
    req.n_stop = 2;
    assert_int_equal(try_submit(&r, req, &e), ERR_INVALID);
    req.n_stop = SCH_STOP_MAX + 1;
    assert_int_equal(try_submit(&r, req, &e), ERR_INVALID);
    struct sch_stats st;
    sch_get_stats(r.s, &st);
    assert_int_equal(st.n_rejected, 6);
    assert_int_equal(st.n_submitted, 1);
    rig_close(&r);
}

static void test_queue_bound(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, NULL, &(struct sch_options){.n_queued_max = 5, .n_running_max = 2}, 0);
    int32_t tokens[4] = {9, 8, 7, 6};
    struct sch_request req = rig_request(tokens, 4, 30);
    req.ignore_eos = true;
    struct reader q[7];
    struct err e;
    for (int i = 0; i < 5; i++) {
        reader_open(&r, &q[i], req);
    }
    assert_int_equal(try_submit(&r, req, &e), ERR_FULL);
    assert_non_null(strstr(e.msg, "queue is full"));
    (void)sch_step(r.s); /* two run now, three wait */
    struct sch_stats st;
    sch_get_stats(r.s, &st);
    assert_int_equal(st.n_running, 2);
    assert_int_equal(st.n_queued, 3);
    reader_open(&r, &q[5], req);
    reader_open(&r, &q[6], req);
    assert_int_equal(try_submit(&r, req, &e), ERR_FULL);
    rig_run(&r, q, 7);
    for (int i = 0; i < 7; i++) {
        reader_check(&r, &q[i], &req);
        assert_true(i < 2 ? q[i].end.queue_us == 0 : q[i].end.queue_us > 0);
        assert_true(q[i].end.ttft_us > q[i].end.queue_us);
        assert_true(q[i].end.total_us > q[i].end.ttft_us);
        reader_close(&q[i]);
    }
    sch_get_stats(r.s, &st);
    assert_int_equal(st.n_gen_tok, 7 * 30);
    assert_int_equal(st.n_prompt_tok, 7 * 4);
    assert_int_equal(st.ttft.n, 7);
    assert_int_equal(st.itl.n, 7 * 29);
    assert_int_equal(st.e2e.n, 7);
    assert_int_equal(st.n_rejected, 2);
    assert_int_equal(st.step.n, st.n_step);
    rig_close(&r);
}

/* In whatever phase: the END comes with the next step, and memory is back. */
static void test_cancel_in_each_phase(void **state)
{
    (void)state;
    for (int phase = 0; phase < 5; phase++) {
        struct rig r;
        rig_open(&r, NULL,
                 &(struct sch_options){.n_running_max = 1, .n_step_tok_max = 16, .n_event_max = 8},
                 0);
        int32_t tokens[100];
        rig_prompt(&r, 1, tokens, 100);
        struct sch_request req = rig_request(tokens, 100, 300);
        req.ignore_eos = true;
        struct reader other;
        struct reader q;
        if (phase == 1) { /* 1: it waits behind another */
            reader_open(&r, &other, req);
        }
        reader_open(&r, &q, req);
        /* 0: in the inbox; 2: prefill; 3: decode; 4: its reader has no room */
        static const int n_step[] = {0, 3, 3, 10, 40};
        for (int i = 0; i < n_step[phase]; i++) {
            (void)sch_step(r.s);
            if (phase == 3) {
                (void)reader_drain(&q);
            }
        }
        uint64_t n_active = phase == 0 ? 0 : 2;
        struct sch_stats st;
        sch_get_stats(r.s, &st);
        assert_int_equal(st.kv.n_frame_active, n_active);
        sch_cancel(q.st);
        sch_cancel(q.st);
        assert_true(sch_step(r.s));
        (void)reader_drain(&q);
        assert_int_equal(q.n_end, 1);
        assert_int_equal(q.end.finish, SCH_FINISH_CANCELLED);
        assert_true(phase != 3 || q.n > 0);
        assert_true(phase != 4 || q.n == 8);
        sch_get_stats(r.s, &st);
        assert_int_equal(st.kv.n_frame_active, phase == 1 ? 2 : 0);
        sch_cancel(q.st); /* after the END: nothing */
        (void)sch_step(r.s);
        assert_int_equal(reader_drain(&q), 0);
        reader_close(&q);
        if (phase == 1) {
            reader_close(&other); /* released without reading: cancels */
            assert_true(sch_step(r.s));
            sch_get_stats(r.s, &st);
            assert_int_equal(st.n_finished[SCH_FINISH_CANCELLED], 2);
        }
        rig_close(&r);
    }
}

static void test_deadlines(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, NULL, &(struct sch_options){.n_running_max = 1}, 0);
    int32_t tokens[4] = {9, 8, 7, 6};
    struct sch_request req = rig_request(tokens, 4, 400);
    req.ignore_eos = true;
    req.deadline_us = r.now_us + 60000;
    struct reader q[3];
    reader_open(&r, &q[0], req); /* passes while it runs: a step takes 1.1 ms */
    req.deadline_us = r.now_us + 20000;
    reader_open(&r, &q[1], req); /* passes while it waits */
    req.deadline_us = r.now_us + 10000000;
    reader_open(&r, &q[2], req);
    rig_run(&r, q, 3);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(q[i].end.finish, SCH_FINISH_ERROR);
        assert_int_equal(q[i].error.code, ERR_TIMEOUT);
    }
    assert_in_range(q[0].n, 50, 60);
    assert_int_equal(q[1].n, 0);
    assert_true(q[1].end.total_us < 23000);
    reader_check(&r, &q[2], &req);
    for (int i = 0; i < 3; i++) {
        reader_close(&q[i]);
    }
    rig_close(&r);
}

static void test_engine_error(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, NULL, &(struct sch_options){.n_running_max = 2}, 0);
    int32_t tokens[40];
    rig_prompt(&r, 6, tokens, 40);
    struct sch_request req = rig_request(tokens, 40, 20);
    struct reader q[4];
    for (int i = 0; i < 4; i++) {
        reader_open(&r, &q[i], req);
    }
    for (int i = 0; i < 5; i++) {
        (void)sch_step(r.s);
    }
    fake_engine_fail_next(r.g, 1);
    rig_run(&r, q, 4);
    for (int i = 0; i < 4; i++) {
        if (i < 2) { /* both were in the failing step */
            assert_int_equal(q[i].end.finish, SCH_FINISH_ERROR);
            assert_int_equal(q[i].error.code, ERR_INTERNAL);
            assert_non_null(strstr(q[i].error.msg, "told to fail"));
        } else {
            reader_check(&r, &q[i], &req);
        }
        reader_close(&q[i]);
    }
    rig_close(&r);
}

/* A wake comes once for every time the ring was empty, not once for every event. */
static void test_wakes(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, NULL, NULL, 0);
    int32_t tokens[4] = {5, 6, 7, 8};
    struct sch_request req = rig_request(tokens, 4, 20);
    req.ignore_eos = true;
    struct reader q;
    reader_open(&r, &q, req);
    assert_int_equal(q.n_wake, 0);
    for (int i = 0; i < 6; i++) {
        (void)sch_step(r.s);
    }
    assert_int_equal(q.n_wake, 1);
    assert_int_equal(reader_drain(&q), 6);
    (void)sch_step(r.s);
    assert_int_equal(q.n_wake, 2);
    rig_run(&r, &q, 1);
    assert_int_equal(q.n, 20);
    assert_int_equal(q.n_wake,
                     14); /* one was unread before; the last token and the END came together */
    reader_close(&q);
    rig_close(&r);
}

struct end_watch {
    struct rig *r;
    struct sch_stream *st;
    struct sch_stats at_end;
};

static void look_at_end(void *arg)
{
    struct end_watch *w = arg;
    struct sch_event ev;
    while (sch_stream_next(w->st, &ev)) {
        if (ev.kind == SCH_EVENT_END) {
            sch_get_stats(w->r->s, &w->at_end);
        }
    }
}

/* Who has read an END finds it in the counters, and its memory free, at once. */
static void test_end_is_counted(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, NULL, NULL, 0);
    int32_t tokens[4] = {5, 6, 7, 8};
    struct sch_request req = rig_request(tokens, 4, 20);
    req.ignore_eos = true;
    struct end_watch w = {.r = &r};
    struct err e;
    req.wake = look_at_end;
    req.wake_arg = &w;
    assert_int_equal(sch_submit(r.s, &req, &w.st, &e), ERR_OK);
    while (sch_step(r.s)) {
    }
    assert_int_equal(w.at_end.n_finished[SCH_FINISH_LENGTH], 1);
    assert_int_equal(w.at_end.n_running, 0);
    assert_int_equal(w.at_end.n_gen_tok, 20);
    assert_int_equal(w.at_end.kv.n_frame_active, 0);
    sch_stream_release(w.st);
    rig_close(&r);
}

/* With a = 4 ms and b = 100 µs a row: a step beside decodes takes about the target, though a prompt
 * of 1500 tokens is being computed; without decodes it may take far longer. */
static void test_long_prompt_freezes_nobody(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, &(struct fake_options){.n_ctx = 4096, .n_step_tok_max = 4096},
             &(struct sch_options){.itl_target_us = 12000}, 0);
    r.step_us = 4000;
    static int32_t tokens[2000];
    rig_prompt(&r, 2, tokens, 2000);
    struct reader q[3];
    struct sch_request chat = rig_request(tokens, 20, 2000);
    chat.ignore_eos = true;
    reader_open(&r, &q[0], chat);
    for (int i = 0; i < 30; i++) {
        (void)sch_step(r.s);
        (void)reader_drain(&q[0]);
    }
    reader_open(&r, &q[1], rig_request(tokens, 2000, 1));
    uint64_t worst_us = 0;
    uint32_t n_step = 0;
    uint32_t n_short = 0;
    bool asked = false;
    bool answered = false;
    while (!q[1].n_end) {
        uint64_t t = r.now_us;
        (void)sch_step(r.s);
        n_step++;
        worst_us = n_step > 4 && r.now_us - t > worst_us ? r.now_us - t : worst_us;
        (void)reader_drain(&q[0]);
        (void)reader_drain(&q[1]);
        if (n_step == 8) { /* a short prompt arrives behind the long one */
            reader_open(&r, &q[2], rig_request(tokens, 30, 1));
            asked = true;
        }
        if (asked && !answered) {
            (void)reader_drain(&q[2]);
            n_short++;
            answered = q[2].n_end == 1;
        }
    }
    print_message("%u steps for 2000 tokens, the longest %u us; short prompt after %u steps\n",
                  n_step, (unsigned)worst_us, n_short);
    assert_true(worst_us <= 13000);
    assert_in_range(n_step, 20, 45); /* 80 rows a step would be 26 */
    assert_true(answered && n_short <= 3);
    for (int i = 0; i < 3; i++) {
        reader_close(&q[i]);
    }
    rig_close(&r);
}

/* One tenant sends a hundred requests, another then five: they do not wait for the hundred. */
static void test_tenants_take_turns(void **state)
{
    (void)state;
    static struct reader q[105];
    for (int unfair = 0; unfair < 2; unfair++) {
        struct rig r;
        rig_open(&r, NULL,
                 &(struct sch_options){.n_running_max = 4, .wait_max_us = unfair ? 1 : 60000000},
                 0);
        int32_t tokens[50];
        rig_prompt(&r, 2, tokens, 50);
        struct sch_request req = rig_request(tokens, 50, 20);
        req.ignore_eos = true;
        uint64_t first_us = r.now_us;
        for (int i = 0; i < 105; i++) {
            req.tenant = i < 100 ? "flood" : "calm";
            reader_open(&r, &q[i], req);
            r.now_us += 10;
        }
        rig_run(&r, q, 105);
        uint64_t all_us = r.now_us - first_us;
        uint64_t calm_us = 0;
        for (int i = 0; i < 105; i++) {
            calm_us = i >= 100 && q[i].end.total_us > calm_us ? q[i].end.total_us : calm_us;
            reader_close(&q[i]);
        }
        print_message("all %u ms, the calm tenant done after %u ms\n", (unsigned)(all_us / 1000),
                      (unsigned)(calm_us / 1000));
        /* With a limit of 1 µs on the wait it is first come, first served. */
        assert_true(unfair ? calm_us > all_us * 9 / 10 : calm_us < all_us / 4);
        rig_close(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_together_as_alone),
        cmocka_unit_test(test_sampling_on_workers),
        cmocka_unit_test(test_slicing_does_not_matter),
        cmocka_unit_test(test_embeddings),
        cmocka_unit_test(test_embedding_parked),
        cmocka_unit_test(test_encoder),
        cmocka_unit_test(test_adapters),
        cmocka_unit_test(test_finish_reasons),
        cmocka_unit_test(test_minimum),
        cmocka_unit_test(test_prompt_logprobs),
        cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_queue_bound),
        cmocka_unit_test(test_cancel_in_each_phase),
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_engine_error),
        cmocka_unit_test(test_wakes),
        cmocka_unit_test(test_end_is_counted),
        cmocka_unit_test(test_long_prompt_freezes_nobody),
        cmocka_unit_test(test_tenants_take_turns),
    };
    return cmocka_run_group_tests_name("scheduler", tests, NULL, NULL);
}
