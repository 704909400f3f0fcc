/* What the files of the tokenizer share. */
#ifndef ENGINE_TOKENIZER_VOCAB_IMPL_H
#define ENGINE_TOKENIZER_VOCAB_IMPL_H

#include "engine/tokenizer/merge.h"
#include "engine/tokenizer/pretok.h"
#include "engine/tokenizer/special.h"
#include "engine/tokenizer/strtab.h"
#include "engine/tokenizer/vocab.h"

#define LOWER_BLOCK   "\xe2\x96\x81" /* U+2581, a space in SentencePiece's spelling */
#define LOWER_BLOCK_N 3

/* Bits beside a token's type. */
enum vocab_mark {
    MARK_EOG = 1,
    MARK_STRIP_LEFT = 2,  /* as an added token, it takes the white space before it */
    MARK_STRIP_RIGHT = 4, /* and after it */
    MARK_APART = 8,       /* merging never gives it: its text is not in the model's spelling */
};

struct wpm;
struct ugm;

struct vocab {
    struct vocab_facts facts;
    char *model_name;
    char *pre_name;
    char *bytes;        /* of all texts and pieces */
    struct span *text;  /* [n_token] as the file spells it */
    struct span *piece; /* [n_token] the bytes it stands for */
    uint8_t *type;      /* [n_token] enum vocab_type */
    uint8_t *mark;      /* [n_token] enum vocab_mark */
    float *score;       /* [n_token], or NULL */
    struct strtab by_text;
    struct special plain; /* user-defined tokens */
    struct special all;   /* and control tokens */
    struct merges merges; /* SPM, BPE */
    struct pretok *pretok;
    struct pretok_traits traits;
    struct wpm *wpm;
    struct ugm *ugm;
};

/* Lists of the file beside the tokens. */
enum err_code vocab_load_merges(struct vocab *v, const struct gguf *f, struct err *e); /* BPE */
enum err_code vocab_load_spm(struct vocab *v, struct err *e);
enum err_code vocab_load_ids(struct vocab *v, const struct gguf *f, struct err *e);
void vocab_mark_eog(struct vocab *v);
void vocab_mark_strip(struct vocab *v, const struct gguf *f);

/* Byte-level BPE's alphabet: bytes of a token's text into out[n], or SIZE_MAX where a character
 * stands for none. */
size_t bpe_decode(const char *text, size_t n, char *out);
/* U+2581 becomes a space; returns the length of out[n]. */
size_t spm_unescape(const char *text, size_t n, char *out);
/* The byte that "<0x41>" stands for, or -1. */
int spm_byte(const char *text, size_t n);

/* One call of vocab_tokenize: what its stretches of text between added tokens share. */
struct encode {
    const struct vocab *v;
    struct eng_ids *out;
    struct merge_scratch scratch;
    struct buf text; /* a stretch as the model spells it, where that is not the text itself */
};

enum err_code wpm_create(const struct vocab *v, const struct gguf *f, struct wpm **ret_w,
                         struct err *e);
void wpm_destroy(struct wpm *w);
enum err_code wpm_encode(struct encode *enc, const char *s, size_t n, struct err *e);

enum err_code ugm_create(const struct vocab *v, const struct gguf *f, struct ugm **ret_u,
                         struct err *e);
void ugm_destroy(struct ugm *u);
enum err_code ugm_encode(struct encode *enc, const char *s, size_t n, struct err *e);

#endif
