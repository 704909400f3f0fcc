/* The KV store: one arena of physical memory, and for each sequence one contiguous range of virtual
 * addresses that grows on demand. It knows chunks, frames and addresses; never what a token means
 * or what a layer is: the scheduler brings the engine's chunk size and takes addresses back.
 *
 * A sequence opened plainly (kv_seq_open) has private memory and leaves nothing behind. One opened
 * with an identity and its prompt (kv_seq_open_prompt) begins with what the cache has of it, mapped
 * from the same frames in every sequence that shares it, and leaves its own chunks for others:
 *
 *     kv_seq_open_prompt(s, &id, prompt, n, &q, &match, e);
 *     while (match.n_tok_pending > match.n_tok_ready && there is better to do than wait)
 *         kv_seq_follow(q, prompt, n, true, &match, e);        each step, after kv_poll
 *     at = match.n_tok_ready;
 *     each step:  kv_seq_grow(q, at + n_row, e);  compute rows [at, at + n_row);
 *                 kv_seq_commit(q, tokens + at, n_row, e);  at += n_row;
 *     kv_seq_close(q);
 *
 * Thread: one (the scheduler's) for everything but kv_get_stats, which any thread may call. */
#ifndef KVSTORE_KVSTORE_H
#define KVSTORE_KVSTORE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kv_backend { KV_BACKEND_AUTO, KV_BACKEND_URING, KV_BACKEND_PREAD };

struct kv_io;

/* For tests: puts something between the disk tier and its backend; see io.h. */
struct kv_io_hook {
    struct kv_io *(*wrap)(void *arg, struct kv_io *io);
    void *arg;
};

struct kv_disk_options {
    const char *dir;         /* NULL: no disk tier. Made where missing, for this user alone */
    uint64_t cap_bytes;      /* bytes of files of all stores in dir; this one never exceeds it */
    uint8_t fingerprint[32]; /* of model, arithmetic and layout: stores of others are not touched */
    enum kv_backend backend; /* AUTO: io_uring where a real write and read succeed, else pread */
    const char *key_file;    /* encrypts what is on disk, see crypt.h; NULL: not */
    uint64_t write_bytes_s_max; /* write budget; 0: none */
    uint64_t io_timeout_us;     /* of one chunk; 0: 2 s */
    uint64_t tail_idle_us;      /* a session's short last chunk is written after; 0: 2 s */
    uint64_t lock_wait_us;      /* for another process to let go; 0: 5 s */
    /* An honest disk in front of one that the host caches; 0: as fast as it is. */
    uint64_t throttle_read_bytes_s;
    uint64_t throttle_write_bytes_s;
    uint64_t throttle_latency_us;
    const struct kv_io_hook *hook;
};

#define KV_NO_PREFAULT UINT64_MAX

struct kv_options {
    uint64_t ram_bytes;     /* budget; rounded down to whole frames, at least one */
    uint32_t chunk_tok;     /* tokens per chunk, a power of two */
    size_t chunk_bytes;     /* a multiple of 4 KiB */
    uint32_t n_seq_tok_max; /* longest sequence: the size of each reserved range */
    uint32_t n_vma_max;     /* mappings the store may use; 0: 0.6 × vm.max_map_count */
    /* Memory populated ahead of need by a thread, as huge pages where the kernel gives any; the
     * same thread watches what memory is left. 0: 128 MiB, or an eighth of ram_bytes where that is
     * less; KV_NO_PREFAULT: no such thread. */
    uint64_t prefault_bytes;
    uint64_t (*bytes_left)(void); /* for tests; NULL: what the machine and the cgroup have left */
    uint32_t pin_percent; /* of frames, and of slots, that pins may hold; 0: 50, at most 90 */
    struct kv_disk_options disk;
};

struct kv_store;
struct kv_seq;

enum err_code kv_store_create(const struct kv_options *options, struct kv_store **ret_s,
                              struct err *e);
/* All sequences must have been closed. NULL is legal. */
void kv_store_destroy(struct kv_store *s);

/* Reserves a range; maps nothing yet. ERR_FULL when the address or mapping budget is spent. */
enum err_code kv_seq_open(struct kv_store *s, struct kv_seq **ret_q, struct err *e);
/* Gives every frame back at once. NULL is legal. */
void kv_seq_close(struct kv_seq *q);

/* Maps frames until tokens [0, n_tok) have memory, writable from kv_seq_n_tok on. Cached chunks are
 * evicted for it. ERR_FULL when no frame is free: nothing changed,
 * the same call may succeed later. ERR_LIMIT beyond n_seq_tok_max. */
