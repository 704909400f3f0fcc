#include "kvstore/disk.h"

#include "base/log.h"
#include "kvstore/crc32c.h"
#include "kvstore/disk_share.h"
#include "kvstore/prefix_index.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define SLOT_NONE         UINT32_MAX
#define SEGMENT_BYTES_AIM ((uint64_t)256 << 20)
#define SEGMENTS_MAX      65536
#define SEGMENT_AHEAD     8 /* the next one is made when so much (1/n) of one is left unused */
#define SCAN_BYTES        ((size_t)4 << 20)
#define FULL_RETRY_US     UINT64_C(60000000)
#define SUPER_BYTES       (2 * (uint64_t)KV_DISK_BLOCK)

static uint64_t slot_bytes(size_t chunk_bytes)
{
    return KV_DISK_BLOCK + (uint64_t)chunk_bytes;
}

uint64_t kv_segment_bytes(const struct kv_disk *d)
{
    return d->n_slot_segment * slot_bytes(d->chunk_bytes);
}

static uint32_t slots_per_segment(uint64_t cap_bytes, size_t chunk_bytes)
{
    uint64_t n_all =
        cap_bytes > SUPER_BYTES ? (cap_bytes - SUPER_BYTES) / slot_bytes(chunk_bytes) : 0;
    uint64_t n = SEGMENT_BYTES_AIM / slot_bytes(chunk_bytes);
    n = n < 1 ? 1 : n > KV_SEGMENT_SLOTS_MAX ? KV_SEGMENT_SLOTS_MAX : n;
    n = n > (n_all + 7) / 8 ? (n_all + 7) / 8 : n; /* small caps: at least eight steps */
    uint64_t n_seg = n > 0 ? (n_all + n - 1) / n : 1;
    return (uint32_t)(n_all / n_seg); /* so that little of the cap is left over */
}

static uint32_t n_segment_max(uint64_t cap_bytes, uint32_t n_slot_segment, size_t chunk_bytes)
{
    if (n_slot_segment == 0 || cap_bytes <= SUPER_BYTES) {
        return 0;
    }
    uint64_t n = (cap_bytes - SUPER_BYTES) / (n_slot_segment * slot_bytes(chunk_bytes));
    return n < SEGMENTS_MAX ? (uint32_t)n : SEGMENTS_MAX;
}

uint32_t kv_disk_n_slot(uint64_t cap_bytes, size_t chunk_bytes)
{
    uint32_t n = slots_per_segment(cap_bytes, chunk_bytes);
    return n * n_segment_max(cap_bytes, n, chunk_bytes);
}

/* ---- Headers ---- */

void kv_slot_header_seal(struct kv_slot_header *h)
{
    h->crc = kv_crc32c(h, offsetof(struct kv_slot_header, crc));
}

bool kv_slot_header_valid(const struct kv_disk *d, const struct kv_slot_header *h, uint32_t slot)
{
    if (memcmp(h->magic, KV_SLOT_MAGIC, sizeof h->magic) != 0 ||
        h->crc != kv_crc32c(h, offsetof(struct kv_slot_header, crc)) ||
        h->version != KV_DISK_VERSION || h->slot != slot || h->chunk_bytes != d->chunk_bytes ||
        memcmp(h->fingerprint, d->fingerprint, sizeof h->fingerprint) != 0 || h->n_tok == 0 ||
        h->n_tok > d->chunk_tok || h->n_tok > KV_SLOT_TOKENS_MAX) {
        return false;
    }
    if (h->depth == 0 && memcmp(h->parent, h->root, sizeof h->root) != 0) {
        return false;
    }
    struct kv_slot_header plain = *h;
    if (d->is_encrypted && (!d->crypt || !kv_crypt_tokens(d->crypt, &plain))) {
        return !d->crypt;
    }
    uint8_t key[KV_KEY_BYTES];
    kv_index_key(plain.parent, plain.tokens, plain.n_tok, key);
    return memcmp(key, h->key, sizeof key) == 0;
}

/* ---- Superblock ---- */

static bool super_valid(const struct kv_disk *d, const struct kv_superblock *b)
{
    return memcmp(b->magic, KV_SUPER_MAGIC, sizeof b->magic) == 0 &&
           b->crc == kv_crc32c(b, offsetof(struct kv_superblock, crc)) &&
           b->version == KV_DISK_VERSION && b->chunk_tok == d->chunk_tok &&
           b->chunk_bytes == d->chunk_bytes && b->n_slot_segment > 0 &&
           b->n_slot_segment <= KV_SEGMENT_SLOTS_MAX &&
           memcmp(b->fingerprint, d->fingerprint, sizeof b->fingerprint) == 0;
}

