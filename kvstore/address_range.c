#include "kvstore/address_range.h"

#include "base/units.h"
#include "kvstore/arena.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define RESERVE_FLAGS (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)

enum err_code kv_range_init(struct kv_range *r, uint32_t n_chunk_max, size_t chunk_bytes,
                            struct err *e)
{
    memset(r, 0, sizeof *r);
    /* A guard of 2 MiB behind the end, and slack to align the front. */
    uint64_t bytes;
    if (!units_mul(n_chunk_max, chunk_bytes, &bytes) || bytes > (uint64_t)1 << 46) {
        return err_set(e, ERR_LIMIT, "a KV range of %u chunks of %zu bytes is too long",
                       n_chunk_max, chunk_bytes);
    }
    size_t reserved = units_align((size_t)bytes, KV_HUGE_BYTES) + KV_HUGE_BYTES;
    uint32_t *frames = calloc(n_chunk_max, sizeof *frames);
    if (!frames) {
        return err_set(e, ERR_NOMEM, "no memory for a KV range of %u chunks", n_chunk_max);
    }
    uint8_t *p = mmap(NULL, reserved + KV_HUGE_BYTES, PROT_NONE, RESERVE_FLAGS, -1, 0);
    if (p == MAP_FAILED) {
        int errno_value = errno;
        free(frames);
        return err_errno(e, ERR_FULL, errno_value, "cannot reserve %zu bytes of address space",
                         reserved);
    }
    uint8_t *base = (uint8_t *)units_align((size_t)p, KV_HUGE_BYTES);
    /* Slack that cannot be given back only makes the guards longer. */
    size_t front = (size_t)(base - p);
    if (front > 0) {
        (void)munmap(p, front);
    }
    (void)munmap(base + reserved, KV_HUGE_BYTES - front);
    r->base = base;
    r->reserved_bytes = reserved;
    r->chunk_bytes = chunk_bytes;
    r->n_chunk_max = n_chunk_max;
    r->frames = frames;
    return ERR_OK;
}

bool kv_range_finish(struct kv_range *r)
{
    if (r->lost_bytes > 0) { /* what lies in the hole is not ours */
        size_t from = r->lost_at + r->lost_bytes;
        if (munmap(r->base + from, r->reserved_bytes - from) != 0) {
            return false;
        }
        r->reserved_bytes = r->lost_at;
        r->lost_bytes = 0;
    }
    if (r->reserved_bytes > 0 && munmap(r->base, r->reserved_bytes) != 0) {
        return false;
    }
    free(r->frames);
    memset(r, 0, sizeof *r);
    return true;
}

/* A failing mmap over the reservation may have removed it first (kernels before 6.12 do). Puts it
 * back, or remembers the hole, into which anybody may meanwhile map something of theirs. */
static bool hole_close(struct kv_range *r, size_t at, size_t n_byte)
{
    void *p = mmap(r->base + at, n_byte, PROT_NONE, RESERVE_FLAGS | MAP_FIXED_NOREPLACE, -1, 0);
    bool closed = p == r->base + at || (p == MAP_FAILED && errno == EEXIST && r->lost_bytes == 0);
    if (p != MAP_FAILED && p != r->base + at) {
        (void)munmap(p, n_byte); /* a kernel before 4.17 takes the address as a hint */
    }
    r->lost_at = closed ? 0 : at;
    r->lost_bytes = closed ? 0 : n_byte;
    return closed;
}

/* VMAs behind frames[0…n) with [0, n_ro) read-only. */
static uint32_t count_runs(const uint32_t *frames, uint32_t n, uint32_t n_ro)
{
    uint32_t n_run = 0;
    for (uint32_t i = 0; i < n; i++) {
        n_run += i == 0 || i == n_ro || frames[i] != frames[i - 1] + 1;
    }
    return n_run;
}

static uint32_t n_run_with(const struct kv_range *r, const uint32_t *frames, uint32_t n,
                           bool read_only)
{
    if (n == 0) {
        return r->n_run;
    }
    bool same_access = read_only ? r->n_ro == r->n_chunk : r->n_ro < r->n_chunk;
    bool joins = r->n_chunk > 0 && same_access && frames[0] == r->frames[r->n_chunk - 1] + 1;
    return r->n_run + count_runs(frames, n, 0) - (joins ? 1 : 0);
}

