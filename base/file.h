/* Whole small files: templates, contexts, texts. Model files are mapped instead (engine/gguf.h). */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include "base/buf.h"
#include "base/err.h"

#include <stddef.h>

/* Appends the bytes of the file to out. `what` names it in errors, before its path ("chat template
 * /x"); "" is legal. ERR_NOT_FOUND or ERR_IO when it cannot be read, ERR_LIMIT beyond n_byte_max;
 * out then holds what was read so far. */
enum err_code file_read(const char *path, const char *what, size_t n_byte_max, struct buf *out,
                        struct err *e);

#endif
