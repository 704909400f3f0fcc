#include "kvstore/arena.h"

#include "base/units.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXTENT_NONE UINT32_MAX
/* Extents looked at for a frame of the right phase before any frame will do. */
#define N_PHASE_PROBE 8

static uint32_t n_free(const struct kv_extent *x)
{
    return (uint32_t)__builtin_popcountll(x->free_mask);
}

static void extent_unlink(struct kv_arena *a, uint32_t i)
{
    struct kv_extent *x = &a->extents[i];
    if (x->prev == EXTENT_NONE) {
        a->extents_by_free[n_free(x)] = x->next;
    } else {
        a->extents[x->prev].next = x->next;
    }
    if (x->next != EXTENT_NONE) {
        a->extents[x->next].prev = x->prev;
    }
}

static void extent_link(struct kv_arena *a, uint32_t i)
{
    struct kv_extent *x = &a->extents[i];
    uint32_t *head = &a->extents_by_free[n_free(x)];
    x->prev = EXTENT_NONE;
    x->next = *head;
    if (*head != EXTENT_NONE) {
        a->extents[*head].prev = i;
    }
    *head = i;
}

static void mask_set(struct kv_arena *a, uint32_t frame, bool is_free)
{
    uint32_t i = frame / a->n_frame_extent;
    uint64_t bit = (uint64_t)1 << frame % a->n_frame_extent;
    extent_unlink(a, i);
    if (is_free) {
        a->extents[i].free_mask |= bit;
    } else {
        a->extents[i].free_mask &= ~bit;
    }
    extent_link(a, i);
}

static enum kv_frame_state state_of(const struct kv_frame *f)
{
    if (f->n_read > 0) {
        return KV_FRAME_LOADING;
    }
    if (f->n_map > 0) {
        return KV_FRAME_ACTIVE;
    }
    if (f->n_write > 0) {
        return KV_FRAME_WRITING;
    }
    return f->held ? KV_FRAME_CACHED : KV_FRAME_FREE;
}

/* To be called around every change of a frame's holders, with its state before the change. */
static void state_changed(struct kv_arena *a, uint32_t frame, enum kv_frame_state before)
{
    enum kv_frame_state after = state_of(&a->frames[frame]);
    a->n_by_state[before]--;
    a->n_by_state[after]++;
    if ((before == KV_FRAME_FREE) != (after == KV_FRAME_FREE)) {
        mask_set(a, frame, after == KV_FRAME_FREE);
    }
}

/* Smallest count of frames that is a whole number of huge pages; 1 where that is too many. */
static uint32_t phase_of(size_t frame_bytes)
{
    uint32_t n = 1;
    while (n < KV_EXTENT_FRAMES_MAX && n * frame_bytes % KV_HUGE_BYTES != 0) {
        n *= 2;
    }
    return n * frame_bytes % KV_HUGE_BYTES == 0 ? n : 1;
}

/* Maps the whole file where huge pages can be: at a multiple of their size. NULL and errno. */
static uint8_t *map_aligned(int fd, size_t n_byte)
{
    size_t reserved = n_byte + KV_HUGE_BYTES;
    uint8_t *p =
        mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        return NULL;
    }
    uint8_t *base = (uint8_t *)units_align((size_t)p, KV_HUGE_BYTES);
    void *bytes = mmap(base, n_byte, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    size_t front = (size_t)(base - p);
    size_t kept = bytes == MAP_FAILED ? 0 : units_align(n_byte, 4096);
    int errno_value = errno;
    if (front > 0) {
        (void)munmap(p, front);
    }
    (void)munmap(base + kept, reserved - front - kept);
    errno = errno_value;
    return bytes == MAP_FAILED ? NULL : bytes;
}

