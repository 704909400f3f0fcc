/* The checks on a request's line and headers, the route table, and the API keys. */
#include "server/auth.h"
#include "server/headers.h"
#include "server/routes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define N_HEADER_MAX 4

struct head_case {
    const char *version;
    const char *headers[N_HEADER_MAX][2];
    int status; /* 0: good */
};

static const struct head_case heads[] = {
    {"HTTP/1.1", {{"Host", "a"}}, 0},
    {"HTTP/1.1", {{"host", "a"}, {"content-length", "12"}}, 0},
    {"HTTP/1.1", {{"Host", "a"}, {"Transfer-Encoding", "chunked"}}, 0},
    {"HTTP/1.1", {{"Host", "a"}, {"transfer-encoding", "CHUNKED"}}, 0},
    {"HTTP/1.0", {{NULL, NULL}}, 0},
    {"HTTP/1.1", {{"X", "1"}}, 400}, /* no Host */
    {"HTTP/1.1", {{"Host", "a"}, {"Host", "b"}}, 400},
    {"HTTP/1.1", {{"Host", "a"}, {"Content-Length", "1"}, {"Content-Length", "2"}}, 400},
    {"HTTP/1.1", {{"Host", "a"}, {"Content-Length", "1"}, {"Content-Length", "1"}}, 400},
    {"HTTP/1.1", {{"Host", "a"}, {"Content-Length", "1, 2"}}, 400},
    {"HTTP/1.1", {{"Host", "a"}, {"Content-Length", "-1"}}, 400},
    {"HTTP/1.1", {{"Host", "a"}, {"Content-Length", "+1"}}, 400},
    {"HTTP/1.1", {{"Host", "a"}, {"Content-Length", "0x10"}}, 400},
    {"HTTP/1.1", {{"Host", "a"}, {"Content-Length", ""}}, 400},
    {"HTTP/1.1", {{"Host", "a"}, {"Content-Length", "99999999999999999999999"}}, 400},
    {"HTTP/1.1", {{"Host", "a"}, {"Content-Length", "5"}, {"Transfer-Encoding", "chunked"}}, 400},
    {"HTTP/1.1", {{"Host", "a"}, {"Transfer-Encoding", "gzip, chunked"}}, 400},
    {"HTTP/1.1", {{"Host", "a"}, {"Transfer-Encoding", "identity"}}, 400},
    {"HTTP/1.1", {{"Host", "a"}, {"Transfer-Encoding", "xchunked"}}, 400},
    {"HTTP/1.1", {{"Host", "a"}, {"Transfer-Encoding", ""}}, 400},
    {"HTTP/1.1",
     {{"Host", "a"}, {"Transfer-Encoding", "chunked"}, {"Transfer-Encoding", "chunked"}},
     400},
    {"HTTP/1.0", {{"Transfer-Encoding", "chunked"}}, 400},
    {"HTTP/1.1", {{"Host", "a"}, {"Transfer-Encoding ", "chunked"}}, 400}, /* space before ':' */
    {"HTTP/1.1", {{"Host", "a"}, {"X Y", "1"}}, 400},
    {"HTTP/1.1", {{"Host", "a"}, {"", "1"}}, 400},
    {"HTTP/1.1", {{"Host", "a"}, {"X", "a\rb"}}, 400},
    {"HTTP/1.1", {{"Host", "a"}, {"X", "a\x01"}}, 400},
};

static void test_heads(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        struct srv_headers h = {0};
        struct srv_fail f = {0};
        for (size_t k = 0; k < N_HEADER_MAX && heads[i].headers[k][0]; k++) {
            srv_headers_take(&h, heads[i].headers[k][0], heads[i].headers[k][1]);
        }
        bool good = srv_headers_check(&h, heads[i].version, &f);
        if (good != !heads[i].status || f.status != heads[i].status) {
            fail_msg("case %zu: %s", i, good ? "accepted" : f.message);
        }
    }
    struct srv_headers h = {0};
    struct srv_fail f = {0};
    char *large = calloc(1, SRV_HEADER_BYTES_MAX + 1);
    assert_non_null(large);
    memset(large, 'x', SRV_HEADER_BYTES_MAX);
    srv_headers_take(&h, "Host", "a");
    srv_headers_take(&h, "X", large);
    assert_false(srv_headers_check(&h, "HTTP/1.1", &f));
    assert_int_equal(f.status, 431);
    free(large);
}

