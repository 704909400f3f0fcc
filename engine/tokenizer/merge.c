#include "engine/tokenizer/merge.h"

#include "engine/tokenizer/unicode.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES    (64u << 10)
#define PAIR_SLOTS_MIN 1024

/* What is known of a token's own bytes. */
enum whole { WHOLE_UNKNOWN, WHOLE_YES, WHOLE_NO };

struct merge_block {
    struct merge_block *next;
    size_t n;
    size_t cap;
    char bytes[];
};

enum err_code merge_init(struct merges *m, const struct span *pieces, uint32_t n_token,
                         struct err *e)
{
    *m = (struct merges){.n_token = n_token, .n_sym = n_token, .cap_sym = n_token + 1024};
    m->unk_id = ENG_TOKEN_NONE;
    for (int b = 0; b < 256; b++) {
        m->byte_id[b] = ENG_TOKEN_NONE;
    }
    m->sym = malloc(m->cap_sym * sizeof *m->sym);
    m->whole = calloc(n_token ? n_token : 1, 1);
    if (!m->sym || !m->whole) {
        return err_set(e, ERR_NOMEM, "out of memory for %u tokens", n_token);
    }
    memcpy(m->sym, pieces, n_token * sizeof *m->sym);
    return strtab_init(&m->by_bytes, n_token, m->sym, e);
}

void merge_finish(struct merges *m)
{
    while (m->blocks) {
        struct merge_block *next = m->blocks->next;
        free(m->blocks);
        m->blocks = next;
    }
    strtab_finish(&m->by_bytes);
    free(m->sym);
    free(m->pairs);
    free(m->whole);
    *m = (struct merges){0};
}

enum err_code merge_add_token(struct merges *m, uint32_t id, struct err *e)
{
    return m->sym[id].n ? strtab_put(&m->by_bytes, id, NULL, e) : ERR_OK;
}

/* n bytes that live as long as the merges. */
static char *keep(struct merges *m, const char *s, size_t n)
{
    struct merge_block *b = m->blocks;
    if (!b || b->cap - b->n < n) {
        size_t cap = n > BLOCK_BYTES ? n : BLOCK_BYTES;
        b = malloc(sizeof *b + cap);
        if (!b) {
            return NULL;
        }
        *b = (struct merge_block){.next = m->blocks, .cap = cap};
        m->blocks = b;
    }
    char *at = b->bytes + b->n;
    memcpy(at, s, n);
    b->n += n;
    return at;
}

enum err_code merge_intern(struct merges *m, const char *s, size_t n, bool copy, uint32_t *ret_sym,
                           struct err *e)
{
    uint32_t there = strtab_get(&m->by_bytes, s, n);
    if (there != STRTAB_NONE) {
        *ret_sym = there;
        return ERR_OK;
    }
    if (m->n_sym == m->cap_sym) {
        uint64_t cap = (uint64_t)m->cap_sym * 2;
        struct span *sym = cap < MERGE_SYM_NONE ? realloc(m->sym, (size_t)cap * sizeof *sym) : NULL;
        if (!sym) {
            return err_set(e, ERR_NOMEM, "out of memory for the tokenizer's merges");
        }
        m->sym = sym;
        m->cap_sym = (uint32_t)cap;
        m->by_bytes.spans = sym;
    }
    const char *at = copy ? keep(m, s, n) : s;
    if (!at) {
        return err_set(e, ERR_NOMEM, "out of memory for the tokenizer's merges");
    }
    m->sym[m->n_sym] = (struct span){.s = at, .n = (uint32_t)n};
    enum err_code rc = strtab_put(&m->by_bytes, m->n_sym, NULL, e);
    if (!rc) {
        *ret_sym = m->n_sym++;
    }
    return rc;
}

static inline size_t pair_slot(uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15U;
    return (size_t)(h ^ h >> 32);
}

static inline const struct merge_pair *find_pair(const struct merges *m, uint32_t left,
                                                 uint32_t right)
{
    size_t mask = m->n_pair_slot - 1;
    for (size_t at = pair_slot(left, right) & mask;; at = (at + 1) & mask) {
        const struct merge_pair *p = &m->pairs[at];
        if (p->left == MERGE_SYM_NONE) {
            return NULL;
        }
        if (p->left == left && p->right == right) {
            return p;
        }
    }
}

