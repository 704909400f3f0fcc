/* Merging and the Unigram search on random small vocabularies, against the plainest form of each
 * algorithm; and that the short cuts (whole words, words at spaces, the heap) change nothing. */
#include "golden.h"
#include "small_vocab.h"

#include "base/rng.h"
#include "engine/tokenizer/vocab_impl.h"

#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TEXT_MAX  240
#define WORDS     150
#define VOCABS    12
#define PARTS_MAX (TEXT_MAX * 3 + 8)

/* A text as strings that merge. */
struct parts {
    char s[PARTS_MAX][TEXT_MAX * 3 + 8];
    size_t n;
};

static struct parts parts;

static void part_add(const char *s, size_t n)
{
    memcpy(parts.s[parts.n], s, n);
    parts.s[parts.n++][n] = 0;
}

static void part_merge(size_t i)
{
    size_t n = strlen(parts.s[i]);
    memmove(parts.s[i] + n, parts.s[i + 1], strlen(parts.s[i + 1]) + 1);
    memmove(parts.s[i + 1], parts.s[i + 2], (parts.n - i - 2) * sizeof *parts.s);
    parts.n--;
}

static struct vocab *load(const struct small *v)
{
    struct vocab *ret = NULL;
    struct err e = {0};
    if (small_load(v, &ret, &e)) {
        fail_msg("%s", e.msg);
    }
    return ret;
}

/* ---- byte-level BPE ---- */

static long merge_rank(const struct small *v, const char *left, const char *right)
{
    char line[2 * TEXT_MAX + 2];
    (void)snprintf(line, sizeof line, "%s %s", left, right);
    for (size_t i = 0; i < v->n_merge; i++) {
        if (strcmp(v->merges[i].s, line) == 0) {
            return (long)i;
        }
    }
    return -1;
}

static void expect_bpe(const struct small *v, const char *word, struct eng_ids *ids)
{
    parts.n = 0;
    for (const char *c = word; *c; c++) {
        part_add(c, 1);
    }
    for (;;) {
        long best = -1;
        size_t at = 0;
        for (size_t i = 0; i + 1 < parts.n; i++) {
            long rank = merge_rank(v, parts.s[i], parts.s[i + 1]);
            if (rank >= 0 && (best < 0 || rank < best)) {
                best = rank;
                at = i;
            }
        }
        if (best < 0) {
            break;
        }
        part_merge(at);
    }
    for (size_t i = 0; i < parts.n; i++) {
        size_t id = 0;
        while (id < v->n_token && strcmp(v->tokens[id].s, parts.s[i]) != 0) {
            id++;
        }
        if (id < v->n_token) {
            assert_int_equal(eng_ids_push(ids, (int32_t)id, NULL), ERR_OK);
            continue;
        }
        for (const char *c = parts.s[i]; *c; c++) {
            assert_int_equal(eng_ids_push(ids, (unsigned char)*c, NULL), ERR_OK);
        }
    }
}

/* Merges of what is there already; now and then one whose result is no token. */
static void random_merges(struct small *v, uint64_t *seed)
{
    char made[64][32] = {"a", "b", "c"};
    size_t n = 3;
    while (n < 40) {
        const char *left = made[rng_next(seed) % n];
        const char *right = made[rng_next(seed) % n];
        if (strlen(left) + strlen(right) > 12 || merge_rank(v, left, right) >= 0) {
            continue;
        }
        small_merge(v, left, right);
        (void)snprintf(made[n], sizeof made[n], "%s%s", left, right);
        bool known = rng_next(seed) % 6 == 0;
        for (size_t i = 0; i < n; i++) {
            known = known || strcmp(made[i], made[n]) == 0;
        }
        if (!known) {
            (void)small_token(v, made[n], strlen(made[n]), 0, VOCAB_NORMAL);
        }
        n++;
    }
}

static size_t random_word(uint64_t *seed, const char *alphabet, char *word)
{
    size_t k = strlen(alphabet);
    size_t n = 1 + rng_next(seed) % (rng_next(seed) % 8 ? 20 : TEXT_MAX - 1);
    for (size_t i = 0; i < n; i++) {
        word[i] = alphabet[rng_next(seed) % k];
    }
    word[n] = 0;
    return n;
}

static void expect_same(const struct eng_ids *got, const struct eng_ids *want, const char *text)
{
    if (got->n != want->n || memcmp(got->ids, want->ids, got->n * sizeof *got->ids) != 0) {
        fail_msg("'%s': %zu ids, expected %zu, or others", text, got->n, want->n);
    }
}

