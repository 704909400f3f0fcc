/* The arena and the address ranges: what grows, shrinks, is shared out and comes back. */
#include "base/clock.h"
#include "base/rng.h"
#include "kvstore/kvstore.h"
#include "kvstore/store.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define N_RANDOM_OP 60000
#else
#define N_RANDOM_OP 1000000
#endif

#define CHUNK_TOK 4

static struct kv_store *store_new(uint32_t n_frame, size_t chunk_bytes, uint32_t n_chunk_max,
                                  uint32_t n_vma_max)
{
    struct kv_options o = {.ram_bytes = n_frame * (uint64_t)chunk_bytes + chunk_bytes - 1,
                           .chunk_tok = CHUNK_TOK,
                           .chunk_bytes = chunk_bytes,
                           .n_seq_tok_max = n_chunk_max * CHUNK_TOK - 1,
                           .n_vma_max = n_vma_max,
                           .prefault_bytes = KV_NO_PREFAULT};
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

static struct kv_seq *seq_new(struct kv_store *s)
{
    struct kv_seq *q = NULL;
    struct err e = {0};
    if (kv_seq_open(s, &q, &e)) {
        fail_msg("%s", e.msg);
    }
    return q;
}

static struct kv_stats stats_of(const struct kv_store *s)
{
    struct kv_stats st;
    kv_get_stats(s, &st);
    assert_int_equal(st.n_frame_free + st.n_frame_active + st.n_frame_cached + st.n_frame_loading +
                         st.n_frame_writing,
                     st.n_frame_total);
    return st;
}

/* Mappings of KV memory in this process, as the kernel counts them, but for the store's own of all
 * frames. */
static uint32_t maps_of_kv(void)
{
    FILE *f = fopen("/proc/self/maps", "re");
    assert_non_null(f);
    char line[512];
    uint32_t n = 0;
    while (fgets(line, sizeof line, f)) {
        n += strstr(line, "memfd:kvasir-kv") != NULL;
    }
    assert_int_equal(fclose(f), 0);
    return n - 1;
}

static uint64_t *word(struct kv_seq *q, uint32_t chunk, size_t chunk_bytes)
{
    return (uint64_t *)((char *)kv_seq_base(q) + chunk * chunk_bytes);
}

static void test_growth_keeps_contents(void **state)
{
    (void)state;
    const size_t chunk_bytes = 8192;
    struct kv_store *s = store_new(64, chunk_bytes, 32, 0);
    struct kv_seq *a = seq_new(s);
    struct kv_seq *b = seq_new(s);
    char *base = kv_seq_base(a);
    assert_int_equal((uintptr_t)base % KV_HUGE_BYTES, 0);
    for (uint32_t n = 1; n <= 31; n++) {
        assert_int_equal(kv_seq_grow(a, n * CHUNK_TOK, NULL), ERR_OK);
        assert_int_equal(kv_seq_grow(b, n * CHUNK_TOK - 3, NULL), ERR_OK); /* same chunk count */
        assert_int_equal(kv_seq_n_tok_mapped(b), n * CHUNK_TOK);
        memset((char *)kv_seq_base(a) + (n - 1) * chunk_bytes, (int)n, chunk_bytes);
        memset((char *)kv_seq_base(b) + (n - 1) * chunk_bytes, (int)(100 + n), chunk_bytes);
        check(s);
    }
    assert_int_equal(kv_seq_grow(a, 32 * CHUNK_TOK - 1, NULL), ERR_OK);
    assert_int_equal(kv_seq_n_tok_mapped(a), 32 * CHUNK_TOK - 1);
    assert_int_equal(kv_seq_grow(a, 32 * CHUNK_TOK, NULL), ERR_LIMIT);
    assert_ptr_equal(kv_seq_base(a), base);
    for (uint32_t n = 1; n <= 31; n++) {
        for (size_t i = 0; i < chunk_bytes; i++) {
            assert_int_equal(((uint8_t *)kv_seq_base(a))[(n - 1) * chunk_bytes + i], n);
            assert_int_equal(((uint8_t *)kv_seq_base(b))[(n - 1) * chunk_bytes + i], 100 + n);
        }
    }
    /* Shrinking within a chunk keeps it; growing again after a cut keeps what stayed. */
    kv_seq_shrink(a, 5 * CHUNK_TOK - 1);
    assert_int_equal(kv_seq_n_tok_mapped(a), 5 * CHUNK_TOK);
    assert_int_equal(kv_seq_grow(a, 31 * CHUNK_TOK, NULL), ERR_OK);
    assert_int_equal(*((uint8_t *)word(a, 4, chunk_bytes)), 5);
    kv_seq_shrink(a, 0);
    assert_int_equal(kv_seq_n_tok_mapped(a), 0);
    assert_int_equal(stats_of(s).n_frame_active, 31);
    kv_seq_close(b);
    kv_seq_close(a);
    assert_int_equal(stats_of(s).n_frame_free, 64);
    assert_int_equal(stats_of(s).n_vma, 0);
    assert_int_equal(maps_of_kv(), 0);
    kv_store_destroy(s);
}

static void test_full_changes_nothing_and_recovers(void **state)
{
    (void)state;
    struct kv_store *s = store_new(10, 4096, 10, 0);
    struct kv_seq *a = seq_new(s);
    struct kv_seq *b = seq_new(s);
    assert_int_equal(kv_seq_grow(a, 6 * CHUNK_TOK, NULL), ERR_OK);
    assert_int_equal(kv_seq_grow(b, 3 * CHUNK_TOK, NULL), ERR_OK);
    struct err e;
    assert_int_equal(kv_seq_grow(b, 5 * CHUNK_TOK, &e), ERR_FULL);
    assert_non_null(strstr(e.msg, "1 free"));
    assert_int_equal(kv_seq_n_tok_mapped(b), 3 * CHUNK_TOK);
    assert_int_equal(stats_of(s).n_frame_free, 1);
    check(s);
    assert_int_equal(kv_seq_grow(b, 4 * CHUNK_TOK, NULL), ERR_OK); /* the last one */
    kv_seq_close(a);
    assert_int_equal(kv_seq_grow(b, 10 * CHUNK_TOK - 1, NULL), ERR_OK);
    assert_int_equal(stats_of(s).n_frame_free, 0);
    check(s);
    kv_seq_close(b);
    kv_store_destroy(s);
}

struct model_seq {
    struct kv_seq *q;
    uint32_t n_chunk;
    uint64_t stamp[24];
};

/* A million opens, closes, growths and cuts of 12 sequences on 96 frames, every chunk stamped and
 * every stamp looked at again; after each the whole store is checked. */
static void test_random_operations(void **state)
{
    (void)state;
    enum { N_SEQ = 12, N_FRAME = 96, N_CHUNK_MAX = 24 };
    struct kv_store *s = store_new(N_FRAME, 4096, N_CHUNK_MAX, 40);
    struct model_seq m[N_SEQ] = {0};
    uint64_t rng = 7;
    uint64_t n_full = 0;
    uint32_t n_used = 0;
    for (uint32_t op = 0; op < N_RANDOM_OP; op++) {
        uint64_t r = rng_next(&rng);
        struct model_seq *x = &m[r % N_SEQ];
        uint32_t n = (uint32_t)(r >> 8) % N_CHUNK_MAX;
        if (!x->q) {
            if (kv_seq_open(s, &x->q, NULL) != ERR_OK) {
                assert_true(stats_of(s).n_vma >= 40);
            }
        } else if ((r >> 40) % 16 == 0) {
            kv_seq_close(x->q);
            n_used -= x->n_chunk;
            memset(x, 0, sizeof *x);
        } else if (n < x->n_chunk) {
            kv_seq_shrink(x->q, n * CHUNK_TOK);
            n_used -= x->n_chunk - n;
            x->n_chunk = n;
        } else {
            struct err e;
            enum err_code code = kv_seq_grow(x->q, n * CHUNK_TOK, &e);
            assert_true(code == ERR_OK || code == ERR_FULL);
            if (code == ERR_OK) {
                for (; x->n_chunk < n; x->n_chunk++, n_used++) {
                    x->stamp[x->n_chunk] = r + x->n_chunk;
                    *word(x->q, x->n_chunk, 4096) = x->stamp[x->n_chunk];
                }
            } else {
                n_full++;
                assert_true(n - x->n_chunk > N_FRAME - n_used || strstr(e.msg, "mappings"));
            }
        }
        if (x->n_chunk > 0) {
            uint32_t k = (uint32_t)(r >> 16) % x->n_chunk;
            assert_true(*word(x->q, k, 4096) == x->stamp[k]);
        }
        struct err e;
        if (kv_check(s, &e)) {
            fail_msg("operation %u: %s", op, e.msg);
        }
        if (s->arena.n_by_state[KV_FRAME_ACTIVE] != n_used) {
            fail_msg("operation %u: %u frames used, %llu active", op, n_used,
                     (unsigned long long)s->arena.n_by_state[KV_FRAME_ACTIVE]);
        }
        if (op % 4096 == 0) {
            uint64_t n_vma = stats_of(s).n_vma;
            assert_true(maps_of_kv() + s->n_seq <= n_vma);
        }
    }
    print_message("%u operations, %llu refused for want of frames or mappings\n", N_RANDOM_OP,
                  (unsigned long long)n_full);
    for (uint32_t i = 0; i < N_SEQ; i++) {
        kv_seq_close(m[i].q);
    }
    assert_int_equal(stats_of(s).n_frame_free, N_FRAME);
    kv_store_destroy(s);
}

/* Sequences growing by turns still get long runs of frames. */
static void test_neighbours_merge(void **state)
{
    (void)state;
    struct kv_store *s = store_new(512, 4096, 64, 0);
    struct kv_seq *q[8];
    for (uint32_t i = 0; i < 8; i++) {
        q[i] = seq_new(s);
    }
    for (uint32_t n = 1; n < 64; n++) {
        for (uint32_t i = 0; i < 8; i++) {
            assert_int_equal(kv_seq_grow(q[i], n * CHUNK_TOK, NULL), ERR_OK);
        }
        check(s);
    }
    struct kv_stats st = stats_of(s);
    print_message("8 sequences of 63 chunks, grown by turns: %llu mappings, %u in the kernel\n",
                  (unsigned long long)st.n_vma, maps_of_kv());
    assert_true(st.n_vma <= 8 + 8 * 4); /* runs of 16 chunks */
    assert_int_equal(maps_of_kv() + 8, st.n_vma);
    for (uint32_t i = 0; i < 8; i++) {
        kv_seq_close(q[i]);
    }
    /* Alone, one sequence has one mapping. */
    q[0] = seq_new(s);
    for (uint32_t n = 1; n < 64; n++) {
        assert_int_equal(kv_seq_grow(q[0], n * CHUNK_TOK, NULL), ERR_OK);
    }
    assert_in_range(maps_of_kv(), 1, 4); /* extents come back in any order */
    kv_seq_close(q[0]);
    kv_store_destroy(s);
}

/* Chunks of 1.375 MiB: sixteen are a whole number of huge pages, and every frame has the phase of
 * its chunk, so that a huge page can map. */
static void test_frames_keep_the_phase(void **state)
{
    (void)state;
    struct kv_store *s = store_new(128, 1441792, 32, 0);
    assert_int_equal(s->arena.n_phase, 16);
    struct kv_seq *q[6];
    for (uint32_t i = 0; i < 6; i++) {
        q[i] = seq_new(s);
    }
    for (uint32_t n = 1; n <= 20; n++) {
        for (uint32_t i = 0; i < 6; i++) {
            assert_int_equal(kv_seq_grow(q[i], n * CHUNK_TOK, NULL), ERR_OK);
        }
    }
    uint32_t n_in_phase = 0;
    for (uint32_t i = 0; i < 6; i++) {
        for (uint32_t k = 0; k < 20; k++) {
            n_in_phase += q[i]->range.frames[k] % 16 == k % 16;
        }
    }
    print_message("%u of 120 chunks in phase with their frame\n", n_in_phase);
    assert_true(n_in_phase >= 104); /* 6 × 16 in whole extents, then what two extents leave */
    check(s);
    for (uint32_t i = 0; i < 6; i++) {
        kv_seq_close(q[i]);
    }
    kv_store_destroy(s);
}

static void test_mapping_budget(void **state)
{
    (void)state;
    struct kv_store *s = store_new(512, 4096, 64, 9);
    struct kv_seq *q[9] = {0};
    for (uint32_t i = 0; i < 4; i++) {
        q[i] = seq_new(s);
        assert_int_equal(kv_seq_grow(q[i], CHUNK_TOK, NULL), ERR_OK);
    }
    q[4] = seq_new(s);
    assert_int_equal(kv_seq_grow(q[4], CHUNK_TOK, NULL), ERR_FULL);
    assert_int_equal(kv_seq_open(s, &q[5], NULL), ERR_FULL);
    assert_null(q[5]);
    check(s);
    assert_int_equal(kv_seq_grow(q[0], 16 * CHUNK_TOK, NULL), ERR_OK); /* merges: none more */
    assert_int_equal(stats_of(s).n_vma, 9);
    kv_seq_close(q[1]);
    assert_int_equal(kv_seq_grow(q[4], CHUNK_TOK, NULL), ERR_OK);
    check(s);
    for (uint32_t i = 0; i < 5; i++) {
        kv_seq_close(i == 1 ? NULL : q[i]);
    }
    kv_store_destroy(s);
}

/* Memory is charged page by page as it is written, and recycled frames cost nothing more. */
static void test_memory_is_charged_lazily(void **state)
{
    (void)state;
    struct kv_store *s = store_new(64, (size_t)1 << 20, 32, 0);
    struct stat st;
    struct kv_seq *q = seq_new(s);
    assert_int_equal(kv_seq_grow(q, 16 * CHUNK_TOK, NULL), ERR_OK);
    assert_int_equal(fstat(s->arena.fd, &st), 0);
    assert_int_equal(st.st_blocks, 0);
    memset(kv_seq_base(q), 1, (size_t)4 << 20);
    assert_int_equal(fstat(s->arena.fd, &st), 0);
    assert_int_equal(st.st_blocks * 512, 4 << 20);
    kv_seq_close(q);
    q = seq_new(s);
    assert_int_equal(kv_seq_grow(q, 4 * CHUNK_TOK, NULL), ERR_OK);
    memset(kv_seq_base(q), 2, (size_t)4 << 20);
    assert_int_equal(fstat(s->arena.fd, &st), 0);
    assert_int_equal(st.st_blocks * 512, 4 << 20);
    kv_seq_close(q);
    kv_store_destroy(s);
}

static void on_segv(int sig)
{
    _exit(sig == SIGSEGV ? 42 : 43);
}

/* Whether touching p ends a process with SIGSEGV. */
static bool faults(volatile char *p, bool write)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)signal(SIGSEGV, on_segv);
        (void)signal(SIGBUS, on_segv);
        if (write) {
            *p = 1;
        } else {
            (void)*p;
        }
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 42));
    return WEXITSTATUS(status) == 42;
}

