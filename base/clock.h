/* Time. Pure reads of the kernel's clocks; any thread. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_mono_ns(void); /* never goes back; for durations and deadlines */
int64_t clock_unix_s(void);   /* wall clock; for `created` fields and logs */

static inline uint64_t clock_mono_us(void)
{
    return clock_mono_ns() / 1000;
}

void clock_sleep_us(uint64_t us);

#endif