static void test_content_types(void **state)
{
    (void)state;
    static const struct {
        const char *value;
        bool json;
    } cases[] = {{"application/json", true},
                 {"Application/JSON", true},
                 {"application/json; charset=utf-8", true},
                 {"application/jsonx", false},
                 {"text/plain", false},
                 {"application/x-www-form-urlencoded", false},
                 {"", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct srv_headers h = {0};
        srv_headers_take(&h, "Content-Type", cases[i].value);
        assert_int_equal(h.json_body, cases[i].json);
    }
}

static void test_uris(void **state)
{
    (void)state;
    struct srv_fail f = {0};
    char large[SRV_URI_BYTES_MAX + 2];
    assert_true(srv_uri_check("/v1/models/a%2Fb?x=1", &f));
    assert_false(srv_uri_check("/a b", &f));
    assert_false(srv_uri_check("/a\tb", &f));
    assert_false(srv_uri_check("/caf\xc3\xa9", &f));
    assert_false(srv_uri_check("*", &f));
    assert_false(srv_uri_check("http://x/v1/models", &f));
    assert_false(srv_uri_check("", &f));
    memset(large, '/', sizeof large - 1);
    large[sizeof large - 1] = 0;
    assert_false(srv_uri_check(large, &f));
    assert_int_equal(f.status, 414);
    assert_true(srv_request_id_ok("a-B_9.z"));
    assert_false(srv_request_id_ok(""));
    assert_false(srv_request_id_ok("a b"));
    assert_false(srv_request_id_ok("a\r\nSet-Cookie: x"));
}

static void test_routes(void **state)
{
    (void)state;
    assert_int_equal(srv_route_find("/v1/models")->action, SRV_ACTION_MODELS);
    assert_int_equal(srv_route_find("/v1/models/a/b")->action, SRV_ACTION_MODEL);
    assert_null(srv_route_find("/v1/models/"));
    assert_null(srv_route_find("/v1/model"));
    assert_null(srv_route_find("/V1/models"));
    assert_null(srv_route_find("/%76%31/models"));
    assert_null(srv_route_find("//v1/models"));
    assert_null(srv_route_find("/v1/../metrics"));
    assert_null(srv_route_find("/health/"));
    size_t n_open = 0;
    for (size_t i = 0; i < srv_n_route; i++) {
        n_open += srv_routes[i].open;
    }
    assert_int_equal(n_open, 2); /* /health and /ready; every other one needs a key */
}

static char *temp_file(const char *text)
{
    char *path = strdup("/tmp/kvasir-keys-XXXXXX");
    assert_non_null(path);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    (void)close(fd);
    return path;
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void check_key(struct srv_auth *a, const char *authorization, const char *api_key,
                      const char *tenant)
{
    char got[SRV_TENANT_MAX + 1] = "untouched";
    bool good = srv_auth_check(a, authorization, api_key, got);
    assert_int_equal(good, tenant != NULL);
    assert_string_equal(got, tenant ? tenant : "untouched");
}

static void test_auth(void **state)
{
    (void)state;
    /* SHA-256 of "hidden" */
    char *path = temp_file(
        "# keys\n\nalice:sk-alice-1\nsk-plain\n  bob:sk-bob\r\n"
        "carol:sha256:e564b4081d7a9ea4b00dada53bdae70c99b87b6fce869f0c3dd4d2bfa1e53e1c\n");
    struct srv_auth *a = NULL;
    struct err e = {0};
    assert_int_equal(srv_auth_create(path, &a, &e), ERR_OK);
    check_key(a, "Bearer sk-alice-1", NULL, "alice");
    check_key(a, "bearer  sk-bob", NULL, "bob");
    check_key(a, NULL, "sk-bob", "bob");
    check_key(a, "Bearer hidden", NULL, "carol");
    check_key(a, "Bearer sk-alice-", NULL, NULL);
    check_key(a, "Bearer sk-alice-11", NULL, NULL);
    check_key(a, "Bearer alice:sk-alice-1", NULL, NULL);
    check_key(a, "Basic sk-alice-1", NULL, NULL);
    check_key(a, "Bearer ", NULL, NULL);
    check_key(a, "Bearer", NULL, NULL);
    check_key(a, NULL, NULL, NULL);
    check_key(a, NULL, "", NULL);
    check_key(a, "Bearer e564b4081d7a9ea4b00dada53bdae70c99b87b6fce869f0c3dd4d2bfa1e53e1c", NULL,
              NULL); /* the digest is no key */
    char tenant[SRV_TENANT_MAX + 1];
    assert_true(srv_auth_check(a, "Bearer sk-plain", NULL, tenant));
    assert_int_equal(strncmp(tenant, "key-", 4), 0);

    write_file(path, "dave:new\n");
    assert_int_equal(srv_auth_reload(a, &e), ERR_OK);
    check_key(a, "Bearer new", NULL, "dave");
    check_key(a, "Bearer sk-bob", NULL, NULL);
    write_file(path, "# nothing\n");
    assert_int_equal(srv_auth_reload(a, &e), ERR_INVALID);
    check_key(a, "Bearer new", NULL, "dave"); /* a broken file changes nothing */
    srv_auth_destroy(a);
    (void)unlink(path);
    assert_int_equal(srv_auth_create(path, &a, &e), ERR_IO);
    free(path);

    assert_int_equal(srv_auth_create(NULL, &a, &e), ERR_OK);
    check_key(a, NULL, NULL, "");
    srv_auth_destroy(a);
}

static void test_bad_key_files(void **state)
{
    (void)state;
    static const char *const files[] = {"a b:key\n",   "name:\n",         "name:two words\n",
                                        "sha256:zz\n", "x:sha256:0123\n", ""};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char *path = temp_file(files[i]);
        struct srv_auth *a = NULL;
        struct err e = {0};
        assert_int_equal(srv_auth_create(path, &a, &e), ERR_INVALID);
        assert_non_null(strstr(e.msg, path));
        (void)unlink(path);
        free(path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_heads), cmocka_unit_test(test_content_types),
        cmocka_unit_test(test_uris),  cmocka_unit_test(test_routes),
        cmocka_unit_test(test_auth),  cmocka_unit_test(test_bad_key_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
