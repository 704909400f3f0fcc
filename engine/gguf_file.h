/* What stands behind struct gguf; for gguf*.c alone. A part is one file (or one caller's memory)
 * with everything its header says; a struct gguf is the first part's metadata and the tensors of
 * all parts. */
#ifndef ENGINE_GGUF_FILE_H
#define ENGINE_GGUF_FILE_H

#include "base/smap.h"
#include "engine/gguf.h"

#define GGUF_ALIGNMENT_DEFAULT 32u
/* Below 8 a tensor's f64 or i64 elements would be misaligned (the specification asks for a multiple
 * of 8 too); above 1 MiB a file would be mostly padding. */
#define GGUF_ALIGNMENT_MIN 8u
#define GGUF_ALIGNMENT_MAX (1u << 20)
#define GGUF_KEY_BYTES_MAX 65535u /* the specification's limit; tensor names share it */

struct gguf_part {
    const uint8_t *bytes;
    size_t n_byte;
    bool mapped; /* ours to unmap; else the caller's memory */
    uint32_t version;
    uint64_t alignment;
    struct gguf_kv *kvs; /* [n_kv]; array.strings of each are owned */
    uint64_t n_kv;
    struct gguf_tensor *tensors; /* [n_tensor] */
    uint64_t n_tensor;
    struct smap key_map; /* key → index in kvs */
};

struct gguf {
    struct gguf_part *parts; /* [n_part]; metadata is that of parts[0] */
    uint32_t n_part;
    struct gguf_tensor *tensors; /* [n_tensor] of all parts, in file order */
    uint64_t n_tensor;
    struct smap tensor_map; /* name → index in tensors */
};

/* Reads the header of p->bytes[0…n_byte) into the rest of p, which must be zero. On failure p holds
 * nothing but its bytes. */
enum err_code gguf_part_read(struct gguf_part *p, struct err *e);
/* Frees what gguf_part_read made; the bytes stay. */
void gguf_part_forget(struct gguf_part *p);

/* The value of a key in one part, NULL when absent. */
const struct gguf_kv *gguf_part_find(const struct gguf_part *p, const char *key);
/* A whole number of any integer kind that is at least 0. */
bool gguf_kv_u64(const struct gguf_kv *kv, uint64_t *ret_v);

/* Bytes of one number or bool; 0 for strings, arrays and unknown kinds. */
size_t gguf_value_bytes(enum gguf_value_type type);

#define GGUF_SHOWN_BYTES 72
/* The text as it may stand in a one-line message: cut, control characters as '?'. Returns out. */
const char *gguf_shown(struct gguf_str s, char out[GGUF_SHOWN_BYTES]);

#endif
