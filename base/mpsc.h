/* A bounded queue of pointers: many producers, one consumer. The one crossing into the scheduler
 * and into the prep pool's inboxes. A full queue refuses at once; nothing ever waits for room.
 * Closing wakes the consumer; what is queued can still be taken. */
#ifndef BASE_MPSC_H
#define BASE_MPSC_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mpsc; /* mutex and condition variable inside: its rate is requests, not tokens */

enum err_code mpsc_create(size_t n_item_max, struct mpsc **ret_q, struct err *e);
void mpsc_destroy(struct mpsc *q); /* NULL is legal; items left are the owner's to have taken */
/* False when full or closed. The queue never owns what the pointer names. */
bool mpsc_push(struct mpsc *q, void *item);
/* NULL when empty after timeout_us (0: do not wait), or when closed and drained. Several consumers
 * may pop too (the prep pool does); each item goes to one of them. */
void *mpsc_pop(struct mpsc *q, uint64_t timeout_us);
/* Wakes one waiting consumer without an item: it returns NULL. */
void mpsc_kick(struct mpsc *q);
void mpsc_close(struct mpsc *q);
size_t mpsc_len(struct mpsc *q);

#endif
