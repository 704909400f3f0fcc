#include "engine/kernels/cpu.h"

#include "base/log.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <stdint.h>
#if defined(__linux__)
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

static const char *const isa_names[KERN_ISA_END] = {
    [KERN_SCALAR] = "scalar", [KERN_AVX2] = "avx2", [KERN_AVX512] = "avx512",
    [KERN_AMX] = "amx",       [KERN_NEON] = "neon",
};

#if defined(__x86_64__)

/* CPUID.1:ECX */
#define BIT_FMA     (1u << 12)
#define BIT_OSXSAVE (1u << 27)
#define BIT_F16C    (1u << 29)
/* CPUID.7.0:EBX, ECX, EDX; CPUID.7.1:EAX */
#define BITS_AVX2        (1u << 3 | 1u << 5 | 1u << 8)               /* BMI1 AVX2 BMI2 */
#define BITS_AVX512_EBX  (1u << 16 | 1u << 17 | 1u << 30 | 1u << 31) /* F DQ BW VL */
#define BITS_AVX512_ECX  (1u << 11)                                  /* VNNI */
#define BITS_AMX_ECX     (1u << 1 | 1u << 6 | 1u << 8)               /* VBMI VBMI2 GFNI */
#define BITS_AMX_EDX     (1u << 22 | 1u << 24)                       /* AMX-BF16 AMX-TILE */
#define BITS_AMX_7_1_EAX (1u << 5)                                   /* AVX512_BF16 */
/* XCR0: what the operating system saves */
#define XCR0_YMM  (1u << 1 | 1u << 2)
#define XCR0_ZMM  (XCR0_YMM | 1u << 5 | 1u << 6 | 1u << 7)
#define XCR0_TILE (XCR0_ZMM | 1u << 17 | 1u << 18)

static uint32_t xcr0_read(void)
{
    uint32_t eax, edx;
    __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return eax;
}

static bool has_all(uint32_t word, uint32_t bits)
{
    return (word & bits) == bits;
}

/* Tile data is dynamically enabled state: Linux hands it out per process, to threads born later. */
static bool amx_permitted(void)
{
#if defined(__linux__)
    const long arch_req_xcomp_perm = 0x1023, xtiledata = 18;
    if (syscall(SYS_arch_prctl, arch_req_xcomp_perm, xtiledata) == 0) {
        return true;
    }
    log_warn("the kernel refuses AMX tiles (%s): using AVX-512", strerror(errno));
#endif
    return false;
}

/* The best path that CPUID and XCR0 show. */
static enum kern_isa isa_of_cpuid(void)
{
    uint32_t eax, ebx, ecx, edx, ebx7, ecx7, edx7, eax71 = 0;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !has_all(ecx, BIT_OSXSAVE)) {
        return KERN_SCALAR;
    }
    uint32_t xcr0 = xcr0_read(), n_leaf;
    if (!has_all(ecx, BIT_FMA | BIT_F16C) || !has_all(xcr0, XCR0_YMM) ||
        !__get_cpuid_count(7, 0, &n_leaf, &ebx7, &ecx7, &edx7) || !has_all(ebx7, BITS_AVX2)) {
        return KERN_SCALAR;
    }
    if (!has_all(ebx7, BITS_AVX512_EBX) || !has_all(ecx7, BITS_AVX512_ECX) ||
        !has_all(xcr0, XCR0_ZMM)) {
        return KERN_AVX2;
    }
    if (n_leaf >= 1) {
        __get_cpuid_count(7, 1, &eax71, &ebx, &ecx, &edx);
    }
    if (!has_all(ecx7, BITS_AMX_ECX) || !has_all(edx7, BITS_AMX_EDX) ||
        !has_all(eax71, BITS_AMX_7_1_EAX) || !has_all(xcr0, XCR0_TILE)) {
        return KERN_AVX512;
    }
    return KERN_AMX;
}

enum kern_isa kern_isa_detect(void)
{
    enum kern_isa isa = isa_of_cpuid();
    if (isa == KERN_AMX && !amx_permitted()) {
        return KERN_AVX512;
    }
    return isa;
}

static bool isa_is_here(enum kern_isa isa)
{
    if (isa == KERN_NEON) {
        return false;
    }
    /* AMX permission is asked for only when tiles are wanted. */
    return isa == KERN_AMX ? kern_isa_detect() == KERN_AMX : isa <= isa_of_cpuid();
}

#elif defined(__aarch64__)

enum kern_isa kern_isa_detect(void)
{
    return KERN_NEON;
}

static bool isa_is_here(enum kern_isa isa)
{
    return isa == KERN_SCALAR || isa == KERN_NEON;
}

#else

enum kern_isa kern_isa_detect(void)
{
    return KERN_SCALAR;
}

static bool isa_is_here(enum kern_isa isa)
{
    return isa == KERN_SCALAR;
}

#endif

enum err_code kern_isa_by_name(const char *name, enum kern_isa *ret_isa, struct err *e)
{
    if (!name || strcasecmp(name, "auto") == 0) {
        *ret_isa = kern_isa_detect();
        return ERR_OK;
    }
    for (int i = 0; i < KERN_ISA_END; i++) {
        if (strcasecmp(name, isa_names[i]) != 0) {
            continue;
        }
        if (!isa_is_here((enum kern_isa)i)) {
            return err_set(e, ERR_UNSUPPORTED, "this machine has no %s; the best it has is %s",
                           isa_names[i], isa_names[kern_isa_detect()]);
        }
        *ret_isa = (enum kern_isa)i;
        return ERR_OK;
    }
    return err_set(e, ERR_UNSUPPORTED,
                   "unknown instruction set '%s'; known: scalar, avx2, avx512, amx, neon; "
                   "the best here is %s",
                   name, isa_names[kern_isa_detect()]);
}

const char *kern_isa_name(enum kern_isa isa)
{
    return (unsigned)isa < KERN_ISA_END ? isa_names[isa] : "unknown";
}
