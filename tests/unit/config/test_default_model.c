/* Where the model is looked for that serves when none is named. */
#include "config/default_model.h"

#include <fcntl.h>
#include <limits.h>
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

static char root[] = "/tmp/kvasir-model-XXXXXX";

static int make_root(void **state)
{
    (void)state;
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    (void)state;
    return rmdir(root);
}

static void in_root(char *out, const char *path)
{
    (void)snprintf(out, 256, "%s/%s", root, path);
}

static void make_dir(const char *path)
{
    char full[256];
    in_root(full, path);
    assert_int_equal(mkdir(full, 0700), 0);
}

static void drop(const char *path)
{
    char full[256];
    in_root(full, path);
    assert_int_equal(remove(full), 0);
}

static enum err_code look(const char *exe, struct buf *out)
{
    struct err e = {0};
    char full[256];
    in_root(full, exe);
    enum err_code code = cfg_default_model(full, out, &e);
    if (code) {
        assert_int_equal(out->len, 0);
        assert_non_null(strstr(e.msg, CFG_DEFAULT_MODEL));
    }
    return code;
}

static void finds(const char *exe, const char *dir)
{
    char full[256];
    char path[64];
    char want[PATH_MAX];
    char got[PATH_MAX];
    struct buf out = {0};
    assert_int_equal(look(exe, &out), ERR_NOT_FOUND);
    (void)snprintf(path, sizeof path, "%s/%s", dir, CFG_DEFAULT_MODEL);
    in_root(full, path);
    int fd = open(full, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
    assert_int_equal(look(exe, &out), ERR_OK);
    assert_int_equal(access(buf_str(&out), R_OK), 0);
    assert_non_null(realpath(full, want));
    assert_non_null(realpath(buf_str(&out), got));
    assert_string_equal(got, want);
    buf_free(&out);
    drop(path);
}

static void test_places(void **state)
{
    (void)state;
    make_dir("build");
    make_dir("models");
    make_dir("build/models");
    make_dir("bin");
    make_dir("share");
    make_dir("share/kvasir");
    make_dir("share/kvasir/models");
    finds("build/kvasir", "models");
    finds("build/kvasir", "build/models");
    finds("bin/kvasir", "share/kvasir/models");
    const char *dirs[] = {"share/kvasir/models", "share/kvasir", "share", "bin",
                          "build/models",        "models",       "build"};
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        drop(dirs[i]);
    }
}

static void test_this_program(void **state)
{
    (void)state;
    struct buf out = {0};
    struct err e = {0};
    /* in a build tree beside models/ it may well be found; it must not fail in another way */
    enum err_code code = cfg_default_model(NULL, &out, &e);
    assert_true(code == ERR_OK || code == ERR_NOT_FOUND);
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_this_program),
    };
    return cmocka_run_group_tests_name("default model", tests, make_root, remove_root);
}
