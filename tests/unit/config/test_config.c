/* The option table: precedence, ranges, messages, the YAML file, and the sample that documents it.
 * `test_config --write FILE` writes the sample anew. */
#include "base/buf.h"
#include "config/option_table.h"
#include "config/options.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define N_ENV_MAX 8

struct fake_env {
    const char *names[N_ENV_MAX];
    const char *values[N_ENV_MAX];
};

static const char *fake_env(void *arg, const char *name)
{
    const struct fake_env *env = arg;
    for (size_t i = 0; i < N_ENV_MAX && env->names[i]; i++) {
        if (strcmp(env->names[i], name) == 0) {
            return env->values[i];
        }
    }
    return NULL;
}

static const char *env_of_file(void *arg, const char *name)
{
    return strcmp(name, "KVASIR_CONFIG") == 0 ? arg : NULL;
}

static enum err_code load(const char *const *args, struct fake_env *env, struct cfg *ret_cfg,
                          struct err *e)
{
    char *argv[16] = {(char *)(uintptr_t) "serve"};
    int argc = 1;
    for (; args[argc - 1]; argc++) {
        argv[argc] = (char *)(uintptr_t)args[argc - 1];
    }
    struct fake_env none = {0};
    bool help = false;
    return cfg_load(argc, argv, fake_env, env ? env : &none, ret_cfg, &help, e);
}

#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define NO_ARGS   ((const char *const[]){NULL})

static char *temp_file(const char *text)
{
    char *path = strdup("/tmp/kvasir-config-XXXXXX");
    assert_non_null(path);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    (void)close(fd);
    return path;
}

static void test_defaults(void **state)
{
    (void)state;
    struct cfg c = {0};
    struct err e = {0};
    assert_int_equal(load(NO_ARGS, NULL, &c, &e), ERR_OK);
    assert_string_equal(c.host, "127.0.0.1");
    assert_int_equal(c.port, 8080);
    assert_int_equal(c.kv_ram_bytes, 0);
    assert_int_equal(c.body_bytes_max, 8 << 20);
    assert_int_equal(c.log_level, CFG_LOG_INFO);
    assert_null(c.model);
    assert_null(cfg_isa_name(&c));
    assert_false(c.insecure_no_auth);
    cfg_finish(&c);
}

static void test_precedence(void **state)
{
    (void)state;
    struct err e = {0};
    struct cfg c = {0};
    char *path = temp_file("# mine\nport: 1001\nctx: 64\nkv-ram: 2G\nalias: 'a b'\n");
    struct fake_env env = {{"KVASIR_CONFIG", "KVASIR_PORT", "KVASIR_CTX"}, {path, "1002", "65"}};
    assert_int_equal(load(ARGS("--port", "1003", "--kv-type=bf16", "--access-log"), &env, &c, &e),
                     ERR_OK);
    assert_int_equal(c.port, 1003);             /* flag over environment and file */
    assert_int_equal(c.ctx_tok, 65);            /* environment over file */
    assert_int_equal(c.kv_ram_bytes, 2u << 30); /* file over default */
    assert_string_equal(c.alias, "a b");
    assert_int_equal(c.kv_type, CFG_KV_BF16);
    assert_true(c.access_log);
    cfg_finish(&c);
    (void)unlink(path);
    free(path);
}

static void check_error(const char *const *args, struct fake_env *env, const char *want)
{
    struct cfg c = {.port = 7};
    struct err e = {0};
    assert_int_not_equal(load(args, env, &c, &e), ERR_OK);
    if (!strstr(e.msg, want)) {
        fail_msg("'%s' does not say '%s'", e.msg, want);
    }
    assert_int_equal(c.port, 7); /* outputs stay untouched */
}

/* A flag that names one of several things. */
static void test_lists(void **state)
{
    (void)state;
    struct fake_env env = {{"KVASIR_LORA"}, {"c=3"}};
    struct cfg c;
    struct err e = {0};
    assert_int_equal(load(ARGS("--lora", "a=1", "--lora", "b=2"), &env, &c, &e), ERR_OK);
    assert_string_equal(c.lora, "a=1,b=2");
    cfg_finish(&c);
    assert_int_equal(load(NO_ARGS, &env, &c, &e), ERR_OK);
    assert_string_equal(c.lora, "c=3");
    cfg_finish(&c);
}

