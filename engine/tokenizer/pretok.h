/* Pre-tokenizers: how text is cut into words before byte-level BPE merges them, by the name in
 * tokenizer.ggml.pre. Each is one or more stages; a stage cuts every piece of the one before it
 * into what its expression matches and what lies between. Hand-written stages are in split.h, the
 * rest are PCRE2 (JIT, UTF). Created once, then used by any thread. Sources: the models' own
 * tokenizer.json (pre_tokenizer) and tokenizer code. */
#ifndef ENGINE_TOKENIZER_PRETOK_H
#define ENGINE_TOKENIZER_PRETOK_H

#include "base/err.h"
#include "engine/tokenizer/split.h"

#include <stdbool.h>
#include <stddef.h>

#define PRETOK_STAGES_MAX 6

/* What else the name of a pre-tokenizer says about its vocabulary. */
struct pretok_traits {
    bool ignore_merges; /* a word that is a token is that token */
    bool add_bos;       /* where tokenizer.ggml.add_bos_token is absent */
    bool spaces;        /* text is UTF-8 with U+2581 for spaces, not bytes */
};

struct pretok;

/* name "" is the rule for files older than the key. ERR_UNSUPPORTED names an unknown one. */
enum err_code pretok_create(const char *name, struct pretok **ret_p, struct pretok_traits *ret_t,
                            struct err *e);
/* One rule of one's own (SentencePiece uses SPLIT_SPACES), or none: text is one word. */
enum err_code pretok_create_rule(const struct split_rule *rule, struct pretok **ret_p,
                                 struct err *e);
void pretok_destroy(struct pretok *p); /* NULL is legal */
/* Adds a stage at the end. */
enum err_code pretok_add_rule(struct pretok *p, const struct split_rule *rule, struct err *e);

typedef enum err_code pretok_emit(void *arg, const char *word, size_t n, struct err *e);

/* Calls emit for each word of valid UTF-8 text, in order; stops at its first failure. */
enum err_code pretok_run(const struct pretok *p, const char *text, size_t n, pretok_emit *emit,
                         void *arg, struct err *e);

#endif
