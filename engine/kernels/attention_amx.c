/* Attention on AMX tiles: queries, keys, weights and values in bf16, sums in f32. The tile unit
 * gives each row of a product the same operations whatever the other rows are, so the rows of a
 * block only share the time. int8 KV is exact in bf16 and becomes tiles in scratch, its scales
 * applied to scores and weights. Tiles: 0…3 sums (rows 0–15 and 16–31 of the block times two groups
 * of 16 columns), 4 and 5 the left side of each row half, 6 and 7 the right side of each column
 * group. */
#include "engine/kernels/attention_impl.h"
#include "engine/kernels/attention_rows.h"
#include "engine/kernels/attention_write.h"
#include "engine/kernels/lanes.h"

#include <assert.h>
#include <immintrin.h>
#include <math.h>
#include <stdalign.h>
#include <string.h>

/* Keys between two decisions on a row's reference; with more than 16 rows also the keys that go
 * through scores, weights and values at once: few enough for the L1 cache. */
#define SUB_TOK   128
#define N_SUB_MAX (ATT_SPLIT_TOK / SUB_TOK)

/* Row strides of scores and weights, for more than 16 rows and for the others: whole tile rows, and
 * no powers of two. */
#define MANY_S (SUB_TOK + 16)
#define MANY_P (SUB_TOK + 32)
#define FEW_S  (ATT_SPLIT_TOK + 16)
#define FEW_P  (ATT_SPLIT_TOK + 32)

#define TILE_ROWS  16
#define TILE_BYTES 1024

/* How far (log2) a score may rise above the reference of its row before the row is rescaled. */
#define HEADROOM 8.0F

struct scratch {
    float s[TILE_ROWS * FEW_S];    /* scores */
    uint16_t p[TILE_ROWS * FEW_P]; /* weights, bf16 */
    float sum[ATT_ROWS * V16_N];   /* of the weights of each row so far, in 16 lanes */
    float top[ATT_ROWS];           /* the reference of each row's weights; -INFINITY at first */
    float rescale[N_SUB_MAX][ATT_ROWS]; /* of the rows whose reference rises with a sub-block */
    uint8_t staged[];                   /* int8: the part's K groups, then its V groups, as bf16 */
};
static_assert(TILE_ROWS * FEW_S >= ATT_ROWS * MANY_S && TILE_ROWS * FEW_P >= ATT_ROWS * MANY_P,
              "either use fits");

/* A sub-block: keys [t0, t0 + SUB_TOK) of the part, of which any row sees those in [from, to),
 * whole groups of 32. Scores and weights of key t0 + i are in column i. */
struct sub_block {
    uint32_t t0;
    uint32_t from; /* relative to t0 */
    uint32_t to;
    float *s;
    size_t s_stride;
    uint16_t *p;
    size_t p_stride;
};

