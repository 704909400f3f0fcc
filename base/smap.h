/* A map from byte strings to 32-bit values, for vocabularies and tables built once and then read by
 * many threads. Keys are not copied: they must outlive the map. Writing is for one thread. */
#ifndef BASE_SMAP_H
#define BASE_SMAP_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct smap_entry {
    const char *key; /* NULL: empty */
    uint32_t key_len;
    uint32_t hash; /* low bits, so that most misses need no memcmp */
    uint32_t value;
};

struct smap {
    struct smap_entry *entries; /* power-of-two table, at most half full */
    size_t n_slot;
    size_t n_entry;
};

/* Room for n_entry entries without growing. */
enum err_code smap_init(struct smap *m, size_t n_entry, struct err *e);
/* The first value given for a key stays; *ret_new (may be NULL) tells whether this one did. */
enum err_code smap_put(struct smap *m, const char *key, size_t key_len, uint32_t value,
                       bool *ret_new, struct err *e);
bool smap_get(const struct smap *m, const char *key, size_t key_len, uint32_t *ret_value);
void smap_finish(struct smap *m);

#endif
