/* How much of a disk a directory may take when nobody said. Any thread. */
#ifndef SERVER_DISK_ROOM_H
#define SERVER_DISK_ROOM_H

#include <stdint.h>

/* Half of what this process may still write where dir is, or will be made, what the directory holds
 * already counted as free: so the figure stays about the same from start to start. 0: the file
 * system does not say. */
uint64_t srv_disk_room_bytes(const char *dir);

#endif
