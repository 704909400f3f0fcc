/* The prefix cache: what is found, shared, followed, forked, left behind and evicted. */
#include "kv_model.h"
#include "kvstore/store.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define N_RANDOM_OP 40000
#else
#define N_RANDOM_OP 400000
#endif

#define T           8
#define CHUNK_BYTES 4096

static const struct kv_model model = {.chunk_bytes = CHUNK_BYTES, .chunk_tok = T};

static struct kv_store *store_new(uint32_t n_frame, uint32_t n_seq_tok_max)
{
    struct kv_options o = {.ram_bytes = (uint64_t)n_frame * CHUNK_BYTES,
                           .chunk_tok = T,
                           .chunk_bytes = CHUNK_BYTES,
                           .n_seq_tok_max = n_seq_tok_max};
    struct kv_store *s = NULL;
    struct err e = {0};
    if (kv_store_create(&o, &s, &e)) {
        fail_msg("%s", e.msg);
    }
    return s;
}

static void check(const struct kv_store *s)
{
    struct err e = {0};
    if (kv_check(s, &e)) {
        fail_msg("%s", e.msg);
    }
}

static void fill(int32_t *tokens, uint32_t n, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++) {
        tokens[i] = (int32_t)(rng_mix(seed, i) % 50000);
    }
}

static struct kv_seq *open_prompt(struct kv_store *s, uint64_t tenant, const int32_t *tokens,
                                  uint32_t n, struct kv_match *ret_m)
{
    struct kv_identity id = kv_model_identity(tenant);
    struct kv_seq *q = NULL;
    struct err e = {0};
    if (kv_seq_open_prompt(s, &id, tokens, n, &q, ret_m, &e)) {
        fail_msg("%s", e.msg);
    }
    check(s);
    uint32_t at = kv_model_verify(&model, q, tenant, tokens, ret_m->n_tok_ready);
    if (at != ret_m->n_tok_ready) {
        fail_msg("token %u of %u shared ones is wrong", at, ret_m->n_tok_ready);
    }
    return q;
}

/* Goes on to tokens[0…n). */
static void run_to(struct kv_store *s, struct kv_seq *q, uint64_t tenant, const int32_t *tokens,
                   uint32_t n)
{
    uint32_t from = kv_seq_n_tok(q);
    struct err e = {0};
    if (kv_seq_grow(q, n, &e)) {
        fail_msg("%s", e.msg);
    }
    kv_model_compute(&model, q, tenant, tokens, from, n);
    kv_seq_commit(q, tokens + from, n - from);
    assert_int_equal(kv_seq_n_tok(q), n);
    check(s);
    assert_int_equal(kv_model_verify(&model, q, tenant, tokens, n), n);
}

static struct kv_stats stats_of(const struct kv_store *s)
{
    struct kv_stats st;
    kv_get_stats(s, &st);
    return st;
}

/* Whatever the lengths, the match is the longest there can be: to the token, and to the prompt's
 * last token but one. */
static void test_match_at_every_token(void **state)
{
    (void)state;
    int32_t a[45];
    int32_t b[45];
    fill(a, 45, 1);
    for (uint32_t n_first = 1; n_first <= 40; n_first += 3) {
        for (uint32_t n_same = 0; n_same <= 40; n_same++) {
            struct kv_store *s = store_new(40, 64);
            struct kv_match m;
            struct kv_seq *q = open_prompt(s, 1, a, n_first, &m);
            assert_int_equal(m.n_tok_ready, 0);
            run_to(s, q, 1, a, n_first);
            kv_seq_close(q);
            check(s);
            memcpy(b, a, sizeof b);
            b[n_same] ^= 1;
            q = open_prompt(s, 1, b, 42, &m);
            assert_int_equal(m.n_tok_ready, n_same < n_first ? n_same : n_first);
            assert_int_equal(m.n_tok_pending, m.n_tok_ready);
            run_to(s, q, 1, b, 42);
            kv_seq_close(q);
            q = open_prompt(s, 1, b, 42, &m);
            assert_int_equal(m.n_tok_ready, 41);
            kv_seq_close(q);
            q = open_prompt(s, 2, b, 42, &m); /* another tenant has nothing of it */
            assert_int_equal(m.n_tok_ready, 0);
            kv_seq_close(q);
            assert_int_equal(stats_of(s).n_frame_active, 0);
            kv_store_destroy(s);
        }
    }
}

