/* One sequence's contiguous range of virtual addresses: reserved without access for its longest
 * length and a guard behind, backed from the front by frames of the arena. Chunks [0, n_ro) are
 * mapped read-only, the rest read-write; whatever is not mapped faults.
 *
 * Neighbouring chunks on neighbouring frames are one VMA, so the range's count of VMAs is its count
 * of such runs and one for the reserved rest.
 *
 * Owner: struct kv_seq. Thread: the store's. The range does not count frame holders. */
#ifndef KVSTORE_ADDRESS_RANGE_H
#define KVSTORE_ADDRESS_RANGE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kv_range {
    uint8_t *base; /* aligned to 2 MiB; NULL: nothing reserved */
    size_t reserved_bytes;
    size_t chunk_bytes;
    uint32_t n_chunk_max;
    uint32_t n_chunk;
    uint32_t n_ro;
    uint32_t *frames;  /* [n_chunk_max], valid to n_chunk */
    uint32_t n_run;    /* VMAs behind [0, n_chunk) */
    size_t lost_at;    /* a hole that a failing mmap left in the reservation; lost_bytes 0: none */
    size_t lost_bytes; /* never mapped again until it could be reserved anew */
};

/* ERR_FULL when the kernel refuses the address space. */
enum err_code kv_range_init(struct kv_range *r, uint32_t n_chunk_max, size_t chunk_bytes,
                            struct err *e);
/* False when the kernel refused to unmap: everything stays as it was, to be tried again. A zeroed
 * range is legal. */
bool kv_range_finish(struct kv_range *r);

/* Maps frames[n] of fd behind the last chunk, one mmap per run of contiguous frames; read_only only
 * while n_ro == n_chunk. ERR_NOMEM when the kernel refuses: then nothing was added, or, where the
 * kernel would not undo it either, the first few; n_chunk tells. */
enum err_code kv_range_append(struct kv_range *r, int fd, const uint32_t *frames, uint32_t n,
                              bool read_only, struct err *e);
/* Takes access away from chunk n_chunk on. False when the kernel refused: nothing changed. */
bool kv_range_cut(struct kv_range *r, uint32_t n_chunk);
/* Makes chunks [0, n_ro) read-only; n_ro never falls but by kv_range_cut. False when refused. */
bool kv_range_protect(struct kv_range *r, uint32_t n_ro);

/* VMAs the range has, and would have with these frames appended. */
uint32_t kv_range_n_vma(const struct kv_range *r);
uint32_t kv_range_n_vma_with(const struct kv_range *r, const uint32_t *frames, uint32_t n,
                             bool read_only);
enum err_code kv_range_check(const struct kv_range *r, struct err *e);

#endif
