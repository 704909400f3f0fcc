/* Readers for the parameters that are more than a number, a switch or a string. For
 * openai_request.c. Each gets a value that is present and not null, and returns false with *f
 * filled when it is wrong. */
#ifndef SERVER_OPENAI_FIELDS_H
#define SERVER_OPENAI_FIELDS_H

#include "server/openai_request.h"

struct srv_field_in {
    const char *name; /* of the parameter */
    const cJSON *value;
    uint32_t n_vocab;
};

typedef bool srv_field_fn(const struct srv_field_in *in, struct srv_request *r, struct srv_fail *f);

srv_field_fn srv_field_prompt;
srv_field_fn srv_field_messages;
srv_field_fn srv_field_encoding_format;
srv_field_fn srv_field_stop;
srv_field_fn srv_field_stop_ids;
srv_field_fn srv_field_logit_bias;
srv_field_fn srv_field_stream_options;
srv_field_fn srv_field_seed;
srv_field_fn srv_field_completion_logprobs;
srv_field_fn srv_field_response_format;
srv_field_fn srv_field_modalities;
srv_field_fn srv_field_tools;
srv_field_fn srv_field_tool_choice;
srv_field_fn srv_field_kwargs;
/* What becomes of the prompt's KV; cache_fields.c. */
srv_field_fn srv_field_cache_salt;
srv_field_fn srv_field_cache_key;
srv_field_fn srv_field_cache_retention;
srv_field_fn srv_field_cache_options;
/* Refuse the parameter: always, when it is not empty, when it is true. */
srv_field_fn srv_field_refuse;
srv_field_fn srv_field_refuse_unless_empty;
srv_field_fn srv_field_refuse_true;

/* "a string", "an array", …: what a JSON value is, for messages. */
const char *srv_json_kind(const cJSON *v);

#endif
