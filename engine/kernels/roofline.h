/* What this machine can do at this moment, for stating speeds as fractions of it: how fast memory
 * is read, and how fast each kind of arithmetic runs when nothing else limits it. Both take some
 * tens of milliseconds on all of the pool's threads; a shared machine's figures wander, so measure
 * beside what is compared. Threads: as eng_pool_run. */
#ifndef ENGINE_KERNELS_ROOFLINE_H
#define ENGINE_KERNELS_ROOFLINE_H

#include "base/err.h"
#include "engine/kernels/cpu.h"
#include "engine/threads.h"

#include <stddef.h>

enum roof_unit {
    ROOF_F32,  /* fused multiply-adds of floats */
    ROOF_BF16, /* tile products of bf16: AMX */
    ROOF_I8,   /* dot products of bytes: VNNI, or what AVX2 has */
};

struct roof; /* memory to read; owned by its creator */

/* n_byte should be several times the last-level cache to measure memory and not the cache. */
enum err_code roof_create(struct eng_pool *pool, size_t n_byte, struct roof **ret_r, struct err *e);
void roof_destroy(struct roof *r); /* NULL is legal */
double roof_read_bytes_per_s(struct roof *r);
/* Two operations per multiply-add, all threads together. 0 where isa has no such unit. */
double roof_flop_per_s(struct roof *r, enum kern_isa isa, enum roof_unit unit);

#endif
