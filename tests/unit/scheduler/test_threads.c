/* The scheduler on its own thread, with readers on others that sleep as scheduler.h says. Run under
 * ThreadSanitizer this is the test of every lock and flag. Also: steady decode allocates nothing.
 */
#include "base/clock.h"
#include "base/rng.h"
#include "tests/unit/scheduler/rig.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static atomic_ulong n_alloc;

/* The linker sends every call here (-Wl,--wrap). */
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

void *__wrap_malloc(size_t n)
{
    atomic_fetch_add_explicit(&n_alloc, 1, memory_order_relaxed);
    return __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    atomic_fetch_add_explicit(&n_alloc, 1, memory_order_relaxed);
    return __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    atomic_fetch_add_explicit(&n_alloc, 1, memory_order_relaxed);
    return __real_realloc(p, n);
}

static void test_decode_allocates_nothing(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, NULL, NULL, 0);
    static const char *const stops[] = {"never to be seen", "of the and of the and"};
    int32_t tokens[8];
    struct reader q[16];
    for (uint32_t i = 0; i < 16; i++) {
        rig_prompt(&r, i, tokens, 8);
        struct sch_request req = rig_request(tokens, 8, 500);
        req.ignore_eos = true;
        req.sample.temperature = i % 2 ? 0.7F : 0;
        req.sample.top_p = i % 3 ? 1 : 0.9F;
        req.sample.frequency_penalty = i % 4 ? 0 : 0.2F;
        req.sample.n_top_logprob = i % 5 ? 0 : 5;
        req.stop = stops;
        req.n_stop = 2;
        reader_open(&r, &q[i], req);
    }
    unsigned long before = 0;
    for (int k = 0; k < 400; k++) {
        before = k == 100 ? atomic_load(&n_alloc) : before;
        assert_true(sch_step(r.s));
        for (int i = 0; i < 16; i++) {
            struct sch_event ev;
            while (sch_stream_next(q[i].st, &ev)) {
                assert_int_equal(ev.kind, SCH_EVENT_TOKEN);
            }
        }
    }
    assert_int_equal(atomic_load(&n_alloc) - before, 0);
    for (int i = 0; i < 16; i++) {
        reader_close(&q[i]);
    }
    rig_close(&r);
}

struct sleeper {
    pthread_mutex_t mu; /* the L of scheduler.h */
    pthread_cond_t awake;
    bool asleep;
    atomic_bool released;
};

static void wake_sleeper(void *arg)
{
    struct sleeper *z = arg;
    if (atomic_load(&z->released)) {
        abort(); /* the promise: never after sch_stream_release returned */
    }
    (void)pthread_mutex_lock(&z->mu);
    if (z->asleep) {
        z->asleep = false;
        (void)pthread_cond_signal(&z->awake);
    }
    (void)pthread_mutex_unlock(&z->mu);
}

/* False when the wake did not come within ten seconds: it was lost. */
static bool next_event(struct sleeper *z, struct sch_stream *st, struct sch_event *ret_ev)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 10;
    bool got = false;
    (void)pthread_mutex_lock(&z->mu);
    while (!(got = sch_stream_next(st, ret_ev))) {
        z->asleep = true;
        while (z->asleep) {
            if (pthread_cond_timedwait(&z->awake, &z->mu, &until)) {
                goto out;
            }
        }
    }
out:
    (void)pthread_mutex_unlock(&z->mu);
    return got;
}

struct client {
    struct rig *r;
    uint64_t seed;
    uint32_t n_request;
    uint32_t n_checked;
    uint32_t n_cut;
    const char *fault;
};

/* Reads to the end and checks, or leaves early by cancel or release. */
static void one_request(struct client *c, struct sleeper *z)
{
    int32_t tokens[80];
    uint32_t n_tok = 1 + (uint32_t)(rng_next(&c->seed) % 80);
    rig_prompt(c->r, c->seed, tokens, n_tok);
    struct sch_request req = rig_request(tokens, n_tok, 1 + (uint32_t)(rng_next(&c->seed) % 40));
    req.wake = wake_sleeper;
    req.wake_arg = z;
    req.tenant = c->seed % 2 ? "odd" : "even";
    uint32_t n_until_cut = (uint32_t)(rng_next(&c->seed) % 80);
    bool releases = rng_next(&c->seed) % 2;
    struct sch_stream *st = NULL;
    struct err e;
    while (sch_submit(c->r->s, &req, &st, &e) == ERR_FULL) {
        clock_sleep_us(200);
    }
    struct fake_answer want;
    fake_expect(c->r->g, &req, c->r->n_tok_max, &want);
    uint32_t n = 0;
    for (;;) {
        struct sch_event ev;
        if (n == n_until_cut) {
            c->n_cut++;
            if (releases) {
                break;
            }
            sch_cancel(st);
        }
        if (!next_event(z, st, &ev)) {
            c->fault = "a wake was lost";
            break;
        }
        if (ev.kind == SCH_EVENT_END) {
            bool whole = ev.finish == want.finish && n == want.n;
            bool cut = ev.finish == SCH_FINISH_CANCELLED && n >= n_until_cut;
            c->fault = whole || cut ? c->fault : "a wrong end";
            c->n_checked += whole;
            break;
        }
        if (n >= want.n || ev.id != want.ids[n]) {
            c->fault = "a wrong token";
            break;
        }
        n++;
    }
    fake_answer_finish(&want);
    sch_stream_release(st);
}

