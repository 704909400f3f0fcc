/* A GGUF file, version 2 or 3, mapped read-only. Nothing in it is trusted: counts are bounded by
 * the bytes that are left before anything is allocated, products are checked, every tensor's span
 * lies inside the file. Created by one thread, then read by any; destroyed after its last reader.
 * Split files (-00001-of-0000N) are opened together and read as one.
 * Source: the GGUF specification (ggml, docs/gguf.md). */
#ifndef ENGINE_GGUF_H
#define ENGINE_GGUF_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum gguf_value_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
};

/* Tensor types by their number in the file; names and block shapes are in engine/quant/formats.h.
 */
enum gguf_type {
    GGUF_TYPE_F32 = 0,
    GGUF_TYPE_F16 = 1,
    GGUF_TYPE_Q4_0 = 2,
    GGUF_TYPE_Q4_1 = 3,
    GGUF_TYPE_Q5_0 = 6,
    GGUF_TYPE_Q5_1 = 7,
    GGUF_TYPE_Q8_0 = 8,
    GGUF_TYPE_Q8_1 = 9,
    GGUF_TYPE_Q2_K = 10,
    GGUF_TYPE_Q3_K = 11,
    GGUF_TYPE_Q4_K = 12,
    GGUF_TYPE_Q5_K = 13,
    GGUF_TYPE_Q6_K = 14,
    GGUF_TYPE_Q8_K = 15,
    GGUF_TYPE_IQ2_XXS = 16,
    GGUF_TYPE_IQ2_XS = 17,
    GGUF_TYPE_IQ3_XXS = 18,
    GGUF_TYPE_IQ1_S = 19,
    GGUF_TYPE_IQ4_NL = 20,
    GGUF_TYPE_IQ3_S = 21,
    GGUF_TYPE_IQ2_S = 22,
    GGUF_TYPE_IQ4_XS = 23,
    GGUF_TYPE_I8 = 24,
    GGUF_TYPE_I16 = 25,
    GGUF_TYPE_I32 = 26,
    GGUF_TYPE_I64 = 27,
    GGUF_TYPE_F64 = 28,
    GGUF_TYPE_IQ1_M = 29,
    GGUF_TYPE_BF16 = 30,
    GGUF_TYPE_TQ1_0 = 34,
    GGUF_TYPE_TQ2_0 = 35,
    GGUF_TYPE_MXFP4 = 39,
    GGUF_TYPE_NVFP4 = 40,
    GGUF_TYPE_Q1_0 = 41,
    GGUF_TYPE_Q2_0 = 42,
    GGUF_TYPE_END = 43,
};

#define GGUF_DIMS_MAX 4

/* Keys and tensor names are valid UTF-8; string values are whatever bytes the file holds (tokens of
 * byte-level vocabularies need not be text). */
struct gguf_str {
    const char *s; /* into the mapping, not NUL-terminated */
    size_t n;
};

struct gguf_tensor {
    struct gguf_str name;
    enum gguf_type type;
    uint32_t n_dim;
    uint64_t ne[GGUF_DIMS_MAX]; /* innermost first; 1 beyond n_dim */
    uint64_t n_elem;
    uint64_t n_byte;
    uint64_t offset;  /* of data in its file, for messages */
    const void *data; /* into the mapping */
    uint32_t part;    /* which file of a split */
};

struct gguf;

enum err_code gguf_open(const char *path, struct gguf **ret_f, struct err *e);
/* The same over caller-owned memory (fuzzing, tests); bytes must outlive the result. */
enum err_code gguf_open_memory(const void *bytes, size_t n_byte, struct gguf **ret_f,
                               struct err *e);
void gguf_close(struct gguf *f); /* NULL is legal */

/* Metadata by key. Each returns false when the key is absent or of another kind; numbers convert
 * between integer widths when the value fits. */
bool gguf_get_u64(const struct gguf *f, const char *key, uint64_t *ret_v);
bool gguf_get_i64(const struct gguf *f, const char *key, int64_t *ret_v);
bool gguf_get_f64(const struct gguf *f, const char *key, double *ret_v); /* F32, F64, integers */
bool gguf_get_bool(const struct gguf *f, const char *key, bool *ret_v);
bool gguf_get_str(const struct gguf *f, const char *key, struct gguf_str *ret_v);

struct gguf_array {
    enum gguf_value_type type; /* of the elements; never ARRAY */
    uint64_t n;
    const void *data;               /* numbers: packed little-endian, possibly unaligned */
    const struct gguf_str *strings; /* strings: [n], else NULL */
};
bool gguf_get_array(const struct gguf *f, const char *key, struct gguf_array *ret_v);
/* Element i of a numeric or bool array. i must be below n. */
double gguf_array_f64(const struct gguf_array *a, uint64_t i);
int64_t gguf_array_i64(const struct gguf_array *a, uint64_t i);

/* Walking everything, for inspect. */
struct gguf_kv {
    struct gguf_str key;
    enum gguf_value_type type;
    struct gguf_array array; /* type ARRAY */
    const void *data;        /* numbers and bools */
    struct gguf_str str;     /* strings */
};
uint64_t gguf_n_kv(const struct gguf *f);
const struct gguf_kv *gguf_kv_at(const struct gguf *f, uint64_t i);
uint64_t gguf_n_tensor(const struct gguf *f);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *f, uint64_t i);
const struct gguf_tensor *gguf_find_tensor(const struct gguf *f, const char *name); /* or NULL */

uint32_t gguf_version(const struct gguf *f);
uint64_t gguf_file_bytes(const struct gguf *f); /* all parts */
/* Tells the kernel that a tensor's source pages are no longer needed (after packing). */
void gguf_release_pages(const struct gguf *f, const struct gguf_tensor *t);

#endif
