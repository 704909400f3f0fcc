/* A model's vocabulary and tokenizer, read from GGUF metadata: SentencePiece BPE ("llama"),
 * byte-level BPE ("gpt2", and "gemma4" with its spaces), WordPiece ("bert"), Unigram ("t5") or none
 * ("no_vocab", "none"). Loaded once, then read by any thread at any time; everything is copied, so
 * the GGUF file may be closed. Nothing in the file is trusted: list lengths are compared, ids are
 * checked against the list.
 *
 *   struct vocab *v;
 *   struct eng_ids ids = {0};
 *   rc = vocab_load(file, &v, &e);
 *   rc = vocab_tokenize(v, "Hello", 5, ENG_TOKENIZE_ADD_SPECIAL, &ids, &e);
 *   struct eng_detok state = {0};
 *   for (size_t i = 0; i < ids.n; i++) vocab_detokenize(v, &state, ids.ids[i], false, &text);
 *
 * Sources: GGUF specification (tokenizer.ggml.*); Sennrich et al. 2016 (BPE); Kudo 2018 (Unigram);
 * Kudo and Richardson 2018 (SentencePiece); Devlin et al. 2018 (WordPiece). */
#ifndef ENGINE_TOKENIZER_VOCAB_H
#define ENGINE_TOKENIZER_VOCAB_H

#include "base/buf.h"
#include "base/err.h"
#include "engine/engine.h"
#include "engine/gguf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum vocab_kind { VOCAB_NONE, VOCAB_SPM, VOCAB_BPE, VOCAB_WPM, VOCAB_UGM };

/* tokenizer.ggml.token_type, by its numbers in the file. */
enum vocab_type {
    VOCAB_UNDEFINED = 0,
    VOCAB_NORMAL = 1,
    VOCAB_UNKNOWN = 2,
    VOCAB_CONTROL = 3,      /* never text of its own; matched only with PARSE_SPECIAL */
    VOCAB_USER_DEFINED = 4, /* text that is matched before anything else */
    VOCAB_UNUSED = 5,
    VOCAB_BYTE = 6,
};

/* What the metadata says. Ids are ENG_TOKEN_NONE where there is none. */
struct vocab_facts {
    enum vocab_kind kind;
    const char *model; /* tokenizer.ggml.model; the vocabulary's */
    const char *pre;   /* tokenizer.ggml.pre, "" where the file has none; the vocabulary's */
    uint32_t n_token;
    int32_t bos; /* WordPiece: [CLS] */
    int32_t eos;
    int32_t eot; /* end of turn */
    int32_t eom; /* end of message */
    int32_t unk;
    int32_t sep;
    int32_t pad;
    int32_t mask;
    int32_t fim_pre;
    int32_t fim_suf;
    int32_t fim_mid;
    int32_t fim_pad;
    int32_t fim_rep;
    int32_t fim_sep;
    bool add_bos; /* what ENG_TOKENIZE_ADD_SPECIAL puts before and after the text */
    bool add_eos;
    bool add_sep;
    bool add_space_prefix;
};

struct vocab;

/* ERR_UNSUPPORTED: a tokenizer or pre-tokenizer this build does not have, named. ERR_CORRUPT: lists
 * that contradict each other, the key named. */
enum err_code vocab_load(const struct gguf *f, struct vocab **ret_v, struct err *e);
void vocab_destroy(struct vocab *v); /* NULL is legal */

const struct vocab_facts *vocab_facts(const struct vocab *v);
uint32_t vocab_n(const struct vocab *v);

/* Appends the ids of text to out; flags are enum eng_tokenize_flags. Invalid UTF-8 is taken as
 * U+FFFD, byte by byte; characters that a vocabulary without an unknown token cannot say are left
 * out, as its own tokenizer does. On failure out is as before. Time is n log n at worst. */
enum err_code vocab_tokenize(const struct vocab *v, const char *text, size_t n, unsigned flags,
                             struct eng_ids *out, struct err *e);

/* Appends the bytes of one token, part of a character at times. Control and unknown tokens give
 * nothing unless show_special; ids out of range give nothing. A zero state stands at the start of a
 * text, where SentencePiece and WordPiece models put a space that is not the text's: it is left
 * out. When the tokens go on from a prompt, set state->started first. */
void vocab_detokenize(const struct vocab *v, struct eng_detok *state, int32_t id, bool show_special,
                      struct buf *out);

/* Whether id ends a generation: EOS, EOT, EOM and what models use in their place. */
bool vocab_is_eog(const struct vocab *v, int32_t id);

/* Of one id; an id out of range is UNDEFINED and empty. Strings are the vocabulary's. */
enum vocab_type vocab_type(const struct vocab *v, int32_t id);
struct gguf_str vocab_text(const struct vocab *v, int32_t id);  /* as the file spells it */
struct gguf_str vocab_piece(const struct vocab *v, int32_t id); /* the bytes it stands for */

/* The token that the file spells so, or ENG_TOKEN_NONE. */
int32_t vocab_find(const struct vocab *v, const char *text, size_t n);

#endif
