#include "engine/template/value_impl.h"

#include "base/hash.h"
#include "base/units.h"

#include <stdlib.h>
#include <string.h>

#define ARENA_BLOCK_BYTES (32 * 1024)
#define MAP_INDEX_FROM    16 /* entries from which a map gets a hash index */

struct arena_block {
    struct arena_block *next;
    size_t used;
    size_t cap;
    unsigned char bytes[];
};

struct tmpl_arena {
    struct arena_block *blocks;
    size_t n_byte;
    size_t n_byte_max;
};

enum err_code tmpl_arena_create(size_t n_byte_max, struct tmpl_arena **ret_a, struct err *e)
{
    struct tmpl_arena *a = calloc(1, sizeof *a);
    if (!a) {
        return err_set(e, ERR_NOMEM, "out of memory for template values");
    }
    a->n_byte_max = n_byte_max;
    *ret_a = a;
    return ERR_OK;
}

void tmpl_arena_destroy(struct tmpl_arena *a)
{
    if (!a) {
        return;
    }
    for (struct arena_block *b = a->blocks; b;) {
        struct arena_block *next = b->next;
        free(b);
        b = next;
    }
    free(a);
}

void *tmpl_alloc(struct tmpl_arena *a, size_t n)
{
    if (n > a->n_byte_max || a->n_byte > a->n_byte_max - n) {
        return NULL;
    }
    size_t want = units_align(n ? n : 1, 16);
    struct arena_block *b = a->blocks;
    if (!b || b->cap - b->used < want) {
        size_t cap = want > ARENA_BLOCK_BYTES ? want : ARENA_BLOCK_BYTES;
        size_t header = units_align(sizeof *b, 16) - sizeof *b;
        b = malloc(sizeof *b + header + cap + 16);
        if (!b) {
            return NULL;
        }
        b->next = a->blocks;
        b->cap = cap;
        b->used = 0;
        a->blocks = b;
    }
    unsigned char *base = (unsigned char *)units_align((size_t)b->bytes, 16);
    unsigned char *at = base + b->used;
    b->used += want;
    a->n_byte += want;
    memset(at, 0, want);
    return at;
}

static struct tmpl_value *make(struct tmpl_arena *a, enum tmpl_kind kind)
{
    struct tmpl_value *v = tmpl_alloc(a, sizeof *v);
    if (v) {
        v->kind = kind;
    }
    return v;
}

struct tmpl_value *tmpl_none(struct tmpl_arena *a)
{
    return make(a, TMPL_NONE);
}

struct tmpl_value *tmpl_undefined(struct tmpl_arena *a, const char *hint)
{
    struct tmpl_value *v = make(a, TMPL_UNDEFINED);
    if (v) {
        v->u.undef.hint = hint;
    }
    return v;
}

struct tmpl_value *tmpl_bool(struct tmpl_arena *a, bool b)
{
    struct tmpl_value *v = make(a, TMPL_BOOL);
    if (v) {
        v->u.b = b;
    }
    return v;
}

struct tmpl_value *tmpl_int(struct tmpl_arena *a, int64_t i)
{
    struct tmpl_value *v = make(a, TMPL_INT);
    if (v) {
        v->u.i = i;
    }
    return v;
}

struct tmpl_value *tmpl_float(struct tmpl_arena *a, double f)
{
    struct tmpl_value *v = make(a, TMPL_FLOAT);
    if (v) {
        v->u.f = f;
    }
    return v;
}

struct tmpl_value *tmpl_string_ref(struct tmpl_arena *a, const char *s, size_t n)
{
    struct tmpl_value *v = make(a, TMPL_STRING);
    if (v) {
        v->u.str.s = s;
        v->u.str.n = n;
    }
    return v;
}

struct tmpl_value *tmpl_string(struct tmpl_arena *a, const char *s, size_t n)
{
    char *copy = n < SIZE_MAX ? tmpl_alloc(a, n + 1) : NULL;
    if (!copy) {
        return NULL;
    }
    if (n) {
        memcpy(copy, s, n);
    }
    return tmpl_string_ref(a, copy, n);
}

struct tmpl_value *tmpl_list(struct tmpl_arena *a)
{
    return make(a, TMPL_LIST);
}

struct tmpl_value *tmpl_sequence(struct tmpl_arena *a, enum tmpl_sequence type)
{
    struct tmpl_value *v = make(a, TMPL_LIST);
    if (v) {
        v->u.list.type = type;
    }
    return v;
}

/* Counts item into the container's nesting; false when that goes too deep. */
static bool nest(struct tmpl_value *container, const struct tmpl_value *item)
{
    if (item->nesting >= TMPL_NESTING_MAX) {
        return false;
    }
    if (container->nesting <= item->nesting) {
        container->nesting = item->nesting + 1;
    }
    return true;
}

