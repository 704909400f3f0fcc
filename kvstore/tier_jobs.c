/* The I/O thread: turns jobs into operations, gives the backend no more of them than it can work
 * on, reads first, and gives up those that do not come back.
 *
 * A disk that gives nothing back for io_timeout_us is stalled: all jobs are late. One operation
 * missing while others come back is given more time, since it may stand last in a long queue. */
#include "base/clock.h"
#include "kvstore/crc32c.h"
#include "kvstore/tier_inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define N_RETRY_MAX   64 /* of one job, for short and interrupted operations */
#define REAP_US       100000
#define REAP_ASIDE_US 5000
#define CHECK_PARTS   8 /* deadlines are looked at so often in one */
#define LOST_FACTOR   4
#define SYNC_EVERY_US 5000000
#define N_LOST_MAX    48 /* given up and still with the backend: it gets no more */

/* ---- Operations ---- */

static void list_append(struct kv_op_list *l, struct kv_io_op *op)
{
    op->next = NULL;
    *(l->first ? l->end : &l->first) = op;
    l->end = &op->next;
}

/* Hands over what there is room for. Writes get a quarter, so that reads never wait for long. */
static void pump(struct kv_tier *t)
{
    uint32_t depth = t->io->depth;
    for (int kind = KV_IO_READ; kind <= KV_IO_WRITE; kind++) {
        uint32_t n_max = kind == KV_IO_READ ? depth : (depth + 3) / 4 + 1;
        while (t->todo[kind].first && t->n_out[0] + t->n_out[1] < depth && t->n_out[kind] < n_max &&
               t->n_lost < N_LOST_MAX) {
            struct kv_io_op *op = t->todo[kind].first;
            t->todo[kind].first = op->next;
            op->place = KV_OP_OUT;
            op->start_us = clock_mono_us();
            if (t->n_out[0] + t->n_out[1] == 0) {
                t->progress_us = op->start_us;
            }
            t->n_out[kind]++;
            t->io->impl->submit(t->io, op);
        }
    }
}

static void op_queue(struct kv_tier *t, struct kv_io_op *op)
{
    op->place = KV_OP_QUEUED;
    list_append(&t->todo[op->kind], op);
}

static void op_start(struct kv_tier *t, struct kv_job *j, struct kv_io_op *op, uint8_t *buf,
                     size_t n_byte, uint64_t offset)
{
    bool is_read = !j->is_write || (j->is_mark && !j->payload_done);
    *op = (struct kv_io_op){.kind = is_read ? KV_IO_READ : KV_IO_WRITE,
                            .fd = j->fd,
                            .file = j->seg,
                            .buf = buf,
                            .n_byte = n_byte,
                            .offset = offset,
                            .owner = j};
    j->n_out++;
    op_queue(t, op);
}

/* ---- Jobs ---- */

static void payload_start(struct kv_tier *t, struct kv_job *j, uint8_t *bytes)
{
    for (uint32_t i = 0; i < t->n_piece; i++) {
        size_t at = i * KV_PIECE_BYTES;
        size_t n = t->chunk_bytes - at < KV_PIECE_BYTES ? t->chunk_bytes - at : KV_PIECE_BYTES;
        op_start(t, j, &j->ops[i], bytes + at, n, j->payload_offset + at);
    }
}

static void header_start(struct kv_tier *t, struct kv_job *j)
{
    op_start(t, j, &j->ops[t->n_piece], (uint8_t *)j->header, KV_DISK_BLOCK, j->header_offset);
}

static void job_done(struct kv_tier *t, struct kv_job *j);

/* What a write puts on disk: the frame, or that encrypted. NULL when that fails. */
static uint8_t *payload_of(const struct kv_tier *t, struct kv_job *j)
{
    if (!t->options.crypt) {
        return j->bytes;
    }
    void *sealed = j->sealed;
    if (!sealed && posix_memalign(&sealed, KV_DISK_BLOCK, t->chunk_bytes + KV_DISK_BLOCK) != 0) {
        return NULL;
    }
    j->sealed = sealed;
    bool done = kv_crypt_seal(t->options.crypt, j->bytes, t->chunk_bytes, j->sealed, j->header);
    return done ? j->sealed : NULL;
}

