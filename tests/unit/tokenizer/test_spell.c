/* How text is spelled before it is searched or merged: Unigram's normaliser (its table built here),
 * what it does with spaces, broken tables; gemma4's BPE over U+2581; and that many threads may use
 * one vocabulary. */
#include "golden.h"
#include "small_vocab.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define UNITS 4096

/* A double array: the children of node a stand at a ^ offset ^ byte; child 0 holds a leaf's value.
 * unit: offset << 10 | has leaf << 8 | label; of a leaf's value: 1 << 31 | value. */
struct table {
    uint32_t units[UNITS];
    bool used[UNITS];
    bool bases[UNITS]; /* taken: two nodes with one base would see each other's children */
    struct buf strings;
    uint8_t bytes[4 + 4 * UNITS + 256];
    size_t n_byte;
};

struct rule {
    const char *from;
    const char *to;
};

/* Places the children of `node`, the rules that share its first depth bytes. */
static void place(struct table *t, uint32_t node, const struct rule *rules, size_t n, size_t depth)
{
    bool kids[256] = {false};
    for (size_t i = 0; i < n; i++) {
        kids[(unsigned char)rules[i].from[depth]] = true;
    }
    uint32_t base = 1; /* node ^ offset: no child may fall on a used unit */
    for (bool free = false; !free; base += !free) {
        free = !t->bases[base];
        for (uint32_t c = 0; c < 256 && free; c++) {
            free = !kids[c] || ((base ^ c) < UNITS && !t->used[base ^ c]);
        }
    }
    t->bases[base] = true;
    t->units[node] |= (node ^ base) << 10;
    for (uint32_t c = 0; c < 256; c++) {
        t->used[base ^ c] = t->used[base ^ c] || kids[c];
    }
    for (uint32_t c = 0; c < 256; c++) {
        size_t first = 0;
        while (kids[c] && (unsigned char)rules[first].from[depth] != c) {
            first++;
        }
        size_t last = first;
        while (kids[c] && last < n && (unsigned char)rules[last].from[depth] == c) {
            last++;
        }
        if (kids[c] && c) {
            t->units[base ^ c] = c;
            place(t, base ^ c, rules + first, last - first, depth + 1);
        } else if (kids[c]) {
            t->units[node] |= 1u << 8;
            t->units[base] = 1u << 31 | (uint32_t)t->strings.len;
            buf_append(&t->strings, rules[first].to, strlen(rules[first].to) + 1);
        }
    }
}

/* rules: sorted by their bytes. */
static struct table *build(const struct rule *rules, size_t n)
{
    struct table *t = calloc(1, sizeof *t);
    assert_non_null(t);
    t->used[0] = true;
    place(t, 0, rules, n, 0);
    uint32_t size = sizeof t->units;
    memcpy(t->bytes, &size, 4);
    memcpy(t->bytes + 4, t->units, size);
    memcpy(t->bytes + 4 + size, t->strings.data, t->strings.len);
    t->n_byte = 4 + size + t->strings.len;
    buf_free(&t->strings);
    return t;
}

static const struct rule rules[] = {
    {"\t", " "},
    {"\xc3\xa9", "e"},                     /* é */
    {"\xe2\x80\x8b", ""},                  /* zero width space */
    {"\xe3\x80\x80", " "},                 /* ideographic space */
    {"\xe3\x8d\xbf", "abc a"},             /* ㍿, as if */
    {"\xef\xac", "x"},                     /* part of a character: never taken */
    {"\xef\xac\x81", "fi"},                /* ﬁ */
    {"a\xcc\x81", "\xc3\xa1"},             /* a and an accent */
    {"a\xcc\x81\xcc\x82", "\xe1\xba\xa5"}, /* and two: the longest counts */
};
#define N_RULE (sizeof rules / sizeof *rules)