/* Takes the geometry from the newer valid superblock; false when there is none. */
static bool super_read(struct kv_disk *d, int fd, bool *ret_fits_key)
{
    struct kv_superblock b;
    bool found = false;
    for (int i = 0; i < 2; i++) {
        if (pread(fd, &b, sizeof b, i * (off_t)sizeof b) == (ssize_t)sizeof b &&
            super_valid(d, &b) && (!found || b.generation > d->super_generation)) {
            d->super_generation = b.generation;
            d->n_slot_segment = b.n_slot_segment;
            *ret_fits_key =
                b.is_encrypted == (d->crypt != NULL) &&
                (!d->crypt || memcmp(b.crypt_check, d->crypt->check, sizeof b.crypt_check) == 0);
            found = true;
        }
    }
    return found;
}

/* Writes the older of the two. */
static enum err_code super_write(struct kv_disk *d, int fd, struct err *e)
{
    struct kv_superblock b = {.version = KV_DISK_VERSION,
                              .chunk_tok = d->chunk_tok,
                              .chunk_bytes = d->chunk_bytes,
                              .generation = d->super_generation + 1,
                              .n_slot_segment = d->n_slot_segment,
                              .is_encrypted = d->crypt != NULL};
    if (d->crypt) {
        memcpy(b.crypt_check, d->crypt->check, sizeof b.crypt_check);
    }
    memcpy(b.magic, KV_SUPER_MAGIC, sizeof b.magic);
    memcpy(b.fingerprint, d->fingerprint, sizeof b.fingerprint);
    b.crc = kv_crc32c(&b, offsetof(struct kv_superblock, crc));
    off_t at = (off_t)(b.generation % 2 * sizeof b);
    ssize_t n = pwrite(fd, &b, sizeof b, at);
    if (n != (ssize_t)sizeof b) {
        return err_errno(e, ERR_IO, n < 0 ? errno : ENOSPC, "cannot write %s/super", d->path);
    }
    d->super_generation = b.generation;
    return ERR_OK;
}

/* ---- Segments ---- */

static void segment_name(char out[32], uint32_t i)
{
    (void)snprintf(out, 32, "seg-%05u", i);
}

static int segment_open(int dir_fd, uint32_t i, int flags, bool *ret_is_direct)
{
    char name[32];
    segment_name(name, i);
    flags |= O_RDWR | O_CLOEXEC | O_NOFOLLOW;
    int fd = openat(dir_fd, name, flags | O_DIRECT, 0600);
    *ret_is_direct = fd >= 0;
    if (fd < 0 && errno == EINVAL) { /* tmpfs and some overlays have no O_DIRECT */
        fd = openat(dir_fd, name, flags & ~O_EXCL, 0600);
    }
    return fd;
}

/* Below those that are left of the segments before: what is there already is used first. */
static void segment_slots_unused(struct kv_disk *d, uint32_t seg)
{
    uint32_t n = d->n_slot_segment;
    memmove(d->unused + n, d->unused, d->n_unused * sizeof *d->unused);
    for (uint32_t k = 0; k < n; k++) {
        d->unused[n - 1 - k] = seg * n + k;
    }
    d->n_unused += n;
}

/* Deletes the segment files from number n on, whatever they are. */
static void segments_delete_from(struct kv_disk *d, uint32_t n)
{
    int fd = openat(d->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (fd >= 0) {
            (void)close(fd);
        }
        return;
    }
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) { /* NOLINT(concurrency-mt-unsafe): our own stream */
        if (strncmp(entry->d_name, "seg-", 4) == 0 && strtoul(entry->d_name + 4, NULL, 10) >= n) {
            (void)unlinkat(d->dir_fd, entry->d_name, 0);
        }
    }
    (void)closedir(dir);
}

/* Opens the segments that are there: numbers 0, 1, … up to the first that is missing or odd. */
static void segments_open(struct kv_disk *d)
{
    while (d->n_seg < d->n_seg_max) {
        bool is_direct;
        int fd = segment_open(d->dir_fd, d->n_seg, 0, &is_direct);
        struct stat st;
        if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) ||
            (uint64_t)st.st_size != kv_segment_bytes(d)) {
            if (fd >= 0) {
                (void)close(fd);
            }
            break;
        }
        d->is_direct = is_direct;
        d->seg_fds[d->n_seg++] = fd;
    }
    segments_delete_from(d, d->n_seg);
}

