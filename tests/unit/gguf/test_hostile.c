/* Files that lie. Each case is the small file with some bytes changed, and must give one clear
 * error that names the key or tensor and where it stands: no crash, nothing read outside. */
#include "base/rng.h"
#include "engine/gguf.h"
#include "engine/quant/formats.h"
#include "small_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct hostile {
    const char *anchor; /* a key or tensor name; the change starts `skip` bytes after its end */
    int skip;           /* "": from the file's start */
    int width;
    uint64_t value;
    enum err_code code;
    const char *word; /* the message has this */
};

/* After a key: type u32, value. After an array's key: type, type of element, count u64, elements.
 * After a tensor's name: n_dim u32, ne u64 each, type u32, offset u64. */
static const struct hostile cases[] = {
    {"", 0, 4, 0x47475547, ERR_CORRUPT, "not a GGUF"},
    {"", 4, 4, 0, ERR_UNSUPPORTED, "version 0"},
    {"", 4, 4, 1, ERR_UNSUPPORTED, "version 1"},
    {"", 4, 4, 4, ERR_UNSUPPORTED, "version 4"},
    {"", 4, 4, 0x03000000, ERR_UNSUPPORTED, "big-endian"},
    {"", 8, 8, UINT64_MAX, ERR_CORRUPT, "header at offset 8"},
    {"", 8, 8, 1ull << 33, ERR_CORRUPT, "header at offset 8"},
    {"", 8, 8, 4, ERR_CORRUPT, "tensor 3 at offset"},
    {"", 16, 8, UINT64_MAX, ERR_CORRUPT, "header at offset 16"},
    {"", 16, 8, 17, ERR_CORRUPT, "tensor 0 at offset 480"}, /* the first tensor read as a key */
    {"", 24, 8, UINT64_MAX, ERR_CORRUPT, "key 0 at offset 24: its name runs past"},
    {"", 24, 8, 0, ERR_CORRUPT, "key 0 at offset 24: name of 0 bytes"},
    {"", 32, 1, 0xff, ERR_CORRUPT, "not UTF-8"},
    {"general.architecture", 0, 4, 13, ERR_CORRUPT, "'general.architecture' at offset 52: unknown"},
    {"general.architecture", 0, 4, UINT32_MAX, ERR_CORRUPT, "unknown kind of value"},
    {"general.architecture", 4, 8, UINT64_MAX, ERR_CORRUPT, "the string runs past"},
    {"general.architecture", 4, 8, INT64_MAX, ERR_CORRUPT, "the string runs past"},
    {"general.alignment", 4, 4, 0, ERR_CORRUPT, "'general.alignment'"},
    {"general.alignment", 4, 4, 3, ERR_CORRUPT, "power of two"},
    {"general.alignment", 4, 4, 4, ERR_CORRUPT, "power of two"},
    {"general.alignment", 4, 4, 1u << 31, ERR_CORRUPT, "power of two"},
    {"general.alignment", 4, 4, 64, ERR_CORRUPT, "multiple of the alignment 64"},
    {"general.alignment", 0, 4, GGUF_F32, ERR_CORRUPT, "'general.alignment'"},
    {"k.bool", 4, 1, 2, ERR_CORRUPT, "'k.bool' at offset"},
    {"k.u16", 0, 4, GGUF_U8, ERR_CORRUPT, "key 5 at offset"}, /* a byte too narrow */
    {"k.u8", -2, 2, 0x3869, ERR_CORRUPT, "'k.i8' at offset 118: the key appears twice"},
    {"a.u16", 4, 4, GGUF_ARRAY, ERR_CORRUPT, "'a.u16' at offset"},
    {"a.u16", 4, 4, 99, ERR_CORRUPT, "unknown kind of array element"},
    {"a.u16", 8, 8, UINT64_MAX, ERR_CORRUPT, "'a.u16' at offset"},
    {"a.u16", 8, 8, 1ull << 63, ERR_CORRUPT, "longer than the file"},
    {"a.u16", 8, 8, 1ull << 62, ERR_CORRUPT, "longer than the file"},
    {"a.bool", 16, 1, 255, ERR_CORRUPT, "neither 0 nor 1"},
    {"a.str", 8, 8, UINT64_MAX, ERR_CORRUPT, "'a.str' at offset"},
    {"a.str", 8, 8, 1ull << 60, ERR_CORRUPT, "longer than the file"},
    {"a.str", 8, 8, 20, ERR_CORRUPT, "a string of the array runs past"},
    {"a.str", 16, 8, UINT64_MAX - 7, ERR_CORRUPT, "a string of the array runs past"},
    {"t.a", 0, 4, 5, ERR_CORRUPT, "tensor 't.a' at offset"},
    {"t.a", 0, 4, UINT32_MAX, ERR_CORRUPT, "more than 4 dimensions"},
    {"t.a", 4, 8, 0, ERR_CORRUPT, "a dimension is 0"},
    {"t.a", 4, 8, UINT64_MAX, ERR_CORRUPT, "more than 2^63"},
    {"t.a", 4, 8, INT64_MAX, ERR_CORRUPT, "overflows"},
    {"t.a", 4, 8, 1 << 20, ERR_CORRUPT, "run past the file's end"},
    {"t.a", 12, 4, GGUF_TYPE_END, ERR_UNSUPPORTED, "type number 43"},
    {"t.a", 12, 4, 4, ERR_UNSUPPORTED, "type number 4"},
    {"t.a", 12, 4, UINT32_MAX, ERR_UNSUPPORTED, "type number 4294967295"},
    {"t.a", 12, 4, GGUF_TYPE_Q8_0, ERR_CORRUPT, "not whole Q8_0 blocks of 32"},
    {"t.a", 16, 8, 1, ERR_CORRUPT, "multiple of the alignment"},
    {"t.a", 16, 8, 1 << 20, ERR_CORRUPT, "tensor 't.a': 20 bytes at offset"},
    {"t.a", 16, 8, UINT64_MAX - 31, ERR_CORRUPT, "run past the file's end"},
    {"t.b", 4, 8, 63, ERR_CORRUPT, "not whole Q4_0 blocks"},
    {"t.b", 12, 8, 1ull << 58, ERR_CORRUPT, "more than 2^63"},
    {"t.b", 12, 8, 1ull << 56, ERR_CORRUPT, "run past"},
    {"t.c", -1, 1, 'a', ERR_CORRUPT, "tensor 't.a' appears twice"},
    {"t.c", -1, 1, 0xc3, ERR_CORRUPT, "tensor 2 at offset"},
};

