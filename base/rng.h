/* Random numbers without hidden state. A draw is a pure function of (key, counter), so a sampled
 * token depends on its request's seed, choice and position, never on what else runs.
 * Source: SplitMix64 finaliser (Steele, Lea, Flood 2014). */
#ifndef BASE_RNG_H
#define BASE_RNG_H

#include <stdint.h>

uint64_t rng_mix(uint64_t key, uint64_t counter);
double rng_unit(uint64_t key, uint64_t counter); /* in [0, 1), 53 bits */

/* A stream for tests, generators and ids: state is the caller's. */
uint64_t rng_next(uint64_t *state);
/* Seed from the kernel, for ids and for requests that give no seed. */
uint64_t rng_entropy(void);

#endif
