#include "kvstore/spill.h"

#include "base/clock.h"
#include "base/log.h"
#include "kvstore/store.h"

#include <stdlib.h>
#include <string.h>

#define IO_TIMEOUT_US 2000000
#define TAIL_IDLE_US  2000000
#define LOCK_WAIT_US  5000000
#define OPEN_RETRY_US 5000000
#define LATE_RETRY_US 30000000
#define FULL_PAUSE_US 30000000
#define N_ERROR_ROW   8
#define N_LATE_MAX    (KV_N_JOB / 2)
/* Above this share (1/n) of frames held by jobs given up, no more are begun. */
#define LATE_FRAMES_DEN 4
#define BREAK_US        1000000
#define BREAK_US_MAX    30000000
#define N_MARK_MAX      65536u
#define N_WRITE_TRY     3
#define SWEEP_IDLE_US   1000000
#define BUSY_IDLE_US    1000
#define LATE_IDLE_US    100000
#define CREDIT_SECONDS  2.0
/* Above this share of the queue, chunks used only once are not written. */
#define BACKLOG_NUM 1
#define BACKLOG_DEN 2

static struct kv_node *node_at(const struct kv_store *s, uint32_t node)
{
    return &s->index.nodes[node];
}

/* ---- The circuit breaker ---- */

/* Whether no job may be begun now. Jobs given up hold frames until the kernel lets go of them: not
 * too many. */
static bool is_closed(const struct kv_store *s)
{
    const struct kv_spill *p = &s->spill;
    if (!p->tier || s->now_us < p->closed_until_us || p->n_late >= N_LATE_MAX ||
        p->n_late > s->arena.n_frame / LATE_FRAMES_DEN) {
        return true;
    }
    bool is_half_open = p->closed_for_us > 0;
    return is_half_open &&
           kv_tier_n_busy(p->tier, false) + kv_tier_n_busy(p->tier, true) > p->n_late;
}

static void breaker_close(struct kv_store *s)
{
    struct kv_spill *p = &s->spill;
    p->n_error_row = 0;
    p->closed_for_us = p->closed_for_us ? 2 * p->closed_for_us : BREAK_US;
    p->closed_for_us = p->closed_for_us < BREAK_US_MAX ? p->closed_for_us : BREAK_US_MAX;
    p->closed_until_us = s->now_us + p->closed_for_us;
    log_warn("kv disk: %s does not answer as it should; not used for %llu s", p->disk.path,
             (unsigned long long)(p->closed_for_us / 1000000));
}

static void note_error(struct kv_store *s)
{
    struct kv_spill *p = &s->spill;
    s->counters.n_io_error++;
    if (s->now_us >= p->closed_until_us &&
        (p->closed_for_us > 0 || ++p->n_error_row >= N_ERROR_ROW)) {
        breaker_close(s);
    }
}

static void note_success(struct kv_store *s, const struct kv_job *j)
{
    struct kv_spill *p = &s->spill;
    p->n_error_row = 0;
    if (p->closed_for_us == 0 || j->begin_us < p->closed_until_us) {
        return; /* open, or it was begun before */
    }
    p->closed_for_us = p->closed_until_us = 0;
    log_info("kv disk: %s answers again", p->disk.path);
    for (uint32_t i = 0; i < s->index.n_node_max; i++) { /* what was given up meanwhile */
        struct kv_node *n = node_at(s, i);
        n->retry_us = 0;
        n->n_write_try = 0;
        if (n->state == KV_NODE_SEALED && n->frame != KV_FRAME_NONE &&
            n->job_write == KV_JOB_NONE) {
            (n->n_tok == s->options.chunk_tok ? kv_spill_want : kv_spill_want_tail)(s, i);
        }
    }
}

/* ---- Queues ---- */

static bool queue_push(struct kv_queue *q, const struct kv_store *s, uint32_t node, uint64_t due_us)
{
    if (q->n == q->n_max) {
        return false;
    }
    q->entries[(q->first + q->n++) % q->n_max] = (struct kv_queued){
        .node = node, .generation = node_at(s, node)->generation, .due_us = due_us};
    return true;
}

