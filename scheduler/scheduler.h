/* Continuous batching: requests join and leave at every step of one loop. Each step runs all
 * decoding sequences and as much prefill as the step's budget allows, so that a long prompt never
 * freezes the others. The scheduler owns sequences, the KV store and the calls into the engine.
 *
 * Order: tenants take turns by what they have used (fairness.h), each first come, first served; a
 * request that waited longer than wait_max_us goes before all. Which requests share a step, and how
 * prompts are sliced, never changes a token.
 *
 * Memory: a request is admitted once its whole prompt has KV memory and every running sequence
 * keeps a chunk to grow into. When growth finds no frame, the youngest sequence gives its memory
 * back and goes on later, with the same tokens: from what the prefix cache still has of it then,
 * the rest is computed again. The oldest is never asked, so there is always one that ends.
 *
 * Threads: sch_submit, sch_cancel, sch_stream_* and sch_get_stats may be called from any thread; a
 * stream has one reader at a time. All else happens on the scheduler's own thread (sch_start), or
 * on the caller's when a test drives sch_step itself. No lock is held across a step.
 *
 * A reader that sleeps: with a lock L of its own, it calls sch_stream_next while holding L, and if
 * that is false notes "asleep" and suspends before it lets L go. `wake` takes L and, if asleep,
 * resumes. An event pushed before the call is returned by it; one pushed after is followed by a
 * wake, which waits for L: no wake-up is lost. sch_stream_release waits for a wake that is under
 * way, so it must not be called with L held, nor from wake. */
#ifndef SCHEDULER_SCHEDULER_H
#define SCHEDULER_SCHEDULER_H

#include "base/err.h"
#include "engine/engine.h"
#include "engine/sample.h"
#include "kvstore/kvstore.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sch_options {
    struct eng *eng;         /* outlives the scheduler */
    struct kv_store *kv;     /* outlives the scheduler; its thread is the scheduler's from now on */
    uint32_t n_queued_max;   /* submitted and not yet running; beyond it ERR_FULL */
    uint32_t n_running_max;  /* sequences in one step */
    uint32_t n_step_tok_max; /* rows of one step; 0: the engine's limit */
    uint32_t
        itl_target_us;    /* a step beside decodes should not take longer; 0: no slicing by time */
    uint32_t n_event_max; /* per stream; a full ring pauses its sequence */
    uint64_t reader_stall_us; /* a ring full for so long cancels its request; 0: never */
    uint64_t wait_max_us;     /* hard limit of unfairness, see above; 0: 10 s */
    bool prefix_cache;        /* prompts begin with what the KV store has of them, see cache.h */
    uint64_t kv_flush_us;     /* at the end, for what is to be on disk */
    bool check_kv;            /* kv_check after every step; a failure aborts. For debug and tests */
    uint64_t (*now_us)(void *arg); /* NULL: clock_mono_us; a simulator brings its own time */
    void *now_arg;
};

enum sch_finish {
    SCH_FINISH_NONE,
    SCH_FINISH_STOP,
    SCH_FINISH_LENGTH,
    SCH_FINISH_CANCELLED,
    SCH_FINISH_ERROR
};

#define SCH_STOP_MAX 16
#define SCH_SHOW_MAX 8

struct sch_request {
    const int32_t *tokens; /* [n_tok], copied; n_tok >= 1 */
    uint32_t n_tok;
    uint32_t n_gen_max;          /* 0 is legal: prefill only (echo with logprobs) */
    uint32_t n_gen_min;          /* before it, end-of-generation and stop ids are forbidden, and
                                  * stop strings are not looked for */
    struct sample_params sample; /* bias is copied */
    /* [n_stop] non-empty UTF-8 strings, copied. The one whose last byte comes first ends the
     * answer, the longest if several end there: token borders play no part. */
    const char *const *stop;
    uint32_t n_stop;
    const int32_t *stop_ids; /* [n_stop_id], copied */
    uint32_t n_stop_id;
    bool keep_stop; /* the stop string, or the text of the id that ended, stays in the output */
    bool ignore_eos;
    bool show_special;              /* control tokens appear as text */
    int32_t show_ids[SCH_SHOW_MAX]; /* [n_show_id] control tokens that appear all the same */
    uint32_t n_show_id;
    bool prompt_logprobs;     /* a TOKEN event for every prompt token from the second on */
    bool embed;               /* one vector for the prompt, with the END; n_gen_max is 0 */
    enum eng_pooling pooling; /* with embed: how it is made of the prompt's rows */
    const char *tenant;       /* copied; for fairness, and KV is shared inside it. NULL: "" */
    uint32_t adapter;         /* 0: none, else 1 + its index in the engine's info.adapters */
    const char *cache_salt; /* KV is shared only among equal ones, inside the tenant. NULL: none */
    struct kv_retention retention; /* of the KV it leaves */
    uint64_t deadline_us; /* monotonic; 0: none. Passed: SCH_FINISH_ERROR with ERR_TIMEOUT */
    /* Called on the scheduler's thread when events became readable after the ring was empty. Must
     * not block. Never called after sch_stream_release returned. */
    void (*wake)(void *arg);
    void *wake_arg;
};

