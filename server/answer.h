/* From what the scheduler says to what the client reads. One thread takes the events of all running
 * requests, writes them as OpenAI chunks or collects them into one JSON reply, and resumes the
 * connections that wait. It alone touches an answer once it is submitted, except for cancelling.
 *
 * A request is several answers when it has several prompts or n > 1: they are choices, each its own
 * sequence in the scheduler. */
#ifndef SERVER_ANSWER_H
#define SERVER_ANSWER_H

#include "base/buf.h"
#include "base/err.h"
#include "scheduler/scheduler.h"
#include "server/job.h"
#include "server/openai_request.h"
#include "server/tool_calls.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SRV_EVENT_RING      256                /* events of one stream not yet written */
#define SRV_INPUT_WINDOW    64                 /* inputs of one request in the scheduler */
#define SRV_REPLY_BYTES_MAX ((size_t)64 << 20) /* of a reply that is not streamed */

/* JSON of the tokens not yet sent, in the shape of the API at hand, brackets left out. */
struct srv_logprob_bufs {
    struct buf items;   /* chat: objects; completion: tokens */
    struct buf values;  /* completion: token_logprobs */
    struct buf tops;    /* completion: top_logprobs */
    struct buf offsets; /* completion: text_offset */
};

struct srv_choice {
    uint32_t index;
    size_t i_prompt;
    struct sch_stream *stream; /* guarded by the job's mu; NULL once released */
    bool begun;                /* its first event came */
    bool head_sent;            /* stream: the role was sent */
    bool ended;
    enum sch_finish finish;
    char *stop_matched; /* NULL: none */
    struct buf text;    /* not yet sent; whole answer when not streamed */
    struct buf ids;     /* JSON numbers not yet sent, with return_token_ids */
    struct srv_logprob_bufs logprobs;
    struct eng_detok detok; /* counts text_offset */
    uint64_t n_text_char;   /* characters of the tokens so far, prompt included */
    uint32_t n_gen_tok;
    uint32_t n_cached_tok;
    uint32_t n_cached_disk_tok;
    uint32_t n_cache_write_tok;
    struct srv_tool_reader tools; /* takes calls out of the text, where the request has tools */
    size_t n_call_sent;
    float *vector; /* [n_embd] of an embedding, once it ended */
};

/* A prompt as the model gets it. */
struct srv_prompt_tokens {
    struct eng_ids ids;
    struct buf echo; /* what echo puts before the answer */
};

struct srv_answer {
    struct srv_request request;
    struct srv_prompt_tokens *prompts; /* [n_prompt] */
    size_t n_prompt;
    struct srv_choice *choices; /* [n_choice], prompt by prompt */
    size_t n_choice;
    size_t n_submitted; /* the first so many; a long list of inputs goes in as others end */
    size_t n_open;      /* choices without their end */
    uint32_t n_embd;
    bool begun; /* the stream's head was sent */
    bool done;
    char id[40]; /* "chatcmpl-…" */
    int64_t created_s;
    struct buf prefix; /* what every chunk begins with */
};

/* Of parts in request->n choices per prompt; takes over request and prompts on success alone. */
enum err_code srv_answer_create(struct srv_request *request, struct srv_prompt_tokens *prompts,
                                size_t n_prompt, struct srv_answer **ret_a, struct err *e);
void srv_answer_free(struct srv_answer *a); /* NULL is legal; streams were released */
void srv_prompt_tokens_free(struct srv_prompt_tokens *prompts, size_t n_prompt);

/* Submits every choice, or as many inputs as may run at once, and hands the job to the answer
 * thread, or fails as a whole with *f. The answer is the job's from now on. */
bool srv_answer_submit(struct srv_job *j, struct srv_answer *a, struct srv_fail *f);
/* With the job's mu held: every sequence of it stops within one step. */
void srv_answer_cancel(struct srv_job *j);

struct srv_answerer;
enum err_code srv_answerer_start(struct srv_answerer **ret_t, struct err *e);
void srv_answerer_stop(struct srv_answerer *t); /* NULL is legal; what is in the inbox is let go */
/* Looks at the job soon; any thread, never blocks. */
void srv_answer_kick(struct srv_job *j);

#endif