static void queue_pop(struct kv_queue *q)
{
    q->first = (q->first + 1) % q->n_max;
    q->n--;
}

static bool is_unwritten(const struct kv_store *s, const struct kv_queued *entry)
{
    const struct kv_node *n = node_at(s, entry->node);
    return n->generation == entry->generation && n->state == KV_NODE_SEALED && !n->ram_only &&
           n->frame != KV_FRAME_NONE && n->slot == KV_SLOT_NONE && n->job_write == KV_JOB_NONE;
}

void kv_spill_want(struct kv_store *s, uint32_t node)
{
    if (s->spill.writes.n_max > 0 && !node_at(s, node)->ram_only &&
        node_at(s, node)->slot == KV_SLOT_NONE && !queue_push(&s->spill.writes, s, node, 0)) {
        s->counters.n_write_dropped++;
    }
}

void kv_spill_want_tail(struct kv_store *s, uint32_t node)
{
    if (s->spill.tails.n_max > 0 && !node_at(s, node)->ram_only &&
        node_at(s, node)->slot == KV_SLOT_NONE &&
        !queue_push(&s->spill.tails, s, node, s->now_us + s->options.disk.tail_idle_us)) {
        s->counters.n_write_dropped++;
    }
}

void kv_spill_want_mark(struct kv_store *s, uint32_t node)
{
    if (s->spill.marks.n_max > 0) { /* a full queue: the pin is this process's alone */
        (void)queue_push(&s->spill.marks, s, node, 0);
    }
}

/* ---- Slots ---- */

void kv_slot_release(struct kv_store *s, uint32_t node)
{
    uint32_t slot = node_at(s, node)->slot;
    if (slot != KV_SLOT_NONE) {
        kv_disk_release(&s->spill.disk, slot, false);
        kv_node_set_slot(s, node, KV_SLOT_NONE);
    }
}

static uint32_t slot_take(struct kv_store *s)
{
    uint32_t slot = kv_disk_take(&s->spill.disk);
    if (slot == KV_SLOT_NONE && kv_evict_slot(s)) {
        slot = kv_disk_take(&s->spill.disk);
    }
    return slot;
}

/* Segments are made by the I/O thread, ahead of need. */
static void segments_pump(struct kv_store *s)
{
    struct kv_spill *p = &s->spill;
    int fd;
    if (p->makes_segment && kv_tier_segment_take(p->tier, &fd)) {
        kv_disk_add_segment(&p->disk, fd, s->now_us);
        p->makes_segment = false;
    }
    if (!p->makes_segment && p->writes.n > 0 && !is_closed(s) &&
        kv_disk_wants_segment(&p->disk, s->now_us)) {
        kv_tier_segment_start(p->tier, &p->disk);
        p->makes_segment = true;
    }
}

/* ---- Starting jobs ---- */

static struct kv_job *job_fill(struct kv_store *s, uint32_t job, uint32_t node, uint32_t slot,
                               uint32_t frame)
{
    const struct kv_disk *d = &s->spill.disk;
    struct kv_job *j = kv_tier_job(s->spill.tier, job);
    j->fd = kv_disk_fd(d, slot);
    j->seg = slot / d->n_slot_segment;
    j->slot = slot;
    j->header_offset = kv_disk_header_offset(d, slot);
    j->payload_offset = kv_disk_payload_offset(d, slot);
    j->bytes = frame == KV_FRAME_NONE ? NULL : kv_arena_frame(&s->arena, frame);
    j->node = node;
    j->generation = node_at(s, node)->generation;
    j->frame = frame;
    s->spill.busy[job] = true;
    return j;
}

