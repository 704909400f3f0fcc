/* Vocabularies as files should not have them: each is refused with a line that names the key, or
 * loads and stays harmless. And what metadata means: ids, flags, ends of a generation, names. */
#include "golden.h"
#include "small_vocab.h"

#include "engine/gguf_write.h"
#include "engine/tokenizer/pretok_names.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void refused(struct small *small, enum err_code code, const char *word)
{
    struct vocab *v = NULL;
    struct err e = {0};
    assert_int_equal(small_load(small, &v, &e), code);
    assert_null(v);
    if (!strstr(e.msg, word)) {
        fail_msg("'%s' does not name '%s'", e.msg, word);
    }
    small_free(small);
}

static struct vocab *load(const struct small *small)
{
    struct vocab *v = NULL;
    struct err e = {0};
    if (small_load(small, &v, &e)) {
        fail_msg("%s", e.msg);
    }
    return v;
}

static struct vocab *loaded(struct small *small)
{
    struct vocab *v = load(small);
    small_free(small);
    return v;
}

/* Loads, and takes any text without harm. */
static void harmless(struct small *small)
{
    static const char text[] = "<s> a b\xe2\x96\x81 \xff\xc3\xa9 aaaa\n\n</s>123 ab ab abab";
    struct vocab *v = loaded(small);
    for (unsigned flags = 0; flags < 4; flags++) {
        struct eng_ids ids = golden_ids(v, text, sizeof text, flags);
        for (size_t i = 0; i < ids.n; i++) {
            assert_true(ids.ids[i] >= 0 && (uint32_t)ids.ids[i] < vocab_n(v));
        }
        struct buf back = golden_text(v, ids.ids, ids.n);
        buf_free(&back);
        eng_ids_free(&ids);
    }
    vocab_destroy(v);
}

static struct small bpe(void)
{
    struct small s = {.model = "gpt2", .pre = "gpt-2"};
    small_bytes(&s);
    return s;
}

static struct small spm(void)
{
    struct small s = {.model = "llama", .no_merges = true};
    small_spm(&s, true);
    (void)small_token(&s, "a", 1, -1, VOCAB_NORMAL);
    return s;
}

static void test_missing(void **state)
{
    (void)state;
    struct small s = {0};
    refused(&s, ERR_CORRUPT, "tokenizer.ggml.model");
    s = (struct small){.model = "martian"};
    refused(&s, ERR_UNSUPPORTED, "martian");
    s = (struct small){.model = "gpt2", .pre = "gpt-2"};
    refused(&s, ERR_CORRUPT, "tokenizer.ggml.tokens");
    s = bpe();
    s.no_merges = true;
    refused(&s, ERR_CORRUPT, "tokenizer.ggml.merges");
    s = bpe();
    s.pre = "gpt-5000";
    refused(&s, ERR_UNSUPPORTED, "gpt-5000");
    s = bpe();
    s.pre = "";
    refused(&s, ERR_UNSUPPORTED, "tokenizer.ggml.pre");
    s = bpe();
    s.pre = "gpt-2 phi-2";
    refused(&s, ERR_UNSUPPORTED, "gpt-2 phi-2");
    s = spm();
    s.n_score = 0;
    refused(&s, ERR_CORRUPT, "tokenizer.ggml.scores");
}

static void test_lengths(void **state)
{
    (void)state;
    struct small s = spm();
    s.n_score--;
    refused(&s, ERR_CORRUPT, "tokenizer.ggml.scores");
    s = spm();
    s.n_type--;
    refused(&s, ERR_CORRUPT, "tokenizer.ggml.token_type");
    s = spm();
    s.scores[7] = NAN;
    refused(&s, ERR_CORRUPT, "tokenizer.ggml.scores: entry 7");
    s = spm();
    s.scores[7] = -INFINITY;
    s.scores[8] = INFINITY;
    harmless(&s);
    s = spm();
    s.n_type = 0; /* no types: bytes are told by their spelling */
    harmless(&s);
    s = bpe();
    s.types[5] = 99;
    s.types[6] = -5;
    harmless(&s);
}

