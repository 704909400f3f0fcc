#ifndef TESTS_UNIT_ATTENTION_ATT_BENCH_H
#define TESTS_UNIT_ATTENTION_ATT_BENCH_H

/* Arguments after --bench: isa, KV type, most threads, "decode" or "prefill". Returns the exit
 * status. */
int att_bench(int argc, char **argv);

#endif
