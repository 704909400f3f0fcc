/* Finds added tokens (<s>, <|im_end|>, …) in text: the leftmost one, and of those that start there
 * the longest. Built once, then read by any thread. */
#ifndef ENGINE_TOKENIZER_SPECIAL_H
#define ENGINE_TOKENIZER_SPECIAL_H

#include "base/err.h"
#include "engine/tokenizer/strtab.h"

#include <stddef.h>
#include <stdint.h>

struct special_entry {
    struct span text;
    int32_t id;
};

struct special {
    struct special_entry *entries; /* sorted by their bytes */
    size_t n;
    uint32_t first[257]; /* entries that begin with byte b: [first[b], first[b + 1]) */
};

/* Takes the texts of ids[0…n), which must outlive it; empty ones are left out, and those that are
 * not UTF-8, so that what lies between matches in valid text is valid too. */
enum err_code special_init(struct special *s, const struct span *texts, const int32_t *ids,
                           size_t n, struct err *e);
void special_finish(struct special *s);
/* Offset of the first added token in text[0…n) and its id; n where there is none. */
size_t special_find(const struct special *s, const char *text, size_t n, int32_t *ret_id,
                    size_t *ret_len);

#endif