static void test_errors(void **state)
{
    (void)state;
    struct fake_env env = {{"KVASIR_KV_TYPE"}, {"f64"}};
    check_error(ARGS("--port", "65536"), NULL, "--port: '65536' is not a number from 0 to 65535");
    check_error(ARGS("--port", "-1"), NULL, "--port: '-1'");
    check_error(ARGS("--port", "80x"), NULL, "--port: '80x'");
    check_error(ARGS("--port", "99999999999999999999"), NULL, "--port: '9999");
    check_error(ARGS("--port", ""), NULL, "--port: ''");
    check_error(ARGS("--port"), NULL, "--port needs a value");
    check_error(ARGS("--port", "1", "--port", "2"), NULL, "--port is given twice");
    check_error(ARGS("--prot", "1"), NULL, "--prot: no such option");
    check_error(ARGS("port"), NULL, "'port' is not an option");
    check_error(ARGS("--ctx", "7"), NULL, "--ctx: '7' is not a number from 8 to 16777216 or auto");
    check_error(ARGS("--kv-ram", "8Q"), NULL,
                "--kv-ram: '8Q' is not a size from 1.00 MiB to 64.00 TiB or auto");
    check_error(ARGS("--insecure-no-auth=perhaps"), NULL,
                "--insecure-no-auth: 'perhaps' is not true or false");
    check_error(ARGS("--model", ""), NULL, "--model: '' is not a FILE");
    check_error(NO_ARGS, &env, "KVASIR_KV_TYPE: 'f64' is not one of auto|f32|bf16|int8");
    check_error(ARGS("--host", "0.0.0.0"), NULL, "--insecure-no-auth");
    check_error(ARGS("--kv-disk", "1Q"), NULL, "--kv-disk: '1Q' is not a size");
    check_error(ARGS("--kv-dir", "d", "--prefix-cache", "off"), NULL,
                "kv-dir: keeps the prefix cache");
    check_error(ARGS("--kv-dir", "auto"), NULL, "neither XDG_CACHE_HOME nor HOME");
    check_error(ARGS("--config", "/nonexistent/k.yaml"), NULL, "/nonexistent/k.yaml");
}

static void test_open_hosts(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.1", "127.1.2.3", "localhost", "::1"};
    struct cfg c = {0};
    struct err e = {0};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        assert_int_equal(load(ARGS("--host", hosts[i]), NULL, &c, &e), ERR_OK);
        cfg_finish(&c);
    }
    assert_int_equal(load(ARGS("--host", "0.0.0.0", "--insecure-no-auth"), NULL, &c, &e), ERR_OK);
    cfg_finish(&c);
    assert_int_equal(load(ARGS("--host", "::", "--api-key-file", "k"), NULL, &c, &e), ERR_OK);
    cfg_finish(&c);
}

static void check_kv_dir(const char *const *args, struct fake_env *env, const char *want)
{
    struct cfg c = {0};
    struct err e = {0};
    assert_int_equal(load(args, env, &c, &e), ERR_OK);
    if (want) {
        assert_string_equal(c.kv_dir, want);
    } else {
        assert_null(c.kv_dir);
    }
    cfg_finish(&c);
}

static void test_kv_dir(void **state)
{
    (void)state;
    struct fake_env home = {{"HOME"}, {"/home/u"}};
    struct fake_env xdg = {{"HOME", "XDG_CACHE_HOME"}, {"/home/u", "/c"}};
    check_kv_dir(NO_ARGS, &home, NULL);
    check_kv_dir(ARGS("--kv-dir", "d"), &home, "d");
    check_kv_dir(ARGS("--kv-dir", "auto"), &home, "/home/u/.cache/kvasir/kv");
    check_kv_dir(ARGS("--kv-disk", "1G"), &xdg, "/c/kvasir/kv");
    check_kv_dir(ARGS("--kv-disk", "1G", "--kv-dir", "d"), &xdg, "d");
    check_kv_dir(ARGS("--kv-disk", "auto"), &xdg, NULL);
}

static void check_yaml(const char *text, const char *want)
{
    char *path = temp_file(text);
    struct fake_env env = {{"KVASIR_CONFIG"}, {path}};
    struct cfg c = {0};
    struct err e = {0};
    enum err_code code = load(NO_ARGS, &env, &c, &e);
    if (want ? code == ERR_OK || !strstr(e.msg, want) : code != ERR_OK) {
        fail_msg("for '%s': %s", text, code == ERR_OK ? "accepted" : e.msg);
    }
    cfg_finish(&c);
    (void)unlink(path);
    free(path);
}

