/* Unigram (T5): text is normalised by the file's own table, then the split with the highest sum of
 * scores is found by dynamic programming. Sources: Kudo 2018; Kudo and Richardson 2018; the table's
 * form: a double array of XORed offsets (Yata's Darts-clone), after it its replacement strings. */
#include "engine/tokenizer/unicode.h"
#include "engine/tokenizer/vocab_impl.h"

#include "base/utf8.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES_MAX 1024 /* a longer token would make the search slow at every position */
#define UNK_PENALTY     10.0
#define NODE_NONE       UINT32_MAX
#define EDGE_SLOTS_MIN  1024

/* Trie of the tokens: an edge is (node, byte) → node. */
struct edge {
    uint64_t key; /* node << 8 | byte; UINT64_MAX: empty */
    uint32_t node;
};

struct ugm {
    struct edge *edges; /* power-of-two table, at most half full */
    size_t n_edge_slot;
    size_t n_edge;
    uint32_t *ids; /* [n_node] token that ends there, or STRTAB_NONE */
    uint32_t n_node;
    uint32_t cap_node;
    uint32_t *units; /* the normaliser's double array */
    size_t n_unit;
    char *strings; /* its replacements, each ended by a NUL */
    size_t n_string_byte;
    double unk_score;
    bool one_space; /* runs of spaces become one, none at the ends */
    bool has_bytes;
    int32_t byte_id[256];
};

static inline size_t edge_slot(uint64_t key)
{
    uint64_t h = key * 0x9e3779b97f4a7c15U;
    return (size_t)(h ^ h >> 32);
}

static inline uint32_t step(const struct ugm *u, uint32_t node, unsigned char b)
{
    uint64_t key = (uint64_t)node << 8 | b;
    size_t mask = u->n_edge_slot - 1;
    for (size_t at = edge_slot(key) & mask;; at = (at + 1) & mask) {
        if (u->edges[at].key == key) {
            return u->edges[at].node;
        }
        if (u->edges[at].key == UINT64_MAX) {
            return NODE_NONE;
        }
    }
}

static void place(struct ugm *u, struct edge edge)
{
    size_t mask = u->n_edge_slot - 1;
    size_t at = edge_slot(edge.key) & mask;
    while (u->edges[at].key != UINT64_MAX) {
        at = (at + 1) & mask;
    }
    u->edges[at] = edge;
}

static enum err_code grow_edges(struct ugm *u, struct err *e)
{
    struct edge *old = u->edges;
    size_t n_old = u->n_edge_slot;
    size_t n_slot = n_old ? n_old * 2 : EDGE_SLOTS_MIN;
    struct edge *edges = n_slot < SIZE_MAX / sizeof *edges ? malloc(n_slot * sizeof *edges) : NULL;
    if (!edges) {
        return err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    }
    memset(edges, 0xff, n_slot * sizeof *edges);
    u->edges = edges;
    u->n_edge_slot = n_slot;
    for (size_t i = 0; i < n_old; i++) {
        if (old[i].key != UINT64_MAX) {
            place(u, old[i]);
        }
    }
    free(old);
    return ERR_OK;
}

static enum err_code new_node(struct ugm *u, uint32_t *ret_node, struct err *e)
{
    if (u->n_node == u->cap_node) {
        uint64_t cap = u->cap_node ? (uint64_t)u->cap_node * 2 : EDGE_SLOTS_MIN;
        uint32_t *ids = cap < NODE_NONE ? realloc(u->ids, (size_t)cap * sizeof *ids) : NULL;
        if (!ids) {
            return err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
        }
        u->ids = ids;
        u->cap_node = (uint32_t)cap;
    }
    u->ids[u->n_node] = STRTAB_NONE;
    *ret_node = u->n_node++;
    return ERR_OK;
}

