/* A hash table from byte strings to 32-bit values, for vocabularies: one cache line per look-up of
 * a string of up to 8 bytes. The strings themselves stay where `spans` says, spans[value] being the
 * key of value; both must outlive the table. Built by one thread, then read by any. */
#ifndef ENGINE_TOKENIZER_STRTAB_H
#define ENGINE_TOKENIZER_STRTAB_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define STRTAB_NONE UINT32_MAX

struct span {
    const char *s;
    uint32_t n;
};

struct strtab_slot {
    uint64_t key; /* the bytes of a short string, the hash of a long one */
    uint32_t n;
    uint32_t value; /* STRTAB_NONE: empty */
};

struct strtab {
    struct strtab_slot *slots; /* power of two, at most half full */
    size_t n_slot;
    size_t n_entry;
    const struct span *spans;
};

/* Room for n_entry strings before it has to grow. */
enum err_code strtab_init(struct strtab *t, size_t n_entry, const struct span *spans,
                          struct err *e);
void strtab_finish(struct strtab *t);
/* spans[value] is the key. The first value given for a string stays; *ret_there (may be NULL) is
 * the one that is in. */
enum err_code strtab_put(struct strtab *t, uint32_t value, uint32_t *ret_there, struct err *e);

uint64_t strtab_hash_long(const char *s, size_t n);

/* The bytes of s[0…n), n ≤ 8, as one number. */
static inline uint64_t strtab_pack(const char *s, size_t n)
{
    if (n >= 4) {
        uint32_t lo;
        uint32_t hi;
        memcpy(&lo, s, 4);
        memcpy(&hi, s + n - 4, 4);
        return lo | (uint64_t)hi << (8 * (n - 4));
    }
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) {
        v |= (uint64_t)(unsigned char)s[i] << (8 * i);
    }
    return v;
}

static inline uint64_t strtab_key(const char *s, size_t n)
{
    return n <= 8 ? strtab_pack(s, n) : strtab_hash_long(s, n);
}

/* Spreads a key over the table's low bits. */
static inline size_t strtab_spread(uint64_t key, size_t n)
{
    uint64_t h = (key ^ n) * 0x9e3779b97f4a7c15U;
    return (size_t)(h ^ h >> 32);
}

static inline uint32_t strtab_get_key(const struct strtab *t, uint64_t key, const char *s, size_t n)
{
    size_t mask = t->n_slot - 1;
    for (size_t at = strtab_spread(key, n) & mask;; at = (at + 1) & mask) {
        const struct strtab_slot *slot = &t->slots[at];
        if (slot->value == STRTAB_NONE) {
            return STRTAB_NONE;
        }
        if (slot->key == key && slot->n == n &&
            (n <= 8 || memcmp(t->spans[slot->value].s, s, n) == 0)) {
            return slot->value;
        }
    }
}

static inline uint32_t strtab_get(const struct strtab *t, const char *s, size_t n)
{
    return strtab_get_key(t, strtab_key(s, n), s, n);
}

#endif