/* All that a header says of a node, CRCs excepted. */
static void header_fill(const struct kv_store *s, uint32_t node, uint32_t slot,
                        struct kv_slot_header *h)
{
    const struct kv_node *n = node_at(s, node);
    uint32_t root = node;
    while (node_at(s, root)->state != KV_NODE_ROOT) {
        root = node_at(s, root)->parent;
    }
    memset(h, 0, sizeof *h);
    memcpy(h->magic, KV_SLOT_MAGIC, sizeof h->magic);
    h->version = KV_DISK_VERSION;
    h->slot = slot;
    h->chunk_bytes = s->options.chunk_bytes;
    memcpy(h->fingerprint, s->options.disk.fingerprint, sizeof h->fingerprint);
    memcpy(h->key, n->key, sizeof h->key);
    memcpy(h->parent, node_at(s, n->parent)->key, sizeof h->parent);
    memcpy(h->root, node_at(s, root)->key, sizeof h->root);
    memcpy(h->tenant, s->tenants[n->tenant].digest, sizeof h->tenant);
    h->n_tok = n->n_tok;
    h->depth = n->depth;
    h->freq = n->freq;
    h->kept_until_s = n->kept_until_s;
    h->expires_s = n->expires_s;
    memcpy(h->tokens, kv_index_tokens(&s->index, node), n->n_tok * sizeof *h->tokens);
}

enum kv_load kv_load_start(struct kv_store *s, uint32_t node)
{
    struct kv_spill *p = &s->spill;
    struct kv_node *n = node_at(s, node);
    if (is_closed(s) || n->slot == KV_SLOT_NONE || s->now_us < n->retry_us ||
        n->job_write != KV_JOB_NONE) {
        return KV_LOAD_NO;
    }
    double queue_bytes = (kv_tier_n_busy(p->tier, false) + 1.0) * (double)s->options.chunk_bytes;
    if (p->recompute_tok_s > 0 && p->restore_bytes_s > 0 &&
        queue_bytes / p->restore_bytes_s >
            (kv_tier_n_busy(p->tier, false) + 1.0) * n->n_tok / p->recompute_tok_s) {
        return KV_LOAD_NO; /* computing is faster */
    }
    uint32_t job = kv_tier_job_new(p->tier, false);
    if (job == KV_JOB_NONE) {
        return KV_LOAD_BUSY; /* not all of them given up: see is_closed */
    }
    n->job_read = job;
    kv_node_update(s, node); /* its parent stays */
    uint32_t frame = kv_frame_take(s, node_at(s, n->parent)->frame, n->depth);
    if (frame == KV_FRAME_NONE) {
        n->job_read = KV_JOB_NONE;
        kv_node_update(s, node);
        kv_tier_job_free(p->tier, job);
        return KV_LOAD_NO;
    }
    kv_arena_io(&s->arena, frame, 1, 0);
    kv_arena_unmap(&s->arena, frame);
    kv_disk_io(&p->disk, n->slot, 1);
    struct kv_job *j = job_fill(s, job, node, n->slot, frame);
    header_fill(s, node, n->slot, j->want);
    kv_tier_start(p->tier, job);
    s->counters.n_read++;
    return KV_LOAD_STARTED;
}

enum write_start { WRITE_STARTED, WRITE_LATER, WRITE_NEVER };

static enum write_start write_start(struct kv_store *s, uint32_t node)
{
    struct kv_spill *p = &s->spill;
    struct kv_node *n = node_at(s, node);
    if (n->n_write_try >= N_WRITE_TRY) {
        return WRITE_NEVER;
    }
    uint32_t job = kv_tier_job_new(p->tier, true);
    if (job == KV_JOB_NONE) {
        return WRITE_LATER;
    }
    n->job_write = job;
    kv_node_update(s, node); /* its parent keeps its slot */
    uint32_t slot = slot_take(s);
    if (slot == KV_SLOT_NONE) {
        n->job_write = KV_JOB_NONE;
        kv_node_update(s, node);
        kv_tier_job_free(p->tier, job);
        return WRITE_NEVER;
    }
    n->n_write_try++;
    kv_arena_io(&s->arena, n->frame, 0, 1);
    kv_disk_io(&p->disk, slot, 1);
    struct kv_job *j = job_fill(s, job, node, slot, n->frame);
    header_fill(s, node, slot, j->header);
    j->header->generation = ++p->disk.generation;
    j->header->written_unix_s = clock_unix_s();
    kv_tier_start(p->tier, job);
    s->counters.n_write++;
    return WRITE_STARTED;
}

