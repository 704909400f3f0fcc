#include "kvstore/kv_dir.h"

#include "kvstore/crc32c.h"
#include "kvstore/disk.h"
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

#define CHUNK_NONE    UINT32_MAX
#define EXPORT_MAGIC  "KVASIRX1"
#define N_SLOT_IMPORT 64 /* slots per segment of a store made for an import */
#define N_CHUNK_MAX   ((uint32_t)1 << 24)

struct kv_dir {
    struct kv_disk disk; /* geometry, path, segments; none of its tables of slots */
    uint32_t n_chunk;
    struct kv_dir_chunk *chunks;
    uint8_t *payload; /* one, aligned to nothing */
};

/* ---- Files ---- */

static bool read_all(int fd, void *buf, size_t n, uint64_t offset)
{
    size_t at = 0;
    while (at < n) {
        ssize_t got = pread(fd, (uint8_t *)buf + at, n - at, (off_t)(offset + at));
        if (got <= 0 && !(got < 0 && errno == EINTR)) {
            errno = got == 0 ? EIO : errno;
            return false;
        }
        at += got > 0 ? (size_t)got : 0;
    }
    return true;
}

static bool write_all(int fd, const void *buf, size_t n, uint64_t offset)
{
    size_t at = 0;
    while (at < n) {
        ssize_t put = pwrite(fd, (const uint8_t *)buf + at, n - at, (off_t)(offset + at));
        if (put <= 0 && !(put < 0 && errno == EINTR)) {
            errno = put == 0 ? ENOSPC : errno;
            return false;
        }
        at += put > 0 ? (size_t)put : 0;
    }
    return true;
}

static bool stripes_match(const struct kv_dir *d, const struct kv_slot_header *h)
{
    uint32_t crcs[KV_SLOT_STRIPES_MAX];
    size_t n = (d->disk.chunk_bytes - 1) / KV_STRIPE_BYTES + 1;
    kv_crc32c_stripes(d->payload, d->disk.chunk_bytes, KV_STRIPE_BYTES, crcs);
    return memcmp(crcs, h->stripe_crc, n * sizeof *crcs) == 0;
}

static bool header_read(const struct kv_dir *d, uint32_t slot, struct kv_slot_header *h)
{
    return read_all(kv_disk_fd(&d->disk, slot), h, sizeof *h,
                    kv_disk_header_offset(&d->disk, slot)) &&
           kv_slot_header_valid(&d->disk, h, slot);
}

static enum err_code header_write(struct kv_dir *d, uint32_t slot, struct kv_slot_header *h,
                                  struct err *e)
{
    kv_slot_header_seal(h);
    if (!write_all(kv_disk_fd(&d->disk, slot), h, sizeof *h,
                   kv_disk_header_offset(&d->disk, slot))) {
        return err_errno(e, ERR_IO, errno, "cannot write slot %u of %s", slot, d->disk.path);
    }
    return ERR_OK;
}

/* ---- Opening ---- */

/* One of a superblock's kind: its geometry is one that a store can have. */
static bool block_valid(const struct kv_superblock *b, const char magic[8])
{
    return memcmp(b->magic, magic, sizeof b->magic) == 0 && b->version == KV_DISK_VERSION &&
           b->crc == kv_crc32c(b, offsetof(struct kv_superblock, crc)) && b->chunk_tok > 0 &&
           b->chunk_tok <= KV_SLOT_TOKENS_MAX && b->chunk_bytes > 0 &&
           b->chunk_bytes % KV_DISK_BLOCK == 0 &&
           b->chunk_bytes <= (uint64_t)KV_SLOT_STRIPES_MAX * KV_STRIPE_BYTES &&
           b->n_slot_segment > 0;
}

static void geometry_take(struct kv_disk *d, const struct kv_superblock *b)
{
    d->chunk_tok = b->chunk_tok;
    d->chunk_bytes = (size_t)b->chunk_bytes;
    d->n_slot_segment = b->n_slot_segment;
    d->super_generation = b->generation;
    d->is_encrypted = b->is_encrypted != 0;
    memcpy(d->crypt_check, b->crypt_check, sizeof d->crypt_check);
    memcpy(d->fingerprint, b->fingerprint, sizeof d->fingerprint);
}

