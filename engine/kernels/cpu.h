/* Which instruction sets this process may use, decided once: CPUID, the OS's XCR0, and on Linux the
 * permission for AMX tile data (arch_prctl), which must be asked for before threads start. */
#ifndef ENGINE_KERNELS_CPU_H
#define ENGINE_KERNELS_CPU_H

#include "base/err.h"

/* Ordered: each includes what a machine of the one before has, within its family. */
enum kern_isa {
    KERN_SCALAR,
    KERN_AVX2,
    KERN_AVX512 /* F BW DQ VL VNNI */,
    KERN_AMX /* + BF16 tiles */,
    KERN_NEON,
    KERN_ISA_END
};

/* The best path this machine allows; asks for AMX permission and logs one line if it is refused. */
enum kern_isa kern_isa_detect(void);
/* "scalar", "avx2", "avx512", "amx", "neon". NULL or "auto": detect. ERR_UNSUPPORTED when the
 * machine lacks it, naming what is there. */
enum err_code kern_isa_by_name(const char *name, enum kern_isa *ret_isa, struct err *e);
const char *kern_isa_name(enum kern_isa isa);

#endif
