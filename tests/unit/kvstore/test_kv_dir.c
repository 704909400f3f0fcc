/* A store's directory from outside: what is listed, verified, pinned, exported, imported, dropped
 * is what the store finds; and no file, however damaged, does more than be refused. */
#include "base/clock.h"
#include "base/log.h"
#include "kv_model.h"
#include "kvstore/kv_dir.h"
#include "kvstore/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define T           8
#define CHUNK_BYTES 8192

static const struct kv_model model = {.chunk_bytes = CHUNK_BYTES, .chunk_tok = T};
static char base_dir[64];
static char store_path[128];

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

static int fresh_dir(void **state)
{
    (void)state;
    (void)snprintf(base_dir, sizeof base_dir, "/tmp/kvasir-test-kvdir-XXXXXX");
    char *made = mkdtemp(base_dir);
    (void)snprintf(store_path, sizeof store_path, "%s/kv/01020300000000000000000000000000",
                   base_dir);
    return made ? 0 : -1;
}

static int drop_dir(void **state)
{
    (void)state;
    dir_delete(base_dir);
    return 0;
}

static struct kv_store *store_new(const char *name)
{
    static char dir[128];
    (void)snprintf(dir, sizeof dir, "%s/%s", base_dir, name);
    struct kv_options o = {
        .ram_bytes = 60 * CHUNK_BYTES,
        .chunk_tok = T,
        .chunk_bytes = CHUNK_BYTES,
        .n_seq_tok_max = 256,
        .disk = {
            .dir = dir, .cap_bytes = 3000000, .io_timeout_us = 20000000, .fingerprint = {1, 2, 3}}};
    struct kv_store *s = NULL;
    struct err e = {0};
    if (kv_store_create(&o, &s, &e)) {
        fail_msg("%s", e.msg);
    }
    return s;
}

static void fill(int32_t *tokens, uint32_t n, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++) {
        tokens[i] = (int32_t)(rng_mix(seed, i) % 50000);
    }
}

/* Computes what is missing of prompt `seed`, and returns how much was there, verified. */
static uint32_t serve(struct kv_store *s, uint64_t seed, uint32_t n)
{
    int32_t tokens[100];
    struct kv_identity id = kv_model_identity(1);
    struct kv_seq *q = NULL;
    struct kv_match m;
    fill(tokens, n, seed);
    assert_int_equal(kv_seq_open_prompt(s, &id, tokens, n, &q, &m, NULL), ERR_OK);
    while (m.n_tok_pending > m.n_tok_ready) {
        kv_poll(s);
        kv_seq_follow(q, tokens, n, true, &m);
    }
    assert_int_equal(kv_model_verify(&model, q, 1, tokens, m.n_tok_ready), m.n_tok_ready);
    assert_int_equal(kv_seq_grow(q, n, NULL), ERR_OK);
    uint32_t from = kv_seq_n_tok(q);
    kv_model_compute(&model, q, 1, tokens, from, n);
    kv_seq_commit(q, tokens + from, n - from);
    kv_seq_close(q);
    assert_true(kv_flush(s, 10000000));
    return m.n_tok_ready;
}

/* Three sequences: 43 tokens, 24 tokens, 24 tokens. */
static void store_fill(void)
{
    struct kv_store *s = store_new("kv");
    (void)serve(s, 1, 43);
    (void)serve(s, 2, 24);
    (void)serve(s, 3, 24);
    kv_store_destroy(s);
}

static struct kv_dir *dir_open(const char *path, bool write)
{
    struct kv_dir *d = NULL;
    struct err e = {0};
    if (kv_dir_open(path, write, &d, &e)) {
        fail_msg("%s", e.msg);
    }
    return d;
}

/* The leaf with so many tokens. */
static uint32_t leaf_of(const struct kv_dir *d, uint32_t n_tok)
{
    struct kv_dir_info info;
    kv_dir_info(d, &info);
    for (uint32_t i = 0; i < info.n_chunk; i++) {
        const struct kv_dir_chunk *c = kv_dir_chunk(d, i);
        if (c->n_child == 0 && c->n_tok_path == n_tok) {
            return i;
        }
    }
    fail_msg("no sequence of %u tokens", n_tok);
    return 0;
}

