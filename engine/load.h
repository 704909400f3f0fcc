/* Inside model loading: finding, checking and packing tensors. Private to engine/load*.c and
 * model_load.c. The first fault is kept in the loader and everything after it does nothing, so that
 * a list of tensors reads as a list. Names are given without "blk.N." for block il, or whole for
 * il < 0. */
#ifndef ENGINE_LOAD_H
#define ENGINE_LOAD_H

#include "base/hash.h"
#include "engine/gguf.h"
#include "engine/kernels/gemm.h"
#include "engine/model.h"
#include "engine/threads.h"

#include <stdbool.h>
#include <stdint.h>

#define LOAD_NAME_BYTES 96

struct loader {
    struct model *m;
    const struct gguf *f;
    struct gemm_ctx *gemm;
    struct eng_pool *pool;
    const struct eng_options *options;
    bool *used;                       /* [n_tensor] which have found their place */
    uint8_t (*digests)[SHA256_BYTES]; /* [n_tensor] of those that are read, else zeros */
    uint64_t done_bytes;
    uint64_t total_bytes;
    enum err_code code; /* ERR_OK while nothing is wrong */
    struct err *e;
};

/* The full name of a tensor, in out. */
const char *load_name(char out[LOAD_NAME_BYTES], int il, const char *name, const char *suffix);
bool load_has(const struct loader *L, int il, const char *name);
/* Finds a tensor by its full name and checks its shape: rows of ne0 values, ne1 of them, ne2 such
 * matrices. NULL when it is not there or something is wrong already. */
const struct gguf_tensor *load_take(struct loader *L, const char *full, uint64_t ne0, uint64_t ne1,
                                    uint64_t ne2, bool required);
/* Says that the tensor's bytes are packed or copied: its pages may go. */
void load_done(struct loader *L, const struct gguf_tensor *t);
/* Marks a tensor that may be there and plays no part. */
void load_ignore(struct loader *L, int il, const char *name);

/* n values from `from` on, as f32 of the caller's. */
float *load_f32(struct loader *L, const struct gguf_tensor *t, uint64_t from, uint64_t n);
/* [n] f32 of the caller's; NULL when optional and absent. */
float *load_vector(struct loader *L, const char *full, uint64_t n, bool required);
/* A norm over n values: weight, and bias where there is one. */
void load_norm(struct loader *L, int il, const char *name, uint32_t n, struct model_norm *norm,
               bool required);
/* Packs rows [row0, row0 + n_out) of matrix `slab` of t. */
void load_rows(struct loader *L, const struct gguf_tensor *t, uint32_t slab, uint32_t row0,
               uint32_t n_out, struct gemm_weight *w);
/* A matrix [n_out, n_in] and its bias where there is one. */
void load_linear(struct loader *L, int il, const char *name, uint32_t n_out, uint32_t n_in,
                 struct model_linear *lin, bool required);
/* One tensor that holds the rows of several matrices, in order; its bias likewise. */
void load_fused(struct loader *L, int il, const char *name, const uint32_t *n_outs,
                struct model_linear *const *lins, uint32_t n_lin, uint32_t n_in);

/* Remembers the digest of a tensor's bytes, while they are in memory. */
void load_hash(struct loader *L, const struct gguf_tensor *t);
/* The digest of the whole model: metadata of its architecture, and every tensor. */
void load_digest(struct loader *L);

/* What a layer with a state has in place of attention. */
void load_ssm(struct loader *L, int il, struct model_ssm *a);
/* All tensors of block il. */
void load_block(struct loader *L, int il);

#endif
