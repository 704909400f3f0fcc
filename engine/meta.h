/* Reads the metadata of one architecture from a GGUF file: keys are given without the prefix
 * ("attention.head_count" for "llama.attention.head_count"), values are checked against the bounds
 * given. The first fault is kept and later reads return their lower bound, so that a reader is a
 * plain list of keys with one check at its end. One thread. */
#ifndef ENGINE_META_H
#define ENGINE_META_H

#include "base/err.h"
#include "engine/gguf.h"

#include <stdbool.h>
#include <stdint.h>

struct meta {
    const struct gguf *f;
    const char *prefix; /* general.architecture */
    enum err_code code; /* ERR_OK while nothing is wrong */
    struct err *e;
};

/* Required; "missing metadata key" or "is X, must be lo…hi" otherwise. */
uint32_t meta_u32(struct meta *k, const char *key, uint32_t lo, uint32_t hi);
/* The same, `absent` when the key is not there. */
uint32_t meta_u32_or(struct meta *k, const char *key, uint32_t lo, uint32_t hi, uint32_t absent);
/* A number per layer: an array of at least n, or one for all. `absent` when the key is not there;
 * a required key is asked for with meta_has first. */
void meta_u32_each(struct meta *k, const char *key, uint32_t lo, uint32_t hi, uint32_t absent,
                   uint32_t *out, uint32_t n);
void meta_bool_each(struct meta *k, const char *key, bool absent, bool *out, uint32_t n);
double meta_f64(struct meta *k, const char *key, double lo, double hi);
double meta_f64_or(struct meta *k, const char *key, double lo, double hi, double absent);
bool meta_bool_or(struct meta *k, const char *key, bool absent);
/* False when absent. */
bool meta_str(struct meta *k, const char *key, struct gguf_str *ret_s);
bool meta_has(struct meta *k, const char *key);
/* Keeps the first fault, set by an architecture's own check. */
void meta_fail(struct meta *k, enum err_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