static enum err_code add_piece(struct ugm *u, const struct span *piece, uint32_t id, struct err *e)
{
    if (piece->n > PIECE_BYTES_MAX) {
        return err_set(e, ERR_LIMIT, "tokenizer.ggml.tokens: entry %u has %u bytes, above %d", id,
                       piece->n, PIECE_BYTES_MAX);
    }
    uint32_t node = 0;
    enum err_code rc = ERR_OK;
    for (uint32_t i = 0; i < piece->n && !rc; i++) {
        unsigned char b = (unsigned char)piece->s[i];
        uint32_t next = step(u, node, b);
        if (next == NODE_NONE) {
            rc = (u->n_edge + 1) * 2 > u->n_edge_slot ? grow_edges(u, e) : ERR_OK;
            rc = rc ? rc : new_node(u, &next, e);
            if (rc) {
                break;
            }
            place(u, (struct edge){.key = (uint64_t)node << 8 | b, .node = next});
            u->n_edge++;
        }
        node = next;
    }
    if (!rc && u->ids[node] == STRTAB_NONE) {
        u->ids[node] = id;
    }
    return rc;
}

/* tokenizer.ggml.precompiled_charsmap: bytes of the array, the array, the strings. */
static enum err_code load_normaliser(struct ugm *u, const struct gguf *f, struct err *e)
{
    static const char key[] = "tokenizer.ggml.precompiled_charsmap";
    struct gguf_array a;
    if (!gguf_get_array(f, key, &a)) {
        return ERR_OK;
    }
    if (a.type != GGUF_U8 && a.type != GGUF_I8) {
        return err_set(e, ERR_CORRUPT, "%s is no list of bytes", key);
    }
    if (a.n == 0) {
        return ERR_OK;
    }
    uint32_t n_byte = 0;
    if (a.n > sizeof n_byte) {
        memcpy(&n_byte, a.data, sizeof n_byte);
    }
    uint64_t n_rest = a.n > sizeof n_byte ? a.n - sizeof n_byte : 0;
    const char *rest = (const char *)a.data + sizeof n_byte;
    if (n_byte == 0 || n_byte % sizeof(uint32_t) || n_byte >= n_rest || rest[n_rest - 1] != 0) {
        return err_set(e, ERR_CORRUPT, "%s: its array has %u of %llu bytes", key, n_byte,
                       (unsigned long long)a.n);
    }
    if (!utf8_valid(rest + n_byte, (size_t)(n_rest - n_byte))) {
        return err_set(e, ERR_CORRUPT, "%s: its strings are not UTF-8", key);
    }
    u->n_unit = n_byte / sizeof(uint32_t);
    u->n_string_byte = (size_t)(n_rest - n_byte);
    u->units = malloc(n_byte);
    u->strings = malloc(u->n_string_byte);
    if (!u->units || !u->strings) {
        return err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    }
    memcpy(u->units, rest, n_byte);
    memcpy(u->strings, rest + n_byte, u->n_string_byte);
    return ERR_OK;
}

enum err_code ugm_create(const struct vocab *v, const struct gguf *f, struct ugm **ret_u,
                         struct err *e)
{
    struct ugm *u = calloc(1, sizeof *u);
    if (!u) {
        return err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    }
    *ret_u = u;
    if (v->facts.unk == ENG_TOKEN_NONE) {
        return err_set(e, ERR_CORRUPT, "tokenizer.ggml.unknown_token_id names no token");
    }
    uint32_t root;
    enum err_code rc = grow_edges(u, e);
    rc = rc ? rc : new_node(u, &root, e);
    double lowest = DBL_MAX;
    int n_byte_id = 0;
    for (uint32_t i = 0; i < v->facts.n_token && !rc; i++) {
        bool normal = v->type[i] == VOCAB_NORMAL || v->type[i] == VOCAB_UNDEFINED;
        if (normal && (double)v->score[i] < lowest) {
            lowest = (double)v->score[i];
        }
        if ((normal || v->type[i] == VOCAB_USER_DEFINED) && v->piece[i].n) {
            rc = add_piece(u, &v->piece[i], i, e);
        } else if (v->type[i] == VOCAB_BYTE && spm_byte(v->text[i].s, v->text[i].n) >= 0) {
            u->byte_id[spm_byte(v->text[i].s, v->text[i].n)] = (int32_t)i;
            n_byte_id++;
        }
    }
    u->has_bytes = n_byte_id == 256;
    u->unk_score = (lowest == DBL_MAX ? 0 : lowest) - UNK_PENALTY;
    (void)gguf_get_bool(f, "tokenizer.ggml.remove_extra_whitespaces", &u->one_space);
    return rc ? rc : load_normaliser(u, f, e);
}

