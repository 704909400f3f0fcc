/* Parts of convert.c: a folder as it is being read. One thread. */
#ifndef ENGINE_CONVERT_HF_H
#define ENGINE_CONVERT_HF_H

#include "base/err.h"
#include "engine/convert/json_file.h"
#include "engine/convert/safetensors.h"
#include "engine/gguf_write.h"

#include <stdbool.h>
#include <stdint.h>

struct hf_family {
    const char *class_name; /* of config.json's architectures */
    const char *arch;       /* general.architecture */
    bool permuted;          /* rotary pairs are halves here and neighbours in GGUF */
    bool norm_plus_one;     /* norms are stored less one */
    bool post_norms;        /* norms on what attention and FFN give */
    bool fused;             /* qkv and gate_up in one */
    const char *act;        /* hidden_act */
};

#define HF_ROT_MAX 1024

struct hf {
    const char *dir;
    const struct hf_family *family;
    cJSON *config;
    cJSON *tokenizer;
    cJSON *tokenizer_config; /* or NULL */
    cJSON *generation;       /* generation_config.json or NULL */
    const cJSON *text;       /* config, or its text_config */
    const char *prefix;      /* of tensor names, "" or "language_model." */
    struct st_files *files;
    struct gguf_writer *w;
    uint32_t n_layer;
    uint32_t n_embd;
    uint32_t n_head;
    uint32_t n_head_kv;
    uint32_t d_head;
    uint32_t n_rot;
    uint64_t n_vocab; /* rows of the embedding */
    bool tied;
    /* Divisors of the rotary frequencies, [n_rot / 2]; 0: no such tensor. */
    float freqs[HF_ROT_MAX / 2];
    float longs[HF_ROT_MAX / 2];
    float shorts[HF_ROT_MAX / 2];
    bool has_freqs;
    bool has_long_short;
};

/* Finds the family and the sizes, puts the architecture's keys. */
enum err_code hf_put_config(struct hf *h, struct err *e);
enum err_code hf_put_rope(struct hf *h, uint32_t n_ctx, struct err *e);
/* Puts tokenizer.* keys. */
enum err_code hf_put_tokenizer(struct hf *h, struct err *e);
/* Declares every tensor; after gguf_writer_open, writes them. */
enum err_code hf_put_tensors(struct hf *h, struct err *e);
enum err_code hf_write_tensors(struct hf *h, struct err *e);

void hf_put_u32(struct hf *h, const char *key, uint32_t v); /* "block_count" */
void hf_put_f32(struct hf *h, const char *key, double v);
/* A whole number of the text's config in [lo, hi]. */
enum err_code hf_count(const cJSON *o, const char *key, uint32_t lo, uint32_t hi, uint32_t *ret,
                       struct err *e);

#endif
