/* A scheduler on a fake engine, driven step by step, with readers that collect. */
#ifndef TESTS_UNIT_SCHEDULER_RIG_H
#define TESTS_UNIT_SCHEDULER_RIG_H

#include "base/buf.h"
#include "scheduler/scheduler.h"
#include "tests/fake/fake_engine.h"
#include "tests/fake/fake_oracle.h"

struct rig {
    struct eng *g;
    struct kv_store *kv;
    struct sch *s;
    _Atomic uint64_t now_us; /* the scheduler's clock */
    uint32_t step_us;        /* what a step of the engine adds to it … */
    uint32_t row_us;         /* … and each of its rows */
    uint32_t n_tok_max;      /* of prompt and answer */
    uint32_t n_row_last;     /* of the last step */
    uint32_t n_slice_last;
    uint64_t n_row; /* of all steps */
    bool has_disk;
};

/* Zero fields get roomy defaults; engine and kv are filled in. n_frame: chunks of KV memory. */
void rig_open(struct rig *r, const struct fake_options *fake, const struct sch_options *options,
              uint32_t n_frame);
/* The same with a disk; its fingerprint is filled in. */
void rig_open_disk(struct rig *r, const struct fake_options *fake,
                   const struct sch_options *options, uint32_t n_frame,
                   const struct kv_disk_options *disk);
void rig_close(struct rig *r); /* checks that no frame is in use */

struct reader {
    struct sch_stream *st;
    int32_t *ids;
    uint32_t n;
    uint32_t n_of_prompt;
    struct buf text;
    uint32_t n_end;
    struct sch_event end;
    struct err error;
    char stop[64];
    bool has_stop;
    uint32_t n_wake;
};

/* A plain greedy request. */
struct sch_request rig_request(const int32_t *tokens, uint32_t n_tok, uint32_t n_gen_max);
/* tokens[n] by seed, none of them eog. */
void rig_prompt(const struct rig *r, uint64_t seed, int32_t *tokens, uint32_t n);
void reader_open(struct rig *r, struct reader *q, struct sch_request req);
/* Reads what there is; every text must be whole UTF-8. Returns the number of events. */
uint32_t reader_drain(struct reader *q);
void reader_close(struct reader *q);
/* Steps and reads until each of q[n] has its END. */
void rig_run(struct rig *r, struct reader *q, uint32_t n);
/* The reader's stream is what the request must answer. */
void reader_check(struct rig *r, const struct reader *q, const struct sch_request *req);

#endif
