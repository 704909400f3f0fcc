/* Never quadratic: a mebibyte of the texts that are worst for merging, splitting or searching takes
 * under a second of CPU time, for each kind of tokenizer and each pre-tokenizer. */
#include "golden.h"
#include "small_vocab.h"

#include "base/rng.h"
#include "engine/tokenizer/pretok_names.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

/* Sanitizers slow everything down, some more than others: there less text, to find faults in. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LIMIT_S    30.0
#define TEXT_BYTES (1u << 17)
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define LIMIT_S    30.0
#define TEXT_BYTES (1u << 17)
#endif
#endif
#ifndef LIMIT_S
#define LIMIT_S    1.0
#define TEXT_BYTES (1u << 20)
#endif

/* Repeated to a mebibyte; NULL: random bytes. The first few are also for real vocabularies. */
static const char *const patterns[] = {
    NULL,           "a",   " ",  "\n",           "1",
    "\xe4\xb8\xad", ".",   "'s", "\xcc\x81",     "Aa",
    "1a",           " \n", "a ", "\xe2\x96\x81", "\xe4\xb8\xad\x41",
};
#define N_PATTERN      (sizeof patterns / sizeof *patterns)
#define N_REAL_PATTERN 5

static double worst; /* of all that was timed */

static double cpu_s(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* The last character differs, so that what looks ahead to the end finds a surprise there. */
static struct buf text_of(const char *pattern)
{
    struct buf b = {0};
    uint64_t seed = 11;
    while (b.len + 16 < TEXT_BYTES) {
        if (pattern) {
            buf_puts(&b, pattern);
        } else {
            uint64_t r = rng_next(&seed);
            buf_append(&b, &r, sizeof r);
        }
    }
    buf_putc(&b, 'x');
    assert_true(buf_ok(&b));
    return b;
}

static void check(double start, const char *what, const char *pattern)
{
    double took = cpu_s() - start;
    worst = took > worst ? took : worst;
    if (took > LIMIT_S) {
        fail_msg("%s: 1 MB of '%s' took %.2f s", what, pattern ? pattern : "(random)", took);
    }
}

static void check_vocab(const struct vocab *v, const char *what, size_t n_pattern)
{
    for (size_t i = 0; i < n_pattern; i++) {
        struct buf text = text_of(patterns[i]);
        double start = cpu_s();
        struct eng_ids ids = golden_ids(v, text.data, text.len, ENG_TOKENIZE_PARSE_SPECIAL);
        check(start, what, patterns[i]);
        eng_ids_free(&ids);
        buf_free(&text);
    }
}

static void check_small(struct small *small, const char *what)
{
    struct vocab *v = NULL;
    struct err e = {0};
    if (small_load(small, &v, &e)) {
        fail_msg("%s: %s", what, e.msg);
    }
    check_vocab(v, what, N_PATTERN);
    vocab_destroy(v);
    small_free(small);
}

/* Doubling tokens, so that a run of one character merges log n times over. */
static void add_doubles(struct small *small, const char *c, bool merges)
{
    char s[1024] = "";
    strcat(s, c);
    for (int i = 0; i < 6; i++) {
        if (merges) {
            small_merge(small, s, s);
        }
        size_t n = strlen(s);
        memcpy(s + n, s, n);
        s[2 * n] = 0;
        (void)small_token(small, s, 2 * n, (float)-i, VOCAB_NORMAL);
    }
}

static void test_kinds(void **state)
{
    (void)state;
    struct small bpe = {.model = "gpt2", .pre = "gpt-2"};
    small_bytes(&bpe);
    add_doubles(&bpe, "a", true);
    add_doubles(&bpe, "\xc4\xa0", true);
    (void)small_token(&bpe, "<aaaaaaaa>", 10, 0, VOCAB_CONTROL);
    check_small(&bpe, "byte-level BPE");

    for (int inside = 0; inside < 2; inside++) {
        struct small spm = {.model = "llama", .no_merges = true};
        small_spm(&spm, true);
        (void)small_token(&spm, "a", 1, -9, VOCAB_NORMAL);
        add_doubles(&spm, "a", false);
        add_doubles(&spm, "\xe2\x96\x81", false);
        if (inside) { /* text is then one word */
            (void)small_token(&spm, "a\xe2\x96\x81", 4, -3, VOCAB_NORMAL);
        }
        check_small(&spm, "SentencePiece BPE");
    }

    struct small ugm = {.model = "t5", .no_merges = true, .ids = {{"unknown_token_id", 0}}};
    small_spm(&ugm, false);
    (void)small_token(&ugm, "a", 1, -9, VOCAB_NORMAL);
    add_doubles(&ugm, "a", false);
    add_doubles(&ugm, "\xe2\x96\x81", false);
    check_small(&ugm, "Unigram");

    struct small wpm = {.model = "bert", .no_merges = true};
    (void)small_token(&wpm, "[UNK]", 5, 0, VOCAB_CONTROL);
    (void)small_token(&wpm,
                      "\xe2\x96\x81"
                      "a",
                      4, 0, VOCAB_NORMAL);
    add_doubles(&wpm, "a", false);
    check_small(&wpm, "WordPiece");
}

static enum err_code count(void *arg, const char *word, size_t n, struct err *e)
{
    size_t *sum = arg;
    *sum += n;
    return ERR_OK;
}

/* Every rule takes every text in, whole. */
static void test_pre_tokenizers(void **state)
{
    (void)state;
    for (size_t i = 0; i < pretok_n_spec; i++) {
        char name[32];
        struct pretok *p = NULL;
        struct pretok_traits traits;
        struct err e = {0};
        (void)snprintf(name, sizeof name, "%.*s", (int)strcspn(pretok_specs[i].names, " "),
                       pretok_specs[i].names);
        if (pretok_create(name, &p, &traits, &e)) {
            fail_msg("%s", e.msg);
        }
        for (size_t k = 1; k < N_PATTERN; k++) {
            struct buf text = text_of(patterns[k]);
            size_t sum = 0;
            double start = cpu_s();
            if (pretok_run(p, text.data, text.len, count, &sum, &e)) {
                fail_msg("%s: '%s': %s", name, patterns[k], e.msg);
            }
            check(start, name, patterns[k]);
            assert_int_equal(sum, text.len);
            buf_free(&text);
        }
        pretok_destroy(p);
    }
}

static void test_golden_vocabularies(void **state)
{
    (void)state;
    static const char *const names[] = {"llama-bpe", "llama-spm"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        (void)snprintf(path, sizeof path, "vocab/%s.gguf", names[i]);
        struct vocab *v = golden_vocab(path);
        check_vocab(v, names[i], N_REAL_PATTERN);
        vocab_destroy(v);
    }
}

int main(void)
{
    const struct CMUnitTest alone[] = {
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_pre_tokenizers),
    };
    const struct CMUnitTest with_data[] = {cmocka_unit_test(test_golden_vocabularies)};
    int rc = cmocka_run_group_tests(alone, NULL, NULL);
    bool have_data = golden_present();
    if (have_data) {
        rc += cmocka_run_group_tests(with_data, NULL, NULL);
    }
    print_message("slowest: %.3f s of at most %.0f\n", worst, LIMIT_S);
    return rc || have_data ? rc : 77;
}
