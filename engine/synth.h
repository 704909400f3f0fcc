/* Models with made-up weights in the shapes of real ones, so that speed can be measured without a
 * download. Weights are normal with spreads that keep activations and logits in a model's usual
 * range; the text they give is noise. The same options give the same bytes. */
#ifndef ENGINE_SYNTH_H
#define ENGINE_SYNTH_H

#include "base/err.h"
#include "engine/gguf.h"
#include "engine/quant/mix.h"

#include <stdbool.h>
#include <stdint.h>

struct synth_shape {
    const char *name; /* "tinyllama-1.1b" */
    const char *arch; /* general.architecture */
    uint32_t n_layer;
    uint32_t n_embd;
    uint32_t n_ff;
    uint32_t n_head;
    uint32_t n_head_kv;
    uint32_t head_dim;
    uint32_t n_ctx;
    uint32_t n_vocab; /* of the real model */
    float rope_base;
    float rope_factor; /* Llama 3's frequency scaling; 0: none */
    float eps;
    uint32_t n_expert; /* 0: dense */
    uint32_t n_expert_used;
    uint32_t n_ff_expert;
    bool tied;     /* the embedding is the output matrix */
    bool qkv_bias; /* Qwen2 */
    bool qk_norm;  /* Qwen3 */
};

/* NULL past the last, or when there is none of this name. */
const struct synth_shape *synth_shape_at(uint32_t i);
const struct synth_shape *synth_shape_by_name(const char *name);

struct synth_options {
    const struct synth_shape *shape;
    const struct quant_mix *mix;
    const char *vocab_path; /* its tokenizer.* keys are copied; their count is the vocabulary */
    const char *out_path;
    uint64_t seed;
    uint32_t n_layer;  /* 0: as the shape has it */
    uint32_t n_thread; /* 0: physical cores allowed */
};

enum err_code synth_write(const struct synth_options *o, struct err *e);

#endif
