/* How AMX kernels run: see gemm_amx.h for the arithmetic and the layout.
 *
 * Few rows (up to 16, a decode step): bound by memory. Four groups of 16 outputs advance together,
 * each with its sums in one tile over all of K: four streams of packed weights keep more reads in
 * flight than one (14.8 against 11 GB/s of one core here), and the unpacking of one group hides the
 * latency of another's tile product. Unpacked tiles go through a small ring in the first-level
 * cache and are used one step later, when their stores have retired.
 * Up to 32 rows: two groups and two row tiles.
 * More rows (prefill): 32 outputs x 512 K are unpacked once into the first-level cache and
 * multiplied with all rows; sums rest in scratch between runs of K. Row tiles are loaded with the
 * streaming hint: without it they push the weights out of the cache (2.1 against 2.7 TFLOP/s).
 *
 * Tile products read memory behind the compiler's back: MEMORY_BARRIER wherever stores by code meet
 * loads by tile, and the configuration goes to ldtilecfg as one operand with its whole size. */
#include "engine/kernels/gemm_amx.h"

#include "base/units.h"

#include <assert.h>
#include <immintrin.h>
#include <stdalign.h>
#include <string.h>

#define N_STREAM 4
#define BLOCK_K  512 /* K of the block path: 32 KiB of tiles */
#define TOK_STEP                                                                                   \
    256 /* rows of one pass of the block path: with more, activations and sums leave the           \
           second-level cache */
#define N_GROUP_MAX   16
#define NEAR_ACT      (1u << 19) /* activations that stay in the second-level cache by themselves */
#define PREFETCH_BYTE 4608

#define MEMORY_BARRIER() __asm__ volatile("" ::: "memory")

struct tile_config {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t col_bytes[16];
    uint8_t rows[16];
};

/* Tiles 0…3: sums [16 outputs][n_col rows]; 4, 5: weights; 6, 7: activations [16 pairs][n_col]. */
static void tiles_configure(uint32_t n_col)
{
    struct tile_config c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        c.rows[i] = AMX_ROWS;
        c.col_bytes[i] = i == 4 || i == 5 ? 64 : (uint16_t)(4 * n_col);
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(c));
}

static uint32_t padded_k(uint32_t n_in)
{
    return (uint32_t)units_align(n_in, AMX_SUB_K);
}

/* --- Activations: per 16 rows, [K / 2][n_col][2] bf16; n_col is 16, or n_tok where that is less.
 */

static uint32_t act_n_col(uint32_t n_tok)
{
    return n_tok < AMX_ROWS ? n_tok : AMX_ROWS;
}

static size_t act_bytes(uint32_t n_in, uint32_t n_tok)
{
    uint32_t n_tile = (n_tok + AMX_ROWS - 1) / AMX_ROWS;
    return sizeof(uint16_t) * n_tile * act_n_col(n_tok) * padded_k(n_in);
}

static const uint16_t *act_tile(const struct gemm_act *act, uint32_t tok)
{
    return (const uint16_t *)act->data +
           (size_t)(tok / AMX_ROWS) * act_n_col(act->n_tok) * padded_k(act->n_in);
}

#define UNPACK_PAIRS(OUT, IN, FN)                                                                  \
    for (int i_ = 0; i_ < 16; i_ += 2) {                                                           \
        OUT[i_] = FN##lo_epi32(IN[i_], IN[i_ + 1]);                                                \
        OUT[i_ + 1] = FN##hi_epi32(IN[i_], IN[i_ + 1]);                                            \
    }