struct tile_config {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* Tile intrinsics say nothing of the memory they read: no store may move past this. */
static inline void memory_barrier(void)
{
    __asm__ volatile("" ::: "memory");
}

static void load_config(uint32_t n_row)
{
    alignas(64) struct tile_config config = {.palette = 1};
    const uint8_t low = (uint8_t)(n_row < TILE_ROWS ? n_row : TILE_ROWS);
    const uint8_t high = (uint8_t)(n_row - low);
    const uint8_t sum = high ? high : low; /* of tiles 2 and 3 */
    const uint8_t rows[8] = {low, low, sum, sum, low, high, TILE_ROWS, TILE_ROWS};
    for (int i = 0; i < 8; i++) {
        config.rows[i] = rows[i];
        config.row_bytes[i] = rows[i] ? 64 : 0;
    }
    /* the intrinsic of GCC 12 declares 8 bytes of its operand and loses the rest */
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
}

static void release(void)
{
    _tile_release();
}

/* Up to 16 rows wait for memory. The prefetcher of the L2 cache alone gives 12 GB/s where it gives
 * 13.6 when it is told a little ahead, two tiles. */
#define AHEAD_TILES 2

static inline void prefetch_tile(bool ask, const uint8_t *p)
{
    for (uint32_t i = 0; ask && i < TILE_BYTES; i += 64) {
        _mm_prefetch((const char *)p + i, _MM_HINT_T1);
    }
}

/* Scores of up to 16 rows against one group of 16 tokens, in the order keys lie in memory. Which of
 * the sum tiles: so that the next group need not wait for this one. */
#define QK_GROUP(tile)                                                                             \
    do {                                                                                           \
        _tile_zero(tile);                                                                          \
        for (uint32_t i = 0; i < n_k; i++) {                                                       \
            const uint32_t ahead = i + AHEAD_TILES;                                                \
            prefetch_tile(ask, ahead < n_k ? k + (size_t)ahead * TILE_BYTES                        \
                                           : next + (size_t)(ahead - n_k) * TILE_BYTES);           \
            _tile_loadd(4, q + (size_t)i * 64, q_stride);                                          \
            _tile_stream_loadd(6, k + (size_t)i * TILE_BYTES, 64);                                 \
            _tile_dpbf16ps(tile, 4, 6);                                                            \
        }                                                                                          \
        _tile_stored(tile, s, FEW_S * sizeof *s);                                                  \
    } while (0)

INLINE void qk_few(const struct att_part *a, bool ask, uint32_t group, uint32_t end, float *s)
{
    const uint32_t n_k = a->layer->k_pad / 32;
    const size_t q_stride = (size_t)a->layer->k_pad * 2;
    const uint8_t *q = a->q;
    for (; group < end; group++, s += ATT_K_GROUP) {
        const uint8_t *k = a->k[group];
        const uint8_t *next = group + 1 < end ? a->k[group + 1] : k;
        switch (group % 4) {
        case 0: QK_GROUP(0); break;
        case 1: QK_GROUP(1); break;
        case 2: QK_GROUP(2); break;
        default: QK_GROUP(3); break;
        }
    }
}

/* Scores of more than 16 rows against two groups of 16 tokens. */
static inline void qk_pair(const struct att_part *a, uint32_t group, float *s)
{
    const uint32_t n_k = a->layer->k_pad / 32;
    const size_t q_stride = (size_t)a->layer->k_pad * 2;
    const uint8_t *q = a->q;
    const uint8_t *k0 = a->k[group];
    const uint8_t *k1 = a->k[group + 1];
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (uint32_t i = 0; i < n_k; i++) {
        _tile_stream_loadd(6, k0 + (size_t)i * TILE_BYTES, 64);
        _tile_loadd(4, q + (size_t)i * 64, q_stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_stream_loadd(7, k1 + (size_t)i * TILE_BYTES, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, q + TILE_ROWS * q_stride + (size_t)i * 64, q_stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, s, MANY_S * sizeof *s);
    _tile_stored(1, s + 16, MANY_S * sizeof *s);
    _tile_stored(2, s + (size_t)TILE_ROWS * MANY_S, MANY_S * sizeof *s);
    _tile_stored(3, s + (size_t)TILE_ROWS * MANY_S + 16, MANY_S * sizeof *s);
}

/* Rows whose bit is set, in columns [col, col + n_col), times their factor. */
static void rescale_values(const struct att_part *a, uint32_t rows, const float *factor,
                           uint32_t col, uint32_t n_col)
{
    const size_t stride = (size_t)a->layer->v_tiles * V16_N;
    for (; rows; rows &= rows - 1) {
        const uint32_t r = (uint32_t)__builtin_ctz(rows);
        float *o = a->o + r * stride + col;
        for (uint32_t c = 0; c < n_col; c += V16_N) {
            v16_store(o + c, v16_mul(v16_load(o + c), v16_set1(factor[r])));
        }
    }
}

/* Values of up to 16 rows in n_tile (1…4) column tiles from `tile`, over all sub-blocks in the
 * order values lie in memory. risen: the rows to be rescaled before each. */
INLINE void pv_few(const struct att_part *a, const struct scratch *x, bool ask,
                   const struct sub_block *sub, uint32_t n_sub, const uint32_t *risen,
                   uint32_t tile, uint32_t n_tile)
{
    const size_t o_stride = (size_t)a->layer->v_tiles * 64;
    float *o = a->o + (size_t)tile * 16;
#define EACH_TILE(DO)                                                                              \
    do {                                                                                           \
        DO(0);                                                                                     \
        if (n_tile > 1) {                                                                          \
            DO(1);                                                                                 \
        }                                                                                          \
        if (n_tile > 2) {                                                                          \
            DO(2);                                                                                 \
        }                                                                                          \
        if (n_tile > 3) {                                                                          \
            DO(3);                                                                                 \
        }                                                                                          \
    } while (0)
#define LOAD_O(t)  _tile_loadd(t, o + (t)*16, o_stride)
#define STORE_O(t) _tile_stored(t, o + (t)*16, o_stride)
#define ADD_V(t)                                                                                   \
    prefetch_tile(ask, (t) + AHEAD_TILES < n_tile                                                  \
                           ? v + ((t) + AHEAD_TILES) * TILE_BYTES                                  \
                           : next + ((t) + AHEAD_TILES - n_tile) * TILE_BYTES);                    \
    _tile_stream_loadd(6, v + (t)*TILE_BYTES, 64);                                                 \
    _tile_dpbf16ps(t, 4, 6)
    const uint32_t g_end = (sub[n_sub - 1].t0 + sub[n_sub - 1].to) / ATT_V_GROUP;
    EACH_TILE(_tile_zero);
    for (uint32_t i = 0; i < n_sub; i++) {
        if (i && risen[i]) {
            EACH_TILE(STORE_O);
            rescale_values(a, risen[i], x->rescale[i], tile * 16, n_tile * 16);
            memory_barrier();
            EACH_TILE(LOAD_O);
        }
        for (uint32_t t = sub[i].from; t < sub[i].to; t += ATT_V_GROUP) {
            const uint32_t g = (sub[i].t0 + t) / ATT_V_GROUP;
            const uint8_t *v = (const uint8_t *)a->v[g] + (size_t)tile * TILE_BYTES;
            const uint8_t *next =
                g + 1 < g_end ? (const uint8_t *)a->v[g + 1] + (size_t)tile * TILE_BYTES : v;
            _tile_loadd(4, sub[i].p + t, FEW_P * sizeof *sub[i].p);
            EACH_TILE(ADD_V);
        }
    }
    EACH_TILE(STORE_O);
}

/* Adds to the values of more than 16 rows, in two column tiles (or one), those of a sub-block.
 * fresh: there is nothing yet to add to. */
static inline void pv_pair(const struct att_part *a, const struct sub_block *b, uint32_t tile,
                           bool two, bool fresh)
{
    const size_t p_stride = MANY_P * sizeof *b->p;
    const size_t o_stride = (size_t)a->layer->v_tiles * 64;
    float *o = a->o + (size_t)tile * 16;
    float *o_high = o + TILE_ROWS * o_stride / sizeof *o;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    if (!fresh) {
        _tile_loadd(0, o, o_stride);
        _tile_loadd(2, o_high, o_stride);
        if (two) {
            _tile_loadd(1, o + 16, o_stride);
            _tile_loadd(3, o_high + 16, o_stride);
        }
    }
    for (uint32_t t = b->from; t < b->to; t += ATT_V_GROUP) {
        const uint16_t *p = b->p + t;
        const uint8_t *v =
            (const uint8_t *)a->v[(b->t0 + t) / ATT_V_GROUP] + (size_t)tile * TILE_BYTES;
        _tile_loadd(4, p, p_stride);
        _tile_stream_loadd(6, v, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, p + (size_t)TILE_ROWS * MANY_P, p_stride);
        _tile_dpbf16ps(2, 5, 6);
        if (two) {
            _tile_stream_loadd(7, v + TILE_BYTES, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, o, o_stride);
    _tile_stored(2, o_high, o_stride);
    if (two) {
        _tile_stored(1, o + 16, o_stride);
        _tile_stored(3, o_high + 16, o_stride);
    }
}

/* 2^x for x <= 0 (or NaN) to a relative error of 7.5e-5, a twentieth of what rounding to bf16 does:
 * x = n + r with 0 <= r < 1, 2^r by a minimax polynomial of degree 3 (Remez). */
static inline __m512 exp2_coarse(__m512 x)
{
    __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 p = _mm512_set1_ps(7.802452269e-2F);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.260671554e-1F));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.958335405e-1F));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.999252186e-1F));
    return _mm512_scalef_ps(p, x);
}