static void job_start(struct kv_tier *t, struct kv_job *j)
{
    j->n_out = 0;
    j->n_retry = 0;
    j->error = 0;
    j->payload_done = false;
    if (j->is_mark) {
        memset(j->header, 0, KV_DISK_BLOCK);
        header_start(t, j);
        return;
    }
    uint8_t *bytes = j->bytes;
    if (j->is_write) {
        bytes = payload_of(t, j);
        if (!bytes) {
            j->error = EIO;
            job_done(t, j);
            return;
        }
        kv_crc32c_stripes(bytes, t->chunk_bytes, KV_STRIPE_BYTES, j->header->stripe_crc);
        kv_slot_header_seal(j->header);
    } else {
        memset(j->header, 0, KV_DISK_BLOCK);
        header_start(t, j);
    }
    payload_start(t, j, bytes);
}

static bool header_verified(const struct kv_tier *t, const struct kv_job *j)
{
    const struct kv_slot_header *h = j->header;
    const struct kv_slot_header *w = j->want;
    struct kv_slot_header plain = *h;
    if (t->options.crypt && !kv_crypt_tokens(t->options.crypt, &plain)) {
        return false;
    }
    return !(memcmp(h->magic, KV_SLOT_MAGIC, sizeof h->magic) != 0 ||
             h->crc != kv_crc32c(h, offsetof(struct kv_slot_header, crc)) ||
             h->version != KV_DISK_VERSION || h->slot != j->slot ||
             h->chunk_bytes != t->chunk_bytes ||
             memcmp(h->fingerprint, w->fingerprint, sizeof h->fingerprint) != 0 ||
             memcmp(h->key, w->key, sizeof h->key) != 0 ||
             memcmp(h->root, w->root, sizeof h->root) != 0 || h->n_tok != w->n_tok ||
             memcmp(plain.tokens, w->tokens, w->n_tok * sizeof *w->tokens) != 0);
}

/* Whether what was read is the chunk that was asked for, to the last byte. */
static bool read_verified(const struct kv_tier *t, const struct kv_job *j)
{
    uint32_t crcs[KV_SLOT_STRIPES_MAX];
    if (!header_verified(t, j)) {
        return false;
    }
    kv_crc32c_stripes(j->bytes, t->chunk_bytes, KV_STRIPE_BYTES, crcs);
    size_t n_stripe = (t->chunk_bytes - 1) / KV_STRIPE_BYTES + 1;
    return memcmp(crcs, j->header->stripe_crc, n_stripe * sizeof *crcs) == 0 &&
           (!t->options.crypt ||
            kv_crypt_open(t->options.crypt, j->bytes, t->chunk_bytes, j->header));
}

static void state_set(struct kv_tier *t, struct kv_job *j, enum kv_job_state state)
{
    (void)pthread_mutex_lock(&t->mu);
    j->state = state;
    (void)pthread_mutex_unlock(&t->mu);
    (void)atomic_fetch_add(&t->n_event, 1);
}

static void job_done(struct kv_tier *t, struct kv_job *j)
{
    j->is_running = false;
    j->result = ERR_OK;
    if (j->error) {
        j->result = j->error == EBADMSG                        ? ERR_CORRUPT
                    : j->error == ENOSPC || j->error == EDQUOT ? ERR_FULL
                    : j->error == ETIMEDOUT                    ? ERR_TIMEOUT
                                                               : ERR_IO;
    } else if (!j->is_write && !read_verified(t, j)) {
        j->result = ERR_CORRUPT;
    }
    if (j->is_write && !j->error) {
        t->syncs[j->seg].is_dirty = true;
        t->syncs[j->seg].op.fd = j->fd;
    }
    state_set(t, j, KV_JOB_DONE);
}