/* The topmost of the node and its ancestors that is neither on disk nor on its way there. */
static uint32_t first_unwritten(const struct kv_store *s, uint32_t node)
{
    uint32_t first = node;
    for (uint32_t i = node_at(s, node)->parent;
         node_at(s, i)->state != KV_NODE_ROOT && node_at(s, i)->slot == KV_SLOT_NONE &&
         node_at(s, i)->job_write == KV_JOB_NONE;
         i = node_at(s, i)->parent) {
        first = i;
    }
    return first;
}

static bool take_credit(struct kv_store *s)
{
    struct kv_spill *p = &s->spill;
    double rate = (double)s->options.disk.write_bytes_s_max;
    if (rate <= 0) {
        return true;
    }
    double most = rate * CREDIT_SECONDS;
    most = most > (double)s->options.chunk_bytes ? most : (double)s->options.chunk_bytes;
    p->write_credit_bytes += rate * (double)(s->now_us - p->credit_us) / 1e6;
    p->write_credit_bytes = p->write_credit_bytes < most ? p->write_credit_bytes : most;
    p->credit_us = s->now_us;
    if (p->write_credit_bytes < (double)s->options.chunk_bytes) {
        return false;
    }
    p->write_credit_bytes -= (double)s->options.chunk_bytes;
    return true;
}

/* One at a time: they are few and small. */
static void marks_pump(struct kv_store *s)
{
    struct kv_spill *p = &s->spill;
    while (p->marks.n > 0 && !is_closed(s) && !p->marks_slot) {
        struct kv_queued entry = p->marks.entries[p->marks.first];
        const struct kv_node *n = node_at(s, entry.node);
        bool is_on_disk = n->generation == entry.generation && n->state == KV_NODE_SEALED &&
                          n->slot != KV_SLOT_NONE;
        uint32_t job = is_on_disk ? kv_tier_job_new(p->tier, true) : KV_JOB_NONE;
        if (is_on_disk && job == KV_JOB_NONE) {
            return;
        }
        queue_pop(&p->marks);
        if (is_on_disk) {
            kv_disk_io(&p->disk, n->slot, 1);
            struct kv_job *j = job_fill(s, job, entry.node, n->slot, KV_FRAME_NONE);
            j->is_mark = true;
            header_fill(s, entry.node, n->slot, j->want);
            kv_tier_start(p->tier, job);
            p->marks_slot = true;
        }
    }
}

static void writes_pump(struct kv_store *s)
{
    struct kv_spill *p = &s->spill;
    while (p->tails.n > 0 && p->tails.entries[p->tails.first].due_us <= s->now_us) {
        struct kv_queued entry = p->tails.entries[p->tails.first];
        queue_pop(&p->tails);
        if (is_unwritten(s, &entry)) {
            kv_spill_want(s, entry.node);
        }
    }
    while (p->writes.n > 0 && !is_closed(s) && s->now_us >= p->write_pause_until_us) {
        struct kv_queued entry = p->writes.entries[p->writes.first];
        bool is_crowded =
            (uint64_t)p->writes.n * BACKLOG_DEN > (uint64_t)p->writes.n_max * BACKLOG_NUM;
        if (!is_unwritten(s, &entry)) {
            queue_pop(&p->writes);
            continue;
        }
        if (is_crowded && node_at(s, entry.node)->freq < 2) {
            queue_pop(&p->writes);
            s->counters.n_write_dropped++;
            continue;
        }
        uint32_t node = first_unwritten(s, entry.node);
        segments_pump(s); /* rather a new segment than a chunk evicted */
        if (kv_tier_n_busy(p->tier, true) >= KV_N_JOB_WRITE ||
            (p->disk.n_unused == 0 && p->makes_segment) || !take_credit(s)) {
            return;
        }
        enum write_start started = write_start(s, node);
        if (started == WRITE_LATER) {
            return;
        }
        if (started == WRITE_NEVER || node == entry.node) {
            queue_pop(&p->writes);
            s->counters.n_write_dropped += started == WRITE_NEVER;
        }
    }
}