/* Lanes of the 16 tokens from t that are in [lo, hi). */
static inline __mmask16 seen(uint32_t lo, uint32_t hi, uint32_t t)
{
    uint32_t from = lo > t ? (lo - t < 16 ? lo - t : 16) : 0;
    uint32_t to = hi > t ? (hi - t < 16 ? hi - t : 16) : 0;
    return (__mmask16)(((1U << to) - 1) & ~((1U << from) - 1));
}

/* Scores of a sub-block become logits times log2 e in place, where that is more than one factor. */
static void transform(const struct att_part *a, enum eng_kv_type type, const struct sub_block *b)
{
    for (uint32_t r = 0; r < a->n_row; r++) {
        float *s = b->s + r * b->s_stride;
        for (uint32_t t = b->from; t < b->to; t += V16_N) {
            v16_store(s + t, logits(a, type, r, b->t0 + t, v16_load(s + t)));
        }
    }
}

/* The largest lane of each of 16 vectors, in order: halves, quarters, pairs and lanes are folded
 * two vectors at a time. */
static inline __m512 max_of_rows(__m512 v[16])
{
    const __m512i low = _mm512_setr_epi64(0, 1, 2, 3, 8, 9, 10, 11);
    const __m512i high = _mm512_setr_epi64(4, 5, 6, 7, 12, 13, 14, 15);
    for (int i = 0; i < 8; i++) { /* 256 bits each of rows i and i + 8 */
        __m512d a = _mm512_castps_pd(v[i]);
        __m512d b = _mm512_castps_pd(v[i + 8]);
        v[i] = _mm512_max_ps(_mm512_castpd_ps(_mm512_permutex2var_pd(a, low, b)),
                             _mm512_castpd_ps(_mm512_permutex2var_pd(a, high, b)));
    }
    for (int i = 0; i < 4; i++) { /* 128 bits each of rows i, i + 4, i + 8, i + 12 */
        __m512 a = _mm512_shuffle_f32x4(v[i], v[i + 4], 0x88);
        __m512 b = _mm512_shuffle_f32x4(v[i], v[i + 4], 0xdd);
        v[i] = _mm512_max_ps(a, b); /* i, i + 8, i + 4, i + 12 */
    }
    for (int i = 0; i < 2; i++) {
        __m512 a = _mm512_shuffle_ps(v[i], v[i + 2], 0x44);
        __m512 b = _mm512_shuffle_ps(v[i], v[i + 2], 0xee);
        v[i] = _mm512_max_ps(a, b); /* 64 bits each of i and i + 2 */
    }
    __m512 a = _mm512_shuffle_ps(v[0], v[1], 0x88);
    __m512 b = _mm512_shuffle_ps(v[0], v[1], 0xdd);
    const __m512i order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
    return _mm512_permutexvar_ps(order, _mm512_max_ps(a, b));
}