/* Goes on with an operation that came back incomplete; false when it is final. */
static bool op_retry(struct kv_tier *t, struct kv_job *j, struct kv_io_op *op)
{
    bool is_again = op->result == -EAGAIN || op->result == -EINTR;
    bool is_short = op->result > 0 && (size_t)op->result < op->n_byte;
    if ((!is_again && !is_short) || j->error || j->n_retry >= N_RETRY_MAX) {
        return false;
    }
    j->n_retry++;
    if (is_short) { /* to the last whole block, as O_DIRECT wants it */
        size_t n = (size_t)op->result & ~(size_t)(KV_DISK_BLOCK - 1);
        op->buf += n;
        op->offset += n;
        op->n_byte -= n;
    }
    op_queue(t, op);
    return true;
}

static void op_done(struct kv_tier *t, struct kv_io_op *op)
{
    struct kv_job *j = op->owner;
    t->progress_us = clock_mono_us();
    if (op->place == KV_OP_LOST) {
        t->n_lost--;
    } else {
        t->n_out[op->kind]--;
    }
    op->place = KV_OP_IDLE;
    if (op_retry(t, j, op)) {
        return;
    }
    if (op->result != (int64_t)op->n_byte && j->error == 0) {
        j->error = op->result < 0 ? (int)-op->result : EIO;
    }
    if (--j->n_out > 0) {
        return;
    }
    if (j->is_mark && !j->error && !j->payload_done) {
        if (header_verified(t, j)) {
            j->header->kept_until_s = j->want->kept_until_s;
            j->header->expires_s = j->want->expires_s;
            kv_slot_header_seal(j->header);
            j->payload_done = true;
            header_start(t, j);
            return;
        }
        j->error = EBADMSG;
    }
    if (j->is_write && !j->error && !j->payload_done) {
        j->payload_done = true;
        header_start(t, j);
        return;
    }
    job_done(t, j);
}

/* ---- Deadlines ---- */

/* Takes back the job's operations: those not yet handed over at once, the others when the backend
 * gives them back. Nothing new is begun for it. */
static void job_give_up(struct kv_tier *t, struct kv_job *j)
{
    struct kv_io_op *op;
    for (int kind = KV_IO_READ; kind <= KV_IO_WRITE; kind++) {
        struct kv_op_list *l = &t->todo[kind];
        op = l->first;
        l->first = NULL;
        while (op) {
            struct kv_io_op *next = op->next;
            if (op->owner == j) {
                op->place = KV_OP_IDLE;
                j->n_out--;
            } else {
                list_append(l, op);
            }
            op = next;
        }
    }
    j->error = ETIMEDOUT;
    j->is_running = false;
    if (j->n_out == 0) {
        job_done(t, j);
        return;
    }
    for (uint32_t i = 0; i <= t->n_piece; i++) {
        op = &j->ops[i];
        if (op->place == KV_OP_OUT) {
            op->place = KV_OP_LOST;
            t->n_out[op->kind]--;
            t->n_lost++;
            if (t->io->impl->cancel) {
                t->io->impl->cancel(t->io, op);
            }
        }
    }
    state_set(t, j, KV_JOB_LATE);
}

static bool has_lost(const struct kv_tier *t, const struct kv_job *j, uint64_t now_us)
{
    for (uint32_t i = 0; i <= t->n_piece; i++) {
        if (j->ops[i].place == KV_OP_OUT &&
            now_us - j->ops[i].start_us > LOST_FACTOR * t->options.io_timeout_us) {
            return true;
        }
    }
    return false;
}

static void deadlines(struct kv_tier *t, uint64_t now_us)
{
    if (now_us - t->checked_us < t->options.io_timeout_us / CHECK_PARTS) {
        return;
    }
    t->checked_us = now_us;
    bool is_dead = t->n_lost >= N_LOST_MAX;
    bool is_stalled = t->n_out[0] + t->n_out[1] > 0 && now_us > t->progress_us &&
                      now_us - t->progress_us > t->options.io_timeout_us;
    for (uint32_t i = 0; i < KV_N_JOB; i++) {
        struct kv_job *j = &t->jobs[i];
        if (j->is_running && (is_dead || is_stalled || has_lost(t, j, now_us))) {
            job_give_up(t, j);
        }
    }
}

