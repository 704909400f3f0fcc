#include "tests/unit/scheduler/rig.h"

#include "base/clock.h"
#include "base/rng.h"
#include "base/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t rig_now(void *arg)
{
    return ((struct rig *)arg)->now_us;
}

static void on_step(void *arg, const struct eng_slice *slices, uint32_t n_slice)
{
    struct rig *r = arg;
    r->n_slice_last = n_slice;
    r->n_row_last = 0;
    for (uint32_t i = 0; i < n_slice; i++) {
        r->n_row_last += slices[i].n_tok;
    }
    r->n_row += r->n_row_last;
    r->now_us += r->step_us + (uint64_t)r->n_row_last * r->row_us;
}

void rig_open(struct rig *r, const struct fake_options *fake, const struct sch_options *options,
              uint32_t n_frame)
{
    rig_open_disk(r, fake, options, n_frame, &(struct kv_disk_options){0});
}

void rig_open_disk(struct rig *r, const struct fake_options *fake,
                   const struct sch_options *options, uint32_t n_frame,
                   const struct kv_disk_options *disk)
{
    struct err e;
    *r = (struct rig){.now_us = 1000000, .step_us = 1000, .row_us = 100};
    struct fake_options f = fake ? *fake : (struct fake_options){0};
    f.on_step = on_step;
    f.on_step_arg = r;
    f.n_ctx = f.n_ctx ? f.n_ctx : 512;
    f.n_step_tok_max = f.n_step_tok_max ? f.n_step_tok_max : 256;
    assert_int_equal(fake_engine_create(&f, &r->g, &e), ERR_OK);
    const struct eng_info *info = &r->g->info;
    n_frame = n_frame ? n_frame : 4096;
    struct kv_options k = {.ram_bytes = n_frame * (uint64_t)info->chunk_bytes,
                           .chunk_tok = info->chunk_tok,
                           .chunk_bytes = info->chunk_bytes,
                           .n_seq_tok_max = info->n_ctx,
                           .disk = *disk};
    assert_int_equal(sch_kv_fingerprint(r->g, k.disk.fingerprint, &e), ERR_OK);
    r->has_disk = disk->dir != NULL;
    if (kv_store_create(&k, &r->kv, &e)) {
        fail_msg("%s", e.msg);
    }
    struct sch_options o = options ? *options : (struct sch_options){0};
    o.eng = r->g;
    o.kv = r->kv;
    o.n_queued_max = o.n_queued_max ? o.n_queued_max : 1000;
    o.n_running_max = o.n_running_max ? o.n_running_max : 64;
    o.n_event_max = o.n_event_max ? o.n_event_max : 1024;
    o.check_kv = true;
    o.now_us = rig_now;
    o.now_arg = r;
    assert_int_equal(sch_create(&o, &r->s, &e), ERR_OK);
    uint32_t n_kv_tok = n_frame * info->chunk_tok;
    r->n_tok_max = n_kv_tok < info->n_ctx ? n_kv_tok : info->n_ctx;
}

void rig_close(struct rig *r)
{
    sch_stop(r->s, 0);
    struct sch_stats st;
    sch_get_stats(r->s, &st);
    assert_int_equal(st.n_running, 0);
    assert_int_equal(st.n_queued, 0);
    assert_int_equal(st.kv.n_frame_active, 0);
    assert_int_equal(st.kv.n_seq, 0);
    assert_int_equal(st.n_submitted,
                     st.n_finished[SCH_FINISH_STOP] + st.n_finished[SCH_FINISH_LENGTH] +
                         st.n_finished[SCH_FINISH_CANCELLED] + st.n_finished[SCH_FINISH_ERROR]);
    assert_int_equal(fake_engine_counts(r->g).n_bad_read, 0);
    sch_destroy(r->s);
    kv_store_destroy(r->kv);
    eng_close(r->g);
}

struct sch_request rig_request(const int32_t *tokens, uint32_t n_tok, uint32_t n_gen_max)
{
    return (struct sch_request){.tokens = tokens,
                                .n_tok = n_tok,
                                .n_gen_max = n_gen_max,
                                .sample = {.top_p = 1, .repetition_penalty = 1}};
}

void rig_prompt(const struct rig *r, uint64_t seed, int32_t *tokens, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint64_t v = rng_mix(seed, i) % (r->g->info.n_vocab - FAKE_BYTE_FIRST);
        tokens[i] = FAKE_BYTE_FIRST + (int32_t)v;
    }
}

static void count_wake(void *arg)
{
    ((struct reader *)arg)->n_wake++;
}

void reader_open(struct rig *r, struct reader *q, struct sch_request req)
{
    struct err e = {0};
    *q = (struct reader){0};
    q->ids = malloc(r->g->info.n_ctx * sizeof *q->ids);
    req.wake = count_wake;
    req.wake_arg = q;
    enum err_code code = sch_submit(r->s, &req, &q->st, &e);
    if (code) {
        fail_msg("submit: %s", e.msg);
    }
}

uint32_t reader_drain(struct reader *q)
{
    struct sch_event ev;
    uint32_t n_event = 0;
    while (sch_stream_next(q->st, &ev)) {
        n_event++;
        assert_int_equal(q->n_end, 0); /* nothing comes after the END */
        if (ev.kind == SCH_EVENT_TOKEN) {
            assert_true(utf8_valid(ev.text, ev.n_byte));
            q->n_of_prompt += ev.of_prompt;
            if (!ev.of_prompt) {
                q->ids[q->n++] = ev.id;
                buf_append(&q->text, ev.text, ev.n_byte);
            }
            continue;
        }
        q->n_end++;
        q->end = ev;
        if (ev.error) {
            q->error = *ev.error;
        }
        if (ev.stop_matched) {
            q->has_stop = true;
            (void)snprintf(q->stop, sizeof q->stop, "%s", ev.stop_matched);
        }
    }
    return n_event;
}

void reader_close(struct reader *q)
{
    sch_stream_release(q->st);
    free(q->ids);
    buf_free(&q->text);
    *q = (struct reader){0};
}

void rig_run(struct rig *r, struct reader *q, uint32_t n)
{
    for (uint32_t round = 0; round < 1000000; round++) {
        bool worked = sch_step(r->s);
        uint32_t n_left = 0;
        for (uint32_t i = 0; i < n; i++) {
            worked |= reader_drain(&q[i]) > 0;
            n_left += !q[i].n_end;
        }
        if (!n_left) {
            return;
        }
        if (!worked && r->has_disk) {
            clock_sleep_us(100); /* its time is real */
        } else {
            assert_true(worked); /* else it would stand still for ever */
        }
    }
    fail_msg("no end after a million steps");
}

void reader_check(struct rig *r, const struct reader *q, const struct sch_request *req)
{
    struct fake_answer want;
    fake_expect(r->g, req, r->n_tok_max, &want);
    assert_int_equal(q->n_end, 1);
    assert_int_equal(q->n, want.n);
    assert_memory_equal(q->ids, want.ids, want.n * sizeof *want.ids);
    assert_int_equal(q->text.len, want.text.len);
    assert_memory_equal(buf_str(&q->text), buf_str(&want.text), want.text.len);
    assert_int_equal(q->end.finish, want.finish);
    assert_int_equal(q->has_stop, want.stop_matched != NULL);
    if (want.stop_matched) {
        assert_string_equal(q->stop, want.stop_matched);
    }
    assert_int_equal(q->end.n_prompt_tok, req->n_tok);
    assert_int_equal(q->end.n_gen_tok, want.n);
    fake_answer_finish(&want);
}
