/* One cap for all stores of a directory: other models', other processes'. A store grows only while
 * the segments of all of them stay below its cap; to make room it takes the last segments of stores
 * that nobody has open, of the longest unused first.
 *
 * Thread: any; these calls block on the file system. */
#ifndef KVSTORE_DISK_SHARE_H
#define KVSTORE_DISK_SHARE_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes of the files of all stores in a directory. */
uint64_t kv_share_bytes(int parent_fd);
/* Makes room for n_byte more below the cap; false when there is none to be had. To be called with
 * the directory's lock held (kv_share_lock), until the bytes are taken. */
bool kv_share_make_room(int parent_fd, uint64_t n_byte, uint64_t cap_bytes);
/* The lock of the directory, to be closed; -1 and errno when others hold it for too long. */
int kv_share_lock(int parent_fd);

#endif
