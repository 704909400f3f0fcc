/* A Hugging Face folder as a model file. Any thread. */
#ifndef SERVER_MODEL_FOLDER_H
#define SERVER_MODEL_FOLDER_H

#include "base/buf.h"
#include "base/err.h"

/* type: of kvasir quantize; NULL: as stored. out_path appears when it is complete. */
enum err_code srv_folder_to_gguf(const char *dir, const char *out_path, const char *type,
                                 struct err *e);
/* The same into a file of the cache folder that the caller opens and then unlinks. */
enum err_code srv_folder_for_serving(const char *dir, const char *type, struct buf *ret_path,
                                     struct err *e);

#endif
