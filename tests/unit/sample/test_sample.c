/* sample.h against a slow oracle that sorts everything in double precision. `--bench` times rows of
 * 150k ids instead. */
#include "base/clock.h"
#include "base/rng.h"
#include "engine/sample.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SEED 20240611

static const struct sample_params plain = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};

struct item {
    double logit;
    double w;
    int32_t id;
    bool kept;
};

static int by_order(const void *a, const void *b)
{
    const struct item *x = a;
    const struct item *y = b;
    if (x->logit != y->logit) {
        return x->logit > y->logit ? -1 : 1;
    }
    return x->id < y->id ? -1 : 1;
}

static int by_id(const void *a, const void *b)
{
    const struct item *x = a;
    const struct item *y = b;
    return x->id < y->id ? -1 : 1;
}

static double clean(double l)
{
    if (isnan(l)) {
        return -INFINITY;
    }
    return l > (double)FLT_MAX ? (double)FLT_MAX : l;
}

/* The answer's text of sample.h, step by step. Returns -1 where rounding could decide. */
static int32_t oracle(const struct sample_params *p, const int32_t *prompt, size_t n_prompt,
                      const int32_t *gen, size_t n_gen, const float *raw, size_t n, uint32_t pos)
{
    struct item *it = calloc(n, sizeof *it);
    float *l = malloc(n * sizeof *l);
    for (size_t i = 0; i < n; i++) {
        size_t seen = 0;
        size_t count = 0;
        for (size_t k = 0; k < n_prompt; k++) {
            seen += prompt[k] == (int32_t)i;
        }
        for (size_t k = 0; k < n_gen; k++) {
            count += gen[k] == (int32_t)i;
        }
        l[i] = raw[i];
        if (seen + count) {
            l[i] = l[i] > 0 ? l[i] / p->repetition_penalty : l[i] * p->repetition_penalty;
        }
        if (count) {
            l[i] = l[i] - p->presence_penalty - p->frequency_penalty * (float)count;
        }
        bool banned = false;
        for (uint32_t k = 0; k < p->n_bias; k++) {
            if (p->bias[k].id == (int32_t)i) {
                l[i] += p->bias[k].bias;
                banned |= p->bias[k].bias == -INFINITY;
            }
        }
        for (uint32_t k = 0; k < p->n_forbid; k++) {
            banned |= p->forbid[k] == (int32_t)i;
        }
        it[i].id = (int32_t)i;
        it[i].logit = banned ? -INFINITY : clean((double)l[i]);
        it[i].kept = !banned;
    }
    int32_t answer = 0;
    for (size_t i = n; i-- > 0;) {
        answer = it[i].kept ? (int32_t)i : answer; /* the lowest that is not forbidden */
    }
    qsort(it, n, sizeof *it, by_order);
    if (it[0].logit == -INFINITY) {
        goto out;
    }
    answer = it[0].id;
    if (p->temperature == 0) {
        goto out;
    }
    size_t n_kept = 0;
    double mass = 0;
    for (size_t i = 0; i < n && (!p->top_k || i < p->top_k); i++) {
        double arg = (it[i].logit - it[0].logit) / (double)p->temperature;
        it[i].w = it[i].logit > -INFINITY && arg > -87 ? exp(arg) : 0;
        mass += it[i].w;
        n_kept++;
    }
    bool close = false;
    if (p->top_p < 1) {
        double acc = 0;
        for (size_t i = 0; i < n_kept; i++) {
            acc += it[i].w;
            close |= fabs(acc - (double)p->top_p * mass) < 2e-6 * mass;
            if (acc >= (double)p->top_p * mass) {
                n_kept = i + 1;
            }
        }
    }
    size_t n_best = 0;
    for (size_t i = 0; i < n_kept; i++) {
        close |= i > 0 && p->min_p > 0 && fabs(it[i].w - (double)p->min_p) < 1e-6;
        n_best += i == n_best && (i == 0 || it[i].w >= (double)p->min_p);
    }
    n_kept = n_best;
    qsort(it, n_kept, sizeof *it, by_id);
    double sum = 0;
    for (size_t i = 0; i < n_kept; i++) {
        sum += it[i].w;
    }
    double target = sum * rng_unit(rng_mix(p->seed, p->choice), pos);
    double acc = 0;
    answer = -2;
    for (size_t i = 0; i < n_kept; i++) {
        acc += it[i].w;
        close |= fabs(acc - target) < 2e-6 * sum;
        if (acc > target && answer == -2) {
            answer = it[i].id;
        }
    }
    answer = close ? -1 : answer;
out:
    free(it);
    free(l);
    return answer;
}

static float unit(uint64_t *seed)
{
    return (float)((double)(rng_next(seed) >> 11) * 0x1.0p-53);
}