/* Memory is there before anybody touches it, but not all of it; as huge pages where the kernel
 * gives any. */
static void test_memory_is_populated_ahead(void **state)
{
    (void)state;
    struct kv_options o = {.ram_bytes = (uint64_t)128 << 20,
                           .chunk_tok = CHUNK_TOK,
                           .chunk_bytes = (size_t)2 << 20,
                           .n_seq_tok_max = 64 * CHUNK_TOK,
                           .prefault_bytes = (uint64_t)8 << 20};
    struct kv_store *s = NULL;
    assert_int_equal(kv_store_create(&o, &s, NULL), ERR_OK);
    struct kv_stats st;
    for (int i = 0; i < 5000; i++) {
        kv_publish(s);
        kv_get_stats(s, &st);
        if (st.populated_bytes >= (8 << 20)) {
            break;
        }
        clock_sleep_us(1000);
    }
    assert_int_equal(st.populated_bytes, 8 << 20);
    struct kv_seq *q = seq_new(s);
    assert_int_equal(kv_seq_grow(q, 8 * CHUNK_TOK, NULL), ERR_OK);
    for (int i = 0; i < 5000 && st.populated_bytes < (24 << 20); i++) {
        kv_publish(s);
        kv_get_stats(s, &st);
        clock_sleep_us(1000);
    }
    assert_int_equal(st.populated_bytes, 24 << 20); /* 8 chunks of 2 MiB, and 8 MiB */
    uint64_t begin_us = clock_mono_us();
    memset(kv_seq_base(q), 1, (size_t)16 << 20);
    uint64_t us = clock_mono_us() - begin_us;
    print_message("%llu of %llu KiB in huge pages; first touch of 16 MiB %llu us\n",
                  (unsigned long long)st.huge_bytes >> 10,
                  (unsigned long long)st.populated_bytes >> 10, (unsigned long long)us);
    kv_seq_close(q);
    kv_store_destroy(s);
}