enum sch_event_kind {
    SCH_EVENT_TOKEN, /* a token was decided; its text may be empty while bytes are held back */
    SCH_EVENT_END,   /* last event of a stream, exactly once */
};

struct sch_event {
    enum sch_event_kind kind;
    /* TOKEN */
    int32_t id;
    bool of_prompt;
    /* Whole UTF-8 characters (what cannot become one is U+FFFD), valid until the next
     * sch_stream_next. Empty for tokens of the prompt. The texts of all events are the answer. */
    const char *text;
    size_t n_byte;
    const struct sample_result *logprobs; /* NULL unless asked for; same validity */
    /* END */
    enum sch_finish finish;
    const struct err *error;  /* with SCH_FINISH_ERROR */
    const char *stop_matched; /* the stop string that ended it, or NULL */
    const float *embedding;   /* [n_embd] of length 1, with `embed` and no error; valid until the
                               * stream is released */
    uint32_t n_prompt_tok;
    uint32_t n_cached_tok;      /* of the prompt, not computed for it */
    uint32_t n_cached_disk_tok; /* of those, the ones that came from disk */
    uint32_t n_cache_write_tok; /* of the prompt, computed and kept for others */
    uint32_t n_gen_tok;         /* an id that ended the answer counts */
    uint64_t queue_us;
    uint64_t ttft_us; /* from submit to the first token */
    uint64_t total_us;
};

struct sch;
struct sch_stream;

/* Whether this model's sequences can share KV: with recurrent state, or as encoders, they do not.
 */
bool sch_can_share(const struct eng *eng);
/* What kv_disk_options.fingerprint must be for this engine. ERR_NOMEM. */
enum err_code sch_kv_fingerprint(const struct eng *eng, uint8_t ret_fingerprint[32], struct err *e);

enum err_code sch_create(const struct sch_options *options, struct sch **ret_s, struct err *e);
enum err_code sch_start(struct sch *s, struct err *e); /* begins the thread */
/* Refuses new requests; accepted ones go on for at most grace_us, then are cancelled. Returns when
 * the thread has ended and every stream has its END. Without a thread it runs the steps itself. */
void sch_stop(struct sch *s, uint64_t grace_us);
void sch_destroy(struct sch *s); /* after sch_stop, streams released; NULL is legal */

/* One turn of the loop; false when it found nothing to do. For tests without a thread. */
bool sch_step(struct sch *s);

/* ERR_FULL: queue full or draining. ERR_INVALID: tokens out of range. ERR_UNSUPPORTED: an answer
 * from an encoder, a vector from a model without hidden states. ERR_LIMIT: the prompt and one
 * token do not fit the context or the KV budget. n_gen_max is cut to what the context leaves. */
enum err_code sch_submit(struct sch *s, const struct sch_request *r, struct sch_stream **ret_st,
                         struct err *e);
/* The reader gives up; takes effect within one step. The END still comes. */
void sch_cancel(struct sch_stream *st);
/* Pops the next event; false when there is none now. */
bool sch_stream_next(struct sch_stream *st, struct sch_event *ret_ev);
/* The reader's last call; cancels if the END was not read. NULL is legal. Waits for a wake under
 * way, see above. */
void sch_stream_release(struct sch_stream *st);

#define SCH_HIST_BUCKETS 24

/* Since the start. A value is counted in one bucket, the first whose bound is not below it; the
 * last bucket has no bound. (Prometheus wants running sums of these.) */
struct sch_hist {
    uint64_t n_by_bucket[SCH_HIST_BUCKETS];
    uint64_t n;
    uint64_t sum_us;
};
extern const uint64_t sch_hist_bounds_us[SCH_HIST_BUCKETS - 1];

struct sch_stats {
    uint64_t n_queued;
    uint64_t n_running;
    uint64_t n_submitted;
    uint64_t n_rejected;
    uint64_t n_finished[5]; /* by enum sch_finish */
    uint64_t n_prompt_tok;
    uint64_t n_cached_tok;
    uint64_t n_cached_disk_tok;
    uint64_t n_recomputed_tok; /* computed before, given back for want of memory, and gone */
    uint64_t n_gen_tok;
    uint64_t n_step;
    uint64_t n_preempted;
    uint64_t last_step_end_us; /* monotonic: the heartbeat of /health */
    struct sch_hist ttft, itl, e2e, queue, step;
    struct kv_stats kv;
};
void sch_get_stats(struct sch *s, struct sch_stats *ret_stats);

#endif