/* Notes n more chunks as mapped. */
static void took(struct kv_range *r, const uint32_t *frames, uint32_t n, bool read_only)
{
    r->n_run = n_run_with(r, frames, n, read_only);
    memcpy(r->frames + r->n_chunk, frames, n * sizeof *frames);
    r->n_chunk += n;
    r->n_ro += read_only ? n : 0;
}

enum err_code kv_range_append(struct kv_range *r, int fd, const uint32_t *frames, uint32_t n,
                              bool read_only, struct err *e)
{
    assert(n <= r->n_chunk_max - r->n_chunk);
    assert(!read_only || r->n_ro == r->n_chunk);
    size_t at = r->n_chunk * r->chunk_bytes;
    if (r->lost_bytes > 0 && at + n * r->chunk_bytes > r->lost_at &&
        !hole_close(r, r->lost_at, r->lost_bytes)) {
        return err_set(e, ERR_NOMEM, "a KV range lost part of its reservation");
    }
    int prot = read_only ? PROT_READ : PROT_READ | PROT_WRITE;
    uint32_t i = 0;
    while (i < n) {
        uint32_t n_same = 1;
        while (i + n_same < n && frames[i + n_same] == frames[i] + n_same) {
            n_same++;
        }
        size_t n_byte = n_same * r->chunk_bytes;
        off_t offset = (off_t)((uint64_t)frames[i] * r->chunk_bytes);
        void *want = r->base + at + i * r->chunk_bytes;
        if (mmap(want, n_byte, prot, MAP_SHARED | MAP_FIXED, fd, offset) != want) {
            int errno_value = errno;
            (void)hole_close(r, at + i * r->chunk_bytes, n_byte);
            took(r, frames, i, read_only);
            (void)kv_range_cut(r, r->n_chunk - i);
            return err_errno(e, ERR_NOMEM, errno_value, "cannot map %zu bytes of KV memory",
                             n_byte);
        }
        i += n_same;
    }
    took(r, frames, n, read_only);
    return ERR_OK;
}

bool kv_range_cut(struct kv_range *r, uint32_t n_chunk)
{
    if (n_chunk >= r->n_chunk) {
        return true;
    }
    size_t at = n_chunk * r->chunk_bytes;
    size_t n_byte = (r->n_chunk - n_chunk) * r->chunk_bytes;
    if (mmap(r->base + at, n_byte, PROT_NONE, RESERVE_FLAGS | MAP_FIXED, -1, 0) == MAP_FAILED) {
        return false;
    }
    r->n_chunk = n_chunk;
    r->n_ro = r->n_ro < n_chunk ? r->n_ro : n_chunk;
    r->n_run = count_runs(r->frames, r->n_chunk, r->n_ro);
    return true;
}

bool kv_range_protect(struct kv_range *r, uint32_t n_ro)
{
    assert(n_ro <= r->n_chunk);
    if (n_ro <= r->n_ro) {
        return true;
    }
    size_t at = r->n_ro * r->chunk_bytes;
    if (mprotect(r->base + at, (n_ro - r->n_ro) * r->chunk_bytes, PROT_READ) != 0) {
        return false;
    }
    r->n_ro = n_ro;
    r->n_run = count_runs(r->frames, r->n_chunk, r->n_ro);
    return true;
}

uint32_t kv_range_n_vma(const struct kv_range *r)
{
    return r->n_run + 1;
}

uint32_t kv_range_n_vma_with(const struct kv_range *r, const uint32_t *frames, uint32_t n,
                             bool read_only)
{
    return n_run_with(r, frames, n, read_only) + 1;
}

enum err_code kv_range_check(const struct kv_range *r, struct err *e)
{
    if (!r->base || (size_t)r->base % KV_HUGE_BYTES != 0 || r->n_chunk > r->n_chunk_max ||
        r->n_ro > r->n_chunk) {
        return err_set(e, ERR_INTERNAL, "a KV range of %u of %u chunks, %u read-only", r->n_chunk,
                       r->n_chunk_max, r->n_ro);
    }
    uint32_t n_run = count_runs(r->frames, r->n_chunk, r->n_ro);
    if (n_run != r->n_run) {
        return err_set(e, ERR_INTERNAL, "a KV range of %u runs is counted as %u", n_run, r->n_run);
    }
    return ERR_OK;
}
