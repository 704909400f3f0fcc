/* Which tensors a shape has and what fills them. Private to synth*.c. */
#ifndef ENGINE_SYNTH_LIST_H
#define ENGINE_SYNTH_LIST_H

#include "engine/synth.h"

#include <stddef.h>

#define SYNTH_NAME_BYTES 64

enum synth_fill {
    SYNTH_FILL_WEIGHT, /* normal, `spread` wide */
    SYNTH_FILL_NORM,   /* uniform in [0.8, 1.2) */
    SYNTH_FILL_ROPE,   /* Llama 3's frequency factors */
};

struct synth_tensor {
    char name[SYNTH_NAME_BYTES];
    enum gguf_type type;
    uint32_t n_dim;
    uint64_t ne[GGUF_DIMS_MAX];
    enum synth_fill fill;
    float spread;
};

/* Freed by its holder; `failed` when memory ran out. */
struct synth_list {
    struct synth_tensor *items;
    size_t n;
    size_t cap;
    bool failed;
};

/* Appends the tensors of n_layer layers, all as F32. */
void synth_list_tensors(struct synth_list *l, const struct synth_shape *s, uint32_t n_layer,
                        uint64_t n_vocab);

#endif
