#include "mm.h"

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#ifdef __AMX_BF16__
enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

int mm_process_init(void)
{
    return (int)syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
}

void mm_thread_init(void)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t colsb[16];
        uint8_t rows[16];
    } cfg = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        cfg.colsb[i] = 64;
        cfg.rows[i] = 16;
    }
    __asm__ volatile("" : : "r"(&cfg) : "memory"); /* the intrinsic names only the first bytes */
    _tile_loadconfig(&cfg);
}

void mm(float *c, size_t ldc, const bf16 *a, size_t lda, const uint32_t *b, size_t m, size_t n,
        size_t k, int accumulate)
{
    /* a few rows of a stay in the nearest cache while b passes by */
    enum { ROWS = 64 };
    for (size_t ij = 0, n_j = n / 32, i0 = 0; i0 < m; ij++, i0 += ij % n_j ? 0 : ROWS) {
        size_t j = ij % n_j * 32, end = i0 + ROWS < m ? i0 + ROWS : m;
        const uint32_t *bp = b + j * (k / 2);
        for (size_t i = i0; i < end; i += 32) {
            float *c0 = c + i * ldc + j, *c1 = c0 + 16 * ldc;
            if (accumulate) {
                _tile_loadd(0, c0, ldc * 4);
                _tile_loadd(1, c0 + 16, ldc * 4);
                _tile_loadd(2, c1, ldc * 4);
                _tile_loadd(3, c1 + 16, ldc * 4);
            } else {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
            }
            for (size_t p = 0; p < k; p += 32) {
                const bf16 *ap = a + i * lda + p;
                const uint32_t *bk = bp + p * 16;
                _tile_loadd(4, ap, lda * 2);
                _tile_loadd(6, bk, 128);
                _tile_loadd(7, bk + 16, 128);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(5, ap + 16 * lda, lda * 2);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, c0, ldc * 4);
            _tile_stored(1, c0 + 16, ldc * 4);
            _tile_stored(2, c1, ldc * 4);
            _tile_stored(3, c1 + 16, ldc * 4);
        }
    }
}
#else
int mm_process_init(void)
{
    return 0;
}

void mm_thread_init(void)
{
}

void mm(float *c, size_t ldc, const bf16 *a, size_t lda, const uint32_t *b, size_t m, size_t n,
        size_t k, int accumulate)
{
    for (size_t j = 0; j < n; j += 32) {
        const uint32_t *bp = b + j * (k / 2);
        for (size_t i = 0; i < m; i++) {
            float sum[32] = {0};
            if (accumulate) {
                memcpy(sum, c + i * ldc + j, sizeof sum);
            }
            for (size_t p = 0; p < k / 2; p++) {
                float lo = from_bf16(a[i * lda + 2 * p]), hi = from_bf16(a[i * lda + 2 * p + 1]);
                for (size_t q = 0; q < 32; q++) {
                    uint32_t w = bp[p * 32 + q];
                    sum[q] += lo * from_bf16((bf16)w) + hi * from_bf16((bf16)(w >> 16));
                }
            }
            memcpy(c + i * ldc + j, sum, sizeof sum);
        }
    }
}
#endif

#ifdef __AVX512BF16__
/* dst[i, j] = src[j, i], 16 x 16 words; strides in words. */
static void turn16(uint32_t *dst, size_t ldd, const uint32_t *src, size_t lds)
{
    __m512i r[16], t[16];
    for (size_t i = 0; i < 16; i++) {
        r[i] = _mm512_loadu_si512(src + i * lds);
    }
    for (size_t i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (size_t i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (size_t i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (size_t i = 0; i < 8; i++) {
        _mm512_storeu_si512(dst + i * ldd, _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88));
        _mm512_storeu_si512(dst + (i + 8) * ldd, _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd));
    }
}
#else
static void turn16(uint32_t *dst, size_t ldd, const uint32_t *src, size_t lds)
{
    for (size_t i = 0; i < 16; i++) {
        for (size_t j = 0; j < 16; j++) {
            dst[i * ldd + j] = src[j * lds + i];
        }
    }
}
#endif

void pack_t(uint32_t *dst, const bf16 *src, size_t ld, size_t n, size_t k)
{
    const uint32_t *pairs = (const void *)src; /* rows begin at even places */
    for (size_t j = 0; j < n; j += 16) {
        uint32_t *panel = dst + (j & ~(size_t)31) * (k / 2) + (j & 16);
        for (size_t p = 0; p < k / 2; p += 16) {
            turn16(panel + p * 32, 32, pairs + j * (ld / 2) + p, ld / 2);
        }
    }
}

void pack_n(uint32_t *dst, const bf16 *src, size_t ld, size_t k, size_t n)
{
    for (size_t j = 0; j < n; j += 32) {
        for (size_t p = 0; p < k / 2; p++) {
            const bf16 *lo = src + 2 * p * ld + j, *hi = lo + ld;
            uint32_t *out = dst + j * (k / 2) + p * 32;
            for (size_t q = 0; q < 32; q++) {
                out[q] = (uint32_t)lo[q] | (uint32_t)hi[q] << 16;
            }
        }
    }
}

void transpose(bf16 *dst, size_t ldd, const bf16 *src, size_t lds, size_t r, size_t c)
{
    uint32_t *out = (void *)dst, pairs[16 * 32];
    for (size_t i = 0; i < r; i += 32) {
        for (size_t j = 0; j < c; j += 32) {
            pack_n(pairs, src + i * lds + j, lds, 32, 32);
            turn16(out + j * (ldd / 2) + i / 2, ldd / 2, pairs, 32);
            turn16(out + (j + 16) * (ldd / 2) + i / 2, ldd / 2, pairs + 16, 32);
        }
    }
}

void to_bf16_n(bf16 *dst, const float *src, size_t n)
{
    size_t i = 0;
#ifdef __AVX512BF16__
    for (; i + 32 <= n; i += 32) {
        __m512bh v = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(src + i + 16), _mm512_loadu_ps(src + i));
        memcpy(dst + i, &v, 64);
    }
#endif
    for (; i < n; i++) {
        dst[i] = to_bf16(src[i]);
    }
}
