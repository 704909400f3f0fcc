/* Physical memory of the KV store: one memfd of the whole budget, cut into frames of one chunk.
 * Pages appear when first written and then stay with their frame. Only of a free frame, which no
 * I/O can have, are they ever given back, and only when memory is short.
 *
 * Every frame is in exactly one state, derived from who holds it: mappings of live sequences, the
 * prefix index, a read or a write of the disk tier. A frame nobody holds is free at once.
 *
 * Frames are handed out by extents: a growing sequence gets the frame after its last one where it
 * can, else the start of an extent nobody uses yet, so that its mappings merge into few VMAs.
 *
 * Owner: struct kv_store. Thread: the store's. */
#ifndef KVSTORE_ARENA_H
#define KVSTORE_ARENA_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KV_FRAME_NONE UINT32_MAX
#define KV_HUGE_BYTES ((size_t)2 << 20)

enum kv_frame_state {
    KV_FRAME_FREE,
    KV_FRAME_ACTIVE,  /* mapped by a live sequence */
    KV_FRAME_CACHED,  /* held by the prefix index alone */
    KV_FRAME_LOADING, /* a read writes into it */
    KV_FRAME_WRITING, /* unmapped, a write reads from it */
    KV_FRAME_STATES,
};

struct kv_frame {
    uint32_t n_map;  /* live sequences that map it */
    uint16_t n_read; /* reads in flight into it */
    uint16_t n_write;
    bool held;       /* by the prefix index */
    bool is_touched; /* was handed out since its memory was last given back */
};

#define KV_EXTENT_FRAMES_MAX 64

struct kv_extent {
    uint64_t free_mask; /* bit i: frame i of the extent is free */
    uint32_t prev;      /* neighbours in the list of extents with as many free frames */
    uint32_t next;
};

struct kv_arena {
    int fd;
    size_t frame_bytes;
    uint32_t n_frame;
    /* Huge pages map only where address and file offset agree modulo 2 MiB: frame f should back
     * chunk i with f ≡ i (mod n_phase). A preference: any free frame is better than none. */
    uint32_t n_phase;
    uint32_t n_frame_extent; /* frames per extent, a power of two and a multiple of n_phase */
    uint32_t n_extent;
    uint8_t *bytes;            /* all frames, read-write: for copies and I/O */
    struct kv_frame *frames;   /* [n_frame] */
    struct kv_extent *extents; /* [n_extent] */
    uint32_t extents_by_free[KV_EXTENT_FRAMES_MAX + 1]; /* list heads */
    uint64_t n_by_state[KV_FRAME_STATES];               /* sums to n_frame, always */
    uint32_t n_touched;
    uint32_t punch_at;
};

/* n_frame >= 1; frame_bytes a multiple of 4 KiB. ERR_NOMEM when the kernel refuses. */
enum err_code kv_arena_init(struct kv_arena *a, uint32_t n_frame, size_t frame_bytes,
                            struct err *e);
void kv_arena_finish(struct kv_arena *a); /* a zeroed arena is legal */

/* A free frame to back chunk chunk_idx of a sequence whose chunk before is backed by prev_frame
 * (KV_FRAME_NONE: none). It counts as mapped once. KV_FRAME_NONE when no frame is free. */
uint32_t kv_arena_take(struct kv_arena *a, uint32_t prev_frame, uint32_t chunk_idx);

/* One holder more or fewer; the last to let go frees the frame. */
void kv_arena_map(struct kv_arena *a, uint32_t frame);
void kv_arena_unmap(struct kv_arena *a, uint32_t frame);
void kv_arena_hold(struct kv_arena *a, uint32_t frame, bool held);
void kv_arena_io(struct kv_arena *a, uint32_t frame, int n_read_more, int n_write_more);

/* Gives back the memory of up to n free frames; returns of how many. */
uint32_t kv_arena_punch(struct kv_arena *a, uint32_t n);

static inline uint8_t *kv_arena_frame(const struct kv_arena *a, uint32_t frame)
{
    return a->bytes + frame * a->frame_bytes;
}

enum kv_frame_state kv_arena_state(const struct kv_arena *a, uint32_t frame);

/* Recounts states, free masks and extent lists; ERR_INTERNAL names what disagrees. */
enum err_code kv_arena_check(const struct kv_arena *a, struct err *e);

#endif