struct tmpl_value *tmpl_map(struct tmpl_arena *a)
{
    return make(a, TMPL_MAP);
}

struct tmpl_value *tmpl_object(struct tmpl_arena *a, enum tmpl_object type, void *ptr)
{
    struct tmpl_value *v = make(a, TMPL_OBJECT);
    if (v) {
        v->u.obj.type = type;
        v->u.obj.ptr = ptr;
    }
    return v;
}

/* Doubles an array of the arena; the old bytes stay until the arena dies. */
static void *grown(struct tmpl_arena *a, const void *old, size_t n, size_t item_bytes, size_t *cap)
{
    size_t want = *cap ? *cap * 2 : 4;
    void *bigger = tmpl_alloc(a, want * item_bytes);
    if (bigger) {
        if (n) {
            memcpy(bigger, old, n * item_bytes);
        }
        *cap = want;
    }
    return bigger;
}

bool tmpl_list_add(struct tmpl_arena *a, struct tmpl_value *list, struct tmpl_value *item)
{
    if (!list || !item || !nest(list, item)) {
        return false;
    }
    struct tmpl_list_part *l = &list->u.list;
    if (l->n == l->cap) {
        void *items = grown(a, l->items, l->n, sizeof *l->items, &l->cap);
        if (!items) {
            return false;
        }
        l->items = items;
    }
    l->items[l->n++] = item;
    return true;
}

bool tmpl_is_number(const struct tmpl_value *v)
{
    return v->kind == TMPL_BOOL || v->kind == TMPL_INT || v->kind == TMPL_FLOAT;
}

double tmpl_as_double(const struct tmpl_value *v)
{
    switch (v->kind) {
    case TMPL_BOOL: return v->u.b ? 1 : 0;
    case TMPL_INT: return (double)v->u.i;
    case TMPL_FLOAT: return v->u.f;
    default: return 0;
    }
}

static bool equal_lists(const struct tmpl_list_part *a, const struct tmpl_list_part *b)
{
    if (a->n != b->n || a->type != b->type) {
        return false;
    }
    for (size_t i = 0; i < a->n; i++) {
        if (!tmpl_equal(a->items[i], b->items[i])) {
            return false;
        }
    }
    return true;
}

static bool equal_maps(const struct tmpl_value *a, const struct tmpl_value *b)
{
    if (a->u.map.n_live != b->u.map.n_live) {
        return false;
    }
    for (size_t i = 0; i < a->u.map.n; i++) {
        const struct tmpl_entry *entry = &a->u.map.entries[i];
        const struct tmpl_value *other = entry->key ? tmpl_map_find(b, entry->key) : NULL;
        if (entry->key && (!other || !tmpl_equal(entry->value, other))) {
            return false;
        }
    }
    return true;
}

bool tmpl_equal(const struct tmpl_value *a, const struct tmpl_value *b)
{
    if (a == b) {
        return true;
    }
    if (tmpl_is_number(a) && tmpl_is_number(b)) {
        if (a->kind == TMPL_FLOAT || b->kind == TMPL_FLOAT) {
            return tmpl_as_double(a) == tmpl_as_double(b);
        }
        return (a->kind == TMPL_INT ? a->u.i : a->u.b) == (b->kind == TMPL_INT ? b->u.i : b->u.b);
    }
    if (a->kind != b->kind) {
        return false;
    }
    switch (a->kind) {
    case TMPL_UNDEFINED:
    case TMPL_NONE: return true;
    case TMPL_STRING:
        return a->u.str.n == b->u.str.n && memcmp(a->u.str.s, b->u.str.s, a->u.str.n) == 0;
    case TMPL_LIST: return equal_lists(&a->u.list, &b->u.list);
    case TMPL_MAP: return equal_maps(a, b);
    default: return false;
    }
}

/* Equal keys have equal hashes: True, 1 and 1.0 are one key. */
static uint64_t key_hash(const struct tmpl_value *key)
{
    if (key->kind == TMPL_STRING) {
        return hash_fnv1a(key->u.str.s, key->u.str.n);
    }
    if (tmpl_is_number(key)) {
        double v = tmpl_as_double(key);
        v = v == 0 ? 0 : v; /* -0.0 is the same key as 0 */
        return hash_fnv1a(&v, sizeof v);
    }
    return (uint64_t)key->kind;
}