static _Atomic uint64_t bytes_left;

static uint64_t left_now(void)
{
    return bytes_left;
}

/* While memory is short the cached part gives way, and its memory goes back to the system; who runs
 * keeps all, and gets more. */
static void test_memory_pressure(void **state)
{
    (void)state;
    const uint64_t chunk_bytes = (uint64_t)1 << 20;
    struct kv_options o = {.ram_bytes = 64 * chunk_bytes,
                           .chunk_tok = CHUNK_TOK,
                           .chunk_bytes = chunk_bytes,
                           .n_seq_tok_max = 64 * CHUNK_TOK,
                           .prefault_bytes = 1,
                           .bytes_left = left_now};
    bytes_left = (uint64_t)1 << 40;
    struct kv_store *s = NULL;
    assert_int_equal(kv_store_create(&o, &s, NULL), ERR_OK);
    struct kv_identity id = {{1}, {2}};
    int32_t tokens[32 * CHUNK_TOK];
    for (uint32_t i = 0; i < 32 * CHUNK_TOK; i++) {
        tokens[i] = (int32_t)i;
    }
    struct kv_match m;
    struct kv_seq *q = NULL;
    assert_int_equal(kv_seq_open_prompt(s, &id, tokens, 32 * CHUNK_TOK, &q, &m, NULL), ERR_OK);
    assert_int_equal(kv_seq_grow(q, 32 * CHUNK_TOK, NULL), ERR_OK);
    memset(kv_seq_base(q), 1, 32 * chunk_bytes);
    kv_seq_commit(q, tokens, 32 * CHUNK_TOK);
    kv_seq_close(q);
    struct kv_stats st;
    kv_get_stats(s, &st);
    assert_int_equal(st.n_frame_cached, 32);
    struct kv_seq *p = seq_new(s);
    assert_int_equal(kv_seq_grow(p, 16 * CHUNK_TOK, NULL), ERR_OK);
    memset(kv_seq_base(p), 2, 16 * chunk_bytes);
    bytes_left = 0; /* of a reserve of 4 MiB */
    for (int i = 0; i < 8000; i++) {
        kv_poll(s);
        check(s);
        kv_get_stats(s, &st);
        if (st.n_frame_cached < 28 && st.n_frame_punched > 0) {
            break;
        }
        clock_sleep_us(1000);
    }
    struct stat file;
    assert_int_equal(fstat(s->arena.fd, &file), 0);
    assert_true(st.n_frame_cached < 28 && st.n_frame_active == 16);
    assert_true((uint64_t)file.st_blocks * 512 < 48 * chunk_bytes);
    assert_int_equal(kv_seq_grow(p, 60 * CHUNK_TOK, NULL), ERR_OK); /* more than the limit */
    check(s);
    for (uint64_t i = 0; i < 16 * chunk_bytes; i += 4096) {
        assert_int_equal(((char *)kv_seq_base(p))[i], 2);
    }
    kv_seq_close(p);
    bytes_left = (uint64_t)1 << 40;
    for (int i = 0; i < 8000 && st.n_frame_limit < 64; i++) {
        kv_publish(s);
        kv_get_stats(s, &st);
        clock_sleep_us(1000);
    }
    assert_int_equal(st.n_frame_limit, 64);
    kv_store_destroy(s);
}