/* ---- Ending jobs ---- */

static void measure(struct kv_store *s, const struct kv_job *j)
{
    struct kv_spill *p = &s->spill;
    double us = (double)(clock_mono_us() - j->begin_us) + 1;
    double rate =
        (double)s->options.chunk_bytes * 1e6 / us * (1.0 + kv_tier_n_busy(p->tier, false));
    p->restore_bytes_s = p->restore_bytes_s > 0 ? 0.9 * p->restore_bytes_s + 0.1 * rate : rate;
}

/* The node that waits for this job, or NONE: it may have gone, or have got its chunk otherwise. */
static uint32_t waiting_node(const struct kv_store *s, const struct kv_job *j, uint32_t job)
{
    const struct kv_node *n = node_at(s, j->node);
    bool waits = !j->is_mark && n->generation == j->generation && n->state == KV_NODE_SEALED &&
                 (j->is_write ? n->job_write : n->job_read) == job;
    return waits ? j->node : KV_NODE_NONE;
}

/* Nobody waits for a late job any more; its frame and slot stay taken until it is done. One that
 * hangs makes the next likely to hang, too. */
static void job_late(struct kv_store *s, uint32_t job)
{
    struct kv_job *j = kv_tier_job(s->spill.tier, job);
    uint32_t node = waiting_node(s, j, job);
    j->was_late = true;
    s->spill.n_late++;
    s->counters.n_io_late++;
    if (s->now_us >= s->spill.closed_until_us) {
        breaker_close(s);
    }
    if (node == KV_NODE_NONE) {
        return;
    }
    if (j->is_write) {
        node_at(s, node)->job_write = KV_JOB_NONE;
        kv_spill_want(s, node);
    } else {
        node_at(s, node)->job_read = KV_JOB_NONE;
        node_at(s, node)->retry_us = s->now_us + LATE_RETRY_US;
        kv_node_unload_below(s, node);
    }
    kv_node_update(s, node);
    kv_node_collect(s, node);
}

static void read_done(struct kv_store *s, uint32_t job)
{
    const struct kv_job *j = kv_tier_job(s->spill.tier, job);
    uint32_t node = waiting_node(s, j, job);
    kv_disk_io(&s->spill.disk, j->slot, -1);
    if (node != KV_NODE_NONE && j->result == ERR_OK) {
        struct kv_node *n = node_at(s, node);
        kv_node_set_frame(s, node, j->frame);
        n->job_read = KV_JOB_NONE;
        n->from_disk = true;
        kv_node_renew(s, node);
        kv_node_update(s, node);
    }
    kv_arena_io(&s->arena, j->frame, -1, 0);
    if (node != KV_NODE_NONE && j->result != ERR_OK) {
        node_at(s, node)->job_read = KV_JOB_NONE;
        kv_node_drop(s, node); /* a slot that fails is a miss, and all behind it */
    }
    if (j->result == ERR_CORRUPT) {
        s->counters.n_corrupt++;
    } else if (j->result == ERR_OK) {
        note_success(s, j);
        measure(s, j);
    } else if (!j->was_late) {
        note_error(s);
    }
}

/* A mark that failed leaves the old times, or a slot that will be found unusable. */
static void mark_done(struct kv_store *s, const struct kv_job *j)
{
    s->spill.marks_slot = false;
    kv_disk_io(&s->spill.disk, j->slot, -1);
    if (j->result == ERR_OK) {
        note_success(s, j);
    } else if (j->result != ERR_CORRUPT && !j->was_late) {
        note_error(s);
    }
}

