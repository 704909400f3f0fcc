/* The disk tier: what is written comes back right or not at all, whatever the disk does. */
#include "base/log.h"
#include "io_shim.h"
#include "kv_model.h"
#include "kvstore/crc32c.h"
#include "kvstore/disk_share.h"
#include "kvstore/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOW 10
#else
#define SLOW 1
#endif

#define T           8
#define CHUNK_BYTES 8192
#define SLOT_BYTES  (CHUNK_BYTES + 4096)
#define CAP(n_slot) (8192 + (uint64_t)(n_slot)*SLOT_BYTES)

static const struct kv_model model = {.chunk_bytes = CHUNK_BYTES, .chunk_tok = T};
static char base_dir[64];
static uint64_t wait_us_max = 10000000; /* for what is pending; the disk here is a busy one */

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
    dir_delete(base_dir);
    (void)snprintf(base_dir, sizeof base_dir, "/tmp/kvasir-test-disk-XXXXXX");
    return mkdtemp(base_dir) ? 0 : -1;
}

static int drop_dir(void **state)
{
    (void)state;
    dir_delete(base_dir);
    return 0;
}

static struct kv_options options_of(uint32_t n_frame, uint32_t n_slot)
{
    struct kv_options o = {.ram_bytes = (uint64_t)n_frame * CHUNK_BYTES,
                           .chunk_tok = T,
                           .chunk_bytes = CHUNK_BYTES,
                           .n_seq_tok_max = 1024,
                           .disk = {.dir = base_dir,
                                    .cap_bytes = CAP(n_slot),
                                    .tail_idle_us = 1000,
                                    .io_timeout_us = 20000000, /* a busy machine is no fault */
                                    .lock_wait_us = 3000000,
                                    .fingerprint = {1, 2, 3}}};
    return o;
}