static enum err_code grow_pairs(struct merges *m, size_t n_slot, struct err *e)
{
    struct merge_pair *old = m->pairs;
    size_t n_old = m->n_pair_slot;
    struct merge_pair *pairs =
        n_slot < SIZE_MAX / sizeof *pairs ? malloc(n_slot * sizeof *pairs) : NULL;
    if (!pairs) {
        return err_set(e, ERR_NOMEM, "out of memory for the tokenizer's merges");
    }
    memset(pairs, 0xff, n_slot * sizeof *pairs);
    m->pairs = pairs;
    m->n_pair_slot = n_slot;
    for (size_t i = 0; i < n_old; i++) {
        if (old[i].left != MERGE_SYM_NONE) {
            size_t at = pair_slot(old[i].left, old[i].right) & (n_slot - 1);
            while (pairs[at].left != MERGE_SYM_NONE) {
                at = (at + 1) & (n_slot - 1);
            }
            pairs[at] = old[i];
        }
    }
    free(old);
    return ERR_OK;
}

enum err_code merge_add_pair(struct merges *m, struct merge_pair pair, struct err *e)
{
    if ((m->n_pair + 1) * 2 > m->n_pair_slot) {
        size_t n_slot = m->n_pair_slot ? m->n_pair_slot * 2 : PAIR_SLOTS_MIN;
        enum err_code rc = grow_pairs(m, n_slot, e);
        if (rc) {
            return rc;
        }
    }
    if (find_pair(m, pair.left, pair.right)) {
        return ERR_OK;
    }
    size_t at = pair_slot(pair.left, pair.right) & (m->n_pair_slot - 1);
    while (m->pairs[at].left != MERGE_SYM_NONE) {
        at = (at + 1) & (m->n_pair_slot - 1);
    }
    m->pairs[at] = pair;
    m->n_pair++;
    return ERR_OK;
}

enum err_code merge_seal(struct merges *m, struct err *e)
{
    for (int b = 0; b < 256; b++) {
        char c = (char)b;
        m->byte_sym[b] = strtab_get(&m->by_bytes, &c, 1);
    }
    return m->pairs ? ERR_OK : grow_pairs(m, PAIR_SLOTS_MIN, e);
}

/* One symbol of a short word, with what merging it with the next one would give. */
struct part {
    uint32_t sym;
    uint32_t start; /* in the word */
    uint32_t rank;
    uint32_t merged;
};

static inline void look_up(const struct merges *m, struct part *p, const struct part *next)
{
    const struct merge_pair *pair = find_pair(m, p->sym, next->sym);
    p->rank = pair ? pair->rank : MERGE_RANK_NONE;
    p->merged = pair ? pair->merged : MERGE_SYM_NONE;
}

/* Merges parts[0…n) in place, parts[n] being an end mark; returns how many are left. */
static size_t merge_short(const struct merges *m, struct part *parts, size_t n)
{
    for (size_t i = 0; i + 1 < n; i++) {
        look_up(m, &parts[i], &parts[i + 1]);
    }
    parts[n - 1].rank = MERGE_RANK_NONE;
    for (;;) {
        size_t best = 0;
        for (size_t i = 1; i < n; i++) {
            best = parts[i].rank < parts[best].rank ? i : best;
        }
        if (parts[best].rank == MERGE_RANK_NONE) {
            return n;
        }
        parts[best].sym = parts[best].merged;
        memmove(&parts[best + 1], &parts[best + 2], (n - best - 2) * sizeof *parts);
        n--;
        parts[best].rank = MERGE_RANK_NONE;
        if (best + 1 < n) {
            look_up(m, &parts[best], &parts[best + 1]);
        }
        if (best) {
            look_up(m, &parts[best - 1], &parts[best]);
        }
    }
}

/* The symbols of a long word, by their position in it, and a heap of rank << 32 | position. An
 * entry whose rank is no longer its position's is stale. */
struct chain {
    uint32_t *sym;
    uint32_t *start;
    uint32_t *rank;
    uint32_t *prev;
    uint32_t *next;
    uint64_t *heap;
    size_t n_heap;
};

static void heap_push(struct chain *c, uint64_t v)
{
    size_t i = c->n_heap++;
    while (i) {
        size_t up = (i - 1) / 2;
        if (c->heap[up] <= v) {
            break;
        }
        c->heap[i] = c->heap[up];
        i = up;
    }
    c->heap[i] = v;
}

static void sift_down(struct chain *c, size_t i, uint64_t v)
{
    for (;;) {
        size_t kid = 2 * i + 1;
        if (kid >= c->n_heap) {
            break;
        }
        if (kid + 1 < c->n_heap && c->heap[kid + 1] < c->heap[kid]) {
            kid++;
        }
        if (c->heap[kid] >= v) {
            break;
        }
        c->heap[i] = c->heap[kid];
        i = kid;
    }
    c->heap[i] = v;
}