static void start(struct small *s, bool one_space, bool prefix)
{
    *s = (struct small){
        .model = "t5",
        .no_merges = true,
        .ids = {{"unknown_token_id", 0}},
        .flags = {{"remove_extra_whitespaces", one_space}, {"add_space_prefix", prefix}}};
    static const char *const tokens[] = {"\xe2\x96\x81", "a",           "b", "c", "e", "f", "i",
                                         "\xc3\xa1",     "\xe1\xba\xa5"};
    (void)small_token(s, "<unk>", 5, 0, VOCAB_UNKNOWN);
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        (void)small_token(s, tokens[i], strlen(tokens[i]), -1, VOCAB_NORMAL);
    }
}

static struct vocab *load(struct small *s)
{
    struct vocab *v = NULL;
    struct err e = {0};
    if (small_load(s, &v, &e)) {
        fail_msg("%s", e.msg);
    }
    small_free(s);
    return v;
}

/* The tokens of text, one after another, '_' for U+2581 and '?' for the unknown one. */
static void expect(const struct vocab *v, const char *text, const char *want)
{
    struct eng_ids ids = golden_ids(v, text, strlen(text), 0);
    struct buf got = {0};
    for (size_t i = 0; i < ids.n; i++) {
        struct gguf_str piece = vocab_piece(v, ids.ids[i]);
        if (ids.ids[i] == 0) {
            buf_putc(&got, '?');
        } else {
            for (size_t k = 0; k < piece.n; k++) {
                buf_putc(&got, piece.s[k] == ' ' ? '_' : piece.s[k]);
            }
        }
    }
    if (strcmp(buf_str(&got), want) != 0) {
        fail_msg("'%s' is '%s', expected '%s'", text, buf_str(&got), want);
    }
    buf_free(&got);
    eng_ids_free(&ids);
}

static void test_normaliser(void **state)
{
    (void)state;
    struct table *t = build(rules, N_RULE);
    struct small s;
    start(&s, true, true);
    s.charsmap = t->bytes;
    s.n_charsmap = t->n_byte;
    struct vocab *v = load(&s);
    expect(v, "a\xc3\xa9", "_ae");
    expect(v, "\xef\xac\x81", "_fi");
    expect(v, "a\xcc\x81", "_\xc3\xa1");
    expect(v, "a\xcc\x81\xcc\x82", "_\xe1\xba\xa5");
    expect(v, "a\xcc\x82", "_a?");
    expect(v, "\xe3\x8d\xbf", "_abc_a");
    expect(v,
           " a \t\xe3\x80\x80  b\xe2\x80\x8b"
           "c ",
           "_a_bc");
    expect(v, "   ", "");
    expect(v, "\xe2\x80\x8b", "");
    expect(v, "\xef\xac\x82", "_?");
    expect(v, "zz a", "_?_a");
    vocab_destroy(v);
    free(t);
}