/* Transposes 16 x 16 dwords. */
static inline __attribute__((always_inline)) void transpose16(__m512i r[16])
{
    __m512i t[16];
#pragma GCC unroll 8
    UNPACK_PAIRS(t, r, _mm512_unpack)
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) { /* r[i + j]: column j + 4 lane of rows i … i + 3 */
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const __m512i a = _mm512_shuffle_i32x4(r[j], r[j + 4], 0x88);
        const __m512i b = _mm512_shuffle_i32x4(r[j], r[j + 4], 0xdd);
        const __m512i c = _mm512_shuffle_i32x4(r[j + 8], r[j + 12], 0x88);
        const __m512i d = _mm512_shuffle_i32x4(r[j + 8], r[j + 12], 0xdd);
        t[j] = _mm512_shuffle_i32x4(a, c, 0x88);
        t[j + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
        t[j + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
        t[j + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        r[i] = t[i];
    }
}

/* Elements j and 16 + j of a run of 32 are a pair. */
alignas(64) static const uint16_t k_of_word[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                   21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                   11, 27, 12, 28, 13, 29, 14, 30, 15, 31};

/* 32 elements of one row from k on as pairs of bf16, zero beyond n_in. */
static inline __m512i row_bf16(const float *x, uint32_t k, uint32_t n_in)
{
    uint32_t n = k < n_in ? n_in - k : 0;
    __mmask16 low = n >= 16 ? 0xffff : (__mmask16)((1u << n) - 1);
    __mmask16 high = n >= 32 ? 0xffff : n > 16 ? (__mmask16)((1u << (n - 16)) - 1) : 0;
    const __m512i v = (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(high, x + k + 16),
                                                   _mm512_maskz_loadu_ps(low, x + k));
    return _mm512_permutexvar_epi16(_mm512_load_si512(k_of_word), v);
}

static void act_make(const struct gemm_act *act, uint32_t i)
{
    uint32_t tok = i * AMX_ROWS, n_col = act_n_col(act->n_tok), n_k = padded_k(act->n_in);
    uint32_t n_row = act->n_tok - tok < AMX_ROWS ? act->n_tok - tok : AMX_ROWS;
    const float *x = act->x + tok * act->ldx;
    uint16_t *dst = (uint16_t *)act->data + (size_t)i * n_col * n_k;
    if (n_col == 1) {
        for (uint32_t k = 0; k < n_k; k += 32) {
            _mm512_storeu_si512(dst + k, row_bf16(x, k, act->n_in));
        }
        return;
    }
    const __mmask16 cols = (__mmask16)((1u << n_col) - 1);
    for (uint32_t k = 0; k < n_k; k += 32) {
        __m512i r[16];
        for (uint32_t t = 0; t < 16; t++) {
            r[t] = t < n_row ? row_bf16(x + t * act->ldx, k, act->n_in) : _mm512_setzero_si512();
        }
        transpose16(r);
        for (uint32_t pair = 0; pair < 16; pair++) {
            _mm512_mask_storeu_epi32(dst + ((size_t)(k / 2 + pair)) * n_col * 2, cols, r[pair]);
        }
    }
}

/* --- Results */

static inline void emit16(const struct gemm_job *job, uint32_t tok, uint32_t out, __mmask16 outs,
                          __m512 v)
{
    float *y = job->y + (size_t)tok * job->ldy + out;
    if (job->bias) {
        v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(outs, job->bias + out));
    }
    if (job->add) {
        v = _mm512_add_ps(_mm512_maskz_loadu_ps(outs, y), v);
    }
    _mm512_mask_storeu_ps(y, outs, v);
}

static __mmask16 out_mask(uint32_t n_out, uint32_t out)
{
    return n_out - out >= AMX_ROWS ? 0xffff : (__mmask16)((1u << (n_out - out)) - 1);
}

/* A tile of sums [16 outputs][16 rows], of which n_tok rows count. */
static void emit_tile(const struct gemm_job *job, const float *c, uint32_t tok, uint32_t n_tok,
                      uint32_t out)
{
    const __mmask16 outs = out_mask(job->w->n_out, out);
    __m512i r[16];
    for (int i = 0; i < 16; i++) {
        r[i] = _mm512_load_si512(c + 16 * i);
    }
    transpose16(r);
    for (uint32_t t = 0; t < n_tok; t++) {
        emit16(job, tok + t, out, outs, _mm512_castsi512_ps(r[t]));
    }
}

/* --- Few rows */

/* Packed weights of one group, read sub-unit by sub-unit. */
struct stream {
    const uint8_t *unit;
    const uint8_t *ahead;     /* what to ask memory for next, */
    const uint8_t *ahead_end; /* up to the end of this group and then */
    const uint8_t *next;      /* from the beginning of the next */
};

struct walk {
    const struct amx_format *f;
    uint32_t n_sub;     /* sub-units of a unit */
    uint32_t sub_bytes; /* of which each costs so much to read */
    uint32_t n_step;    /* sub-units of all K */
};

static struct walk walk_of(const struct amx_format *f, uint32_t n_in)
{
    uint32_t n_sub = f->unit_k / AMX_SUB_K;
    return (struct walk){f, n_sub, f->unit_bytes / n_sub,
                         (uint32_t)(units_align(n_in, f->unit_k) / AMX_SUB_K)};
}

/* Groups [group, group + n), after which the same streams read those from group + n on, or those of
 * the part's `next`. */
static void streams_open(const struct gemm_part *p, uint32_t group, uint32_t n, struct stream *st)
{
    const struct gemm_weight *w = p->job->w;
    for (uint32_t s = 0; s < n; s++) {
        const uint8_t *unit = gemm_group_data(w, group + s);
        const uint32_t later = group + n + s;
        st[s].unit = unit;
        st[s].ahead_end = unit + w->group_bytes;
        st[s].next = later < p->group + p->n_group ? gemm_group_data(w, later)
                     : p->next                     ? p->next + s * p->next_group_bytes
                                                   : unit;
        st[s].ahead = w->group_bytes > PREFETCH_BYTE ? unit + PREFETCH_BYTE : st[s].next;
    }
}

static inline void stream_ask(struct stream *s, uint32_t n_byte)
{
    for (uint32_t i = 0; i < n_byte; i += 64) {
        _mm_prefetch(s->ahead + i, _MM_HINT_T1);
    }
    s->ahead += n_byte;
    if (s->ahead >= s->ahead_end) {
        s->ahead = s->next + (s->ahead - s->ahead_end);
        s->ahead_end = s->next + PREFETCH_BYTE;
    }
}

/* The two tiles of one stream's next sub-unit, whose scales are in x; ring is where they may be
 * unpacked to. */
static inline const uint16_t *stream_next(struct stream *s, const struct walk *w, uint32_t sub,
                                          const struct amx_scales *x, uint16_t *ring)
{
    const uint16_t *tiles = ring;
    stream_ask(s, w->sub_bytes);
    if (w->f->unpack) {
        w->f->unpack(s->unit, sub, x, ring);
    } else {
        tiles = (const uint16_t *)(s->unit);
    }
    if (sub + 1 == w->n_sub) {
        s->unit += w->f->unit_bytes;
    }
    return tiles;
}

static inline void stream_scales(const struct stream *s, const struct walk *w, uint32_t sub,
                                 struct amx_scales *x)
{
    if (w->f->scales) {
        w->f->scales(s->unit, sub, x);
    }
}

/* One group's sums over 64 elements of K, whose activations are in tiles 6 and 7. Tile numbers are
 * part of the instruction. */
#define MULTIPLY_FEW(SUM, A)                                                                       \
    do {                                                                                           \
        _tile_loadd(4, (A), 64);                                                                   \
        _tile_dpbf16ps(SUM, 4, 6);                                                                 \
        _tile_loadd(5, (A) + AMX_TILE, 64);                                                        \
        _tile_dpbf16ps(SUM, 5, 7);                                                                 \
    } while (0)

static inline void multiply_few(uint32_t s, const uint16_t *a)
{
    switch (s) {
    case 0: MULTIPLY_FEW(0, a); break;
    case 1: MULTIPLY_FEW(1, a); break;
    case 2: MULTIPLY_FEW(2, a); break;
    default: MULTIPLY_FEW(3, a); break;
    }
}

static void store_few(const struct gemm_part *p, uint32_t group, uint32_t n, uint32_t n_col,
                      float *c)
{
    const size_t stride = n_col == 1 ? 4 : 64; /* one column: 16 sums side by side */
    _tile_stored(0, c, stride);
    _tile_stored(1, c + 256, stride);
    _tile_stored(2, c + 512, stride);
    _tile_stored(3, c + 768, stride);
    MEMORY_BARRIER();
    for (uint32_t s = 0; s < n; s++) {
        uint32_t out = (group + s) * AMX_ROWS;
        if (n_col == 1) {
            emit16(p->job, p->tok, out, out_mask(p->job->w->n_out, out),
                   _mm512_load_ps(c + 256 * s));
        } else {
            emit_tile(p->job, c + 256 * s, p->tok, p->n_tok, out);
        }
    }
}

/* One group after the other advances by 64 elements of K: the next one's scales, this one's codes,
 * and the product of the tiles that were unpacked a step ago. */
static void few_groups(const struct gemm_part *p, const struct walk *w, uint32_t n,
                       struct stream *st, uint16_t *ring)
{
    const struct gemm_act *act = p->job->act;
    const uint32_t n_col = act_n_col(act->n_tok);
    const size_t b_stride = 4 * (size_t)n_col;
    const uint16_t *b = act_tile(act, p->tok);
    const uint16_t *a[N_STREAM] = {0}; /* unpacked a step ago */
    struct amx_scales x[2];
    uint32_t flip = 0;
    stream_scales(&st[0], w, 0, &x[0]);
    for (uint32_t k = 0, sub = 0; k <= w->n_step; k++) {
        const uint32_t sub_next = sub + 1 == w->n_sub ? 0 : sub + 1;
        if (k > 0) {
            const uint16_t *bk = b + (size_t)(k - 1) * AMX_SUB_K * n_col;
            _tile_loadd(6, bk, b_stride);
            _tile_loadd(7, bk + 8 * b_stride, b_stride);
        }
#pragma GCC unroll 4
        for (uint32_t s = 0; s < N_STREAM; s++) {
            if (s >= n) {
                break;
            }
            const uint16_t *ready = a[s];
            if (k < w->n_step) {
                if (s + 1 < n) {
                    stream_scales(&st[s + 1], w, sub, &x[~flip & 1]);
                }
                a[s] = stream_next(&st[s], w, sub, &x[flip & 1],
                                   ring + ((k & 1) * N_STREAM + s) * 2 * AMX_TILE);
                if (s + 1 == n && k + 1 < w->n_step) {
                    stream_scales(&st[0], w, sub_next, &x[~flip & 1]);
                }
                flip++;
                MEMORY_BARRIER();
            }
            if (k > 0) {
                multiply_few(s, ready);
            }
        }
        sub = sub_next;
    }
}

static void run_few(const struct gemm_part *p, const struct amx_format *f)
{
    const struct walk w = walk_of(f, p->job->act->n_in);
    const uint32_t n_col = act_n_col(p->job->act->n_tok);
    float *c = p->scratch;
    uint16_t *ring = (uint16_t *)(c + 4 * 256); /* [2][N_STREAM][2 tiles] */
    uint32_t n;
    for (uint32_t g = p->group; g < p->group + p->n_group; g += n) {
        struct stream st[N_STREAM];
        n = p->group + p->n_group - g < N_STREAM ? p->group + p->n_group - g : N_STREAM;
        streams_open(p, g, n, st);
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        few_groups(p, &w, n, st, ring);
        store_few(p, g, n, n_col, c);
    }
}

/* --- Up to 32 rows */

static inline void multiply_pair(const uint16_t *a0, const uint16_t *a1, const uint16_t *b0,
                                 const uint16_t *b1)
{
    _tile_loadd(4, a0, 64);
    _tile_loadd(6, b0, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, a1, 64);
    _tile_dpbf16ps(1, 5, 6);
    _tile_loadd(7, b1, 64);
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
}

static void store_pair(const struct gemm_part *p, uint32_t tok, uint32_t n_tok, uint32_t group,
                       uint32_t n_group, float *c)
{
    _tile_stored(0, c, 64);
    _tile_stored(1, c + 256, 64);
    _tile_stored(2, c + 512, 64);
    _tile_stored(3, c + 768, 64);
    MEMORY_BARRIER();
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t t = i / 2 * AMX_ROWS, g = i % 2;
        if (t < n_tok && g < n_group) {
            emit_tile(p->job, c + 256 * i, tok + t, n_tok - t < AMX_ROWS ? n_tok - t : AMX_ROWS,
                      (group + g) * AMX_ROWS);
        }
    }
}

