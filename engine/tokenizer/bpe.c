/* Byte-level BPE: the alphabet that spells bytes as printable characters, and the list of merges.
 * Source: Radford et al. 2019 (GPT-2), whose code fixed the alphabet. */
#include "engine/tokenizer/vocab_impl.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

#define ALPHABET_N 324 /* code points from 0 that can stand for a byte */

/* Bytes 33…126, 161…172 and 174…255 stand for themselves; the others, in order, are U+0100 and on.
 */
static int byte_of(uint32_t cp)
{
    if ((cp >= 33 && cp <= 126) || (cp >= 161 && cp <= 172) || (cp >= 174 && cp <= 255)) {
        return (int)cp;
    }
    if (cp < 256 || cp >= ALPHABET_N) {
        return -1;
    }
    int k = (int)cp - 256;
    if (k < 33) {
        return k;
    }
    return k < 67 ? 127 + k - 33 : 173;
}

size_t bpe_decode(const char *text, size_t n, char *out)
{
    size_t len = 0;
    for (size_t i = 0; i < n; len++) {
        uint32_t cp = 0;
        size_t k = utf8_decode(text + i, n - i, &cp);
        int b = k ? byte_of(cp) : -1;
        if (b < 0) {
            return SIZE_MAX;
        }
        out[len] = (char)b;
        i += k;
    }
    return len;
}

/* One side of a merge as bytes in out; SIZE_MAX where it can never meet. */
static size_t side(const struct vocab *v, const char *s, size_t n, char *out)
{
    return v->traits.spaces ? spm_unescape(s, n, out) : bpe_decode(s, n, out);
}

/* "left right": the first space after the first byte parts them. */
static enum err_code add_merge(struct vocab *v, struct gguf_str line, uint64_t i, char *bytes,
                               struct err *e)
{
    const char *space = line.n > 1 ? memchr(line.s + 1, ' ', line.n - 1) : NULL;
    if (!space || space + 1 == line.s + line.n) {
        return err_set(e, ERR_CORRUPT, "tokenizer.ggml.merges: entry %llu is not two tokens",
                       (unsigned long long)i);
    }
    size_t left_n = side(v, line.s, (size_t)(space - line.s), bytes);
    if (left_n == SIZE_MAX || left_n == 0) {
        return ERR_OK;
    }
    size_t right_n = side(v, space + 1, (size_t)(line.s + line.n - space - 1), bytes + left_n);
    if (right_n == SIZE_MAX || right_n == 0) {
        return ERR_OK;
    }
    struct merge_pair pair = {.rank = (uint32_t)i};
    struct merges *m = &v->merges;
    enum err_code rc = merge_intern(m, bytes, left_n, true, &pair.left, e);
    rc = rc ? rc : merge_intern(m, bytes + left_n, right_n, true, &pair.right, e);
    rc = rc ? rc : merge_intern(m, bytes, left_n + right_n, true, &pair.merged, e);
    return rc ? rc : merge_add_pair(m, pair, e);
}

/* Whether a space follows another character in some symbol. */
static bool space_inside(const struct merges *m)
{
    for (uint32_t i = 0; i < m->n_sym; i++) {
        for (uint32_t k = 1; k < m->sym[i].n; k++) {
            if (m->sym[i].s[k] == ' ' && m->sym[i].s[k - 1] != ' ') {
                return true;
            }
        }
    }
    return false;
}

static bool may_merge(const struct vocab *v, uint32_t id)
{
    return (v->type[id] == VOCAB_NORMAL || v->type[id] == VOCAB_UNDEFINED ||
            v->type[id] == VOCAB_USER_DEFINED) &&
           !(v->mark[id] & MARK_APART);
}