static void test_merges(void **state)
{
    (void)state;
    static const char *const bad[] = {"", " ", "a", "a ", "ab"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct small s = bpe();
        small_merge(&s, "a", "b");
        free((char *)s.merges[0].s);
        s.merges[0] = (struct gguf_str){.s = strdup(bad[i]), .n = strlen(bad[i])};
        refused(&s, ERR_CORRUPT, "tokenizer.ggml.merges: entry 0");
    }
    struct small s = bpe();
    small_merge(&s, "a", "b");            /* of no token */
    small_merge(&s, "ab", "ab");          /* of that */
    small_merge(&s, "\xe4\xb8\xad", "a"); /* outside the alphabet */
    small_merge(&s, "a", "\xff");         /* not UTF-8 */
    small_merge(&s, "a", "b");            /* again */
    small_merge(&s, "abab", "a");         /* a ring of meanings */
    small_merge(&s, "a", "babab");
    small_merge(&s, " ", "a"); /* a literal space */
    (void)small_token(&s, "abab", 4, 0, VOCAB_NORMAL);
    harmless(&s);
}

static void test_odd_tokens(void **state)
{
    (void)state;
    struct small s = bpe();
    (void)small_token(&s, "", 0, 0, VOCAB_NORMAL);
    (void)small_token(&s, "", 0, 0, VOCAB_CONTROL);
    (void)small_token(&s, "a", 1, 0, VOCAB_NORMAL); /* twice */
    (void)small_token(&s, "a", 1, 0, VOCAB_USER_DEFINED);
    (void)small_token(&s, "\xe4\xb8\xad", 3, 0, VOCAB_NORMAL);
    (void)small_token(&s, "\xff\xfe", 2, 0, VOCAB_NORMAL);
    (void)small_token(&s, "\xc3", 1, 0, VOCAB_USER_DEFINED); /* part of a character */
    (void)small_token(&s, "a\0b", 3, 0, VOCAB_CONTROL);
    (void)small_token(&s, "zz", 2, 0, VOCAB_BYTE);
    harmless(&s);
    s = spm();
    (void)small_token(&s, "", 0, 0, VOCAB_NORMAL);
    (void)small_token(&s, "<0xZZ>", 6, 0, VOCAB_BYTE);
    (void)small_token(&s, "<0x41>", 6, 0, VOCAB_BYTE);
    (void)small_token(&s, "a b", 3, 0, VOCAB_NORMAL);
    (void)small_token(&s, "\xe2\x96\x81", 3, -1, VOCAB_NORMAL);
    (void)small_token(&s, "\xc3", 1, -1, VOCAB_NORMAL);
    (void)small_token(&s, "\x80\x80\x80", 3, -1, VOCAB_NORMAL);
    (void)small_token(&s, "a\xc3\xa9\xc3", 4, -1, VOCAB_NORMAL);
    harmless(&s);
    s = (struct small){.model = "bert", .no_merges = true};
    (void)small_token(&s, "[UNK]", 5, 0, VOCAB_CONTROL);
    (void)small_token(&s, "", 0, 0, VOCAB_NORMAL);
    (void)small_token(&s, "\xc3", 1, 0, VOCAB_NORMAL);
    harmless(&s);
    s = (struct small){.model = "t5", .no_merges = true, .ids = {{"unknown_token_id", 0}}};
    small_spm(&s, false);
    (void)small_token(&s, "\xc3", 1, -1, VOCAB_NORMAL);
    (void)small_token(&s, "", 0, -1, VOCAB_NORMAL);
    harmless(&s);
    s = (struct small){.model = "t5", .no_merges = true, .ids = {{"unknown_token_id", 99}}};
    (void)small_token(&s, "a", 1, -1, VOCAB_NORMAL);
    refused(&s, ERR_CORRUPT, "unknown_token_id");
}