static struct tmpl_entry *map_entry(const struct tmpl_map_part *m, const struct tmpl_value *key,
                                    uint64_t hash)
{
    if (!m->index) {
        for (size_t i = 0; i < m->n; i++) {
            struct tmpl_entry *entry = &m->entries[i];
            if (entry->key && entry->hash == hash && tmpl_equal(entry->key, key)) {
                return entry;
            }
        }
        return NULL;
    }
    for (size_t at = (size_t)hash & (m->n_index - 1); m->index[at];
         at = (at + 1) & (m->n_index - 1)) {
        struct tmpl_entry *entry = &m->entries[m->index[at] - 1];
        if (entry->key && entry->hash == hash && tmpl_equal(entry->key, key)) {
            return entry;
        }
    }
    return NULL;
}

static void index_entry(struct tmpl_map_part *m, size_t entry_idx)
{
    size_t at = (size_t)m->entries[entry_idx].hash & (m->n_index - 1);
    while (m->index[at]) {
        at = (at + 1) & (m->n_index - 1);
    }
    m->index[at] = (uint32_t)entry_idx + 1;
}

/* Keeps the index at most half full; removed entries still count until the next rebuild. */
static bool map_reindex(struct tmpl_arena *a, struct tmpl_map_part *m)
{
    size_t n_index = 4 * MAP_INDEX_FROM;
    while (n_index < 4 * m->n) {
        n_index *= 2;
    }
    uint32_t *index = tmpl_alloc(a, n_index * sizeof *index);
    if (!index) {
        return false;
    }
    m->index = index;
    m->n_index = n_index;
    for (size_t i = 0; i < m->n; i++) {
        if (m->entries[i].key) {
            index_entry(m, i);
        }
    }
    return true;
}

bool tmpl_map_put(struct tmpl_arena *a, struct tmpl_value *map, struct tmpl_value *key,
                  struct tmpl_value *item)
{
    if (!map || !key || !item || !nest(map, item)) {
        return false;
    }
    struct tmpl_map_part *m = &map->u.map;
    uint64_t hash = key_hash(key);
    struct tmpl_entry *there = map_entry(m, key, hash);
    if (there) {
        there->value = item;
        return true;
    }
    if (m->n == m->cap) {
        void *entries =
            m->n < UINT32_MAX / 8 ? grown(a, m->entries, m->n, sizeof *m->entries, &m->cap) : NULL;
        if (!entries) {
            return false;
        }
        m->entries = entries;
    }
    m->entries[m->n] = (struct tmpl_entry){.key = key, .value = item, .hash = hash};
    m->n++;
    m->n_live++;
    if (m->n >= MAP_INDEX_FROM && m->n * 2 > m->n_index) {
        return map_reindex(a, m);
    }
    if (m->index) {
        index_entry(m, m->n - 1);
    }
    return true;
}

bool tmpl_map_set(struct tmpl_arena *a, struct tmpl_value *map, const char *key, size_t n_key,
                  struct tmpl_value *item)
{
    return tmpl_map_put(a, map, tmpl_string(a, key, n_key), item);
}

struct tmpl_value *tmpl_map_find(const struct tmpl_value *map, const struct tmpl_value *key)
{
    const struct tmpl_entry *entry = map_entry(&map->u.map, key, key_hash(key));
    return entry ? entry->value : NULL;
}

struct tmpl_value *tmpl_map_find_str(const struct tmpl_value *map, const char *key, size_t n_key)
{
    struct tmpl_value k = {.kind = TMPL_STRING, .u.str = {.s = key, .n = n_key}};
    return tmpl_map_find(map, &k);
}

enum tmpl_kind tmpl_kind_of(const struct tmpl_value *v)
{
    return v->kind;
}

const struct tmpl_value *tmpl_map_get(const struct tmpl_value *map, const char *key)
{
    return map && map->kind == TMPL_MAP ? tmpl_map_find_str(map, key, strlen(key)) : NULL;
}

const char *tmpl_string_of(const struct tmpl_value *v, size_t *ret_n)
{
    if (!v || v->kind != TMPL_STRING) {
        return NULL;
    }
    if (ret_n) {
        *ret_n = v->u.str.n;
    }
    return v->u.str.s;
}

size_t tmpl_len(const struct tmpl_value *v)
{
    if (!v) {
        return 0;
    }
    return v->kind == TMPL_LIST ? v->u.list.n : v->kind == TMPL_MAP ? v->u.map.n_live : 0;
}

const struct tmpl_value *tmpl_list_at(const struct tmpl_value *v, size_t i)
{
    return v && v->kind == TMPL_LIST && i < v->u.list.n ? v->u.list.items[i] : NULL;
}

bool tmpl_bool_of(const struct tmpl_value *v, bool fallback)
{
    return v && v->kind == TMPL_BOOL ? v->u.b : fallback;
}
