/* How sequences use the KV store's prefix cache: whose KV they may share, where computing begins,
 * and who waits for a twin that computes the same. It changes what is computed, never a token.
 *
 * A sequence that waits ("follows") runs, but is in no step: it has what is there of its prompt
 * mapped and takes over more as others compute it or the disk brings it. Only a sequence that
 * computes is waited for, and only while it gets on, so nobody waits in a circle or for ever.
 *
 * Models with recurrent state and encoders share nothing: a prefix's KV is not all they need.
 *
 * Thread: the scheduler's, but for sch_cache_identity. */
#ifndef SCHEDULER_CACHE_H
#define SCHEDULER_CACHE_H

#include "scheduler/loop.h"

/* Any thread. Model, KV format and arithmetic, then adapter (0: none), tenant and salt (NULL:
 * none). ERR_NOMEM. */
enum err_code sch_cache_identity(const struct eng_info *info, uint32_t adapter, const char *tenant,
                                 const char *salt, struct kv_identity *ret_id, struct err *e);

/* Tokens of a waiting request that are in RAM; what the disk has of it begins to be read. */
uint32_t sch_cache_look(struct sch *s, const struct sch_seq *q);
/* Opens q's KV with what there is of its tokens. q->follows tells whether it waits for more; if
 * not, n_computed is set. ERR_FULL: not now. */
enum err_code sch_cache_open(struct sch *s, struct sch_seq *q, struct err *e);
/* Gives q's KV back; what was committed stays for others, and for q's own return. */
void sch_cache_close(struct sch *s, struct sch_seq *q);
/* Each step, for those that run: whether q computes from now on. */
bool sch_cache_follow(struct sch *s, struct sch_seq *q);
/* The KV of q's next n_tok tokens is written. */
void sch_cache_commit(struct sch *s, struct sch_seq *q, uint32_t n_tok);
/* Chunks that those who wait will need beside what others bring them. */
uint64_t sch_cache_n_promised(const struct sch *s);
/* Drives the store's disk side; what it brought may let others go on. */
void sch_cache_poll(struct sch *s);
/* How long the loop may sleep, at most max_us, so that the disk's work goes on. */
uint64_t sch_cache_nap_us(struct sch *s, uint64_t max_us);

#endif
