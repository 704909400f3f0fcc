#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"
#include "base/host.h"
#include "base/mpsc.h"
#include "base/rng.h"
#include "base/smap.h"
#include "base/units.h"
#include "base/utf8.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void test_err_cuts_at_a_character(void **state)
{
    (void)state;
    struct err e;
    char text[2 * sizeof e.msg] = {0};
    for (size_t i = 0; i + 2 < sizeof text; i += 2) {
        memcpy(text + i, "\xc3\xa9", 2);
    }
    for (int shift = 0; shift < 2; shift++) {
        assert_int_equal(err_set(&e, ERR_INVALID, "%s%s", shift ? "x" : "", text), ERR_INVALID);
        assert_true(utf8_valid(e.msg, strlen(e.msg)));
        assert_true(strlen(e.msg) >= sizeof e.msg - 3);
    }
}

/* Every code point round-trips; everything RFC 3629 forbids is refused. */
static void test_utf8_all_scalars(void **state)
{
    (void)state;
    for (uint32_t cp = 0; cp <= 0x110000; cp++) {
        char c[4];
        uint32_t back = UINT32_MAX;
        size_t n = utf8_encode(cp, c);
        bool scalar = cp < 0x110000 && (cp < 0xd800 || cp > 0xdfff);
        assert_int_equal(utf8_decode(c, n, &back), scalar ? n : 0);
        assert_int_equal(back, scalar ? cp : UINT32_MAX);
        for (size_t k = 1; scalar && k < n; k++) {
            assert_int_equal(utf8_incomplete_tail(c, k), k);
        }
        assert_int_equal(scalar ? utf8_incomplete_tail(c, n) : 0, 0);
    }
    assert_int_equal(utf8_valid_prefix("ab\xc0\x80", 4), 2);
    assert_int_equal(utf8_incomplete_tail("\xe0\x80", 2), 0);
    assert_int_equal(utf8_incomplete_tail("a\xf0\x9f\x98", 4), 3);
    assert_int_equal(utf8_incomplete_tail("\x80\x80\x80", 3), 0);
}

static void test_buf_json(void **state)
{
    (void)state;
    struct buf b = {0};
    buf_json_string(&b, "a\"\\\n\x01\xff\xc3\xa9", 8);
    assert_string_equal(buf_str(&b), "\"a\\\"\\\\\\n\\u0001\xef\xbf\xbd\xc3\xa9\"");
    uint64_t seed = 7;
    for (int i = 0; i < 20000; i++) {
        uint32_t bits = (uint32_t)rng_next(&seed);
        float v;
        memcpy(&v, &bits, sizeof v);
        buf_clear(&b);
        buf_json_f32(&b, v);
        if (isfinite(v)) {
            assert_true(strtof(buf_str(&b), NULL) == v);
        } else {
            assert_string_equal(buf_str(&b), "null");
        }
    }
    buf_clear(&b);
    assert_null(buf_reserve(&b, SIZE_MAX / 2));
    buf_puts(&b, "lost");
    assert_false(buf_ok(&b));
    assert_int_equal(b.len, 0);
    buf_free(&b);
}

static void test_smap_grows(void **state)
{
    (void)state;
    enum { N = 5000 };
    static char keys[N][8];
    struct smap m;
    struct err e;
    assert_int_equal(smap_init(&m, 2, &e), ERR_OK);
    for (uint32_t i = 0; i < N; i++) {
        bool is_new = false;
        (void)snprintf(keys[i], sizeof keys[i], "k%u", i);
        assert_int_equal(smap_put(&m, keys[i], strlen(keys[i]), i, &is_new, &e), ERR_OK);
        assert_true(is_new);
    }
    bool is_new = true;
    assert_int_equal(smap_put(&m, "k7", 2, 99, &is_new, &e), ERR_OK);
    assert_false(is_new);
    for (uint32_t i = 0; i < N; i++) {
        uint32_t v = UINT32_MAX;
        assert_true(smap_get(&m, keys[i], strlen(keys[i]), &v));
        assert_int_equal(v, i);
    }
    uint32_t v = 0;
    assert_false(smap_get(&m, "none", 4, &v));
    smap_finish(&m);
    assert_false(smap_get(&m, "k1", 2, &v));
}