static void count_visit(void *arg, const char *path)
{
    assert_string_equal(path, store_path);
    ++*(uint32_t *)arg;
}

static void test_list_and_verify(void **state)
{
    (void)state;
    store_fill();
    char kv[100];
    uint32_t n = 0;
    (void)snprintf(kv, sizeof kv, "%s/kv", base_dir);
    assert_int_equal(kv_dir_each(kv, count_visit, &n, NULL), ERR_OK);
    assert_int_equal(n, 1);
    assert_int_equal(kv_dir_each(base_dir, count_visit, &n, NULL), ERR_NOT_FOUND);
    struct kv_dir *d = dir_open(store_path, false);
    struct kv_dir_info info;
    kv_dir_info(d, &info);
    assert_int_equal(info.n_chunk, 6 + 3 + 3);
    assert_int_equal(info.chunk_tok, T);
    const struct kv_dir_chunk *c = kv_dir_chunk(d, leaf_of(d, 43));
    assert_true(c->is_whole && c->n_tok == 3 && c->depth == 5);
    for (uint32_t i = 0; i < info.n_chunk; i++) {
        assert_int_equal(kv_dir_verify(d, i, NULL), ERR_OK);
    }
    struct kv_store *s = store_new("kv"); /* a server may run beside it … */
    struct kv_dir *w = NULL;
    assert_int_equal(kv_dir_open(store_path, true, &w, NULL), ERR_FULL); /* … but not be changed */
    assert_int_equal(kv_dir_verify(d, 0, NULL), ERR_OK);
    kv_store_destroy(s);
    char name[160];
    (void)snprintf(name, sizeof name, "%s/seg-00000", store_path);
    int fd = open(name, O_RDWR);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    uint8_t byte;
    off_t at = st.st_size - info.n_slot / 2; /* somewhere in a payload, if its slot is in use */
    uint32_t n_bad = 0;
    for (off_t k = 0; k < st.st_size; k += CHUNK_BYTES / 2) {
        at = (at + CHUNK_BYTES / 2) % st.st_size;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= 1;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    }
    for (uint32_t i = 0; i < info.n_chunk; i++) {
        n_bad += kv_dir_verify(d, i, NULL) == ERR_CORRUPT;
    }
    assert_true(n_bad > 0);
    assert_int_equal(close(fd), 0);
    kv_dir_close(d);
}

static void test_pin_and_drop(void **state)
{
    (void)state;
    store_fill();
    struct err e;
    struct kv_dir *d = dir_open(store_path, true);
    uint32_t n = 0;
    uint32_t i = leaf_of(d, 43);
    assert_int_equal(kv_dir_pin(d, i, KV_PIN_FOR_GOOD, &e), ERR_OK);
    char hex[65];
    for (int k = 0; k < 32; k++) {
        (void)snprintf(hex + 2 * k, 3, "%02x", kv_dir_chunk(d, i)->key[k]);
    }
    uint32_t found = 99;
    assert_int_equal(kv_dir_find(d, hex, &found, &e), ERR_OK);
    assert_int_equal(found, i);
    assert_int_equal(kv_dir_find(d, "zz", &found, &e), ERR_INVALID);
    assert_int_equal(kv_dir_find(d, "00000000000000000000", &found, &e), ERR_NOT_FOUND);
    uint32_t middle = kv_dir_chunk(d, leaf_of(d, 24))->parent;
    assert_int_equal(kv_dir_drop(d, middle, &n, &e), ERR_OK);
    assert_int_equal(n, 2);
    kv_dir_close(d);
    struct kv_store *s = store_new("kv");
    struct kv_stats st;
    kv_get_stats(s, &st);
    assert_int_equal(st.n_slot_pinned, 6);
    assert_int_equal(st.n_slot_used, 10);
    uint32_t n_ready = serve(s, 2, 24);
    assert_int_equal(n_ready + serve(s, 3, 24), 8 + 23); /* one of the two has its first chunk */
    assert_int_equal(serve(s, 1, 44), 43);
    kv_store_destroy(s);
}