static void test_bpe(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (int round = 0; round < VOCABS; round++) {
        struct small small = {.model = "gpt2", .pre = "gpt-2"};
        small_bytes(&small);
        random_merges(&small, &seed);
        struct vocab *v = load(&small);
        struct merge_scratch scratch = {0};
        for (int k = 0; k < WORDS; k++) {
            char word[TEXT_MAX];
            size_t n = random_word(&seed, "abc", word);
            struct eng_ids want = {0};
            expect_bpe(&small, word, &want);
            struct eng_ids got = golden_ids(v, word, n, 0);
            expect_same(&got, &want, word);
            got.n = 0;
            assert_int_equal(merge_word_plain(&v->merges, &scratch, word, n, true, &got, NULL),
                             ERR_OK);
            expect_same(&got, &want, word);
            eng_ids_free(&got);
            eng_ids_free(&want);
        }
        merge_scratch_finish(&scratch);
        vocab_destroy(v);
        small_free(&small);
    }
}

/* ---- SentencePiece BPE ---- */

static long token_of(const struct small *v, const char *s)
{
    for (size_t i = 0; i < v->n_token; i++) {
        if (strcmp(v->tokens[i].s, s) == 0 && v->types[i] == VOCAB_NORMAL) {
            return (long)i;
        }
    }
    return -1;
}

/* Spaces as U+2581; one before the text. */
static void spell(const char *text, char *out)
{
    size_t n = LOWER_BLOCK_N;
    memcpy(out, LOWER_BLOCK, LOWER_BLOCK_N);
    for (; *text; text++) {
        bool space = *text == ' ';
        memcpy(out + n, space ? LOWER_BLOCK : text, space ? LOWER_BLOCK_N : 1);
        n += space ? LOWER_BLOCK_N : 1;
    }
    out[n] = 0;
}

static void expect_spm(const struct small *v, const char *text, struct eng_ids *ids)
{
    char spelled[TEXT_MAX * 3 + 8];
    spell(text, spelled);
    parts.n = 0;
    for (const char *c = spelled; *c;) {
        size_t n = (unsigned char)*c < 0x80 ? 1 : 3;
        part_add(c, n);
        c += n;
    }
    for (;;) {
        long best = -1;
        size_t at = 0;
        for (size_t i = 0; i + 1 < parts.n; i++) {
            char both[2 * TEXT_MAX * 3];
            (void)snprintf(both, sizeof both, "%s%s", parts.s[i], parts.s[i + 1]);
            long id = token_of(v, both);
            if (id >= 0 && (best < 0 || v->scores[id] > v->scores[best])) {
                best = id;
                at = i;
            }
        }
        if (best < 0) {
            break;
        }
        part_merge(at);
    }
    for (size_t i = 0; i < parts.n; i++) {
        long id = token_of(v, parts.s[i]);
        if (id >= 0) {
            assert_int_equal(eng_ids_push(ids, (int32_t)id, NULL), ERR_OK);
            continue;
        }
        for (const char *c = parts.s[i]; *c; c++) {
            assert_int_equal(eng_ids_push(ids, 3 + (unsigned char)*c, NULL), ERR_OK);
        }
    }
}

/* Tokens of a, b and spaces; inside: spaces may follow letters, so that text is one long word. */
static void random_tokens(struct small *v, uint64_t *seed, bool inside)
{
    static const char *const chars[] = {"a", "b", LOWER_BLOCK};
    for (int i = 0; i < 60; i++) {
        char s[64] = "";
        size_t n = 1 + rng_next(seed) % 6;
        bool letters = false;
        for (size_t k = 0; k < n; k++) {
            size_t c = rng_next(seed) % (letters && !inside ? 2 : 3);
            letters = letters || c < 2;
            strcat(s, chars[c]);
        }
        if (token_of(v, s) < 0) {
            float score = -(float)(rng_next(seed) % 12);
            (void)small_token(v, s, strlen(s), score, VOCAB_NORMAL);
        }
    }
}

static void test_spm(void **state)
{
    (void)state;
    uint64_t seed = 2;
    for (int round = 0; round < VOCABS; round++) {
        struct small small = {.model = "llama", .no_merges = true};
        small_spm(&small, true);
        random_tokens(&small, &seed, round % 2);
        struct vocab *v = load(&small);
        for (int k = 0; k < WORDS; k++) {
            char text[TEXT_MAX];
            size_t n = random_word(&seed, "aabb c", text);
            struct eng_ids want = {0};
            expect_spm(&small, text, &want);
            struct eng_ids got = golden_ids(v, text, n, 0);
            expect_same(&got, &want, text);
            struct buf back = golden_text(v, got.ids, got.n);
            assert_string_equal(back.data, text);
            buf_free(&back);
            eng_ids_free(&got);
            eng_ids_free(&want);
        }
        vocab_destroy(v);
        small_free(&small);
    }
}

/* ---- Unigram ---- */