static enum err_code super_read(struct kv_disk *d, struct err *e)
{
    int fd = openat(d->dir_fd, "super", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return err_errno(e, ERR_NOT_FOUND, errno, "no KV store in %s", d->path);
    }
    bool found = false;
    for (int i = 0; i < 2; i++) {
        struct kv_superblock b;
        if (read_all(fd, &b, sizeof b, i * sizeof b) && block_valid(&b, KV_SUPER_MAGIC) &&
            b.n_slot_segment <= KV_SEGMENT_SLOTS_MAX &&
            (!found || b.generation > d->super_generation)) {
            geometry_take(d, &b);
            found = true;
        }
    }
    (void)close(fd);
    return found ? ERR_OK
                 : err_set(e, ERR_CORRUPT, "%s/super holds no KV store of version %u", d->path,
                           KV_DISK_VERSION);
}

static enum err_code segments_open(struct kv_disk *d, bool write, struct err *e)
{
    for (;;) {
        char name[32];
        struct stat st;
        (void)snprintf(name, sizeof name, "seg-%05u", d->n_seg);
        int fd = openat(d->dir_fd, name, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) ||
            (uint64_t)st.st_size != kv_segment_bytes(d)) {
            if (fd >= 0) {
                (void)close(fd);
            }
            return ERR_OK;
        }
        int *more = realloc(d->seg_fds, (d->n_seg + 1) * sizeof *more);
        if (!more) {
            (void)close(fd);
            return err_set(e, ERR_NOMEM, "no memory for the segments of %s", d->path);
        }
        d->seg_fds = more;
        d->seg_fds[d->n_seg++] = fd;
    }
}

/* Parents before children, newer before older. */
static int chunk_compare(const void *a, const void *b)
{
    const struct kv_dir_chunk *x = a;
    const struct kv_dir_chunk *y = b;
    if (x->depth != y->depth) {
        return x->depth < y->depth ? -1 : 1;
    }
    return x->generation > y->generation ? -1 : x->generation < y->generation;
}

static int key_compare(const void *a, const void *b)
{
    return memcmp(((const struct kv_dir_chunk *)a)->key, ((const struct kv_dir_chunk *)b)->key, 32);
}

static uint32_t by_key(const struct kv_dir_chunk *sorted, uint32_t n, const uint8_t key[32])
{
    struct kv_dir_chunk want;
    memcpy(want.key, key, sizeof want.key);
    const struct kv_dir_chunk *found =
        n ? bsearch(&want, sorted, n, sizeof *sorted, key_compare) : NULL;
    return found ? found->parent : CHUNK_NONE; /* where it stands in the other order */
}

/* Finds each chunk's parent; headers come in any order. */
static enum err_code link_parents(struct kv_dir *d, struct err *e)
{
    struct kv_dir_chunk *sorted = calloc(d->n_chunk + 1, sizeof *sorted);
    if (!sorted) {
        return err_set(e, ERR_NOMEM, "no memory for %u chunks", d->n_chunk);
    }
    memcpy(sorted, d->chunks, d->n_chunk * sizeof *sorted);
    for (uint32_t i = 0; i < d->n_chunk; i++) {
        sorted[i].parent = i;
    }
    qsort(sorted, d->n_chunk, sizeof *sorted, key_compare);
    for (uint32_t i = 0; i < d->n_chunk; i++) {
        struct kv_dir_chunk *c = &d->chunks[i];
        struct kv_slot_header h;
        c->parent = CHUNK_NONE;
        c->n_tok_path = c->n_tok;
        c->is_whole = c->depth == 0;
        if (c->depth > 0 && header_read(d, c->slot, &h)) {
            uint32_t p = by_key(sorted, d->n_chunk, h.parent);
            if (p != CHUNK_NONE && p < i && d->chunks[p].depth + 1 == c->depth) {
                c->parent = p;
                c->n_tok_path += d->chunks[p].n_tok_path;
                c->is_whole = d->chunks[p].is_whole;
                d->chunks[p].n_child++;
            }
        }
    }
    free(sorted);
    return ERR_OK;
}

