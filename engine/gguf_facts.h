/* What a GGUF file says about its model, for people: read leniently, so that vocabulary-only files
 * and architectures nobody has heard of give what they can. Running a model reads its keys strictly
 * (engine/meta.h). Strings point into the file. */
#ifndef ENGINE_GGUF_FACTS_H
#define ENGINE_GGUF_FACTS_H

#include "engine/gguf.h"

#include <stdint.h>

struct gguf_facts {
    struct gguf_str arch; /* n 0: not said */
    struct gguf_str name;
    struct gguf_str tokenizer;
    const char *file_type; /* "Q4_K_M"; NULL: not said or not known */
    uint64_t n_vocab;
    uint64_t chat_template_bytes; /* 0: none */
    uint64_t n_layer;             /* 0: not said, like all that follow */
    uint64_t n_ctx_train;
    uint64_t n_embd;
    uint64_t n_head;    /* of the first layer that has any */
    uint64_t n_head_kv; /* likewise */
    uint64_t head_dim;
    uint64_t n_ff;
    uint64_t n_expert;
    uint64_t n_expert_used;
    uint64_t n_param; /* elements of all tensors */
    uint64_t tensor_bytes;
    /* KV of all layers per token, by the engine's KV types; 0 where heads or layers are not told.
     */
    uint64_t kv_f32_bytes;
    uint64_t kv_bf16_bytes;
    uint64_t kv_int8_bytes; /* a byte an element and a 2-byte scale for each head's K and V */
};

void gguf_facts_read(const struct gguf *f, struct gguf_facts *ret_facts);

#endif
