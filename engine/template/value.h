/* The values a chat template works on: JSON's kinds, in an arena that dies as a whole. server/
 * builds one from a request's messages and tools; the template engine makes its own while it runs.
 * An arena and its values are for one thread at a time. Values are immutable once shared, except
 * that a list or map under construction is appended to by its builder. */
#ifndef ENGINE_TEMPLATE_VALUE_H
#define ENGINE_TEMPLATE_VALUE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tmpl_kind {
    TMPL_UNDEFINED,
    TMPL_NONE,
    TMPL_BOOL,
    TMPL_INT,
    TMPL_FLOAT,
    TMPL_STRING,
    TMPL_LIST,
    TMPL_MAP,
    TMPL_OBJECT /* macros, namespaces, loops: the template engine's own */
};

struct tmpl_arena;
struct tmpl_value;

/* n_byte_max bounds everything the arena hands out; past it every constructor returns NULL. */
enum err_code tmpl_arena_create(size_t n_byte_max, struct tmpl_arena **ret_a, struct err *e);
void tmpl_arena_destroy(struct tmpl_arena *a); /* NULL is legal */

/* Constructors return NULL when the arena is spent; a NULL child makes its parent call fail too,
 * so a builder checks only the root. Strings are copied. */
struct tmpl_value *tmpl_none(struct tmpl_arena *a);
struct tmpl_value *tmpl_bool(struct tmpl_arena *a, bool v);
struct tmpl_value *tmpl_int(struct tmpl_arena *a, int64_t v);
struct tmpl_value *tmpl_float(struct tmpl_arena *a, double v);
struct tmpl_value *tmpl_string(struct tmpl_arena *a, const char *s, size_t n);
struct tmpl_value *tmpl_list(struct tmpl_arena *a);
struct tmpl_value *tmpl_map(struct tmpl_arena *a); /* keeps insertion order, as Python's dict */
bool tmpl_list_add(struct tmpl_arena *a, struct tmpl_value *list, struct tmpl_value *item);
bool tmpl_map_set(struct tmpl_arena *a, struct tmpl_value *map, const char *key, size_t n_key,
                  struct tmpl_value *item);

/* Readers. */
enum tmpl_kind tmpl_kind_of(const struct tmpl_value *v);
const struct tmpl_value *tmpl_map_get(const struct tmpl_value *map, const char *key);
const char *tmpl_string_of(const struct tmpl_value *v, size_t *ret_n); /* NULL unless a string */
size_t tmpl_len(const struct tmpl_value *v);                           /* of a list or map */
const struct tmpl_value *tmpl_list_at(const struct tmpl_value *v, size_t i);
bool tmpl_bool_of(const struct tmpl_value *v, bool fallback);

#endif