static enum err_code chunks_read(struct kv_dir *d, struct err *e)
{
    uint64_t n_slot = (uint64_t)d->disk.n_seg * d->disk.n_slot_segment;
    if (n_slot > N_CHUNK_MAX) {
        return err_set(e, ERR_LIMIT, "%s has %llu slots: too many", d->disk.path,
                       (unsigned long long)n_slot);
    }
    d->chunks = calloc(n_slot + 1, sizeof *d->chunks);
    d->payload = malloc(d->disk.chunk_bytes);
    if (!d->chunks || !d->payload) {
        return err_set(e, ERR_NOMEM, "no memory for %llu slots", (unsigned long long)n_slot);
    }
    for (uint32_t slot = 0; slot < n_slot; slot++) {
        struct kv_slot_header h;
        if (!header_read(d, slot, &h)) {
            continue;
        }
        struct kv_dir_chunk *c = &d->chunks[d->n_chunk++];
        *c = (struct kv_dir_chunk){.slot = slot,
                                   .n_tok = h.n_tok,
                                   .depth = h.depth,
                                   .freq = h.freq,
                                   .kept_until_s = h.kept_until_s,
                                   .expires_s = h.expires_s,
                                   .written_unix_s = h.written_unix_s,
                                   .generation = h.generation};
        memcpy(c->key, h.key, sizeof c->key);
        d->disk.generation = h.generation > d->disk.generation ? h.generation : d->disk.generation;
    }
    if (d->n_chunk > 0) {
        qsort(d->chunks, d->n_chunk, sizeof *d->chunks, chunk_compare);
    }
    return link_parents(d, e);
}

enum err_code kv_dir_open(const char *path, bool write, struct kv_dir **ret_d, struct err *e)
{
    struct kv_dir *d = calloc(1, sizeof *d);
    if (!d) {
        return err_set(e, ERR_NOMEM, "no memory to open %s", path);
    }
    enum err_code code = ERR_OK;
    d->disk.parent_fd = d->disk.dir_fd = d->disk.lock_fd = -1;
    if (snprintf(d->disk.path, sizeof d->disk.path, "%s", path) >= (int)sizeof d->disk.path) {
        code = err_set(e, ERR_INVALID, "the directory's name is too long");
        goto out;
    }
    d->disk.dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->disk.dir_fd < 0) {
        code = err_errno(e, ERR_NOT_FOUND, errno, "cannot open %s", path);
        goto out;
    }
    code = super_read(&d->disk, e);
    if (code) {
        goto out;
    }
    if (write) {
        d->disk.lock_fd =
            openat(d->disk.dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (d->disk.lock_fd < 0 || flock(d->disk.lock_fd, LOCK_EX | LOCK_NB) != 0) {
            bool is_held = d->disk.lock_fd >= 0 && errno == EWOULDBLOCK;
            code = is_held ? err_set(e, ERR_FULL, "%s is in use: stop the server first", path)
                           : err_errno(e, ERR_IO, errno, "cannot lock %s", path);
            goto out;
        }
    }
    code = segments_open(&d->disk, write, e);
    if (!code) {
        code = chunks_read(d, e);
    }
out:
    if (code) {
        kv_dir_close(d);
    } else {
        *ret_d = d;
    }
    return code;
}

void kv_dir_close(struct kv_dir *d)
{
    if (!d) {
        return;
    }
    kv_disk_close(&d->disk);
    free(d->chunks);
    free(d->payload);
    free(d);
}

enum err_code kv_dir_each(const char *dir, void (*visit)(void *arg, const char *path), void *arg,
                          struct err *e)
{
    char path[4096];
    DIR *stream = opendir(dir);
    if (!stream) {
        return err_errno(e, ERR_NOT_FOUND, errno, "cannot open %s", dir);
    }
    uint32_t n = 0;
    if (faccessat(dirfd(stream), "super", F_OK, 0) == 0) {
        visit(arg, dir);
        n++;
    }
    const struct dirent *entry;
    while ((entry = readdir(stream)) != NULL) { /* NOLINT(concurrency-mt-unsafe): our own stream */
        if (entry->d_name[0] != '.' &&
            snprintf(path, sizeof path, "%s/%s/super", dir, entry->d_name) < (int)sizeof path &&
            access(path, F_OK) == 0) {
            path[strlen(path) - strlen("/super")] = 0;
            visit(arg, path);
            n++;
        }
    }
    (void)closedir(stream);
    return n ? ERR_OK : err_set(e, ERR_NOT_FOUND, "no KV store in %s", dir);
}

/* ---- Looking ---- */

void kv_dir_info(const struct kv_dir *d, struct kv_dir_info *ret_info)
{
    *ret_info = (struct kv_dir_info){.path = d->disk.path,
                                     .chunk_tok = d->disk.chunk_tok,
                                     .chunk_bytes = d->disk.chunk_bytes,
                                     .n_slot = d->disk.n_seg * d->disk.n_slot_segment,
                                     .n_chunk = d->n_chunk,
                                     .disk_bytes = kv_disk_bytes(&d->disk)};
    memcpy(ret_info->fingerprint, d->disk.fingerprint, sizeof ret_info->fingerprint);
}

