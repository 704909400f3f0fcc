/* Writes a GGUF version 3 file: metadata and tensor descriptions first, then the tensors' bytes in
 * any order and from any thread. A writer belongs to one thread until it is opened; from then on
 * gguf_writer_data may be called by several at once. What cannot be kept (memory, a bad shape) is
 * remembered and told by gguf_writer_open or gguf_writer_header, so that callers need not check
 * each key.
 * The file appears under its name when it is complete: until then it is NAME.partial. */
#ifndef ENGINE_GGUF_WRITE_H
#define ENGINE_GGUF_WRITE_H

#include "base/buf.h"
#include "base/err.h"
#include "engine/gguf.h"

struct gguf_writer;

enum err_code gguf_writer_create(struct gguf_writer **ret_w, struct err *e);
/* NULL is legal. A file that was opened and not finished is removed. */
void gguf_writer_destroy(struct gguf_writer *w);

/* Metadata. Keys must be unique; their text is copied. The number behind `value` has the width that
 * its type says. */
void gguf_put_number(struct gguf_writer *w, const char *key, enum gguf_value_type type,
                     const void *value);
void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t v);
void gguf_put_f32(struct gguf_writer *w, const char *key, float v);
void gguf_put_bool(struct gguf_writer *w, const char *key, bool v);
void gguf_put_str(struct gguf_writer *w, const char *key, const char *s);
/* Strings when type is GGUF_STRING (array.strings), else packed numbers (array.data). */
void gguf_put_array(struct gguf_writer *w, const char *key, const struct gguf_array *array);
/* A value as another file holds it. */
void gguf_put_kv(struct gguf_writer *w, const struct gguf_kv *kv);

/* Declares a tensor; returns its index, counting from 0. ne: innermost first, [n_dim]. */
uint32_t gguf_put_tensor(struct gguf_writer *w, struct gguf_str name, enum gguf_type type,
                         uint32_t n_dim, const uint64_t *ne);
/* Bytes of a declared tensor. */
uint64_t gguf_writer_tensor_bytes(const struct gguf_writer *w, uint32_t idx);

/* Appends everything up to the first tensor's bytes to out. */
enum err_code gguf_writer_header(const struct gguf_writer *w, struct buf *out, struct err *e);
/* Offset of a tensor's bytes from the start of the data section (the header's length), and the
 * length of that section. */
uint64_t gguf_writer_tensor_offset(const struct gguf_writer *w, uint32_t idx);
uint64_t gguf_writer_data_bytes(const struct gguf_writer *w);

/* Creates PATH.partial in full length and writes the header; nothing can be declared after it. */
enum err_code gguf_writer_open(struct gguf_writer *w, const char *path, struct err *e);
/* Writes n bytes of tensor idx from its byte `at` on. Thread-safe. */
enum err_code gguf_writer_data(struct gguf_writer *w, uint32_t idx, uint64_t at, const void *bytes,
                               size_t n, struct err *e);
/* Gives the file its name. The writer can only be destroyed after it. */
enum err_code gguf_writer_finish(struct gguf_writer *w, struct err *e);

#endif
