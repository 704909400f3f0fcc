/* A randomised run of the whole store with its disk on, without a model: sequences open, wait,
 * grow, commit, shrink, fork, pin and close in any order while a small disk under them serves,
 * fails, stalls and is reopened. After every step all accounting is checked, and in turn each
 * sequence's KV, to the byte.
 *
 *     test_random_disk [OPERATIONS [SEED [encrypted]]]
 *
 * Prints its time; exit 1 at the first thing wrong. */
#include "base/clock.h"
#include "base/log.h"
#include "io_shim.h"
#include "kv_model.h"
#include "kvstore/store.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define T             8
#define CHUNK_BYTES   8192
#define N_SEQ         10
#define N_TOK_MAX     96
#define N_FRAME       90
#define N_SLOT        150
#define OPS_ROUND     5000 /* operations between two restarts */
#define N_OP_DEFAULT  30000
#define IO_TIMEOUT_US 100000

static const struct kv_model model = {.chunk_bytes = CHUNK_BYTES, .chunk_tok = T};

struct seq {
    struct kv_seq *q;
    uint64_t tenant;
    uint32_t n;
    int32_t tokens[N_TOK_MAX];
};

struct world {
    struct kv_store *s;
    struct seq seqs[N_SEQ];
    struct shim shim;
    struct kv_io_hook hook;
    char dir[64];
    char key[80]; /* empty: not encrypted */
    uint64_t rng;
    uint64_t op;
    uint64_t n_hit_disk;
    uint64_t n_late;
    uint64_t n_fault;
};

static _Noreturn void fail(const struct world *w, const char *what)
{
    (void)fprintf(stderr, "operation %llu: %s\n", (unsigned long long)w->op, what);
    exit(1);
}

static void dir_delete(const char *path)
{
    DIR *d = opendir(path);
    if (!d) {
        return;
    }
    struct dirent *entry;
    while ((entry = readdir(d)) != NULL) {
        char name[512];
        (void)snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (entry->d_name[0] != '.' && unlink(name) != 0) {
            dir_delete(name);
        }
    }
    (void)closedir(d);
    (void)rmdir(path);
}

/* Rounds alternate between the backends; the budget of mappings is tight in one of three. */
static void store_open(struct world *w, uint64_t round)
{
    struct kv_options o = {.ram_bytes = (uint64_t)N_FRAME * CHUNK_BYTES,
                           .chunk_tok = T,
                           .chunk_bytes = CHUNK_BYTES,
                           .n_seq_tok_max = N_TOK_MAX,
                           .n_vma_max = round % 3 == 2 ? 40 : 0,
                           .disk = {.dir = w->dir,
                                    .cap_bytes = 8192 + (uint64_t)N_SLOT * (CHUNK_BYTES + 4096),
                                    .tail_idle_us = 1000,
                                    .io_timeout_us = IO_TIMEOUT_US,
                                    .key_file = w->key[0] ? w->key : NULL,
                                    .backend = round % 2 ? KV_BACKEND_PREAD : KV_BACKEND_AUTO,
                                    .hook = &w->hook}};
    struct err e;
    if (kv_store_create(&o, &w->s, &e)) {
        fail(w, e.msg);
    }
}

static void prompt_make(struct seq *x, uint64_t r)
{
    x->tenant = r & 1;
    x->n = 1 + (uint32_t)(r >> 8) % (N_TOK_MAX - 1);
    uint32_t n_same = (uint32_t)(r >> 16) % 80;
    for (uint32_t i = 0; i < N_TOK_MAX; i++) {
        uint64_t seed = i < n_same ? r >> 24 & 3 : 100 + (r >> 28 & 15);
        x->tokens[i] = (int32_t)(rng_mix(seed, i) % 50000);
    }
}

static void seq_open(struct world *w, struct seq *x, uint64_t r)
{
    struct kv_match m;
    struct err e;
    prompt_make(x, r);
    struct kv_identity id = kv_model_identity(x->tenant);
    if (r >> 40 & 1) {
        (void)kv_prefetch(w->s, &id, x->tokens, x->n);
    }
    enum err_code code = kv_seq_open_prompt(w->s, &id, x->tokens, x->n, &x->q, &m, &e);
    if (code == ERR_FULL && x->q == NULL) {
        return; /* out of mappings */
    }
    if (code) {
        fail(w, e.msg);
    }
    const struct kv_retention retention = {.keep_s = r >> 41 & 1,
                                           .ttl_s = r >> 42 & 3,
                                           .ram_only = (r >> 44 & 7) == 0,
                                           .leaves_nothing = (r >> 47 & 7) == 0};
    if ((r >> 50 & 3) == 0) {
        kv_seq_retain(x->q, &retention);
    }
    if ((r >> 52 & 7) == 0) {
        (void)(r >> 55 & 1 ? kv_pin(w->s, &id, x->tokens, x->n, w->s->now_s + 2)
                           : kv_unpin(w->s, &id, x->tokens, x->n));
    }
}

static void seq_go_on(struct world *w, struct seq *x, uint64_t r)
{
    uint32_t n = kv_seq_n_tok(x->q) + (uint32_t)(r >> 10) % 20;
    n = n < N_TOK_MAX ? n : N_TOK_MAX;
    if (kv_seq_grow(x->q, n, NULL) == ERR_OK) {
        uint32_t from = kv_seq_n_tok(x->q);
        kv_model_compute(&model, x->q, x->tenant, x->tokens, from, n);
        kv_seq_commit(x->q, x->tokens + from, n - from);
    }
    if (kv_seq_n_tok(x->q) > n) {
        fail(w, "a sequence grew by itself");
    }
}