/* False: the parent's write must end first. */
static bool write_done(struct kv_store *s, uint32_t job)
{
    const struct kv_job *j = kv_tier_job(s->spill.tier, job);
    uint32_t node = waiting_node(s, j, job);
    bool is_kept = false;
    if (node != KV_NODE_NONE) {
        struct kv_node *n = node_at(s, node);
        const struct kv_node *parent = node_at(s, n->parent);
        bool has_parent = parent->state == KV_NODE_ROOT || parent->slot != KV_SLOT_NONE;
        if (j->result == ERR_OK && !has_parent && parent->job_write != KV_JOB_NONE) {
            return false;
        }
        is_kept = j->result == ERR_OK && has_parent;
        n->job_write = KV_JOB_NONE;
        if (is_kept) {
            n->n_write_try = 0;
            kv_node_set_slot(s, node, j->slot);
            kv_node_renew(s, node);
            if (j->header->kept_until_s != n->kept_until_s ||
                j->header->expires_s != n->expires_s) { /* they changed meanwhile */
                kv_spill_want_mark(s, node);
            }
        } else {
            kv_node_update(s, node);
        }
    }
    if (!is_kept) {
        kv_disk_release(&s->spill.disk, j->slot, j->result != ERR_OK);
    }
    kv_disk_io(&s->spill.disk, j->slot, -1);
    kv_arena_io(&s->arena, j->frame, 0, -1);
    if (node != KV_NODE_NONE && !is_kept) {
        kv_spill_want(s, node); /* as often as N_WRITE_TRY allows */
        kv_node_collect(s, node);
    }
    if (j->result == ERR_FULL) { /* reads go on */
        s->counters.n_io_error++;
        s->spill.write_pause_until_us = s->now_us + FULL_PAUSE_US;
    } else if (j->result == ERR_OK) {
        note_success(s, j);
    } else if (!j->was_late) {
        note_error(s);
    }
    return true;
}

static void job_event(struct kv_store *s, uint32_t job)
{
    struct kv_spill *p = &s->spill;
    struct kv_job *j = kv_tier_job(p->tier, job);
    bool is_done = kv_tier_job_is_done(p->tier, job);
    if (!j->was_late && (!is_done || j->result == ERR_TIMEOUT)) {
        job_late(s, job);
    }
    if (!is_done) {
        return;
    }
    p->waits[job] = j->is_write && !j->is_mark && !write_done(s, job);
    if (!p->waits[job]) {
        if (j->is_mark) {
            mark_done(s, j);
        } else if (!j->is_write) {
            read_done(s, job);
        }
        p->busy[job] = false;
        p->n_late -= j->was_late;
        kv_tier_job_free(p->tier, job);
    }
}

static void jobs_poll(struct kv_store *s)
{
    struct kv_spill *p = &s->spill;
    uint32_t list[KV_N_JOB];
    uint32_t n = kv_tier_poll(p->tier, list);
    for (uint32_t i = 0; i < n; i++) {
        if (!p->waits[list[i]]) {
            job_event(s, list[i]);
        }
    }
    for (uint32_t i = 0; i < KV_N_JOB && kv_tier_is_stuck(p->tier, s->now_us); i++) {
        if (p->busy[i] && !p->waits[i] && !kv_tier_job(p->tier, i)->was_late) {
            job_late(s, i);
        }
    }
    for (bool moved = true; moved;) { /* a chain of writes ends from its root */
        moved = false;
        for (uint32_t i = 0; i < KV_N_JOB; i++) {
            if (p->waits[i]) {
                job_event(s, i);
                moved = moved || !p->waits[i];
            }
        }
    }
}

/* ---- Opening and closing ---- */

