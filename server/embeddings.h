/* What /v1/embeddings answers: one vector per input, as numbers or as base64 of little-endian f32,
 * cut to `dimensions` and brought back to length 1 where the request says so. The request is read
 * by openai_request.h, its inputs are the choices of an answer (answer.h). Pure; any thread. */
#ifndef SERVER_EMBEDDINGS_H
#define SERVER_EMBEDDINGS_H

#include "server/answer.h"

/* Before anything is computed: whether `dimensions` fits the model's n_embd, and the reply its
 * limit. */
bool srv_embeddings_check(const struct srv_request *r, size_t n_input, uint32_t n_embd,
                          struct srv_fail *f);
/* The whole reply. Every choice has its vector [n_embd]. */
void srv_embeddings_whole(const struct srv_answer *a, const char *model, uint32_t n_embd,
                          struct buf *out);

#endif