enum err_code vocab_load_merges(struct vocab *v, const struct gguf *f, struct err *e)
{
    struct gguf_array list;
    if (!gguf_get_array(f, "tokenizer.ggml.merges", &list) || list.type != GGUF_STRING) {
        return err_set(e, ERR_CORRUPT, "tokenizer.ggml.merges is missing or no list of strings");
    }
    if (list.n >= MERGE_RANK_NONE) {
        return err_set(e, ERR_LIMIT, "tokenizer.ggml.merges has too many entries");
    }
    struct merges *m = &v->merges;
    enum err_code rc = merge_init(m, v->piece, v->facts.n_token, e);
    m->by_char = v->traits.spaces;
    m->whole_first = v->traits.ignore_merges;
    m->unk_id = v->facts.unk;
    for (uint32_t i = 0; i < v->facts.n_token && !rc; i++) {
        int b = v->type[i] == VOCAB_BYTE ? spm_byte(v->text[i].s, v->text[i].n) : -1;
        if (b >= 0) {
            m->byte_id[b] = (int32_t)i;
        } else if (may_merge(v, i)) {
            rc = merge_add_token(m, i, e);
        } else {
            m->sym[i].n = 0;
        }
    }
    size_t longest = 0;
    for (uint64_t i = 0; i < list.n; i++) {
        longest = list.strings[i].n > longest ? list.strings[i].n : longest;
    }
    char *bytes = malloc(longest + 1);
    if (!bytes && !rc) {
        rc = err_set(e, ERR_NOMEM, "out of memory for tokenizer.ggml.merges");
    }
    for (uint64_t i = 0; i < list.n && !rc; i++) {
        rc = add_merge(v, list.strings[i], i, bytes, e);
    }
    free(bytes);
    rc = rc ? rc : merge_seal(m, e);
    for (int b = 0; b < 256 && !rc && !v->traits.spaces; b++) {
        m->byte_id[b] =
            m->byte_sym[b] < m->n_token ? (int32_t)m->byte_sym[b] : (int32_t)ENG_TOKEN_NONE;
    }
    if (!rc && v->traits.spaces && !space_inside(m)) {
        rc = pretok_add_rule(v->pretok, &(struct split_rule){.form = SPLIT_SPACES}, e);
    }
    return rc;
}

/* The characters of a token that are no tokens are where merging starts from all the same. */
static enum err_code add_chars(struct merges *m, const struct span *piece, struct err *e)
{
    enum err_code rc = ERR_OK;
    for (uint32_t i = 0; i < piece->n && !rc;) {
        uint32_t sym;
        size_t len = utf8_char_len(piece->s + i, piece->n - i);
        len = len ? len : 1;
        rc = merge_intern(m, piece->s + i, len, false, &sym, e);
        i += (uint32_t)len;
    }
    return rc;
}

/* A higher score is a lower rank. */
static uint32_t rank_of(float score)
{
    uint32_t bits;
    score += 0.0f; /* −0 is 0 */
    memcpy(&bits, &score, sizeof bits);
    return ~(bits >> 31 ? ~bits : bits | UINT32_C(1) << 31);
}

/* SentencePiece has no list of merges: any two symbols that make a token merge, the token's score
 * deciding. */
static enum err_code add_splits(struct vocab *v, uint32_t id, struct err *e)
{
    struct merges *m = &v->merges;
    const struct span *piece = &v->piece[id];
    if (strtab_get(&m->by_bytes, piece->s, piece->n) != id) {
        return ERR_OK; /* another token has these bytes */
    }
    enum err_code rc = ERR_OK;
    struct merge_pair pair = {.rank = rank_of(v->score[id]), .merged = id};
    for (uint32_t k = 1; k < piece->n && !rc; k++) {
        if (((unsigned char)piece->s[k] & 0xc0) == 0x80) {
            continue;
        }
        pair.left = strtab_get(&m->by_bytes, piece->s, k);
        if (pair.left == STRTAB_NONE) {
            continue;
        }
        pair.right = strtab_get(&m->by_bytes, piece->s + k, piece->n - k);
        if (pair.right != STRTAB_NONE) {
            rc = merge_add_pair(m, pair, e);
        }
    }
    return rc;
}

enum err_code vocab_load_spm(struct vocab *v, struct err *e)
{
    struct merges *m = &v->merges;
    uint32_t n_token = v->facts.n_token;
    enum err_code rc = merge_init(m, v->piece, n_token, e);
    m->by_char = true;
    m->unk_id = v->facts.unk;
    for (uint32_t i = 0; i < n_token && !rc; i++) {
        int b = v->type[i] == VOCAB_BYTE ? spm_byte(v->text[i].s, v->text[i].n) : -1;
        if (b >= 0) {
            m->byte_id[b] = (int32_t)i;
        } else if (may_merge(v, i)) {
            rc = merge_add_token(m, i, e);
        } else {
            m->sym[i].n = 0;
        }
    }
    for (uint32_t i = 0; i < n_token && !rc; i++) {
        rc = m->sym[i].n ? add_chars(m, &m->sym[i], e) : ERR_OK;
    }
    for (uint32_t i = 0; i < n_token && !rc; i++) {
        rc = m->sym[i].n ? add_splits(v, i, e) : ERR_OK;
    }
    rc = rc ? rc : merge_seal(m, e);
    if (!rc) {
        struct split_rule spaces = {.form = SPLIT_SPACES};
        rc = pretok_create_rule(space_inside(m) ? NULL : &spaces, &v->pretok, e);
    }
    return rc;
}
