/* The sampling parameters of requests that do not say: the option --sampling, else what the model's
 * file recommends (general.sampling.*), else OpenAI's defaults. Made once, after loading. */
#ifndef SERVER_SAMPLING_H
#define SERVER_SAMPLING_H

#include "base/err.h"
#include "engine/engine.h"

#include <stdint.h>

struct srv_sampling {
    double temperature;
    double top_p;
    double min_p;
    double repetition_penalty;
    int64_t top_k; /* -1: all */
};

struct srv_sampling srv_sampling_openai(void);
/* spec: "model", "openai", or values over the model's: "temperature=0.7,top_k=20". What the model
 * says outside a parameter's range is left out with a warning; ERR_INVALID for a wrong spec. */
enum err_code srv_sampling_make(const char *spec, const struct eng_sampling *model,
                                struct srv_sampling *ret_s, struct err *e);

#endif
