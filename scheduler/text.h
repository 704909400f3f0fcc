/* From a token's bytes to text that may leave: whole UTF-8 characters, nothing that could still
 * become a stop string, nothing from a stop string on. Bytes that can't become a character turn
 * into U+FFFD, one for each maximal part of one (Unicode 15, section 3.9).
 * Owner: one sequence; one thread at a time. */
#ifndef SCHEDULER_TEXT_H
#define SCHEDULER_TEXT_H

#include "base/buf.h"
#include "scheduler/stop.h"

#include <stdbool.h>
#include <stddef.h>

struct sch_text {
    struct sch_stop stop;
    bool keep_stop;
    struct buf raw;  /* bytes of an unfinished character and, while feeding, of the new token */
    struct buf text; /* whole characters: first those that may leave, then those held */
    size_t n_ready;  /* bytes of text that may leave now */
    int32_t matched; /* index of the stop string that ended the text, -1: none */
};

/* Takes the stop strings, see sch_stop_init. */
enum err_code sch_text_init(struct sch_text *t, const char *const *stop, uint32_t n_stop,
                            bool keep_stop, struct err *e);
void sch_text_finish(struct sch_text *t); /* of a zeroed one too */

/* The caller appends a token's bytes to t->raw, then calls this. look: whether stop strings count
 * yet. True when one was found: text holds what may leave and nothing more will come. */
bool sch_text_feed(struct sch_text *t, bool look);
/* The answer ends here: everything held may leave. */
void sch_text_flush(struct sch_text *t);
/* Forgets the bytes that were ready: the caller has taken them. */
void sch_text_taken(struct sch_text *t);
bool sch_text_ok(const struct sch_text *t); /* false once memory ran out */

#endif
