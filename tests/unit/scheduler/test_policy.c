/* The step's policy and the tenants' turns, as pure functions. */
#include "base/rng.h"
#include "scheduler/fairness.h"
#include "scheduler/policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_cost_finds_the_line(void **state)
{
    (void)state;
    struct sch_cost c = {0};
    assert_int_equal(sch_cost_rows(&c, 1000), UINT32_MAX);
    uint64_t seed = 3;
    for (int i = 0; i < 200; i++) {
        uint32_t rows = 1 + (uint32_t)(rng_next(&seed) % 300);
        uint64_t noise = rng_next(&seed) % 400;
        sch_cost_add(&c, rows, 4800 + 70 * rows + noise);
    }
    assert_true(c.a_us > 4700 && c.a_us < 5300);
    assert_true(c.b_us > 68 && c.b_us < 72);
    uint32_t rows = sch_cost_rows(&c, 40000);
    assert_in_range(rows, 480, 520);
    assert_int_equal(sch_cost_rows(&c, 100), 0);
    /* The machine becomes three times as slow: the line follows within some dozens of steps. */
    for (int i = 0; i < 150; i++) {
        uint32_t n = 1 + (uint32_t)(rng_next(&seed) % 300);
        sch_cost_add(&c, n, 15000 + 210 * n);
    }
    assert_true(c.b_us > 190 && c.b_us < 230);
}

static void test_cost_of_equal_steps(void **state)
{
    (void)state;
    struct sch_cost c = {0};
    for (int i = 0; i < 50; i++) {
        sch_cost_add(&c, 8, 8000);
    }
    assert_in_range(sch_cost_rows(&c, 16000), 15, 16); /* no slope seen: proportional */
    sch_cost_add(&c, 200, 20000);
    for (int i = 0; i < 5000; i++) {
        sch_cost_add(&c, 8, 8000); /* the slope once seen stays while nothing tells otherwise */
    }
    assert_true(c.b_us > 30 && c.b_us < 100);
    struct sch_cost odd = {0};
    sch_cost_add(&odd, 1, 100000); /* larger steps were faster: never a slope of zero or below */
    sch_cost_add(&odd, 100, 10);
    assert_true(odd.b_us > 0 && odd.a_us >= 0);
    struct sch_cost zero = {0};
    sch_cost_add(&zero, 1, 0);
    assert_true(sch_cost_rows(&zero, 1000) >= 1000);
}

static void test_budget(void **state)
{
    (void)state;
    struct sch_cost c = {0};
    struct sch_budget_in in = {.n_decode = 4, .n_step_tok_max = 512, .itl_target_us = 30000};
    assert_int_equal(sch_prefill_budget(&c, &in), SCH_PREFILL_FIRST);
    in.itl_target_us = 0;
    assert_int_equal(sch_prefill_budget(&c, &in), 508);
    for (int i = 0; i < 100; i++) {
        sch_cost_add(&c, 1 + (uint32_t)i, 10000 + 200 * (1 + (uint64_t)i));
    }
    in.itl_target_us = 30000; /* (30000 - 10000) / 200 = 100 rows, 4 of them decode */
    assert_int_equal(sch_prefill_budget(&c, &in), 96);
    in.n_decode = 90; /* nearly no time left: the least still goes on */
    assert_int_equal(sch_prefill_budget(&c, &in), SCH_PREFILL_MIN);
    in.n_decode = 0; /* nobody waits for a token: a long step */
    assert_int_equal(sch_prefill_budget(&c, &in), 512);
    in.n_decode = 500; /* the engine's limit rules */
    assert_int_equal(sch_prefill_budget(&c, &in), 12);
}

static void check_share(const struct sch_prefill *p, uint32_t n, uint32_t budget, uint32_t n_out)
{
    uint64_t sum = 0;
    uint64_t out = 0;
    uint64_t could = 0;
    bool any_scored = false;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t max = p[i].n_left < p[i].n_max ? p[i].n_left : p[i].n_max;
        assert_true(p[i].n_tok <= max);
        sum += p[i].n_tok;
        could += max;
        out += p[i].all_out ? p[i].n_tok : 1;
        any_scored |= p[i].all_out;
    }
    assert_true(sum <= budget);
    assert_true(out <= n_out);
    if (!any_scored) { /* nothing is left over that someone could take */
        assert_int_equal(sum, could < budget ? could : budget);
    }
}

