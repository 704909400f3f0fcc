/* Low-rank adapters: for a matrix W of the model, y = W x + s · B (A x) in those rows that ask for
 * the adapter. Loaded from GGUF files beside the model, at its opening; read-only afterwards.
 * Source: arXiv:2106.09685; the file form is llama.cpp's: tensors NAME.lora_a [rank, n_in] and
 * NAME.lora_b [n_out, rank], adapter.lora.alpha, s = scale · alpha / rank. */
#ifndef ENGINE_LORA_H
#define ENGINE_LORA_H

#include "engine/model.h"

#define LORA_RANK_MAX 1024

/* What an adapter does to one matrix. F32, so that its bits are the same on every ISA. */
struct lora_pair {
    uint32_t rank;        /* 0: nothing */
    struct gemm_weight a; /* [rank, n_in] */
    struct gemm_weight b; /* [n_out, rank], s in it */
};

struct lora {
    struct lora_pair *pairs; /* [n_target] by model_linear.lora_id - 1 */
};

struct lora_set {
    struct lora *loras;        /* [n] */
    struct eng_adapter *facts; /* [n] what eng_info says of them */
    uint32_t n;
    uint32_t n_target; /* matrices of the model that adapters may change */
    uint32_t rank_max;
};

/* Opens each of the files, numbers the model's matrices, and packs. base: the model's own file.
 * Errors name the file and tensor; a tensor for a matrix that adapters cannot change here (experts,
 * embeddings, layers with a state) is refused, never ignored. */
enum err_code lora_set_open(struct model *m, const struct gguf *base, struct gemm_ctx *gemm,
                            const struct eng_options *options, struct lora_set **ret_s,
                            struct err *e);
void lora_set_close(struct lora_set *s); /* NULL is legal */

#endif
