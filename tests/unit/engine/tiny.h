/* A llama of a few kilobytes, written to a file with one thing changed: for tests that need a model
 * and no data beside the checkout. */
#ifndef TESTS_UNIT_ENGINE_TINY_H
#define TESTS_UNIT_ENGINE_TINY_H

#include <stdbool.h>
#include <stdint.h>

#define TINY_N_VOCAB 24
#define TINY_N_CTX   64

enum tiny_change_kind { TINY_NONE, TINY_NUMBER, TINY_REAL, TINY_TEXT, TINY_DROP_KEY, TINY_TENSOR };

/* TENSOR: shape [ne0, ne1]; ne0 0: the tensor is left out; a new name is added. */
struct tiny_change {
    enum tiny_change_kind kind;
    const char *name; /* of the key or tensor */
    int64_t number;
    double real;
    const char *text;
    uint64_t ne0;
    uint64_t ne1;
};

/* False, with a line on stderr, when the file cannot be written. */
bool tiny_write(const char *path, const struct tiny_change *change);

#endif
