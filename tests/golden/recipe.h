/* Tiny models out of small text files, so that a clone alone tests every architecture. A recipe
 * (tests/golden/tiny/NAME.txt) lists metadata, tensors and the range that their values are drawn
 * from by name and seed, as the reference model of that architecture has them; then what the engine
 * made of it when it passed the reference data. Lines:
 *
 *   seed N
 *   kv KEY TYPE VALUE…           TYPE: u32, f32, bool, str, …; []TYPE: an array
 *   t NAME TYPE NE… u LO HI      values from [LO, HI); TYPE *: the type under test
 *   t NAME TYPE NE… v VALUE…     these values
 *   want TYPE POS CHECK ID VALUE ID VALUE…
 *
 * A tensor blk.A-B.REST stands for one in each of the layers A to B. */
#ifndef TESTS_GOLDEN_RECIPE_H
#define TESTS_GOLDEN_RECIPE_H

#include "base/buf.h"
#include "engine/gguf.h"

#include <stdbool.h>
#include <stdint.h>

#define RECIPE_N_BEST 6

/* One row of results: of a causal model logits, of an encoder hidden states. */
struct recipe_want {
    enum gguf_type type; /* of the tensors marked * */
    uint32_t pos;
    double check; /* recipe_check of the row */
    uint32_t ids[RECIPE_N_BEST];
    double values[RECIPE_N_BEST];
};

struct recipe {
    struct buf text; /* all lines but `want` */
    uint64_t seed;
    bool any_type; /* some tensors are of the type under test */
    struct recipe_want *want;
    uint32_t n_want;
};

/* false, with a line on stderr, when it cannot be read. recipe_free in either case. */
bool recipe_read(const char *path, struct recipe *r);
void recipe_free(struct recipe *r);

/* Writes the model. shake: values are multiplied by 1 ± shake, to see what rounding may do. */
bool recipe_build(const struct recipe *r, enum gguf_type type, double shake, const char *out_path);

/* The largest values of a row and a sum over all of it with made-up signs. */
void recipe_sum_up(const float *row, uint32_t n, struct recipe_want *out);
double recipe_check(const float *row, uint32_t n);

/* The recipe of a model that exists, its values' ranges taken from its tensors. */
bool recipe_of_model(const char *gguf_path, struct buf *out);

#endif
