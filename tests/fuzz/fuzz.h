/* What fuzz targets share. Each target is one file, fuzz_NAME.c, that defines the function below;
 * it must return 0 and keep nothing between calls. With -Dfuzzing=true it is linked with libFuzzer,
 * in every build with replay_main.c, which feeds it the seeds of seeds/NAME. */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

/* Keeps a value that nothing else needs, so that computing it is not dropped. */
static inline void fuzz_use(unsigned v)
{
    __asm__ volatile("" : : "r"(v));
}

#endif