enum err_code kv_seq_grow(struct kv_seq *q, uint32_t n_tok, struct err *e);
/* Gives back the frames that only tokens from n_tok on used; what was committed beyond is
 * forgotten by this sequence. */
void kv_seq_shrink(struct kv_seq *q, uint32_t n_tok);
void *kv_seq_base(const struct kv_seq *q); /* fixed for the sequence's life */
uint32_t kv_seq_n_tok_mapped(const struct kv_seq *q);

/* ---- The prefix cache ---- */

/* What makes two equal token sequences have equal KV. Values are on disk: never renumber. */
enum kv_field_type {
    KV_FIELD_WEIGHTS = 1, /* digest of the weights, not a name */
    KV_FIELD_KV_TYPE = 2,
    KV_FIELD_LAYOUT = 3,
    KV_FIELD_ARITHMETIC = 4, /* ISA path and version of the kernels */
    KV_FIELD_ROPE = 5,
    KV_FIELD_COMPRESSION = 6,
    KV_FIELD_ADAPTER = 7,
    KV_FIELD_TENANT = 8, /* who may share: the API key's name */
    KV_FIELD_SALT = 9,
    KV_FIELD_MEDIA = 10,
};

struct kv_field {
    enum kv_field_type type;
    uint32_t n_byte;
    const void *bytes;
};

/* Made once per request; a plain value. */
struct kv_identity {
    uint8_t root[32];   /* SHA-256 over all fields, each with its type and length */
    uint8_t tenant[32]; /* over the tenant's alone, for its floor in eviction */
};

/* ERR_NOMEM only. The order of the fields matters. */
enum err_code kv_identity_make(const struct kv_field *fields, uint32_t n_field,
                               struct kv_identity *ret_id, struct err *e);

struct kv_match {
    uint32_t n_tok_ready; /* [0, n_tok_ready) is written and mapped: compute from there */
    /* >= n_tok_ready: up to here another sequence is computing, or the disk is reading. Waiting is
     * advice: computing it oneself is right, too, and then spares the other its work. */
    uint32_t n_tok_pending;
};

/* Opens a sequence with the longest prefix of tokens[0…n_tok) that is there, at any token, but at
 * most n_tok - 1. Chunks are shared; one shared in part is copied. Errors as kv_seq_open; a cache
 * that cannot serve only makes the match shorter. */
enum err_code kv_seq_open_prompt(struct kv_store *s, const struct kv_identity *id,
                                 const int32_t *tokens, uint32_t n_tok, struct kv_seq **ret_q,
                                 struct kv_match *ret_m, struct err *e);
/* Looks again, with the same tokens, while q has committed nothing of its own. wait: leave what is
 * pending alone. Not wait: take what is there now (n_tok_pending becomes n_tok_ready), and let
 * others follow what q is about to compute. Without anything pending, opening does that at once. */
void kv_seq_follow(struct kv_seq *q, const int32_t *tokens, uint32_t n_tok, bool wait,
                   struct kv_match *ret_m);
/* The KV of these tokens is now written, at [kv_seq_n_tok, + n_tok), and never written again: full
 * chunks become read-only and others' to share. Prompt and generated tokens alike. Must be mapped
 * (kv_seq_grow). For a plain sequence it only counts. */
void kv_seq_commit(struct kv_seq *q, const int32_t *tokens, uint32_t n_tok);
uint32_t kv_seq_n_tok(const struct kv_seq *q); /* matched or committed */
/* A second sequence that goes on from the first n_tok <= kv_seq_n_tok tokens of q: full chunks are
 * shared, the rest is copied. Only of a sequence with an identity (ERR_INVALID). */
enum err_code kv_seq_fork(struct kv_seq *q, uint32_t n_tok, struct kv_seq **ret_q, struct err *e);

/* ---- Retention and pins ---- */

/* What becomes of what a sequence leaves behind. Zeroed: eviction decides, and the disk takes it.
 * Where sequences share a chunk, whoever wants it longer, or on disk, has his way. */
struct kv_retention {
    uint32_t keep_s;     /* held against eviction for so long after its last use, as by kv_pin */
    uint32_t ttl_s;      /* forgotten, in RAM and on disk, when unused for so long; 0: never */
    bool ram_only;       /* never written to disk */
    bool leaves_nothing; /* reads the cache, adds nothing to it */
};
/* To be called after opening and before the first commit. A fork begins with its parent's. */
void kv_seq_retain(struct kv_seq *q, const struct kv_retention *r);