/* ---- Aside ---- */

static void aside_done(struct kv_tier *t, struct kv_io_op *op)
{
    op->place = KV_OP_IDLE;
    t->n_aside--;
    if (op != &t->segment.op) { /* a sync: its result bounds nothing we promise */
        return;
    }
    if (op->result >= 0 && t->io->impl->attach) {
        t->io->impl->attach(t->io, t->segment.seg, (int)op->result);
    }
    (void)pthread_mutex_lock(&t->mu);
    t->segment.state = KV_SEGMENT_DONE;
    (void)pthread_mutex_unlock(&t->mu);
}

static void aside_start(struct kv_tier *t, struct kv_io_op *op)
{
    op->place = KV_OP_OUT;
    t->n_aside++;
    t->aside->impl->submit(t->aside, op);
}

static void syncs_start(struct kv_tier *t, uint64_t now_us)
{
    if (now_us - t->synced_us < SYNC_EVERY_US) {
        return;
    }
    t->synced_us = now_us;
    for (uint32_t i = 0; i < t->n_seg_max; i++) {
        struct kv_sync_op *y = &t->syncs[i];
        if (y->is_dirty && y->op.place == KV_OP_IDLE) {
            y->op = (struct kv_io_op){.kind = KV_IO_SYNC, .fd = y->op.fd};
            y->is_dirty = false;
            aside_start(t, &y->op);
        }
    }
}

static int64_t segment_make(void *arg)
{
    const struct kv_segment_call *c = arg;
    return kv_segment_make(c->parent_fd, c->dir_fd, c->seg, c->n_byte, c->cap_bytes);
}

/* ---- Rounds ---- */

/* Takes what the store has queued. */
static void fresh_start(struct kv_tier *t, bool *ret_stop)
{
    uint32_t fresh[KV_N_JOB];
    uint32_t n_fresh = 0;
    bool makes_segment = false;
    (void)pthread_mutex_lock(&t->mu);
    *ret_stop = t->stop;
    for (uint32_t i = 0; i < KV_N_JOB; i++) {
        if (t->jobs[i].state == KV_JOB_QUEUED) {
            t->jobs[i].state = KV_JOB_RUNNING;
            fresh[n_fresh++] = i;
        }
    }
    if (t->segment.state == KV_SEGMENT_QUEUED) {
        t->segment.state = KV_SEGMENT_RUNNING;
        makes_segment = true;
    }
    (void)pthread_mutex_unlock(&t->mu);
    for (uint32_t i = 0; i < n_fresh; i++) {
        t->jobs[fresh[i]].is_running = true;
        job_start(t, &t->jobs[fresh[i]]);
    }
    if (makes_segment) {
        t->segment.op =
            (struct kv_io_op){.kind = KV_IO_CALL, .call = segment_make, .arg = &t->segment};
        aside_start(t, &t->segment.op);
    }
}

bool kv_tier_turn(struct kv_tier *t)
{
    bool stop;
    uint64_t now = clock_mono_us();
    atomic_store(&t->beat_us, now);
    fresh_start(t, &stop);
    if (stop) {
        return false;
    }
    syncs_start(t, now);
    deadlines(t, now);
    pump(t);
    uint64_t wait = t->options.io_timeout_us / CHECK_PARTS;
    wait = wait < REAP_US ? wait : REAP_US;
    wait = t->n_aside > 0 && wait > REAP_ASIDE_US ? REAP_ASIDE_US : wait;
    struct kv_io_op *op = t->io->impl->reap(t->io, wait);
    while (op) {
        struct kv_io_op *next = op->next;
        op_done(t, op);
        op = next;
    }
    op = t->n_aside > 0 ? t->aside->impl->reap(t->aside, 0) : NULL;
    while (op) {
        struct kv_io_op *next = op->next;
        aside_done(t, op);
        op = next;
    }
    return true;
}
