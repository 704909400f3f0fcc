/* A model file with other weight types: metadata as it was, tensors as a mix wants them. */
#ifndef ENGINE_REQUANTIZE_H
#define ENGINE_REQUANTIZE_H

#include "base/err.h"
#include "engine/gguf.h"
#include "engine/quant/mix.h"

#include <stdint.h>

struct eng_requantize_options {
    const char *in_path;
    const char *out_path; /* may be in_path: the file is replaced when the new one is whole */
    const struct quant_mix *mix;
    uint32_t n_thread; /* 0: physical cores allowed */
    /* Called after each tensor by the calling thread. May be NULL. */
    void (*progress)(void *arg, const struct gguf_tensor *t, enum gguf_type to, uint64_t done_bytes,
                     uint64_t total_bytes);
    void *progress_arg;
};

/* Errors name the file, and the tensor that could not be quantised. */
enum err_code eng_requantize(const struct eng_requantize_options *o, struct err *e);

#endif