static void test_shared_prefix_is_one_copy(void **state)
{
    (void)state;
    enum { N_SEQ = 32, N_PREFIX = 512 * T, N_TAIL = 2 * T };
    struct kv_store *s = store_new(700, N_PREFIX + N_TAIL);
    int32_t *tokens = malloc((N_PREFIX + N_TAIL) * sizeof *tokens);
    assert_non_null(tokens);
    fill(tokens, N_PREFIX, 3);
    struct kv_seq *q[N_SEQ];
    for (uint32_t i = 0; i < N_SEQ; i++) {
        struct kv_match m;
        fill(tokens + N_PREFIX, N_TAIL, 100 + i);
        q[i] = open_prompt(s, 1, tokens, N_PREFIX + N_TAIL, &m);
        assert_int_equal(m.n_tok_ready, i == 0 ? 0 : N_PREFIX);
        run_to(s, q[i], 1, tokens, N_PREFIX + N_TAIL);
    }
    struct kv_stats st = stats_of(s);
    print_message("32 sequences on a prefix of 512 chunks: %llu frames, %llu mappings\n",
                  (unsigned long long)st.n_frame_active, (unsigned long long)st.n_vma);
    assert_int_equal(st.n_frame_active, 512 + 32 * 2);
    assert_int_equal(st.n_copy, 0);
    for (uint32_t i = 0; i < N_SEQ; i++) {
        kv_seq_close(q[i]);
        check(s);
    }
    assert_int_equal(stats_of(s).n_frame_cached, 512 + 32 * 2);
    free(tokens);
    kv_store_destroy(s);
}

/* A conversation: each turn's prompt is all before, the answer, and something new. */
static void test_turns_continue_without_copies(void **state)
{
    (void)state;
    struct kv_store *s = store_new(64, 400);
    int32_t tokens[400];
    fill(tokens, 400, 9);
    uint32_t n = 0;
    for (uint32_t turn = 0; turn < 10; turn++) {
        struct kv_match m;
        struct kv_seq *q = open_prompt(s, 1, tokens, n + 23, &m);
        assert_int_equal(m.n_tok_ready, n);
        run_to(s, q, 1, tokens, n + 23);
        for (uint32_t k = 0; k < 13; k++) { /* the answer, token by token */
            run_to(s, q, 1, tokens, n + 24 + k);
        }
        n += 36;
        kv_seq_close(q);
        check(s);
        assert_int_equal(stats_of(s).n_frame_cached, (n + T - 1) / T);
    }
    assert_int_equal(stats_of(s).n_copy, 0);
    kv_store_destroy(s);
}

static void on_segv(int sig)
{
    (void)sig;
    _exit(42);
}

static bool write_faults(volatile uint64_t *p)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)signal(SIGSEGV, on_segv);
        *p = 1;
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status) == 42;
}

static void test_sealed_chunks_are_read_only(void **state)
{
    (void)state;
    struct kv_store *s = store_new(32, 128);
    int32_t tokens[100];
    fill(tokens, 100, 4);
    struct kv_match m;
    struct kv_seq *a = open_prompt(s, 1, tokens, 50, &m);
    run_to(s, a, 1, tokens, 50);
    assert_true(write_faults(kv_model_word(&model, a, 0)));
    assert_true(write_faults(kv_model_word(&model, a, 47)));
    assert_int_equal(kv_seq_grow(a, 52, NULL), ERR_OK);
    assert_false(write_faults(kv_model_word(&model, a, 51)));
    struct kv_seq *b = open_prompt(s, 1, tokens, 50, &m);
    assert_int_equal(m.n_tok_ready, 48);
    assert_true(write_faults(kv_model_word(&model, b, 47)));
    /* Going back into what is shared gives a private copy. */
    kv_seq_shrink(b, 20);
    check(s);
    int32_t other[100];
    fill(other, 100, 5);
    memcpy(other, tokens, 20 * sizeof *other);
    run_to(s, b, 1, other, 60);
    assert_int_equal(kv_model_verify(&model, a, 1, tokens, 48), 48);
    kv_seq_close(a);
    kv_seq_close(b);
    a = open_prompt(s, 1, tokens, 49, &m);
    assert_int_equal(m.n_tok_ready, 48);
    kv_seq_close(a);
    kv_store_destroy(s);
}

