/* One request on its way: its tokens, its place in KV memory, and what turns the next token into
 * text and into an end. Made by the submitter, from then on the scheduler thread's alone. */
#ifndef SCHEDULER_SEQUENCE_H
#define SCHEDULER_SEQUENCE_H

#include "scheduler/fairness.h"
#include "scheduler/scheduler.h"
#include "scheduler/stream.h"
#include "scheduler/text.h"

enum sch_phase {
    SCH_WAITING, /* in its tenant's queue */
    SCH_RUNNING, /* has KV memory */
    SCH_PARKED,  /* gave its KV memory back; goes before all that wait */
};

struct sch_seq {
    struct sch_link link; /* in sch.running or sch.parked, both in order of serial */
    struct sch_ticket ticket;
    enum sch_phase phase;
    struct sch_stream *st;
    struct kv_seq *kv; /* while running */
    struct kv_identity identity;
    struct kv_retention retention;
    bool shares;   /* its KV is in the prefix cache, under its identity */
    bool follows;  /* it runs, but waits for KV that others compute or the disk reads */
    bool is_large; /* what the cache has of it was not enough to let it in: no more guesses */
    void
        *state; /* [state_bytes] recurrent state, from the first run on; NULL: the model has none */

    int32_t *tokens; /* [n_prompt + n_gen_max] */
    uint32_t n_prompt;
    uint32_t n_gen;
    uint32_t n_computed; /* of tokens, from the first: their KV is written */
    uint32_t n_gen_max;
    uint32_t n_gen_min;
    uint32_t n_scored;  /* prompt tokens with their event sent; the first has none */
    uint32_t n_charged; /* tokens its tenant has paid for: not twice after parking */
    uint32_t n_cached;  /* prompt tokens it did not compute when it first ran */
    uint32_t n_cached_disk;

    struct kv_match match; /* while it follows, and as of match_epoch */
    uint32_t n_match_disk; /* tokens that the disk brought for it since it was opened */
    uint64_t match_epoch;
    uint64_t follow_mark; /* how far what it waits for was … */
    uint64_t follow_us;   /* … when that last changed; 0: not looked at yet */

    struct sample_params sample; /* bias and forbid point to own copies */
    struct sample_bias *bias;
    int32_t *forbid;  /* [n_forbid]: what must not come before n_gen_min */
    int32_t *stop_id; /* [n_stop_id] */
    uint32_t n_forbid;
    uint32_t n_stop_id;
    struct sample_state *counts; /* NULL without penalties */
    bool ignore_eos;
    bool show_special;
    uint32_t adapter;
    int32_t show_ids[SCH_SHOW_MAX]; /* [n_show_id] */
    uint32_t n_show_id;
    bool prompt_logprobs;
    bool keep_stop;
    double *pool;     /* [n_embd] sums for its vector; NULL: none is wanted */
    float *embedding; /* [n_embd] once made */
    enum eng_pooling pooling;
    char *tenant;
    struct eng_detok detok;
    struct sch_text text;

    uint32_t n_step_tok;  /* rows in the present step, 0: not in it */
    uint32_t slice_idx;   /* which of the step's slices */
    uint32_t room;        /* events its reader has room for, as of this step */
    uint64_t full_us;     /* since when there is none; 0: there is */
    uint64_t no_kv_us;    /* since when I/O alone keeps it from memory; 0: it does not */
    uint64_t deadline_us; /* 0: none */
    uint64_t admit_us;    /* first time it ran; 0: not yet */
    uint64_t first_us;    /* first token; 0: none yet */
    uint64_t last_us;     /* latest token */
};

/* What sch_submit knows of the engine and the store. */
struct sch_limits {
    const struct eng *eng;
    const int32_t *eog; /* [n_eog] ids that end a generation */
    uint32_t n_eog;
    uint32_t n_tok_max; /* of prompt and answer: what context and KV budget allow */
    bool shares;        /* sequences use the prefix cache */
};

/* Checks the request and copies all of it. Errors as sch_submit. */
enum err_code sch_seq_create(const struct sch_limits *limits, const struct sch_request *r,
                             struct sch_stream *st, struct sch_seq **ret_q, struct err *e);
void sch_seq_destroy(struct sch_seq *q); /* its KV is closed, its stream has its END */

static inline uint32_t sch_seq_n_tok(const struct sch_seq *q)
{
    return q->n_prompt + q->n_gen;
}

/* Tokens known but not computed. */
static inline uint32_t sch_seq_n_left(const struct sch_seq *q)
{
    return sch_seq_n_tok(q) - q->n_computed;
}

static inline struct sch_seq *sch_seq_of_link(struct sch_link *l)
{
    return SCH_OWNER_OF(l, struct sch_seq, link);
}

static inline struct sch_seq *sch_seq_of_ticket(struct sch_ticket *t)
{
    return SCH_OWNER_OF(t, struct sch_seq, ticket);
}

/* The first row of [n_computed, n_computed + n_tok) whose logits are wanted, relative. */
uint32_t sch_seq_out_from(const struct sch_seq *q, uint32_t n_tok);
/* What the logits of one computed row give: the score of a prompt token, or the answer's next.
 * row: position. logits: [n_vocab] f32, changed. False: the row is of no use. Changes nothing of q,
 * so that all rows of a step can be looked at together, by any threads. */
bool sch_seq_pick(const struct sch_seq *q, struct sample_scratch *scratch, float *logits,
                  uint32_t row, struct sample_result *ret_r);
/* Takes hidden states of rows [pos, pos + n_row) for its vector, which is whole with the prompt's
 * last. */
void sch_seq_pool(struct sch_seq *q, const struct eng *eng, const float *hidden, uint32_t pos,
                  uint32_t n_row);
/* Takes what sch_seq_pick found, rows in order, and sends its event. Returns how the answer ended,
 * or SCH_FINISH_NONE; with SCH_FINISH_ERROR, *e says why. */
enum sch_finish sch_seq_take(struct sch_seq *q, const struct eng *eng, uint32_t row,
                             const struct sample_result *r, struct err *e);
/* The END's event, but for its times. */
struct sch_event sch_seq_end_event(const struct sch_seq *q, enum sch_finish finish,
                                   const struct err *error);

#endif