static struct kv_store *store_new(const struct kv_options *o)
{
    struct kv_store *s = NULL;
    struct err e = {0};
    if (kv_store_create(o, &s, &e)) {
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

static struct kv_stats stats_of(const struct kv_store *s)
{
    struct kv_stats st;
    kv_get_stats(s, &st);
    return st;
}

static void fill(int32_t *tokens, uint32_t n, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++) {
        tokens[i] = (int32_t)(rng_mix(seed, i) % 50000);
    }
}

/* Opens, waits for what is pending, and verifies all that is ready. */
static struct kv_seq *open_wait(struct kv_store *s, uint64_t tenant, const int32_t *tokens,
                                uint32_t n, uint32_t *ret_ready)
{
    struct kv_identity id = kv_model_identity(tenant);
    struct kv_seq *q = NULL;
    struct kv_match m;
    struct err e = {0};
    if (kv_seq_open_prompt(s, &id, tokens, n, &q, &m, &e)) {
        fail_msg("%s", e.msg);
    }
    uint64_t until = clock_mono_us() + wait_us_max * SLOW;
    while (m.n_tok_pending > m.n_tok_ready) {
        kv_poll(s);
        kv_seq_follow(q, tokens, n, clock_mono_us() < until, &m);
        clock_sleep_us(20);
    }
    check(s);
    uint32_t at = kv_model_verify(&model, q, tenant, tokens, m.n_tok_ready);
    if (at != m.n_tok_ready) {
        fail_msg("token %u of %u that the cache gave is wrong", at, m.n_tok_ready);
    }
    *ret_ready = m.n_tok_ready;
    return q;
}

/* Computes what is missing of tokens[0…n), closes, and returns how much was there. */
static uint32_t serve(struct kv_store *s, uint64_t tenant, const int32_t *tokens, uint32_t n)
{
    uint32_t n_ready;
    struct kv_seq *q = open_wait(s, tenant, tokens, n, &n_ready);
    struct err e = {0};
    uint64_t until = clock_mono_us() + 5000000 * SLOW;
    while (kv_seq_grow(q, n, &e)) { /* chunks on their way to disk cannot be evicted just now */
        if (e.code != ERR_FULL || clock_mono_us() > until) {
            fail_msg("%s", e.msg);
        }
        kv_poll(s);
        clock_sleep_us(50);
    }
    uint32_t from = kv_seq_n_tok(q);
    kv_model_compute(&model, q, tenant, tokens, from, n);
    kv_seq_commit(q, tokens + from, n - from);
    if (kv_model_verify(&model, q, tenant, tokens, n) != n) {
        fail_msg("wrong KV");
    }
    kv_seq_close(q);
    kv_poll(s);
    check(s);
    return n_ready;
}

static void test_crc32c(void **state)
{
    (void)state;
    uint8_t buf[5000];
    memset(buf, 0, 32);
    assert_int_equal(kv_crc32c(buf, 32), 0x8a9136aa); /* RFC 3720, B.4 */
    memset(buf, 0xff, 32);
    assert_int_equal(kv_crc32c(buf, 32), 0x62a8ab43);
    for (uint8_t i = 0; i < 32; i++) {
        buf[i] = i;
    }
    assert_int_equal(kv_crc32c(buf, 32), 0x46dd794e);
    assert_int_equal(kv_crc32c("123456789", 9), 0xe3069283);
    for (size_t i = 0; i < sizeof buf; i++) {
        buf[i] = (uint8_t)rng_mix(1, i);
    }
    uint32_t crcs[20];
    kv_crc32c_stripes(buf, sizeof buf, 512, crcs);
    for (size_t i = 0; i < 10; i++) {
        size_t n = i == 9 ? sizeof buf - 9 * 512 : 512;
        assert_int_equal(crcs[i], kv_crc32c(buf + i * 512, n));
    }
}

static void survives_restart(enum kv_backend backend)
{
    struct kv_options o = options_of(64, 400);
    o.disk.backend = backend;
    struct kv_store *s = store_new(&o);
    int32_t tokens[400];
    for (uint32_t i = 0; i < 30; i++) {
        fill(tokens, 400, i / 2);
        fill(tokens + 40, 360, i);
        assert_int_equal(serve(s, 1 + i % 2, tokens, 45 + i), 0);
        assert_true(kv_flush(s, 10000000));
    }
    /* More than RAM holds: some of it comes back from disk already. */
    assert_true(kv_flush(s, 10000000));
    struct kv_stats st = stats_of(s);
    assert_true(st.n_slot_used > 64 && st.n_evict_ram > 0);
    assert_true(kv_idle_us(s) == UINT64_MAX);
    fill(tokens, 400, 1000);
    (void)serve(s, 1, tokens, 20);
    assert_true(kv_idle_us(s) <= o.disk.tail_idle_us);
    assert_true(kv_flush(s, 10000000));
    st = stats_of(s);
    assert_int_equal(st.n_disk_corrupt + st.n_disk_error, 0);
    kv_store_destroy(s);
    s = store_new(&o);
    assert_int_equal(stats_of(s).n_slot_used, st.n_slot_used);
    for (uint32_t i = 0; i < 30; i++) {
        fill(tokens, 400, i / 2);
        fill(tokens + 40, 360, i);
        uint32_t n = 45 + i;
        uint32_t n_tail = n % T > T / 4 ? n % T : 0; /* less is not worth a read */
        assert_int_equal(serve(s, 1 + i % 2, tokens, n + 1), n - n % T + n_tail);
        if (i % 2 == 0) { /* what a tenant computed, the other must not see */
            fill(tokens + 40, 360, i + 1);
            assert_int_equal(serve(s, 1 + i % 2, tokens, 46 + i), 40);
        }
    }
    print_message("%s: %llu slots written, %llu read; %llu of %llu tokens hit on disk\n",
                  kv_tier_backend(s->spill.tier), (unsigned long long)st.n_disk_write,
                  (unsigned long long)stats_of(s).n_disk_read,
                  (unsigned long long)stats_of(s).n_tok_hit_disk,
                  (unsigned long long)stats_of(s).n_tok_asked);
    kv_store_destroy(s);
}

static void test_survives_restart(void **state)
{
    survives_restart(KV_BACKEND_PREAD);
    fresh_dir(state);
    survives_restart(KV_BACKEND_AUTO);
}

static uint64_t dir_bytes(void)
{
    char path[200];
    (void)snprintf(path, sizeof path, "%s/01020300000000000000000000000000", base_dir);
    uint64_t n = 0;
    DIR *d = opendir(path);
    assert_non_null(d);
    struct dirent *entry;
    while ((entry = readdir(d)) != NULL) {
        struct stat st;
        if (fstatat(dirfd(d), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISREG(st.st_mode)) {
            n += (uint64_t)st.st_size;
            assert_int_equal(st.st_mode & 0777, 0600);
        }
    }
    (void)closedir(d);
    return n;
}

static void test_cap_and_eviction(void **state)
{
    (void)state;
    struct kv_options o = options_of(40, 100);
    struct kv_store *s = store_new(&o);
    int32_t tokens[100];
    for (uint32_t i = 0; i < 60; i++) {
        fill(tokens, 100, i);
        (void)serve(s, 1, tokens, 60 + i % 40);
        assert_true(kv_flush(s, 10000000));
        assert_true(dir_bytes() <= CAP(100));
        check(s);
    }
    assert_true(stats_of(s).n_evict_disk > 100);
    kv_store_destroy(s);
    o.disk.cap_bytes = CAP(30); /* less than before */
    s = store_new(&o);
    assert_true(dir_bytes() <= CAP(30));
    assert_int_equal(serve(s, 1, tokens, 60) > 60, 0);
    kv_store_destroy(s);
    o.disk.cap_bytes = 4096;
    struct err e;
    assert_int_equal(kv_store_create(&o, &s, &e), ERR_LIMIT);
}

static void key_write(const char *name, const char *text, mode_t mode)
{
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, mode);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(fchmod(fd, mode), 0);
    assert_int_equal(close(fd), 0);
}

/* Whether any file of the store holds these bytes. */
static bool is_on_disk(const void *bytes, size_t n)
{
    static uint8_t buf[8 << 20];
    char path[200];
    for (uint32_t i = 0; i < 8; i++) {
        (void)snprintf(path, sizeof path, "%s/01020300000000000000000000000000/seg-%05u", base_dir,
                       i);
        int fd = open(path, O_RDONLY);
        ssize_t got = fd < 0 ? 0 : read(fd, buf, sizeof buf);
        if (fd >= 0) {
            (void)close(fd);
        }
        if (got > 0 && memmem(buf, (size_t)got, bytes, n)) {
            return true;
        }
    }
    return false;
}

static void test_encrypted(void **state)
{
    (void)state;
    const char *digits = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
    char key[100];
    char other[100];
    (void)snprintf(key, sizeof key, "%s/key", base_dir);
    (void)snprintf(other, sizeof other, "%s/other", base_dir);
    key_write(key, digits, 0600);
    key_write(other, digits, 0644);
    struct kv_options o = options_of(40, 60);
    struct kv_store *s = NULL;
    struct err e;
    int32_t tokens[100];
    fill(tokens, 100, 1);
    uint64_t kv_word = kv_model_next(1, tokens[0]);
    s = store_new(&o); /* in the clear both can be found */
    (void)serve(s, 1, tokens, 45);
    assert_true(kv_flush(s, 10000000));
    kv_store_destroy(s);
    assert_true(is_on_disk(tokens, T * sizeof *tokens) && is_on_disk(&kv_word, sizeof kv_word));
    o.disk.key_file = key;
    assert_int_equal(kv_store_create(&o, &s, &e), ERR_INVALID); /* that one is not encrypted */
    char path[200];
    (void)snprintf(path, sizeof path, "%s/01020300000000000000000000000000", base_dir);
    dir_delete(path);
    s = store_new(&o);
    for (uint32_t i = 1; i < 6; i++) {
        fill(tokens, 100, i);
        (void)serve(s, 1, tokens, 45);
    }
    assert_true(kv_flush(s, 10000000));
    struct kv_identity id = kv_model_identity(1);
    assert_int_equal(kv_pin(s, &id, tokens, 45, KV_PIN_FOR_GOOD), 45);
    assert_true(kv_flush(s, 10000000));
    kv_store_destroy(s);
    fill(tokens, 100, 1);
    assert_false(is_on_disk(tokens, T * sizeof *tokens) || is_on_disk(&kv_word, sizeof kv_word));
    o.disk.key_file = NULL;
    assert_int_equal(kv_store_create(&o, &s, &e), ERR_INVALID);
    o.disk.key_file = other; /* which others may read */
    assert_int_equal(kv_store_create(&o, &s, &e), ERR_INVALID);
    key_write(other, "100102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", 0600);
    assert_int_equal(kv_store_create(&o, &s, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "not encrypted with this key"));
    key_write(other, "too short", 0600);
    assert_int_equal(kv_store_create(&o, &s, &e), ERR_INVALID);
    o.disk.key_file = key;
    s = store_new(&o);
    assert_int_equal(stats_of(s).n_slot_pinned, 6);
    for (uint32_t i = 1; i < 6; i++) {
        fill(tokens, 100, i);
        assert_int_equal(serve(s, 1, tokens, 46), 45);
    }
    assert_int_equal(stats_of(s).n_disk_corrupt, 0);
    kv_store_destroy(s);
    /* Not only the CRC must say what was changed: whoever changes a payload can set that, too. */
    struct kv_crypt c;
    struct kv_slot_header h = {.n_tok = 5, .tokens = {1, 2, 3, 4, 5}};
    static uint8_t sealed[CHUNK_BYTES + 16];
    static uint8_t plain[CHUNK_BYTES];
    assert_int_equal(kv_crypt_read_key(key, &c, &e), ERR_OK);
    for (uint32_t i = 0; i < 200; i++) {
        memset(plain, (int)i, sizeof plain);
        assert_true(kv_crypt_seal(&c, plain, sizeof plain, sealed, &h));
        uint8_t *bytes = i % 2 ? sealed : (uint8_t *)&h + 32; /* payload, or what it is bound to */
        uint64_t r = rng_mix(5, i);
        bytes[r % (i % 2 ? CHUNK_BYTES : 160)] ^= (uint8_t)(1 << (r >> 40 & 7));
        assert_false(kv_crypt_open(&c, sealed, sizeof plain, &h));
        memset(&h, 0, sizeof h);
    }
    assert_true(kv_crypt_seal(&c, plain, sizeof plain, sealed, &h));
    assert_true(kv_crypt_open(&c, sealed, sizeof plain, &h));
    assert_memory_equal(sealed, plain, sizeof plain);
}

/* Stores of other models in the same directory count, too; of those that nobody has open, the last
 * segments go. */
static void test_stores_share_a_cap(void **state)
{
    (void)state;
    struct kv_options o = options_of(40, 100);
    int32_t tokens[100];
    struct kv_store *a = store_new(&o);
    o.disk.fingerprint[0] = 2;
    struct kv_store *b = store_new(&o);
    for (uint32_t i = 0; i < 60; i++) {
        fill(tokens, 100, i);
        (void)serve(i % 2 ? a : b, 1, tokens, 60 + i % 40);
        assert_true(kv_flush(i % 2 ? a : b, 10000000));
        assert_true(kv_share_bytes(a->spill.disk.parent_fd) <= CAP(100));
    }
    uint64_t n_a = stats_of(a).n_slot_used;
    uint64_t n_b = stats_of(b).n_slot_used;
    assert_true(n_a + n_b <= 100 && n_a > 20 && n_b > 20);
    kv_store_destroy(a);
    b->spill.disk.full_until_us = 0; /* it would look again in a minute */
    for (uint32_t i = 0; i < 30; i++) {
        fill(tokens, 100, 100 + i);
        (void)serve(b, 1, tokens, 80);
        assert_true(kv_flush(b, 10000000));
        assert_true(kv_share_bytes(b->spill.disk.parent_fd) <= CAP(100));
        b->spill.disk.full_until_us = 0;
    }
    print_message("%llu and %llu slots; alone %llu\n", (unsigned long long)n_a,
                  (unsigned long long)n_b, (unsigned long long)stats_of(b).n_slot_used);
    assert_true(stats_of(b).n_slot_used > n_b + 10);
    kv_store_destroy(b);
    o.disk.fingerprint[0] = 1;
    a = store_new(&o);
    check(a);
    kv_store_destroy(a);
}

static void test_second_process_waits_for_the_lock(void **state)
{
    (void)state;
    struct kv_options o = options_of(40, 100);
    struct kv_store *a = store_new(&o);
    int32_t tokens[100];
    fill(tokens, 100, 1);
    (void)serve(a, 1, tokens, 80);
    assert_true(kv_flush(a, 10000000));
    o.disk.lock_wait_us = 1000;
    struct kv_store *b = store_new(&o);
    assert_false(stats_of(b).disk_is_open);
    assert_int_equal(serve(b, 1, tokens, 80), 0);
    kv_store_destroy(a);
    b->spill.open_next_us = 0; /* it would try in five seconds */
    kv_poll(b);
    check(b);
    assert_true(stats_of(b).disk_is_open);
    int32_t other[100];
    fill(other, 100, 2);
    (void)serve(b, 1, other, 80);
    assert_int_equal(serve(b, 1, tokens, 81), 80);
    kv_store_destroy(b);
}

/* Flips each byte of the header, and bytes all over the payload, in the files of a closed store:
 * nothing wrong is ever served. */
static void test_flipped_bits(void **state)
{
    (void)state;
    struct kv_options o = options_of(40, 64);
    int32_t tokens[100];
    char path[200];
    (void)snprintf(path, sizeof path, "%s/01020300000000000000000000000000/seg-00000", base_dir);
    uint64_t rng = 17;
    uint32_t n_flip = 0;
    uint32_t n_lost = 0;
    for (uint32_t at = 0; at < 4096;) {
        struct kv_store *s = store_new(&o);
        for (uint32_t i = 0; i < 8; i++) { /* eight paths of one chunk each, in the first segment */
            fill(tokens, 100, i);
            (void)serve(s, 1, tokens, T);
        }
        assert_true(kv_flush(s, 10000000));
        uint32_t n_slot = s->spill.disk.n_slot_segment;
        assert_int_equal(n_slot, 8);
        kv_store_destroy(s);
        int fd = open(path, O_RDWR);
        assert_true(fd >= 0);
        for (uint32_t k = 0; k < n_slot; k++) {
            uint64_t r = rng_next(&rng);
            off_t where = k % 2 == 0 ? (off_t)(k * 4096 + at % 4096)
                                     : (off_t)(n_slot * 4096 + k * CHUNK_BYTES + r % CHUNK_BYTES);
            at += k % 2 == 0 ? (at < 260 || at > 4080 ? 1 : 1 + (uint32_t)(r >> 50) % (40 * SLOW))
                             : 0;
            uint8_t byte = 0;
            assert_int_equal(pread(fd, &byte, 1, where), 1);
            byte ^= (uint8_t)(1 << (r >> 40 & 7));
            assert_int_equal(pwrite(fd, &byte, 1, where), 1);
            n_flip++;
        }
        assert_int_equal(close(fd), 0);
        s = store_new(&o);
        for (uint32_t i = 0; i < 8; i++) {
            fill(tokens, 100, i);
            n_lost += serve(s, 1, tokens, T + 1) == 0; /* which verifies what it gets */
        }
        kv_store_destroy(s);
        fresh_dir(state);
        (void)snprintf(path, sizeof path, "%s/01020300000000000000000000000000/seg-00000",
                       base_dir);
    }
    print_message("%u flips, %u chunks lost\n", n_flip, n_lost);
    assert_int_equal(n_lost, n_flip);
}

/* Writes torn at every 512 bytes, of payload and of header: lost or whole, never wrong. The slots
 * had other chunks before, so that the old bytes are valid ones. */
static void test_torn_writes(void **state)
{
    (void)state;
    static struct shim shim;
    struct kv_io_hook hook = {shim_wrap, &shim};
    int32_t tokens[100];
    uint32_t n_lost = 0;
    uint32_t n_kept = 0;
    for (uint32_t torn = 0; torn <= CHUNK_BYTES; torn += 512) {
        struct kv_options o = options_of(40, 16);
        o.disk.hook = &hook;
        atomic_store(&shim.fault, SHIM_NONE);
        struct kv_store *s = store_new(&o);
        for (uint32_t i = 0; i < 20; i++) { /* fills all slots, then takes some anew */
            fill(tokens, 100, 1000 * torn + i);
            (void)serve(s, 1, tokens, T + 3);
            assert_true(kv_flush(s, 10000000));
        }
        atomic_store(&shim.torn_bytes, torn);
        atomic_store(&shim.every, 2);
        atomic_store(&shim.fault, SHIM_TORN);
        for (uint32_t i = 0; i < 8; i++) {
            fill(tokens, 100, 1000 * torn + 100 + i);
            (void)serve(s, 1, tokens, T + 3);
            assert_true(kv_flush(s, 10000000));
        }
        kv_store_destroy(s);
        o.disk.hook = NULL;
        s = store_new(&o);
        for (uint32_t i = 0; i < 8; i++) {
            fill(tokens, 100, 1000 * torn + 100 + i);
            uint32_t n = serve(s, 1, tokens, T + 3);
            n_kept += n > 0;
            n_lost += n == 0;
        }
        kv_store_destroy(s);
        fresh_dir(state);
    }
    print_message("torn: %u chunks kept, %u lost\n", n_kept, n_lost);
    assert_true(n_kept > 10 && n_lost > 10);
}

/* A random load on a small RAM and a small disk; every hit is verified, the store checked after
 * each request. Returns tokens hit. */
static uint64_t load(struct kv_store *s, uint32_t n_request, uint64_t seed)
{
    int32_t tokens[120];
    uint64_t rng = seed;
    uint64_t n_hit = 0;
    for (uint32_t i = 0; i < n_request; i++) {
        uint64_t r = rng_next(&rng);
        uint32_t n_same = (uint32_t)(r >> 8) % 60;
        fill(tokens, 120, r % 7);
        fill(tokens + n_same, 120 - n_same, r % 7 + (r >> 20) % 5 * 100);
        n_hit += serve(s, r % 2, tokens, 1 + (uint32_t)(r >> 40) % 119);
        if (r >> 63) {
            (void)kv_flush(s, 5000);
        }
    }
    return n_hit;
}

static void faulty(enum kv_backend backend)
{
    static const char *const names[SHIM_N_FAULT] = {"none",   "EIO",        "ENOSPC",   "short",
                                                    "EAGAIN", "slow",       "never",    "flip",
                                                    "torn",   "no payload", "no header"};
    for (int fault = SHIM_NONE; fault < SHIM_N_FAULT; fault++) {
        static struct shim shim;
        struct kv_io_hook hook = {shim_wrap, &shim};
        struct kv_options o = options_of(40, 120);
        o.disk.backend = backend;
        o.disk.hook = &hook;
        wait_us_max = 1000000;
        o.disk.io_timeout_us = fault == SHIM_NEVER ? 20000 : 1000000 * SLOW;
        atomic_store(&shim.n_fault, 0);
        atomic_store(&shim.torn_bytes, 1500);
        atomic_store(&shim.every, fault == SHIM_NEVER ? 40 / (SLOW > 1 ? 2 : 1) : 3);
        atomic_store(&shim.fault, fault);
        struct kv_store *s = store_new(&o);
        uint64_t n_hit = load(s, SLOW > 1 ? 60 : 120, 77);
        struct kv_stats st = stats_of(s);
        print_message("  %-10s %4u faults: %6llu hits, %3llu corrupt, %3llu errors, %2llu late%s\n",
                      names[fault], atomic_load(&shim.n_fault), (unsigned long long)n_hit,
                      (unsigned long long)st.n_disk_corrupt, (unsigned long long)st.n_disk_error,
                      (unsigned long long)st.n_disk_late, st.disk_is_paused ? ", paused" : "");
        assert_true(fault == SHIM_NONE || atomic_load(&shim.n_fault) > 0);
        kv_store_destroy(s);
        o.disk.hook = NULL;
        s = store_new(&o); /* and what was left on disk is right or missed, too */
        (void)load(s, 40 / SLOW + 4, 78);
        kv_store_destroy(s);
        (void)fresh_dir(NULL);
    }
}

static void test_faults(void **state)
{
    (void)state;
    print_message("pread:\n");
    faulty(KV_BACKEND_PREAD);
    print_message("default backend:\n");
    faulty(KV_BACKEND_AUTO);
}

/* A disk that only fails is left alone after a few tries, and used again after a pause. */
static void test_circuit_breaker(void **state)
{
    (void)state;
    static struct shim shim;
    struct kv_io_hook hook = {shim_wrap, &shim};
    struct kv_options o = options_of(40, 120);
    o.disk.hook = &hook;
    atomic_store(&shim.every, 1);
    atomic_store(&shim.fault, SHIM_EIO);
    struct kv_store *s = store_new(&o);
    (void)load(s, 30, 5);
    for (int i = 0; i < 2000 && !stats_of(s).disk_is_paused; i++) {
        kv_poll(s);
        clock_sleep_us(100);
    }
    assert_true(stats_of(s).disk_is_paused);
    uint32_t n_op = atomic_load(&shim.n_op);
    uint64_t n_busy = KV_N_JOB;
    (void)load(s, 30, 6);
    assert_true(atomic_load(&shim.n_op) <= n_op + n_busy);
    atomic_store(&shim.fault, SHIM_NONE);
    s->spill.closed_until_us = 0; /* the pause is over */
    (void)load(s, 30, 7);
    assert_true(kv_flush(s, 10000000));
    assert_false(stats_of(s).disk_is_paused);
    assert_true(stats_of(s).n_slot_used > 0);
    kv_store_destroy(s);
}

/* A pin set before or after a chunk was written holds its slot after a restart, too; let go, it no
 * longer does. What was to be forgotten is. */
static void test_pins_survive_restart(void **state)
{
    (void)state;
    struct kv_options o = options_of(40, 60);
    struct kv_identity id = kv_model_identity(1);
    int32_t tokens[100];
    struct kv_store *s = store_new(&o);
    for (uint32_t i = 0; i < 3; i++) {
        fill(tokens, 100, i);
        if (i == 0) {
            (void)serve(s, 1, tokens, 5 * T);
            assert_int_equal(kv_pin(s, &id, tokens, 5 * T, KV_PIN_FOR_GOOD), 5 * T);
        }
        (void)serve(s, 1, tokens, 5 * T);
        assert_true(kv_flush(s, 10000000));
        if (i > 0) {
            assert_int_equal(kv_pin(s, &id, tokens, 5 * T, s->now_s + 1000), 5 * T);
        }
    }
    assert_int_equal(kv_unpin(s, &id, tokens, 5 * T), 5 * T);
    fill(tokens, 100, 3);
    (void)serve(s, 1, tokens, 5 * T);
    assert_true(kv_flush(s, 10000000));
    for (uint32_t i = 0; i < s->index.n_node_max; i++) { /* the fourth's time is over */
        struct kv_node *n = &s->index.nodes[i];
        if (n->state == KV_NODE_SEALED && n->kept_until_s == 0 && n->depth == 4 &&
            memcmp(kv_index_tokens(&s->index, i), tokens + 4 * T, T * sizeof *tokens) == 0) {
            kv_node_set_times(s, i, 0, s->now_s - 1);
            kv_spill_want_mark(s, i);
        }
    }
    assert_true(kv_flush(s, 10000000));
    kv_store_destroy(s);
    s = store_new(&o);
    check(s);
    assert_int_equal(stats_of(s).n_slot_pinned, 10);
    fill(tokens, 100, 3);
    assert_int_equal(serve(s, 1, tokens, 5 * T + 1), 4 * T);
    for (uint32_t i = 0; i < 30; i++) {
        fill(tokens, 100, 100 + i);
        (void)serve(s, 1, tokens, 60);
        assert_true(kv_flush(s, 10000000));
    }
    for (uint32_t i = 0; i < 3; i++) {
        fill(tokens, 100, i);
        assert_int_equal(serve(s, 1, tokens, 5 * T + 1), i < 2 ? 5 * T : 0);
    }
    kv_store_destroy(s);
}

/* Chunks in RAM that are not on disk. */
static uint32_t n_unwritten(const struct kv_store *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->index.n_node_max; i++) {
        const struct kv_node *node = &s->index.nodes[i];
        n += node->state == KV_NODE_SEALED && node->frame != KV_FRAME_NONE &&
             node->slot == KV_SLOT_NONE;
    }
    return n;
}

