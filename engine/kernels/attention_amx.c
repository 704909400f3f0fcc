/* Attention on AMX tiles: queries, keys, weights and values in bf16, sums in f32. The tile unit
 * gives each row of a product the same operations whatever the other rows are, so the rows of a
 * block only share the time. int8 KV is exact in bf16 and becomes tiles in scratch, its scales
 * applied to scores and weights. Tiles: 0…3 sums (rows 0–15 and 16–31 of the block times two groups
 * of 16 columns), 4 and 5 the left side of each row half, 6 and 7 the right side of each column
 * group. */
#include "engine/kernels/attention_impl.h"
#include "engine/kernels/attention_rows.h"
#include "engine/kernels/lanes.h"

#include <immintrin.h>
#include <math.h>
#include <stdalign.h>
#include <string.h>

/* Weights of a block, row stride in bf16 values: whole tile rows, and not a power of two. */
#define P_STRIDE (ATT_SPLIT_TOK + 32)

#define TILE_ROWS  16
#define TILE_BYTES 1024

struct scratch {
    float s[ATT_ROWS * ATT_LDS];
    uint16_t p[ATT_ROWS * P_STRIDE];
    uint8_t staged[]; /* int8: the part's K groups, then its V groups, as bf16 */
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
    const uint8_t rows[8] = {low, low, high, high, low, high, TILE_ROWS, TILE_ROWS};
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

/* Scores of all rows against two groups of 16 tokens. */
static inline void qk_pair(const struct att_part *a, struct scratch *x, uint32_t group)
{
    const uint32_t n_k = a->layer->k_pad / 32;
    const size_t q_stride = (size_t)a->layer->k_pad * 2;
    const uint8_t *q = a->q;
    const uint8_t *k0 = a->k[group];
    const uint8_t *k1 = a->k[group + 1];
    float *s = x->s + (size_t)group * ATT_K_GROUP;
    _tile_zero(0);
    _tile_zero(1);
    if (a->n_row > TILE_ROWS) {
        _tile_zero(2);
        _tile_zero(3);
        for (uint32_t i = 0; i < n_k; i++) {
            _tile_loadd(6, k0 + (size_t)i * TILE_BYTES, 64);
            _tile_loadd(4, q + (size_t)i * 64, q_stride);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, k1 + (size_t)i * TILE_BYTES, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, q + TILE_ROWS * q_stride + (size_t)i * 64, q_stride);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(2, s + (size_t)TILE_ROWS * ATT_LDS, ATT_LDS * sizeof *s);
        _tile_stored(3, s + (size_t)TILE_ROWS * ATT_LDS + 16, ATT_LDS * sizeof *s);
    } else {
        for (uint32_t i = 0; i < n_k; i++) {
            _tile_loadd(6, k0 + (size_t)i * TILE_BYTES, 64);
            _tile_loadd(4, q + (size_t)i * 64, q_stride);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, k1 + (size_t)i * TILE_BYTES, 64);
            _tile_dpbf16ps(1, 4, 7);
        }
    }
    _tile_stored(0, s, ATT_LDS * sizeof *s);
    _tile_stored(1, s + 16, ATT_LDS * sizeof *s);
}

