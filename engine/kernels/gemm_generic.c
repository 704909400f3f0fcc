/* The path for every type and machine: GGUF rows are kept as they are, dequantised a piece at a
 * time into a panel [K][16] and multiplied in f32, one fused multiply-add per element in K order.
 * On KERN_SCALAR it is the oracle of all other kernels. */
#include "engine/kernels/gemm_impl.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define PANEL_OUT 16  /* outputs side by side */
#define N_PANEL   2   /* panels computed together */
#define PANEL_K   256 /* a multiple of every type's block */
#define TOK_STEP  512 /* rows that share one dequantised panel */

static_assert(sizeof(float) * (N_PANEL * PANEL_OUT * PANEL_K + PANEL_K +
                               (size_t)TOK_STEP * N_PANEL * PANEL_OUT) <=
                  GEMM_SCRATCH_BYTES,
              "scratch holds the panels, one row and the sums");

static inline __attribute__((always_inline)) void panel_body(const float *w, size_t w_stride,
                                                             uint32_t n_group, size_t n_k,
                                                             const float *x, size_t ldx,
                                                             uint32_t n_tok, float *acc)
{
    for (uint32_t t = 0; t < n_tok; t++) {
        for (uint32_t g = 0; g < n_group; g++) {
            float *a = acc + ((size_t)t * n_group + g) * PANEL_OUT;
            const float *wg = w + g * w_stride;
            float sum[PANEL_OUT];
            memcpy(sum, a, sizeof sum);
            for (size_t k = 0; k < n_k; k++) {
                float xk = x[t * ldx + k];
                for (int o = 0; o < PANEL_OUT; o++) {
                    sum[o] = fmaf(wg[k * PANEL_OUT + (size_t)o], xk, sum[o]);
                }
            }
            memcpy(a, sum, sizeof sum);
        }
    }
}

void gemm_panel_scalar(const float *w, size_t w_stride, uint32_t n_group, size_t n_k,
                       const float *x, size_t ldx, uint32_t n_tok, float *acc)
{
    panel_body(w, w_stride, n_group, n_k, x, ldx, n_tok, acc);
}

#if defined(__x86_64__)
/* The same code where the processor has fused multiply-add: the same bits without calling libm. */
__attribute__((target("avx2,fma"))) void gemm_panel_scalar_fma(const float *w, size_t w_stride,
                                                               uint32_t n_group, size_t n_k,
                                                               const float *x, size_t ldx,
                                                               uint32_t n_tok, float *acc)
{
    panel_body(w, w_stride, n_group, n_k, x, ldx, n_tok, acc);
}
#endif

static size_t generic_group_bytes(enum gguf_type type, uint32_t n_in)
{
    return gemm_row_bytes(type, n_in) * N_PANEL * PANEL_OUT;
}

static void generic_pack(const struct gemm_weight *w, const uint8_t *src, uint32_t group,
                         uint8_t *dst)
{
    size_t row = gemm_row_bytes(w->type, w->n_in);
    uint32_t first = group * N_PANEL * PANEL_OUT;
    uint32_t n = w->n_out - first < N_PANEL * PANEL_OUT ? w->n_out - first : N_PANEL * PANEL_OUT;
    memcpy(dst, src + row * first, row * n);
}

static void generic_row(const struct gemm_weight *w, uint32_t row, float *dst)
{
    const uint8_t *src = (const uint8_t *)w->data + gemm_row_bytes(w->type, w->n_in) * row;
    quant_format_of(w->type)->dequant(src, dst, w->n_in);
}

/* Rows [out, out + n_out) of K elements [k, k + n_k) as panels [k][16]; missing rows are zero. */
static void fill_panels(const struct gemm_weight *w, uint32_t out, uint32_t n_out, size_t k,
                        size_t n_k, float *panel, float *row)
{
    const struct quant_format *f = quant_format_of(w->type);
    size_t row_bytes = gemm_row_bytes(w->type, w->n_in);
    size_t offset = k / f->n_block_elem * f->n_block_byte;
    for (uint32_t o = 0; o < N_PANEL * PANEL_OUT; o++) {
        if (o < n_out) {
            f->dequant((const uint8_t *)w->data + row_bytes * (out + o) + offset, row, n_k);
        } else {
            memset(row, 0, sizeof(float) * n_k);
        }
        float *dst = panel + (size_t)(o / PANEL_OUT) * PANEL_K * PANEL_OUT + o % PANEL_OUT;
        for (size_t i = 0; i < n_k; i++) {
            dst[i * PANEL_OUT] = row[i];
        }
    }
}