static void fill(float *x, size_t n, int kind, uint64_t *seed)
{
    for (size_t i = 0; i < n; i++) {
        switch (kind) {
        case 0: x[i] = unit(seed) * 8 - 4; break;            /* flat */
        case 1: x[i] = -30 * unit(seed) * unit(seed); break; /* peaked */
        case 2: x[i] = (float)(rng_next(seed) % 5); break;   /* ties everywhere */
        case 3:
            x[i] = rng_next(seed) % 3 ? -INFINITY : unit(seed); /* few remain */
            break;
        case 4: x[i] = rng_next(seed) % 3 ? NAN : unit(seed) * 3; break;
        case 5: x[i] = (unit(seed) - 0.5F) * 1e30F; break; /* one takes all */
        case 6: x[i] = rng_next(seed) % 50 ? unit(seed) : INFINITY; break;
        default: x[i] = rng_next(seed) % 2 ? NAN : -INFINITY; break; /* nothing at all */
        }
    }
}

struct rig {
    struct sample_scratch *c;
    struct sample_state *s;
    uint32_t n;
};

static struct rig rig_open(uint32_t n)
{
    struct rig r = {.n = n};
    struct err e;
    assert_int_equal(sample_scratch_create(n, &r.c, &e), ERR_OK);
    assert_int_equal(sample_state_create(n, 64, &r.s, &e), ERR_OK);
    return r;
}

static void rig_close(struct rig *r)
{
    sample_scratch_destroy(r->c);
    sample_state_destroy(r->s);
}

static void test_against_oracle(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 2, 17, 255, 256, 257, 1000, 3001};
    uint64_t seed = SEED;
    uint32_t n_close = 0;
    uint32_t n_done = 0;
    for (uint32_t round = 0; round < 6000; round++) {
        struct rig r = rig_open(sizes[round % 8]);
        float *x = malloc(r.n * sizeof *x);
        int32_t prompt[20];
        int32_t gen[20];
        int32_t forbid[4];
        struct sample_bias bias[6];
        fill(x, r.n, (int)(round / 8 % 8), &seed);
        struct sample_params p = plain;
        p.seed = rng_next(&seed);
        p.choice = (uint32_t)(rng_next(&seed) % 3);
        p.temperature = rng_next(&seed) % 5 ? 0.05F + 2 * unit(&seed) : 0;
        p.top_k = rng_next(&seed) % 2 ? (uint32_t)(rng_next(&seed) % (r.n + 2)) : 0;
        p.top_p = rng_next(&seed) % 2 ? unit(&seed) : 1;
        p.min_p = rng_next(&seed) % 3 ? 0 : unit(&seed) * unit(&seed);
        if (rng_next(&seed) % 2) {
            p.repetition_penalty = 0.5F + unit(&seed) * 1.5F;
            p.presence_penalty = 4 * unit(&seed) - 2;
            p.frequency_penalty = 4 * unit(&seed) - 2;
        }
        bool with_state = sample_needs_state(&p);
        for (int i = 0; i < 20; i++) {
            prompt[i] = (int32_t)(rng_next(&seed) % r.n);
            gen[i] = (int32_t)(rng_next(&seed) % r.n);
            sample_state_accept(r.s, prompt[i], false);
        }
        for (int i = 0; i < 20; i++) {
            sample_state_accept(r.s, gen[i], true);
        }
        for (int i = 0; i < 6; i++) {
            bias[i].id = (int32_t)(rng_next(&seed) % (r.n + 1));
            bias[i].bias = i < 4 ? unit(&seed) * 20 - 10 : -INFINITY;
            forbid[i % 4] = (int32_t)(rng_next(&seed) % (r.n + 1)) - 1;
        }
        p.bias = bias;
        p.n_bias = rng_next(&seed) % 2 ? 6 : 0;
        p.forbid = forbid;
        p.n_forbid = rng_next(&seed) % 2 ? 4 : 0;
        uint32_t pos = (uint32_t)(rng_next(&seed) % 10000);
        int32_t want = oracle(&p, prompt, 20, gen, 20, x, r.n, pos);
        struct sample_result got;
        sample_pick(&p, with_state ? r.s : NULL, r.c, x, pos, &got);
        if (want == -1) {
            n_close++;
        } else {
            assert_int_equal(got.id, want);
            n_done++;
        }
        free(x);
        rig_close(&r);
    }
    print_message("%u rows as the oracle, %u too close to call\n", n_done, n_close);
    assert_true(n_close < n_done / 50);
}

