/* A store's directory looked at from outside, without a model or a server: what `kvasir kv` does.
 * Reading needs no lock, also while a server writes: every header and payload is verified. Changes
 * take the lock, so a running server refuses them.
 *
 * An exported file is one block like a superblock (magic "KVASIRX1", slots per segment = slots that
 * follow), then for each chunk, from the root's down, its slot header and its payload. Importing
 * believes no more of it than opening a store believes of a disk.
 *
 * Thread: one at a time for a struct kv_dir. */
#ifndef KVSTORE_KV_DIR_H
#define KVSTORE_KV_DIR_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct kv_dir_chunk {
    uint8_t key[32];
    uint32_t slot;
    uint32_t parent; /* index, or UINT32_MAX: the first of its sequence, or its parent is gone */
    uint32_t n_child;
    uint32_t n_tok;      /* in this chunk */
    uint32_t n_tok_path; /* from the beginning to its end */
    uint32_t depth;
    uint32_t freq; /* uses when written */
    uint32_t kept_until_s;
    uint32_t expires_s;
    int64_t written_unix_s;
    uint64_t generation;
    bool is_whole; /* all before it are there, too */
};

struct kv_dir_info {
    const char *path;
    uint8_t fingerprint[32];
    uint32_t chunk_tok;
    uint64_t chunk_bytes;
    uint32_t n_slot; /* in existing segments */
    uint32_t n_chunk;
    uint64_t disk_bytes;
};

struct kv_dir;

/* Names of the stores in `dir`: calls visit with the path of each. `dir` may be one itself. */
enum err_code kv_dir_each(const char *dir, void (*visit)(void *arg, const char *path), void *arg,
                          struct err *e);
/* path: of one store. write: takes the lock; ERR_FULL while another process has it. */
enum err_code kv_dir_open(const char *path, bool write, struct kv_dir **ret_d, struct err *e);
void kv_dir_close(struct kv_dir *d); /* NULL is legal */
void kv_dir_info(const struct kv_dir *d, struct kv_dir_info *ret_info);
/* Parents before children; i < n_chunk. */
const struct kv_dir_chunk *kv_dir_chunk(const struct kv_dir *d, uint32_t i);
/* The chunk whose key begins with these hex digits. ERR_NOT_FOUND, ERR_INVALID: none, several. */
enum err_code kv_dir_find(const struct kv_dir *d, const char *hex, uint32_t *ret_i, struct err *e);

/* Reads and checks the payload of chunk i: ERR_CORRUPT, ERR_IO. */
enum err_code kv_dir_verify(struct kv_dir *d, uint32_t i, struct err *e);
/* Pins chunk i and all before it until then; 0: no longer. */
enum err_code kv_dir_pin(struct kv_dir *d, uint32_t i, uint32_t until_unix_s, struct err *e);
/* Deletes chunk i and all that follow it; *ret_n: how many. */
enum err_code kv_dir_drop(struct kv_dir *d, uint32_t i, uint32_t *ret_n, struct err *e);
/* Writes chunk i and all before it to a new file. */
enum err_code kv_dir_export(struct kv_dir *d, uint32_t i, const char *file, struct err *e);
/* Adds a file's chunks that are not there yet to the store below `dir` that they belong to, which
 * is made where it is missing. */
enum err_code kv_dir_import(const char *dir, const char *file, uint32_t *ret_n, struct err *e);

#endif
