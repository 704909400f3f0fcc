/* JSON files of a model's folder. */
#ifndef ENGINE_CONVERT_JSON_FILE_H
#define ENGINE_CONVERT_JSON_FILE_H

#include "base/err.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

/* The object in DIR/NAME. A file that is not there and not required: ERR_OK and NULL. */
enum err_code json_file_read(const char *dir, const char *name, bool required, cJSON **ret_j,
                             struct err *e);

/* Values of an object; `absent` when the key is missing, null or of another kind. */
double json_num(const cJSON *o, const char *key, double absent);
const char *json_str(const cJSON *o, const char *key, const char *absent);
bool json_flag(const cJSON *o, const char *key, bool absent);
bool json_has(const cJSON *o, const char *key); /* and it is not null */
const cJSON *json_get(const cJSON *o, const char *key);

#endif
