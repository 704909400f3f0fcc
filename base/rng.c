#include "base/rng.h"

#include "base/clock.h"

#include <sys/random.h>

#define GOLDEN_GAMMA 0x9e3779b97f4a7c15U

static uint64_t finalise(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9U;
    z = (z ^ z >> 27) * 0x94d049bb133111ebU;
    return z ^ z >> 31;
}

uint64_t rng_mix(uint64_t key, uint64_t counter)
{
    return finalise(finalise(key + GOLDEN_GAMMA) ^ finalise(counter * GOLDEN_GAMMA + 1));
}

double rng_unit(uint64_t key, uint64_t counter)
{
    return (double)(rng_mix(key, counter) >> 11) * 0x1.0p-53;
}

uint64_t rng_next(uint64_t *state)
{
    *state += GOLDEN_GAMMA;
    return finalise(*state);
}

uint64_t rng_entropy(void)
{
    uint64_t v = 0;
    if (getrandom(&v, sizeof v, 0) != (ssize_t)sizeof v) {
        v = finalise(clock_mono_ns());
    }
    return v;
}
