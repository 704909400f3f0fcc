/* Stop strings and UTF-8 across token borders: however a byte string is cut into tokens, the same
 * text leaves, no character is split, and nothing that left is taken back. */
#include "base/rng.h"
#include "base/utf8.h"
#include "scheduler/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Feeds bytes[n] in pieces of at most n_piece_max by seed; returns the matched string or NULL. */
static const char *feed(const char *bytes, size_t n, const char *const *stops, uint32_t n_stop,
                        bool keep, size_t n_piece_max, uint64_t seed, struct buf *out)
{
    struct sch_text t;
    struct err e;
    assert_int_equal(sch_text_init(&t, stops, n_stop, keep, &e), ERR_OK);
    const char *matched = NULL;
    size_t i = 0;
    buf_clear(out);
    while (i < n && !matched) {
        size_t len = rng_next(&seed) % (n_piece_max + 1);
        len = len < n - i ? len : n - i;
        buf_append(&t.raw, bytes + i, len);
        i += len;
        if (sch_text_feed(&t, true)) {
            matched = stops[t.matched];
        }
        if (matched || i == n) {
            sch_text_flush(&t);
        }
        assert_true(sch_text_ok(&t));
        assert_true(utf8_valid(buf_str(&t.text), t.n_ready));
        buf_append(out, buf_str(&t.text), t.n_ready);
        sch_text_taken(&t);
    }
    sch_text_finish(&t);
    return matched;
}

static void expect(const char *bytes, const char *const *stops, uint32_t n_stop, bool keep,
                   const char *text, const char *matched)
{
    struct buf out = {0};
    for (uint64_t seed = 0; seed < 60; seed++) {
        const char *m = feed(bytes, strlen(bytes), stops, n_stop, keep, 1 + seed % 9, seed, &out);
        assert_string_equal(buf_str(&out), text);
        assert_true(matched ? m && !strcmp(m, matched) : !m);
    }
    buf_free(&out);
}

static void test_stop_strings(void **state)
{
    (void)state;
    static const char *const one[] = {"STOP"};
    expect("all is well", one, 1, false, "all is well", NULL);
    expect("now STOP there", one, 1, false, "now ", "STOP");
    expect("now STOP there", one, 1, true, "now STOP", "STOP");
    expect("now STO", one, 1, false, "now STO", NULL); /* held back, then let go at the end */
    expect("STSTSTOSTOP", one, 1, false, "STSTSTO", "STOP");
    expect("STOP", one, 1, false, "", "STOP");

    static const char *const nested[] = {"abcde", "bcd", "cdx"};
    expect("..abcdef", nested, 3, false, "..a", "bcd"); /* its last byte comes first */
    static const char *const same_end[] = {"cd", "abcd"};
    expect("..abcd", same_end, 2, false, "..", "abcd"); /* the longest of those that end there */
    static const char *const self[] = {"aab", "aaaa"};
    expect("xaaab", self, 2, false, "xa", "aab");
    expect("xaaaa", self, 2, true, "xaaaa", "aaaa");
    static const char *const wide[] = {"\xe6\x97\xa5\xe6\x9c\xac", "\xc3\xa9!"};
    expect("le caf\xc3\xa9!", wide, 2, false, "le caf", "\xc3\xa9!");
    expect("\xe6\x97\xa5\xe6\x97\xa5\xe6\x9c\xac", wide, 2, false, "\xe6\x97\xa5", wide[0]);
    expect("\xe6\x97\xa5\xe6\x9c\xab", wide, 2, false, "\xe6\x97\xa5\xe6\x9c\xab", NULL);
}