const struct kv_dir_chunk *kv_dir_chunk(const struct kv_dir *d, uint32_t i)
{
    return &d->chunks[i];
}

enum err_code kv_dir_find(const struct kv_dir *d, const char *hex, uint32_t *ret_i, struct err *e)
{
    size_t n = strlen(hex);
    if (n < 4 || n > 64 || strspn(hex, "0123456789abcdef") != n) {
        return err_set(e, ERR_INVALID, "'%.80s' is no key: 4 to 64 hex digits, as list prints them",
                       hex);
    }
    uint32_t found = CHUNK_NONE;
    for (uint32_t i = 0; i < d->n_chunk; i++) {
        char text[65];
        for (int k = 0; k < 32; k++) {
            (void)snprintf(text + 2 * k, 3, "%02x", d->chunks[i].key[k]);
        }
        if (strncmp(text, hex, n) != 0) {
            continue;
        }
        if (found != CHUNK_NONE && memcmp(d->chunks[found].key, d->chunks[i].key, 32) != 0) {
            return err_set(e, ERR_INVALID, "several keys begin with %s: give more digits", hex);
        }
        found = found == CHUNK_NONE ? i : found;
    }
    if (found == CHUNK_NONE) {
        return err_set(e, ERR_NOT_FOUND, "no chunk in %s has a key that begins with %s",
                       d->disk.path, hex);
    }
    *ret_i = found;
    return ERR_OK;
}

enum err_code kv_dir_verify(struct kv_dir *d, uint32_t i, struct err *e)
{
    uint32_t slot = d->chunks[i].slot;
    struct kv_slot_header h;
    if (!read_all(kv_disk_fd(&d->disk, slot), d->payload, d->disk.chunk_bytes,
                  kv_disk_payload_offset(&d->disk, slot))) {
        return err_errno(e, ERR_IO, errno, "cannot read slot %u of %s", slot, d->disk.path);
    }
    if (!header_read(d, slot, &h) || memcmp(h.key, d->chunks[i].key, sizeof h.key) != 0 ||
        !stripes_match(d, &h)) {
        return err_set(e, ERR_CORRUPT, "slot %u of %s does not hold what its header says", slot,
                       d->disk.path);
    }
    return ERR_OK;
}

/* ---- Changing ---- */

enum err_code kv_dir_pin(struct kv_dir *d, uint32_t i, uint32_t until_unix_s, struct err *e)
{
    for (; i != CHUNK_NONE; i = d->chunks[i].parent) {
        struct kv_dir_chunk *c = &d->chunks[i];
        struct kv_slot_header h;
        if (!header_read(d, c->slot, &h)) {
            return err_set(e, ERR_CORRUPT, "slot %u of %s is unreadable", c->slot, d->disk.path);
        }
        h.kept_until_s = until_unix_s;
        h.expires_s = until_unix_s > h.expires_s && h.expires_s ? until_unix_s : h.expires_s;
        enum err_code code = header_write(d, c->slot, &h, e);
        if (code) {
            return code;
        }
        c->kept_until_s = h.kept_until_s;
        c->expires_s = h.expires_s;
    }
    return ERR_OK;
}

enum err_code kv_dir_drop(struct kv_dir *d, uint32_t i, uint32_t *ret_n, struct err *e)
{
    bool *is_dropped = calloc(d->n_chunk + 1, sizeof *is_dropped);
    static const uint8_t nothing[KV_DISK_BLOCK];
    uint32_t n = 0;
    enum err_code code = ERR_OK;
    if (!is_dropped) {
        return err_set(e, ERR_NOMEM, "no memory for %u chunks", d->n_chunk);
    }
    for (uint32_t k = 0; k < d->n_chunk && !code; k++) { /* parents come first */
        const struct kv_dir_chunk *c = &d->chunks[k];
        is_dropped[k] = memcmp(c->key, d->chunks[i].key, sizeof c->key) == 0 ||
                        (c->parent != CHUNK_NONE && is_dropped[c->parent]);
        if (is_dropped[k] && !write_all(kv_disk_fd(&d->disk, c->slot), nothing, sizeof nothing,
                                        kv_disk_header_offset(&d->disk, c->slot))) {
            code = err_errno(e, ERR_IO, errno, "cannot write slot %u of %s", c->slot, d->disk.path);
        }
        n += is_dropped[k];
    }
    free(is_dropped);
    *ret_n = n;
    return code;
}