/* Two groups of outputs advance by 64 elements of K (the second is the first again when there is
 * one): each unpacks its tiles between the products of those unpacked a step ago. */
static void some_groups(const struct gemm_part *p, const struct walk *w, struct stream st[2],
                        uint16_t *ring)
{
    const struct gemm_act *act = p->job->act;
    const uint16_t *b[2] = {act_tile(act, p->tok), act_tile(act, p->tok + AMX_ROWS)};
    const uint16_t *a[2][2] = {{0}};
    struct amx_scales x[2];
    stream_scales(&st[0], w, 0, &x[0]);
    for (uint32_t k = 0, sub = 0; k <= w->n_step; k++) {
        const uint32_t sub_next = sub + 1 == w->n_sub ? 0 : sub + 1;
        const uint16_t *const *ready = a[~k & 1];
#pragma GCC unroll 2
        for (uint32_t s = 0; s < 2; s++) {
            if (k < w->n_step) {
                if (s == 0) {
                    stream_scales(&st[1], w, sub, &x[1]);
                }
                a[k & 1][s] =
                    stream_next(&st[s], w, sub, &x[s], ring + ((k & 1) * 2 + s) * 2 * AMX_TILE);
                if (s == 1 && k + 1 < w->n_step) {
                    stream_scales(&st[0], w, sub_next, &x[0]);
                }
                MEMORY_BARRIER();
            }
            if (k > 0) {
                const size_t at = (size_t)s * AMX_TILE;
                const size_t off = (size_t)(k - 1) * AMX_SUB_K * AMX_ROWS + at;
                multiply_pair(ready[0] + at, ready[1] + at, b[0] + off, b[1] + off);
            }
        }
        sub = sub_next;
    }
}