enum err_code kv_spill_init(struct kv_store *s, struct err *e)
{
    struct kv_disk_options *o = &s->options.disk;
    struct kv_spill *p = &s->spill;
    if (!o->dir) {
        return ERR_OK;
    }
    o->dir = strdup(o->dir);
    o->io_timeout_us = o->io_timeout_us ? o->io_timeout_us : IO_TIMEOUT_US;
    o->tail_idle_us = o->tail_idle_us ? o->tail_idle_us : TAIL_IDLE_US;
    o->lock_wait_us = o->lock_wait_us ? o->lock_wait_us : LOCK_WAIT_US;
    p->writes.n_max = p->tails.n_max = 2 * s->arena.n_frame;
    p->marks.n_max = s->n_slot < N_MARK_MAX ? s->n_slot + 1 : N_MARK_MAX;
    p->marks.entries = calloc(p->marks.n_max, sizeof *p->marks.entries);
    p->writes.entries = calloc(p->writes.n_max, sizeof *p->writes.entries);
    p->tails.entries = calloc(p->tails.n_max, sizeof *p->tails.entries);
    if (!o->dir || !p->writes.entries || !p->tails.entries || !p->marks.entries) {
        return err_set(e, ERR_NOMEM, "no memory for the KV disk tier");
    }
    enum err_code code = o->key_file ? kv_crypt_read_key(o->key_file, &p->crypt, e) : ERR_OK;
    p->has_key = o->key_file != NULL;
    o->key_file = NULL; /* the caller's, and not needed again */
    if (code) {
        return code;
    }
    uint64_t until_us = clock_mono_us() + o->lock_wait_us;
    code = kv_spill_open(s, e);
    while (code == ERR_FULL && clock_mono_us() < until_us) { /* a killed predecessor, dying */
        clock_sleep_us(20000);
        code = kv_spill_open(s, e);
    }
    if (code == ERR_FULL) {
        log_warn("kv disk: %s; going on without it, and trying again", e->msg);
        p->open_next_us = clock_mono_us() + OPEN_RETRY_US;
        return ERR_OK;
    }
    return code;
}

bool kv_spill_finish(struct kv_store *s)
{
    struct kv_spill *p = &s->spill;
    bool is_free = kv_tier_destroy(p->tier);
    if (is_free) {
        kv_disk_close(&p->disk);
    } else {
        log_warn("kv disk: %s does not answer; its memory stays", p->disk.path);
    }
    if (is_free) { /* else the I/O thread may still use it */
        explicit_bzero(&p->crypt, sizeof p->crypt);
    }
    free(p->writes.entries);
    free(p->tails.entries);
    free(p->marks.entries);
    free((char *)s->options.disk.dir);
    return is_free;
}

/* ---- What the scheduler calls ---- */

void kv_poll(struct kv_store *s)
{
    struct kv_spill *p = &s->spill;
    s->now_us = clock_mono_us();
    s->now_s = (uint32_t)clock_unix_s();
    kv_retention_sweep(s);
    kv_shrink(s);
    if (!s->options.disk.dir) {
        return;
    }
    if (!p->tier && s->now_us >= p->open_next_us) {
        struct err e;
        if (kv_spill_open(s, &e) != ERR_OK) {
            p->open_next_us = s->now_us + OPEN_RETRY_US;
            return;
        }
    }
    if (p->tier) {
        jobs_poll(s);
        segments_pump(s);
        writes_pump(s);
        marks_pump(s);
        kv_publish(s);
    }
}

static uint64_t sooner(uint64_t us, uint64_t at_us, uint64_t now_us)
{
    uint64_t wait = at_us > now_us ? at_us - now_us : 0;
    return us < wait ? us : wait;
}