static void test_twin_follows_its_leader(void **state)
{
    (void)state;
    struct kv_store *s = store_new(64, 256);
    int32_t tokens[120];
    fill(tokens, 120, 6);
    struct kv_match m;
    struct kv_seq *lead = open_prompt(s, 1, tokens, 100, &m);
    struct kv_seq *twin = open_prompt(s, 1, tokens, 120, &m);
    assert_int_equal(m.n_tok_ready, 0);
    assert_int_equal(m.n_tok_pending, 96);
    struct kv_seq *stranger = open_prompt(s, 2, tokens, 120, &m);
    assert_int_equal(m.n_tok_pending, 0);
    kv_seq_close(stranger);
    run_to(s, lead, 1, tokens, 43);
    kv_seq_follow(twin, tokens, 120, true, &m);
    check(s);
    assert_int_equal(m.n_tok_ready, 40);
    assert_int_equal(m.n_tok_pending, 96);
    /* The leader gives up: the twin goes on from where it came to, mid-chunk. */
    kv_seq_close(lead);
    kv_seq_follow(twin, tokens, 120, true, &m);
    check(s);
    assert_int_equal(m.n_tok_ready, 43);
    assert_int_equal(m.n_tok_pending, 43);
    /* Now the twin leads. */
    struct kv_seq *third = open_prompt(s, 1, tokens, 120, &m);
    assert_int_equal(m.n_tok_ready, 40);
    assert_int_equal(m.n_tok_pending, 112); /* 119 would end inside a chunk that is not planned */
    run_to(s, twin, 1, tokens, 52);
    /* The third does not wait: it takes what is there and overtakes. */
    kv_seq_follow(third, tokens, 120, false, &m);
    check(s);
    assert_int_equal(m.n_tok_ready, 52);
    run_to(s, third, 1, tokens, 120);
    run_to(s, twin, 1, tokens, 70);
    kv_seq_follow(twin, tokens, 120, true, &m);
    check(s);
    assert_int_equal(m.n_tok_ready, 119);
    assert_int_equal(kv_model_verify(&model, twin, 1, tokens, 119), 119);
    kv_seq_close(third);
    kv_seq_close(twin);
    check(s);
    kv_store_destroy(s);
}

static void test_forks_share(void **state)
{
    (void)state;
    struct kv_store *s = store_new(64, 256);
    int32_t tokens[100];
    fill(tokens, 100, 7);
    struct kv_match m;
    struct kv_seq *a = open_prompt(s, 1, tokens, 60, &m);
    run_to(s, a, 1, tokens, 60);
    struct kv_seq *b = NULL;
    struct kv_seq *c = NULL;
    assert_int_equal(kv_seq_fork(a, 60, &b, NULL), ERR_OK);
    assert_int_equal(kv_seq_fork(a, 29, &c, NULL), ERR_OK);
    assert_int_equal(kv_seq_fork(a, 61, &c, NULL), ERR_INVALID);
    check(s);
    assert_int_equal(stats_of(s).n_frame_active, 8 + 1 + 1);
    int32_t other[100];
    fill(other, 100, 8);
    memcpy(other, tokens, 29 * sizeof *other);
    run_to(s, a, 1, tokens, 100);
    run_to(s, c, 1, other, 90);
    tokens[60] ^= 1;
    run_to(s, b, 1, tokens, 100);
    kv_seq_close(a);
    check(s);
    assert_int_equal(kv_model_verify(&model, b, 1, tokens, 100), 100);
    kv_seq_close(b);
    kv_seq_close(c);
    struct kv_seq *plain = NULL;
    assert_int_equal(kv_seq_open(s, &plain, NULL), ERR_OK);
    assert_int_equal(kv_seq_fork(plain, 0, &c, NULL), ERR_INVALID);
    kv_seq_close(plain);
    check(s);
    kv_store_destroy(s);
}

/* Speculation: rolled-back tokens leave no trace in what is sealed. */
/* A prefix in frames that lie apart takes a mapping each; where those are used up it is copied, not
 * computed again. */
