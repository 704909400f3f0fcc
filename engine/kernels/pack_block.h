/* A quantised block taken apart: one code per element in K order, scales as the file has them.
 * Between the file's layout and those the kernels stream; pure and lossless both ways. */
#ifndef ENGINE_KERNELS_PACK_BLOCK_H
#define ENGINE_KERNELS_PACK_BLOCK_H

#include "engine/gguf.h"

#include <stdbool.h>
#include <stdint.h>

#define PACK_ELEM_MAX 256

struct pack_block {
    uint8_t code[PACK_ELEM_MAX]; /* unsigned; Q8_0: q + 128 */
    uint16_t d;                  /* f16; MXFP4: the exponent byte */
    uint16_t m;                  /* f16: Q4_1, Q5_1: m; K types: dmin */
    uint8_t scale[16];           /* of groups, as stored: 4, 6 or 8 bits */
    uint8_t min[16];             /* of groups: 4 or 6 bits */
};

bool pack_block_known(enum gguf_type type);
void pack_block_read(enum gguf_type type, const uint8_t *src, struct pack_block *b);
void pack_block_write(enum gguf_type type, const struct pack_block *b, uint8_t *dst);

#endif
