/* AVX2: products of unsigned codes and q are added in pairs to int16, and as many of those as
 * cannot overflow before they go to int32. Signed codes lend q their sign. */
#include "engine/kernels/gemm_int8_x86.h"
#include "engine/kernels/lanes.h"

#include <assert.h>

#define WIDE      32
#define ROW_TILE  4
#define CODE_FLIP 0x80

#define wide_lookup(VALUES, CODES)                                                                 \
    (wide) _mm256_shuffle_epi8(                                                                    \
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(VALUES))), (__m256i)(CODES))

static inline v16 load_halves(const uint8_t *src)
{
    return (v16){int8_half8(src), int8_half8(src + 16)};
}

static inline __m256 load_8_bytes(const uint8_t *src)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)src)));
}

static inline v16 load_bytes(const uint8_t *src)
{
    return (v16){load_8_bytes(src), load_8_bytes(src + 8)};
}

#include "engine/kernels/gemm_int8_body.h"

#define N_HALF 2 /* of 16 rows of weights: a ymm is 8 x 4 K */

/* Keeps sums from being grouped anew, which takes more registers than there are. */
#define IN_ORDER(V) __asm__("" : "+x"(V))

static inline __m256 bcast_f32(const uint32_t *p)
{
    float f;
    memcpy(&f, p, sizeof f);
    return _mm256_set1_ps(f);
}

static inline __m256i bcast_i32(const uint32_t *p)
{
    return _mm256_set1_epi32((int)*p);
}

/* dot[t][h] += vectors [first, end) of a step. depth: sums of pairs that fit into int16 together;
 * 0: signed codes. All but the pointers are constants where this is inlined. */
static inline __attribute__((always_inline)) void
dots(const uint8_t (*code)[CODE_VECTOR], const unsigned first, const unsigned end,
     const uint32_t *rec, const unsigned n_tok, const unsigned depth, __m256i dot[ROW_TILE][N_HALF])
{
    const unsigned n_run = depth ? depth : 1;
#pragma GCC unroll 8
    for (unsigned run = first; run < end; run += n_run) {
        __m256i pair[ROW_TILE][N_HALF];
#pragma GCC unroll 8
        for (unsigned j = run; j < run + n_run; j++) {
            __m256i w[N_HALF];
#pragma GCC unroll 2
            for (unsigned h = 0; h < N_HALF; h++) {
                w[h] = _mm256_load_si256((const __m256i *)(code[j] + 32 * (size_t)h));
            }
#pragma GCC unroll 4
            for (unsigned t = 0; t < n_tok; t++) {
                __m256i x = bcast_i32(rec + j * n_tok + t);
#pragma GCC unroll 2
                for (unsigned h = 0; h < N_HALF; h++) {
                    __m256i v = depth ? _mm256_maddubs_epi16(w[h], x)
                                      : _mm256_maddubs_epi16(_mm256_abs_epi8(w[h]),
                                                             _mm256_sign_epi8(x, w[h]));
                    pair[t][h] = j == run ? v : _mm256_add_epi16(pair[t][h], v);
                    IN_ORDER(pair[t][h]);
                }
            }
        }
#pragma GCC unroll 4
        for (unsigned t = 0; t < n_tok; t++) {
#pragma GCC unroll 2
            for (unsigned h = 0; h < N_HALF; h++) {
                __m256i i32 = _mm256_madd_epi16(pair[t][h], _mm256_set1_epi16(1));
                dot[t][h] = _mm256_add_epi32(dot[t][h], i32);
            }
        }
    }
}

