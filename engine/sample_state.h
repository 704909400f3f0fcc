/* What sample_state.c keeps and sample.c reads: the distinct ids of one sequence. */
#ifndef ENGINE_SAMPLE_STATE_H
#define ENGINE_SAMPLE_STATE_H

#include <stdint.h>

struct sample_seen {
    int32_t id;
    uint32_t n_gen; /* times in the answer; 0: in the prompt alone */
};

struct sample_state {
    struct sample_seen *seen; /* [n_seen_max], in order of first sight */
    uint32_t n_seen;
    uint32_t n_seen_max;
    uint32_t *slots; /* open addressing: index into seen; power of two, at most half full */
    uint32_t slot_mask;
    uint32_t n_vocab;
};

#endif