/* ---- Export and import ---- */

static enum err_code export_chunks(struct kv_dir *d, const uint32_t *path, uint32_t n, int fd,
                                   struct err *e)
{
    struct kv_superblock b = {.version = KV_DISK_VERSION,
                              .chunk_tok = d->disk.chunk_tok,
                              .chunk_bytes = d->disk.chunk_bytes,
                              .generation = 1,
                              .n_slot_segment = n,
                              .is_encrypted = d->disk.is_encrypted};
    memcpy(b.crypt_check, d->disk.crypt_check, sizeof b.crypt_check);
    memcpy(b.magic, EXPORT_MAGIC, sizeof b.magic);
    memcpy(b.fingerprint, d->disk.fingerprint, sizeof b.fingerprint);
    b.crc = kv_crc32c(&b, offsetof(struct kv_superblock, crc));
    bool done = write_all(fd, &b, sizeof b, 0);
    uint64_t at = sizeof b;
    for (uint32_t k = n; k-- > 0 && done;) {
        struct kv_slot_header h;
        enum err_code code = kv_dir_verify(d, path[k], e);
        if (code) {
            return code;
        }
        done = header_read(d, d->chunks[path[k]].slot, &h) && write_all(fd, &h, sizeof h, at) &&
               write_all(fd, d->payload, d->disk.chunk_bytes, at + sizeof h);
        at += sizeof h + d->disk.chunk_bytes;
    }
    return done && fsync(fd) == 0 ? ERR_OK : err_errno(e, ERR_IO, errno, "cannot write the export");
}

enum err_code kv_dir_export(struct kv_dir *d, uint32_t i, const char *file, struct err *e)
{
    if (!d->chunks[i].is_whole) {
        return err_set(e, ERR_NOT_FOUND, "chunks before this one are gone: it cannot be used");
    }
    uint32_t n = d->chunks[i].depth + 1;
    uint32_t *path = malloc(n * sizeof *path);
    int fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (!path || fd < 0) {
        enum err_code code = path ? err_errno(e, ERR_IO, errno, "cannot make %s", file)
                                  : err_set(e, ERR_NOMEM, "no memory for %u chunks", n);
        if (fd >= 0) {
            (void)close(fd);
            (void)unlink(file);
        }
        free(path);
        return code;
    }
    for (uint32_t k = 0; k < n; k++, i = d->chunks[i].parent) {
        path[k] = i;
    }
    enum err_code code = export_chunks(d, path, n, fd, e);
    if (close(fd) != 0 && !code) {
        code = err_errno(e, ERR_IO, errno, "cannot write %s", file);
    }
    if (code) {
        (void)unlink(file);
    }
    free(path);
    return code;
}

/* A store of that geometry, empty; nothing where there is one. */
static enum err_code store_make(const char *path, const struct kv_superblock *from, struct err *e)
{
    struct kv_superblock b = *from;
    memcpy(b.magic, KV_SUPER_MAGIC, sizeof b.magic);
    b.n_slot_segment = N_SLOT_IMPORT;
    b.crc = kv_crc32c(&b, offsetof(struct kv_superblock, crc));
    char name[4096 + 16];
    (void)snprintf(name, sizeof name, "%s/super", path);
    if (access(name, F_OK) == 0) {
        return ERR_OK;
    }
    if (mkdir(path, 0700) != 0 && errno != EEXIST) {
        return err_errno(e, ERR_IO, errno, "cannot make %s", path);
    }
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool done = fd >= 0 && write_all(fd, &b, sizeof b, b.generation % 2 * sizeof b);
    int errno_value = errno;
    if (fd >= 0) {
        (void)close(fd);
    }
    return done ? ERR_OK : err_errno(e, ERR_IO, errno_value, "cannot write %s", name);
}

