/* A sequence of random q, k, v with KV memory of its own, for the attention tests. */
#ifndef TESTS_UNIT_ATTENTION_ATT_CASE_H
#define TESTS_UNIT_ATTENTION_ATT_CASE_H

#include "engine/kernels/attention.h"

struct att_case {
    const char *name;
    uint32_t n_head, n_kv_head, d_k, d_v;
    uint32_t window;
    float softcap;
    bool sinks, alibi, bidirectional;
};

struct seq {
    const struct att_case *shape;
    uint32_t n_tok;
    float *q, *k, *v; /* [n_tok, heads, d] */
    float *out;       /* [n_tok, n_head, d_v] */
    uint8_t *kv;      /* ends at a page that cannot be touched */
    size_t kv_bytes;
    float sinks[64];
    float alibi[64];
};

/* kv_fill: the byte that unwritten KV holds (0xff: NaN in every type). */
void seq_init(struct seq *s, const struct att_case *shape, uint32_t n_tok, uint64_t seed,
              const struct att_ctx *c, int kv_fill);
void seq_finish(struct seq *s);
struct att_params seq_params(const struct seq *s, uint32_t kv_layer);
/* Tokens [from, to) of the sequence. */
struct att_slice seq_slice(const struct seq *s, uint32_t from, uint32_t to);

/* The double oracle on K and V as `type` stores them, queries rounded to bf16 if asked:
 * out [n_tok, n_head, d_v]. */
void seq_oracle(const struct seq *s, enum eng_kv_type type, bool bf16_q, double *out);

bool machine_has(enum kern_isa isa);

#endif
