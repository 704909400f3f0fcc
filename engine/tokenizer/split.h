/* Hand-written forms of the regular expressions that split text before byte-level BPE, for the hot
 * ones and for those a backtracking matcher would take more than linear time on. Each call gives
 * the length of the first piece; the pieces tile the text. Equal to their expressions, given beside
 * each form, by a differential test (tests/unit/tokenizer). Text is valid UTF-8. Pure; any thread.
 */
#ifndef ENGINE_TOKENIZER_SPLIT_H
#define ENGINE_TOKENIZER_SPLIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum split_form {
    /* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
    SPLIT_GPT2,
    /* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[LETTERS]+|\p{N}{1,DIGITS}
     * | ?[^\s\p{N}LETTERS]+[TAIL]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
    SPLIT_WORDS,
    /* The same with white space in powers of two, instead of \s+(?!\S)|\s+:
     * \s{512}(?!\S)|\s{256}(?!\S)|…|\s{4}(?!\S)|\s{1,2}(?!\S)|\s */
    SPLIT_BLOCKS,
    /* With U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}], W = [\p{Ll}\p{Lm}\p{Lo}\p{M}] and, if contractions,
     * C = (?i:'s|'t|'re|'ve|'m|'ll|'d)?:
     * [^\r\n\p{L}\p{N}]?U*W+C|[^\r\n\p{L}\p{N}]?U+W*C|\p{N}{1,DIGITS}
     * | ?[^\s\p{L}\p{N}]+[TAIL]*|\s*[\r\n]+|\s+(?!\S)|\s+
     * han: \p{Han}+ comes first, and U and W are without \p{Han}. */
    SPLIT_CASED,
    /* [^\n]+|\n+ */
    SPLIT_LINES,
    /* [ ]*[^ ]+|[ ]+ : where no token holds a space after another character */
    SPLIT_SPACES,
    /* (?=([LETTERS]{3})+(?![LETTERS])) : a cut wherever threes of digits begin, from the run's end
     */
    SPLIT_CUTS,
    /* [LETTERS]{1,3}(?=(?:[LETTERS]{3})*(?![LETTERS])) : digits in threes from the end of their run
     */
    SPLIT_THREES,
    /* [LETTERS]{1,3}(?=(?:[LETTERS]{3})*\b) : the same for runs that end at a word boundary */
    SPLIT_GROUPS,
};

struct split_rule {
    enum split_form form;
    uint32_t letters; /* SPLIT_WORDS, SPLIT_THREES, SPLIT_GROUPS: set of categories */
    uint32_t n_digit_max;
    bool contractions;
    bool han;
    const char *tail; /* ASCII */
};

/* What one pass over a text remembers between calls; zero at its start. */
struct split_memo {
    const char *until; /* end of a run that was looked through and is given in parts */
};

size_t split_next(const struct split_rule *rule, struct split_memo *memo, const char *s, size_t n);

#endif