#define KV_PIN_FOR_GOOD UINT32_MAX
/* Holds the chunks that begin with these tokens and lie within them against eviction, in RAM and on
 * disk, also after a restart, until that time in Unix seconds. Pins hold at most pin_percent of the
 * frames and of the slots, and where several tenants are, each at most its equal part of those;
 * what is beyond is kept only as long as eviction lets it. Returns how many of the tokens are
 * pinned. */
uint32_t kv_pin(struct kv_store *s, const struct kv_identity *id, const int32_t *tokens,
                uint32_t n_tok, uint32_t until_unix_s);
/* Lets them go again, whatever held them; returns how many tokens that concerned. */
uint32_t kv_unpin(struct kv_store *s, const struct kv_identity *id, const int32_t *tokens,
                  uint32_t n_tok);

/* For a sequence that finds no memory although it runs alone: what no sequence uses is held against
 * eviction no more. Returns how many chunks that concerned. */
uint32_t kv_pins_give_way(struct kv_store *s);

/* ---- The disk tier ---- */

/* Drives it: takes what the I/O thread finished, starts what is wanted. Call it every step, and
 * while waiting for n_tok_pending. Never blocks on I/O; costs next to nothing without a disk. */
void kv_poll(struct kv_store *s);
/* For how long kv_poll has nothing to do, for whoever is about to sleep; UINT64_MAX: until
 * something else is called. */
uint64_t kv_idle_us(const struct kv_store *s);
/* Begins to read what the disk has of a queued prompt. Returns how many of its tokens are in RAM
 * already. May be called again while the request waits. */
uint32_t kv_prefetch(struct kv_store *s, const struct kv_identity *id, const int32_t *tokens,
                     uint32_t n_tok);
/* Before a clean end: writes what is queued, short chunks too. False when it did not get done. */
bool kv_flush(struct kv_store *s, uint64_t timeout_us);
/* Tokens per second that prefill computes, as measured: chunks that the disk would bring back more
 * slowly are not read. 0: unknown. */
void kv_set_recompute_rate(struct kv_store *s, double tok_s);

struct kv_stats {
    uint64_t n_frame_total; /* = the sum of the states below, always */
    uint64_t n_frame_free;
    uint64_t n_frame_active; /* mapped by a live sequence */
    uint64_t n_frame_cached; /* held by the prefix index alone */
    uint64_t n_frame_loading;
    uint64_t n_frame_writing;
    uint64_t n_frame_limit;   /* fewer than the total while memory is short: cached ones give way */
    uint64_t n_frame_touched; /* have memory behind them */
    uint64_t n_frame_punched; /* times that a frame's memory was given back */
    uint64_t populated_bytes; /* ahead of need */
    uint64_t huge_bytes;      /* of these, made huge pages by collapsing */
    uint64_t n_vma;
    uint64_t n_vma_max;
    uint64_t n_vma_copy; /* chunks copied because the mappings were used up */
    uint64_t n_seq;
    size_t chunk_bytes;
    uint32_t chunk_tok;
    /* The prefix cache. Counts of tokens and events since the store was created. */
    uint64_t n_node;      /* chunks in the index, on disk or in RAM or in the making */
    uint64_t n_tok_asked; /* prompt tokens of sequences opened with an identity */
    uint64_t n_tok_hit_ram;
    uint64_t n_tok_hit_disk;
    uint64_t n_evict_ram;
    uint64_t n_evict_disk;
    uint64_t n_copy;         /* chunks copied because a sequence diverged inside */
    uint64_t n_frame_pinned; /* held against eviction by pins and retention */
    uint64_t n_slot_pinned;
    uint64_t n_expired; /* chunks forgotten by age */
    /* The disk tier. */
    uint64_t n_slot; /* slots the cap allows */
    uint64_t n_slot_used;
    uint64_t disk_bytes; /* of files */
    uint64_t n_disk_read;
    uint64_t n_disk_write;
    uint64_t n_disk_write_dropped; /* not worth it, or no room */
    uint64_t n_disk_queued;
    uint64_t n_disk_corrupt; /* slots that failed verification */
    uint64_t n_disk_error;
    uint64_t n_disk_late; /* reads that passed their deadline */
    bool disk_is_open;
    bool disk_is_paused; /* by the circuit breaker */
};
void kv_get_stats(const struct kv_store *s, struct kv_stats *ret_stats);

/* Walks every structure and checks the invariants of design.md ("Numbers the code must keep true");
 * ERR_INTERNAL names the first that fails. Debug builds and tests call it after every step. */
enum err_code kv_check(const struct kv_store *s, struct err *e);

#endif