/* A draw at temperature follows softmax: Pearson's test at p = 0.001 over 60 000 draws. */
static void test_distribution(void **state)
{
    (void)state;
    enum { N = 400, N_DRAW = 60000 };
    static const struct {
        float temperature;
        uint32_t top_k;
        float top_p;
        float min_p;
    } cases[] = {{1, 0, 1, 0}, {0.7F, 0, 1, 0}, {1.5F, 40, 1, 0}, {1, 0, 0.8F, 0}, {1, 0, 1, 0.1F}};
    struct rig r = rig_open(N);
    uint64_t seed = SEED;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        float x[N];
        float row[N];
        uint32_t n_by_id[N] = {0};
        struct item it[N];
        fill(x, N, 0, &seed);
        struct sample_params p = plain;
        p.temperature = cases[k].temperature;
        p.top_k = cases[k].top_k;
        p.top_p = cases[k].top_p;
        p.min_p = cases[k].min_p;
        for (uint32_t i = 0; i < N_DRAW; i++) {
            struct sample_result got;
            p.seed = 99 + i / 1000;
            p.choice = i / 500 % 2;
            memcpy(row, x, sizeof row);
            sample_pick(&p, NULL, r.c, row, i, &got);
            n_by_id[got.id]++;
        }
        double mass = 0;
        for (int i = 0; i < N; i++) {
            it[i] = (struct item){.logit = (double)x[i], .id = i};
        }
        qsort(it, N, sizeof *it, by_order);
        uint32_t n_kept = p.top_k ? p.top_k : N;
        for (uint32_t i = 0; i < n_kept; i++) {
            it[i].w = exp((it[i].logit - it[0].logit) / (double)p.temperature);
            mass += it[i].w;
        }
        double acc = 0;
        uint32_t n_prefix = 0;
        for (uint32_t i = 0; i < n_kept && acc < (double)p.top_p * mass; i++, n_prefix++) {
            if (it[i].w < (double)p.min_p) {
                break;
            }
            acc += it[i].w;
        }
        double chi2 = 0;
        uint32_t n_inside = 0;
        for (uint32_t i = 0; i < n_prefix; i++) {
            double expected = N_DRAW * it[i].w / acc;
            double d = n_by_id[it[i].id] - expected;
            chi2 += d * d / expected;
            n_inside += n_by_id[it[i].id];
        }
        assert_int_equal(n_inside, N_DRAW);
        /* Wilson and Hilferty (1931): the 0.999 quantile of chi-square. */
        double df = n_prefix - 1;
        double q = 1 - 2 / (9 * df) + 3.09 * sqrt(2 / (9 * df));
        print_message("T %.1f, %u ids: chi2 %.1f, limit %.1f\n", (double)p.temperature, n_prefix,
                      chi2, df * q * q * q);
        assert_true(chi2 < df * q * q * q);
    }
    rig_close(&r);
}

static void test_draw_is_keyed(void **state)
{
    (void)state;
    struct rig r = rig_open(1000);
    struct rig other = rig_open(1000);
    float x[1000];
    float row[1000];
    uint64_t seed = SEED;
    fill(x, 1000, 0, &seed);
    struct sample_params p = plain;
    p.top_p = 0.95F;
    uint32_t n_changed[3] = {0};
    for (uint32_t pos = 0; pos < 200; pos++) {
        struct sample_result got[5];
        for (int k = 0; k < 5; k++) {
            struct sample_params q = p;
            q.seed += k == 1;
            q.choice += k == 2;
            memcpy(row, x, sizeof row);
            sample_pick(&q, NULL, k == 4 ? other.c : r.c, row, pos + 1000 * (k == 3), &got[k]);
        }
        assert_int_equal(got[0].id, got[4].id);
        for (int k = 0; k < 3; k++) {
            n_changed[k] += got[k + 1].id != got[0].id;
        }
    }
    for (int k = 0; k < 3; k++) {
        assert_true(n_changed[k] > 180);
    }
    rig_close(&r);
    rig_close(&other);
}

