#include "base/smap.h"

#include "base/hash.h"

#include <stdlib.h>
#include <string.h>

#define SMAP_SLOTS_MIN 16

enum err_code smap_init(struct smap *m, size_t n_entry, struct err *e)
{
    size_t n_slot = SMAP_SLOTS_MIN;
    while (n_slot / 2 < n_entry && n_slot < SIZE_MAX / (4 * sizeof *m->entries)) {
        n_slot *= 2;
    }
    struct smap_entry *entries = calloc(n_slot, sizeof *entries);
    if (!entries) {
        return err_set(e, ERR_NOMEM, "out of memory for a table of %zu entries", n_entry);
    }
    *m = (struct smap){.entries = entries, .n_slot = n_slot};
    return ERR_OK;
}

/* The entry that holds key, or the empty one where it belongs. */
static struct smap_entry *find(const struct smap *m, const char *key, size_t key_len, uint64_t hash)
{
    size_t at = (size_t)hash & (m->n_slot - 1);
    for (;;) {
        struct smap_entry *slot = &m->entries[at];
        if (!slot->key || (slot->hash == (uint32_t)hash && slot->key_len == key_len &&
                           memcmp(slot->key, key, key_len) == 0)) {
            return slot;
        }
        at = (at + 1) & (m->n_slot - 1);
    }
}

static enum err_code grow(struct smap *m, struct err *e)
{
    struct smap bigger;
    enum err_code rc = smap_init(&bigger, m->n_slot, e);
    if (rc) {
        return rc;
    }
    for (size_t i = 0; i < m->n_slot; i++) {
        const struct smap_entry *old = &m->entries[i];
        if (old->key) {
            *find(&bigger, old->key, old->key_len, hash_fnv1a(old->key, old->key_len)) = *old;
        }
    }
    bigger.n_entry = m->n_entry;
    free(m->entries);
    *m = bigger;
    return ERR_OK;
}

enum err_code smap_put(struct smap *m, const char *key, size_t key_len, uint32_t value,
                       bool *ret_new, struct err *e)
{
    if (key_len > UINT32_MAX) {
        return err_set(e, ERR_LIMIT, "table key of %zu bytes", key_len);
    }
    if ((m->n_entry + 1) * 2 > m->n_slot) {
        enum err_code rc = grow(m, e);
        if (rc) {
            return rc;
        }
    }
    uint64_t hash = hash_fnv1a(key, key_len);
    struct smap_entry *slot = find(m, key, key_len, hash);
    bool is_new = !slot->key;
    if (is_new) {
        *slot = (struct smap_entry){
            .key = key, .key_len = (uint32_t)key_len, .hash = (uint32_t)hash, .value = value};
        m->n_entry++;
    }
    if (ret_new) {
        *ret_new = is_new;
    }
    return ERR_OK;
}

bool smap_get(const struct smap *m, const char *key, size_t key_len, uint32_t *ret_value)
{
    if (!m->n_slot) {
        return false;
    }
    const struct smap_entry *slot = find(m, key, key_len, hash_fnv1a(key, key_len));
    if (!slot->key) {
        return false;
    }
    *ret_value = slot->value;
    return true;
}

void smap_finish(struct smap *m)
{
    free(m->entries);
    *m = (struct smap){0};
}