static void test_yaml(void **state)
{
    (void)state;
    check_yaml("", NULL);
    check_yaml("# nothing\n", NULL);
    check_yaml("port: 1\n", NULL);
    check_yaml("port: 1\nport: 2\n", "line 2: 'port' is given twice");
    check_yaml("prot: 1\n", "line 1: 'prot' is not an option");
    check_yaml("config: other.yaml\n", "'config' is not an option");
    check_yaml("ctx: many\n", "ctx (configuration file): 'many' is not a number");
    check_yaml("port: [1, 2]\n", "line 1: an option's value must be plain text");
    check_yaml("- port\n", "'option: value'");
    check_yaml("port\n", "'option: value'");
    check_yaml("host: \"a\\0b\"\n", "an option's value must be plain text");
    check_yaml("port: *anchor\n", "line 1");
    check_yaml("\tport: 1\n", "line 1");
    check_yaml("port: {\n", "line 1");
}

static void test_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < cfg_n_option; i++) {
        const struct cfg_option *o = &cfg_options[i];
        assert_non_null(o->help);
        assert_true(o->kind == CFG_KIND_BOOL || o->kind == CFG_KIND_CHOICE || o->unit);
        for (size_t k = 0; k < i; k++) {
            assert_string_not_equal(o->name, cfg_options[k].name);
            assert_int_not_equal(o->offset, cfg_options[k].offset);
        }
    }
    struct buf help = {0};
    cfg_help(&help);
    for (size_t i = 0; i < cfg_n_option; i++) {
        char flag[64];
        (void)snprintf(flag, sizeof flag, "  --%s ", cfg_options[i].name);
        assert_non_null(strstr(buf_str(&help), flag));
    }
    buf_free(&help);
}

static void sample_path(char *out, size_t cap)
{
    const char *source = getenv("KVASIR_SOURCE"); /* NOLINT(concurrency-mt-unsafe) */
    (void)snprintf(out, cap, "%s/config/kvasir.yaml", source ? source : ".");
}

static void test_sample(void **state)
{
    (void)state;
    char path[4096];
    sample_path(path, sizeof path);
    FILE *file = fopen(path, "rbe");
    assert_non_null(file);
    static char text[65536];
    size_t n = fread(text, 1, sizeof text - 1, file);
    text[n] = 0;
    (void)fclose(file);
    struct buf want = {0};
    cfg_sample(&want);
    if (strcmp(text, buf_str(&want)) != 0) {
        fail_msg("config/kvasir.yaml differs from the table; write it anew with "
                 "test_config --write config/kvasir.yaml");
    }
    buf_free(&want);

    /* Loading the sample changes nothing. */
    struct cfg plain = {0};
    struct cfg sampled = {0};
    struct err e = {0};
    bool help = false;
    char *argv[] = {(char *)(uintptr_t) "serve"};
    assert_int_equal(load(NO_ARGS, NULL, &plain, &e), ERR_OK);
    assert_int_equal(cfg_load(1, argv, env_of_file, path, &sampled, &help, &e), ERR_OK);
    for (size_t i = 0; i < cfg_n_option; i++) {
        const struct cfg_option *o = &cfg_options[i];
        const char *a = (const char *)&plain + o->offset;
        const char *b = (const char *)&sampled + o->offset;
        if (o->kind == CFG_KIND_BOOL) {
            assert_int_equal(*(const bool *)a, *(const bool *)b);
        } else if (o->kind != CFG_KIND_STRING) {
            assert_int_equal(*(const uint64_t *)a, *(const uint64_t *)b);
        } else if (strcmp(o->name, "config") != 0 && o->deflt) {
            assert_string_equal(*(char *const *)a, *(char *const *)b);
        }
    }
    cfg_finish(&plain);
    cfg_finish(&sampled);
}

static int write_sample(const char *path)
{
    struct buf text = {0};
    FILE *file = fopen(path, "wbe");
    cfg_sample(&text);
    bool done = file && fwrite(text.data, 1, text.len, file) == text.len;
    done = file && fclose(file) == 0 && done;
    buf_free(&text);
    return done ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--write") == 0) {
        return write_sample(argv[2]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),   cmocka_unit_test(test_precedence),
        cmocka_unit_test(test_lists),      cmocka_unit_test(test_errors),
        cmocka_unit_test(test_open_hosts), cmocka_unit_test(test_kv_dir),
        cmocka_unit_test(test_yaml),       cmocka_unit_test(test_table),
        cmocka_unit_test(test_sample)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