/* The disk hangs for longer than it may: requests go on, the disk is left alone; when it answers
 * again it is used again, and what was not written meanwhile is. */
static void stall(enum kv_backend backend)
{
    static struct shim shim;
    struct kv_io_hook hook = {shim_wrap, &shim};
    struct kv_options o = options_of(80, 400);
    o.disk.hook = &hook;
    o.disk.backend = backend;
    o.disk.io_timeout_us = 50000 * SLOW;
    atomic_store(&shim.fault, SHIM_NONE);
    struct kv_store *s = store_new(&o);
    (void)load(s, 40, 5);
    (void)kv_flush(s, 10000000);
    for (uint32_t round = 0; round < 2; round++) {
        atomic_store(&shim.n_fault, 0);
        atomic_store(&shim.fault, SHIM_STALL);
        uint64_t until = clock_mono_us() + 200000 * SLOW;
        for (uint32_t i = 0; clock_mono_us() < until; i++) {
            int32_t tokens[60];
            fill(tokens, 60, 1000 + 1000 * round + i % 4);
            (void)serve(s, 1, tokens, 60);
        }
        struct kv_stats st = stats_of(s);
        assert_true(atomic_load(&shim.n_fault) > 0 && st.n_disk_late > 0);
        assert_true(s->spill.closed_for_us > 0);
        atomic_store(&shim.fault, SHIM_NONE);
        for (int i = 0; i < 20000 && (s->spill.closed_for_us > 0 || n_unwritten(s) > 0); i++) {
            kv_poll(s);
            check(s);
            clock_sleep_us(1000);
        }
        assert_int_equal(s->spill.closed_for_us, 0);
        assert_int_equal(n_unwritten(s), 0);
        assert_int_equal(s->spill.n_late, 0);
        assert_int_equal(stats_of(s).n_frame_writing + stats_of(s).n_frame_loading, 0);
    }
    kv_store_destroy(s);
    o.disk.hook = NULL;
    s = store_new(&o);
    uint64_t n_hit = load(s, 40, 5);
    print_message("%u operations stalled; %llu tokens hit afterwards\n", atomic_load(&shim.n_fault),
                  (unsigned long long)n_hit);
    assert_true(n_hit > 0);
    kv_store_destroy(s);
}