static void test_share(void **state)
{
    (void)state;
    struct sch_prefill p[3] = {{.n_left = 1000, .n_max = UINT32_MAX},
                               {.n_left = 500, .n_max = UINT32_MAX},
                               {.n_left = 20, .n_max = UINT32_MAX}};
    sch_share_prefill(p, 3, 100, 64);
    assert_int_equal(p[0].n_tok, 50); /* the oldest */
    assert_int_equal(p[2].n_tok, 20); /* the shortest */
    assert_int_equal(p[1].n_tok, 30);
    p[1].n_max = 0; /* its reader has no room: the oldest takes what is over */
    sch_share_prefill(p, 3, 100, 64);
    assert_int_equal(p[0].n_tok, 80);
    p[0].n_max = 0; /* then the next is the oldest */
    sch_share_prefill(p, 3, 100, 64);
    assert_int_equal(p[2].n_tok, 20);

    uint64_t seed = 11;
    for (int round = 0; round < 20000; round++) {
        struct sch_prefill q[20];
        uint32_t n = 1 + (uint32_t)(rng_next(&seed) % 20);
        for (uint32_t i = 0; i < n; i++) {
            bool scored = rng_next(&seed) % 4 == 0;
            q[i] = (struct sch_prefill){
                .n_left = 2 + (uint32_t)(rng_next(&seed) % (round % 2 ? 6 : 400)),
                .n_max = scored ? (uint32_t)(rng_next(&seed) % 30) : UINT32_MAX,
                .all_out = scored && round % 3};
        }
        uint32_t budget = 1 + (uint32_t)(rng_next(&seed) % 600);
        uint32_t n_out = n + (uint32_t)(rng_next(&seed) % 100);
        sch_share_prefill(q, n, budget, n_out);
        check_share(q, n, budget, n_out);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t max = q[i].n_left < q[i].n_max ? q[i].n_left : q[i].n_max;
            if (max && !q[i].all_out) { /* the oldest that can */
                uint32_t half = budget - budget / 2;
                assert_true(q[i].n_tok >= (max < half ? max : half));
            }
            if (max) {
                assert_true(q[i].n_tok > 0);
                break;
            }
        }
    }
}

#define N_TICKET 60

static uint32_t tenant_of(const struct sch_ticket *t)
{
    return (uint32_t)(t->tenant->name[0] - 'a');
}

/* `a` floods; b comes late and often; c has few, large requests. All get the same while they want
 * something. */
static void test_turns(void **state)
{
    (void)state;
    struct sch_fairness f;
    struct sch_ticket t[N_TICKET];
    struct err e;
    uint64_t used[3] = {0};
    sch_fairness_init(&f);
    for (uint32_t i = 0; i < N_TICKET; i++) {
        t[i] = (struct sch_ticket){.serial = i, .submit_us = i};
        sch_list_init(&t[i].link);
        const char *name = i < 40 ? "a" : (i < 55 ? "b" : "c");
        assert_int_equal(sch_fairness_join(&f, &t[i], name, &e), ERR_OK);
    }
    uint64_t last_serial[3] = {0};
    for (uint32_t k = 0; k < 40; k++) {
        struct sch_ticket *q = sch_fairness_next(&f, 0);
        assert_non_null(q);
        uint32_t n = tenant_of(q);
        uint64_t cost = n == 2 ? 300 : 100;
        assert_true(q->serial >= last_serial[n]); /* first come, first served */
        last_serial[n] = q->serial;
        sch_fairness_take(q);
        sch_fairness_charge(q, cost);
        used[n] += cost;
        if (k < 30) {
            uint64_t least = used[0] < used[1] ? used[0] : used[1];
            uint64_t most = used[0] > used[1] ? used[0] : used[1];
            assert_true(most - least <= 300);
        }
        sch_fairness_leave(&f, q);
    }
    assert_int_equal(used[2], 5 * 300);
    assert_int_equal(used[1], 15 * 100);
    /* Who waits since before the limit goes first, whatever was used. */
    struct sch_ticket *oldest = sch_fairness_next(&f, 1000);
    struct sch_ticket *q;
    while ((q = sch_fairness_next(&f, 1000))) {
        assert_true(q->serial >= oldest->serial);
        oldest = q;
        sch_fairness_take(q);
        sch_fairness_leave(&f, q);
    }
    sch_fairness_finish(&f);
}

/* A tenant that idled saves nothing up, and one that ran up a debt and idled keeps it. */
static void test_idling_saves_nothing(void **state)
{
    (void)state;
    struct sch_fairness f;
    struct sch_ticket t[4];
    struct err e;
    sch_fairness_init(&f);
    for (int i = 0; i < 4; i++) {
        t[i] = (struct sch_ticket){.serial = (uint64_t)i};
        sch_list_init(&t[i].link);
    }
    assert_int_equal(sch_fairness_join(&f, &t[0], "busy", &e), ERR_OK);
    sch_fairness_take(&t[0]);
    sch_fairness_charge(&t[0], 5000);
    assert_int_equal(sch_fairness_join(&f, &t[1], "late", &e), ERR_OK);
    assert_int_equal(t[1].tenant->n_used, 5000);
    sch_fairness_take(&t[1]);
    sch_fairness_charge(&t[1], 900);
    sch_fairness_leave(&f, &t[1]);
    assert_int_equal(sch_fairness_join(&f, &t[2], "late", &e), ERR_OK);
    assert_int_equal(t[2].tenant->n_used, 5900);
    assert_int_equal(sch_fairness_join(&f, &t[3], "busy", &e), ERR_OK);
    assert_ptr_equal(sch_fairness_next(&f, 0), &t[3]);
    sch_fairness_take(&t[2]);
    sch_fairness_take(&t[3]);
    sch_fairness_leave(&f, &t[0]);
    sch_fairness_leave(&f, &t[2]);
    sch_fairness_leave(&f, &t[3]);

    /* Thousands of tenants that come once do not stay for ever. */
    for (int i = 0; i < 5000; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "n%d", i);
        assert_int_equal(sch_fairness_join(&f, &t[0], name, &e), ERR_OK);
        sch_fairness_take(&t[0]);
        sch_fairness_leave(&f, &t[0]);
    }
    assert_in_range(f.n_tenant, 1, 1024);
    sch_fairness_finish(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cost_finds_the_line),
        cmocka_unit_test(test_cost_of_equal_steps),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_share),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_idling_saves_nothing),
    };
    return cmocka_run_group_tests_name("policy", tests, NULL, NULL);
}
