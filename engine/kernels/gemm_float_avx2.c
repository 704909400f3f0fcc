/* F32, F16 and BF16 weights on AVX2: 16 outputs x up to 6 rows in registers. */
#include "engine/kernels/gemm_float.h"

#include <immintrin.h>

#define TOK_BLOCK 6
#define N_HALF    2 /* vectors of 8 in a panel */

enum elem { ELEM_F32, ELEM_F16, ELEM_BF16 };

static inline __attribute__((always_inline)) __m256 load_w(const uint8_t *w, uint32_t half,
                                                           enum elem elem)
{
    const __m128i *h = (const __m128i *)(w + 16 * half);
    switch (elem) {
    case ELEM_F16: return _mm256_cvtph_ps(_mm_load_si128(h));
    case ELEM_BF16:
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_load_si128(h)), 16));
    default: return _mm256_load_ps((const float *)(w + 32 * half));
    }
}

static inline __attribute__((always_inline)) void block_of(const uint8_t *w, size_t n_k,
                                                           const float *x, size_t ldx,
                                                           const uint32_t n_tok, float *acc,
                                                           size_t acc_step, enum elem elem)
{
    const size_t step = elem == ELEM_F32 ? 64 : 32;
    __m256 sum[TOK_BLOCK][N_HALF];
    for (uint32_t t = 0; t < n_tok; t++) {
        for (uint32_t h = 0; h < N_HALF; h++) {
            sum[t][h] = _mm256_loadu_ps(acc + t * acc_step + 8 * h);
        }
    }
    for (size_t k = 0; k < n_k; k++) {
        __m256 wk[N_HALF] = {load_w(w + k * step, 0, elem), load_w(w + k * step, 1, elem)};
#pragma GCC unroll 6
        for (uint32_t t = 0; t < n_tok; t++) {
            __m256 xk = _mm256_broadcast_ss(x + t * ldx + k);
            sum[t][0] = _mm256_fmadd_ps(wk[0], xk, sum[t][0]);
            sum[t][1] = _mm256_fmadd_ps(wk[1], xk, sum[t][1]);
        }
    }
    for (uint32_t t = 0; t < n_tok; t++) {
        for (uint32_t h = 0; h < N_HALF; h++) {
            _mm256_storeu_ps(acc + t * acc_step + 8 * h, sum[t][h]);
        }
    }
}

static inline __attribute__((always_inline)) void
block_any(const uint8_t *w, size_t w_stride, uint32_t n_panel, size_t n_k, const float *x,
          size_t ldx, uint32_t n_tok, float *acc, enum elem elem)
{
    const size_t acc_step = (size_t)n_panel * FLOAT_PANEL_OUT;
    for (uint32_t p = 0; p < n_panel; p++) {
        const uint8_t *wp = w + p * w_stride;
        float *a = acc + (size_t)p * FLOAT_PANEL_OUT;
        uint32_t t = 0;
        for (; t + 6 <= n_tok; t += 6) {
            block_of(wp, n_k, x + t * ldx, ldx, 6, a + t * acc_step, acc_step, elem);
        }
        for (; t + 3 <= n_tok; t += 3) {
            block_of(wp, n_k, x + t * ldx, ldx, 3, a + t * acc_step, acc_step, elem);
        }
        for (; t < n_tok; t++) {
            block_of(wp, n_k, x + t * ldx, ldx, 1, a + t * acc_step, acc_step, elem);
        }
    }
}

#define BLOCK_FN(NAME, ELEM)                                                                       \
    static void NAME(const void *w, size_t w_stride, uint32_t n_panel, size_t n_k, const float *x, \
                     size_t ldx, uint32_t n_tok, float *acc)                                       \
    {                                                                                              \
        block_any(w, w_stride, n_panel, n_k, x, ldx, n_tok, acc, ELEM);                            \
    }

BLOCK_FN(block_f32, ELEM_F32)
BLOCK_FN(block_f16, ELEM_F16)
BLOCK_FN(block_bf16, ELEM_BF16)

void gemm_panel_avx2(const float *w, size_t w_stride, uint32_t n_group, size_t n_k, const float *x,
                     size_t ldx, uint32_t n_tok, float *acc)
{
    block_f32(w, w_stride * sizeof *w, n_group, n_k, x, ldx, n_tok, acc);
}

static void run_f32(const struct gemm_part *p)
{
    gemm_float_run(p, block_f32);
}

static void run_f16(const struct gemm_part *p)
{
    gemm_float_run(p, block_f16);
}

static void run_bf16(const struct gemm_part *p)
{
    gemm_float_run(p, block_bf16);
}

static const struct gemm_kernel kernels[] = {
    GEMM_FLOAT_KERNEL("f32/avx2", run_f32),
    GEMM_FLOAT_KERNEL("f16/avx2", run_f16),
    GEMM_FLOAT_KERNEL("bf16/avx2", run_bf16),
};

const struct gemm_kernel *gemm_float_kernel_avx2(enum gguf_type type)
{
    switch (type) {
    case GGUF_TYPE_F32: return &kernels[ELEM_F32];
    case GGUF_TYPE_F16: return &kernels[ELEM_F16];
    case GGUF_TYPE_BF16: return &kernels[ELEM_BF16];
    default: return NULL;
    }
}