/* 17…32 rows. */
static void run_some(const struct gemm_part *p, const struct amx_format *f)
{
    const struct walk w = walk_of(f, p->job->act->n_in);
    float *c = p->scratch;
    uint16_t *ring = (uint16_t *)(c + 4 * 256);
    uint32_t n;
    for (uint32_t g = p->group; g < p->group + p->n_group; g += n) {
        struct stream st[2];
        n = p->group + p->n_group - g < 2 ? 1 : 2;
        streams_open(p, g, n, st);
        if (n == 1) {
            st[1] = st[0];
        }
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        some_groups(p, &w, st, ring);
        store_pair(p, p->tok, p->n_tok, g, n, c);
    }
}

/* --- Many rows */

/* n_sub sub-units from the beginning of a unit as tiles. */
static void fill_group(const struct amx_format *f, const uint8_t *unit, uint32_t n_sub,
                       uint16_t *dst)
{
    const uint32_t n_unit_sub = f->unit_k / AMX_SUB_K;
    struct amx_scales x[2];
    uint32_t sub = 0;
    f->scales(unit, sub, &x[0]);
    for (uint32_t i = 0; i < n_sub; i++, dst += 2 * AMX_TILE) {
        const bool last = sub + 1 == n_unit_sub;
        const uint8_t *unit_next = last ? unit + f->unit_bytes : unit;
        const uint32_t sub_next = last ? 0 : sub + 1;
        if (i + 1 < n_sub) {
            f->scales(unit_next, sub_next, &x[~i & 1]);
        }
        f->unpack(unit, sub, &x[i & 1], dst);
        unit = unit_next;
        sub = sub_next;
    }
}

