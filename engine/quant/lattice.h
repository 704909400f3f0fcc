/* Points of the codebook types: a few hundred vectors of 8 or 4 coordinates that are all a run of
 * elements can be, up to scale and signs. A point is a number: coordinate i in bits [w i, w i + w),
 * w = 2 for 8 coordinates of which each has three values, w = 3 for 4 with eight. Private to
 * quant/. */
#ifndef ENGINE_QUANT_LATTICE_H
#define ENGINE_QUANT_LATTICE_H

#include <stdint.h>

extern const uint16_t quant_lattice_iq1_s[2048];  /* -1, 0, 1; for IQ1_M too */
extern const uint16_t quant_lattice_iq2_xxs[256]; /* 8, 25, 43 */
extern const uint16_t quant_lattice_iq2_xs[512];
extern const uint16_t quant_lattice_iq2_s[1024];
extern const uint16_t quant_lattice_iq3_xxs[256]; /* 4, 12, 20, 28, 36, 44, 52, 62 */
extern const uint16_t quant_lattice_iq3_s[512];   /* 1, 3, 5 … 15 */

#endif