static void test_spaces(void **state)
{
    (void)state;
    static const struct {
        bool one_space;
        bool prefix;
        const char *text;
        const char *want;
    } cases[] = {
        {true, true, " a  b ", "_a_b"},
        {true, false, " a  b ", "a_b"},
        {false, true, " a  b ", "__a__b_"},
        {false, false, " a  b ", "_a__b_"},
        {true, true,
         "a\xe2\x96\x81"
         "b",
         "_a_b"},
        {true, true, "a\xe2\x96\x81", "_a"},
        {false, false, "a\xe2\x96\x81", "a_"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct small s;
        start(&s, cases[i].one_space, cases[i].prefix);
        struct vocab *v = load(&s);
        expect(v, cases[i].text, cases[i].want);
        vocab_destroy(v);
    }
}

static void refused(const uint8_t *bytes, size_t n)
{
    struct small s;
    struct vocab *v = NULL;
    struct err e = {0};
    start(&s, true, true);
    s.charsmap = bytes;
    s.n_charsmap = n;
    assert_int_equal(small_load(&s, &v, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.msg, "tokenizer.ggml.precompiled_charsmap"));
    small_free(&s);
}

static void test_broken_tables(void **state)
{
    (void)state;
    struct table *t = build(rules, N_RULE);
    refused(t->bytes, 3);
    refused(t->bytes, 4);
    refused(t->bytes, 4 + 4 * UNITS); /* no strings */
    refused(t->bytes, t->n_byte - 1); /* the last one does not end */
    t->bytes[0] ^= 1;
    refused(t->bytes, t->n_byte); /* half a unit */
    t->bytes[0] ^= 1;
    t->bytes[3] = 0xff;
    refused(t->bytes, t->n_byte);
    t->bytes[3] = 0;
    t->bytes[t->n_byte - 2] = 0xff;
    refused(t->bytes, t->n_byte); /* not UTF-8 */
    t->bytes[t->n_byte - 2] = 'a';

    uint32_t far = 0x7fffffffu << 10; /* the root's children lie outside */
    memcpy(t->bytes + 4, &far, 4);
    struct small s;
    start(&s, true, true);
    s.charsmap = t->bytes;
    s.n_charsmap = t->n_byte;
    struct vocab *v = load(&s);
    struct eng_ids ids = {0};
    struct err e = {0};
    assert_int_equal(vocab_tokenize(v, "a", 1, 0, &ids, &e), ERR_CORRUPT);
    assert_int_equal(ids.n, 0);
    eng_ids_free(&ids);
    vocab_destroy(v);
    free(t);
}

static struct vocab *gemma4(void)
{
    struct small s = {.model = "gemma4"};
    small_spm(&s, true);
    static const char *const tokens[] = {"\xe2\x96\x81",
                                         "a",
                                         "b",
                                         "\xe2\x96\x81"
                                         "a",
                                         "\xe2\x96\x81"
                                         "ab",
                                         "\n",
                                         "\n\n",
                                         "\n\n\n",
                                         "\xe2\x96\x81\xe2\x96\x81"};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        (void)small_token(&s, tokens[i], strlen(tokens[i]), 0, VOCAB_NORMAL);
    }
    small_merge(&s, "\xe2\x96\x81", "a");
    small_merge(&s,
                "\xe2\x96\x81"
                "a",
                "b");
    small_merge(&s, "\xe2\x96\x81", "\xe2\x96\x81");
    return load(&s);
}

static void test_gemma4(void **state)
{
    (void)state;
    struct vocab *v = gemma4();
    const char text[] = "ab ab  a\n\n\nb \xc3\xa9";
    struct eng_ids ids = golden_ids(v, text, sizeof text - 1, 0);
    const int32_t t = 3 + 256;
    /* a b | _ab | _ _a | \n\n\n, merges or not | b | _ é as bytes */
    const int32_t want[] = {t + 1, t + 2, t + 4, t + 0,    t + 3,
                            t + 7, t + 2, t + 0, 3 + 0xc3, 3 + 0xa9};
    assert_int_equal(ids.n, sizeof want / sizeof *want);
    assert_memory_equal(ids.ids, want, sizeof want);
    struct buf back = golden_text(v, ids.ids, ids.n);
    assert_string_equal(back.data, text);
    buf_free(&back);
    eng_ids_free(&ids);
    vocab_destroy(v);
}

struct job {
    const struct vocab *v;
    struct eng_ids ids;
};

static void *work(void *arg)
{
    struct job *job = arg;
    for (int i = 0; i < 50; i++) {
        job->ids.n = 0;
        if (vocab_tokenize(job->v, "ab ab  a\n\n\nb ab ab", 19, 0, &job->ids, NULL)) {
            return NULL;
        }
    }
    return arg;
}

static void test_threads(void **state)
{
    (void)state;
    struct vocab *v = gemma4();
    struct job jobs[4] = {{0}};
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++) {
        jobs[i].v = v;
        assert_int_equal(pthread_create(&threads[i], NULL, work, &jobs[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        void *ret = NULL;
        assert_int_equal(pthread_join(threads[i], &ret), 0);
        assert_non_null(ret);
        assert_int_equal(jobs[i].ids.n, jobs[0].ids.n);
        assert_memory_equal(jobs[i].ids.ids, jobs[0].ids.ids, jobs[0].ids.n * sizeof(int32_t));
    }
    for (size_t i = 0; i < 4; i++) {
        eng_ids_free(&jobs[i].ids);
    }
    vocab_destroy(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_normaliser),    cmocka_unit_test(test_spaces),
        cmocka_unit_test(test_broken_tables), cmocka_unit_test(test_gemma4),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
