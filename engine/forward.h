/* The forward pass of one step: the rows of all slices through the model at once.
 * A struct fwd holds the scratch of one engine, taken once at open; fwd_step allocates nothing.
 * Thread: one (the scheduler's); work is spread over the pool. */
#ifndef ENGINE_FORWARD_H
#define ENGINE_FORWARD_H

#include "base/err.h"
#include "engine/engine.h"
#include "engine/kernels/attention.h"
#include "engine/kernels/gemm.h"
#include "engine/kernels/vector.h"
#include "engine/lora.h"
#include "engine/model.h"
#include "engine/threads.h"

#include <stdint.h>

/* What a forward pass runs on; all of it outlives the struct fwd. */
struct fwd_env {
    const struct model *m;
    struct eng_pool *pool;
    struct gemm_ctx *gemm;
    struct att_ctx *att;
    const struct vec_ops *vec;
    const struct lora_set *loras; /* NULL: none */
};

struct fwd;

enum err_code fwd_create(const struct fwd_env *env, struct fwd **ret_f, struct err *e);
void fwd_destroy(struct fwd *f); /* NULL is legal */

uint32_t fwd_n_tok_max(const struct fwd *f); /* rows of one step */
uint32_t fwd_n_out_max(const struct fwd *f); /* rows with logits of one step */

/* As eng_step says; checks everything it was given before any KV is written. */
enum err_code fwd_step(struct fwd *f, struct eng_slice *slices, uint32_t n_slice, struct err *e);

#endif