static uint64_t heap_pop(struct chain *c)
{
    uint64_t top = c->heap[0];
    uint64_t last = c->heap[--c->n_heap];
    if (c->n_heap) {
        sift_down(c, 0, last);
    }
    return top;
}

static void rank_at(const struct merges *m, struct chain *c, uint32_t i, bool push)
{
    uint32_t next = c->next[i];
    const struct merge_pair *p =
        next == MERGE_SYM_NONE ? NULL : find_pair(m, c->sym[i], c->sym[next]);
    c->rank[i] = p ? p->rank : MERGE_RANK_NONE;
    if (p && push) {
        heap_push(c, (uint64_t)p->rank << 32 | i);
    } else if (p) {
        c->heap[c->n_heap++] = (uint64_t)p->rank << 32 | i;
    }
}

static void merge_chain(const struct merges *m, struct chain *c, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        c->prev[i] = i ? i - 1 : MERGE_SYM_NONE;
        c->next[i] = i + 1 < n ? i + 1 : MERGE_SYM_NONE;
    }
    for (uint32_t i = 0; i < n; i++) {
        rank_at(m, c, i, false);
    }
    for (size_t i = c->n_heap / 2; i-- > 0;) {
        sift_down(c, i, c->heap[i]);
    }
    while (c->n_heap) {
        uint64_t top = heap_pop(c);
        uint32_t i = (uint32_t)top;
        if (c->rank[i] != (uint32_t)(top >> 32)) {
            continue;
        }
        uint32_t gone = c->next[i];
        c->sym[i] = find_pair(m, c->sym[i], c->sym[gone])->merged;
        c->rank[gone] = MERGE_RANK_NONE;
        c->next[i] = c->next[gone];
        if (c->next[i] != MERGE_SYM_NONE) {
            c->prev[c->next[i]] = i;
        }
        rank_at(m, c, i, true);
        if (c->prev[i] != MERGE_SYM_NONE) {
            rank_at(m, c, c->prev[i], true);
        }
    }
}

/* Room in scratch for a chain of n symbols; a merge pushes at most two entries and removes one
 * symbol, so the heap never holds more than 3n. */
static enum err_code chain_init(struct chain *c, struct merge_scratch *scratch, size_t n,
                                struct err *e)
{
    size_t need = n * (3 * sizeof *c->heap + 5 * sizeof *c->sym);
    if (scratch->n_byte < need) {
        free(scratch->mem);
        scratch->n_byte = 0;
        scratch->mem = malloc(need);
        if (!scratch->mem) {
            return err_set(e, ERR_NOMEM, "out of memory for a word of %zu symbols", n);
        }
        scratch->n_byte = need;
    }
    c->heap = scratch->mem;
    c->n_heap = 0;
    c->sym = (uint32_t *)(c->heap + 3 * n);
    c->start = c->sym + n;
    c->rank = c->start + n;
    c->prev = c->rank + n;
    c->next = c->prev + n;
    return ERR_OK;
}

void merge_scratch_finish(struct merge_scratch *scratch)
{
    free(scratch->mem);
    *scratch = (struct merge_scratch){0};
}

static enum err_code reserve(struct eng_ids *out, size_t n, struct err *e)
{
    if (out->cap - out->n >= n) {
        return ERR_OK;
    }
    size_t cap = out->cap + out->cap / 2 + n + 64;
    int32_t *ids = realloc(out->ids, cap * sizeof *ids);
    if (!ids) {
        return err_set(e, ERR_NOMEM, "out of memory for %zu token ids", cap);
    }
    out->ids = ids;
    out->cap = cap;
    return ERR_OK;
}

/* A symbol that is no token, byte by byte; a space stands for U+2581 where characters merge. A byte
 * that the vocabulary cannot say is left out. A run of unknown characters of a word, whose ids
 * begin at out[from], is one unknown token. */
