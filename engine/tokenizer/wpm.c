/* WordPiece: text is cleaned, split at white space, punctuation and Han characters, lowered and
 * stripped of accents; then each word is the longest tokens from its start on, or [UNK]. Stripping
 * leaves the first character of a decomposition and drops every mark (Mn, Mc, Me), as other engines
 * for these files do and the expected ids have it; the original keeps Mc and whole syllables.
 * The GGUF file spells a token that starts a word with U+2581 before it, and one that goes on with
 * nothing. Source: Devlin et al. 2018 and its tokenization code. */
#include "engine/tokenizer/unicode.h"
#include "engine/tokenizer/vocab_impl.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

#define WORD_CHARS_MAX 100 /* longer ones are unknown, as in the original code */
#define WORD_BYTES_MAX (WORD_CHARS_MAX * 4 + 1)

struct wpm {
    struct strtab by_piece; /* a space before what starts a word */
    size_t longest;         /* bytes */
    bool lowercase;
    bool strip_accents;
};

/* The word that is being collected: a space, then its characters. */
struct word {
    char bytes[WORD_BYTES_MAX + 4];
    size_t n;
    size_t n_char;
};

static bool loadable(const struct vocab *v, uint32_t id)
{
    return v->piece[id].n && v->type[id] != VOCAB_CONTROL && v->type[id] != VOCAB_UNKNOWN &&
           v->type[id] != VOCAB_UNUSED && !(v->mark[id] & MARK_APART);
}

enum err_code wpm_create(const struct vocab *v, const struct gguf *f, struct wpm **ret_w,
                         struct err *e)
{
    struct wpm *w = calloc(1, sizeof *w);
    if (!w) {
        return err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    }
    *ret_w = w;
    if (v->facts.unk == ENG_TOKEN_NONE) {
        return err_set(e, ERR_CORRUPT, "tokenizer.ggml.unknown_token_id names no token");
    }
    w->lowercase = true;
    (void)gguf_get_bool(f, "tokenizer.ggml.normalizer.lowercase", &w->lowercase);
    w->strip_accents = w->lowercase;
    (void)gguf_get_bool(f, "tokenizer.ggml.normalizer.strip_accents", &w->strip_accents);
    enum err_code rc = strtab_init(&w->by_piece, v->facts.n_token, v->piece, e);
    for (uint32_t i = 0; i < v->facts.n_token && !rc; i++) {
        if (loadable(v, i)) {
            rc = strtab_put(&w->by_piece, i, NULL, e);
            w->longest = v->piece[i].n > w->longest ? v->piece[i].n : w->longest;
        }
    }
    return rc;
}

void wpm_destroy(struct wpm *w)
{
    if (w) {
        strtab_finish(&w->by_piece);
        free(w);
    }
}

/* Characters that are words of their own: the CJK blocks of the original code. */
static bool is_ideograph(uint32_t cp)
{
    static const uint32_t blocks[][2] = {{0x3400, 0x4dbf},   {0x4e00, 0x9fff},   {0xf900, 0xfaff},
                                         {0x20000, 0x2a6df}, {0x2a700, 0x2b73f}, {0x2b740, 0x2b81f},
                                         {0x2b820, 0x2ceaf}, {0x2f800, 0x2fa1f}};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
        if (cp >= blocks[i][0] && cp <= blocks[i][1]) {
            return true;
        }
    }
    return false;
}

/* Appends the tokens of the collected word and empties it. */
static enum err_code flush(struct encode *enc, struct word *word, struct err *e)
{
    const struct wpm *w = enc->v->wpm;
    size_t n = word->n;
    bool too_long = word->n_char > WORD_CHARS_MAX;
    size_t n_before = enc->out->n;
    enum err_code rc = ERR_OK;
    if (!word->n_char) {
        return ERR_OK;
    }
    for (size_t i = 0; i < n && !rc && !too_long;) {
        size_t len = n - i < w->longest ? n - i : w->longest;
        uint32_t id = STRTAB_NONE;
        for (; len; len--) {
            bool cut = i + len < n && ((unsigned char)word->bytes[i + len] & 0xc0) == 0x80;
            id = cut ? STRTAB_NONE : strtab_get(&w->by_piece, word->bytes + i, len);
            if (id != STRTAB_NONE) {
                break;
            }
        }
        if (id == STRTAB_NONE) {
            enc->out->n = n_before;
            break;
        }
        rc = eng_ids_push(enc->out, (int32_t)id, e);
        i += len;
    }
    if (!rc && enc->out->n == n_before) {
        rc = eng_ids_push(enc->out, enc->v->facts.unk, e);
    }
    word->n = 1;
    word->n_char = 0;
    return rc;
}

static void append(struct word *word, uint32_t cp)
{
    if (word->n_char < WORD_CHARS_MAX) {
        word->n += utf8_encode(cp, word->bytes + word->n);
    }
    word->n_char += word->n_char <= WORD_CHARS_MAX;
}

static enum err_code take(struct encode *enc, struct word *word, uint32_t cp, struct err *e)
{
    const struct wpm *w = enc->v->wpm;
    uint32_t bit = uni_bit(cp);
    if (bit & UNI_SPACE) {
        return flush(enc, word, e);
    }
    if (cp == 0xfffd || bit & (UNI_BIT(UNI_CC) | UNI_BIT(UNI_CF) | UNI_BIT(UNI_CO)) ||
        (w->strip_accents && bit & UNI_M)) {
        return ERR_OK;
    }
    uint32_t low = w->lowercase ? uni_lower(cp) : cp;
    if (!(bit & UNI_P || (cp < 0x7f && bit & UNI_S) || is_ideograph(cp))) {
        append(word, low);
        return ERR_OK;
    }
    enum err_code rc = flush(enc, word, e);
    if (!rc) {
        append(word, low);
        rc = flush(enc, word, e);
    }
    return rc;
}

enum err_code wpm_encode(struct encode *enc, const char *s, size_t n, struct err *e)
{
    struct word word = {.bytes = " ", .n = 1};
    const char *end = s + n;
    enum err_code rc = ERR_OK;
    while (s < end && !rc) {
        uint32_t cp = uni_next(&s);
        rc = take(enc, &word, enc->v->wpm->strip_accents ? uni_base(cp) : cp, e);
    }
    return rc ? rc : flush(enc, &word, e);
}
