#include "engine/sample_state.h"
#include "engine/sample.h"

#include <assert.h>
#include <stdlib.h>

#define SLOT_EMPTY  UINT32_MAX
#define N_SLOT_MIN  16
#define HASH_FACTOR 0x9e3779b1U /* Knuth's multiplicative hash */

bool sample_needs_state(const struct sample_params *p)
{
    return p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
}

enum err_code sample_state_create(uint32_t n_vocab, uint32_t n_tok_max, struct sample_state **ret_s,
                                  struct err *e)
{
    uint32_t n_max = n_tok_max < n_vocab ? n_tok_max : n_vocab;
    uint32_t n_slot = N_SLOT_MIN;
    while (n_slot < 2 * (uint64_t)n_max && n_slot < 1U << 31) {
        n_slot *= 2;
    }
    struct sample_state *s = calloc(1, sizeof *s);
    struct sample_seen *seen = malloc(((size_t)n_max + 1) * sizeof *seen);
    uint32_t *slots = malloc(n_slot * sizeof *slots);
    if (!s || !seen || !slots) {
        free(s);
        free(seen);
        free(slots);
        return err_set(e, ERR_NOMEM, "out of memory for the counts of %u token ids", n_max);
    }
    for (uint32_t i = 0; i < n_slot; i++) {
        slots[i] = SLOT_EMPTY;
    }
    s->seen = seen;
    s->n_seen_max = n_max;
    s->slots = slots;
    s->slot_mask = n_slot - 1;
    s->n_vocab = n_vocab;
    *ret_s = s;
    return ERR_OK;
}

void sample_state_destroy(struct sample_state *s)
{
    if (s) {
        free(s->seen);
        free(s->slots);
        free(s);
    }
}

void sample_state_accept(struct sample_state *s, int32_t id, bool generated)
{
    if (!s || id < 0 || (uint32_t)id >= s->n_vocab) {
        return;
    }
    uint32_t at = (uint32_t)id * HASH_FACTOR >> 7 & s->slot_mask;
    while (s->slots[at] != SLOT_EMPTY && s->seen[s->slots[at]].id != id) {
        at = (at + 1) & s->slot_mask;
    }
    if (s->slots[at] == SLOT_EMPTY) {
        assert(s->n_seen < s->n_seen_max);
        s->slots[at] = s->n_seen;
        s->seen[s->n_seen++] = (struct sample_seen){.id = id};
    }
    s->seen[s->slots[at]].n_gen += generated ? 1 : 0;
}
