/* What a tmpl_value is inside: for the template engine's own files only. */
#ifndef ENGINE_TEMPLATE_VALUE_IMPL_H
#define ENGINE_TEMPLATE_VALUE_IMPL_H

#include "engine/template/value.h"

struct tmpl_entry {
    struct tmpl_value *key;
    struct tmpl_value *value;
    uint64_t hash;
};

/* The engine's own kinds of thing, all of kind TMPL_OBJECT. */
enum tmpl_object {
    TMPL_OBJ_NAMESPACE, /* map.entries: mutable attributes */
    TMPL_OBJ_LOOP,      /* ptr: struct loop of the evaluator */
    TMPL_OBJ_MACRO,     /* ptr: struct macro of the evaluator */
    TMPL_OBJ_METHOD,    /* ptr: struct bound method of the evaluator */
    TMPL_OBJ_FUNCTION,  /* ptr: a global function */
    TMPL_OBJ_JOINER,    /* ptr: struct joiner of the evaluator */
};

enum tmpl_sequence {
    TMPL_SEQ_LIST,
    TMPL_SEQ_TUPLE,
    TMPL_SEQ_ITERATOR, /* what Python's generators are: true even if empty, spent by one pass */
    TMPL_SEQ_VIEW,     /* dict.items() and the like: has a length, takes no subscript */
};

struct tmpl_list_part {
    struct tmpl_value **items;
    size_t n;
    size_t cap;
    enum tmpl_sequence type;
};

struct tmpl_map_part {
    struct tmpl_entry *entries; /* [n] in insertion order; key NULL: removed */
    size_t n;
    size_t cap;
    size_t n_live;
    uint32_t *index; /* open addressing, entry number + 1; NULL while the map is small */
    size_t n_index;
};

/* Nesting of lists and maps is bounded, so that walking a value never exhausts the stack. */
#define TMPL_NESTING_MAX 200

struct tmpl_value {
    enum tmpl_kind kind;
    uint32_t nesting; /* 1 + the deepest item's, when the item was added */
    union {
        bool b;
        int64_t i;
        double f;
        struct {
            const char *s; /* NUL-terminated as a convenience; may hold NULs of its own */
            size_t n;
            bool markup; /* of the `safe` filter: joining it escapes the other side */
        } str;
        struct tmpl_list_part list;
        struct tmpl_map_part map;
        struct {
            enum tmpl_object type;
            void *ptr;
            struct tmpl_value *attrs; /* NAMESPACE: a map */
        } obj;
        struct {
            const char *hint; /* what is undefined, for messages; may be NULL */
        } undef;
    } u;
};

/* n zeroed bytes, 16-aligned, or NULL when the arena is spent. */
void *tmpl_alloc(struct tmpl_arena *a, size_t n);

struct tmpl_value *tmpl_undefined(struct tmpl_arena *a, const char *hint);
/* A string whose bytes are already the arena's (or static). */
struct tmpl_value *tmpl_string_ref(struct tmpl_arena *a, const char *s, size_t n);
struct tmpl_value *tmpl_sequence(struct tmpl_arena *a, enum tmpl_sequence type);
struct tmpl_value *tmpl_object(struct tmpl_arena *a, enum tmpl_object type, void *ptr);

bool tmpl_map_put(struct tmpl_arena *a, struct tmpl_value *map, struct tmpl_value *key,
                  struct tmpl_value *item);
struct tmpl_value *tmpl_map_find(const struct tmpl_value *map, const struct tmpl_value *key);
struct tmpl_value *tmpl_map_find_str(const struct tmpl_value *map, const char *key, size_t n_key);

/* Python's ==, with True == 1 == 1.0; objects by identity. */
bool tmpl_equal(const struct tmpl_value *a, const struct tmpl_value *b);
bool tmpl_is_number(const struct tmpl_value *v); /* bool, int or float, as Python has it */
double tmpl_as_double(const struct tmpl_value *v);

#endif