int kv_segment_make(int parent_fd, int dir_fd, uint32_t seg, uint64_t n_byte, uint64_t cap_bytes)
{
    if (parent_fd >= 0) {
        int lock_fd = kv_share_lock(parent_fd);
        if (lock_fd < 0) {
            return -errno;
        }
        int fd = kv_share_make_room(parent_fd, n_byte, cap_bytes)
                     ? kv_segment_make(-1, dir_fd, seg, n_byte, 0)
                     : -EDQUOT;
        (void)close(lock_fd);
        return fd;
    }
    bool is_direct;
    int fd = segment_open(dir_fd, seg, O_CREAT | O_EXCL, &is_direct);
    if (fd < 0) {
        return -errno;
    }
    int code = fallocate(fd, 0, 0, (off_t)n_byte) == 0 ? 0 : errno;
    if (code == EOPNOTSUPP) {
        code = ftruncate(fd, (off_t)n_byte) == 0 ? 0 : errno;
    }
    if (code != 0) {
        char name[32];
        segment_name(name, seg);
        (void)close(fd);
        (void)unlinkat(dir_fd, name, 0);
        return -code;
    }
    return fd;
}

bool kv_disk_wants_segment(const struct kv_disk *d, uint64_t now_us)
{
    return d->n_seg < d->n_seg_max && d->n_unused <= d->n_slot_segment / SEGMENT_AHEAD &&
           now_us >= d->full_until_us;
}

void kv_disk_add_segment(struct kv_disk *d, int fd, uint64_t now_us)
{
    if (fd == -EDQUOT) { /* all that the stores here may have: evict, and look again later */
        d->full_until_us = now_us + FULL_RETRY_US;
        return;
    }
    if (fd < 0) {
        log_warn("kv disk: no new segment in %s: %s; trying again in a minute", d->path,
                 strerror(-fd)); /* NOLINT(concurrency-mt-unsafe) */
        d->full_until_us = now_us + FULL_RETRY_US;
        return;
    }
    d->seg_fds[d->n_seg] = fd;
    segment_slots_unused(d, d->n_seg++);
}

/* ---- Open and close ---- */