static void test_long_tokens(void **state)
{
    (void)state;
    size_t n = 1u << 20;
    char *huge = malloc(n);
    assert_non_null(huge);
    memset(huge, 'a', n);
    struct small s = bpe();
    (void)small_token(&s, huge, n, 0, VOCAB_NORMAL);
    (void)small_token(&s, huge, n - 1, 0, VOCAB_CONTROL);
    harmless(&s);
    s = (struct small){.model = "bert", .no_merges = true};
    (void)small_token(&s, "[UNK]", 5, 0, VOCAB_CONTROL);
    (void)small_token(&s, huge, n, 0, VOCAB_NORMAL);
    harmless(&s);
    s = (struct small){.model = "t5", .no_merges = true, .ids = {{"unknown_token_id", 0}}};
    (void)small_token(&s, "<unk>", 5, 0, VOCAB_UNKNOWN);
    (void)small_token(&s, huge, n, -1, VOCAB_NORMAL);
    refused(&s, ERR_LIMIT, "tokenizer.ggml.tokens: entry 1");
    free(huge);
}

static void test_ids(void **state)
{
    (void)state;
    struct small s = bpe();
    s.ids[0].key = "bos_token_id";
    s.ids[0].id = UINT32_MAX;
    s.ids[1].key = "eos_token_id";
    s.ids[1].id = 256; /* one too many */
    s.ids[2].key = "padding_token_id";
    s.ids[2].id = 255;
    struct vocab *v = loaded(&s);
    const struct vocab_facts *x = vocab_facts(v);
    assert_int_equal(x->bos, ENG_TOKEN_NONE);
    assert_int_equal(x->eos, ENG_TOKEN_NONE);
    assert_int_equal(x->pad, 255);
    assert_false(x->add_bos);
    assert_false(vocab_is_eog(v, ENG_TOKEN_NONE));
    vocab_destroy(v);

    s = bpe();
    s.ids[0].key = "bos_token_id";
    s.ids[0].id = UINT32_MAX;
    s.flags[0].key = "add_bos_token";
    s.flags[0].value = true;
    refused(&s, ERR_CORRUPT, "tokenizer.ggml.add_bos_token");

    s = spm();
    s.flags[0].key = "add_eos_token";
    s.flags[0].value = true;
    s.flags[1].key = "add_space_prefix";
    v = loaded(&s);
    struct eng_ids ids = golden_ids(v, "a", 1, ENG_TOKENIZE_ADD_SPECIAL);
    const int32_t want[] = {1, 259, 2};
    assert_int_equal(ids.n, 3);
    assert_memory_equal(ids.ids, want, sizeof want);
    eng_ids_free(&ids);
    vocab_destroy(v);
}

static void expect_eog(const struct vocab *v, const char *text, bool eog, enum vocab_type type)
{
    int32_t id = vocab_find(v, text, strlen(text));
    assert_int_not_equal(id, ENG_TOKEN_NONE);
    if (vocab_is_eog(v, id) != eog || vocab_type(v, id) != type) {
        fail_msg("%s: eog %d, type %d", text, vocab_is_eog(v, id), vocab_type(v, id));
    }
}

static void add(struct small *s, const char *text, enum vocab_type type)
{
    (void)small_token(s, text, strlen(text), 0, type);
}

