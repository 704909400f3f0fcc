/* The kernels of gemm_int8.h, compiled once per instruction set. The file that includes this has
 * said what its vectors are:
 *   WIDE            bytes of one
 *   wide_lookup     sixteen values by codes of 0…15
 *   load_halves     16 f16 as v16 (lanes.h)
 *   load_bytes      16 unsigned bytes as v16
 *   quantize_step   one step of one row of activations to a record
 *   ROW_TILE        rows of activations that are multiplied together, a power of two up to 16
 *   int8_multiply   acc [n_tok][16] += the products of a panel with one tile of rows
 * and whether signed codes reach int8_multiply as they are (CODE_FLIP 0x80) or plus 128 (0). */
#include "engine/kernels/gemm_int8_unpack.h"

/* n_tok: of the tile. */
static void int8_multiply(const struct int8_format *f, const struct int8_panel *p, uint32_t n_step,
                          const uint32_t *rec, uint32_t n_tok, float *acc);

/* ---- activations ------------------------------------------------------------------------------
 */

/* Rows of the tile that begins where n_left rows are left. */
static inline uint32_t tile_rows(uint32_t n_left)
{
    uint32_t n = ROW_TILE;
    while (n > n_left) {
        n /= 2;
    }
    return n;
}

static void int8_act_make(const struct gemm_act *act, uint32_t i)
{
    const uint32_t n_step = act->n_in / INT8_STEP_K, first = i * ACT_TOK_BLOCK;
    const uint32_t left = act->n_tok - first,
                   end = first + (left < ACT_TOK_BLOCK ? left : ACT_TOK_BLOCK);
    for (uint32_t t = first, n; t < end; t += n) {
        n = tile_rows(end - t);
        uint32_t *tile = (uint32_t *)act->data + (size_t)t * n_step * INT8_REC;
        for (uint32_t r = 0; r < n; r++) {
            const float *x = act->x + (t + r) * act->ldx;
            for (uint32_t s = 0; s < n_step; s++) {
                quantize_step(x + (size_t)s * INT8_STEP_K, tile + (size_t)s * INT8_REC * n + r, n);
            }
        }
    }
}

/* ---- run --------------------------------------------------------------------------------------
 */

/* Groups in turn; a panel of one is unpacked once for all rows of the item. */
static void int8_run(const struct gemm_part *p)
{
    const struct gemm_weight *w = p->job->w;
    const struct gemm_act *act = p->job->act;
    const struct int8_format *f = int8_format_of(w->type);
    const uint32_t n_step = w->n_in / INT8_STEP_K;
    struct int8_panel *panel = p->scratch;
    float *acc = (float *)(panel + 1);
    for (uint32_t g = p->group; g < p->group + p->n_group; g++) {
        const uint8_t *unit = gemm_group_data(w, g);
        memset(acc, 0, sizeof *acc * p->n_tok * INT8_ROWS);
        for (uint32_t s = 0, n; s < n_step; s += n) {
            for (n = 0; n < PANEL_STEP && s + n < n_step;) {
                uint32_t left = n_step - s - n;
                uint32_t n_unit = left < INT8_UNIT_STEP ? left : INT8_UNIT_STEP;
                unit = unpack_unit(f, unit, n_unit, panel, n);
                n += n_unit;
            }
            for (uint32_t t = 0, n_tok; t < p->n_tok; t += n_tok) {
                n_tok = tile_rows(p->n_tok - t);
                const uint32_t *tile =
                    (const uint32_t *)act->data +
                    ((size_t)(p->tok + t) * n_step + (size_t)s * n_tok) * INT8_REC;
                int8_multiply(f, panel, n, tile, n_tok, acc + (size_t)t * INT8_ROWS);
            }
        }
        uint32_t out = g * INT8_ROWS;
        uint32_t n_out = w->n_out - out < INT8_ROWS ? w->n_out - out : INT8_ROWS;
        for (uint32_t t = 0; t < p->n_tok; t++) {
            gemm_emit(p->job, p->tok + t, out, acc + (size_t)t * INT8_ROWS, n_out);
        }
    }
}

#define INT8_KERNELS(NAME)                                                                         \
    static const struct gemm_kernel int8_kernels[GGUF_TYPE_END] = {                                \
        INT8_KERNEL(Q4_0, NAME, int8_run, int8_act_make),                                          \
        INT8_KERNEL(Q4_1, NAME, int8_run, int8_act_make),                                          \
        INT8_KERNEL(Q5_0, NAME, int8_run, int8_act_make),                                          \
        INT8_KERNEL(Q5_1, NAME, int8_run, int8_act_make),                                          \
        INT8_KERNEL(Q8_0, NAME, int8_run, int8_act_make),                                          \
        INT8_KERNEL(IQ4_NL, NAME, int8_run, int8_act_make),                                        \
        INT8_KERNEL(MXFP4, NAME, int8_run, int8_act_make),                                         \
        INT8_KERNEL(Q2_K, NAME, int8_run, int8_act_make),                                          \
        INT8_KERNEL(Q3_K, NAME, int8_run, int8_act_make),                                          \
        INT8_KERNEL(Q4_K, NAME, int8_run, int8_act_make),                                          \
        INT8_KERNEL(Q5_K, NAME, int8_run, int8_act_make),                                          \
        INT8_KERNEL(Q6_K, NAME, int8_run, int8_act_make),                                          \
        INT8_KERNEL(IQ4_XS, NAME, int8_run, int8_act_make),                                        \
    }

static inline const struct gemm_kernel *int8_kernel_of(const struct gemm_kernel *kernels,
                                                       enum gguf_type type)
{
    return int8_format_of(type) ? &kernels[type] : NULL;
}
