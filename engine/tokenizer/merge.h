/* Pair merging, the core of SentencePiece BPE and byte-level BPE: of all neighbouring symbols, the
 * pair of lowest rank, leftmost first, becomes one, until no pair has a rank. A symbol is a string
 * of bytes: the tokens that merging may give are symbols under their own ids, strings that only
 * occur on the way to them come after. Built by one thread, then read by any.
 *
 * A word of up to MERGE_SHORT symbols is merged in place on the stack; a longer one with a heap,
 * n log n. Both give the same ids. Most words of a text are tokens themselves: whether a token's
 * bytes do merge into it is found out once, at its first use, and remembered.
 * Source: Sennrich et al. 2016; Kudo and Richardson 2018. */
#ifndef ENGINE_TOKENIZER_MERGE_H
#define ENGINE_TOKENIZER_MERGE_H

#include "base/err.h"
#include "engine/engine.h"
#include "engine/tokenizer/strtab.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MERGE_SHORT     48
#define MERGE_RANK_NONE UINT32_MAX
#define MERGE_SYM_NONE  STRTAB_NONE

struct merge_pair {
    uint32_t left; /* MERGE_SYM_NONE: empty */
    uint32_t right;
    uint32_t rank;
    uint32_t merged;
};

struct merge_block;

struct merges {
    struct span *sym; /* [n_sym] their bytes */
    uint32_t n_sym;
    uint32_t cap_sym;
    uint32_t n_token;           /* symbols below are tokens */
    struct strtab by_bytes;     /* of the symbols that merging may meet */
    struct merge_block *blocks; /* bytes of symbols that are no tokens */
    struct merge_pair *pairs;   /* power-of-two table, at most half full */
    size_t n_pair_slot;
    size_t n_pair;
    uint8_t *whole;         /* [n_token] enum in merge.c, atomic */
    bool by_char;           /* a word starts as UTF-8 characters, not as bytes */
    bool whole_first;       /* a word that is a token is that token, whatever the merges say */
    uint32_t byte_sym[256]; /* symbol of a single byte */
    int32_t byte_id[256];   /* token for a byte of a symbol that is no token, or ENG_TOKEN_NONE */
    int32_t unk_id;         /* for a byte without one, or ENG_TOKEN_NONE */
};

/* Memory for long words, kept from word to word; zero at first. */
struct merge_scratch {
    void *mem;
    size_t n_byte;
};

/* pieces: [n_token], the bytes of tokens; they must outlive the merges. None is mergeable yet. */
enum err_code merge_init(struct merges *m, const struct span *pieces, uint32_t n_token,
                         struct err *e);
void merge_finish(struct merges *m);
/* Lets merging give token id. Of two tokens with the same bytes, the first one given counts. */
enum err_code merge_add_token(struct merges *m, uint32_t id, struct err *e);
/* The symbol with these bytes, made if there is none. `copy`: the bytes do not live on. */
enum err_code merge_intern(struct merges *m, const char *s, size_t n, bool copy, uint32_t *ret_sym,
                           struct err *e);
/* The first rank given for a pair stays. */
enum err_code merge_add_pair(struct merges *m, struct merge_pair pair, struct err *e);
/* Fills byte_sym, once all symbols are in. */
enum err_code merge_seal(struct merges *m, struct err *e);

/* Appends the ids of one word, n > 0. */
enum err_code merge_word(const struct merges *m, struct merge_scratch *scratch, const char *word,
                         size_t n, struct eng_ids *out, struct err *e);
/* The same without the short cuts: for tests. force_heap: also for a short word. */
enum err_code merge_word_plain(const struct merges *m, struct merge_scratch *scratch,
                               const char *word, size_t n, bool force_heap, struct eng_ids *out,
                               struct err *e);
void merge_scratch_finish(struct merge_scratch *scratch);

#endif
