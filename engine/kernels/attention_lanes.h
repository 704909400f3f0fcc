/* Attention in sixteen lanes with f32 arithmetic for every KV type, compiled once per instruction
 * set: ATT_KERNEL names the function that gives the tables, ATT_ARITHMETIC the number of its bits,
 * ATT_WRITE16 of a type its writer, ATT_QK_GROUPS and ATT_PV_TILES how many vectors times six rows
 * the registers hold.
 * Scores: one multiply-add per dimension in order, a chain per (row, key). Values: one multiply-add
 * per token in order, a chain per (row, column). So blocking changes no bit. */
#include "engine/kernels/attention_impl.h"
#include "engine/kernels/attention_rows.h"
#include "engine/kernels/lanes.h"

#include <math.h>
#include <string.h>

enum { BLOCK_ROWS = 6, FEW_ROWS = 12 };

/* Values per lane. */
INLINE uint32_t per_lane(enum eng_kv_type type)
{
    return type == ENG_KV_INT8 ? 4 : type == ENG_KV_BF16 ? 2 : 1;
}

/* One 64-byte row as per_lane vectors. */
INLINE void load_row(const uint8_t *p, enum eng_kv_type type, v16 out[4])
{
    if (type == ENG_KV_INT8) {
        v16_load_i8x4(p, out);
    } else if (type == ENG_KV_BF16) {
        v16_load_bf16x2(p, out);
    } else {
        out[0] = v16_load((const float *)(const void *)p);
    }
}

/* Scores of n_row rows against n_group groups of 16 tokens. */
INLINE void qk_block(const struct att_part *a, enum eng_kv_type type, uint32_t row, uint32_t n_row,
                     uint32_t group, uint32_t n_group)
{
    const uint32_t n_lane = per_lane(type);
    const uint32_t k_rows = a->layer->k_rows;
    const float *q = (const float *)a->q + (size_t)row * a->layer->k_pad;
    /* few rows wait for memory: the first ask for the next groups */
    const void *const *ahead = NULL;
    if (row == 0 && a->n_row <= FEW_ROWS && (group + 2 * n_group) * ATT_K_GROUP <= a->hi_max) {
        ahead = &a->k[group + n_group];
    }
    v16 acc[BLOCK_ROWS][ATT_QK_GROUPS];
    for (uint32_t r = 0; r < n_row; r++) {
        for (uint32_t g = 0; g < n_group; g++) {
            acc[r][g] = v16_set1(0);
        }
    }
    for (uint32_t i = 0; i < k_rows; i++) {
        v16 k[ATT_QK_GROUPS][4];
        for (uint32_t g = 0; g < n_group; g++) {
            if (ahead) {
                __builtin_prefetch((const uint8_t *)ahead[g] + (size_t)i * ATT_ROW_BYTES, 0, 2);
            }
            load_row((const uint8_t *)a->k[group + g] + (size_t)i * ATT_ROW_BYTES, type, k[g]);
        }
        for (uint32_t j = 0; j < n_lane; j++) {
            for (uint32_t r = 0; r < n_row; r++) {
                v16 x = v16_set1(q[(size_t)r * a->layer->k_pad + (size_t)i * n_lane + j]);
                for (uint32_t g = 0; g < n_group; g++) {
                    acc[r][g] = v16_fma(x, k[g][j], acc[r][g]);
                }
            }
        }
    }
    float *s = (float *)a->scratch + (size_t)row * ATT_LDS + (size_t)group * ATT_K_GROUP;
    for (uint32_t r = 0; r < n_row; r++) {
        for (uint32_t g = 0; g < n_group; g++) {
            v16_store(s + (size_t)r * ATT_LDS + (size_t)g * ATT_K_GROUP, acc[r][g]);
        }
    }
}