static void test_units(void **state)
{
    (void)state;
    struct err e;
    uint64_t v = 0;
    char out[32];
    assert_int_equal(units_parse_bytes("1.5G", &v, &e), ERR_OK);
    assert_int_equal(v, 3ULL << 29);
    assert_int_equal(units_parse_bytes("64KiB", &v, &e), ERR_OK);
    assert_int_equal(v, 65536);
    assert_int_equal(units_parse_bytes("12", &v, &e), ERR_OK);
    assert_int_equal(v, 12);
    static const char *const bad[] = {"",         "-1",  "G",   "1X",   "1e400",
                                      "9999999T", "1 G", "nan", "0x10Q"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(units_parse_bytes(bad[i], &v, &e), ERR_INVALID);
        assert_int_equal(v, 12);
    }
    assert_string_equal(units_format_bytes(3ULL << 29, out, sizeof out), "1.50 GiB");
    assert_false(units_mul(1ULL << 33, 1ULL << 31, &v));
    assert_false(units_add(UINT64_MAX, 1, &v));
}

static void test_mpsc(void **state)
{
    (void)state;
    struct mpsc *q = NULL;
    struct err e;
    int items[3];
    assert_int_equal(mpsc_create(2, &q, &e), ERR_OK);
    assert_true(mpsc_push(q, &items[0]));
    assert_true(mpsc_push(q, &items[1]));
    assert_false(mpsc_push(q, &items[2]));
    assert_ptr_equal(mpsc_pop(q, 0), &items[0]);
    assert_true(mpsc_push(q, &items[2]));
    mpsc_close(q);
    assert_false(mpsc_push(q, &items[0]));
    assert_ptr_equal(mpsc_pop(q, 1000), &items[1]);
    assert_ptr_equal(mpsc_pop(q, 1000), &items[2]);
    assert_null(mpsc_pop(q, 1000000));
    mpsc_destroy(q);
}

static void test_host_and_rng(void **state)
{
    (void)state;
    assert_true(host_cores() >= 1);
    assert_true(host_free_bytes() > 0);
    assert_true(host_rss_bytes() > 0);
    double sum = 0;
    for (uint64_t i = 0; i < 10000; i++) {
        double u = rng_unit(42, i);
        assert_true(u >= 0 && u < 1);
        sum += u;
    }
    assert_true(fabs(sum / 10000 - 0.5) < 0.02);
    assert_true(rng_mix(1, 2) != rng_mix(2, 1));
    assert_true(rng_mix(1, 2) == rng_mix(1, 2));
}

static void test_file_read(void **state)
{
    (void)state;
    char path[] = "/tmp/kvasir-test-file-XXXXXX";
    int fd = mkstemp(path);
    char block[4096];
    memset(block, 'x', sizeof block);
    assert_true(fd >= 0);
    for (int i = 0; i < 33; i++) { /* more than one step of the reader */
        assert_int_equal(write(fd, block, sizeof block), sizeof block);
    }
    (void)close(fd);
    struct buf b = {0};
    struct err e;
    assert_int_equal(file_read(path, "", 33 * sizeof block, &b, &e), ERR_OK);
    assert_int_equal(b.len, 33 * sizeof block);
    assert_int_equal(strlen(b.data), b.len);
    buf_clear(&b);
    assert_int_equal(file_read(path, "text", 33 * sizeof block - 1, &b, &e), ERR_LIMIT);
    assert_non_null(strstr(e.msg, "text /tmp/kvasir-test-file-"));
    assert_int_equal(file_read("/tmp", "", 1, &b, &e), ERR_IO);
    (void)unlink(path);
    assert_int_equal(file_read(path, "text", 1, &b, &e), ERR_NOT_FOUND);
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_err_cuts_at_a_character),
        cmocka_unit_test(test_utf8_all_scalars),
        cmocka_unit_test(test_buf_json),
        cmocka_unit_test(test_smap_grows),
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_mpsc),
        cmocka_unit_test(test_host_and_rng),
        cmocka_unit_test(test_file_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