/* A slot with no valid header, in a new segment where there is none; CHUNK_NONE: none to be had. */
static uint32_t slot_unused(struct kv_dir *d, uint32_t *at)
{
    struct kv_slot_header h;
    uint32_t n_slot = d->disk.n_seg * d->disk.n_slot_segment;
    while (*at < n_slot && header_read(d, *at, &h)) {
        ++*at;
    }
    if (*at == n_slot) {
        int fd = kv_segment_make(-1, d->disk.dir_fd, d->disk.n_seg, kv_segment_bytes(&d->disk), 0);
        if (fd >= 0) {
            (void)close(fd); /* O_DIRECT */
        }
        uint32_t n_seg = d->disk.n_seg;
        if (fd < 0 || segments_open(&d->disk, true, NULL) || d->disk.n_seg == n_seg) {
            return CHUNK_NONE;
        }
    }
    return (*at)++;
}

static bool has_key(const struct kv_dir *d, const uint8_t key[32])
{
    for (uint32_t i = 0; i < d->n_chunk; i++) {
        if (memcmp(d->chunks[i].key, key, 32) == 0) {
            return true;
        }
    }
    return false;
}

static enum err_code import_chunks(struct kv_dir *d, const struct kv_superblock *b, int fd,
                                   uint32_t *ret_n, struct err *e)
{
    uint64_t at = sizeof *b;
    uint8_t parent[32] = {0};
    uint32_t slot_at = 0;
    *ret_n = 0;
    for (uint32_t i = 0; i < b->n_slot_segment; i++) {
        struct kv_slot_header h;
        if (!read_all(fd, &h, sizeof h, at) ||
            !read_all(fd, d->payload, d->disk.chunk_bytes, at + sizeof h)) {
            return err_errno(e, ERR_CORRUPT, errno, "chunk %u of the file is cut short", i);
        }
        if (!kv_slot_header_valid(&d->disk, &h, h.slot) || !stripes_match(d, &h) || h.depth != i ||
            (i > 0 && (memcmp(h.parent, parent, sizeof parent) != 0))) {
            return err_set(e, ERR_CORRUPT, "chunk %u of the file is damaged", i);
        }
        memcpy(parent, h.key, sizeof parent);
        at += sizeof h + d->disk.chunk_bytes;
        if (has_key(d, h.key)) {
            continue;
        }
        uint32_t slot = slot_unused(d, &slot_at);
        if (slot == CHUNK_NONE) {
            return err_set(e, ERR_FULL, "no room for more chunks in %s", d->disk.path);
        }
        h.slot = slot;
        h.generation = ++d->disk.generation;
        if (!write_all(kv_disk_fd(&d->disk, slot), d->payload, d->disk.chunk_bytes,
                       kv_disk_payload_offset(&d->disk, slot))) {
            return err_errno(e, ERR_IO, errno, "cannot write slot %u of %s", slot, d->disk.path);
        }
        enum err_code code = header_write(d, slot, &h, e);
        if (code) {
            return code;
        }
        ++*ret_n;
    }
    return ERR_OK;
}

enum err_code kv_dir_import(const char *dir, const char *file, uint32_t *ret_n, struct err *e)
{
    char path[4096];
    struct kv_superblock b;
    struct kv_dir *d = NULL;
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return err_errno(e, ERR_NOT_FOUND, errno, "cannot open %s", file);
    }
    enum err_code code = ERR_OK;
    if (!read_all(fd, &b, sizeof b, 0) || !block_valid(&b, EXPORT_MAGIC)) {
        code = err_set(e, ERR_CORRUPT, "%s is no exported KV of version %u", file, KV_DISK_VERSION);
        goto out;
    }
    int n = snprintf(path, sizeof path, "%s/", dir);
    for (int i = 0; i < 16 && n > 0 && n + 3 < (int)sizeof path; i++) {
        n += snprintf(path + n, sizeof path - (size_t)n, "%02x", b.fingerprint[i]);
    }
    code = store_make(path, &b, e);
    if (!code) {
        code = kv_dir_open(path, true, &d, e);
    }
    if (code) {
        goto out;
    }
    if (memcmp(d->disk.fingerprint, b.fingerprint, sizeof b.fingerprint) != 0 ||
        d->disk.chunk_bytes != b.chunk_bytes || d->disk.chunk_tok != b.chunk_tok ||
        d->disk.is_encrypted != (b.is_encrypted != 0) ||
        memcmp(d->disk.crypt_check, b.crypt_check, sizeof b.crypt_check) != 0) {
        code = err_set(e, ERR_INVALID, "the KV of %s does not fit %s", file, path);
        goto out;
    }
    code = import_chunks(d, &b, fd, ret_n, e);
out:
    kv_dir_close(d);
    (void)close(fd);
    return code;
}