static void fault_change(struct world *w, uint64_t r)
{
    static const int faults[] = {SHIM_NONE,   SHIM_NONE, SHIM_EIO,  SHIM_ENOSPC, SHIM_SHORT,
                                 SHIM_EAGAIN, SHIM_FLIP, SHIM_TORN, SHIM_STALL,  SHIM_NO_PAYLOAD};
    atomic_store(&w->shim.every, 1 + (unsigned)(r & 15));
    atomic_store(&w->shim.torn_bytes, (unsigned)(r >> 4 & 0x1fff));
    atomic_store(&w->shim.fault, faults[(r >> 20) % (sizeof faults / sizeof *faults)]);
    w->s->spill.write_pause_until_us = 0; /* of ENOSPC: half a minute is the whole test */
}

static void step(struct world *w)
{
    uint64_t r = rng_next(&w->rng);
    struct seq *x = &w->seqs[(r >> 56) % N_SEQ];
    struct seq *y = &w->seqs[(r >> 52) % N_SEQ];
    struct kv_match m;
    uint32_t what = (uint32_t)(rng_next(&w->rng) >> 32) % 64;
    if (what < 12) {
        kv_poll(w->s);
    } else if (what == 12) {
        (void)kv_flush(w->s, 2000);
    } else if (what == 13 && w->op % 16 == 0) {
        fault_change(w, r);
    } else if (!x->q) {
        seq_open(w, x, r);
    } else if (what < 22) {
        kv_seq_close(x->q);
        x->q = NULL;
    } else if (what < 32) {
        kv_seq_follow(x->q, x->tokens, x->n, r & 1, &m);
    } else if (what < 35) {
        kv_seq_shrink(x->q, (uint32_t)(r >> 10) % (kv_seq_n_tok(x->q) + 1));
    } else if (what < 38 && !y->q) {
        uint32_t n = kv_seq_n_tok(x->q);
        *y = *x;
        y->q = NULL;
        (void)kv_seq_fork(x->q, n - n % 3, &y->q, NULL);
    } else {
        seq_go_on(w, x, r);
    }
}

static void step_check(struct world *w)
{
    struct err e;
    if (kv_check(w->s, &e)) {
        fail(w, e.msg);
    }
    struct kv_stats st;
    kv_get_stats(w->s, &st);
    if (st.n_frame_free + st.n_frame_active + st.n_frame_cached + st.n_frame_loading +
            st.n_frame_writing !=
        N_FRAME) {
        fail(w, "frames do not add up");
    }
    const struct seq *x = &w->seqs[w->op % N_SEQ];
    if (x->q && kv_model_verify(&model, x->q, x->tenant, x->tokens, kv_seq_n_tok(x->q)) !=
                    kv_seq_n_tok(x->q)) {
        fail(w, "wrong KV");
    }
}

static void round_end(struct world *w)
{
    struct kv_stats st;
    for (uint32_t i = 0; i < N_SEQ; i++) {
        kv_seq_close(w->seqs[i].q);
        w->seqs[i].q = NULL;
    }
    step_check(w);
    kv_get_stats(w->s, &st);
    if (st.n_frame_active > 0) {
        fail(w, "frames are lost");
    }
    w->n_hit_disk += st.n_tok_hit_disk;
    w->n_late += st.n_disk_late;
    w->n_fault += atomic_exchange(&w->shim.n_fault, 0);
    atomic_store(&w->shim.fault, SHIM_NONE);
    if (!kv_flush(w->s, 0)) { /* as a process that ends at once would */
        kv_poll(w->s);
    }
    kv_store_destroy(w->s);
}

int main(int argc, char **argv)
{
    uint64_t n_op = argc > 1 ? strtoull(argv[1], NULL, 10) : N_OP_DEFAULT;
    static struct world w = {.dir = "/tmp/kvasir-test-random-XXXXXX"};
    w.rng = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    w.hook = (struct kv_io_hook){shim_wrap, &w.shim};
    log_init(LOG_LEVEL_ERROR, false);
    if (!mkdtemp(w.dir)) {
        fail(&w, "no directory");
    }
    if (argc > 3) {
        (void)snprintf(w.key, sizeof w.key, "%s/key", w.dir);
        FILE *f = fopen(w.key, "we");
        if (!f || fchmod(fileno(f), 0600) != 0 ||
            fputs("an AES-256 key of 32 whole bytes", f) < 0 || fclose(f) != 0) {
            fail(&w, "no key");
        }
    }
    uint64_t begin_us = clock_mono_us();
    for (uint64_t round = 0; w.op < n_op; round++) {
        store_open(&w, round);
        for (uint32_t i = 0; i < OPS_ROUND && w.op < n_op; i++, w.op++) {
            step(&w);
            step_check(&w);
        }
        round_end(&w);
    }
    dir_delete(w.dir);
    (void)printf("%llu operations with the disk on: %.1f s; %llu tokens hit on disk, %llu faults, "
                 "%llu late\n",
                 (unsigned long long)w.op, (double)(clock_mono_us() - begin_us) / 1e6,
                 (unsigned long long)w.n_hit_disk, (unsigned long long)w.n_fault,
                 (unsigned long long)w.n_late);
    return w.n_hit_disk > 0 && w.n_fault > 0 ? 0 : 1;
}
