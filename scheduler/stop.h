/* Stop strings, looked for in a stream of text that comes in pieces of any size. One automaton per
 * string says how much of it the text ends with, so each byte is looked at once, and what might
 * still become a stop string is known and held back.
 * Source: Knuth, Morris, Pratt, Fast pattern matching in strings (1977).
 * Owner: one sequence; one thread at a time. */
#ifndef SCHEDULER_STOP_H
#define SCHEDULER_STOP_H

#include "base/err.h"
#include "scheduler/scheduler.h"

#include <stddef.h>
#include <stdint.h>

struct sch_stop_string {
    char *text;     /* [len] and a NUL; owned */
    uint32_t *fail; /* [len]: the longest proper prefix that the first i + 1 bytes end with */
    uint32_t len;
    uint32_t n_matched; /* bytes of it that the text ends with */
};

struct sch_stop {
    struct sch_stop_string strings[SCH_STOP_MAX];
    uint32_t n;
};

/* ERR_INVALID: more than SCH_STOP_MAX, or an empty string. */
enum err_code sch_stop_init(struct sch_stop *s, const char *const *strings, uint32_t n,
                            struct err *e);
void sch_stop_finish(struct sch_stop *s); /* of a zeroed one too */

struct sch_stop_match {
    int32_t idx;      /* which string, -1: none */
    size_t n_byte;    /* bytes of this piece up to the match's last, that one included */
    size_t match_len; /* of the string */
};

/* Feeds the next piece. A match is the string whose last byte comes first, the longest of those
 * that end there; nothing may be fed after one. */
struct sch_stop_match sch_stop_feed(struct sch_stop *s, const char *piece, size_t n);
/* Bytes at the text's end that may be the beginning of a stop string. */
size_t sch_stop_n_held(const struct sch_stop *s);

#endif