static void test_stall_recovers(void **state)
{
    stall(KV_BACKEND_PREAD);
    fresh_dir(state);
    stall(KV_BACKEND_AUTO);
}

static void test_directory_removed(void **state)
{
    (void)state;
    struct kv_options o = options_of(40, 300);
    struct kv_store *s = store_new(&o);
    (void)load(s, 20, 1);
    dir_delete(base_dir);
    (void)load(s, 100, 2); /* which fails if anything does */
    kv_store_destroy(s);
    s = store_new(&o); /* made anew */
    (void)load(s, 10, 1);
    kv_store_destroy(s);
}

static void test_killed_under_load(void **state)
{
    (void)state;
    enum { N_KILL = 150 / SLOW };
    uint64_t rng = 99;
    uint64_t n_hit = 0;
    uint32_t n_found = 0;
    struct kv_options o = options_of(40, 120);
    for (uint32_t i = 0; i < N_KILL; i++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            struct kv_store *s = NULL;
            if (kv_store_create(&o, &s, NULL)) {
                _exit(1);
            }
            (void)load(s, 1000000, i);
            _exit(0);
        }
        clock_sleep_us(3000 * SLOW + rng_next(&rng) % (25000 * SLOW));
        int status = 0;
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status)); /* it did not end by itself, by an error */
        struct kv_store *s = store_new(&o);
        check(s);
        n_found += (uint32_t)stats_of(s).n_slot_used;
        n_hit += load(s, 4, i); /* the child's first requests: every hit is verified */
        assert_int_equal(stats_of(s).n_disk_error, 0);
        kv_store_destroy(s);
    }
    print_message("%d kills: %u slots found again, %llu tokens hit\n", N_KILL, n_found,
                  (unsigned long long)n_hit);
    assert_true(n_hit > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crc32c),
        cmocka_unit_test_setup_teardown(test_survives_restart, fresh_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_cap_and_eviction, fresh_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_encrypted, fresh_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_stores_share_a_cap, fresh_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_second_process_waits_for_the_lock, fresh_dir,
                                        drop_dir),
        cmocka_unit_test_setup_teardown(test_flipped_bits, fresh_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_torn_writes, fresh_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_faults, fresh_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_circuit_breaker, fresh_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_pins_survive_restart, fresh_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_stall_recovers, fresh_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_directory_removed, fresh_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_killed_under_load, fresh_dir, drop_dir),
    };
    log_init(LOG_LEVEL_WARN, false);
    return cmocka_run_group_tests_name("kvstore disk", tests, NULL, NULL);
}
