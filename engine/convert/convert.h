/* A Hugging Face folder (config.json, *.safetensors, tokenizer.json) as a GGUF file: the same
 * numbers, other names. Llama, Mistral, Qwen 2 and 3, Gemma 1 to 3, Phi 3, in F32, F16 or BF16.
 * What would change results and cannot be carried over is refused by name. One thread. */
#ifndef ENGINE_CONVERT_CONVERT_H
#define ENGINE_CONVERT_CONVERT_H

#include "base/err.h"

#include <stdbool.h>

/* Whether path is a folder with a config.json. */
bool convert_is_folder(const char *path);

/* out_path appears when it is complete. */
enum err_code convert_folder(const char *dir, const char *out_path, struct err *e);

#endif
