/* The strict JSON check, against the classes of texts of JSONTestSuite (Seriot, "Parsing JSON is a
 * minefield") and our own limits. Everything accepted must also be read by cJSON. */
#include "base/buf.h"
#include "server/json_check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#define TEXT(LITERAL)                                                                              \
    {                                                                                              \
        LITERAL, sizeof LITERAL - 1                                                                \
    }

struct text {
    const char *s;
    size_t n;
};

static const struct text good[] = {
    TEXT("{}"),
    TEXT("[]"),
    TEXT(" [ ] "),
    TEXT("\t{\r\n}\n"),
    TEXT("null"),
    TEXT("true"),
    TEXT("false"),
    TEXT("\"\""),
    TEXT("0"),
    TEXT("-0"),
    TEXT("-0.0"),
    TEXT("1"),
    TEXT("123"),
    TEXT("0e1"),
    TEXT("0e+1"),
    TEXT("1E-2"),
    TEXT("1.5E+2"),
    TEXT("20e1"),
    TEXT("-123.456e-7"),
    TEXT("1e308"),
    TEXT("1e-400"),
    TEXT("123456789012345678901234567890"),
    TEXT("0.000000000000000000000000000000000000000000001"),
    TEXT("[1,2,3]"),
    TEXT("[[],{}]"),
    TEXT("[[[[[]]]]]"),
    TEXT("[null,true,false]"),
    TEXT("{\"a\":1}"),
    TEXT("{\"a\":{\"a\":1}}"),
    TEXT("[{\"a\":1},{\"a\":2}]"),
    TEXT("{\"\":0}"),
    TEXT("{\"a\":[],\"b\":{}}"),
    TEXT("{\"a\" : 1 , \"b\" : [ 1 , 2 ] }"),
    TEXT("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""),
    TEXT("\"\\u0060\\u012a\\u12AB\""),
    TEXT("\"\\uD801\\udc37\""),
    TEXT("\"\\ud83d\\ude39\\ud83d\\udc8d\""),
    TEXT("\"\\uFFFF\\uDBFF\\uDFFE\""),
    TEXT("\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\""),
    TEXT("\"\xe2\x80\xa8\xe2\x80\xa9\x7f\""),
    TEXT("\"\xf4\x8f\xbf\xbf\""),
    TEXT("\"asd \""),
    TEXT("{\"a\":\"b\",\"A\":\"b\"}"), /* keys that differ in case are two */
};

static const struct text bad[] = {
    TEXT(""),
    TEXT(" "),
    TEXT("\xef\xbb\xbf{}"),
    TEXT("\xef\xbb\xbf"),
    TEXT("{}x"),
    TEXT("{}{}"),
    TEXT("[]]"),
    TEXT("[] []"),
    TEXT("1 2"),
    TEXT("{} //"),
    TEXT("{/*c*/}"),
    TEXT("["),
    TEXT("]"),
    TEXT("{"),
    TEXT("}"),
    TEXT("[1"),
    TEXT("[1,"),
    TEXT("[1,]"),
    TEXT("[,1]"),
    TEXT("[1,,2]"),
    TEXT("[1 2]"),
    TEXT("[1:2]"),
    TEXT("[\"a\":1]"),
    TEXT("[}"),
    TEXT("{]"),
    TEXT("{\"a\"}"),
    TEXT("{\"a\":}"),
    TEXT("{\"a\":1,}"),
    TEXT("{,\"a\":1}"),
    TEXT("{\"a\":1 \"b\":2}"),
    TEXT("{\"a\" 1}"),
    TEXT("{a:1}"),
    TEXT("{'a':1}"),
    TEXT("{1:1}"),
    TEXT("{null:1}"),
    TEXT("{\"a\":1"),
    TEXT("{\"a\":1]"),
    TEXT("{\"a\":1,\"a\":2}"),
    TEXT("{\"a\":1,\"\\u0061\":2}"),
    TEXT("{\"b\":0,\"a\":{\"x\":1,\"y\":2,\"x\":3}}"),
    TEXT("{\"\":1,\"\":2}"),
    TEXT("01"),
    TEXT("-01"),
    TEXT("00"),
    TEXT("-"),
    TEXT("+1"),
    TEXT("1."),
    TEXT(".5"),
    TEXT("-.5"),
    TEXT("1.e1"),
    TEXT("1e"),
    TEXT("1e+"),
    TEXT("1eE2"),
    TEXT("1e2.5"),
    TEXT("0x1"),
    TEXT("1_000"),
    TEXT("1a"),
    TEXT("- 1"),
    TEXT("--1"),
    TEXT("NaN"),
    TEXT("-NaN"),
    TEXT("Infinity"),
    TEXT("-Infinity"),
    TEXT("inf"),
    TEXT("1e309"),
    TEXT("-1e309"),
    TEXT("1e99999999999999999999"),
    TEXT("nul"),
    TEXT("nulL"),
    TEXT("True"),
    TEXT("truefalse"),
    TEXT("undefined"),
    TEXT("\""),
    TEXT("\"a"),
    TEXT("\"\\\""),
    TEXT("\"\\"),
    TEXT("\"\\x41\""),
    TEXT("\"\\a\""),
    TEXT("\"\\'\""),
    TEXT("\"\\u12\""),
    TEXT("\"\\u123"),
    TEXT("\"\\u12G4\""),
    TEXT("\"\\U0041\""),
    TEXT("\"\\u0000\""),
    TEXT("\"a\\u0000b\""),
    TEXT("{\"a\\u0000\":1}"),
    TEXT("\"\\ud800\""),
    TEXT("\"\\ud800\\n\""),
    TEXT("\"\\ud800\\u0041\""),
    TEXT("\"\\ud800\\ud800\""),
    TEXT("\"\\udc00\""),
    TEXT("\"\\udc00\\ud800\""),
    TEXT("\"\\ud800\\"),
    TEXT("\"\\ud800\\u"),
    TEXT("\"\\ud800\\udc0\""),
    TEXT("\"\n\""),
    TEXT("\"\t\""),
    TEXT("\"\x1f\""),
    TEXT("\"\0\""),
    TEXT("[1]\0"),
    TEXT("\0"),
    TEXT("[\0]"),
    TEXT("\"\x80\""),
    TEXT("\"\xff\""),
    TEXT("\"\xc0\xaf\""),
    TEXT("\"\xe0\x80\xaf\""),
    TEXT("\"\xed\xa0\x80\""),
    TEXT("\"\xf4\x90\x80\x80\""),
    TEXT("\"\xf8\x88\x80\x80\x80\""),
    TEXT("\"\xe2\x82\""),
    TEXT("\"\xc3\""),
    TEXT("[\xc3\xa9]"),
    TEXT("[\"a\xc3\"]"),
    TEXT("\v[]"),
    TEXT("\f[]"),
    TEXT("\xc2\xa0[]"),
    TEXT("\xe2\x81\xa0[]"),
    TEXT("[\xe2\x81\xa0]"),
    TEXT("<html>"),
    TEXT("*"),
    TEXT("[*]"),
    TEXT("{\"a\":\"b\"}#"),
    TEXT("[\"x\", truth]"),
};

static enum err_code check(const struct text *t, struct err *e)
{
    char *copy = malloc(t->n + 1);
    assert_non_null(copy);
    memcpy(copy, t->s, t->n);
    copy[t->n] = 0;
    enum err_code code = srv_json_check(copy, t->n, e);
    if (code == ERR_OK) {
        cJSON *root = cJSON_ParseWithLength(copy, t->n);
        assert_non_null(root);
        cJSON_Delete(root);
    }
    free(copy);
    return code;
}

static void test_good(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct err e = {0};
        if (check(&good[i], &e) != ERR_OK) {
            fail_msg("refused %s: %s", good[i].s, e.msg);
        }
    }
}