/* Elements [k, k + n_k) of two groups as tiles [2][n_k / 32], from rows as the file has them. */
static void fill_rows(const struct gemm_weight *w, uint32_t group, uint32_t n_group, uint32_t k,
                      uint32_t n_k, uint16_t *a)
{
    const struct quant_format *f = quant_format_of(w->type);
    size_t row_bytes = gemm_row_bytes(w->type, w->n_in);
    uint32_t n_elem = w->n_in - k < n_k ? w->n_in - k : n_k;
    float row[BLOCK_K];
    for (uint32_t r = 0; r < 2 * AMX_ROWS; r++) {
        uint32_t out = group * AMX_ROWS + r;
        uint16_t *dst = a + (size_t)(r / AMX_ROWS) * AMX_ROWS * n_k + r % AMX_ROWS * 32;
        memset(row, 0, sizeof row);
        if (r < n_group * AMX_ROWS && out < w->n_out) {
            f->dequant((const uint8_t *)w->data + row_bytes * out +
                           (size_t)(k / f->n_block_elem) * f->n_block_byte,
                       row, n_elem);
        }
        for (uint32_t i = 0; i < n_k; i += 32) {
            _mm512_store_si512(dst + (size_t)(i / 32) * AMX_TILE, row_bf16(row, i, n_k));
        }
    }
}

/* Lines to ask memory for beside the products, so many for each 32 of K: all at once they would
 * hold up what the products load. */
struct ahead {
    const uint8_t *at;
    size_t stride;
    uint32_t n_line;
};

/* Of the weights of two groups; of two row tiles of activations, or of two lines of each row of y.
 */
enum { AHEAD_W0, AHEAD_W1, AHEAD_B0, AHEAD_B1, AHEAD_END };

/* One pair of groups x one pair of row tiles of n_col columns over n_k of K. Beside it, what h
 * tells comes to the second-level cache. */
