/* Tensors of a Hugging Face folder: model.safetensors, or the files that
 * model.safetensors.index.json names, mapped read-only and read as one. Nothing in them is trusted:
 * lengths are checked against the file, spans must not overlap, names are unique.
 * Source: the safetensors format (huggingface/safetensors, README). One thread. */
#ifndef ENGINE_CONVERT_SAFETENSORS_H
#define ENGINE_CONVERT_SAFETENSORS_H

#include "base/err.h"
#include "engine/gguf.h"

#include <stddef.h>
#include <stdint.h>

struct st_tensor {
    char *name;
    enum gguf_type type; /* F32, F16 or BF16 */
    uint32_t n_dim;
    uint64_t shape[GGUF_DIMS_MAX]; /* outermost first, as the file has it; 1 beyond n_dim */
    uint64_t n_elem;
    uint64_t n_byte;
    const void *data; /* into the mapping; unaligned */
};

struct st_files;

enum err_code st_open(const char *dir, struct st_files **ret_s, struct err *e);
void st_close(struct st_files *s); /* NULL is legal */

size_t st_n_tensor(const struct st_files *s);
const struct st_tensor *st_tensor_at(const struct st_files *s, size_t i);    /* by name */
const struct st_tensor *st_find(const struct st_files *s, const char *name); /* or NULL */

#endif