/* Values of n_row rows in n_tile column tiles, over the groups of 32 tokens [group, group_end). */
INLINE void pv_block(const struct att_part *a, enum eng_kv_type type, uint32_t row, uint32_t n_row,
                     uint32_t tile, uint32_t n_tile, uint32_t group, uint32_t group_end)
{
    const uint32_t n_lane = per_lane(type);
    const uint32_t rows = ATT_V_GROUP / n_lane;
    const float *p = (const float *)a->scratch + (size_t)row * ATT_LDS;
    v16 acc[BLOCK_ROWS][ATT_PV_TILES];
    for (uint32_t r = 0; r < n_row; r++) {
        for (uint32_t c = 0; c < n_tile; c++) {
            acc[r][c] = v16_set1(0);
        }
    }
    for (uint32_t g = group; g < group_end; g++) {
        const uint8_t *v = (const uint8_t *)a->v[g] + (size_t)tile * rows * ATT_ROW_BYTES;
        const bool ahead = row == 0 && a->n_row <= FEW_ROWS && g + 1 < group_end;
        const uint8_t *next =
            ahead ? (const uint8_t *)a->v[g + 1] + (size_t)tile * rows * ATT_ROW_BYTES : v;
        for (uint32_t i = 0; i < rows; i++) {
            v16 x[ATT_PV_TILES][4];
            for (uint32_t c = 0; c < n_tile; c++) {
                const size_t at = (size_t)(c * rows + i) * ATT_ROW_BYTES;
                if (ahead) {
                    __builtin_prefetch(next + at, 0, 2);
                }
                load_row(v + at, type, x[c]);
            }
            for (uint32_t j = 0; j < n_lane; j++) {
                for (uint32_t r = 0; r < n_row; r++) {
                    v16 w = v16_set1(
                        p[(size_t)r * ATT_LDS + (size_t)g * ATT_V_GROUP + (size_t)i * n_lane + j]);
                    for (uint32_t c = 0; c < n_tile; c++) {
                        acc[r][c] = v16_fma(w, x[c][j], acc[r][c]);
                    }
                }
            }
        }
    }
    const size_t n_col = (size_t)a->layer->v_tiles * V16_N;
    float *o = a->o + row * n_col + (size_t)tile * V16_N;
    for (uint32_t r = 0; r < n_row; r++) {
        for (uint32_t c = 0; c < n_tile; c++) {
            v16_store(o + r * n_col + (size_t)c * V16_N, acc[r][c]);
        }
    }
}

/* Calls BLOCK(row, n_row) with a constant n_row of at most 6 over the rows, in even shares. */
#define FOR_ROWS(n_rows, BLOCK)                                                                    \
    for (uint32_t row = 0, n_share = ((n_rows) + 5) / 6, n; n_share; n_share--, row += n) {        \
        n = ((n_rows)-row + n_share - 1) / n_share;                                                \
        switch (n) {                                                                               \
        case 6: BLOCK(row, 6); break;                                                              \
        case 5: BLOCK(row, 5); break;                                                              \
        case 4: BLOCK(row, 4); break;                                                              \
        case 3: BLOCK(row, 3); break;                                                              \
        case 2: BLOCK(row, 2); break;                                                              \
        default: BLOCK(row, 1); break;                                                             \
        }                                                                                          \
    }

INLINE void scores(const struct att_part *a, enum eng_kv_type type)
{
    uint32_t end = (a->hi_max + ATT_K_GROUP - 1) / ATT_K_GROUP;
    uint32_t g = a->lo_min / ATT_K_GROUP;
#define QK_MANY(row, n) qk_block(a, type, row, n, g, ATT_QK_GROUPS)
#define QK_ONE(row, n)  qk_block(a, type, row, n, g, 1)
    for (; g + ATT_QK_GROUPS <= end; g += ATT_QK_GROUPS) {
        FOR_ROWS(a->n_row, QK_MANY)
    }
    for (; g < end; g++) {
        FOR_ROWS(a->n_row, QK_ONE)
    }
#undef QK_MANY
#undef QK_ONE
}

INLINE void values(const struct att_part *a, enum eng_kv_type type)
{
    uint32_t end = (a->hi_max + ATT_V_GROUP - 1) / ATT_V_GROUP;
    uint32_t g = a->lo_min / ATT_V_GROUP;
    uint32_t tile = 0;
#define PV_MANY(row, n) pv_block(a, type, row, n, tile, ATT_PV_TILES, g, end)
#define PV_ONE(row, n)  pv_block(a, type, row, n, tile, 1, g, end)
    for (; tile + ATT_PV_TILES <= a->layer->v_tiles; tile += ATT_PV_TILES) {
        FOR_ROWS(a->n_row, PV_MANY)
    }
    for (; tile < a->layer->v_tiles; tile++) {
        FOR_ROWS(a->n_row, PV_ONE)
    }
#undef PV_MANY
#undef PV_ONE
}