static inline __attribute__((always_inline)) void generic_run(const struct gemm_part *p,
                                                              gemm_panel_fn *panel_fn)
{
    const struct gemm_weight *w = p->job->w;
    const struct gemm_act *act = p->job->act;
    float *panel = p->scratch;
    float *row = panel + N_PANEL * PANEL_OUT * PANEL_K;
    float *acc = row + PANEL_K;
    for (uint32_t g = p->group; g < p->group + p->n_group; g++) {
        uint32_t out = g * N_PANEL * PANEL_OUT;
        uint32_t n_out =
            w->n_out - out < N_PANEL * PANEL_OUT ? w->n_out - out : N_PANEL * PANEL_OUT;
        uint32_t n_tok;
        for (uint32_t t = p->tok; t < p->tok + p->n_tok; t += n_tok) {
            n_tok = p->tok + p->n_tok - t < TOK_STEP ? p->tok + p->n_tok - t : TOK_STEP;
            memset(acc, 0, sizeof(float) * n_tok * N_PANEL * PANEL_OUT);
            for (size_t k = 0; k < w->n_in; k += PANEL_K) {
                size_t n_k = w->n_in - k < PANEL_K ? w->n_in - k : PANEL_K;
                fill_panels(w, out, n_out, k, n_k, panel, row);
                panel_fn(panel, (size_t)PANEL_K * PANEL_OUT, N_PANEL, n_k,
                         act->x + t * act->ldx + k, act->ldx, n_tok, acc);
            }
            for (uint32_t i = 0; i < n_tok; i++) {
                gemm_emit(p->job, t + i, out, acc + (size_t)i * N_PANEL * PANEL_OUT, n_out);
            }
        }
    }
}

static void run_scalar(const struct gemm_part *p)
{
    generic_run(p, gemm_panel_scalar);
}

#define GENERIC_KERNEL(NAME, RUN)                                                                  \
    {                                                                                              \
        .name = NAME, .act = GEMM_ACT_F32, .group_out = N_PANEL * PANEL_OUT, .n_group_max = 8,     \
        .n_group_few = 1, .n_tok_max = TOK_STEP, .tok_block = 1,                                   \
        .group_bytes = generic_group_bytes, .pack = generic_pack, .row = generic_row, .run = RUN,  \
    }

static const struct gemm_kernel kernel_scalar = GENERIC_KERNEL("generic/scalar", run_scalar);

#if defined(__x86_64__)
static void run_scalar_fma(const struct gemm_part *p)
{
    generic_run(p, gemm_panel_scalar_fma);
}

static void run_avx2(const struct gemm_part *p)
{
    generic_run(p, gemm_panel_avx2);
}

static void run_avx512(const struct gemm_part *p)
{
    generic_run(p, gemm_panel_avx512);
}

static const struct gemm_kernel kernel_scalar_fma =
    GENERIC_KERNEL("generic/scalar", run_scalar_fma);
static const struct gemm_kernel kernel_avx2 = GENERIC_KERNEL("generic/avx2", run_avx2);
static const struct gemm_kernel kernel_avx512 = GENERIC_KERNEL("generic/avx512", run_avx512);
#endif

const struct gemm_kernel *gemm_generic_kernel(enum kern_isa isa, enum gguf_type type)
{
    const struct quant_format *f = quant_format_of(type);
    if (!f || !f->dequant || PANEL_K % f->n_block_elem) {
        return NULL;
    }
#if defined(__x86_64__)
    switch (isa) {
    case KERN_AMX:
    case KERN_AVX512: return &kernel_avx512;
    case KERN_AVX2: return &kernel_avx2;
    default: break;
    }
    if (__builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2")) {
        return &kernel_scalar_fma;
    }
#endif
    return &kernel_scalar;
}