/* n_group: of unsigned codes; 0: signed. n_tok, n_group, depth are constants where inlined. */
static inline __attribute__((always_inline)) void tile(const struct int8_panel *p, uint32_t n_step,
                                                       const uint32_t *rec, const unsigned n_tok,
                                                       const unsigned n_group, const unsigned depth,
                                                       float *acc)
{
    const unsigned per_group = n_group == 2 ? N_CODE_VECTOR / 2 : N_CODE_VECTOR;
    for (uint32_t s = 0; s < n_step; s++, rec += (size_t)n_tok * INT8_REC) {
        __m256 f[ROW_TILE][N_HALF];
        for (unsigned g = 0; g < (n_group ? n_group : 1); g++) {
            __m256i dot[ROW_TILE][N_HALF] = {{_mm256_setzero_si256()}};
            const size_t at = n_group == 2 ? 2 * s + g : s;
            const uint32_t *sums =
                rec + (n_group == 2 ? INT8_REC_SUM_LOW + g : INT8_REC_SUM) * n_tok;
            dots(p->code[s], g * per_group, (g + 1) * per_group, rec, n_tok, depth, dot);
#pragma GCC unroll 4
            for (unsigned t = 0; t < n_tok; t++) {
#pragma GCC unroll 2
                for (unsigned h = 0; h < N_HALF; h++) {
                    __m256 ws = _mm256_load_ps(p->ws[at] + 8 * (size_t)h);
                    __m256 d = _mm256_cvtepi32_ps(dot[t][h]);
                    f[t][h] = g == 0 ? _mm256_mul_ps(ws, d) : _mm256_fmadd_ps(ws, d, f[t][h]);
                    if (n_group) {
                        __m256 wm = _mm256_load_ps(p->wm[at] + 8 * (size_t)h);
                        f[t][h] = _mm256_fmadd_ps(wm, bcast_f32(sums + t), f[t][h]);
                    }
                }
            }
        }
#pragma GCC unroll 4
        for (unsigned t = 0; t < n_tok; t++) {
            __m256 scale = bcast_f32(rec + INT8_REC_SCALE * n_tok + t);
#pragma GCC unroll 2
            for (unsigned h = 0; h < N_HALF; h++) {
                float *a = acc + (size_t)t * INT8_ROWS + 8 * (size_t)h;
                _mm256_storeu_ps(a, _mm256_fmadd_ps(f[t][h], scale, _mm256_loadu_ps(a)));
            }
        }
    }
}

#define TILE_FN(NAME, N_GROUP, DEPTH)                                                              \
    INT8_TILE static void NAME(const struct int8_panel *p, uint32_t n_step, const uint32_t *rec,   \
                               uint32_t n_tok, float *acc)                                         \
    {                                                                                              \
        switch (n_tok) {                                                                           \
        case 4: tile(p, n_step, rec, 4, N_GROUP, DEPTH, acc); break;                               \
        case 2: tile(p, n_step, rec, 2, N_GROUP, DEPTH, acc); break;                               \
        default: tile(p, n_step, rec, 1, N_GROUP, DEPTH, acc); break;                              \
        }                                                                                          \
    }

/* 2 · 127 · code · depth <= 32767 */
TILE_FN(tile_signed, 0, 0)
TILE_FN(tile_15, 1, 8)
TILE_FN(tile_31, 1, 4)
TILE_FN(tile_two_7, 2, 4)
TILE_FN(tile_two_63, 2, 2)

static void int8_multiply(const struct int8_format *f, const struct int8_panel *p, uint32_t n_step,
                          const uint32_t *rec, uint32_t n_tok, float *acc)
{
    if (f->is_signed) {
        tile_signed(p, n_step, rec, n_tok, acc);
    } else if (f->n_group == 2) {
        (f->n_bit <= 3 ? tile_two_7 : tile_two_63)(p, n_step, rec, n_tok, acc);
    } else {
        (f->n_bit == 4 && !f->values ? tile_15 : tile_31)(p, n_step, rec, n_tok, acc);
    }
}

INT8_KERNELS("avx2");

const struct gemm_kernel *gemm_int8_kernel_avx2(enum gguf_type type)
{
    return int8_kernel_of(int8_kernels, type);
}
