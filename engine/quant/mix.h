/* A mix: which type each tensor of a model gets, so that the sensitive ones keep more bits. Names,
 * file-type numbers and choices are those that users of GGUF files know ("Q4_K_M"). Pure tables and
 * functions. */
#ifndef ENGINE_QUANT_MIX_H
#define ENGINE_QUANT_MIX_H

#include "engine/gguf.h"

#include <stdbool.h>
#include <stdint.h>

struct quant_mix {
    const char *name;
    uint32_t file_type;  /* general.file_type */
    enum gguf_type base; /* what most tensors get */
};

/* What the choice depends on beyond the tensor itself. */
struct quant_mix_model {
    uint32_t n_layer;
    uint32_t n_expert;
    uint32_t n_gqa; /* query heads per KV head */
    bool tied;      /* no output.weight: the embedding is the output matrix too */
};

/* Any case; NULL when there is none. */
const struct quant_mix *quant_mix_by_name(const char *name);
/* All of them in the order of the help text; NULL past the last. */
const struct quant_mix *quant_mix_at(uint32_t i);
/* "Q4_K_M" for 15; NULL for numbers outside the table, which is larger than that of the mixes. */
const char *quant_file_type_name(uint64_t file_type);

/* The type of one tensor. `now` is the type it has: small tensors, norms, routers and convolutions
 * keep it. Rows that are no whole blocks of the type get a simpler one. */
enum gguf_type quant_mix_type(const struct quant_mix *m, const struct quant_mix_model *model,
                              struct gguf_str name, enum gguf_type now, uint32_t n_dim,
                              uint64_t row_len);

#endif
