/* The store's directory: its lock, superblock, segments, and which slots are taken. No I/O of
 * payloads happens here. Disk bytes never exceed the cap: segments are made one by one, at their
 * full size, while they fit.
 *
 * Thread: the store's. */
#ifndef KVSTORE_DISK_H
#define KVSTORE_DISK_H

#include "base/err.h"
#include "kvstore/crypt.h"
#include "kvstore/slot_format.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KV_SEGMENT_SLOTS_MAX 1024

struct kv_slot {
    bool taken;
    bool failed;
    uint16_t n_io; /* jobs that read or write it: it is not handed on before they end */
};

struct kv_disk {
    char path[4096]; /* of the fingerprint's directory */
    uint8_t fingerprint[32];
    uint32_t chunk_tok;
    size_t chunk_bytes;
    uint64_t cap_bytes;
    int parent_fd; /* of the directory that other stores may be in, too */
    int dir_fd;
    int lock_fd;
    bool is_direct;    /* O_DIRECT works here */
    bool is_encrypted; /* without crypt: token ids cannot be read or checked */
    uint8_t crypt_check[KV_CRYPT_CHECK_BYTES]; /* kv_dir.c's */
    const struct kv_crypt *crypt;              /* not owned; NULL: none */
    uint32_t n_slot_segment;
    uint32_t n_seg_max;
    uint32_t n_seg;
    int *seg_fds;          /* [n_seg_max] */
    struct kv_slot *slots; /* [n_seg_max * n_slot_segment] */
    uint32_t *unused;      /* stack of slots of existing segments */
    uint32_t n_unused;
    uint32_t n_taken;
    uint64_t generation; /* of the last header written */
    uint64_t super_generation;
    uint64_t full_until_us; /* no new segment before: the disk had no room */
};

/* How many slots of a chunk size a cap allows; 0: not one. */
uint32_t kv_disk_n_slot(uint64_t cap_bytes, size_t chunk_bytes);

/* Opens or makes dir/FINGERPRINT. ERR_FULL: another process holds the lock. ERR_IO, ERR_LIMIT (the
 * cap is too small for one slot), ERR_INVALID (encrypted with another key, or not at all, or no key
 * is given). Segments that do not fit format or cap are deleted. */
enum err_code kv_disk_open(struct kv_disk *d, const char *dir, const uint8_t fingerprint[32],
                           uint64_t cap_bytes, uint32_t chunk_tok, size_t chunk_bytes,
                           const struct kv_crypt *crypt, struct err *e);
void kv_disk_close(struct kv_disk *d); /* a zeroed one is legal */

/* Reads all headers in order and calls found for each that is valid. Slots start unused; found
 * answers whether the slot is taken from now on. */
enum err_code kv_disk_scan(struct kv_disk *d,
                           bool (*found)(void *arg, const struct kv_slot_header *h), void *arg,
                           struct err *e);

/* A slot to write; UINT32_MAX: none. */
uint32_t kv_disk_take(struct kv_disk *d);
/* Whether one more segment should be made, before the last slots are gone. */
bool kv_disk_wants_segment(const struct kv_disk *d, uint64_t now_us);
/* Makes the file of a segment: the file, or -errno; -EDQUOT where all stores of the parent
 * directory would then have more than cap_bytes (parent_fd -1: no cap). May block; any thread. */
int kv_segment_make(int parent_fd, int dir_fd, uint32_t seg, uint64_t n_byte, uint64_t cap_bytes);
uint64_t kv_segment_bytes(const struct kv_disk *d);
/* fd: that of segment number n_seg, or -errno: then the next is wanted only later. */
void kv_disk_add_segment(struct kv_disk *d, int fd, uint64_t now_us);
/* failed: something is wrong with it, so the others are taken before it. */
void kv_disk_release(struct kv_disk *d, uint32_t slot, bool failed);
void kv_disk_io(struct kv_disk *d, uint32_t slot, int n_more);

int kv_disk_fd(const struct kv_disk *d, uint32_t slot);
uint64_t kv_disk_header_offset(const struct kv_disk *d, uint32_t slot);
uint64_t kv_disk_payload_offset(const struct kv_disk *d, uint32_t slot);
uint64_t kv_disk_bytes(const struct kv_disk *d); /* of all files, as they are on disk */

void kv_slot_header_seal(struct kv_slot_header *h); /* sets the CRC */
/* Whether a header read from `slot` of this store is all it should be. */
bool kv_slot_header_valid(const struct kv_disk *d, const struct kv_slot_header *h, uint32_t slot);

enum err_code kv_disk_check(const struct kv_disk *d, struct err *e);

#endif
