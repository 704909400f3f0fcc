/* What a request must answer, worked out without scheduler, KV memory or batching: token after
 * token from fake_logits, the whole text decoded and searched afresh each time. Slow and plain. */
#ifndef TESTS_FAKE_FAKE_ORACLE_H
#define TESTS_FAKE_FAKE_ORACLE_H

#include "base/buf.h"
#include "scheduler/scheduler.h"
#include "tests/fake/fake_engine.h"

struct fake_answer {
    int32_t *ids; /* [n] */
    uint32_t n;
    struct buf text;
    enum sch_finish finish;   /* STOP or LENGTH */
    const char *stop_matched; /* one of the request's, or NULL */
};

/* n_tok_max: of prompt and answer. */
void fake_expect(const struct eng *g, const struct sch_request *r, uint32_t n_tok_max,
                 struct fake_answer *ret_a);
void fake_answer_finish(struct fake_answer *a);

#endif
