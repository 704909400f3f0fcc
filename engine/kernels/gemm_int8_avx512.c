/* AVX-512 VNNI: a zmm is 16 rows x 4 K of codes; up to eight rows of activations in registers. */
#include "engine/kernels/gemm_int8_x86.h"
#include "engine/kernels/lanes.h"

#include <assert.h>

#define WIDE      64
#define ROW_TILE  8
#define CODE_FLIP 0

#define wide_lookup(VALUES, CODES)                                                                 \
    (wide) _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(VALUES))), \
                               (__m512i)(CODES))

static inline v16 load_halves(const uint8_t *src)
{
    return (v16){_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)src))};
}

static inline v16 load_bytes(const uint8_t *src)
{
    return (v16){_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)src)))};
}

#include "engine/kernels/gemm_int8_body.h"

/* Keeps a value that several rows use from being loaded for each. */
#define IN_REGISTER(V) __asm__("" : "+v"(V))

static inline __m512 bcast_f32(const uint32_t *p)
{
    float f;
    memcpy(&f, p, sizeof f);
    return _mm512_set1_ps(f);
}

static inline __m512i bcast_i32(const uint32_t *p)
{
    return _mm512_set1_epi32((int)*p);
}

/* n_group: of unsigned codes; 0: signed. n_tok, n_group are constants where this is inlined. */
static inline __attribute__((always_inline)) void tile(const struct int8_panel *p, uint32_t n_step,
                                                       const uint32_t *rec, const unsigned n_tok,
                                                       const unsigned n_group, float *acc)
{
    const unsigned per_group = n_group == 2 ? N_CODE_VECTOR / 2 : N_CODE_VECTOR;
    __m512 sum[ROW_TILE];
#pragma GCC unroll 8
    for (unsigned t = 0; t < n_tok; t++) {
        sum[t] = _mm512_loadu_ps(acc + (size_t)t * INT8_ROWS);
    }
    for (uint32_t s = 0; s < n_step; s++, rec += (size_t)n_tok * INT8_REC) {
        __m512 f[ROW_TILE];
        for (unsigned g = 0; g < (n_group ? n_group : 1); g++) {
            __m512i dot[ROW_TILE];
#pragma GCC unroll 8
            for (unsigned t = 0; t < n_tok; t++) {
                dot[t] = n_group ? _mm512_setzero_si512()
                                 : bcast_i32(rec + INT8_REC_SUM_INT * n_tok + t);
            }
#pragma GCC unroll 8
            for (unsigned j = g * per_group; j < (g + 1) * per_group; j++) {
                __m512i w = _mm512_load_si512(p->code[s][j]);
#pragma GCC unroll 8
                for (unsigned t = 0; t < n_tok; t++) {
                    dot[t] = _mm512_dpbusd_epi32(dot[t], w, bcast_i32(rec + j * n_tok + t));
                }
            }
            const size_t at = n_group == 2 ? 2 * s + g : s;
            const uint32_t *sums =
                rec + (n_group == 2 ? INT8_REC_SUM_LOW + g : INT8_REC_SUM) * n_tok;
            __m512 ws = _mm512_load_ps(p->ws[at]), wm = _mm512_load_ps(p->wm[at]);
            IN_REGISTER(ws);
            IN_REGISTER(wm);
#pragma GCC unroll 8
            for (unsigned t = 0; t < n_tok; t++) {
                __m512 d = _mm512_cvtepi32_ps(dot[t]);
                f[t] = g == 0 ? _mm512_mul_ps(ws, d) : _mm512_fmadd_ps(ws, d, f[t]);
                if (n_group) {
                    f[t] = _mm512_fmadd_ps(wm, bcast_f32(sums + t), f[t]);
                }
            }
        }
#pragma GCC unroll 8
        for (unsigned t = 0; t < n_tok; t++) {
            sum[t] = _mm512_fmadd_ps(f[t], bcast_f32(rec + INT8_REC_SCALE * n_tok + t), sum[t]);
        }
    }
#pragma GCC unroll 8
    for (unsigned t = 0; t < n_tok; t++) {
        _mm512_storeu_ps(acc + (size_t)t * INT8_ROWS, sum[t]);
    }
}

#define TILE_FN(NAME, N_GROUP)                                                                     \
    INT8_TILE static void NAME(const struct int8_panel *p, uint32_t n_step, const uint32_t *rec,   \
                               uint32_t n_tok, float *acc)                                         \
    {                                                                                              \
        switch (n_tok) {                                                                           \
        case 8: tile(p, n_step, rec, 8, N_GROUP, acc); break;                                      \
        case 4: tile(p, n_step, rec, 4, N_GROUP, acc); break;                                      \
        case 2: tile(p, n_step, rec, 2, N_GROUP, acc); break;                                      \
        default: tile(p, n_step, rec, 1, N_GROUP, acc); break;                                     \
        }                                                                                          \
    }

TILE_FN(tile_signed, 0)
TILE_FN(tile_one, 1)
TILE_FN(tile_two, 2)

static void int8_multiply(const struct int8_format *f, const struct int8_panel *p, uint32_t n_step,
                          const uint32_t *rec, uint32_t n_tok, float *acc)
{
    if (f->is_signed) {
        tile_signed(p, n_step, rec, n_tok, acc);
    } else if (f->n_group == 1) {
        tile_one(p, n_step, rec, n_tok, acc);
    } else {
        tile_two(p, n_step, rec, n_tok, acc);
    }
}

INT8_KERNELS("avx512");

const struct gemm_kernel *gemm_int8_kernel_avx512(enum gguf_type type)
{
    return int8_kernel_of(int8_kernels, type);
}