/* Sixteen rows from row `first`: where a row's largest score of this sub-block rises too far above
 * its reference, that becomes the reference; the sum of the row is rescaled here, its values by
 * `rescale` before this sub-block's are added. Each row decides for itself. Returns the rows that
 * did, a bit each. */
static uint32_t raise_tops(const struct att_part *a, struct scratch *x, const struct sub_block *b,
                           uint32_t first, float factor, float *rescale)
{
    const __m512 low = _mm512_set1_ps(-INFINITY);
    const uint32_t t0 = b->t0;
    __m512 v[TILE_ROWS];
    for (uint32_t i = 0; i < TILE_ROWS; i++) {
        const uint32_t r = first + i;
        const uint32_t lo = r < a->n_row ? a->lo[r] : 0;
        const uint32_t hi = r < a->n_row ? a->hi[r] : 0;
        const float *s = b->s + r * b->s_stride;
        __m512 max = low;
        if (lo <= t0 && hi >= t0 + SUB_TOK) {
            max = _mm512_loadu_ps(s);
            for (uint32_t t = V16_N; t < SUB_TOK; t += V16_N) {
                max = _mm512_max_ps(max, _mm512_loadu_ps(s + t));
            }
        } else if (lo < hi) {
            for (uint32_t t = 0; t < SUB_TOK; t += V16_N) {
                max = _mm512_mask_max_ps(max, seen(lo, hi, t0 + t), max, _mm512_loadu_ps(s + t));
            }
        }
        v[i] = max;
    }
    __m512 max = _mm512_mul_ps(max_of_rows(v), _mm512_set1_ps(factor));
    __m512 top = _mm512_loadu_ps(x->top + first);
    __mmask16 rises =
        _mm512_cmp_ps_mask(max, _mm512_add_ps(top, _mm512_set1_ps(HEADROOM)), _CMP_GT_OQ);
    if (!rises) {
        return 0;
    }
    _mm512_storeu_ps(rescale + first, exp2_lanes((v16){_mm512_sub_ps(top, max)}).v);
    _mm512_storeu_ps(x->top + first, _mm512_mask_mov_ps(top, rises, max));
    for (uint32_t bits = rises; bits; bits &= bits - 1) {
        const uint32_t r = first + (uint32_t)__builtin_ctz(bits);
        float *sum = x->sum + (size_t)r * V16_N;
        v16_store(sum, v16_mul(v16_load(sum), v16_set1(rescale[r])));
    }
    return (uint32_t)rises << first;
}