/* Turns the scores of row r into weights, 0 outside [lo, hi), and sets m and l. */
INLINE void weights(const struct att_part *a, enum eng_kv_type type, uint32_t r)
{
    const v16 low = v16_set1(-INFINITY);
    const v16 zero = v16_set1(0);
    float *s = (float *)a->scratch + (size_t)r * ATT_LDS;
    uint32_t lo = a->lo[r];
    uint32_t hi = a->hi[r];
    uint32_t from = a->lo_min / ATT_V_GROUP * ATT_V_GROUP;
    uint32_t to = (a->hi_max + ATT_V_GROUP - 1) / ATT_V_GROUP * ATT_V_GROUP;
    uint32_t first = lo < hi ? lo / V16_N * V16_N : to;
    uint32_t last = lo < hi ? (hi + V16_N - 1) / V16_N * V16_N : to;
    v16 max = low;
    for (uint32_t t = first; t < last; t += V16_N) {
        v16 x = visible(logits(a, type, r, t, v16_load(s + t)), lo, hi, t, low);
        v16_store(s + t, x);
        max = v16_max(max, x);
    }
    a->m[r] = v16_max_lane(max);
    v16 top = v16_set1(a->m[r]);
    v16 sum = zero;
    for (uint32_t t = from; t < first; t += V16_N) {
        v16_store(s + t, zero);
    }
    for (uint32_t t = first; t < last; t += V16_N) {
        v16 p = visible(exp2_lanes(v16_sub(v16_load(s + t), top)), lo, hi, t, zero);
        sum = v16_add(sum, p);
        if (type == ENG_KV_INT8) {
            v16 scale = v16_load_bf16(a->v_scale[t / ATT_V_GROUP] + t % ATT_V_GROUP);
            p = visible(v16_mul(p, scale), lo, hi, t, zero);
        }
        v16_store(s + t, p);
    }
    for (uint32_t t = last; t < to; t += V16_N) {
        v16_store(s + t, zero);
    }
    a->l[r] = v16_sum(sum);
}

INLINE void part_of_type(const struct att_part *a, enum eng_kv_type type)
{
    scores(a, type);
    for (uint32_t r = 0; r < a->n_row; r++) {
        weights(a, type, r);
    }
    values(a, type);
}

static void part_f32(const struct att_part *a)
{
    part_of_type(a, ENG_KV_F32);
}

static void part_bf16(const struct att_part *a)
{
    part_of_type(a, ENG_KV_BF16);
}

static void part_int8(const struct att_part *a)
{
    part_of_type(a, ENG_KV_INT8);
}

static size_t scratch_bytes(const struct att_layer *layer)
{
    (void)layer;
    return sizeof(float) * ATT_ROWS * ATT_LDS;
}

static void release(void)
{
}

static void prep_q(void *dst, const float *q, uint32_t d_k, uint32_t n_pad)
{
    memcpy(dst, q, d_k * sizeof *q);
    memset((float *)dst + d_k, 0, (n_pad - d_k) * sizeof *q);
}

const struct att_kernel *ATT_KERNEL(enum eng_kv_type type)
{
    static const struct att_kernel kernels[] = {
#define KERNEL(t)                                                                                  \
    {.arithmetic = ATT_ARITHMETIC,                                                                 \
     .q_elem_bytes = sizeof(float),                                                                \
     .scratch_bytes = scratch_bytes,                                                               \
     .release = release,                                                                           \
     .prep_q = prep_q,                                                                             \
     .write16 = ATT_WRITE16(t),                                                                    \
     .part = part_##t,                                                                             \
     .merge = merge,                                                                               \
     .finish = finish}
        [ENG_KV_F32] = KERNEL(f32),
        [ENG_KV_BF16] = KERNEL(bf16),
        [ENG_KV_INT8] = KERNEL(int8),
    };
    return &kernels[type];
}
