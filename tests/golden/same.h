/* One prompt's logits by other ways: the same bits, or a line on stderr. */
#ifndef TESTS_GOLDEN_SAME_H
#define TESTS_GOLDEN_SAME_H

#include "engine/engine.h"

#include <stdbool.h>
#include <stdint.h>

struct same_prompt {
    const char *name; /* of the model, for messages */
    const int32_t *ids;
    uint32_t n;
};

/* [n, n_vocab] in one step, malloc'd; NULL on failure. */
float *same_prompt_logits(struct eng *e, const struct same_prompt *p);

/* want: what same_prompt_logits gave. */
bool same_in_slices(struct eng *e, const struct same_prompt *p, const float *want);
/* In two slices, each beside one of another sequence, the first without logits. */
bool same_in_batch(struct eng *e, const struct same_prompt *p, const float *want);
/* The second half over a copy of the first half's KV and state, as a cache gives it back. */
bool same_from_copy(struct eng *e, const struct same_prompt *p, const float *want);
bool same_on_two_threads(const char *model_path, const char *isa, const struct same_prompt *p,
                         const float *want);

#endif