static void test_guards(void **state)
{
    (void)state;
    const size_t chunk_bytes = 12288;
    struct kv_store *s = store_new(16, chunk_bytes, 8, 0);
    struct kv_seq *q = seq_new(s);
    char *base = kv_seq_base(q);
    assert_true(faults(base, false));
    assert_int_equal(kv_seq_grow(q, 3 * CHUNK_TOK, NULL), ERR_OK);
    assert_false(faults(base + 3 * chunk_bytes - 1, true));
    assert_true(faults(base + 3 * chunk_bytes, false));
    kv_seq_shrink(q, 2 * CHUNK_TOK);
    assert_false(faults(base + 2 * chunk_bytes - 1, false));
    assert_true(faults(base + 2 * chunk_bytes, true));
    assert_int_equal(kv_seq_grow(q, 8 * CHUNK_TOK - 1, NULL), ERR_OK);
    assert_false(faults(base + 8 * chunk_bytes - 1, true));
    for (size_t k = 8 * chunk_bytes; k < 8 * chunk_bytes + KV_HUGE_BYTES; k += 262144) {
        assert_true(faults(base + k, false)); /* the guard behind the end */
    }
    kv_seq_close(q);
    kv_store_destroy(s);
}

/* Uses up the mappings the kernel allows, then asks the store for more: clean errors, and all of it
 * works again once there is room. Runs in a child, whose exit status tells. */