static void test_mappings_used_up_copy(void **state)
{
    (void)state;
    struct kv_store *s = store_new(100, 256);
    int32_t a[20 * T + 1];
    struct kv_match m;
    fill(a, 20 * T + 1, 1);
    struct kv_seq *p[100];
    for (uint32_t i = 0; i < 100; i++) { /* all frames, and then every second is free */
        assert_int_equal(kv_seq_open(s, &p[i], NULL), ERR_OK);
        assert_int_equal(kv_seq_grow(p[i], T, NULL), ERR_OK);
    }
    uint32_t n_free = 0;
    for (uint32_t i = 0; i < 100; i++) {
        if (p[i]->range.frames[0] % 2) {
            kv_seq_close(p[i]);
            p[i] = NULL;
            n_free++;
        }
    }
    assert_int_equal(n_free, 50);
    struct kv_seq *q = open_prompt(s, 1, a, 20 * T + 1, &m);
    run_to(s, q, 1, a, 20 * T);
    for (uint32_t i = 0; i < 100; i++) {
        kv_seq_close(p[i]);
    }
    uint32_t n_apart = kv_range_n_vma(&q->range);
    s->options.n_vma_max = (uint32_t)s->n_vma + n_apart - 2;
    struct kv_seq *r = open_prompt(s, 1, a, 20 * T + 1, &m);
    assert_int_equal(m.n_tok_ready, 20 * T);
    print_message("prefix in %u mappings; the other has %u, %llu chunks copied\n", n_apart,
                  kv_range_n_vma(&r->range), (unsigned long long)stats_of(s).n_vma_copy);
    assert_int_equal(n_apart, 21);
    assert_true(stats_of(s).n_vma_copy > 0);
    assert_true(stats_of(s).n_vma <= s->options.n_vma_max);
    s->options.n_vma_max = 1000;
    run_to(s, q, 1, a, 20 * T + 1);
    kv_seq_close(r);
    kv_seq_close(q);
    check(s);
    kv_store_destroy(s);
}

static void test_rollback(void **state)
{
    (void)state;
    struct kv_store *s = store_new(64, 256);
    int32_t tokens[64];
    int32_t wrong[64];
    fill(tokens, 64, 11);
    struct kv_match m;
    struct kv_seq *q = open_prompt(s, 1, tokens, 10, &m);
    run_to(s, q, 1, tokens, 10);
    uint64_t rng = 3;
    while (kv_seq_n_tok(q) < 60) {
        uint32_t n = kv_seq_n_tok(q);
        uint32_t n_good = (uint32_t)(rng_next(&rng) % 4);
        memcpy(wrong, tokens, sizeof wrong);
        wrong[n + n_good] ^= 1;
        run_to(s, q, 1, wrong, n + 4); /* may seal a chunk of which the end is then taken back */
        kv_seq_shrink(q, n + n_good);
        check(s);
        assert_int_equal(kv_seq_n_tok(q), n + n_good);
    }
    assert_int_equal(kv_model_verify(&model, q, 1, tokens, 60), 60);
    kv_seq_close(q);
    q = open_prompt(s, 1, tokens, 61, &m);
    assert_int_equal(m.n_tok_ready, 60);
    kv_seq_close(q);
    kv_store_destroy(s);
}

/* Memory full of cache: the newest prompt pushes out leaves, never a chunk before its children, and
 * what is used often stays. */
static void test_eviction_takes_leaves(void **state)
{
    (void)state;
    struct kv_store *s = store_new(40, 256);
    int32_t hot[64];
    int32_t cold[160];
    struct kv_match m;
    fill(hot, 64, 1);
    for (uint32_t i = 0; i < 30; i++) {
        struct kv_seq *q = open_prompt(s, 1, hot, 64, &m);
        if (i > 3) {
            assert_int_equal(m.n_tok_ready, 63);
        }
        run_to(s, q, 1, hot, 64);
        kv_seq_close(q);
        fill(cold, 160, 1000 + i);
        q = open_prompt(s, 1, cold, 160, &m);
        assert_int_equal(m.n_tok_ready, 0);
        run_to(s, q, 1, cold, 160);
        kv_seq_close(q);
        check(s); /* which finds every path whole */
    }
    assert_true(stats_of(s).n_evict_ram > 400);
    kv_store_destroy(s);
}

