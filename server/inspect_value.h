/* Metadata values of a GGUF file as text. Pure. */
#ifndef SERVER_INSPECT_VALUE_H
#define SERVER_INSPECT_VALUE_H

#include "base/buf.h"
#include "engine/gguf.h"

#include <stdbool.h>

/* For a terminal: as it is when it is plain text, else quoted and escaped as JSON has it. */
void inspect_put_text(struct buf *b, struct gguf_str s);
/* JSON, or the same cut to a line's length for a terminal. Arrays of more than 16 elements are
 * {"n": length, "head": [the first]}. Bytes that are no UTF-8 become U+FFFD. */
void inspect_put_value(struct buf *b, const struct gguf_kv *kv, bool json);

#endif