uint64_t kv_idle_us(const struct kv_store *s)
{
    const struct kv_spill *p = &s->spill;
    uint64_t us = s->n_timed > 0 ? SWEEP_IDLE_US : UINT64_MAX;
    if (!s->options.disk.dir) {
        return us;
    }
    uint64_t now_us = clock_mono_us();
    if (!p->tier) {
        return sooner(us, p->open_next_us, now_us);
    }
    uint32_t n_busy = kv_tier_n_busy(p->tier, false) + kv_tier_n_busy(p->tier, true);
    if (n_busy > p->n_late || p->makes_segment) {
        return us < BUSY_IDLE_US ? us : BUSY_IDLE_US;
    }
    if (n_busy > 0) {
        us = us < LATE_IDLE_US ? us : LATE_IDLE_US;
    }
    if (p->writes.n > 0 || p->marks.n > 0) {
        uint64_t at = now_us + BUSY_IDLE_US;
        at = at > p->closed_until_us ? at : p->closed_until_us;
        at = at > p->write_pause_until_us ? at : p->write_pause_until_us;
        us = sooner(us, at, now_us);
    }
    return p->tails.n > 0 ? sooner(us, p->tails.entries[p->tails.first].due_us, now_us) : us;
}

bool kv_flush(struct kv_store *s, uint64_t timeout_us)
{
    struct kv_spill *p = &s->spill;
    uint64_t until_us = clock_mono_us() + timeout_us;
    for (uint32_t i = 0; i < p->tails.n; i++) {
        p->tails.entries[(p->tails.first + i) % p->tails.n_max].due_us = 0;
    }
    for (;;) {
        kv_poll(s);
        if (!p->tier || s->now_us < p->closed_until_us || s->now_us < p->write_pause_until_us) {
            return p->writes.n == 0 && p->tails.n == 0;
        }
        if (p->writes.n == 0 && p->marks.n == 0 && kv_tier_n_busy(p->tier, true) == 0 &&
            kv_tier_n_busy(p->tier, false) == 0) {
            return true;
        }
        if (s->now_us >= until_us) {
            return false;
        }
        clock_sleep_us(50);
    }
}

void kv_set_recompute_rate(struct kv_store *s, double tok_s)
{
    s->spill.recompute_tok_s = tok_s;
}

/* ---- Checks ---- */

enum err_code kv_spill_check(const struct kv_store *s, struct err *e)
{
    const struct kv_spill *p = &s->spill;
    if (!p->tier) {
        return ERR_OK;
    }
    enum err_code code = kv_disk_check(&p->disk, e);
    if (code) {
        return code;
    }
    uint64_t n_read = 0;
    uint64_t n_write = 0;
    uint64_t n_slot = 0;
    uint64_t n_mark = 0;
    for (uint32_t i = 0; i < KV_N_JOB; i++) {
        if (!p->busy[i]) {
            continue;
        }
        const struct kv_job *j = kv_tier_job(p->tier, i);
        if (j->is_mark) {
            n_mark++;
            continue;
        }
        const struct kv_frame *f = &s->arena.frames[j->frame];
        if ((j->is_write ? f->n_write : f->n_read) == 0 || p->disk.slots[j->slot].n_io == 0) {
            return err_set(e, ERR_INTERNAL, "job %u does not hold its frame and slot", i);
        }
        n_write += j->is_write;
        n_read += !j->is_write;
    }
    n_slot = n_write;
    if (n_mark != p->marks_slot) {
        return err_set(e, ERR_INTERNAL, "marks of the disk miscounted");
    }
    for (uint32_t i = 0; i < s->index.n_node_max; i++) {
        const struct kv_node *n = node_at(s, i);
        if (n->state != KV_NODE_UNUSED && n->slot != KV_SLOT_NONE) {
            n_slot++;
            if (!p->disk.slots[n->slot].taken) {
                return err_set(e, ERR_INTERNAL, "slot %u of index node %u is not taken", n->slot,
                               i);
            }
        }
    }
    for (uint32_t f = 0; f < s->arena.n_frame; f++) {
        n_read -= s->arena.frames[f].n_read;
        n_write -= s->arena.frames[f].n_write;
    }
    if (n_read != 0 || n_write != 0 || n_slot != p->disk.n_taken) {
        return err_set(e, ERR_INTERNAL, "jobs, frames in I/O and slots taken do not agree");
    }
    return ERR_OK;
}