static void test_logprobs(void **state)
{
    (void)state;
    uint64_t seed = SEED;
    for (int round = 0; round < 400; round++) {
        struct rig r = rig_open(round % 2 ? 700 : 13);
        float *x = malloc(r.n * sizeof *x);
        struct item *it = calloc(r.n, sizeof *it);
        fill(x, r.n, round / 2 % 5, &seed);
        double sum = 0;
        for (uint32_t i = 0; i < r.n; i++) {
            it[i] = (struct item){.logit = clean((double)x[i]), .id = (int32_t)i};
        }
        qsort(it, r.n, sizeof *it, by_order);
        uint32_t n_alive = 0;
        for (uint32_t i = 0; i < r.n && it[i].logit > -INFINITY; i++, n_alive++) {
            sum += exp(it[i].logit - it[0].logit);
        }
        struct sample_bias bias = {.id = it[0].id, .bias = -50};
        struct sample_params p = plain;
        p.want_logprob = true;
        p.n_top_logprob = SAMPLE_TOP_MAX;
        p.bias = &bias;
        p.n_bias = 1;
        struct sample_result scored;
        sample_score(&p, r.c, x, it[r.n / 2].id, &scored);
        float raw_first = x[0];
        struct sample_result got;
        float *row = malloc(r.n * sizeof *row);
        memcpy(row, x, r.n * sizeof *row);
        sample_pick(&p, NULL, r.c, row, 3, &got);
        assert_int_equal(got.n_top, n_alive < SAMPLE_TOP_MAX ? n_alive : SAMPLE_TOP_MAX);
        assert_int_equal(scored.n_top, got.n_top);
        for (uint32_t i = 0; i < got.n_top; i++) {
            double want = it[i].logit - it[0].logit - log(sum);
            assert_int_equal(got.top[i].id, it[i].id);
            assert_true(fabs((double)got.top[i].logprob - want) < 1e-5);
            assert_memory_equal(&scored.top[i], &got.top[i], sizeof got.top[i]);
        }
        double want = (double)x[got.id] - it[0].logit - log(sum);
        assert_true(n_alive == 0 || fabs((double)got.logprob - want) < 1e-5);
        if (r.n / 2 >= n_alive) {
            assert_true(scored.logprob == -INFINITY);
        }
        assert_true(memcmp(&raw_first, &x[0], sizeof raw_first) == 0);
        free(row);
        free(x);
        free(it);
        rig_close(&r);
    }
}

static void test_nothing_left(void **state)
{
    (void)state;
    struct rig r = rig_open(4);
    struct sample_result got;
    static const int32_t forbid[] = {0, 1, 2, 3};
    for (int t = 0; t < 2; t++) {
        struct sample_params p = plain;
        p.temperature = (float)t;
        p.forbid = forbid;
        p.n_top_logprob = 2;
        p.want_logprob = true;
        for (uint32_t n = 0; n <= 4; n++) {
            float row[4] = {NAN, -INFINITY, NAN, -INFINITY};
            p.n_forbid = n;
            sample_pick(&p, NULL, r.c, row, 0, &got);
            assert_int_equal(got.id, n < 4 ? n : 0);
            assert_true(got.logprob == -INFINITY);
            assert_int_equal(got.n_top, 0);
            float inf[4] = {1, INFINITY, 0, INFINITY};
            sample_pick(&p, NULL, r.c, inf, 0, &got);
            assert_true(n < 4 ? inf[got.id] >= 0 : got.id == 0);
            assert_true(n >= 2 || got.id == 1 || got.id == 3);
        }
    }
    rig_close(&r);
}

static void bench_one(const char *name, const struct sample_params *p, const float *x, uint32_t n)
{
    struct rig r = rig_open(n);
    float *row = malloc(n * sizeof *row);
    uint64_t best_ns = UINT64_MAX;
    for (uint32_t i = 0; i < 30; i++) {
        struct sample_result got;
        memcpy(row, x, n * sizeof *row);
        uint64_t t = clock_mono_ns();
        sample_pick(p, NULL, r.c, row, i, &got);
        t = clock_mono_ns() - t;
        best_ns = t < best_ns ? t : best_ns;
    }
    printf("%-28s %8.1f us\n", name, (double)best_ns / 1e3);
    free(row);
    rig_close(&r);
}

static int bench(void)
{
    enum { N = 151936 };
    float *x = malloc(N * sizeof *x);
    uint64_t seed = SEED;
    static const char *const names[] = {"peaked, as models give", "Gaussian", "flat"};
    for (int kind = 0; kind < 3; kind++) {
        for (size_t i = 0; i < N; i++) {
            float g = 0;
            for (int k = 0; k < 6; k++) {
                g += unit(&seed) - 0.5F;
            }
            x[i] = g * (kind == 2 ? 0.5F : 4);
        }
        for (int i = 0; kind == 0 && i < 30; i++) {
            x[rng_next(&seed) % N] = 20 - (float)i / 2;
        }
        printf("row of %d, %s\n", N, names[kind]);
        struct sample_params p = plain;
        p.temperature = 0;
        bench_one("greedy", &p, x, N);
        p.n_top_logprob = 20;
        bench_one("greedy, 20 logprobs", &p, x, N);
        p = plain;
        bench_one("temperature", &p, x, N);
        p.top_k = 40;
        bench_one("top-k 40", &p, x, N);
        p.top_p = 0.95F;
        bench_one("top-k 40, top-p 0.95", &p, x, N);
        p.top_k = 0;
        bench_one("top-p 0.95", &p, x, N);
        p.top_p = 1;
        p.min_p = 0.05F;
        bench_one("min-p 0.05", &p, x, N);
        p = plain;
        p.top_k = 20000;
        bench_one("top-k 20000", &p, x, N);
    }
    free(x);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--bench")) {
        return bench();
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_oracle), cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_draw_is_keyed),  cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_nothing_left),
    };
    return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}