static int kernel_refuses(void)
{
    struct kv_store *s = store_new(64, 4096, 32, 1000000);
    struct kv_seq *a = seq_new(s);
    struct kv_seq *b = seq_new(s);
    if (kv_seq_grow(a, 20 * CHUNK_TOK, NULL) || kv_seq_grow(b, 4 * CHUNK_TOK, NULL)) {
        return 1;
    }
    enum { N_PAGE = 1 << 18 };
    char *p = mmap(NULL, (size_t)N_PAGE * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t i = 0;
    while (i < N_PAGE && mprotect(p + (size_t)i * 4096, 4096, PROT_NONE) == 0) {
        i += 2;
    }
    if (i >= N_PAGE) {
        return 77; /* this kernel allows more mappings than the test can use up */
    }
    struct err e = {0};
    struct kv_seq *c = NULL;
    bool refused = false;
    for (int k = 0; k < 8 && !refused; k++) { /* the last few may be left */
        refused = kv_seq_open(s, &c, &e) != ERR_OK || kv_seq_grow(c, CHUNK_TOK, &e) != ERR_OK;
    }
    kv_seq_shrink(a, 10 * CHUNK_TOK); /* needs no more mappings than before */
    kv_seq_close(b);
    if (!refused || kv_check(s, &e)) {
        return 2;
    }
    (void)munmap(p, (size_t)N_PAGE * 4096);
    b = seq_new(s);
    if (kv_seq_grow(b, 31 * CHUNK_TOK, &e) || kv_check(s, &e)) {
        return 3;
    }
    memset(kv_seq_base(b), 1, (size_t)31 * 4096);
    if (s->closing) {
        return 4;
    }
    kv_seq_close(b);
    kv_seq_close(a);
    while (s->seqs) {
        kv_seq_close(s->seqs);
    }
    if (kv_check(s, &e) || s->arena.n_by_state[KV_FRAME_FREE] != 64 || s->n_vma != 0) {
        (void)fprintf(stderr, "%s; %llu frames free, %llu mappings\n", e.msg,
                      (unsigned long long)s->arena.n_by_state[KV_FRAME_FREE],
                      (unsigned long long)s->n_vma);
        return 5;
    }
    kv_store_destroy(s);
    return 0;
}

static void test_kernel_refuses_mappings(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* a sanitizer's own mmap must not fail */
#endif
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        _exit(kernel_refuses());
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_options(void **state)
{
    (void)state;
    const struct kv_options good = {
        .ram_bytes = 1 << 20, .chunk_tok = 64, .chunk_bytes = 8192, .n_seq_tok_max = 1000};
    struct kv_store *s = NULL;
    struct kv_options o = good;
    o.chunk_tok = 48;
    assert_int_equal(kv_store_create(&o, &s, NULL), ERR_INVALID);
    o = good;
    o.chunk_bytes = 8000;
    assert_int_equal(kv_store_create(&o, &s, NULL), ERR_INVALID);
    o = good;
    o.ram_bytes = 8191;
    assert_int_equal(kv_store_create(&o, &s, NULL), ERR_INVALID);
    o = good;
    o.ram_bytes = UINT64_MAX;
    assert_int_equal(kv_store_create(&o, &s, NULL), ERR_INVALID);
    o = good;
    o.n_seq_tok_max = 0;
    assert_int_equal(kv_store_create(&o, &s, NULL), ERR_INVALID);
    o = good;
    o.n_seq_tok_max = UINT32_MAX; /* 2^26 chunks of 8 MiB do not fit the address space */
    o.chunk_bytes = (size_t)8 << 20;
    o.ram_bytes = (uint64_t)64 << 20;
    assert_int_equal(kv_store_create(&o, &s, NULL), ERR_OK);
    struct kv_seq *q = NULL;
    assert_int_equal(kv_seq_open(s, &q, NULL), ERR_LIMIT);
    kv_store_destroy(s);
    kv_store_destroy(NULL);
    kv_seq_close(NULL);
}

/* The checker itself: each kind of wrong count is seen. */
static void test_check_sees_faults(void **state)
{
    (void)state;
    struct kv_store *s = store_new(40, 4096, 16, 0);
    struct kv_seq *q = seq_new(s);
    assert_int_equal(kv_seq_grow(q, 6 * CHUNK_TOK, NULL), ERR_OK);
    struct err e;
    check(s);
    s->arena.frames[q->range.frames[2]].n_map++;
    assert_int_equal(kv_check(s, &e), ERR_INTERNAL);
    s->arena.frames[q->range.frames[2]].n_map--;
    s->arena.frames[39].held = true;
    assert_int_equal(kv_check(s, &e), ERR_INTERNAL);
    s->arena.frames[39].held = false;
    s->arena.n_by_state[KV_FRAME_CACHED]++;
    assert_int_equal(kv_check(s, &e), ERR_INTERNAL);
    s->arena.n_by_state[KV_FRAME_CACHED]--;
    s->arena.extents[1].free_mask ^= 1;
    assert_int_equal(kv_check(s, &e), ERR_INTERNAL);
    s->arena.extents[1].free_mask ^= 1;
    s->n_vma++;
    assert_int_equal(kv_check(s, &e), ERR_INTERNAL);
    s->n_vma--;
    q->range.n_run++;
    assert_int_equal(kv_check(s, &e), ERR_INTERNAL);
    q->range.n_run--;
    uint32_t frame = q->range.frames[1];
    q->range.frames[1] = q->range.frames[0];
    assert_int_equal(kv_check(s, &e), ERR_INTERNAL);
    q->range.frames[1] = frame;
    check(s);
    kv_seq_close(q);
    kv_store_destroy(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_growth_keeps_contents),
        cmocka_unit_test(test_full_changes_nothing_and_recovers),
        cmocka_unit_test(test_random_operations),
        cmocka_unit_test(test_neighbours_merge),
        cmocka_unit_test(test_frames_keep_the_phase),
        cmocka_unit_test(test_mapping_budget),
        cmocka_unit_test(test_memory_is_charged_lazily),
        cmocka_unit_test(test_memory_is_populated_ahead),
        cmocka_unit_test(test_memory_pressure),
        cmocka_unit_test(test_guards),
        cmocka_unit_test(test_kernel_refuses_mappings),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_check_sees_faults),
    };
    return cmocka_run_group_tests_name("kvstore", tests, NULL, NULL);
}