static void *run_client(void *arg)
{
    struct client *c = arg;
    for (uint32_t i = 0; i < c->n_request && !c->fault; i++) {
        struct sleeper z = {0};
        (void)pthread_mutex_init(&z.mu, NULL);
        (void)pthread_cond_init(&z.awake, NULL);
        one_request(c, &z);
        atomic_store(&z.released, true);
        (void)pthread_mutex_destroy(&z.mu);
        (void)pthread_cond_destroy(&z.awake);
    }
    return NULL;
}

static void test_clients_on_threads(void **state)
{
    (void)state;
    enum { N_CLIENT = 16 };
    struct rig r;
    rig_open(&r, NULL,
             &(struct sch_options){.n_queued_max = 12, .n_running_max = 8, .n_event_max = 3}, 9);
    struct err e;
    pthread_t threads[N_CLIENT];
    struct client clients[N_CLIENT];
    assert_int_equal(sch_start(r.s, &e), ERR_OK);
    for (uint32_t i = 0; i < N_CLIENT; i++) {
        clients[i] = (struct client){.r = &r, .seed = i, .n_request = 60};
        assert_int_equal(pthread_create(&threads[i], NULL, run_client, &clients[i]), 0);
    }
    struct sch_stats st = {0};
    for (int k = 0; k < 50; k++) {
        sch_get_stats(r.s, &st);
        clock_sleep_us(500);
    }
    uint32_t n_checked = 0;
    uint32_t n_cut = 0;
    for (uint32_t i = 0; i < N_CLIENT; i++) {
        (void)pthread_join(threads[i], NULL);
        if (clients[i].fault) {
            fail_msg("client %u: %s", i, clients[i].fault);
        }
        n_checked += clients[i].n_checked;
        n_cut += clients[i].n_cut;
    }
    sch_get_stats(r.s, &st);
    print_message("%u whole, %u left early, %u times memory given back\n", n_checked, n_cut,
                  (unsigned)st.n_preempted);
    assert_true(n_checked > 300 && n_cut > 100);
    rig_close(&r);
}

struct stopper {
    struct sch *s;
    uint64_t grace_us;
};

static void *run_stop(void *arg)
{
    struct stopper *p = arg;
    sch_stop(p->s, p->grace_us);
    return NULL;
}

/* Within the grace what runs ends well and what comes is refused; after it, all is cancelled. */
static void test_drain(void **state)
{
    (void)state;
    for (int enough = 0; enough < 2; enough++) {
        struct rig r;
        struct err e;
        rig_open(&r, &(struct fake_options){.step_us = 1000}, NULL, 0);
        sch_destroy(r.s);
        struct sch_options o = {
            .eng = r.g, .kv = r.kv, .n_queued_max = 64, .n_running_max = 2, .n_event_max = 1024};
        assert_int_equal(sch_create(&o, &r.s, &e), ERR_OK);
        int32_t tokens[10];
        rig_prompt(&r, 1, tokens, 10);
        struct sch_request req = rig_request(tokens, 10, enough ? 40 : 500);
        req.ignore_eos = true;
        struct reader q[4];
        for (int i = 0; i < 4; i++) {
            reader_open(&r, &q[i], req);
        }
        assert_int_equal(sch_start(r.s, &e), ERR_OK);
        struct sch_event ev;
        while (!sch_stream_next(q[0].st, &ev)) {
            clock_sleep_us(100);
        }
        struct stopper p = {r.s, enough ? 20000000 : 50000};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, run_stop, &p), 0);
        clock_sleep_us(10000);
        struct sch_stream *late = NULL;
        assert_int_equal(sch_submit(r.s, &req, &late, &e), ERR_FULL);
        (void)pthread_join(thread, NULL);
        for (int i = 0; i < 4; i++) {
            (void)reader_drain(&q[i]);
            assert_int_equal(q[i].n_end, 1);
            assert_int_equal(q[i].end.finish, enough ? SCH_FINISH_LENGTH : SCH_FINISH_CANCELLED);
            reader_close(&q[i]);
        }
        rig_close(&r);
    }
}

static void read_to_end(struct reader *q)
{
    while (!q->n_end) {
        if (!reader_drain(q)) {
            clock_sleep_us(50);
        }
    }
}

/* A thread asleep, for half a second when there is nothing to do, is woken by a request; and by a
 * reader that made room, 120 times here. */
static void test_sleeping_thread(void **state)
{
    (void)state;
    struct rig r;
    struct err e;
    rig_open(&r, NULL, &(struct sch_options){.n_event_max = 4}, 0);
    int32_t tokens[10];
    rig_prompt(&r, 1, tokens, 10);
    struct sch_request req = rig_request(tokens, 10, 480);
    req.ignore_eos = true;
    assert_int_equal(sch_start(r.s, &e), ERR_OK);
    struct reader q;
    reader_open(&r, &q, req);
    read_to_end(&q);
    reader_check(&r, &q, &req);
    reader_close(&q);
    req.n_gen_max = 2;
    uint64_t slept_us = 0;
    for (int i = 0; i < 20; i++) {
        clock_sleep_us(5000);
        uint64_t start_us = clock_mono_us();
        reader_open(&r, &q, req);
        read_to_end(&q);
        slept_us += clock_mono_us() - start_us;
        reader_close(&q);
    }
    print_message("20 requests to a sleeping thread: %u us each\n", (unsigned)(slept_us / 20));
    assert_true(slept_us < 4000000); /* 10 s if it slept on */
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_allocates_nothing),
        cmocka_unit_test(test_clients_on_threads),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_sleeping_thread),
    };
    return cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
