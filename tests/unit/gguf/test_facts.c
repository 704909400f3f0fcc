/* What inspect computes from metadata: KV sizes by layer, and files that say odd things or little.
 */
#include "engine/gguf_facts.h"
#include "engine/gguf_write.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct gguf_writer *begin(const char *arch)
{
    struct gguf_writer *w;
    if (gguf_writer_create(&w, NULL)) {
        abort();
    }
    if (arch) {
        gguf_put_str(w, "general.architecture", arch);
    }
    return w;
}

/* Takes the writer. */
static struct gguf_facts finish(struct gguf_writer *w)
{
    struct buf b = {0};
    struct gguf *f = NULL;
    struct gguf_facts a;
    assert_int_equal(gguf_writer_header(w, &b, NULL), ERR_OK);
    assert_int_equal(gguf_open_memory(b.data, b.len, &f, NULL), ERR_OK);
    gguf_facts_read(f, &a);
    a.arch = a.name = a.tokenizer = (struct gguf_str){0}; /* they point into what is freed now */
    gguf_close(f);
    buf_free(&b);
    gguf_writer_destroy(w);
    return a;
}

static void test_plain(void **state)
{
    (void)state;
    struct gguf_writer *w = begin("x");
    gguf_put_u32(w, "x.block_count", 3);
    gguf_put_u32(w, "x.embedding_length", 128);
    gguf_put_u32(w, "x.attention.head_count", 8);
    gguf_put_u32(w, "x.attention.head_count_kv", 2);
    gguf_put_u32(w, "general.file_type", 15);
    struct gguf_facts a = finish(w);
    assert_string_equal(a.file_type, "Q4_K_M");
    assert_int_equal(a.head_dim, 16);
    assert_int_equal(a.kv_f32_bytes, 3 * 2 * 2 * 16 * 4);
    assert_int_equal(a.kv_bf16_bytes, 3 * 2 * 2 * 16 * 2);
    assert_int_equal(a.kv_int8_bytes, 3 * 2 * 2 * (16 + 2));
}

/* Own head sizes, and KV heads by layer, none in some (hybrids). */
static void test_layers(void **state)
{
    (void)state;
    struct gguf_writer *w = begin("x");
    static const uint32_t heads[3] = {0, 4, 1};
    gguf_put_u32(w, "x.block_count", 3);
    gguf_put_u32(w, "x.embedding_length", 128);
    gguf_put_u32(w, "x.attention.head_count", 8);
    gguf_put_array(w, "x.attention.head_count_kv",
                   &(struct gguf_array){.type = GGUF_U32, .n = 3, .data = heads});
    gguf_put_u32(w, "x.attention.key_length", 10);
    gguf_put_u32(w, "x.attention.value_length", 6);
    struct gguf_facts a = finish(w);
    assert_int_equal(a.n_head_kv, 4);
    assert_int_equal(a.kv_bf16_bytes, 2 * 5 * 16);
}

static void test_odd(void **state)
{
    (void)state;
    struct gguf_facts a = finish(begin(NULL));
    assert_int_equal(a.kv_f32_bytes, 0);
    struct gguf_writer *w = begin("x");
    gguf_put_number(w, "x.block_count", GGUF_U64, &(uint64_t){UINT64_MAX});
    gguf_put_number(w, "x.embedding_length", GGUF_I32, &(int32_t){-5});
    gguf_put_str(w, "x.attention.head_count", "eight");
    gguf_put_u32(w, "general.file_type", 4000000000u);
    a = finish(w);
    assert_int_equal(a.n_layer, 0);
    assert_int_equal(a.n_embd, 0);
    assert_null(a.file_type);
    w = begin("x");
    gguf_put_u32(w, "x.block_count", 1u << 30); /* no more layers are walked than can exist */
    gguf_put_u32(w, "x.embedding_length", 1u << 30);
    gguf_put_u32(w, "x.attention.head_count", 1);
    a = finish(w);
    assert_int_equal(a.kv_f32_bytes, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_layers),
        cmocka_unit_test(test_odd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
