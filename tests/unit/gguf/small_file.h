/* A small valid GGUF file with a key of every kind and three tensors, made with the product's own
 * writer; the hostile cases are this file with something changed. */
#ifndef TESTS_UNIT_GGUF_SMALL_FILE_H
#define TESTS_UNIT_GGUF_SMALL_FILE_H

#include "base/buf.h"

#include <stdint.h>

/* part < n_part adds the split.* keys of a split file, and a tensor name of its own. */
struct buf small_file(uint32_t part, uint32_t n_part);

#endif