static void test_bad(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e = {0};
        if (check(&bad[i], &e) != ERR_INVALID) {
            fail_msg("accepted number %zu: %s", i, bad[i].s);
        }
        assert_true(e.msg[0]);
    }
}

static void check_message(const char *s, const char *want)
{
    struct err e = {0};
    struct text t = {s, strlen(s)};
    assert_int_not_equal(check(&t, &e), ERR_OK);
    if (!strstr(e.msg, want)) {
        fail_msg("for %s: '%s' does not say '%s'", s, e.msg, want);
    }
}

static void test_messages(void **state)
{
    (void)state;
    check_message("{\"a\":01}", "byte 5: number with a leading zero");
    check_message("{\"a\":1} x", "byte 8: more text");
    check_message("{\"abc\":1,\"abc\":2}", "key \"abc\" is given twice");
    check_message("{\"\":5,\"\":0}", "key \"\" is given twice"); /* and no bytes of any key */
    check_message("{\"a\":\"\\ud800\"}", "byte 6: lone high surrogate");
    check_message("[1,2", "byte 4: expected ',' or ']'");
}

static void repeat(struct buf *b, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        buf_puts(b, s);
    }
}

static enum err_code check_buf(struct buf *b, struct err *e)
{
    assert_true(buf_ok(b));
    struct text t = {b->data, b->len};
    enum err_code code = check(&t, e);
    buf_clear(b);
    return code;
}

