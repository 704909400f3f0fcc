/* What the reader gives for a sound file, and for files split in parts. */
#include "engine/gguf.h"
#include "engine/gguf_write.h"
#include "small_file.h"

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

static char dir[] = "/tmp/kvasir-gguf-XXXXXX";

static struct gguf *open_sound(const struct buf *b)
{
    struct err e;
    struct gguf *f = NULL;
    if (gguf_open_memory(b->data, b->len, &f, &e)) {
        fail_msg("%s", e.msg);
    }
    return f;
}

static void test_numbers(void **state)
{
    (void)state;
    struct buf b = small_file(0, 0);
    struct gguf *f = open_sound(&b);
    static const struct {
        const char *key;
        bool is_u64, is_i64, is_f64;
        uint64_t u64;
        int64_t i64;
        double f64;
    } cases[] = {
        {"k.u8", true, true, true, 200, 200, 200},
        {"k.i8", false, true, true, 0, -100, -100},
        {"k.u16", true, true, true, 60000, 60000, 60000},
        {"k.i16", false, true, true, 0, -30000, -30000},
        {"k.i32", false, true, true, 0, -2000000000, -2000000000},
        {"k.u64", true, false, true, UINT64_MAX, 0, 0x1p64},
        {"k.i64", false, true, true, 0, INT64_MIN, -0x1p63},
        {"k.f32", false, false, true, 0, 0, 1.5},
        {"k.f64", false, false, true, 0, 0, 0.1},
        {"k.bool", false, false, false, 0, 0, 0},
        {"general.architecture", false, false, false, 0, 0, 0},
        {"a.u16", false, false, false, 0, 0, 0},
        {"absent", false, false, false, 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t u64 = 7;
        int64_t i64 = 7;
        double f64 = 7;
        assert_int_equal(gguf_get_u64(f, cases[i].key, &u64), cases[i].is_u64);
        assert_int_equal(gguf_get_i64(f, cases[i].key, &i64), cases[i].is_i64);
        assert_int_equal(gguf_get_f64(f, cases[i].key, &f64), cases[i].is_f64);
        assert_true(u64 == (cases[i].is_u64 ? cases[i].u64 : 7));
        assert_true(i64 == (cases[i].is_i64 ? cases[i].i64 : 7));
        assert_true(f64 == (cases[i].is_f64 ? cases[i].f64 : 7));
    }
    gguf_close(f);
    buf_free(&b);
}

static void test_others(void **state)
{
    (void)state;
    struct buf b = small_file(0, 0);
    struct gguf *f = open_sound(&b);
    bool v = false;
    struct gguf_str s;
    struct gguf_array a;
    assert_true(gguf_get_bool(f, "k.bool", &v) && v);
    assert_false(gguf_get_bool(f, "k.u8", &v));
    assert_true(gguf_get_str(f, "general.architecture", &s));
    assert_int_equal(s.n, 4);
    assert_memory_equal(s.s, "none", 4);
    assert_false(gguf_get_str(f, "a.str", &s));
    assert_true(gguf_get_array(f, "a.u16", &a));
    assert_int_equal(a.n, 3);
    assert_int_equal(gguf_array_i64(&a, 2), 65535);
    assert_true(gguf_array_f64(&a, 1) == 2);
    assert_true(gguf_get_array(f, "a.bool", &a));
    assert_int_equal(gguf_array_i64(&a, 0), 1);
    assert_int_equal(gguf_array_i64(&a, 1), 0);
    assert_true(gguf_get_array(f, "a.str", &a));
    assert_int_equal(a.type, GGUF_STRING);
    assert_int_equal(a.strings[2].n, 3); /* bytes that are no text are kept */
    assert_memory_equal(a.strings[2].s, "\xff\x00z", 3);
    assert_true(gguf_get_array(f, "a.none", &a));
    assert_int_equal(a.n, 0);
    assert_int_equal(gguf_version(f), 3);
    assert_int_equal(gguf_file_bytes(f), b.len);
    gguf_close(f);
    buf_free(&b);
}

static void test_tensors(void **state)
{
    (void)state;
    struct buf b = small_file(0, 0);
    struct gguf *f = open_sound(&b);
    assert_int_equal(gguf_n_tensor(f), 3);
    const struct gguf_tensor *t = gguf_find_tensor(f, "t.b");
    assert_ptr_equal(t, gguf_tensor_at(f, 1));
    assert_int_equal(t->type, GGUF_TYPE_Q4_0);
    assert_int_equal(t->n_dim, 2);
    assert_int_equal(t->ne[0], 64);
    assert_int_equal(t->ne[1], 2);
    assert_int_equal(t->ne[2], 1);
    assert_int_equal(t->n_elem, 128);
    assert_int_equal(t->n_byte, 4 * 18);
    assert_int_equal(t->offset % 32, 0);
    assert_ptr_equal(t->data, b.data + t->offset);
    assert_int_equal(*(const uint8_t *)t->data,
                     32 * 37 % 256); /* 20 bytes, padded to 32, lie before it */
    assert_null(gguf_find_tensor(f, "t.d"));
    assert_null(gguf_find_tensor(f, "t"));
    gguf_close(f);
    buf_free(&b);
}

static void put_file(const char *name, const struct buf *b, char path[128])
{
    (void)snprintf(path, 128, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(buf_str(b), 1, b->len, f), b->len);
    assert_int_equal(fclose(f), 0);
}

static void expect_refusal(const char *path, enum err_code code, const char *word)
{
    struct err e;
    struct gguf *f = NULL;
    assert_int_equal(gguf_open(path, &f, &e), code);
    assert_null(f);
    if (!strstr(e.msg, word)) {
        fail_msg("'%s' does not say '%s'", e.msg, word);
    }
}

static void test_split(void **state)
{
    (void)state;
    char first[128];
    char second[128];
    struct err e;
    struct gguf *f = NULL;
    struct buf b[2] = {small_file(0, 2), small_file(1, 2)};
    put_file("m-00001-of-00002.gguf", &b[0], first);
    expect_refusal(first, ERR_NOT_FOUND, "m-00002-of-00002.gguf");
    put_file("m-00002-of-00002.gguf", &b[1], second);
    if (gguf_open(first, &f, &e)) {
        fail_msg("%s", e.msg);
    }
    assert_int_equal(gguf_n_tensor(f), 6);
    assert_int_equal(gguf_file_bytes(f), b[0].len + b[1].len);
    const struct gguf_tensor *t = gguf_find_tensor(f, "t.y");
    assert_int_equal(t->part, 1);
    assert_memory_equal(t->data, b[1].data + t->offset, t->n_byte);
    gguf_close(f);

    expect_refusal(second, ERR_INVALID, "-00001-of-00002.gguf");
    put_file("other-name.gguf", &b[0], second);
    expect_refusal(second, ERR_INVALID, "-00001-of-00002.gguf");
    put_file("m-00002-of-00002.gguf", &b[0], second); /* the first part twice */
    expect_refusal(first, ERR_CORRUPT, "split.no");
    struct buf alone = small_file(0, 0);
    put_file("m-00002-of-00002.gguf", &alone, second); /* no part at all */
    expect_refusal(first, ERR_CORRUPT, "split.no");

    char *name = memmem(b[1].data, b[1].len, "t.y", 3);
    memcpy(name, "t.b", 3); /* a tensor of the first part again */
    put_file("m-00002-of-00002.gguf", &b[1], second);
    expect_refusal(first, ERR_CORRUPT, "tensor 't.b' appears twice");
    memcpy(name, "t.y", 3);
    put_file("m-00002-of-00002.gguf", &b[1], second);
    char *count = memmem(b[0].data, b[0].len, "split.tensors.count", 19);
    count[19 + 4] = 7;
    put_file("m-00001-of-00002.gguf", &b[0], first);
    expect_refusal(first, ERR_CORRUPT, "split.tensors.count");
    assert_int_equal(gguf_open_memory(b[0].data, b[0].len, &f, &e), ERR_INVALID);
    buf_free(&b[0]);
    buf_free(&b[1]);
    buf_free(&alone);
}

static void test_files(void **state)
{
    (void)state;
    char path[128];
    struct buf b = {0};
    (void)snprintf(path, sizeof path, "%s/absent.gguf", dir);
    expect_refusal(path, ERR_NOT_FOUND, "absent.gguf");
    expect_refusal(dir, ERR_INVALID, "regular");
    put_file("empty.gguf", &b, path);
    expect_refusal(path, ERR_CORRUPT, "empty");
    buf_puts(&b, "GGUF");
    put_file("short.gguf", &b, path);
    expect_refusal(path, ERR_CORRUPT, "short.gguf: ");
    buf_free(&b);
}

/* Tensors written by thread-safe pieces, read back from a mapped file, also after giving its pages
 * back; nothing stays of a file that was not finished. */
static void test_write_file(void **state)
{
    (void)state;
    enum { N = 1 << 16 };
    struct err e;
    struct gguf_writer *w;
    struct gguf *f = NULL;
    char path[128];
    char partial[140];
    float *v = malloc(N * sizeof *v);
    assert_non_null(v);
    for (int i = 0; i < N; i++) {
        v[i] = (float)i;
    }
    (void)snprintf(path, sizeof path, "%s/written.gguf", dir);
    (void)snprintf(partial, sizeof partial, "%s.partial", path);
    for (int finish = 0; finish < 2; finish++) {
        assert_int_equal(gguf_writer_create(&w, &e), ERR_OK);
        (void)gguf_put_tensor(w, (struct gguf_str){"odd", 3}, GGUF_TYPE_F32, 1, (uint64_t[]){3});
        uint32_t idx = gguf_put_tensor(w, (struct gguf_str){"big", 3}, GGUF_TYPE_F32, 2,
                                       (uint64_t[]){N / 4, 4});
        assert_int_equal(gguf_writer_open(w, path, &e), ERR_OK);
        assert_int_equal(gguf_writer_data(w, idx, N, v + N / 4, N * 3, &e), ERR_OK);
        assert_int_equal(gguf_writer_data(w, idx, 0, v, N, &e), ERR_OK);
        assert_int_equal(gguf_writer_data(w, idx, 4 * N - 3, v, 4, &e), ERR_INTERNAL);
        assert_int_equal(access(partial, F_OK), 0);
        if (finish) {
            assert_int_equal(gguf_writer_finish(w, &e), ERR_OK);
        }
        gguf_writer_destroy(w);
        assert_int_equal(access(partial, F_OK), -1);
        assert_int_equal(access(path, F_OK), finish - 1);
    }
    if (gguf_open(path, &f, &e)) {
        fail_msg("%s", e.msg);
    }
    const struct gguf_tensor *t = gguf_find_tensor(f, "big");
    assert_memory_equal(t->data, v, N * sizeof *v);
    gguf_release_pages(f, t);
    assert_memory_equal(t->data, v, N * sizeof *v);
    gguf_release_pages(f, gguf_find_tensor(f, "odd"));
    gguf_close(f);
    free(v);
}

static void test_writer_refuses(void **state)
{
    (void)state;
    static const struct {
        enum gguf_type type;
        uint32_t n_dim;
        uint64_t ne[2];
    } bad[] = {
        {GGUF_TYPE_Q4_0, 1, {33}},    {GGUF_TYPE_F32, 0, {1}},
        {GGUF_TYPE_F32, 5, {1}},      {GGUF_TYPE_F32, 1, {0}},
        {(enum gguf_type)4, 1, {32}}, {GGUF_TYPE_F32, 2, {1ull << 40, 1ull << 40}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct gguf_writer *w;
        struct buf out = {0};
        struct err e;
        assert_int_equal(gguf_writer_create(&w, &e), ERR_OK);
        (void)gguf_put_tensor(w, (struct gguf_str){"bad", 3}, bad[i].type, bad[i].n_dim,
                              (uint64_t[5]){bad[i].ne[0], bad[i].ne[1], 1, 1, 1});
        assert_int_equal(gguf_writer_header(w, &out, &e), ERR_INVALID);
        assert_non_null(strstr(e.msg, "'bad'"));
        gguf_writer_destroy(w);
        buf_free(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),        cmocka_unit_test(test_others),
        cmocka_unit_test(test_tensors),        cmocka_unit_test(test_split),
        cmocka_unit_test(test_files),          cmocka_unit_test(test_write_file),
        cmocka_unit_test(test_writer_refuses),
    };
    if (!mkdtemp(dir)) {
        return 1;
    }
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    char clean[64];
    (void)snprintf(clean, sizeof clean, "rm -r %s", dir);
    return rc + (system(clean) != 0);
}
