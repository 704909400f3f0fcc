/* The engine's whole public API: one model, ready to run. A `struct eng` is created once, shared by
 * all requests and destroyed last. It knows nothing of requests or users, and not where KV memory
 * comes from: each slice brings the base address of its sequence's contiguous KV range.
 *
 * Threads: eng_step is for one thread (the scheduler's) and uses the engine's own worker pool.
 * Tokenizing, detokenizing, templates and info are pure reads, for any thread at any time.
 *
 * `struct eng_impl` is what stands behind a struct eng: the real one loads GGUF files (eng_open);
 * tests bring a fake one, so that scheduler and server are tested without a model. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ENG_TOKEN_NONE (-1)

/* How an embedding model makes one vector of its rows' hidden states. */
enum eng_pooling { ENG_POOLING_NONE, ENG_POOLING_MEAN, ENG_POOLING_CLS, ENG_POOLING_LAST };

enum eng_kv_type { ENG_KV_AUTO, ENG_KV_F32, ENG_KV_BF16, ENG_KV_INT8 };

/* A low-rank adapter to load beside the model. */
struct eng_adapter_file {
    const char *name;
    const char *path;
    float scale; /* of what it adds; 1: as its file has it */
};

struct eng_options {
    const char *model_path;
    const char *chat_template_path; /* NULL: the model's own, else a built-in one */
    bool chat_template_fallback;    /* a template that does not parse: the built-in one */
    uint32_t n_ctx;                 /* longest sequence in tokens; 0: the trained length */
    uint32_t n_thread;              /* kernel workers, caller included; 0: physical cores allowed */
    enum eng_kv_type kv_type;       /* AUTO: f32 for F32/F16 models, bf16 otherwise */
    const char *isa;                /* NULL: best; else "scalar", "avx2", "avx512", "amx", "neon" */
    const struct eng_adapter_file *adapters; /* [n_adapter] */
    uint32_t n_adapter;
    bool vocab_only; /* tokenizer and metadata alone; eng_step then fails */
    /* Load progress for a terminal; done/total in bytes. May be NULL. */
    void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_arg;
};

/* What a model's file recommends for sampling (general.sampling.*), as it stands; NaN: nothing. */
struct eng_sampling {
    double temperature;
    double top_k;
    double top_p;
    double min_p;
    double repetition_penalty;
};

struct eng_adapter {
    const char *name;
    uint8_t digest[32]; /* of all it does: part of the identity of KV made with it */
};

/* Facts fixed at load. Strings belong to the engine. */
struct eng_info {
    const char *name;          /* general.name, else the file's stem */
    const char *arch;          /* general.architecture */
    const char *isa;           /* the kernel path in use */
    const char *format;        /* "Q4_K_M"-like summary of the weight types */
    const char *chat_template; /* its text, the built-in's where that is in use */
    uint32_t n_vocab;
    uint32_t n_layer;
    uint32_t n_ctx;       /* longest sequence this engine will run */
    uint32_t n_ctx_train; /* what the model was trained for */
    uint32_t n_thread;
    int32_t bos_id; /* ENG_TOKEN_NONE where there is none */
    int32_t eos_id;
    uint64_t n_param;
    uint64_t weights_bytes;
    uint64_t
        embed_bytes; /* of those, of a table that rows are only taken from; 0: also the output */
    bool moe;        /* a row reads some of the weights alone */
    enum eng_kv_type kv_type;
    /* KV layout for the store: T tokens of all layers, K and V, are one chunk. */
    uint32_t chunk_tok;
    size_t chunk_bytes;
    size_t kv_bytes_per_tok;
    uint32_t n_step_tok_max; /* rows one eng_step takes at most */
    uint32_t n_step_out_max; /* rows with logits one eng_step takes at most */
    /* Two engines in which these and kv_type are equal write the same KV bytes for the same tokens:
     * the engine's part of a cached prefix's identity. */
    uint8_t weights_digest[32]; /* SHA-256 over weights and the metadata that shapes them */
    uint64_t kv_layout_id;      /* what the bytes of a chunk mean */
    uint64_t arithmetic_id;     /* the instruction set's path and its version */
    uint64_t rope_id;           /* the rotation that n_ctx chose, where a model has several */
    struct eng_sampling sampling;
    const struct eng_adapter *adapters; /* [n_adapter] */
    uint32_t n_adapter;
    uint32_t n_embd;
    enum eng_pooling pooling; /* what the model's file asks for */
    size_t state_bytes;       /* recurrent state of one sequence, beside its KV; 0: none */
    bool encoder; /* every token sees every other: a sequence is one slice from position 0, and
                   * gives hidden states, never logits */
};

/* The rows of one sequence in one step. */
struct eng_slice {
    const int32_t *tokens; /* [n_tok] ids in [0, n_vocab) */
    uint32_t n_tok;
    uint32_t pos; /* position of tokens[0]; KV of [0, pos) is already written */
    void *kv;     /* base of the sequence's range; [0, pos + n_tok) mapped, writable from pos */
    uint32_t out_from; /* rows [out_from, n_tok) get logits; n_tok: none */
    float *logits;     /* out: [n_tok - out_from, n_vocab] f32, the engine's, until the next step;
                        * the caller may change them in place */
    bool want_hidden;  /* rows [out_from, n_tok) get hidden states instead of logits */
    float *hidden;     /* out: [n_tok - out_from, n_embd] f32 after the last norm, lent likewise */
    uint32_t adapter;  /* 0: none, else 1 + its index in info.adapters */
    void *state; /* [state_bytes], 64-byte aligned: the state after [0, pos), made that after the
                  * slice; whatever it holds at pos 0 is not read. NULL where state_bytes is 0 */
};

