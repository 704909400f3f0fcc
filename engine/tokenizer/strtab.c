#include "engine/tokenizer/strtab.h"

#include <stdlib.h>

#define STRTAB_SLOTS_MIN 16

enum err_code strtab_init(struct strtab *t, size_t n_entry, const struct span *spans, struct err *e)
{
    size_t n_slot = STRTAB_SLOTS_MIN;
    while (n_slot / 2 < n_entry && n_slot < SIZE_MAX / (4 * sizeof *t->slots)) {
        n_slot *= 2;
    }
    struct strtab_slot *slots = malloc(n_slot * sizeof *slots);
    if (!slots) {
        return err_set(e, ERR_NOMEM, "out of memory for a table of %zu strings", n_entry);
    }
    memset(slots, 0xff, n_slot * sizeof *slots);
    *t = (struct strtab){.slots = slots, .n_slot = n_slot, .spans = spans};
    return ERR_OK;
}

void strtab_finish(struct strtab *t)
{
    free(t->slots);
    *t = (struct strtab){0};
}

static void place(struct strtab *t, struct strtab_slot slot)
{
    size_t mask = t->n_slot - 1;
    size_t at = strtab_spread(slot.key, slot.n) & mask;
    while (t->slots[at].value != STRTAB_NONE) {
        at = (at + 1) & mask;
    }
    t->slots[at] = slot;
    t->n_entry++;
}

static enum err_code grow(struct strtab *t, struct err *e)
{
    struct strtab bigger;
    enum err_code rc = strtab_init(&bigger, t->n_slot, t->spans, e);
    if (rc) {
        return rc;
    }
    for (size_t i = 0; i < t->n_slot; i++) {
        if (t->slots[i].value != STRTAB_NONE) {
            place(&bigger, t->slots[i]);
        }
    }
    free(t->slots);
    *t = bigger;
    return ERR_OK;
}

enum err_code strtab_put(struct strtab *t, uint32_t value, uint32_t *ret_there, struct err *e)
{
    const struct span *k = &t->spans[value];
    uint64_t key = strtab_key(k->s, k->n);
    uint32_t there = strtab_get_key(t, key, k->s, k->n);
    if (there == STRTAB_NONE) {
        enum err_code rc = (t->n_entry + 1) * 2 > t->n_slot ? grow(t, e) : ERR_OK;
        if (rc) {
            return rc;
        }
        place(t, (struct strtab_slot){.key = key, .n = k->n, .value = value});
        there = value;
    }
    if (ret_there) {
        *ret_there = there;
    }
    return ERR_OK;
}

/* Multiply-and-fold over 8 bytes at a time, the last 8 overlapping; n > 8. */
uint64_t strtab_hash_long(const char *s, size_t n)
{
    uint64_t h = n * 0xff51afd7ed558ccdU;
    size_t i = 0;
    for (;;) {
        uint64_t v;
        memcpy(&v, s + i, 8);
        h = (h ^ v) * 0x9fb21c651e98df25U;
        h ^= h >> 29;
        if (i + 8 >= n) {
            return h;
        }
        i = i + 16 <= n ? i + 8 : n - 8;
    }
}
