/* Files of the golden data, for the tests of the tokenizer. Each aborts the test on failure. */
#ifndef TESTS_UNIT_TOKENIZER_GOLDEN_H
#define TESTS_UNIT_TOKENIZER_GOLDEN_H

#include "base/buf.h"
#include "engine/tokenizer/vocab.h"

#include <stdbool.h>

/* Whether $KVASIR_SHARED/data is there. */
bool golden_present(void);
/* The bytes of $KVASIR_SHARED/data/NAME. */
struct buf golden_read(const char *name);
/* The vocabulary of $KVASIR_SHARED/data/NAME. */
struct vocab *golden_vocab(const char *name);
/* The ids of text, or a failed assertion. */
struct eng_ids golden_ids(const struct vocab *v, const char *text, size_t n, unsigned flags);
/* Bytes of ids from the start of a text. */
struct buf golden_text(const struct vocab *v, const int32_t *ids, size_t n);

#endif
