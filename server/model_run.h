/* What the commands that run a model without a server share (eval, bench, perplexity): their common
 * options, the opened engine, and KV memory for a few sequences. One thread. */
#ifndef SERVER_MODEL_RUN_H
#define SERVER_MODEL_RUN_H

#include "base/err.h"
#include "engine/engine.h"
#include "kvstore/kvstore.h"

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>

struct run_options {
    const char *model;
    uint32_t n_thread; /* 0: physical cores */
    uint32_t n_ctx;    /* 0: the trained length */
    enum eng_kv_type kv_type;
    const char *isa; /* NULL: the best */
    bool json;
};

/* Rows of a getopt_long table, and their help. */
#define RUN_OPTION_ROWS                                                                            \
    {"model", required_argument, NULL, 'm'}, {"threads", required_argument, NULL, 't'},            \
        {"ctx", required_argument, NULL, 'c'}, {"kv-type", required_argument, NULL, 'k'},          \
        {"isa", required_argument, NULL, 'i'}, {"json", no_argument, NULL, 'j'},                   \
    {                                                                                              \
        "help", no_argument, NULL, 'h'                                                             \
    }
#define RUN_OPTION_HELP                                                                            \
    "  --model FILE        the GGUF file\n"                                                        \
    "  --threads N         worker threads (default: physical cores)\n"                             \
    "  --ctx N             longest sequence in tokens (default: the trained length)\n"             \
    "  --kv-type TYPE      auto, f32, bf16 or int8\n"                                              \
    "  --isa NAME          scalar, avx2, avx512, amx or neon (default: the best)\n"                \
    "  --json              one JSON object per line\n"                                             \
    "  --help              this text\n"

/* Takes one option of the table. ERR_INVALID names option, value and range; ERR_NOT_FOUND: not one
 * of them. */
enum err_code run_option(struct run_options *o, int letter, const char *value, struct err *e);

/* A whole number in [lo, hi]. */
enum err_code run_number(const char *option, const char *text, uint32_t lo, uint32_t hi,
                         uint32_t *ret_v, struct err *e);

/* Ids from "1,2,3", "1 2 3" or "[1, 2, 3]". */
enum err_code run_parse_ids(const char *text, size_t n_byte, struct eng_ids *out, struct err *e);
/* Texts and token lists a command reads whole. */
#define RUN_FILE_BYTES_MAX ((size_t)256 << 20)

struct model_run {
    struct eng *g;
    struct kv_store *kv;
};

/* Opens the model, and a KV store with room for n_seq sequences of n_seq_tok tokens (0: of the
 * context). */
enum err_code run_open(const struct run_options *o, uint32_t n_seq, uint32_t n_seq_tok,
                       struct model_run *ret_r, struct err *e);
void run_close(struct model_run *r);

/* The memory of one sequence: what its slices need. */
struct run_seq {
    struct kv_seq *q;
    void *kv;
    void *state; /* NULL where the model has none */
};

/* For n_tok tokens. */
enum err_code run_seq_open(struct model_run *r, uint32_t n_tok, struct run_seq *ret_s,
                           struct err *e);
void run_seq_close(struct run_seq *s);

/* Natural log of softmax(logits)[id], summed in double. */
double run_logprob(const float *logits, uint32_t n, int32_t id);
uint32_t run_argmax(const float *logits, uint32_t n);

#endif