static void test_tenants_keep_a_floor(void **state)
{
    (void)state;
    struct kv_store *s = store_new(80, 256);
    int32_t mine[64];
    int32_t flood[160];
    struct kv_match m;
    fill(mine, 64, 1);
    struct kv_seq *q = open_prompt(s, 1, mine, 64, &m);
    run_to(s, q, 1, mine, 64);
    kv_seq_close(q);
    for (uint32_t i = 0; i < 50; i++) {
        fill(flood, 160, 1000 + i);
        q = open_prompt(s, 2, flood, 160, &m);
        run_to(s, q, 2, flood, 160);
        kv_seq_close(q);
    }
    q = open_prompt(s, 1, mine, 64, &m); /* 8 chunks: below a quarter of memory */
    assert_int_equal(m.n_tok_ready, 63);
    kv_seq_close(q);
    kv_store_destroy(s);
}

struct model_seq {
    struct kv_seq *q;
    uint64_t tenant;
    uint32_t n; /* of its prompt */
    int32_t tokens[96];
};

/* Prompts from a small tree, so that all kinds of sharing happen. */
static void random_prompt(struct model_seq *x, uint64_t r)
{
    x->tenant = r % 3;
    x->n = 1 + (uint32_t)(r >> 8) % 95;
    uint32_t n_branch = (uint32_t)(r >> 20) % 40;
    for (uint32_t i = 0; i < 96; i++) {
        uint32_t branch = i < n_branch ? 0 : 1 + (uint32_t)(r >> 30) % 5;
        x->tokens[i] = (int32_t)(branch * 1000 + i);
    }
}

static void random_operation(struct kv_store *s, struct model_seq *x, uint64_t r)
{
    struct kv_match m;
    uint32_t n_tok = x->q ? kv_seq_n_tok(x->q) : 0;
    uint32_t what = (uint32_t)(r >> 50) % 16;
    if (!x->q) {
        random_prompt(x, r);
        struct kv_identity id = kv_model_identity(x->tenant);
        assert_int_equal(kv_seq_open_prompt(s, &id, x->tokens, x->n, &x->q, &m, NULL), ERR_OK);
        assert_true(m.n_tok_ready < x->n && m.n_tok_pending < x->n);
        const struct kv_retention retention = {.keep_s = r >> 20 & 100,
                                               .ttl_s = r >> 21 & 100,
                                               .ram_only = r >> 30 & 1,
                                               .leaves_nothing = (r >> 31 & 7) == 0};
        if ((r >> 35 & 3) == 0) {
            kv_seq_retain(x->q, &retention);
        }
        if ((r >> 37 & 7) == 0) {
            (void)(r >> 40 & 1 ? kv_pin(s, &id, x->tokens, x->n, s->now_s + 100)
                               : kv_unpin(s, &id, x->tokens, x->n));
        }
    } else if (what < 2) {
        kv_seq_close(x->q);
        x->q = NULL;
    } else if (what < 5) {
        kv_seq_follow(x->q, x->tokens, x->n, r >> 40 & 1, &m);
        assert_true(m.n_tok_ready >= n_tok || n_tok % T != 0 || m.n_tok_ready >= n_tok - T);
    } else if (what < 6) {
        kv_seq_shrink(x->q, (uint32_t)(r >> 10) % (n_tok + 1));
    } else {
        uint32_t n = n_tok + (uint32_t)(r >> 10) % 20;
        n = n < 96 ? n : 96;
        if (kv_seq_grow(x->q, n, NULL) == ERR_OK) {
            n_tok = kv_seq_n_tok(x->q);
            kv_model_compute(&model, x->q, x->tenant, x->tokens, n_tok, n);
            kv_seq_commit(x->q, x->tokens + n_tok, n - n_tok);
        }
    }
}

