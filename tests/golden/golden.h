/* What the golden tests share: the data's place, JSON files, an engine with KV memory of its own,
 * and comparisons. Plain programs: 0 passed, 1 failed, 77 the data is not there. */
#ifndef TESTS_GOLDEN_GOLDEN_H
#define TESTS_GOLDEN_GOLDEN_H

#include "engine/engine.h"
#include "engine/kernels/cpu.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#define GOLDEN_SKIP 77

/* "$KVASIR_SHARED/data/<rel>" into out; false when the data folder is not there. */
bool golden_path(const char *rel, char *out, size_t cap);
/* NULL, with a line on stderr, when it cannot be read or parsed. */
cJSON *golden_json(const char *path);

/* n_ctx 256 and f32 KV, as the reference ran. Prints the error. */
struct eng *golden_open(const char *model_path, const char *isa, uint32_t n_thread);

/* The names of the instruction sets this machine has, scalar first. Returns how many. */
int golden_isas(const char *ret_names[KERN_ISA_END]);

/* Memory for one sequence of n_ctx tokens, full of NaN: what is not written must not be read. The
 * recurrent state of models that have one lies behind the KV. */
void *golden_kv(const struct eng *g);
size_t golden_kv_bytes(const struct eng *g);       /* of it, state included */
void *golden_state(const struct eng *g, void *kv); /* NULL where there is none */

/* Runs tokens through the model from position 0 in slices of at most n_step rows, all rows' logits
 * into out [n_tok, n_vocab]. false, with a line, on failure. */
bool golden_logits(struct eng *g, void *kv, const int32_t *tokens, uint32_t n_tok, uint32_t pos,
                   uint32_t n_step, float *out);

/* n greedy ids after `tokens`. */
bool golden_greedy(struct eng *g, void *kv, const int32_t *tokens, uint32_t n_tok, int32_t *ids,
                   uint32_t n);

/* A JSON array of numbers as ids or floats, malloc'd. */
int32_t *golden_ids(const cJSON *array, uint32_t *ret_n);
double golden_max_diff(const cJSON *array, const float *got, uint32_t n);
uint32_t golden_argmax(const float *x, uint32_t n);
double golden_logprob(const float *logits, uint32_t n, int32_t id);

#endif