/* Weights 2^(factor · score - top) of 32 tokens of a row, from token t on, as bf16; 0 where not in
 * [lo, hi). Adds them to sum (by vaddps: vdpbf16ps takes as long as all of the exponential); for
 * int8 the scale of V goes into the weight after that. */
INLINE __m512 weigh(const struct att_part *a, enum eng_kv_type type, const float *s, uint16_t *p,
                    uint32_t t, uint32_t lo, uint32_t hi, __m512 factor, __m512 top, __m512 sum)
{
    __m512 w0 = exp2_coarse(_mm512_fmsub_ps(_mm512_loadu_ps(s), factor, top));
    __m512 w1 = exp2_coarse(_mm512_fmsub_ps(_mm512_loadu_ps(s + 16), factor, top));
    const bool edge = t < lo || t + 32 > hi;
    if (edge) {
        w0 = _mm512_maskz_mov_ps(seen(lo, hi, t), w0);
        w1 = _mm512_maskz_mov_ps(seen(lo, hi, t + 16), w1);
    }
    __m512bh w = _mm512_cvtne2ps_pbh(w1, w0);
    sum = _mm512_add_ps(sum, _mm512_add_ps(w0, w1));
    if (type == ENG_KV_INT8) {
        const uint16_t *scale = a->v_scale[t / ATT_V_GROUP];
        w0 = _mm512_mul_ps(w0, v16_load_bf16(scale).v);
        w1 = _mm512_mul_ps(w1, v16_load_bf16(scale + 16).v);
        if (edge) {
            w0 = _mm512_maskz_mov_ps(seen(lo, hi, t), w0);
            w1 = _mm512_maskz_mov_ps(seen(lo, hi, t + 16), w1);
        }
        w = _mm512_cvtne2ps_pbh(w1, w0);
    }
    _mm512_storeu_si512(p, (__m512i)w);
    return sum;
}

