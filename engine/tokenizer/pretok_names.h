/* The table behind pretok.h: names of tokenizer.ggml.pre, their stages and traits. */
#ifndef ENGINE_TOKENIZER_PRETOK_NAMES_H
#define ENGINE_TOKENIZER_PRETOK_NAMES_H

#include "engine/tokenizer/pretok.h"

struct pretok_stage {
    const struct split_rule *rule; /* or */
    const char *regex;             /* PCRE2 */
};

struct pretok_spec {
    const char *names; /* each followed by a space; " " stands for no name at all */
    struct pretok_stage stages[PRETOK_STAGES_MAX];
    struct pretok_traits traits;
};

extern const struct pretok_spec pretok_specs[];
extern const size_t pretok_n_spec;

#endif
