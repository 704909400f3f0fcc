/* How OpenAI writes an answer: chunks of a stream, and the whole reply. Bytes only, no threads: for
 * the answer thread and its tests. */
#ifndef SERVER_OPENAI_RESPONSE_H
#define SERVER_OPENAI_RESPONSE_H

#include "server/answer.h"

/* What every reply of this model says of it. */
struct srv_model_view {
    const struct eng *eng;
    const char *name;
    const char *fingerprint;
};

/* Fills a->prefix. */
void srv_response_begin(struct srv_answer *a, const struct srv_model_view *m);

/* Takes an event into the choice: a token's text, id and logprobs; at the first, also the echo. */
void srv_response_take(struct srv_answer *a, struct srv_choice *c, const struct sch_event *ev,
                       const struct srv_model_view *m);

/* Appends the chunks that are due, and empties what they carry: the role or echo first, then what
 * the choice has collected, if it has text or `flush`. */
void srv_response_chunk(struct srv_answer *a, struct srv_choice *c, bool flush, struct buf *out);
/* The choice's last chunk. */
void srv_response_finish_chunk(struct srv_answer *a, struct srv_choice *c, struct buf *out);
/* Usage, if asked for, and [DONE]. */
void srv_response_stream_end(struct srv_answer *a, struct buf *out);
/* An error in mid-stream, and [DONE]. */
void srv_response_stream_error(const struct srv_fail *f, struct buf *out);

/* The whole reply. */
void srv_response_whole(struct srv_answer *a, struct buf *out);
/* Bytes collected so far. */
size_t srv_response_bytes(const struct srv_choice *c);

#endif