static void test_broken_utf8(void **state)
{
    (void)state;
    expect("a\xff"
           "b",
           NULL, 0, false,
           "a\xef\xbf\xbd"
           "b",
           NULL);
    expect("\xf0\x9f\x98\x80", NULL, 0, false, "\xf0\x9f\x98\x80", NULL);
    expect("x\xf0\x9f\x98", NULL, 0, false, "x\xef\xbf\xbd", NULL); /* one, at the end */
    expect("\xf0\x9f"
           "A",
           NULL, 0, false,
           "\xef\xbf\xbd"
           "A",
           NULL);
    expect("\xc0\xaf", NULL, 0, false, "\xef\xbf\xbd\xef\xbf\xbd", NULL);
    expect("\xed\xa0\x80", NULL, 0, false, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", NULL);
    /* Table 3-8 of Unicode 15, section 3.9. */
    expect("\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64", NULL, 0, false,
           "\x61\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\x62\xef\xbf\xbd\x63\xef\xbf\xbd\xef\xbf\xbd"
           "\x64",
           NULL);
}

static void test_limits(void **state)
{
    (void)state;
    const char *many[SCH_STOP_MAX + 1];
    for (int i = 0; i <= SCH_STOP_MAX; i++) {
        many[i] = "x";
    }
    struct sch_text t;
    struct err e;
    assert_int_equal(sch_text_init(&t, many, SCH_STOP_MAX + 1, false, &e), ERR_INVALID);
    many[3] = "";
    assert_int_equal(sch_text_init(&t, many, SCH_STOP_MAX, false, &e), ERR_INVALID);
    sch_text_finish(&t);
}

/* Few letters and short strings, so that everything overlaps; the whole fed at once is the
 * reference for every cutting, and a plain search for the whole. */
static void test_any_cutting(void **state)
{
    (void)state;
    static const char *const letters[] = {"a", "b", "\xc3\xa9", "\xe6\x97\xa5", "\xf0\x9f\x98\x80"};
    static const char raw_bytes[] = {'a',        (char)0xc3, (char)0xa9, (char)0x97, (char)0xf0,
                                     (char)0x9f, (char)0x98, (char)0x80, (char)0xe6};
    uint64_t seed = 77;
    struct buf whole = {0};
    struct buf cut = {0};
    uint32_t n_matched = 0;
    for (int round = 0; round < 30000; round++) {
        char stop_text[3][32] = {{0}};
        const char *stops[3];
        uint32_t n_stop = (uint32_t)(rng_next(&seed) % 4);
        for (uint32_t k = 0; k < n_stop; k++) {
            size_t n = 1 + rng_next(&seed) % 5;
            for (size_t i = 0; i < n; i++) {
                strcat(stop_text[k], letters[rng_next(&seed) % 5]);
            }
            stops[k] = stop_text[k];
        }
        struct buf bytes = {0};
        size_t n = 1 + rng_next(&seed) % 25;
        for (size_t i = 0; i < n; i++) {
            if (round % 3 == 0) {
                buf_putc(&bytes, raw_bytes[rng_next(&seed) % sizeof raw_bytes]);
            } else {
                buf_puts(&bytes, letters[rng_next(&seed) % (round % 2 ? 2 : 5)]);
            }
        }
        bool keep = rng_next(&seed) % 2;
        const char *want = feed(bytes.data, bytes.len, stops, n_stop, keep, 1000000, 1, &whole);
        for (uint64_t s = 0; s < 3; s++) {
            const char *got =
                feed(bytes.data, bytes.len, stops, n_stop, keep, 1 + s, seed + s, &cut);
            assert_ptr_equal(got, want);
            assert_string_equal(buf_str(&cut), buf_str(&whole));
        }
        for (uint32_t k = 0; k < n_stop && !want; k++) {
            assert_null(strstr(buf_str(&whole), stops[k]));
        }
        n_matched += want != NULL;
        if (want && !keep) { /* nothing before the match ends a stop string */
            for (uint32_t k = 0; k < n_stop; k++) {
                assert_null(strstr(buf_str(&whole), stops[k]));
            }
        }
        buf_free(&bytes);
    }
    assert_true(n_matched > 5000);
    buf_free(&whole);
    buf_free(&cut);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stop_strings),
        cmocka_unit_test(test_broken_utf8),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_any_cutting),
    };
    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