static void test_limits(void **state)
{
    (void)state;
    struct buf b = {0};
    struct err e = {0};
    repeat(&b, "[", SRV_JSON_DEPTH_MAX);
    repeat(&b, "]", SRV_JSON_DEPTH_MAX);
    assert_int_equal(check_buf(&b, &e), ERR_OK);
    repeat(&b, "[", SRV_JSON_DEPTH_MAX + 1);
    repeat(&b, "]", SRV_JSON_DEPTH_MAX + 1);
    assert_int_equal(check_buf(&b, &e), ERR_LIMIT);
    repeat(&b, "{\"a\":", SRV_JSON_DEPTH_MAX + 1);
    assert_int_equal(check_buf(&b, &e), ERR_LIMIT);
    repeat(&b, "[", 1000000); /* no recursion: a million brackets cost no stack */
    assert_int_equal(check_buf(&b, &e), ERR_LIMIT);

    buf_puts(&b, "[0");
    repeat(&b, ",0", SRV_JSON_NODE_MAX - 2); /* the array itself counts */
    buf_puts(&b, "]");
    assert_int_equal(check_buf(&b, &e), ERR_OK);
    buf_puts(&b, "[0");
    repeat(&b, ",0", SRV_JSON_NODE_MAX - 1);
    buf_puts(&b, "]");
    assert_int_equal(check_buf(&b, &e), ERR_LIMIT);

    buf_puts(&b, "{\"");
    repeat(&b, "k", SRV_JSON_KEY_MAX);
    buf_puts(&b, "\":1}");
    assert_int_equal(check_buf(&b, &e), ERR_OK);
    buf_puts(&b, "{\"");
    repeat(&b, "k", SRV_JSON_KEY_MAX + 1);
    buf_puts(&b, "\":1}");
    assert_int_equal(check_buf(&b, &e), ERR_LIMIT);

    repeat(&b, "9", 100000); /* a long number is no slow number */
    assert_int_equal(check_buf(&b, &e), ERR_INVALID);
    buf_free(&b);
}

static void test_many_keys(void **state)
{
    (void)state;
    struct buf b = {0};
    struct err e = {0};
    buf_puts(&b, "{\"k0\":0");
    for (int i = 1; i < 50000; i++) {
        buf_printf(&b, ",\"k%d\":0", i);
    }
    size_t n = b.len;
    buf_puts(&b, "}");
    assert_int_equal(check_buf(&b, &e), ERR_OK);
    b.len = n;
    buf_puts(&b, ",\"k25000\":1}");
    assert_int_equal(check_buf(&b, &e), ERR_INVALID);
    buf_free(&b);
}

/* Every prefix of a text that is whole only at its end is refused, and nothing is read beyond it:
 * the copy in check() is exactly as long. */
static void test_prefixes(void **state)
{
    (void)state;
    static const char whole[] =
        "{\"a\":[1.5e3,\"\\u00e9\\ud83d\\ude39\xc3\xa9\",true,null],\"b\":{}}";
    for (size_t n = 0; n < sizeof whole - 1; n++) {
        struct err e = {0};
        struct text t = {whole, n};
        assert_int_equal(check(&t, &e), ERR_INVALID);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),      cmocka_unit_test(test_bad),
        cmocka_unit_test(test_messages),  cmocka_unit_test(test_limits),
        cmocka_unit_test(test_many_keys), cmocka_unit_test(test_prefixes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