static inline void multiply_block(const uint16_t *a0, const uint16_t *a1, uint32_t n_k,
                                  const uint16_t *b0, const uint16_t *b1, uint32_t n_col,
                                  struct ahead h[AHEAD_END])
{
    const size_t b_stride = 4 * (size_t)n_col;
    for (uint32_t i = 0; i < n_k / 32; i++) {
        size_t off = (size_t)i * AMX_TILE, b_off = (size_t)i * 32 * n_col;
        _tile_loadd(4, a0 + off, 64);
        _tile_stream_loadd(6, b0 + b_off, b_stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, a1 + off, 64);
        _tile_dpbf16ps(1, 5, 6);
        for (uint32_t j = 0; j < AHEAD_END; j++) {
            for (uint32_t line = 0; line < h[j].n_line; line++, h[j].at += h[j].stride) {
                _mm_prefetch(h[j].at, _MM_HINT_T1);
            }
        }
        if (b1) {
            _tile_stream_loadd(7, b1 + b_off, b_stride);
            _tile_dpbf16ps(2, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
}

static inline void sums_load(const float *c, bool first)
{
    if (first) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_stream_loadd(0, c, 64);
        _tile_stream_loadd(1, c + 256, 64);
        _tile_stream_loadd(2, c + 512, 64);
        _tile_stream_loadd(3, c + 768, 64);
    }
}

struct block_scratch {
    uint16_t a[2 * AMX_ROWS * BLOCK_K];
    float c[N_GROUP_MAX / 2][TOK_STEP / 32][4 * 256];
};

static_assert(BLOCK_K % 256 == 0, "runs of K begin at units");
static_assert(sizeof(struct block_scratch) <= GEMM_SCRATCH_BYTES, "scratch holds a block");

/* Where the block path is: rows [tok, tok + n_tok), K [k, k + n_k), a pair of groups. */
struct block {
    uint32_t tok;
    uint32_t n_tok;
    uint32_t k;
    uint32_t n_k;
    uint32_t pair;
    const uint16_t *a0; /* tiles of the two groups, or of the same twice */
    const uint16_t *a1;
    struct ahead ahead[AHEAD_END];
};

/* The rows of y that this block ends in. */
static void ahead_y(const struct gemm_part *p, struct block *at, uint32_t tok, uint32_t n_tok)
{
    const uint32_t n_turn = at->n_k / 32;
    const size_t out = ((size_t)p->group + 2 * at->pair) * AMX_ROWS;
    const float *y = p->job->y + (size_t)tok * p->job->ldy + out;
    const struct ahead h = {(const uint8_t *)y, p->job->ldy * sizeof *y, n_tok / n_turn};
    at->ahead[AHEAD_B0] = h;
    at->ahead[AHEAD_B1] = h;
    at->ahead[AHEAD_B1].at += 64;
}

/* Activations of the next run of K: each pair of groups asks for an equal part of them. */
static void ahead_act(const struct gemm_part *p, struct block *at, const uint16_t *b0,
                      const uint16_t *b1)
{
    const uint32_t n_turn = at->n_k / 32, n_pair = (p->n_group + 1) / 2;
    const uint32_t n_line = (16 + n_pair - 1) / n_pair;
    const size_t run = (size_t)at->n_k * 2 * AMX_ROWS, part = (size_t)n_line * 64 * n_turn;
    at->ahead[AHEAD_B0] = (struct ahead){(const uint8_t *)b0 + run + at->pair * part, 64, n_line};
    at->ahead[AHEAD_B1] = (struct ahead){0};
    if (b1) {
        at->ahead[AHEAD_B1] =
            (struct ahead){(const uint8_t *)b1 + run + at->pair * part, 64, n_line};
    }
}

/* All rows with two groups. */
static void block_rows(const struct gemm_part *p, struct block_scratch *s, struct block *at)
{
    const struct gemm_act *act = p->job->act;
    const uint32_t n_col = act_n_col(act->n_tok);
    const bool last = at->k + at->n_k >= padded_k(act->n_in);
    const bool far = (size_t)padded_k(act->n_in) * at->n_tok > NEAR_ACT;
    const uint32_t group = p->group + 2 * at->pair;
    const uint32_t n_group = p->group + p->n_group - group < 2 ? 1 : 2;
    for (uint32_t t = 0; t < at->n_tok; t += 2 * AMX_ROWS) {
        const uint32_t tok = at->tok + t;
        const uint32_t n_tok = at->n_tok - t < 2 * AMX_ROWS ? at->n_tok - t : 2 * AMX_ROWS;
        const bool two = n_tok > AMX_ROWS;
        const uint16_t *b0 = act_tile(act, tok) + (size_t)at->k * n_col;
        const uint16_t *b1 = two ? act_tile(act, tok + AMX_ROWS) + (size_t)at->k * n_col : NULL;
        float *c = s->c[at->pair][t / 32];
        if (last) {
            ahead_y(p, at, tok, n_tok);
        } else if (far) {
            ahead_act(p, at, b0, b1);
        }
        sums_load(c, at->k == 0);
        multiply_block(at->a0, at->a1, at->n_k, b0, b1, n_col, at->ahead);
        if (last) {
            store_pair(p, tok, n_tok, group, n_group, c);
        } else {
            _tile_stored(0, c, 64);
            _tile_stored(1, c + 256, 64);
            _tile_stored(2, c + 512, 64);
            _tile_stored(3, c + 768, 64);
        }
    }
}

static const uint8_t *packed_at(const struct gemm_weight *w, const struct amx_format *f,
                                uint32_t group, uint32_t k)
{
    return gemm_group_data(w, group) + (size_t)(k / f->unit_k) * f->unit_bytes;
}

/* The weights that come after this block, asked for in equal parts beside its products. */
static void ahead_weights(const struct gemm_part *p, const struct amx_format *f, struct block *at)
{
    const struct gemm_weight *w = p->job->w;
    const bool more_pairs = 2 * (at->pair + 1) < p->n_group;
    const bool more_k = at->k + at->n_k < padded_k(w->n_in);
    const uint8_t *next = p->next;
    size_t stride = p->next_group_bytes;
    if (more_pairs || more_k) {
        next = packed_at(w, f, p->group + (more_pairs ? 2 * (at->pair + 1) : 0),
                         more_pairs ? at->k : at->k + at->n_k);
        stride = w->group_bytes;
    }
    const uint32_t n_turn = (at->n_tok + 31) / 32 * (at->n_k / 32);
    const uint32_t n_line = (at->n_k / AMX_SUB_K * f->unit_bytes / (f->unit_k / AMX_SUB_K)) / 64;
    for (uint32_t i = 0; next && i < 2; i++) {
        at->ahead[AHEAD_W0 + i] = (struct ahead){next + i * stride, 64, n_line / n_turn + 1};
    }
}

/* The tiles of a pair of groups. */
static void block_tiles(const struct gemm_part *p, const struct amx_format *f,
                        struct block_scratch *s, struct block *at)
{
    const struct gemm_weight *w = p->job->w;
    const uint32_t group = p->group + 2 * at->pair;
    const bool two = p->group + p->n_group - group > 1;
    uint16_t *second = s->a + (size_t)AMX_ROWS * at->n_k;
    at->a0 = s->a;
    at->a1 = two ? second : s->a;
    if (!f) {
        fill_rows(w, group, two ? 2 : 1, at->k, at->n_k, s->a);
        return;
    }
    ahead_weights(p, f, at);
    if (!f->unpack) {
        at->a0 = (const uint16_t *)packed_at(w, f, group, at->k);
        at->a1 = two ? (const uint16_t *)packed_at(w, f, group + 1, at->k) : at->a0;
        return;
    }
    fill_group(f, packed_at(w, f, group, at->k), at->n_k / AMX_SUB_K, s->a);
    if (two) {
        fill_group(f, packed_at(w, f, group + 1, at->k), at->n_k / AMX_SUB_K, second);
    }
}

static void run_many(const struct gemm_part *p, const struct amx_format *f)
{
    struct block_scratch *s = p->scratch;
    const uint32_t n_in = padded_k(p->job->w->n_in);
    struct block at = {0};
    for (uint32_t t = 0; t < p->n_tok; t += at.n_tok) {
        at.tok = p->tok + t;
        at.n_tok = p->n_tok - t < TOK_STEP ? p->n_tok - t : TOK_STEP;
        for (at.k = 0; at.k < n_in; at.k += at.n_k) {
            at.n_k = n_in - at.k < BLOCK_K ? n_in - at.k : BLOCK_K;
            for (at.pair = 0; 2 * at.pair < p->n_group; at.pair++) {
                memset(at.ahead, 0, sizeof at.ahead);
                block_tiles(p, f, s, &at);
                MEMORY_BARRIER();
                block_rows(p, s, &at);
            }
        }
    }
}

static void amx_run(const struct gemm_part *p)
{
    const struct amx_format *f = amx_format_of(p->job->w->type);
    const bool few = p->n_tok <= AMX_ROWS && f;
    tiles_configure(act_n_col(p->job->act->n_tok));
    if (few) {
        run_few(p, f);
    } else if (p->n_tok <= 2 * AMX_ROWS && f) {
        run_some(p, f);
    } else {
        run_many(p, f);
    }
    _tile_release();
}

/* --- Packing */

static size_t amx_group_bytes(enum gguf_type type, uint32_t n_in)
{
    const struct amx_format *f = amx_format_of(type);
    return f ? units_align(units_align(n_in, f->unit_k) / f->unit_k * f->unit_bytes, 64)
             : gemm_row_bytes(type, n_in) * AMX_ROWS;
}

/* BF16: tiles as they are multiplied. */
static uint8_t *bf16_at(uint8_t *group, uint32_t row, uint32_t k)
{
    const uint32_t in_run = k % 32, word = in_run % 16 * 2 + in_run / 16;
    return group + ((size_t)(k / 32) * AMX_TILE + row * 32 + word) * 2;
}

static void pack_bf16(const struct gemm_weight *w, const uint8_t *src, uint32_t group, uint8_t *dst)
{
    for (uint32_t r = 0; r < AMX_ROWS && group * AMX_ROWS + r < w->n_out; r++) {
        const uint8_t *row = src + (size_t)(group * AMX_ROWS + r) * w->n_in * 2;
        uint32_t k = 0;
        for (; k + 32 <= w->n_in; k += 32) {
            const __m512i order = _mm512_load_si512(k_of_word);
            const __m512i v = _mm512_loadu_si512(row + (size_t)k * 2);
            _mm512_storeu_si512(bf16_at(dst, r, k), _mm512_permutexvar_epi16(order, v));
        }
        for (; k < w->n_in; k++) {
            memcpy(bf16_at(dst, r, k), row + (size_t)k * 2, 2);
        }
    }
}

static void amx_pack(const struct gemm_weight *w, const uint8_t *src, uint32_t group, uint8_t *dst)
{
    const struct amx_format *f = amx_format_of(w->type);
    if (f->block_k == 1) {
        pack_bf16(w, src, group, dst);
        return;
    }
    const size_t row_bytes = gemm_row_bytes(w->type, w->n_in);
    const size_t block_bytes = quant_format_of(w->type)->n_block_byte;
    const uint32_t n_block = f->unit_k / f->block_k; /* of a unit */
    struct pack_block b[2 * AMX_ROWS];
    for (uint32_t k = 0; k < w->n_in; k += f->unit_k, dst += f->unit_bytes) {
        for (uint32_t i = 0; i < AMX_ROWS * n_block; i++) {
            uint32_t row = group * AMX_ROWS + i / n_block, at = k / f->block_k + i % n_block;
            if (row < w->n_out && at * f->block_k < w->n_in) {
                pack_block_read(w->type, src + row_bytes * row + block_bytes * at, &b[i]);
            } else {
                memset(&b[i], 0, sizeof b[i]);
            }
        }
        f->put(b, dst);
    }
}

static void amx_row(const struct gemm_weight *w, uint32_t row, float *dst)
{
    const struct amx_format *f = amx_format_of(w->type);
    const struct quant_format *q = quant_format_of(w->type);
    uint8_t *unit = (uint8_t *)w->data + w->group_bytes * (row / AMX_ROWS);
    if (f->block_k == 1) {
        for (uint32_t k = 0; k < w->n_in; k++) {
            q->dequant(bf16_at(unit, row % AMX_ROWS, k), dst + k, 1);
        }
        return;
    }
    const uint32_t n_block = f->unit_k / f->block_k;
    struct pack_block b[2 * AMX_ROWS];
    uint8_t bytes[256]; /* one block of the file */
    for (uint32_t k = 0; k < w->n_in; k += f->block_k) {
        if (k % f->unit_k == 0) {
            f->get(unit, b);
            unit += f->unit_bytes;
        }
        pack_block_write(w->type, &b[row % AMX_ROWS * n_block + k % f->unit_k / f->block_k], bytes);
        q->dequant(bytes, dst + k, f->block_k);
    }
}

static void rows_pack(const struct gemm_weight *w, const uint8_t *src, uint32_t group, uint8_t *dst)
{
    size_t row_bytes = gemm_row_bytes(w->type, w->n_in);
    uint32_t first = group * AMX_ROWS;
    uint32_t n = w->n_out - first < AMX_ROWS ? w->n_out - first : AMX_ROWS;
    memcpy(dst, src + row_bytes * first, row_bytes * n);
}

static void rows_row(const struct gemm_weight *w, uint32_t row, float *dst)
{
    quant_format_of(w->type)->dequant(
        (const uint8_t *)w->data + gemm_row_bytes(w->type, w->n_in) * row, dst, w->n_in);
}

#define AMX_KERNEL(NAME, PACK, ROW)                                                                \
    {                                                                                              \
        .name = NAME, .act = GEMM_ACT_BF16, .group_out = AMX_ROWS, .n_group_max = N_GROUP_MAX,     \
        .n_group_few = N_STREAM, .n_tok_max = TOK_STEP, .tok_block = AMX_ROWS,                     \
        .group_bytes = amx_group_bytes, .pack = PACK, .row = ROW, .run = amx_run,                  \
        .act_bytes = act_bytes, .act_make = act_make,                                              \
    }

static const struct gemm_kernel kernel_packed = AMX_KERNEL("packed/amx", amx_pack, amx_row);
static const struct gemm_kernel kernel_rows = AMX_KERNEL("rows/amx", rows_pack, rows_row);

const struct gemm_kernel *gemm_amx_kernel(enum gguf_type type)
{
    if (type == GGUF_TYPE_F32 || type == GGUF_TYPE_F16 || type == GGUF_TYPE_F64) {
        return NULL;
    }
    return amx_format_of(type) ? &kernel_packed : &kernel_rows;
}
