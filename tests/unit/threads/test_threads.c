/* The worker pool: every item once, writes visible after, late wakers take nothing of the next job,
 * and losing a core costs microseconds. */
#include "base/clock.h"
#include "base/host.h"
#include "engine/threads.h"

#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct job {
    uint32_t n_thread;
    uint32_t *hits;         /* [n_item], plain memory: a race shows under TSan */
    _Atomic uint32_t *busy; /* [n_thread] */
    _Atomic uint32_t n_bad;
    uint64_t tag;
    uint64_t *out; /* [n_item] */
};

static void count_item(void *arg, uint32_t item, uint32_t worker)
{
    struct job *j = arg;
    if (worker >= j->n_thread || atomic_exchange(&j->busy[worker], 1)) {
        atomic_fetch_add(&j->n_bad, 1);
        return;
    }
    j->hits[item]++;
    j->out[item] = j->tag + item;
    atomic_store(&j->busy[worker], 0);
}

static void test_each_item_once(void **state)
{
    (void)state;
    enum { N_ITEM_MAX = 300, N_JOB = 4000 };
    for (uint32_t n_thread = 1; n_thread <= 9; n_thread += 2) {
        struct eng_pool *pool = NULL;
        assert_int_equal(eng_pool_create(n_thread, &pool, NULL), ERR_OK);
        assert_int_equal(eng_pool_n_thread(pool), n_thread);
        _Atomic uint32_t busy[9] = {0};
        uint32_t hits[N_ITEM_MAX];
        uint64_t out[N_ITEM_MAX];
        struct job j = {.n_thread = n_thread, .hits = hits, .busy = busy, .out = out};
        for (uint32_t round = 0; round < N_JOB; round++) {
            uint32_t n_item = round * 7919 % (round % 50 ? 12 : N_ITEM_MAX);
            memset(hits, 0, sizeof hits);
            j.tag = (uint64_t)round << 32;
            eng_pool_run(pool, n_item, count_item, &j);
            for (uint32_t i = 0; i < n_item; i++) {
                assert_int_equal(hits[i], 1);
                assert_int_equal(out[i], j.tag + i);
            }
            for (uint32_t i = n_item; i < N_ITEM_MAX; i++) {
                assert_int_equal(hits[i], 0);
            }
            if (round % 500 == 0) {
                clock_sleep_us(300); /* lets the workers fall asleep */
            }
        }
        assert_int_equal(j.n_bad, 0);
        eng_pool_destroy(pool);
    }
}

static void multiply_tiny(void *arg, uint32_t item, uint32_t worker)
{
    (void)worker;
    volatile float tiny = FLT_MIN;
    ((float *)arg)[item] = tiny * 0.25F;
}

static void test_denormals_flushed_inside_only(void **state)
{
    (void)state;
    struct eng_pool *pool = NULL;
    assert_int_equal(eng_pool_create(3, &pool, NULL), ERR_OK);
    float got[64];
    eng_pool_run(pool, 64, multiply_tiny, got);
    for (int i = 0; i < 64; i++) {
        assert_true(got[i] == 0.0F);
    }
    eng_pool_run(pool, 1, multiply_tiny, got + 1);
    assert_true(got[1] == 0.0F);
    volatile float tiny = FLT_MIN;
    assert_true(tiny * 0.25F > 0.0F);
    eng_pool_destroy(pool);
}

static void spin_five_us(void *arg, uint32_t item, uint32_t worker)
{
    (void)arg;
    (void)item;
    (void)worker;
    uint64_t until = clock_mono_ns() + 5000;
    while (clock_mono_ns() < until) {
    }
}

/* More threads than cores: a spinning barrier would need a time slice (milliseconds) per job. */
static void test_oversubscribed_barrier(void **state)
{
    (void)state;
    enum { N_JOB = 2000 };
    uint32_t n_thread = host_cores() * 2 + 1;
    struct eng_pool *pool = NULL;
    assert_int_equal(eng_pool_create(n_thread, &pool, NULL), ERR_OK);
    uint64_t from = clock_mono_ns();
    for (int i = 0; i < N_JOB; i++) {
        eng_pool_run(pool, n_thread, spin_five_us, NULL);
    }
    double us = (double)(clock_mono_ns() - from) / 1e3 / N_JOB;
    print_message("%u threads on %u cores: %.2f us per job of %u x 5 us\n", n_thread, host_cores(),
                  us, n_thread);
    assert_true(us < 1000);
    eng_pool_destroy(pool);
}

static void test_create_limits(void **state)
{
    (void)state;
    struct eng_pool *pool = NULL;
    struct err e = {0};
    assert_int_equal(eng_pool_create(100000, &pool, &e), ERR_LIMIT);
    assert_null(pool);
    assert_non_null(strstr(e.msg, "100000"));
    assert_int_equal(eng_pool_create(0, &pool, &e), ERR_OK);
    assert_int_equal(eng_pool_n_thread(pool), host_cores());
    eng_pool_destroy(pool);
    eng_pool_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_item_once),
        cmocka_unit_test(test_denormals_flushed_inside_only),
        cmocka_unit_test(test_oversubscribed_barrier),
        cmocka_unit_test(test_create_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
