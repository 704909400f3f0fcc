/* Nine real vocabularies against the ids that their own tokenizers' files call for: each case, and
 * two longer texts by count, digest and first ids; and the SPM list of stories260K. */
#include "golden.h"

#include "base/hash.h"

#include <cjson/cJSON.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const names[] = {"bert-bge",  "deepseek-llm", "falcon", "gpt-2",    "llama-bpe",
                                    "llama-spm", "phi-3",        "qwen2",  "starcoder"};
#define N_NAME (sizeof names / sizeof *names)

static const char separator[] = "\n__ggml_vocab_test__\n";

static struct buf read_beside(const char *name, const char *ending)
{
    char path[64];
    (void)snprintf(path, sizeof path, "vocab/%s%s", name, ending);
    return golden_read(path);
}

static struct vocab *load(const char *name)
{
    char path[64];
    (void)snprintf(path, sizeof path, "vocab/%s.gguf", name);
    return golden_vocab(path);
}

/* Compares with a line " 1 2 3"; moves *line past it. */
static void check_line(const char *name, size_t i, const struct eng_ids *ids, char **line)
{
    char *end = strchr(*line, '\n');
    char *at = *line;
    for (size_t k = 0; k < ids->n; k++) {
        char *after = at;
        long id = strtol(at, &after, 10);
        if (after == at || (end && after > end) || id != ids->ids[k]) {
            fail_msg("%s, case %zu, id %zu: %d, expected %ld", name, i, k, ids->ids[k], id);
        }
        at = after;
    }
    while (*at == ' ') {
        at++;
    }
    if (end ? at != end : *at) {
        fail_msg("%s, case %zu: more ids expected after %zu", name, i, ids->n);
    }
    *line = end ? end + 1 : at;
}

static void test_cases(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_NAME; i++) {
        struct vocab *v = load(names[i]);
        struct buf in = read_beside(names[i], ".inp");
        struct buf out = read_beside(names[i], ".out");
        char *line = out.data;
        char *text = in.data;
        size_t n_case = 0;
        for (; text; n_case++) {
            char *end = strstr(text, separator);
            size_t n = end ? (size_t)(end - text) : strlen(text);
            struct eng_ids ids = golden_ids(v, text, n, 0);
            check_line(names[i], n_case, &ids, &line);
            eng_ids_free(&ids);
            text = end ? end + sizeof separator - 1 : NULL;
        }
        assert_true(n_case >= 40);
        assert_int_equal(*line, 0);
        print_message("%s: %zu cases\n", names[i], n_case);
        buf_free(&in);
        buf_free(&out);
        vocab_destroy(v);
    }
}

static void check_corpus(const struct vocab *v, const char *name, const cJSON *want)
{
    char path[64];
    (void)snprintf(path, sizeof path, "vocab/%s", want->string);
    struct buf text = golden_read(path);
    struct eng_ids ids = golden_ids(v, text.data, text.len, 0);
    const cJSON *first = cJSON_GetObjectItem(want, "first");
    const cJSON *id = NULL;
    size_t k = 0;
    cJSON_ArrayForEach(id, first)
    {
        if (k >= ids.n || ids.ids[k] != id->valueint) {
            fail_msg("%s, %s, id %zu: expected %d", name, want->string, k, id->valueint);
        }
        k++;
    }
    assert_int_equal(ids.n, cJSON_GetObjectItem(want, "n")->valueint);
    uint8_t digest[SHA256_BYTES];
    char hex[2 * SHA256_BYTES + 1];
    hash_sha256(ids.ids, ids.n * sizeof *ids.ids, digest);
    for (size_t i = 0; i < SHA256_BYTES; i++) {
        (void)snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    }
    assert_string_equal(hex, cJSON_GetObjectItem(want, "sha256_le32")->valuestring);
    print_message("%s: %s, %zu ids\n", name, want->string, ids.n);
    eng_ids_free(&ids);
    buf_free(&text);
}

static void test_corpora(void **state)
{
    (void)state;
    struct buf json = golden_read("vocab/corpus.json");
    cJSON *all = cJSON_Parse(json.data);
    assert_non_null(all);
    for (size_t i = 0; i < N_NAME; i++) {
        char key[64];
        (void)snprintf(key, sizeof key, "%s.gguf", names[i]);
        const cJSON *mine = cJSON_GetObjectItem(all, key);
        assert_non_null(mine);
        struct vocab *v = load(names[i]);
        for (const cJSON *want = mine->child; want; want = want->next) {
            check_corpus(v, names[i], want);
        }
        vocab_destroy(v);
    }
    cJSON_Delete(all);
    buf_free(&json);
}

static void check_ids(const struct vocab *v, const char *text, unsigned flags, const cJSON *want)
{
    struct eng_ids ids = golden_ids(v, text, strlen(text), flags);
    size_t k = 0;
    const cJSON *id = NULL;
    assert_int_equal(ids.n, cJSON_GetArraySize(want));
    cJSON_ArrayForEach(id, want)
    {
        assert_int_equal(ids.ids[k++], id->valueint);
    }
    eng_ids_free(&ids);
}

static void test_stories(void **state)
{
    (void)state;
    struct buf json = golden_read("golden/stories260K/expected.json");
    cJSON *all = cJSON_Parse(json.data);
    const cJSON *list = cJSON_GetObjectItem(all, "tokenization");
    struct vocab *v = golden_vocab("models/stories260K.gguf");
    const cJSON *c = NULL;
    size_t n_case = 0;
    cJSON_ArrayForEach(c, list)
    {
        const char *text = cJSON_GetObjectItem(c, "text")->valuestring;
        check_ids(v, text, ENG_TOKENIZE_ADD_SPECIAL, cJSON_GetObjectItem(c, "ids"));
        check_ids(v, text, 0, cJSON_GetObjectItem(c, "ids_no_bos"));
        check_ids(v, text, ENG_TOKENIZE_ADD_SPECIAL | ENG_TOKENIZE_PARSE_SPECIAL,
                  cJSON_GetObjectItem(c, "ids_parse_special"));
        struct eng_ids ids = golden_ids(v, text, strlen(text), 0);
        struct buf back = golden_text(v, ids.ids, ids.n);
        const char *hex = cJSON_GetObjectItem(c, "detok_bytes_hex")->valuestring;
        assert_int_equal(back.len * 2, strlen(hex));
        for (size_t i = 0; i < back.len; i++) {
            char pair[3];
            (void)snprintf(pair, sizeof pair, "%02x", (unsigned char)back.data[i]);
            assert_memory_equal(pair, hex + 2 * i, 2);
        }
        buf_free(&back);
        eng_ids_free(&ids);
        n_case++;
    }
    assert_true(n_case >= 20);
    const struct vocab_facts *x = vocab_facts(v);
    assert_int_equal(x->bos, cJSON_GetObjectItem(all, "bos")->valueint);
    assert_int_equal(x->eos, cJSON_GetObjectItem(all, "eos")->valueint);
    assert_int_equal(x->sep, ENG_TOKEN_NONE); /* 4294967295 in the file */
    assert_true(vocab_is_eog(v, x->eos));
    assert_false(vocab_is_eog(v, x->bos));
    vocab_destroy(v);
    cJSON_Delete(all);
    buf_free(&json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_corpora),
        cmocka_unit_test(test_stories),
    };
    return golden_present() ? cmocka_run_group_tests(tests, NULL, NULL) : 77;
}
