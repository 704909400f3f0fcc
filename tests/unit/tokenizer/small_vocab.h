/* Small vocabularies for tests, made with the product's own GGUF writer. */
#ifndef TESTS_UNIT_TOKENIZER_SMALL_VOCAB_H
#define TESTS_UNIT_TOKENIZER_SMALL_VOCAB_H

#include "base/buf.h"
#include "engine/tokenizer/vocab.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SMALL_TOKENS_MAX 1024
#define SMALL_MERGES_MAX 1024

/* What to write; lists that are to be absent have no entries. Owned by its holder; zero is empty.
 */
struct small {
    const char *arch;  /* NULL: "llama" */
    const char *model; /* NULL: no key */
    const char *pre;   /* NULL: no key */
    struct gguf_str tokens[SMALL_TOKENS_MAX];
    float scores[SMALL_TOKENS_MAX];
    int32_t types[SMALL_TOKENS_MAX];
    size_t n_token;
    size_t n_score;
    size_t n_type;
    struct gguf_str merges[SMALL_MERGES_MAX];
    size_t n_merge;
    bool no_merges; /* no key, rather than an empty list */
    struct {
        const char *key; /* after "tokenizer.ggml." */
        uint32_t id;
    } ids[8];
    struct {
        const char *key;
        bool value;
    } flags[8];
    const uint8_t *charsmap;
    size_t n_charsmap;
    uint32_t n_vocab; /* ARCH.vocab_size; 0: no key */
};

/* Adds a token; s is copied. Returns its id. */
int32_t small_token(struct small *v, const char *s, size_t n, float score, enum vocab_type type);
void small_merge(struct small *v, const char *left, const char *right);
/* Byte-level BPE's 256 bytes, in order, as the alphabet spells them. */
void small_bytes(struct small *v);
/* <unk>, <s>, </s> and, if bytes, <0x00>…<0xFF>. */
void small_spm(struct small *v, bool bytes);

struct buf small_write(const struct small *v);
/* Loads it; on failure *ret_v stays NULL. */
enum err_code small_load(const struct small *v, struct vocab **ret_v, struct err *e);
void small_free(struct small *v);

#endif
