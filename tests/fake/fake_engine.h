/* An engine without a model, for tests of scheduler and server. The logits of a row are a pure
 * function of the ids of its whole sequence, and those are read back, on every step, from the KV
 * memory that earlier steps wrote: a wrong address, a lost chunk or a neighbour's write changes
 * the answer. fake_logits is the same function without KV, as the oracle.
 *
 * Vocabulary: 0 <s>, 1 </s> (eog), 2 <|im_start|>, 3 <|im_end|> (eog), 4…259 the 256 bytes, then
 * pieces of text, among them halves of multi-byte characters that the likeliest continuation
 * always completes, then words " w<id>" up to n_vocab. Text tokenizes to bytes.
 *
 * Greedy answers are clean UTF-8; a row's likeliest id stands about 6 above the rest.
 * Threads: as engine.h; the set-up calls below belong to the thread that calls eng_step. */
#ifndef TESTS_FAKE_FAKE_ENGINE_H
#define TESTS_FAKE_FAKE_ENGINE_H

#include "engine/engine.h"

#define FAKE_BOS          0
#define FAKE_EOS          1
#define FAKE_IM_START     2
#define FAKE_IM_END       3
#define FAKE_BYTE_FIRST   4
#define FAKE_PIECE_FIRST  260
#define FAKE_VOCAB_MIN    320
#define FAKE_CTX_DEFAULT  4096
#define FAKE_EOG_PERMILLE 10
#define FAKE_ADAPTER_MAX  8

struct fake_options {
    uint32_t n_vocab;          /* 0: FAKE_VOCAB_MIN, also the least */
    uint32_t n_ctx;            /* 0: FAKE_CTX_DEFAULT */
    uint32_t chunk_tok;        /* power of two; 0: 64 */
    uint32_t kv_bytes_per_tok; /* chunk_tok × this is a multiple of 4096; 0: 4096 / chunk_tok, >= 64
                                */
    uint32_t n_step_tok_max;   /* 0: 4096 */
    uint32_t n_step_out_max;   /* 0: n_step_tok_max */
    uint32_t n_adapter;        /* up to FAKE_ADAPTER_MAX; each answers in its own way */
    uint32_t n_embd;           /* 0: no hidden states */
    uint32_t encoder;          /* not 0: takes whole texts, gives hidden states alone */
    uint32_t n_thread;         /* workers to lend, eng_parallel; 0: none */
    uint32_t step_us;          /* a step sleeps step_us + n_row × row_us */
    uint32_t row_us;
    uint32_t eog_permille;  /* chance that eog is the likeliest id; 0: FAKE_EOG_PERMILLE */
    bool never_eog;         /* no row prefers eog */
    uint32_t fail_permille; /* steps that fail with ERR_INTERNAL, before anything is written */
    const char *say;        /* every answer, byte by byte, then eog; NULL: by the logits. An answer
                             * begins behind "<|im_start|>assistant\n" */
    uint64_t seed;          /* of the answers and the failures */
    /* Called at the start of every step, before anything is checked. May be NULL. */
    void (*on_step)(void *arg, const struct eng_slice *slices, uint32_t n_slice);
    void *on_step_arg;
    /* fake_render_chat, or NULL: ERR_UNSUPPORTED. A pointer, so that only who renders needs to link
     * the template values. */
    enum err_code (*render_chat)(const struct eng *g, const struct tmpl_value *context,
                                 struct buf *out, struct err *e);
};

enum err_code fake_engine_create(const struct fake_options *options, struct eng **ret_g,
                                 struct err *e); /* eng_close ends it */

/* The logits after tokens[0, n): [n_vocab] f32. n >= 1. */
void fake_logits(const struct eng *g, const int32_t *tokens, size_t n, float *ret_logits);
/* The hidden state of the last of tokens[0, n): [n_embd] f32. */
void fake_hidden(const struct eng *g, const int32_t *tokens, size_t n, float *ret_hidden);
/* The greedy continuation, eog or not: the argmax of fake_logits. */
int32_t fake_next(const struct eng *g, const int32_t *tokens, size_t n);

/* The next n_step steps fail with ERR_INTERNAL. */
void fake_engine_fail_next(struct eng *g, uint32_t n_step);

struct fake_counts {
    uint64_t n_step;
    uint64_t n_failed;
    uint64_t n_row;
    uint64_t n_row_max;   /* in one step */
    uint64_t n_slice_max; /* in one step */
    uint64_t n_bad_read;  /* KV records that were not what had been written: always 0 */
};
struct fake_counts fake_engine_counts(const struct eng *g);

/* ChatML from messages[].role and .content (a string, or a list of parts with `text`). */
enum err_code fake_render_chat(const struct eng *g, const struct tmpl_value *context,
                               struct buf *out, struct err *e);

#endif