/* The best score of a split of spelled text, by trying every token at every place. */
static double best_score(const struct small *v, const char *spelled)
{
    static double best[TEXT_MAX * 3 + 8];
    size_t n = strlen(spelled);
    double lowest = 0;
    for (size_t i = 3; i < v->n_token; i++) {
        lowest = (double)v->scores[i] < lowest ? (double)v->scores[i] : lowest;
    }
    for (size_t i = 0; i <= n; i++) {
        best[i] = i ? -DBL_MAX : 0;
    }
    for (size_t i = 0; i < n; i++) {
        size_t len = (unsigned char)spelled[i] < 0x80 ? 1 : 3;
        bool single = false;
        if (((unsigned char)spelled[i] & 0xc0) == 0x80) {
            continue;
        }
        for (size_t t = 3; t < v->n_token; t++) {
            if (strncmp(spelled + i, v->tokens[t].s, v->tokens[t].n) == 0) {
                double *to = &best[i + v->tokens[t].n];
                double score = best[i] + (double)v->scores[t];
                *to = score > *to ? score : *to;
                single = single || v->tokens[t].n == len;
            }
        }
        double score = best[i] + lowest - 10;
        best[i + len] = !single && score > best[i + len] ? score : best[i + len];
    }
    return best[n];
}

static void test_unigram(void **state)
{
    (void)state;
    uint64_t seed = 3;
    for (int round = 0; round < VOCABS; round++) {
        struct small small = {.model = "t5", .no_merges = true, .ids = {{"unknown_token_id", 0}}};
        small_spm(&small, false);
        random_tokens(&small, &seed, round % 2);
        struct vocab *v = load(&small);
        for (int k = 0; k < WORDS; k++) {
            char text[TEXT_MAX];
            char spelled[TEXT_MAX * 3 + 8];
            char joined[TEXT_MAX * 3 + 8] = "";
            size_t n = random_word(&seed, "aabb ", text);
            spell(text, spelled);
            struct eng_ids got = golden_ids(v, text, n, 0);
            double score = 0;
            bool unknown = false;
            for (size_t i = 0; i < got.n; i++) {
                unknown = unknown || got.ids[i] == 0;
                score += (double)small.scores[got.ids[i]];
                strcat(joined, small.tokens[got.ids[i]].s);
            }
            if (!unknown) {
                assert_string_equal(joined, spelled);
                assert_true(score == best_score(&small, spelled));
            }
            eng_ids_free(&got);
        }
        vocab_destroy(v);
        small_free(&small);
    }
}

/* Every score is a small integer, so a lone missing character shows in the ids. */
static void test_unigram_unknown(void **state)
{
    (void)state;
    struct small small = {
        .model = "t5", .no_merges = true, .ids = {{"unknown_token_id", 0}, {"eos_token_id", 2}}};
    small_spm(&small, false);
    int32_t space = small_token(&small, LOWER_BLOCK, 3, -1, VOCAB_NORMAL);
    int32_t a = small_token(&small, "a", 1, -2, VOCAB_NORMAL);
    struct vocab *v = load(&small);
    struct eng_ids ids = golden_ids(v, "axyza", 5, ENG_TOKENIZE_ADD_SPECIAL);
    const int32_t want[] = {space, a, 0, a, 2};
    assert_int_equal(ids.n, 5);
    assert_memory_equal(ids.ids, want, sizeof want);
    eng_ids_free(&ids);
    vocab_destroy(v);
    small_free(&small);
}

/* ---- added tokens ---- */

static void test_added_longest(void **state)
{
    (void)state;
    struct small small = {.model = "gpt2", .pre = "gpt-2"};
    small_bytes(&small);
    int32_t a = small_token(&small, "<a>", 3, 0, VOCAB_CONTROL);
    int32_t ab = small_token(&small, "<a>b", 4, 0, VOCAB_CONTROL);
    int32_t user = small_token(&small, "b<", 2, 0, VOCAB_USER_DEFINED);
    struct vocab *v = load(&small);
    struct eng_ids ids = golden_ids(v, "<a>b<a>c", 8, ENG_TOKENIZE_PARSE_SPECIAL);
    assert_int_equal(ids.n, 3);
    assert_int_equal(ids.ids[0], ab);
    assert_int_equal(ids.ids[1], a);
    assert_int_equal(ids.ids[2], 'c');
    ids.n = 0;
    assert_int_equal(vocab_tokenize(v, "<a>b<a>c", 8, 0, &ids, NULL), ERR_OK);
    assert_int_equal(ids.n, 7); /* < a > b< a > c */
    assert_int_equal(ids.ids[3], user);
    struct buf text = golden_text(v, ids.ids, ids.n);
    assert_string_equal(text.data, "<a>b<a>c");
    buf_free(&text);
    eng_ids_free(&ids);
    vocab_destroy(v);
    small_free(&small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bpe),           cmocka_unit_test(test_spm),
        cmocka_unit_test(test_unigram),       cmocka_unit_test(test_unigram_unknown),
        cmocka_unit_test(test_added_longest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
