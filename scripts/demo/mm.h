/* Products of small matrices in bf16 with f32 sums, for the trainer: AMX where the compiler may use
 * it, plain C elsewhere. */
#ifndef DEMO_MM_H
#define DEMO_MM_H

#include <stddef.h>
#include <stdint.h>

typedef uint16_t bf16;

/* Once per process: asks the kernel for the tile registers. Once per thread: configures them. */
int mm_process_init(void);
void mm_thread_init(void);

/* c[m, n] (= or +=) a[m, k] x b[k, n]. a is row-major; b is packed by one of the functions below:
 * panels of 32 columns, each [k / 2][32] pairs of neighbouring k. m, n and k are multiples of 32.
 */
void mm(float *c, size_t ldc, const bf16 *a, size_t lda, const uint32_t *b, size_t m, size_t n,
        size_t k, int accumulate);

/* b = transpose of src[n, k]. */
void pack_t(uint32_t *dst, const bf16 *src, size_t ld, size_t n, size_t k);
/* b = src[k, n]. */
void pack_n(uint32_t *dst, const bf16 *src, size_t ld, size_t k, size_t n);
/* dst[c, r] = src[r, c]; both multiples of 32. */
void transpose(bf16 *dst, size_t ldd, const bf16 *src, size_t lds, size_t r, size_t c);

static inline bf16 to_bf16(float f)
{
    union {
        float f;
        uint32_t u;
    } v = {.f = f};
    return (bf16)((v.u + 0x7fff + ((v.u >> 16) & 1)) >> 16);
}

static inline float from_bf16(bf16 h)
{
    union {
        uint32_t u;
        float f;
    } v = {.u = (uint32_t)h << 16};
    return v.f;
}

void to_bf16_n(bf16 *dst, const float *src, size_t n);

#endif
