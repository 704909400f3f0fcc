/* A request body of /v1/completions, /v1/chat/completions or /v1/embeddings, checked and in C. One
 * table holds every parameter with its type, range and meaning; unknown fields are let pass, and
 * what this server cannot do is refused by name, never ignored where it would change the answer.
 *
 * Pure; any thread. The parsed request owns all it points to. */
#ifndef SERVER_OPENAI_REQUEST_H
#define SERVER_OPENAI_REQUEST_H

#include "engine/sample.h"
#include "scheduler/scheduler.h"
#include "server/error_reply.h"
#include "server/sampling.h"
#include "server/tools.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>

enum srv_api { SRV_API_COMPLETION, SRV_API_CHAT, SRV_API_EMBEDDING };

#define SRV_N_MAX          8    /* choices per prompt */
#define SRV_PROMPT_MAX     128  /* prompts of one request */
#define SRV_CHOICE_MAX     128  /* prompts × choices */
#define SRV_INPUT_MAX      2048 /* inputs of one request for embeddings, as OpenAI has it */
#define SRV_STOP_BYTES_MAX 1024
#define SRV_STOP_ID_MAX    256
#define SRV_LOGIT_BIAS_MAX 1024
#define SRV_TOOL_MAX       1024
#define SRV_CACHE_SALT_MAX 512 /* bytes; of prompt_cache_key, too */
#define SRV_COMPLETION_TOK 16  /* max_tokens of a completion that does not say, as OpenAI has it */

/* Either text or ids. */
struct srv_prompt {
    const char *text; /* NULL: ids */
    size_t n_byte;
    int32_t *ids; /* [n_id] */
    size_t n_id;
};

struct srv_request {
    enum srv_api api;
    cJSON *root;       /* the whole body; strings below point into it */
    const char *model; /* NULL: not given */
    const char *lora;  /* name of an adapter; NULL: not given */
    uint32_t adapter;  /* which it is, as in sch_request: the caller's to set */

    struct srv_prompt *prompts; /* [n_prompt], of a completion; inputs of an embedding */
    size_t n_prompt;
    const cJSON *messages; /* of a chat: a non-empty array of objects */
    const cJSON *template_kwargs;
    const cJSON *tools; /* a non-empty array of checked functions; NULL: none are in use */
    bool tools_off;     /* tool_choice is "none" */
    bool parallel_tool_calls;
    enum srv_tool_format tool_format; /* how this model writes calls: the caller's to set */

    int64_t n_dimension; /* of an embedding; 0: all */
    bool base64;         /* embeddings as bytes, not numbers */

    bool stream;
    bool include_usage;
    bool continuous_usage;
    bool echo;
    bool return_token_ids;

    int64_t n;
    int64_t best_of;        /* 0: not given */
    int64_t n_gen_max;      /* -1: not given */
    int64_t n_gen_max_chat; /* max_completion_tokens; -1: not given */
    int64_t n_gen_min;
    double temperature;
    double top_p;
    double min_p;
    int64_t top_k; /* -1, 0: all */
    double repetition_penalty;
    double presence_penalty;
    double frequency_penalty;
    uint64_t seed;
    bool has_seed;
    struct sample_bias *bias; /* [n_bias] */
    uint32_t n_bias;
    bool want_logprobs;
    int64_t n_top_logprob;

    const char *stop[SCH_STOP_MAX]; /* [n_stop] */
    uint32_t n_stop;
    int32_t *stop_ids; /* [n_stop_id] */
    uint32_t n_stop_id;
    const char *cache_salt; /* NULL: none */
    struct kv_retention retention;
    bool keep_stop;
    bool ignore_eos;
    bool skip_special;
    int64_t add_special; /* -1: not given */
    bool add_generation_prompt;
    bool continue_final_message;
};

/* What a request is read against. */
struct srv_request_env {
    uint32_t n_vocab;             /* bounds token ids */
    struct srv_sampling sampling; /* of what the request leaves out */
};

/* body[n_byte] must be a NUL. False: *f tells why, *r is empty. */
bool srv_request_parse(enum srv_api api, const char *body, size_t n_byte,
                       const struct srv_request_env *env, struct srv_request *r,
                       struct srv_fail *f);
void srv_request_finish(struct srv_request *r);

/* The strict check, then cJSON: an object, owned by the caller. For the smaller routes too. */
bool srv_body_object(const char *body, size_t n_byte, cJSON **ret_root, struct srv_fail *f);

/* Token ids from a JSON array, each below n_vocab; *ret_ids is the caller's. param names the array
 * in errors. */
bool srv_read_ids(const cJSON *array, uint32_t n_vocab, const char *param, int32_t **ret_ids,
                  size_t *ret_n, struct srv_fail *f);

#endif
