/* Reads a flat YAML mapping of scalars, as our configuration files are. Any thread. */
#ifndef CONFIG_YAML_FILE_H
#define CONFIG_YAML_FILE_H

#include "base/err.h"

#include <stddef.h>

/* Called for each pair in order; an error stops the reading and becomes its result. */
typedef enum err_code cfg_yaml_fn(void *arg, const char *key, const char *value, size_t line,
                                  struct err *e);

/* ERR_IO when the file cannot be read; ERR_INVALID, naming file and line, when it is not YAML, not
 * a flat mapping, or has a key twice. */
enum err_code cfg_yaml_read(const char *path, cfg_yaml_fn *on_pair, void *arg, struct err *e);

#endif