void ugm_destroy(struct ugm *u)
{
    if (u) {
        free(u->edges);
        free(u->ids);
        free(u->units);
        free(u->strings);
        free(u);
    }
}

/* Whether byte c continues a character. */
static bool goes_on(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

/* The longest prefix of s that the normaliser replaces: its length, 0 for none, and what by. */
static enum err_code replacement(const struct ugm *u, const char *s, size_t n, size_t *ret_len,
                                 const char **ret_by, struct err *e)
{
    const char *by = NULL;
    *ret_len = 0;
    size_t at = 0;
    for (size_t i = 0; u->n_unit; i++) {
        uint32_t unit = u->units[at];
        at ^= (size_t)(unit >> 10) << ((unit & 1u << 9) >> 6);
        if (at >= u->n_unit) {
            break;
        }
        if (i && unit >> 8 & 1) {
            uint32_t offset = u->units[at] & ~(1u << 31);
            if (offset >= u->n_string_byte || goes_on(u->strings[offset])) {
                break;
            }
            if (i == n || !goes_on(s[i])) { /* else it ends within a character */
                *ret_len = i;
                by = u->strings + offset;
            }
        }
        if (i == n) {
            *ret_by = by;
            return ERR_OK;
        }
        unsigned char c = (unsigned char)s[i];
        at ^= c;
        if (at >= u->n_unit) {
            break;
        }
        if ((u->units[at] & (1u << 31 | 0xff)) != c) {
            *ret_by = by;
            return ERR_OK;
        }
    }
    *ret_by = by;
    return u->n_unit ? err_set(e, ERR_CORRUPT,
                               "tokenizer.ggml.precompiled_charsmap points outside itself")
                     : ERR_OK;
}

/* Spaces of a text as it is normalised. */
struct spacing {
    bool one_space;
    bool started; /* a character other than a dropped space went out */
    bool owed;    /* a space is to come before the next character */
};

/* A character as it is, after the space that is owed. */
static void put_char(struct buf *out, struct spacing *sp, const char *c, size_t n)
{
    if (sp->owed) {
        buf_putc(out, ' ');
        sp->owed = false;
    }
    buf_append(out, c, n);
    sp->started = true;
}

/* The same for text in which spaces are spaces. */
static void put_text(struct buf *out, struct spacing *sp, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i] == ' ' && sp->one_space) {
            sp->owed = sp->owed || sp->started;
        } else {
            put_char(out, sp, &s[i], 1);
        }
    }
}

/* Appends s as the tokens spell it, but with spaces for U+2581. */
static enum err_code normalise(const struct vocab *v, const char *s, size_t n, struct buf *out,
                               struct err *e)
{
    const struct ugm *u = v->ugm;
    struct spacing sp = {.one_space = u->one_space, .owed = v->facts.add_space_prefix};
    enum err_code rc = ERR_OK;
    while (n && !rc) {
        size_t len = 0;
        const char *by = NULL;
        rc = replacement(u, s, n, &len, &by, e);
        if (len) {
            put_text(out, &sp, by, strlen(by));
        } else if (*s == ' ') {
            len = 1;
            put_text(out, &sp, s, 1);
        } else {
            len = uni_len(*s);
            bool block = len == LOWER_BLOCK_N && memcmp(s, LOWER_BLOCK, LOWER_BLOCK_N) == 0;
            put_char(out, &sp, block ? " " : s, block ? 1 : len);
        }
        s += len;
        n -= len;
    }
    while (u->one_space && out->len && out->data[out->len - 1] == ' ') {
        out->len--; /* U+2581 at the end: spaces there were never put */
    }
    return rc ? rc : buf_ok(out) ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a text");
}