/* Values of all rows in two column tiles (or one) over the tokens of groups [group, end). */
static inline void pv_pair(const struct att_part *a, const struct scratch *x, uint32_t tile,
                           bool two, uint32_t group, uint32_t end)
{
    const size_t p_stride = P_STRIDE * sizeof *x->p;
    const size_t o_stride = (size_t)a->layer->v_tiles * 64;
    float *o = a->o + (size_t)tile * 16;
    const bool high = a->n_row > TILE_ROWS;
    _tile_zero(0);
    _tile_zero(1);
    if (high) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (uint32_t g = group; g < end; g++) {
        const uint8_t *v = (const uint8_t *)a->v[g] + (size_t)tile * TILE_BYTES;
        const uint16_t *p = x->p + (size_t)g * ATT_V_GROUP;
        _tile_loadd(4, p, p_stride);
        _tile_loadd(6, v, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (two) {
            _tile_loadd(7, v + TILE_BYTES, 64);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (high) {
            _tile_loadd(5, p + (size_t)TILE_ROWS * P_STRIDE, p_stride);
            _tile_dpbf16ps(2, 5, 6);
            if (two) {
                _tile_dpbf16ps(3, 5, 7);
            }
        }
    }
    _tile_stored(0, o, o_stride);
    if (two) {
        _tile_stored(1, o + 16, o_stride);
    }
    if (high) {
        o += TILE_ROWS * o_stride / sizeof *o;
        _tile_stored(2, o, o_stride);
        if (two) {
            _tile_stored(3, o + 16, o_stride);
        }
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

/* Scores become logits times log2 e in place, where that is more than one factor. */
static void transform(const struct att_part *a, struct scratch *x, enum eng_kv_type type)
{
    for (uint32_t r = 0; r < a->n_row; r++) {
        float *s = x->s + (size_t)r * ATT_LDS;
        for (uint32_t t = a->lo[r] / 16 * 16; t < a->hi[r]; t += 16) {
            v16_store(s + t, logits(a, type, r, t, v16_load(s + t)));
        }
    }
}

/* The largest score of each row among those it sees. */
static void row_max(const struct att_part *a, const struct scratch *x, float *max)
{
    const __m512 low = _mm512_set1_ps(-INFINITY);
    for (uint32_t r = 0; r < a->n_row; r++) {
        const float *s = x->s + (size_t)r * ATT_LDS;
        const uint32_t lo = a->lo[r];
        const uint32_t hi = a->hi[r];
        __m512 m0 = low;
        __m512 m1 = low;
        for (uint32_t t = lo / 32 * 32; t < hi; t += 32) {
            __m512 s0 = _mm512_loadu_ps(s + t);
            __m512 s1 = _mm512_loadu_ps(s + t + 16);
            if (t < lo || t + 32 > hi) {
                s0 = _mm512_mask_mov_ps(low, seen(lo, hi, t), s0);
                s1 = _mm512_mask_mov_ps(low, seen(lo, hi, t + 16), s1);
            }
            m0 = _mm512_max_ps(m0, s0);
            m1 = _mm512_max_ps(m1, s1);
        }
        max[r] = _mm512_reduce_max_ps(_mm512_max_ps(m0, m1));
    }
}

/* Weights 2^(factor · score - m) of row r as bf16, 0 outside [lo, hi); their sum, of what the
 * products will see. For int8 the scale of V goes into the weight, after the sum. */
INLINE float row_weights(const struct att_part *a, struct scratch *x, enum eng_kv_type type,
                         uint32_t r, float factor, float m)
{
    const __m512 top = _mm512_set1_ps(m);
    const __m512 f = _mm512_set1_ps(factor);
    const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    const float *s = x->s + (size_t)r * ATT_LDS;
    uint16_t *p = x->p + (size_t)r * P_STRIDE;
    const uint32_t lo = a->lo[r];
    const uint32_t hi = a->hi[r];
    __m512 sum = _mm512_setzero_ps();
    for (uint32_t t = lo / 32 * 32; t < hi; t += 32) {
        __m512 w0 = exp2_coarse(_mm512_fmsub_ps(_mm512_loadu_ps(s + t), f, top));
        __m512 w1 = exp2_coarse(_mm512_fmsub_ps(_mm512_loadu_ps(s + t + 16), f, top));
        const bool edge = t < lo || t + 32 > hi;
        if (edge) {
            w0 = _mm512_maskz_mov_ps(seen(lo, hi, t), w0);
            w1 = _mm512_maskz_mov_ps(seen(lo, hi, t + 16), w1);
        }
        __m512bh w = _mm512_cvtne2ps_pbh(w1, w0);
        sum = _mm512_dpbf16_ps(sum, w, ones);
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
        _mm512_storeu_si512(p + t, (__m512i)w);
    }
    return _mm512_reduce_add_ps(sum);
}

INLINE void weights(const struct att_part *a, struct scratch *x, enum eng_kv_type type)
{
    float max[ATT_ROWS];
    float factor = a->scale * 1.44269504F;
    if (type == ENG_KV_INT8 || a->softcap != 0 || a->alibi || !(factor > 0)) {
        transform(a, x, type);
        factor = 1;
    }
    row_max(a, x, max);
    const uint32_t from = a->lo_min / 32 * 32;
    const uint32_t to = (a->hi_max + 31) / 32 * 32;
    for (uint32_t r = 0; r < a->n_row; r++) {
        const uint32_t lo = a->lo[r];
        const uint32_t hi = a->hi[r];
        uint32_t first = lo < hi ? lo / 32 * 32 : to;
        uint32_t last = lo < hi ? (hi + 31) / 32 * 32 : to;
        uint16_t *p = x->p + (size_t)r * P_STRIDE;
        memset(p + from, 0, (first - from) * sizeof *p);
        memset(p + last, 0, (to - last) * sizeof *p);
        a->m[r] = max[r] * factor;
        a->l[r] = lo < hi ? row_weights(a, x, type, r, factor, a->m[r]) : 0;
    }
}

INLINE void part_of_type(const struct att_part *a, enum eng_kv_type type)
{
    struct scratch *x = a->scratch;
    const uint32_t from = a->lo_min / ATT_V_GROUP;
    const uint32_t end = (a->hi_max + ATT_V_GROUP - 1) / ATT_V_GROUP;
    load_config(a->n_row);
    memory_barrier();
    for (uint32_t g = from; g < end; g++) {
        qk_pair(a, x, 2 * g);
    }
    memory_barrier();
    weights(a, x, type);
    memory_barrier();
    uint32_t tile = 0;
    for (; tile + 2 <= a->layer->v_tiles; tile += 2) {
        pv_pair(a, x, tile, true, from, end);
    }
    if (tile < a->layer->v_tiles) {
        pv_pair(a, x, tile, false, from, end);
    }
    memory_barrier();
}

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

/* Rows of 16 lanes × 4 int8 become twice as many of 16 lanes × 2 bf16. */
static void expand(const struct bf16_table *table, const uint8_t *src, uint8_t *dst, uint32_t n_row)
{
    const __m512i sign = _mm512_set1_epi8((char)0x80);
    for (uint32_t i = 0; i < n_row; i++, src += 64, dst += 128) {
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
    for (uint32_t g = lo / ATT_V_GROUP; g < (hi + ATT_V_GROUP - 1) / ATT_V_GROUP; g++) {
        for (uint32_t i = 2 * g; i < 2 * g + 2; i++) {
            uint8_t *to = k + (size_t)i * k_rows * 128;
            expand(&table, a->k[i], to, k_rows);
            a->k[i] = to;
        }
        uint8_t *to = v + (size_t)g * v_rows * 128;
        expand(&table, a->v[g], to, v_rows);
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
    static const struct att_kernel bf16 = {3,      sizeof(uint16_t), scratch_bf16, NULL,  release,
                                           prep_q, part_bf16,        merge,        finish};
    static const struct att_kernel int8 = {
        3, sizeof(uint16_t), scratch_int8, stage_int8, release, prep_q, part_int8, merge, finish};
    switch (type) {
    case ENG_KV_BF16: return &bf16;
    case ENG_KV_INT8: return &int8;
    default: return att_kernel_avx512(type);
    }
}