static void test_random_operations(void **state)
{
    (void)state;
    enum { N_SEQ = 10 };
    struct kv_store *s = store_new(60, 96);
    static struct model_seq seqs[N_SEQ];
    memset(seqs, 0, sizeof seqs);
    uint64_t rng = 5;
    for (uint32_t op = 0; op < N_RANDOM_OP; op++) {
        uint64_t r = rng_next(&rng);
        struct model_seq *x = &seqs[r >> 54 & 7];
        struct model_seq *y = &seqs[8 + (r >> 53 & 1)];
        if ((r >> 58) == 0 && x->q && !y->q) { /* a fork, into the places kept for them */
            *y = *x;
            y->q = NULL;
            uint32_t n = kv_seq_n_tok(x->q);
            enum err_code code = kv_seq_fork(x->q, n - n % 3, &y->q, NULL);
            assert_true(code == ERR_OK || code == ERR_FULL);
        } else {
            random_operation(s, (r >> 58) == 1 && y->q ? y : x, r);
        }
        if (op % 64 == 0) { /* time goes by */
            s->now_s++;
            s->swept_us = 0;
            kv_retention_sweep(s);
        }
        struct err e;
        if (kv_check(s, &e)) {
            fail_msg("operation %u: %s", op, e.msg);
        }
        x = &seqs[op % N_SEQ];
        if (x->q) {
            uint32_t n = kv_seq_n_tok(x->q);
            if (kv_model_verify(&model, x->q, x->tenant, x->tokens, n) != n) {
                fail_msg("operation %u: wrong KV", op);
            }
        }
    }
    for (uint32_t i = 0; i < N_SEQ; i++) {
        kv_seq_close(seqs[i].q);
    }
    struct kv_stats st = stats_of(s);
    check(s);
    assert_int_equal(st.n_frame_active, 0);
    print_message("%u operations: %llu of %llu tokens hit, %llu copies, %llu evictions\n",
                  N_RANDOM_OP, (unsigned long long)st.n_tok_hit_ram,
                  (unsigned long long)st.n_tok_asked, (unsigned long long)st.n_copy,
                  (unsigned long long)st.n_evict_ram);
    kv_store_destroy(s);
}

/* Forged fields do not collide: types and lengths are part of what is hashed. */
/* Computes tokens[0…n) under a retention, closes, and returns how much was there. */
static uint32_t serve(struct kv_store *s, uint64_t tenant, const int32_t *tokens, uint32_t n,
                      const struct kv_retention *r)
{
    struct kv_match m;
    struct kv_seq *q = open_prompt(s, tenant, tokens, n, &m);
    if (r) {
        kv_seq_retain(q, r);
    }
    run_to(s, q, tenant, tokens, n);
    kv_seq_close(q);
    check(s);
    return m.n_tok_ready;
}

static void test_pins_outlast_eviction(void **state)
{
    (void)state;
    struct kv_store *s = store_new(40, 256);
    struct kv_identity id = kv_model_identity(1);
    int32_t pinned[100];
    int32_t other[100];
    fill(pinned, 100, 1);
    (void)serve(s, 1, pinned, 5 * T + 3, NULL);
    assert_int_equal(kv_pin(s, &id, pinned, 5 * T + 3, KV_PIN_FOR_GOOD), 5 * T + 3);
    assert_int_equal(kv_pin(s, &id, pinned, 5 * T + 2, KV_PIN_FOR_GOOD), 5 * T); /* no part of it */
    assert_int_equal(stats_of(s).n_frame_pinned, 6);
    for (uint32_t i = 0; i < 50; i++) {
        fill(other, 100, 100 + i);
        (void)serve(s, 1, other, 80, NULL);
    }
    assert_int_equal(serve(s, 1, pinned, 5 * T + 4, NULL), 5 * T + 3);
    assert_int_equal(kv_unpin(s, &id, pinned, 100),
                     5 * T + 4); /* the pin went to the longer tail */
    assert_int_equal(stats_of(s).n_frame_pinned, 0);
    for (uint32_t i = 0; i < 50; i++) {
        fill(other, 100, 200 + i);
        (void)serve(s, 1, other, 80, NULL);
    }
    assert_int_equal(serve(s, 1, pinned, 5 * T, NULL), 0);
    check(s);
    kv_store_destroy(s);
}

/* Pins hold no more than their share, so that whoever runs finds frames; and a tenant no more than
 * its part. */