/* The best split of the text up to a position: its score, and its last token's id and start. */
struct best {
    double score;
    uint32_t start;
    int32_t id; /* ENG_TOKEN_NONE: unknown */
};

static void offer(struct best *b, double score, uint32_t start, int32_t id)
{
    if (score > b->score) {
        *b = (struct best){.score = score, .start = start, .id = id};
    }
}

static void search(const struct vocab *v, const char *s, uint32_t n, struct best *best)
{
    const struct ugm *u = v->ugm;
    for (uint32_t i = 0; i <= n; i++) {
        best[i] = (struct best){.score = i ? -DBL_MAX : 0, .id = ENG_TOKEN_NONE};
    }
    for (uint32_t i = 0; i < n;) {
        uint32_t len = (uint32_t)uni_len(s[i]);
        bool single = false;
        uint32_t node = 0;
        for (uint32_t k = i; k < n; k++) {
            node = step(u, node, (unsigned char)s[k]);
            if (node == NODE_NONE) {
                break;
            }
            uint32_t id = u->ids[node];
            if (id != STRTAB_NONE) {
                double score = v->type[id] == VOCAB_USER_DEFINED ? 0 : (double)v->score[id];
                offer(&best[k + 1], best[i].score + score, i, (int32_t)id);
                single = single || k + 1 - i == len;
            }
        }
        if (!single) {
            offer(&best[i + len], best[i].score + u->unk_score, i, ENG_TOKEN_NONE);
        }
        i += len;
    }
}

/* Ids from the end of the text to its start; runs of unknown characters are one token. */
static enum err_code walk_back(const struct vocab *v, const char *s, uint32_t n,
                               const struct best *best, struct eng_ids *out, struct err *e)
{
    const struct ugm *u = v->ugm;
    enum err_code rc = ERR_OK;
    bool was_unknown = false;
    for (uint32_t i = n; i && !rc; i = best[i].start) {
        bool unknown = best[i].id == ENG_TOKEN_NONE;
        if (!unknown) {
            rc = eng_ids_push(out, best[i].id, e);
        } else if (u->has_bytes) {
            for (uint32_t k = i; k > best[i].start && !rc; k--) {
                rc = eng_ids_push(out, u->byte_id[(unsigned char)s[k - 1]], e);
            }
        } else if (!was_unknown) {
            rc = eng_ids_push(out, v->facts.unk, e);
        }
        was_unknown = unknown;
    }
    return rc;
}

enum err_code ugm_encode(struct encode *enc, const char *s, size_t n, struct err *e)
{
    const struct vocab *v = enc->v;
    struct buf *text = &enc->text;
    buf_clear(text);
    enum err_code rc = normalise(v, s, n, text, e);
    if (rc || !text->len) {
        return rc;
    }
    if (text->len >= UINT32_MAX) {
        return err_set(e, ERR_LIMIT, "a text of %zu bytes is too long", text->len);
    }
    struct best *best = malloc((text->len + 1) * sizeof *best);
    if (!best) {
        return err_set(e, ERR_NOMEM, "out of memory for a text of %zu bytes", text->len);
    }
    uint32_t len = (uint32_t)text->len;
    search(v, text->data, len, best);
    size_t from = enc->out->n;
    rc = walk_back(v, text->data, len, best, enc->out, e);
    if (!rc) {
        for (size_t a = from, b = enc->out->n; a + 1 < b; a++) {
            int32_t id = enc->out->ids[a];
            enc->out->ids[a] = enc->out->ids[--b];
            enc->out->ids[b] = id;
        }
    }
    free(best);
    return rc;
}