static void test_export_and_import(void **state)
{
    (void)state;
    store_fill();
    char file[100];
    char other[100];
    struct err e = {0};
    uint32_t n = 0;
    (void)snprintf(file, sizeof file, "%s/export", base_dir);
    (void)snprintf(other, sizeof other, "%s/other", base_dir);
    struct kv_dir *d = dir_open(store_path, false);
    assert_int_equal(kv_dir_export(d, leaf_of(d, 43), file, &e), ERR_OK);
    assert_int_equal(kv_dir_export(d, 0, file, &e), ERR_IO); /* nothing is overwritten */
    kv_dir_close(d);
    assert_int_equal(mkdir(other, 0700), 0);
    if (kv_dir_import(other, file, &n, &e)) {
        fail_msg("%s", e.msg);
    }
    assert_int_equal(n, 6);
    assert_int_equal(kv_dir_import(other, file, &n, &e), ERR_OK);
    assert_int_equal(n, 0);
    struct kv_store *s = store_new("other");
    assert_int_equal(serve(s, 1, 44), 43);
    kv_store_destroy(s);
    /* Cut short anywhere, or with a bit flipped anywhere, it is refused, and nothing of the damaged
     * chunk is taken. */
    int fd = open(file, O_RDWR);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    uint64_t rng = 3;
    for (uint32_t i = 0; i < 60; i++) {
        uint8_t byte;
        off_t at = (off_t)(rng_next(&rng) % (uint64_t)st.st_size);
        dir_delete(other);
        assert_int_equal(mkdir(other, 0700), 0);
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= (uint8_t)(1 << i % 8);
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        assert_int_equal(kv_dir_import(other, file, &n, &e), ERR_CORRUPT);
        byte ^= (uint8_t)(1 << i % 8);
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        if (i % 6 == 0) {
            s = store_new("other");
            (void)serve(s, 1, 44); /* verifies what it finds */
            kv_store_destroy(s);
        }
    }
    for (off_t size = st.st_size - 1; size > 0; size -= 9973) {
        assert_int_equal(ftruncate(fd, size), 0);
        dir_delete(other);
        assert_int_equal(mkdir(other, 0700), 0);
        assert_int_equal(kv_dir_import(other, file, &n, &e), ERR_CORRUPT);
    }
    assert_int_equal(close(fd), 0);
}

/* Headers and superblocks of random bytes and of flipped bits. */
static void test_hostile_directories(void **state)
{
    (void)state;
    store_fill();
    char name[160];
    struct err e;
    struct kv_dir *d = NULL;
    uint64_t rng = 9;
    for (uint32_t i = 0; i < 40; i++) {
        (void)snprintf(name, sizeof name, "%s/%s", store_path, i % 2 ? "seg-00000" : "super");
        int fd = open(name, O_RDWR);
        assert_true(fd >= 0);
        for (uint32_t k = 0; k < 20; k++) {
            uint64_t r = rng_next(&rng);
            off_t at = (off_t)(r >> 20) % (i % 2 ? 65536 : 8192);
            assert_int_equal(pwrite(fd, &r, 1 + r % 8, at), 1 + r % 8);
        }
        assert_int_equal(close(fd), 0);
        enum err_code code = kv_dir_open(store_path, i % 3 == 0, &d, &e);
        if (code == ERR_OK) {
            struct kv_dir_info info;
            kv_dir_info(d, &info);
            for (uint32_t k = 0; k < info.n_chunk; k++) {
                (void)kv_dir_verify(d, k, &e);
            }
            kv_dir_close(d);
        } else {
            assert_int_equal(code, ERR_CORRUPT);
        }
    }
    struct kv_store *s = store_new("kv");
    (void)serve(s, 1, 44);
    kv_store_destroy(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_list_and_verify, fresh_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_pin_and_drop, fresh_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_export_and_import, fresh_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_hostile_directories, fresh_dir, drop_dir),
    };
    log_init(LOG_LEVEL_WARN, false);
    return cmocka_run_group_tests_name("kvstore directory", tests, NULL, NULL);
}
