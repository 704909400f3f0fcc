/* The commands about model files as a user calls them: exit status, one line of error that names
 * what is wrong, and results that can be read. */
#include "engine/gguf.h"
#include "engine/gguf_write.h"
#include "small_file.h"

#include <cjson/cJSON.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

static char dir[] = "/tmp/kvasir-cli-XXXXXX";
static char small[128];

/* Runs `kvasir ARGS`, its stderr joined to stdout, and returns the output (freed by the caller). */
static char *run(int want_status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static char *run(int want_status, const char *fmt, ...)
{
    char args[1024];
    char command[2048];
    struct buf out = {0};
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(args, sizeof args, fmt, ap);
    va_end(ap);
    const char *build = getenv("KVASIR_BUILD");
    (void)snprintf(command, sizeof command, "%s/kvasir %s 2>&1", build ? build : "build", args);
    FILE *p = popen(command, "r");
    assert_non_null(p);
    int c;
    while ((c = fgetc(p)) != EOF) {
        buf_putc(&out, (char)c);
    }
    int status = pclose(p);
    buf_putc(&out, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != want_status) {
        fail_msg("kvasir %s: status %d, should be %d: %s", args, WEXITSTATUS(status), want_status,
                 out.data);
    }
    return out.data;
}

/* One line with `word` in it. */
static void expect_error(int status, const char *word, const char *args)
{
    char *out = run(status, "%s", args);
    char *end = strchr(out, '\n');
    if (!strstr(out, word) || !end || end[1]) {
        fail_msg("kvasir %s says '%s', should be one line with '%s'", args, out, word);
    }
    free(out);
}

static void test_errors(void **state)
{
    (void)state;
    char args[512];
    expect_error(2, "needs one FILE", "inspect");
    expect_error(1, "/nonexistent.gguf", "inspect /nonexistent.gguf");
    expect_error(1, "regular file", "inspect /");
    expect_error(2, "unrecognized option", "inspect --colour x");
    expect_error(2, "needs IN, OUT and TYPE", "quantize a b");
    expect_error(2, "no type 'Q9'", "quantize a b Q9");
    expect_error(2, "--threads", "quantize --threads 0 a b Q8_0");
    expect_error(1, "cannot open a", "quantize a b Q8_0");
    expect_error(2, "needs --shape", "synth --shape tiny");
    expect_error(2, "no shape 'huge'", "synth --shape huge --type F16 --vocab x -o y");
    expect_error(2, "no type 'F8'", "synth --shape tiny --type F8 --vocab x -o y");
    expect_error(2, "--seed", "synth --seed -1");
    (void)snprintf(args, sizeof args, "synth --shape tiny --type F16 --vocab %s -o %s/y", small,
                   dir);
    expect_error(1, "holds no vocabulary", args);
}

static void test_help(void **state)
{
    (void)state;
    static const char *const commands[] = {"inspect", "quantize", "synth"};
    for (size_t i = 0; i < 3; i++) {
        char *out = run(0, "%s --help", commands[i]);
        assert_non_null(strstr(out, "usage: kvasir"));
        free(out);
    }
}

static double number(const cJSON *o, const char *a, const char *b)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, a);
    v = b ? cJSON_GetObjectItemCaseSensitive(v, b) : v;
    assert_true(cJSON_IsNumber(v));
    return v->valuedouble;
}

static void test_inspect(void **state)
{
    (void)state;
    char *out = run(0, "inspect --json %s", small);
    cJSON *o = cJSON_Parse(out);
    assert_non_null(o);
    assert_true(number(o, "version", NULL) == 3);
    assert_true(number(o, "n_param", NULL) == 5 + 128 + 8);
    assert_true(number(o, "metadata", "k.i8") == -100);
    assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(
        cJSON_GetObjectItemCaseSensitive(o, "metadata"), "k.bool")));
    const cJSON *tensors = cJSON_GetObjectItemCaseSensitive(o, "tensors");
    assert_int_equal(cJSON_GetArraySize(tensors), 3);
    assert_string_equal(
        cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(tensors, 1), "type")->valuestring,
        "Q4_0");
    cJSON_Delete(o);
    free(out);
    out = run(0, "inspect %s", small);
    assert_non_null(strstr(out, "not one this build can run"));
    assert_non_null(strstr(out, "  Q4_0    t.b [64, 2]\n"));
    free(out);
}

/* synth, then quantize, then inspect: what one writes the next reads. */
static void test_chain(void **state)
{
    (void)state;
    const char *shared = getenv("KVASIR_SHARED");
    char vocab[600];
    (void)snprintf(vocab, sizeof vocab, "%s/data/models/stories260K.gguf", shared ? shared : ".");
    FILE *f = fopen(vocab, "rb");
    if (!f) {
        print_message("no %s: chain left out\n", vocab);
        skip();
    }
    (void)fclose(f);
    free(
        run(0, "synth --shape tiny --type BF16 --vocab %s --out %s/a.gguf --layers 1", vocab, dir));
    free(run(0, "quantize --quiet %s/a.gguf %s/b.gguf q4_k_m", dir, dir));
    char *out = run(0, "inspect --json --no-tensors %s/b.gguf", dir);
    cJSON *o = cJSON_Parse(out);
    assert_non_null(o);
    assert_string_equal(cJSON_GetObjectItemCaseSensitive(o, "file_type")->valuestring, "Q4_K_M");
    assert_null(cJSON_GetObjectItemCaseSensitive(o, "tensors"));
    assert_true(number(o, "n_layer", NULL) == 1);
    assert_true(number(o, "n_vocab", NULL) == 512);
    assert_true(number(o, "kv_bytes_per_token", "bf16") == 2 * 2 * 2 * 64);
    cJSON_Delete(o);
    free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_inspect),
        cmocka_unit_test(test_chain),
    };
    if (!mkdtemp(dir)) {
        return 1;
    }
    (void)snprintf(small, sizeof small, "%s/small.gguf", dir);
    struct buf b = small_file(0, 0);
    FILE *f = fopen(small, "wb");
    bool ok = f && fwrite(b.data, 1, b.len, f) == b.len;
    ok = f && fclose(f) == 0 && ok;
    buf_free(&b);
    int rc = ok ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
    char clean[64];
    (void)snprintf(clean, sizeof clean, "rm -r %s", dir);
    return rc + (system(clean) != 0);
}