INLINE void weights(const struct att_part *a, struct scratch *x, enum eng_kv_type type,
                    const struct sub_block *b, float factor)
{
    const __m512 f = _mm512_set1_ps(factor);
    const uint32_t t0 = b->t0;
    for (uint32_t r = 0; r < a->n_row; r++) {
        const uint32_t lo = a->lo[r];
        const uint32_t hi = a->hi[r];
        const float *s = b->s + r * b->s_stride;
        uint16_t *p = b->p + r * b->p_stride;
        const __m512 top = _mm512_set1_ps(x->top[r]);
        __m512 sum = _mm512_loadu_ps(x->sum + (size_t)r * V16_N);
        if (lo <= t0 && hi >= t0 + SUB_TOK) {
            for (uint32_t t = 0; t < SUB_TOK; t += 32) {
                sum = weigh(a, type, s + t, p + t, t0 + t, 0, UINT32_MAX, f, top, sum);
            }
        } else {
            for (uint32_t t = b->from; t < b->to; t += 32) {
                if (t0 + t + 32 <= lo || t0 + t >= hi) {
                    _mm512_storeu_si512(p + t, _mm512_setzero_si512());
                    continue;
                }
                sum = weigh(a, type, s + t, p + t, t0 + t, lo, hi, f, top, sum);
            }
        }
        _mm512_storeu_ps(x->sum + (size_t)r * V16_N, sum);
    }
}

/* From scores to weights. Returns the rows whose values want rescaling by `rescale`. */
INLINE uint32_t softmax(const struct att_part *a, struct scratch *x, enum eng_kv_type type,
                        const struct sub_block *b, float *rescale)
{
    float factor = a->scale * 1.44269504F;
    if (type == ENG_KV_INT8 || a->softcap != 0 || a->alibi || !(factor > 0)) {
        transform(a, type, b);
        factor = 1;
    }
    uint32_t risen = 0;
    for (uint32_t r = 0; r < a->n_row; r += TILE_ROWS) {
        risen |= raise_tops(a, x, b, r, factor, rescale);
    }
    weights(a, x, type, b, factor);
    return risen;
}

static struct sub_block sub_block_at(const struct att_part *a, uint32_t t0)
{
    const uint32_t end = a->hi_max - t0 < SUB_TOK ? a->hi_max - t0 : SUB_TOK;
    return (struct sub_block){
        .t0 = t0,
        .from = (a->lo_min > t0 ? a->lo_min - t0 : 0) / 32 * 32,
        .to = (end + 31) / 32 * 32,
    };
}

/* More than 16 rows: all three steps for one sub-block after the other, in the L1 cache. */
INLINE void part_many(const struct att_part *a, struct scratch *x, enum eng_kv_type type)
{
    const uint32_t first = a->lo_min / SUB_TOK * SUB_TOK;
    const uint32_t v_tiles = a->layer->v_tiles;
    for (uint32_t t0 = first; t0 < a->hi_max; t0 += SUB_TOK) {
        struct sub_block b = sub_block_at(a, t0);
        b.s = x->s;
        b.s_stride = MANY_S;
        b.p = x->p;
        b.p_stride = MANY_P;
        for (uint32_t t = b.from; t < b.to; t += 32) {
            qk_pair(a, (t0 + t) / ATT_K_GROUP, b.s + t);
        }
        memory_barrier();
        uint32_t risen = softmax(a, x, type, &b, x->rescale[0]);
        if (t0 != first) {
            rescale_values(a, risen, x->rescale[0], 0, v_tiles * V16_N);
        }
        memory_barrier();
        for (uint32_t tile = 0; tile < v_tiles; tile += 2) {
            pv_pair(a, &b, tile, tile + 2 <= v_tiles, t0 == first);
        }
        memory_barrier();
    }
}

