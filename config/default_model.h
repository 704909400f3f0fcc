/* The model that serves when none is named: the project's own, as it lies beside the program. */
#ifndef CONFIG_DEFAULT_MODEL_H
#define CONFIG_DEFAULT_MODEL_H

#include "base/buf.h"
#include "base/err.h"

#define CFG_DEFAULT_MODEL "kvasir-demo.gguf"

/* Writes the path of the first that can be read: models/ beside the program's folder (a source
 * tree: build/kvasir, models/), models/ in it, and share/kvasir/models/ beside it (installed:
 * bin/kvasir). exe_path: the program; NULL: this one. ERR_NOT_FOUND says where it looked. */
enum err_code cfg_default_model(const char *exe_path, struct buf *out, struct err *e);

#endif
