/* Any bytes as text for a small vocabulary of each kind: first byte which one, second the flags.
 * Ids must be in range; what spells every byte must give the text back; a second call must give the
 * same ids. The vocabularies are made once, since making them takes longer than using them. */
#include "fuzz.h"
#include "tests/unit/tokenizer/small_vocab.h"

#include "base/utf8.h"
#include "engine/tokenizer/vocab_impl.h"

#include <stdlib.h>
#include <string.h>

#define N_VOCAB 14

static const char *const pres[] = {"gpt-2",   "llama-bpe",    "qwen2",          "gpt-4o",
                                   "kimi-k2", "deepseek-llm", "deepseek-coder", "deepseek-v3",
                                   "falcon",  "tiny_aya"};
#define N_PRE (sizeof pres / sizeof *pres)

static const char *const words[] = {"a",  "b",    "ab", "th",   "the", "he", "in",
                                    "er", "abab", "aa", "aaaa", "12",  "!!"};
#define N_WORD (sizeof words / sizeof *words)

/* A token for each word, and one with a space before it where the kind spells spaces so. */
static void add_words(struct small *s, const char *space)
{
    for (size_t i = 0; i < N_WORD; i++) {
        char spaced[32] = "";
        strcat(spaced, space);
        strcat(spaced, words[i]);
        if (s->n_token < 256 || strlen(words[i]) > 1) {
            (void)small_token(s, words[i], strlen(words[i]), -(float)i, VOCAB_NORMAL);
        }
        (void)small_token(s, spaced, strlen(spaced), -(float)(i + 1), VOCAB_NORMAL);
    }
    (void)small_token(s, "<|end|>", 7, 0, VOCAB_CONTROL);
    (void)small_token(s, "<a>", 3, 0, VOCAB_USER_DEFINED);
    (void)small_token(s, "<a>b", 4, 0, VOCAB_CONTROL);
}

static void make(size_t i, struct small *s)
{
    s->no_merges = i >= N_PRE && i < 13;
    if (i < N_PRE) {
        s->model = "gpt2";
        s->pre = pres[i];
        small_bytes(s);
        add_words(s, "\xc4\xa0");
        small_merge(s, "t", "h");
        small_merge(s, "th", "e");
        small_merge(s, "a", "b");
        small_merge(s, "ab", "ab");
        small_merge(s, "a", "a");
        small_merge(s, "aa", "aa");
        small_merge(s, "\xc4\xa0", "the");
        small_merge(s, "h", "e");
    } else if (i == 10) {
        s->model = "t5";
        s->ids[0].key = "unknown_token_id";
        s->flags[0].key = "remove_extra_whitespaces";
        s->flags[0].value = true;
        small_spm(s, false);
        add_words(s, LOWER_BLOCK);
    } else if (i == 11) {
        s->model = "bert";
        (void)small_token(s, "[UNK]", 5, 0, VOCAB_CONTROL);
        add_words(s, LOWER_BLOCK);
    } else {
        s->model = i == 12 ? "llama" : "gemma4";
        small_spm(s, true);
        (void)small_token(s, LOWER_BLOCK, 3, -1, VOCAB_NORMAL);
        add_words(s, LOWER_BLOCK);
        small_merge(s, LOWER_BLOCK, "a");
        small_merge(s, LOWER_BLOCK, LOWER_BLOCK);
        small_merge(s, "a", "b");
    }
}

static const struct vocab *vocab_at(size_t i)
{
    static struct vocab *made[N_VOCAB];
    if (!made[i]) {
        struct small *s = calloc(1, sizeof *s);
        struct err e;
        if (!s) {
            abort();
        }
        make(i, s);
        if (small_load(s, &made[i], &e)) {
            abort();
        }
        small_free(s);
        free(s);
    }
    return made[i];
}

/* What should come back: U+FFFD for what is no UTF-8, and spaces for U+2581 where they are one. */
static struct buf expected(const char *text, size_t n, bool spaces)
{
    struct buf b = {0};
    for (size_t i = 0; i < n;) {
        size_t len = utf8_char_len(text + i, n - i);
        bool block = spaces && len == 3 && memcmp(text + i, LOWER_BLOCK, 3) == 0;
        if (!len) {
            buf_puts(&b, "\xef\xbf\xbd");
        } else if (block) {
            buf_putc(&b, ' ');
        } else {
            buf_append(&b, text + i, len);
        }
        i += len ? len : 1;
    }
    return b;
}

static void check_text(const struct vocab *v, const struct eng_ids *ids, const char *text, size_t n)
{
    struct eng_detok state = {0};
    struct buf back = {0};
    for (size_t i = 0; i < ids->n; i++) {
        vocab_detokenize(v, &state, ids->ids[i], true, &back);
    }
    struct buf want = expected(text, n, v->merges.by_char);
    if (back.len != want.len || (back.len && memcmp(back.data, want.data, back.len) != 0)) {
        abort();
    }
    buf_free(&want);
    buf_free(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    if (n < 2) {
        return 0;
    }
    const struct vocab *v = vocab_at(bytes[0] % N_VOCAB);
    unsigned flags = bytes[1] & 3u;
    const char *text = (const char *)bytes + 2;
    struct eng_ids ids = {0};
    struct eng_ids again = {0};
    struct err e;
    if (vocab_tokenize(v, text, n - 2, flags, &ids, &e) ||
        vocab_tokenize(v, text, n - 2, flags, &again, &e)) {
        abort();
    }
    if (ids.n != again.n || (ids.n && memcmp(ids.ids, again.ids, ids.n * sizeof *ids.ids) != 0)) {
        abort();
    }
    for (size_t i = 0; i < ids.n; i++) {
        if (ids.ids[i] < 0 || (uint32_t)ids.ids[i] >= vocab_n(v)) {
            abort();
        }
    }
    /* SentencePiece puts a space after every added token, so there the plain text alone returns. */
    bool bpe = v->facts.kind == VOCAB_BPE;
    bool added = v->facts.kind == VOCAB_SPM && memmem(text, n - 2, "<a>", 3);
    if ((bpe && !(flags & ENG_TOKENIZE_ADD_SPECIAL)) ||
        (v->facts.kind == VOCAB_SPM && flags == 0 && !added)) {
        check_text(v, &ids, text, n - 2);
    }
    eng_ids_free(&ids);
    eng_ids_free(&again);
    return 0;
}