static enum err_code dir_open(struct kv_disk *d, const char *dir, struct err *e)
{
    char hex[33];
    for (int i = 0; i < 16; i++) {
        (void)snprintf(hex + 2 * i, 3, "%02x", d->fingerprint[i]);
    }
    if (snprintf(d->path, sizeof d->path, "%s/%s", dir, hex) >= (int)sizeof d->path) {
        return err_set(e, ERR_INVALID, "the KV directory's name is too long");
    }
    for (char *p = d->path + 1; *p; p++) {
        if (*p == '/') {
            *p = 0;
            int code = mkdir(d->path, 0700);
            *p = '/';
            if (code != 0 && errno != EEXIST) {
                return err_errno(e, ERR_IO, errno, "cannot make the KV directory %s", dir);
            }
        }
    }
    if (mkdir(d->path, 0700) != 0 && errno != EEXIST) {
        return err_errno(e, ERR_IO, errno, "cannot make the KV directory %s", d->path);
    }
    d->parent_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    d->dir_fd = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (d->dir_fd < 0 || d->parent_fd < 0) {
        return err_errno(e, ERR_IO, errno, "cannot open the KV directory %s", d->path);
    }
    d->lock_fd = openat(d->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (d->lock_fd < 0) {
        return err_errno(e, ERR_IO, errno, "cannot open %s/lock", d->path);
    }
    if (flock(d->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        return err_errno(e, errno == EWOULDBLOCK ? ERR_FULL : ERR_IO, errno,
                         "the KV directory %s is in use by another process", d->path);
    }
    return ERR_OK;
}

enum err_code kv_disk_open(struct kv_disk *d, const char *dir, const uint8_t fingerprint[32],
                           uint64_t cap_bytes, uint32_t chunk_tok, size_t chunk_bytes,
                           const struct kv_crypt *crypt, struct err *e)
{
    memset(d, 0, sizeof *d);
    d->parent_fd = d->dir_fd = d->lock_fd = -1;
    d->chunk_tok = chunk_tok;
    d->chunk_bytes = chunk_bytes;
    d->cap_bytes = cap_bytes;
    d->is_direct = true;
    d->crypt = crypt;
    d->is_encrypted = crypt != NULL;
    memcpy(d->fingerprint, fingerprint, sizeof d->fingerprint);
    int super_fd = -1;
    enum err_code code = ERR_OK;
    if (kv_disk_n_slot(cap_bytes, chunk_bytes) == 0 ||
        chunk_bytes > (size_t)KV_SLOT_STRIPES_MAX * KV_STRIPE_BYTES) {
        return err_set(e, ERR_LIMIT, "a KV disk cap of %llu bytes is too small for chunks of %zu",
                       (unsigned long long)cap_bytes, chunk_bytes);
    }
    code = dir_open(d, dir, e);
    if (code) {
        goto out;
    }
    super_fd = openat(d->dir_fd, "super", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (super_fd < 0) {
        code = err_errno(e, ERR_IO, errno, "cannot open %s/super", d->path);
        goto out;
    }
    bool fits_key = true;
    bool has_super = super_read(d, super_fd, &fits_key);
    if (has_super && !fits_key) {
        code = err_set(e, ERR_INVALID,
                       crypt ? "the KV store %s is not encrypted with this key: give its own, or "
                               "delete it"
                             : "the KV store %s is encrypted: give its key file, or delete it",
                       d->path);
        goto out;
    }
    if (!has_super || n_segment_max(cap_bytes, d->n_slot_segment, chunk_bytes) == 0) {
        segments_delete_from(d, 0); /* nothing there that could be believed, or fits */
        d->n_slot_segment = slots_per_segment(cap_bytes, chunk_bytes);
    }
    code = super_write(d, super_fd, e);
    if (code) {
        goto out;
    }
    d->n_seg_max = n_segment_max(cap_bytes, d->n_slot_segment, chunk_bytes);
    d->seg_fds = calloc(d->n_seg_max, sizeof *d->seg_fds);
    d->slots = calloc((size_t)d->n_seg_max * d->n_slot_segment, sizeof *d->slots);
    d->unused = calloc((size_t)d->n_seg_max * d->n_slot_segment, sizeof *d->unused);
    if (!d->seg_fds || !d->slots || !d->unused) {
        code = err_set(e, ERR_NOMEM, "no memory for %u disk segments", d->n_seg_max);
        goto out;
    }
    segments_open(d);
    int share_fd = kv_share_lock(d->parent_fd); /* the cap may have been larger */
    if (share_fd >= 0) {
        (void)kv_share_make_room(d->parent_fd, 0, cap_bytes);
        (void)close(share_fd);
    }
out:
    if (super_fd >= 0) {
        (void)close(super_fd);
    }
    if (code) {
        kv_disk_close(d);
    }
    return code;
}

void kv_disk_close(struct kv_disk *d)
{
    if (d->path[0] == 0 && !d->seg_fds) {
        return;
    }
    for (uint32_t i = 0; i < d->n_seg; i++) {
        (void)close(d->seg_fds[i]);
    }
    if (d->lock_fd >= 0) {
        (void)close(d->lock_fd); /* and so lets the lock go */
    }
    if (d->dir_fd >= 0) {
        (void)close(d->dir_fd);
    }
    if (d->parent_fd >= 0) {
        (void)close(d->parent_fd);
    }
    free(d->seg_fds);
    free(d->slots);
    free(d->unused);
    memset(d, 0, sizeof *d);
}

/* Reads up to n bytes at offset; what cannot be read is zero, and so is no header. */
static void read_zero_padded(int fd, uint8_t *buf, size_t n, uint64_t offset)
{
    size_t at = 0;
    while (at < n) {
        ssize_t got = pread(fd, buf + at, n - at, (off_t)(offset + at));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            size_t skip = n - at < KV_DISK_BLOCK ? n - at : KV_DISK_BLOCK;
            memset(buf + at, 0, got == 0 ? n - at : skip); /* one bad block is one slot */
            got = (ssize_t)(got == 0 ? n - at : skip);
        }
        at += (size_t)got;
    }
}

enum err_code kv_disk_scan(struct kv_disk *d,
                           bool (*found)(void *arg, const struct kv_slot_header *h), void *arg,
                           struct err *e)
{
    void *buf = NULL;
    if (posix_memalign(&buf, KV_DISK_BLOCK, SCAN_BYTES) != 0) {
        return err_set(e, ERR_NOMEM, "no memory to read the KV directory");
    }
    d->n_unused = 0;
    for (uint32_t seg = d->n_seg; seg-- > 0;) {
        size_t n_byte = (size_t)d->n_slot_segment * KV_DISK_BLOCK; /* <= SCAN_BYTES */
        read_zero_padded(d->seg_fds[seg], buf, n_byte, 0);
        for (uint32_t k = d->n_slot_segment; k-- > 0;) {
            const struct kv_slot_header *h = (const struct kv_slot_header *)buf + k;
            uint32_t slot = seg * d->n_slot_segment + k;
            bool is_valid = kv_slot_header_valid(d, h, slot);
            if (is_valid && h->generation > d->generation) {
                d->generation = h->generation;
            }
            if (is_valid && d->crypt) {
                is_valid = kv_crypt_tokens(d->crypt, (struct kv_slot_header *)buf + k);
            }
            d->slots[slot].taken = is_valid && found(arg, h);
            if (d->slots[slot].taken) {
                d->n_taken++;
            } else {
                d->unused[d->n_unused++] = slot;
            }
        }
    }
    free(buf);
    return ERR_OK;
}
static_assert((uint64_t)KV_SEGMENT_SLOTS_MAX * KV_DISK_BLOCK <= SCAN_BYTES, "one read per segment");

/* ---- Slots ---- */

uint32_t kv_disk_take(struct kv_disk *d)
{
    if (d->n_unused == 0) {
        return SLOT_NONE;
    }
    uint32_t slot = d->unused[--d->n_unused];
    d->slots[slot].taken = true;
    d->n_taken++;
    return slot;
}

/* A slot that failed goes to the bottom of the stack. */
static void reuse(struct kv_disk *d, uint32_t slot)
{
    struct kv_slot *x = &d->slots[slot];
    if (!x->taken && x->n_io == 0) {
        uint32_t at = x->failed ? 0 : d->n_unused;
        d->unused[d->n_unused++] = d->unused[at];
        d->unused[at] = slot;
        x->failed = false;
    }
}

void kv_disk_release(struct kv_disk *d, uint32_t slot, bool failed)
{
    d->slots[slot].taken = false;
    d->slots[slot].failed = failed;
    d->n_taken--;
    reuse(d, slot);
}

void kv_disk_io(struct kv_disk *d, uint32_t slot, int n_more)
{
    d->slots[slot].n_io = (uint16_t)(d->slots[slot].n_io + n_more);
    if (n_more < 0) {
        reuse(d, slot);
    }
}

int kv_disk_fd(const struct kv_disk *d, uint32_t slot)
{
    return d->seg_fds[slot / d->n_slot_segment];
}

uint64_t kv_disk_header_offset(const struct kv_disk *d, uint32_t slot)
{
    return (uint64_t)(slot % d->n_slot_segment) * KV_DISK_BLOCK;
}

uint64_t kv_disk_payload_offset(const struct kv_disk *d, uint32_t slot)
{
    return (uint64_t)d->n_slot_segment * KV_DISK_BLOCK +
           (uint64_t)(slot % d->n_slot_segment) * d->chunk_bytes;
}

uint64_t kv_disk_bytes(const struct kv_disk *d)
{
    return d->dir_fd >= 0 && d->path[0] ? SUPER_BYTES + d->n_seg * kv_segment_bytes(d) : 0;
}

enum err_code kv_disk_check(const struct kv_disk *d, struct err *e)
{
    uint32_t n_taken = 0;
    uint32_t n_unused = 0;
    uint32_t n_slot = d->n_seg * d->n_slot_segment;
    for (uint32_t i = 0; i < n_slot; i++) {
        n_taken += d->slots[i].taken;
        n_unused += !d->slots[i].taken && d->slots[i].n_io == 0;
    }
    for (uint32_t i = 0; i < d->n_unused; i++) {
        if (d->unused[i] >= n_slot || d->slots[d->unused[i]].taken ||
            d->slots[d->unused[i]].n_io > 0) {
            return err_set(e, ERR_INTERNAL, "disk slot %u is wrongly unused", d->unused[i]);
        }
    }
    if (n_taken != d->n_taken || n_unused != d->n_unused || kv_disk_bytes(d) > d->cap_bytes) {
        return err_set(e, ERR_INTERNAL, "%u disk slots taken, counted %u; %u unused, counted %u",
                       n_taken, d->n_taken, n_unused, d->n_unused);
    }
    return ERR_OK;
}