static enum err_code emit_bytes(const struct merges *m, const char *s, size_t n, size_t from,
                                struct eng_ids *out, struct err *e)
{
    static const char lower_block[] = "\xe2\x96\x81";
    if (m->by_char && n == 1 && *s == ' ') {
        s = lower_block;
        n = 3;
    }
    for (size_t i = 0; m->by_char && i < n; i++) {
        if (m->byte_id[(unsigned char)s[i]] == ENG_TOKEN_NONE && m->unk_id != ENG_TOKEN_NONE) {
            bool again = out->n > from && out->ids[out->n - 1] == m->unk_id;
            return again ? ERR_OK : eng_ids_push(out, m->unk_id, e);
        }
    }
    for (size_t i = 0; i < n; i++) {
        int32_t id = m->byte_id[(unsigned char)s[i]];
        id = id == ENG_TOKEN_NONE ? m->unk_id : id;
        enum err_code rc = id == ENG_TOKEN_NONE ? ERR_OK : eng_ids_push(out, id, e);
        if (rc) {
            return rc;
        }
    }
    return ERR_OK;
}

static inline enum err_code emit(const struct merges *m, uint32_t sym, const char *s, size_t n,
                                 size_t from, struct eng_ids *out, struct err *e)
{
    if (sym < m->n_token) {
        out->ids[out->n++] = (int32_t)sym;
        return ERR_OK;
    }
    return emit_bytes(m, s, n, from, out, e);
}

/* Splits the word into its first symbols: sym[i] and start[i] with a stride in bytes. */
static size_t first_symbols(const struct merges *m, const char *word, size_t n, void *sym,
                            void *start, size_t stride)
{
    size_t k = 0;
    for (size_t i = 0; i < n; k++) {
        size_t len = m->by_char ? uni_len(word[i]) : 1;
        uint32_t s = len == 1 ? m->byte_sym[(unsigned char)word[i]]
                              : strtab_get(&m->by_bytes, word + i, len);
        *(uint32_t *)((char *)sym + k * stride) = s;
        *(uint32_t *)((char *)start + k * stride) = (uint32_t)i;
        i += len;
    }
    return k;
}

static enum err_code word_heap(const struct merges *m, struct merge_scratch *scratch,
                               const char *word, size_t n, struct eng_ids *out, struct err *e)
{
    struct chain c = {0};
    size_t from = out->n;
    enum err_code rc = chain_init(&c, scratch, n, e);
    if (rc) {
        return rc;
    }
    size_t k = first_symbols(m, word, n, c.sym, c.start, sizeof *c.sym);
    merge_chain(m, &c, (uint32_t)k);
    for (uint32_t i = 0; i != MERGE_SYM_NONE && !rc; i = c.next[i]) {
        size_t end = c.next[i] == MERGE_SYM_NONE ? n : c.start[c.next[i]];
        rc = reserve(out, 1, e);
        if (!rc) {
            rc = emit(m, c.sym[i], word + c.start[i], end - c.start[i], from, out, e);
        }
    }
    return rc;
}

enum err_code merge_word_plain(const struct merges *m, struct merge_scratch *scratch,
                               const char *word, size_t n, bool force_heap, struct eng_ids *out,
                               struct err *e)
{
    if (n > MERGE_SHORT || force_heap) {
        return word_heap(m, scratch, word, n, out, e);
    }
    enum err_code rc = reserve(out, 3 * n, e); /* a space may become three bytes */
    if (rc) {
        return rc;
    }
    struct part parts[MERGE_SHORT + 1];
    size_t from = out->n;
    size_t k = first_symbols(m, word, n, &parts->sym, &parts->start, sizeof *parts);
    k = merge_short(m, parts, k);
    parts[k].start = (uint32_t)n;
    for (size_t i = 0; i < k && !rc; i++) {
        rc = emit(m, parts[i].sym, word + parts[i].start, parts[i + 1].start - parts[i].start, from,
                  out, e);
    }
    return rc;
}

enum err_code merge_word(const struct merges *m, struct merge_scratch *scratch, const char *word,
                         size_t n, struct eng_ids *out, struct err *e)
{
    uint32_t sym = strtab_get(&m->by_bytes, word, n);
    if (sym >= m->n_token) {
        return merge_word_plain(m, scratch, word, n, false, out, e);
    }
    uint8_t whole =
        m->whole_first ? (uint8_t)WHOLE_YES : __atomic_load_n(&m->whole[sym], __ATOMIC_RELAXED);
    if (whole == WHOLE_YES) {
        return eng_ids_push(out, (int32_t)sym, e);
    }
    size_t before = out->n;
    enum err_code rc = merge_word_plain(m, scratch, word, n, false, out, e);
    if (!rc && whole == WHOLE_UNKNOWN) {
        bool same = out->n == before + 1 && out->ids[before] == (int32_t)sym;
        __atomic_store_n(&m->whole[sym], same ? WHOLE_YES : WHOLE_NO, __ATOMIC_RELAXED);
    }
    return rc;
}