/* Up to 16 rows: reading keys and values is the most of it, so each is read in one go. The same
 * operations on each row. */
INLINE void part_few(const struct att_part *a, struct scratch *x, enum eng_kv_type type)
{
    const bool ask = type != ENG_KV_INT8; /* staged tiles are at hand */
    const uint32_t v_tiles = a->layer->v_tiles;
    struct sub_block sub[N_SUB_MAX];
    uint32_t risen[N_SUB_MAX];
    uint32_t n_sub = 0;
    for (uint32_t t0 = a->lo_min / SUB_TOK * SUB_TOK; t0 < a->hi_max; t0 += SUB_TOK) {
        struct sub_block *b = &sub[n_sub++];
        *b = sub_block_at(a, t0);
        b->s = x->s + t0;
        b->s_stride = FEW_S;
        b->p = x->p + t0;
        b->p_stride = FEW_P;
        qk_few(a, ask, (t0 + b->from) / ATT_K_GROUP, (t0 + b->to) / ATT_K_GROUP, b->s + b->from);
    }
    memory_barrier();
    for (uint32_t i = 0; i < n_sub; i++) {
        risen[i] = softmax(a, x, type, &sub[i], x->rescale[i]);
    }
    memory_barrier();
    for (uint32_t tile = 0; tile < v_tiles; tile += 4) {
        pv_few(a, x, ask, sub, n_sub, risen, tile, v_tiles - tile < 4 ? v_tiles - tile : 4);
    }
    memory_barrier();
}

INLINE void part_of_type(const struct att_part *a, enum eng_kv_type type)
{
    struct scratch *x = a->scratch;
    for (uint32_t r = 0; r < ATT_ROWS; r++) {
        x->top[r] = -INFINITY;
    }
    memset(x->sum, 0, sizeof x->sum);
    load_config(a->n_row);
    if (a->n_row > TILE_ROWS) {
        part_many(a, x, type);
    } else {
        part_few(a, x, type);
    }
    for (uint32_t r = 0; r < a->n_row; r++) {
        a->m[r] = x->top[r];
        a->l[r] = _mm512_reduce_add_ps(_mm512_loadu_ps(x->sum + (size_t)r * V16_N));
    }
}

WRITE16(write16_bf16, ENG_KV_BF16)
WRITE16(write16_int8, ENG_KV_INT8)

static void part_bf16(const struct att_part *a)
{
    part_of_type(a, ENG_KV_BF16);
}

static void part_int8(const struct att_part *a)
{
    part_of_type(a, ENG_KV_INT8);
}

/* ---- int8: tiles in scratch ---- */

/* The bf16 of 0…127, low and high bytes. */
struct bf16_table {
    __m512i low[2];
    __m512i high[2];
};

static struct bf16_table make_table(void)
{
    alignas(64) uint8_t low[128];
    alignas(64) uint8_t high[128];
    for (int i = 0; i < 128; i++) {
        float x = (float)i;
        uint32_t u;
        memcpy(&u, &x, sizeof u);
        low[i] = (uint8_t)(u >> 16);
        high[i] = (uint8_t)(u >> 24);
    }
    return (struct bf16_table){
        .low = {_mm512_load_si512(low), _mm512_load_si512(low + 64)},
        .high = {_mm512_load_si512(high), _mm512_load_si512(high + 64)},
    };
}