static void test_pins_are_bounded(void **state)
{
    (void)state;
    struct kv_store *s = store_new(40, 256);
    const struct kv_retention keep = {.keep_s = 1000};
    int32_t tokens[200];
    fill(tokens, 200, 1);
    (void)serve(s, 1, tokens, 2 * T, NULL);
    for (uint32_t i = 0; i < 30; i++) {
        fill(tokens, 200, 2 + i);
        (void)serve(s, 2, tokens, 6 * T, &keep);
    }
    assert_int_equal(stats_of(s).n_frame_pinned, 10); /* half of 40, shared by two */
    fill(tokens, 200, 100);
    (void)serve(s, 1, tokens, 6 * T, &keep);
    assert_int_equal(stats_of(s).n_frame_pinned, 16);
    struct kv_match m;
    struct kv_seq *q = open_prompt(s, 3, tokens, 24 * T, &m); /* the rest of RAM */
    run_to(s, q, 3, tokens, 24 * T);
    assert_int_equal(stats_of(s).n_frame_pinned, 16);
    kv_seq_close(q);
    kv_store_destroy(s);
}

static void test_retention(void **state)
{
    (void)state;
    struct kv_store *s = store_new(40, 256);
    const struct kv_retention brief = {.ttl_s = 600};
    const struct kv_retention none = {.leaves_nothing = true};
    int32_t tokens[200];
    fill(tokens, 200, 1);
    (void)serve(s, 1, tokens, 4 * T + 2, &brief);
    assert_int_equal(serve(s, 1, tokens, 4 * T + 3, &brief), 4 * T + 2);
    s->swept_us = 0;
    kv_poll(s);
    assert_int_equal(stats_of(s).n_expired, 0);
    for (uint32_t i = 0; i < s->index.n_node_max; i++) { /* 600 s later */
        s->index.nodes[i].expires_s -= s->index.nodes[i].expires_s ? 601 : 0;
    }
    for (uint32_t i = 0; i < 6; i++) { /* leaves first */
        s->swept_us = 0;
        kv_poll(s);
        check(s);
    }
    assert_int_equal(stats_of(s).n_expired, 5);
    assert_int_equal(stats_of(s).n_frame_free, 40);
    (void)serve(s, 1, tokens, 4 * T, &brief);
    assert_int_equal(serve(s, 1, tokens, 6 * T, NULL), 4 * T); /* whoever wants it for ever … */
    assert_int_equal(s->n_timed, 0);                           /* … has his way */
    fill(tokens, 200, 2);
    assert_int_equal(serve(s, 1, tokens, 4 * T + 2, &none), 0);
    assert_int_equal(serve(s, 1, tokens, 4 * T + 2, &none), 0);
    assert_int_equal(stats_of(s).n_frame_cached, 6);
    kv_store_destroy(s);
}

static void test_identities_differ(void **state)
{
    (void)state;
    const struct kv_field sets[][2] = {
        {{KV_FIELD_TENANT, 2, "ab"}, {KV_FIELD_SALT, 1, "c"}},
        {{KV_FIELD_TENANT, 1, "a"}, {KV_FIELD_SALT, 2, "bc"}},
        {{KV_FIELD_TENANT, 2, "ab"}, {KV_FIELD_ADAPTER, 1, "c"}},
        {{KV_FIELD_SALT, 2, "ab"}, {KV_FIELD_TENANT, 1, "c"}},
    };
    struct kv_identity id[4];
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(kv_identity_make(sets[i], 2, &id[i], NULL), ERR_OK);
        for (uint32_t k = 0; k < i; k++) {
            assert_memory_not_equal(id[i].root, id[k].root, 32);
        }
    }
    assert_memory_equal(id[0].tenant, id[2].tenant, 32);
    assert_memory_not_equal(id[0].tenant, id[1].tenant, 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_match_at_every_token),
        cmocka_unit_test(test_shared_prefix_is_one_copy),
        cmocka_unit_test(test_turns_continue_without_copies),
        cmocka_unit_test(test_sealed_chunks_are_read_only),
        cmocka_unit_test(test_twin_follows_its_leader),
        cmocka_unit_test(test_forks_share),
        cmocka_unit_test(test_mappings_used_up_copy),
        cmocka_unit_test(test_rollback),
        cmocka_unit_test(test_eviction_takes_leaves),
        cmocka_unit_test(test_tenants_keep_a_floor),
        cmocka_unit_test(test_pins_outlast_eviction),
        cmocka_unit_test(test_pins_are_bounded),
        cmocka_unit_test(test_retention),
        cmocka_unit_test(test_random_operations),
        cmocka_unit_test(test_identities_differ),
    };
    return cmocka_run_group_tests_name("kvstore cache", tests, NULL, NULL);
}