enum err_code kv_arena_init(struct kv_arena *a, uint32_t n_frame, size_t frame_bytes, struct err *e)
{
    enum err_code code = ERR_OK;
    memset(a, 0, sizeof *a);
    a->fd = -1;
    a->frame_bytes = frame_bytes;
    a->n_frame = n_frame;
    a->n_phase = phase_of(frame_bytes);
    a->n_frame_extent = a->n_phase > 16 ? a->n_phase : 16;
    a->n_extent = (uint32_t)(((uint64_t)n_frame + a->n_frame_extent - 1) / a->n_frame_extent);
    a->frames = calloc(n_frame, sizeof *a->frames);
    a->extents = calloc(a->n_extent, sizeof *a->extents);
    if (!a->frames || !a->extents) {
        code = err_set(e, ERR_NOMEM, "no memory for the table of %u KV frames", n_frame);
        goto out;
    }
    a->fd = memfd_create("kvasir-kv", MFD_CLOEXEC);
    if (a->fd < 0 || ftruncate(a->fd, (off_t)((uint64_t)n_frame * frame_bytes)) != 0) {
        code = err_errno(e, ERR_NOMEM, errno, "cannot create KV memory of %u frames of %zu bytes",
                         n_frame, frame_bytes);
        goto out;
    }
    a->bytes = map_aligned(a->fd, n_frame * frame_bytes);
    if (!a->bytes) {
        code = err_errno(e, ERR_NOMEM, errno, "cannot map KV memory of %u frames of %zu bytes",
                         n_frame, frame_bytes);
        goto out;
    }
    for (uint32_t n = 0; n <= KV_EXTENT_FRAMES_MAX; n++) {
        a->extents_by_free[n] = EXTENT_NONE;
    }
    for (uint32_t i = a->n_extent; i-- > 0;) { /* so that the lists begin with low addresses */
        uint32_t n = n_frame - i * a->n_frame_extent;
        n = n < a->n_frame_extent ? n : a->n_frame_extent;
        a->extents[i].free_mask = UINT64_MAX >> (64 - n);
        extent_link(a, i);
    }
    a->n_by_state[KV_FRAME_FREE] = n_frame;
out:
    if (code) {
        kv_arena_finish(a);
    }
    return code;
}

void kv_arena_finish(struct kv_arena *a)
{
    if (a->bytes) {
        (void)munmap(a->bytes, a->n_frame * a->frame_bytes);
    }
    if (a->frames && a->fd >= 0) {
        (void)close(a->fd);
    }
    free(a->frames);
    free(a->extents);
    memset(a, 0, sizeof *a);
    a->fd = -1;
}

/* The longest run of set bits of mask: its first bit; *ret_n its length. */
static uint32_t longest_run(uint64_t mask, uint32_t *ret_n)
{
    uint32_t best = 0;
    uint32_t n_best = 0;
    uint32_t at = 0;
    while (at < 64 && mask >> at != 0) {
        at += (uint32_t)__builtin_ctzll(mask >> at);
        uint64_t rest = ~(mask >> at);
        uint32_t n = rest == 0 ? 64 : (uint32_t)__builtin_ctzll(rest);
        n = n < 64 - at ? n : 64 - at;
        if (n > n_best) {
            best = at;
            n_best = n;
        }
        at += n;
    }
    *ret_n = n_best;
    return best;
}

/* A frame of extent i for a chunk of the given phase. In an extent somebody already uses, the
 * middle of its longest free run, to leave its user room to grow. KV_FRAME_NONE: none of that
 * phase. */
static uint32_t extent_pick(const struct kv_arena *a, uint32_t i, uint32_t phase, bool any_phase)
{
    const struct kv_extent *x = &a->extents[i];
    uint32_t n;
    uint32_t at = longest_run(x->free_mask, &n);
    uint32_t from = at == 0 ? 0 : at + n / 2;
    uint32_t k = from + (phase + a->n_phase - from % a->n_phase) % a->n_phase;
    if (k >= at + n) { /* that run has it before its middle, or not at all */
        k = at + (phase + a->n_phase - at % a->n_phase) % a->n_phase;
    }
    if (k >= at + n) {
        if (!any_phase) {
            return KV_FRAME_NONE;
        }
        k = from;
    }
    return i * a->n_frame_extent + k;
}

static uint32_t pick(const struct kv_arena *a, uint32_t phase)
{
    uint32_t fallback = KV_FRAME_NONE;
    uint32_t n_probe = 0;
    for (uint32_t n = a->n_frame_extent; n > 0 && n_probe < N_PHASE_PROBE; n--) {
        uint32_t i = a->extents_by_free[n];
        for (; i != EXTENT_NONE && n_probe < N_PHASE_PROBE; i = a->extents[i].next, n_probe++) {
            uint32_t f = extent_pick(a, i, phase, false);
            if (f != KV_FRAME_NONE) {
                return f;
            }
            if (fallback == KV_FRAME_NONE) {
                fallback = extent_pick(a, i, phase, true);
            }
        }
    }
    return fallback;
}

