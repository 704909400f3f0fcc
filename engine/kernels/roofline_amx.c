#include "engine/kernels/roofline_impl.h"

#include <immintrin.h>
#include <stdint.h>

#define N_LOOP 300

double roof_bf16_amx(void)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t col_bytes[16];
        uint8_t rows[16];
    } c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        c.rows[i] = 16;
        c.col_bytes[i] = 64;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(c));
    for (int i = 0; i < N_LOOP; i++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return 4.0 * 2 * 16 * 16 * 32 * N_LOOP;
}
