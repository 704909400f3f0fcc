/* The way from a running sequence to its reader: a bounded ring of token events, then one END that
 * always has room. Two owners, the scheduler and the reader; the last to let go frees it.
 *
 * Everything but `cancelled` is guarded by mu. The wake function is called with no lock held, by
 * the scheduler alone, after an event went into an empty ring. */
#ifndef SCHEDULER_STREAM_H
#define SCHEDULER_STREAM_H

#include "base/buf.h"
#include "scheduler/scheduler.h"

#include <pthread.h>
#include <stdatomic.h>

struct sch_stream_event {
    int32_t id;
    uint32_t n_byte; /* of the FIFO's text */
    bool of_prompt;
    bool scored; /* results[] holds its log-probabilities */
};

struct sch_stream {
    struct sch *s; /* whom to kick */
    pthread_mutex_t mu;
    pthread_cond_t wake_done;
    atomic_bool cancelled; /* set by anyone, read by the scheduler */

    /* Guarded by mu from here on. */
    void (*wake)(void *arg);
    void *wake_arg;
    bool waking;
    bool reader_gone;
    bool scheduler_gone;

    struct sch_stream_event *events; /* [n_event_max] */
    struct sample_result *results;   /* [n_event_max], NULL unless log-probabilities are wanted */
    uint32_t n_event_max;
    uint32_t head; /* next to read */
    uint32_t n_event;
    struct buf text;  /* texts of the events in the ring, one after the other … */
    size_t text_head; /* … from here on */

    bool has_end;
    bool end_read;
    struct sch_event end;
    struct err end_error;
    char *end_stop; /* copy of the stop string; owned */
    float *vector;  /* [n_embd] copy of the embedding, NULL unless one is wanted; owned */
    uint32_t n_embd;

    /* What the last event read points to: the reader's. */
    struct buf read_text;
    struct sample_result read_result;
};

/* A full ring of text pauses a sequence too. */
#define SCH_STREAM_TEXT_MAX 65536

enum err_code sch_stream_create(struct sch *s, const struct sch_request *r, uint32_t n_event_max,
                                struct sch_stream **ret_st, struct err *e);

void sch_stream_discard(struct sch_stream *st); /* one that nobody else has seen; NULL is legal */

/* The scheduler's side. */

/* Events that may be pushed now; it only grows until the scheduler pushes again. */
uint32_t sch_stream_room(struct sch_stream *st);
/* False when memory ran out. There must be room. result may be NULL. */
bool sch_stream_push(struct sch_stream *st, int32_t id, bool of_prompt, const char *text,
                     size_t n_byte, const struct sample_result *result);
/* The last event, and the scheduler's last call: end's pointers are copied where they lead. */
void sch_stream_end(struct sch_stream *st, const struct sch_event *end);

#endif
