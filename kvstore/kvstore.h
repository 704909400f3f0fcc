/* The KV store: one arena of physical memory, and for each sequence one contiguous range of virtual
 * addresses that grows on demand. It knows chunks, frames and addresses; never what a token means
 * or what a layer is: the scheduler brings the engine's chunk size and takes addresses back.
 *
 * Thread: one (the scheduler's) for everything but kv_get_stats, which any thread may call. */
#ifndef KVSTORE_KVSTORE_H
#define KVSTORE_KVSTORE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kv_options {
    uint64_t ram_bytes;     /* budget; rounded down to whole frames, at least one */
    uint32_t chunk_tok;     /* tokens per chunk, a power of two */
    size_t chunk_bytes;     /* a multiple of 4 KiB */
    uint32_t n_seq_tok_max; /* longest sequence: the size of each reserved range */
    uint32_t n_vma_max;     /* mappings the store may use; 0: 0.6 × vm.max_map_count */
};

struct kv_store;
struct kv_seq;

enum err_code kv_store_create(const struct kv_options *options, struct kv_store **ret_s,
                              struct err *e);
/* All sequences must have been closed. NULL is legal. */
void kv_store_destroy(struct kv_store *s);

/* Reserves a range; maps nothing yet. ERR_FULL when the address or mapping budget is spent. */
enum err_code kv_seq_open(struct kv_store *s, struct kv_seq **ret_q, struct err *e);
/* Gives every frame back at once. NULL is legal. */
void kv_seq_close(struct kv_seq *q);

/* Maps frames until tokens [0, n_tok) have memory. ERR_FULL when no frame is free: nothing changed,
 * the same call may succeed later. ERR_LIMIT beyond n_seq_tok_max. */
enum err_code kv_seq_grow(struct kv_seq *q, uint32_t n_tok, struct err *e);
/* Gives back the frames that only tokens from n_tok on used. */
void kv_seq_shrink(struct kv_seq *q, uint32_t n_tok);
void *kv_seq_base(const struct kv_seq *q); /* fixed for the sequence's life */
uint32_t kv_seq_n_tok_mapped(const struct kv_seq *q);

struct kv_stats {
    uint64_t n_frame_total; /* = the sum of the states below, always */
    uint64_t n_frame_free;
    uint64_t n_frame_active; /* mapped by a live sequence */
    uint64_t n_frame_cached; /* held by the prefix index alone */
    uint64_t n_frame_loading;
    uint64_t n_frame_writing;
    uint64_t n_vma;
    uint64_t n_seq;
    size_t chunk_bytes;
    uint32_t chunk_tok;
};
void kv_get_stats(const struct kv_store *s, struct kv_stats *ret_stats);

/* Walks every structure and checks the invariants of design.md ("Numbers the code must keep true");
 * ERR_INTERNAL names the first that fails. Debug builds and tests call it after every step. */
enum err_code kv_check(const struct kv_store *s, struct err *e);

#endif
