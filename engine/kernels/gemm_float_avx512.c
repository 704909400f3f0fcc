/* F32, F16 (and, without AMX, BF16) weights on AVX-512: 32 outputs x up to 12 rows in registers. */
#include "engine/kernels/gemm_float.h"

#include <immintrin.h>

#define TOK_BLOCK 12

enum elem { ELEM_F32, ELEM_F16, ELEM_BF16 };

static inline __attribute__((always_inline)) __m512 load_w(const uint8_t *w, enum elem elem)
{
    switch (elem) {
    case ELEM_F16: return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)w));
    case ELEM_BF16:
        return _mm512_castsi512_ps(
            _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_load_si256((const __m256i *)w)), 16));
    default: return _mm512_load_ps(w);
    }
}

/* n_panel and n_tok are constants where this is inlined, so that the sums stay in registers. */
static inline __attribute__((always_inline)) void
block_of(const uint8_t *w, size_t w_stride, const uint32_t n_panel, size_t n_k, const float *x,
         size_t ldx, const uint32_t n_tok, float *acc, enum elem elem)
{
    const size_t step = elem == ELEM_F32 ? 64 : 32;
    __m512 sum[TOK_BLOCK][FLOAT_N_PANEL];
    for (uint32_t t = 0; t < n_tok; t++) {
        for (uint32_t p = 0; p < n_panel; p++) {
            sum[t][p] = _mm512_loadu_ps(acc + ((size_t)t * n_panel + p) * FLOAT_PANEL_OUT);
        }
    }
    for (size_t k = 0; k < n_k; k++) {
        __m512 wk[FLOAT_N_PANEL];
        for (uint32_t p = 0; p < n_panel; p++) {
            wk[p] = load_w(w + p * w_stride + k * step, elem);
        }
#pragma GCC unroll 12
        for (uint32_t t = 0; t < n_tok; t++) {
            __m512 xk = _mm512_set1_ps(x[t * ldx + k]);
            for (uint32_t p = 0; p < n_panel; p++) {
                sum[t][p] = _mm512_fmadd_ps(wk[p], xk, sum[t][p]);
            }
        }
    }
    for (uint32_t t = 0; t < n_tok; t++) {
        for (uint32_t p = 0; p < n_panel; p++) {
            _mm512_storeu_ps(acc + ((size_t)t * n_panel + p) * FLOAT_PANEL_OUT, sum[t][p]);
        }
    }
}

static inline __attribute__((always_inline)) void
block_any(const void *w, size_t w_stride, const uint32_t n_panel, size_t n_k, const float *x,
          size_t ldx, uint32_t n_tok, float *acc, enum elem elem)
{
    const size_t acc_step = (size_t)n_panel * FLOAT_PANEL_OUT;
    for (; n_tok >= TOK_BLOCK; n_tok -= TOK_BLOCK) {
        block_of(w, w_stride, n_panel, n_k, x, ldx, TOK_BLOCK, acc, elem);
        x += TOK_BLOCK * ldx;
        acc += TOK_BLOCK * acc_step;
    }
    for (uint32_t n = TOK_BLOCK / 2; n > 0; n /= 2) { /* 6, 3, 1 */
        while (n_tok >= n) {
            switch (n) {
            case 6: block_of(w, w_stride, n_panel, n_k, x, ldx, 6, acc, elem); break;
            case 3: block_of(w, w_stride, n_panel, n_k, x, ldx, 3, acc, elem); break;
            default: block_of(w, w_stride, n_panel, n_k, x, ldx, 1, acc, elem); break;
            }
            x += n * ldx;
            acc += n * acc_step;
            n_tok -= n;
        }
    }
}

#define BLOCK_FN(NAME, ELEM)                                                                       \
    static void NAME(const void *w, size_t w_stride, uint32_t n_panel, size_t n_k, const float *x, \
                     size_t ldx, uint32_t n_tok, float *acc)                                       \
    {                                                                                              \
        if (n_panel == 1) {                                                                        \
            block_any(w, w_stride, 1, n_k, x, ldx, n_tok, acc, ELEM);                              \
        } else {                                                                                   \
            block_any(w, w_stride, 2, n_k, x, ldx, n_tok, acc, ELEM);                              \
        }                                                                                          \
    }

BLOCK_FN(block_f32, ELEM_F32)
BLOCK_FN(block_f16, ELEM_F16)
BLOCK_FN(block_bf16, ELEM_BF16)

void gemm_panel_avx512(const float *w, size_t w_stride, uint32_t n_group, size_t n_k,
                       const float *x, size_t ldx, uint32_t n_tok, float *acc)
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
    GEMM_FLOAT_KERNEL("f32/avx512", run_f32),
    GEMM_FLOAT_KERNEL("f16/avx512", run_f16),
    GEMM_FLOAT_KERNEL("bf16/avx512", run_bf16),
};

const struct gemm_kernel *gemm_float_kernel_avx512(enum gguf_type type)
{
    switch (type) {
    case GGUF_TYPE_F32: return &kernels[ELEM_F32];
    case GGUF_TYPE_F16: return &kernels[ELEM_F16];
    case GGUF_TYPE_BF16: return &kernels[ELEM_BF16];
    default: return NULL;
    }
}