static void test_eog(void **state)
{
    (void)state;
    struct small s = bpe();
    add(&s, "<|im_end|>", VOCAB_NORMAL); /* whatever the file says */
    add(&s, "<|im_start|>", VOCAB_CONTROL);
    add(&s, "<|end|>", VOCAB_CONTROL);
    add(&s, "</s>", VOCAB_NORMAL); /* an HTML tag */
    struct vocab *v = loaded(&s);
    expect_eog(v, "<|im_end|>", true, VOCAB_CONTROL);
    expect_eog(v, "<|im_start|>", false, VOCAB_CONTROL);
    expect_eog(v, "<|end|>", true, VOCAB_CONTROL);
    expect_eog(v, "</s>", false, VOCAB_NORMAL);
    vocab_destroy(v);

    s = bpe(); /* the harmony format: <|end|> ends a channel, not the answer */
    add(&s, "<|end|>", VOCAB_CONTROL);
    add(&s, "<|return|>", VOCAB_CONTROL);
    add(&s, "<|call|>", VOCAB_CONTROL);
    v = loaded(&s);
    expect_eog(v, "<|end|>", false, VOCAB_CONTROL);
    expect_eog(v, "<|return|>", true, VOCAB_CONTROL);
    expect_eog(v, "<|call|>", true, VOCAB_CONTROL);
    vocab_destroy(v);

    s = bpe();
    s.ids[0].key = "eot_token_id";
    s.ids[0].id = 'q';
    v = loaded(&s);
    assert_true(vocab_is_eog(v, 'q'));
    assert_int_equal(vocab_facts(v)->eot, 'q');
    vocab_destroy(v);
}

static void test_strip(void **state)
{
    (void)state;
    struct small s = {.arch = "phi3", .model = "llama", .no_merges = true};
    small_spm(&s, true);
    (void)small_token(&s, "a", 1, -1, VOCAB_NORMAL);
    int32_t end = small_token(&s, "<|end|>", 7, 0, VOCAB_CONTROL);
    s.flags[0].key = "add_space_prefix";
    struct vocab *v = loaded(&s);
    struct eng_ids ids = golden_ids(v, "a<|end|> \n\ta", 12, ENG_TOKENIZE_PARSE_SPECIAL);
    const int32_t want[] = {259, end, 259};
    assert_int_equal(ids.n, 3);
    assert_memory_equal(ids.ids, want, sizeof want);
    eng_ids_free(&ids);
    vocab_destroy(v);
}

static void test_no_vocab(void **state)
{
    (void)state;
    struct small s = {.model = "no_vocab", .no_merges = true, .n_vocab = 77};
    struct vocab *v = loaded(&s);
    struct eng_ids ids = {0};
    struct eng_detok d = {0};
    struct buf out = {0};
    assert_int_equal(vocab_n(v), 77);
    assert_int_equal(vocab_tokenize(v, "a", 1, 0, &ids, NULL), ERR_UNSUPPORTED);
    vocab_detokenize(v, &d, 5, true, &out);
    assert_int_equal(out.len, 0);
    assert_false(vocab_is_eog(v, 5));
    assert_int_equal(vocab_find(v, "a", 1), ENG_TOKEN_NONE);
    buf_free(&out);
    vocab_destroy(v);
}

/* Each name of the table is found, and their expressions compile. */
static void test_names(void **state)
{
    (void)state;
    size_t n_name = 0;
    for (size_t i = 0; i < pretok_n_spec; i++) {
        for (const char *at = pretok_specs[i].names; *at; n_name++) {
            char name[64] = "";
            size_t n = strcspn(at, " ");
            memcpy(name, at, n);
            at += n + 1;
            struct pretok *p = NULL;
            struct pretok_traits t;
            struct err e = {0};
            if (pretok_create(name, &p, &t, &e)) {
                fail_msg("%s", e.msg);
            }
            assert_int_equal(t.ignore_merges, pretok_specs[i].traits.ignore_merges);
            pretok_destroy(p);
        }
    }
    print_message("%zu names of pre-tokenizers\n", n_name);
    assert_true(n_name > 70);
}

/* A file without the key takes the old rule; the key's value decides otherwise. */
static void test_no_pre(void **state)
{
    (void)state;
    struct small s = bpe();
    s.pre = NULL;
    harmless(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_missing),     cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_merges),      cmocka_unit_test(test_odd_tokens),
        cmocka_unit_test(test_long_tokens), cmocka_unit_test(test_ids),
        cmocka_unit_test(test_eog),         cmocka_unit_test(test_strip),
        cmocka_unit_test(test_no_vocab),    cmocka_unit_test(test_names),
        cmocka_unit_test(test_no_pre),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