/* Opens a copy of exactly n bytes, so that a sanitizer sees any byte read beyond them. */
static enum err_code open_copy(const char *bytes, size_t n, struct gguf **ret_f, char **ret_copy,
                               struct err *e)
{
    char *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, n);
    *ret_copy = copy;
    return gguf_open_memory(copy, n, ret_f, e);
}

static void expect_refusal(const char *bytes, size_t n, enum err_code code, const char *word)
{
    struct gguf *f = NULL;
    struct err e = {0};
    char *copy;
    enum err_code rc = open_copy(bytes, n, &f, &copy, &e);
    if (!rc || f) {
        fail_msg("accepted; expected '%s'", word);
    }
    if (rc != code || e.code != code || !strstr(e.msg, word) || strchr(e.msg, '\n')) {
        fail_msg("got %s '%s', expected %s '%s'", err_code_name(rc), e.msg, err_code_name(code),
                 word);
    }
    free(copy);
}

static void test_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct hostile *h = &cases[i];
        struct buf b = small_file(0, 0);
        size_t n_anchor = strlen(h->anchor);
        char *at = n_anchor ? memmem(b.data, b.len, h->anchor, n_anchor) : b.data;
        assert_non_null(at);
        memcpy(at + (ptrdiff_t)n_anchor + h->skip, &h->value, (size_t)h->width);
        expect_refusal(b.data, b.len, h->code, h->word);
        buf_free(&b);
    }
    print_message("%zu hostile files refused\n", sizeof cases / sizeof *cases);
}

static void test_truncated(void **state)
{
    (void)state;
    struct buf b = small_file(0, 0);
    struct gguf *f = NULL;
    assert_int_equal(gguf_open_memory(b.data, b.len, &f, NULL), ERR_OK);
    const struct gguf_tensor *last = gguf_tensor_at(f, 2);
    size_t needed = last->offset + last->n_byte; /* behind it lies padding alone */
    gguf_close(f);
    for (size_t n = 0; n < needed; n++) {
        expect_refusal(b.data, n, ERR_CORRUPT, "");
    }
    char *copy;
    assert_int_equal(open_copy(b.data, needed, &f, &copy, NULL), ERR_OK);
    gguf_close(f);
    free(copy);
    buf_free(&b);
}

/* Text of a file never breaks a message into lines. */
static void test_message_is_one_line(void **state)
{
    (void)state;
    struct buf b = small_file(0, 0);
    char *at = memmem(b.data, b.len, "k.bool", 6);
    at[1] = '\n';
    at[6 + 4] = 2;
    expect_refusal(b.data, b.len, ERR_CORRUPT, "'k?bool'");
    buf_free(&b);
}

static void walk(const struct gguf *f)
{
    float row[256];
    for (uint64_t i = 0; i < gguf_n_tensor(f); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(f, i);
        const struct quant_format *fmt = quant_format_of(t->type);
        if (fmt->dequant) {
            fmt->dequant(t->data, row, fmt->n_block_elem);
        }
    }
    for (uint64_t i = 0; i < gguf_n_kv(f); i++) {
        const struct gguf_kv *kv = gguf_kv_at(f, i);
        for (uint64_t k = 0; kv->type == GGUF_ARRAY && k < kv->array.n; k++) {
            (void)gguf_array_i64(&kv->array, k);
            (void)gguf_array_f64(&kv->array, k);
        }
    }
}

/* Random damage: refused with a message or read safely, never anything else. */
static void test_damaged(void **state)
{
    (void)state;
    struct buf b = small_file(0, 0);
    uint64_t seed = 20260821;
    int n_refused = 0;
    for (int round = 0; round < 20000; round++) {
        struct buf c = {0};
        buf_append(&c, b.data, b.len);
        for (uint64_t k = rng_next(&seed) % 4 + 1; k > 0; k--) {
            c.data[rng_next(&seed) % c.len] = (char)rng_next(&seed);
        }
        struct gguf *f = NULL;
        struct err e = {0};
        char *copy;
        enum err_code rc = open_copy(c.data, c.len, &f, &copy, &e);
        if (rc) {
            assert_true(e.code == rc && e.msg[0]);
            n_refused++;
        } else {
            walk(f);
        }
        gguf_close(f);
        free(copy);
        buf_free(&c);
    }
    print_message("%d of 20000 damaged files refused\n", n_refused);
    assert_true(n_refused > 5000);
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_message_is_one_line),
        cmocka_unit_test(test_damaged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