/* Rows of 16 lanes × 4 int8 become twice as many of 16 lanes × 2 bf16. next: rows to ask for. */
static void expand(const struct bf16_table *table, const uint8_t *src, const uint8_t *next,
                   uint8_t *dst, uint32_t n_row)
{
    const __m512i sign = _mm512_set1_epi8((char)0x80);
    for (uint32_t i = 0; i < n_row; i++, src += 64, dst += 128) {
        _mm_prefetch((const char *)next + (size_t)i * 64, _MM_HINT_T1);
        __m512i x = _mm512_loadu_si512(src);
        __m512i abs = _mm512_abs_epi8(x);
        __m512i low = _mm512_permutex2var_epi8(table->low[0], abs, table->low[1]);
        __m512i high = _mm512_permutex2var_epi8(table->high[0], abs, table->high[1]);
        high = _mm512_or_si512(high, _mm512_and_si512(x, sign));
        /* per 128 bits: the 4 values of lanes 0 and 1, then of lanes 2 and 3 */
        __m512 a = _mm512_castsi512_ps(_mm512_unpacklo_epi8(low, high));
        __m512 b = _mm512_castsi512_ps(_mm512_unpackhi_epi8(low, high));
        _mm512_storeu_ps(dst, _mm512_shuffle_ps(a, b, 0x88));
        _mm512_storeu_ps(dst + 64, _mm512_shuffle_ps(a, b, 0xdd));
    }
}

static void stage_int8(struct att_part *a, uint32_t lo, uint32_t hi)
{
    const struct bf16_table table = make_table();
    const uint32_t k_rows = a->layer->k_rows;
    const uint32_t v_rows = a->layer->v_tiles * (ATT_V_GROUP / 4);
    struct scratch *x = a->scratch;
    uint8_t *k = x->staged;
    uint8_t *v = x->staged + (size_t)ATT_SPLIT_TOK * a->layer->k_pad * 2;
    const uint32_t first = lo / ATT_V_GROUP;
    const uint32_t end = (hi + ATT_V_GROUP - 1) / ATT_V_GROUP;
    for (uint32_t i = 2 * first; i < 2 * end; i++) {
        uint8_t *to = k + (size_t)i * k_rows * 128;
        const uint8_t *next = i + 2 < 2 * end ? a->k[i + 2] : a->k[i];
        expand(&table, a->k[i], next, to, k_rows);
        a->k[i] = to;
    }
    for (uint32_t g = first; g < end; g++) {
        uint8_t *to = v + (size_t)g * v_rows * 128;
        expand(&table, a->v[g], g + 1 < end ? a->v[g + 1] : a->v[g], to, v_rows);
        a->v[g] = to;
    }
}

static size_t scratch_bf16(const struct att_layer *layer)
{
    (void)layer;
    return sizeof(struct scratch);
}

static size_t scratch_int8(const struct att_layer *layer)
{
    return sizeof(struct scratch) +
           (size_t)ATT_SPLIT_TOK * 2 * (layer->k_pad + (size_t)layer->v_tiles * 16);
}

static void prep_q(void *dst, const float *q, uint32_t d_k, uint32_t n_pad)
{
    uint16_t *to = dst;
    for (uint32_t i = 0; i < n_pad; i += V16_N) {
        uint32_t n = i < d_k ? (d_k - i < V16_N ? d_k - i : V16_N) : 0;
        __m256bh x = _mm512_cvtneps_pbh(v16_load_n(q + i, n).v);
        _mm256_storeu_si256((__m256i *)(void *)(to + i), (__m256i)x);
    }
}

const struct att_kernel *att_kernel_amx(enum eng_kv_type type)
{
    static const struct att_kernel bf16 = {
        .arithmetic = 3,
        .q_elem_bytes = sizeof(uint16_t),
        .scratch_bytes = scratch_bf16,
        .release = release,
        .prep_q = prep_q,
        .write16 = write16_bf16,
        .part = part_bf16,
        .merge = merge,
        .finish = finish,
    };
    static const struct att_kernel int8 = {
        .arithmetic = 3,
        .q_elem_bytes = sizeof(uint16_t),
        .scratch_bytes = scratch_int8,
        .stage = stage_int8,
        .release = release,
        .prep_q = prep_q,
        .write16 = write16_int8,
        .part = part_int8,
        .merge = merge,
        .finish = finish,
    };
    switch (type) {
    case ENG_KV_BF16: return &bf16;
    case ENG_KV_INT8: return &int8;
    default: return att_kernel_avx512(type);
    }
}
