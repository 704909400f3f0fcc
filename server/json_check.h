/* A strict look at JSON text before cJSON reads it, which accepts too much: trailing bytes, `01`,
 * duplicate keys, invalid UTF-8, and strings cut at U+0000. What passes here is RFC 8259 text that
 * cJSON understands fully, within limits that bound its memory. Pure; any thread. */
#ifndef SERVER_JSON_CHECK_H
#define SERVER_JSON_CHECK_H

#include "base/err.h"

#include <stddef.h>

#define SRV_JSON_DEPTH_MAX ((size_t)64)
#define SRV_JSON_NODE_MAX  ((size_t)200000) /* values and keys */
#define SRV_JSON_KEY_MAX   ((size_t)256)    /* bytes of one key, unescaped */

/* text[n] must be a NUL. Refused beside bad grammar: nesting or nodes beyond the limits, a key
 * twice in one object, U+0000, lone surrogates, bytes that are not UTF-8, a byte order mark,
 * numbers that are not finite. ERR_INVALID says the byte offset and what is wrong there; ERR_LIMIT
 * the limit. */
enum err_code srv_json_check(const char *text, size_t n, struct err *e);

#endif