uint32_t kv_arena_take(struct kv_arena *a, uint32_t prev_frame, uint32_t chunk_idx)
{
    uint32_t f = KV_FRAME_NONE;
    if (prev_frame != KV_FRAME_NONE && prev_frame + 1 < a->n_frame &&
        state_of(&a->frames[prev_frame + 1]) == KV_FRAME_FREE) {
        f = prev_frame + 1;
    } else {
        f = pick(a, chunk_idx % a->n_phase);
    }
    if (f != KV_FRAME_NONE) {
        kv_arena_map(a, f);
        a->n_touched += !a->frames[f].is_touched;
        a->frames[f].is_touched = true;
    }
    return f;
}

uint32_t kv_arena_punch(struct kv_arena *a, uint32_t n)
{
    uint32_t n_punched = 0;
    for (uint32_t i = 0; i < a->n_frame && n_punched < n && a->n_touched > 0; i++) {
        uint32_t f = a->punch_at++ % a->n_frame;
        a->punch_at %= a->n_frame;
        if (a->frames[f].is_touched && state_of(&a->frames[f]) == KV_FRAME_FREE &&
            fallocate(a->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      (off_t)((uint64_t)f * a->frame_bytes), (off_t)a->frame_bytes) == 0) {
            a->frames[f].is_touched = false;
            a->n_touched--;
            n_punched++;
        }
    }
    return n_punched;
}

void kv_arena_map(struct kv_arena *a, uint32_t frame)
{
    enum kv_frame_state before = state_of(&a->frames[frame]);
    a->frames[frame].n_map++;
    state_changed(a, frame, before);
}

void kv_arena_unmap(struct kv_arena *a, uint32_t frame)
{
    enum kv_frame_state before = state_of(&a->frames[frame]);
    a->frames[frame].n_map--;
    state_changed(a, frame, before);
}

void kv_arena_hold(struct kv_arena *a, uint32_t frame, bool held)
{
    enum kv_frame_state before = state_of(&a->frames[frame]);
    a->frames[frame].held = held;
    state_changed(a, frame, before);
}

void kv_arena_io(struct kv_arena *a, uint32_t frame, int n_read_more, int n_write_more)
{
    enum kv_frame_state before = state_of(&a->frames[frame]);
    a->frames[frame].n_read = (uint16_t)(a->frames[frame].n_read + n_read_more);
    a->frames[frame].n_write = (uint16_t)(a->frames[frame].n_write + n_write_more);
    state_changed(a, frame, before);
}

enum kv_frame_state kv_arena_state(const struct kv_arena *a, uint32_t frame)
{
    return state_of(&a->frames[frame]);
}

/* Every extent is in the list of its count of free frames, once, and the links agree. */
static enum err_code check_lists(const struct kv_arena *a, struct err *e)
{
    uint32_t n_listed = 0;
    for (uint32_t n = 0; n <= KV_EXTENT_FRAMES_MAX; n++) {
        uint32_t prev = EXTENT_NONE;
        for (uint32_t i = a->extents_by_free[n]; i != EXTENT_NONE; i = a->extents[i].next) {
            if (i >= a->n_extent || a->extents[i].prev != prev || n_free(&a->extents[i]) != n) {
                return err_set(e, ERR_INTERNAL, "extent %u is wrongly listed under %u free", i, n);
            }
            prev = i;
            n_listed++;
        }
    }
    if (n_listed != a->n_extent) {
        return err_set(e, ERR_INTERNAL, "%u of %u extents listed", n_listed, a->n_extent);
    }
    return ERR_OK;
}

enum err_code kv_arena_check(const struct kv_arena *a, struct err *e)
{
    uint64_t n_by_state[KV_FRAME_STATES] = {0};
    for (uint32_t f = 0; f < a->n_frame; f++) {
        enum kv_frame_state state = state_of(&a->frames[f]);
        bool marked = a->extents[f / a->n_frame_extent].free_mask >> f % a->n_frame_extent & 1;
        if (marked != (state == KV_FRAME_FREE)) {
            return err_set(e, ERR_INTERNAL, "frame %u in state %d is marked %s", f, (int)state,
                           marked ? "free" : "taken");
        }
        n_by_state[state]++;
    }
    uint64_t sum = 0;
    for (int k = 0; k < KV_FRAME_STATES; k++) {
        if (n_by_state[k] != a->n_by_state[k]) {
            return err_set(e, ERR_INTERNAL, "%llu frames in state %d, counted %llu",
                           (unsigned long long)n_by_state[k], k,
                           (unsigned long long)a->n_by_state[k]);
        }
        sum += a->n_by_state[k];
    }
    if (sum != a->n_frame) {
        return err_set(e, ERR_INTERNAL, "frame states sum to %llu of %u", (unsigned long long)sum,
                       a->n_frame);
    }
    return check_lists(a, e);
}