/* One chat message or any other value a chat template may see: see engine/template/value.h. */
struct tmpl_value;

enum eng_tokenize_flags {
    ENG_TOKENIZE_ADD_SPECIAL = 1,   /* automatic tokens: BOS, EOS, CLS, SEP as the model says */
    ENG_TOKENIZE_PARSE_SPECIAL = 2, /* text such as <|im_end|> becomes its control token */
};

/* Growable id list; owned by its holder, freed with eng_ids_free. */
struct eng_ids {
    int32_t *ids;
    size_t n;
    size_t cap;
};

/* What a streaming detokenizer carries from token to token: zero at a sequence's start. */
struct eng_detok {
    bool started;
};

struct eng;

struct eng_impl {
    void (*destroy)(struct eng *g);
    enum err_code (*step)(struct eng *g, struct eng_slice *slices, uint32_t n_slice, struct err *e);
    enum err_code (*tokenize)(const struct eng *g, const char *text, size_t n_byte, unsigned flags,
                              struct eng_ids *out, struct err *e);
    void (*detokenize)(const struct eng *g, struct eng_detok *state, int32_t id, bool show_special,
                       struct buf *out);
    bool (*is_eog)(const struct eng *g, int32_t id);
    enum err_code (*render_chat)(const struct eng *g, const struct tmpl_value *context,
                                 struct buf *out, struct err *e);
    /* May be NULL. fn(arg, item, worker) for every item of [0, n_item) on the engine's workers,
     * worker in [0, info.n_thread). */
    void (*parallel)(struct eng *g, uint32_t n_item,
                     void (*fn)(void *arg, uint32_t item, uint32_t worker), void *arg);
};

struct eng {
    const struct eng_impl *impl;
    struct eng_info info;
};

/* Loads a model. Errors name the file and the key or tensor. Prints nothing but log lines. */
enum err_code eng_open(const struct eng_options *options, struct eng **ret_g, struct err *e);

static inline void eng_close(struct eng *g) /* NULL is legal */
{
    if (g) {
        g->impl->destroy(g);
    }
}

/* Runs all slices through the model, writes their KV, and leaves logits where asked. A row's result
 * depends on its own sequence alone: not on the other slices, the slicing, or the thread count.
 * Fails as a whole (ERR_INVALID, ERR_LIMIT) before any KV is written. */
static inline enum err_code eng_step(struct eng *g, struct eng_slice *slices, uint32_t n_slice,
                                     struct err *e)
{
    return g->impl->step(g, slices, n_slice, e);
}

/* Appends the ids of valid UTF-8 text (invalid bytes are taken as U+FFFD) to out. */
static inline enum err_code eng_tokenize(const struct eng *g, const char *text, size_t n_byte,
                                         unsigned flags, struct eng_ids *out, struct err *e)
{
    return g->impl->tokenize(g, text, n_byte, flags, out, e);
}

/* Appends the bytes of one token: part of a character at times (callers hold back the tail).
 * Control tokens give nothing unless show_special. Ids out of range give nothing. */
static inline void eng_detokenize(const struct eng *g, struct eng_detok *state, int32_t id,
                                  bool show_special, struct buf *out)
{
    g->impl->detokenize(g, state, id, show_special, out);
}

/* Whether id ends a generation: EOS, EOT, EOM and the like. */
static inline bool eng_is_eog(const struct eng *g, int32_t id)
{
    return g->impl->is_eog(g, id);
}

/* Renders the chat template with `context`, a map that holds at least `messages` and
 * `add_generation_prompt`; bos_token, eos_token and the clock are added by the engine. The result
 * is tokenized with PARSE_SPECIAL, and ADD_SPECIAL unless it begins with the BOS text already. */
static inline enum err_code eng_render_chat(const struct eng *g, const struct tmpl_value *context,
                                            struct buf *out, struct err *e)
{
    return g->impl->render_chat(g, context, out, e);
}

/* Lends the engine's workers between steps, so that one row's sampling does not wait for another's.
 * Returns when every item is done. For the thread of eng_step; which worker takes which item must
 * not matter. Without workers to lend the caller does it all, as worker 0. */
static inline void eng_parallel(struct eng *g, uint32_t n_item,
                                void (*fn)(void *arg, uint32_t item, uint32_t worker), void *arg)
{
    if (g->impl->parallel) {
        g->impl->parallel(g, n_item, fn, arg);
        return;
    }
    for (uint32_t i = 0; i < n_item; i++) {
        fn(arg, i, 0);
    }
}

/* One vector of a sequence's hidden states: their mean, the first or the last. NONE counts as MEAN.
 * The rows are added as they come, in order: hidden [n_row, n_embd] of positions from pos on, into
 * sum [n_embd], zero before the first. Rows that the pooling has no use for may be left out, and
 * how they are parted does not change a bit. Then eng_pool_end makes out [n_embd] of it; normalize:
 * to length 1. */
void eng_pool_add(enum eng_pooling pooling, const float *hidden, uint32_t pos, uint32_t n_row,
                  uint32_t n_tok, uint32_t n_embd, double *sum);
void eng_pool_end(enum eng_pooling pooling, const double *sum, uint32_t n_tok, uint32_t n_embd,
                  bool normalize, float *out);

enum err_code eng_ids_push(struct eng_ids *l, int32_t id, struct err *e);
void eng_ids_free(struct eng_ids *l);

#endif
