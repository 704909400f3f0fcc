/* Text to ids and back, over what vocab.c loaded. */
#include "engine/tokenizer/vocab_impl.h"

#include "base/utf8.h"
#include "engine/tokenizer/unicode.h"

#include <string.h>

#define TEXT_BYTES_MAX    (UINT32_C(1) << 30)
#define REPLACEMENT       "\xef\xbf\xbd"
#define REPLACEMENT_BYTES 3

static enum err_code emit_word(void *arg, const char *word, size_t n, struct err *e)
{
    struct encode *enc = arg;
    return merge_word(&enc->v->merges, &enc->scratch, word, n, enc->out, e);
}

/* The same for vocabularies where a run of line breaks is one token, whatever the merges say. */
static enum err_code emit_line(void *arg, const char *word, size_t n, struct err *e)
{
    struct encode *enc = arg;
    const struct merges *m = &enc->v->merges;
    if (*word == '\n') {
        uint32_t sym = strtab_get(&m->by_bytes, word, n);
        if (sym < m->n_token) {
            return eng_ids_push(enc->out, (int32_t)sym, e);
        }
    }
    return merge_word(m, &enc->scratch, word, n, enc->out, e);
}

/* Spaces for U+2581, and one more before the text if prefix: the spelling of the symbols. */
static enum err_code spell_spaces(struct buf *b, const char *s, size_t n, bool prefix,
                                  struct err *e)
{
    buf_clear(b);
    if (!buf_reserve(b, n + 1)) {
        return err_set(e, ERR_NOMEM, "out of memory for a text of %zu bytes", n);
    }
    if (prefix) {
        buf_putc(b, ' ');
    }
    b->len += spm_unescape(s, n, b->data + b->len);
    return ERR_OK;
}

/* Ids of text between added tokens. first: it stands at the start, or after an added token. */
static enum err_code encode_text(struct encode *enc, const char *s, size_t n, bool first,
                                 struct err *e)
{
    const struct vocab *v = enc->v;
    enum err_code rc = ERR_OK;
    switch (v->facts.kind) {
    case VOCAB_SPM:
        rc = spell_spaces(&enc->text, s, n, first && v->facts.add_space_prefix, e);
        return rc ? rc : pretok_run(v->pretok, enc->text.data, enc->text.len, emit_word, enc, e);
    case VOCAB_BPE:
        if (!v->traits.spaces) {
            return pretok_run(v->pretok, s, n, emit_word, enc, e);
        }
        rc = spell_spaces(&enc->text, s, n, false, e);
        return rc ? rc : pretok_run(v->pretok, enc->text.data, enc->text.len, emit_line, enc, e);
    case VOCAB_WPM: return wpm_encode(enc, s, n, e);
    case VOCAB_UGM: return ugm_encode(enc, s, n, e);
    case VOCAB_NONE: break;
    }
    return err_set(e, ERR_UNSUPPORTED, "this model has no tokenizer");
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Added tokens, and what lies between them. */
static enum err_code encode_all(struct encode *enc, const char *s, size_t n, unsigned flags,
                                struct err *e)
{
    const struct vocab *v = enc->v;
    const struct special *special = flags & ENG_TOKENIZE_PARSE_SPECIAL ? &v->all : &v->plain;
    bool first = true;
    enum err_code rc = ERR_OK;
    while (n && !rc) {
        int32_t id = ENG_TOKEN_NONE;
        size_t len = 0;
        size_t at = special_find(special, s, n, &id, &len);
        size_t end = at;
        while (id != ENG_TOKEN_NONE && v->mark[id] & MARK_STRIP_LEFT && end &&
               is_blank(s[end - 1])) {
            end--;
        }
        if (end) {
            rc = encode_text(enc, s, end, first, e);
            first = false;
        }
        if (id != ENG_TOKEN_NONE && !rc) {
            rc = eng_ids_push(enc->out, id, e);
            first = true;
        }
        s += at + len;
        n -= at + len;
        while (id != ENG_TOKEN_NONE && v->mark[id] & MARK_STRIP_RIGHT && n && is_blank(*s)) {
            s++;
            n--;
        }
    }
    return rc;
}

static enum err_code encode_valid(struct encode *enc, const char *s, size_t n, unsigned flags,
                                  struct err *e)
{
    const struct vocab_facts *x = &enc->v->facts;
    bool add = flags & ENG_TOKENIZE_ADD_SPECIAL;
    enum err_code rc = add && x->add_bos ? eng_ids_push(enc->out, x->bos, e) : ERR_OK;
    rc = rc ? rc : encode_all(enc, s, n, flags, e);
    if (!rc && add && x->kind == VOCAB_WPM && x->add_sep) {
        rc = eng_ids_push(enc->out, x->sep, e);
    } else if (!rc && add && x->kind != VOCAB_WPM && x->add_eos) {
        rc = eng_ids_push(enc->out, x->eos, e);
    }
    return rc;
}

/* text with U+FFFD for each byte that is not UTF-8. */
static void repair(struct buf *b, const char *text, size_t n)
{
    while (n) {
        size_t good = utf8_valid_prefix(text, n);
        buf_append(b, text, good);
        text += good;
        n -= good;
        if (n) {
            buf_append(b, REPLACEMENT, REPLACEMENT_BYTES);
            text++;
            n--;
        }
    }
}

enum err_code vocab_tokenize(const struct vocab *v, const char *text, size_t n, unsigned flags,
                             struct eng_ids *out, struct err *e)
{
    if (v->facts.kind == VOCAB_NONE) {
        return err_set(e, ERR_UNSUPPORTED, "this model has no tokenizer");
    }
    if (n > TEXT_BYTES_MAX) {
        return err_set(e, ERR_LIMIT, "a text of %zu bytes is above the limit of %u", n,
                       TEXT_BYTES_MAX);
    }
    struct encode enc = {.v = v, .out = out};
    struct buf repaired = {0};
    size_t n_before = out->n;
    enum err_code rc = ERR_OK;
    if (!utf8_valid(text, n)) {
        repair(&repaired, text, n);
        if (!buf_ok(&repaired)) {
            rc = err_set(e, ERR_NOMEM, "out of memory for a text of %zu bytes", n);
        }
        text = repaired.data;
        n = repaired.len;
    }
    rc = rc ? rc : encode_valid(&enc, text, n, flags, e);
    if (rc) {
        out->n = n_before;
    }
    merge_scratch_finish(&enc.scratch);
    buf_free(&enc.text);
    buf_free(&repaired);
    return rc;
}

void vocab_detokenize(const struct vocab *v, struct eng_detok *state, int32_t id, bool show_special,
                      struct buf *out)
{
    enum vocab_type type = vocab_type(v, id);
    struct gguf_str piece = vocab_piece(v, id);
    if (type == VOCAB_CONTROL || type == VOCAB_UNKNOWN || type == VOCAB_UNUSED) {
        if (show_special) {
            buf_append(out, piece.s, piece.n);
        }
        return;
    }
    bool prefixed = v->facts.kind == VOCAB_WPM || v->facts.add_space_prefix;
    size_t skip =
        !state->started && prefixed && type != VOCAB_BYTE && piece.n && *piece.s == ' ' ? 1 : 0;
    state->started = state->started || piece.n;
    buf_append(out, piece.s + skip, piece.n - skip);
}
