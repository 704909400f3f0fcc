#include "server/disk_room.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define DEPTH_MAX 3 /* of a store: its directory, one for each model, their files */

/* Blocks of the regular files at and below an open directory, which is closed. */
static uint64_t held_bytes(int fd, int depth)
{
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    uint64_t n = 0;
    if (!d) {
        (void)(fd >= 0 && close(fd));
        return 0;
    }
    struct dirent *entry;
    while ((entry = readdir(d))) { /* NOLINT(concurrency-mt-unsafe): d is ours alone */
        struct stat st;
        if (entry->d_name[0] == '.' ||
            fstatat(dirfd(d), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
            continue;
        }
        if (S_ISREG(st.st_mode)) {
            n += (uint64_t)st.st_blocks * 512;
        } else if (S_ISDIR(st.st_mode) && depth < DEPTH_MAX) {
            int below = openat(dirfd(d), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            n += held_bytes(below, depth + 1);
        }
    }
    (void)closedir(d);
    return n;
}

/* Of the file system of dir, or of the nearest directory above that is there. */
static uint64_t free_bytes(const char *dir)
{
    struct statvfs fs;
    char *path = strdup(dir);
    int rc = path ? statvfs(path, &fs) : -1;
    while (path && rc != 0) {
        char *slash = strrchr(path, '/');
        if (!slash || slash == path) {
            rc = statvfs(slash ? "/" : ".", &fs);
            break;
        }
        *slash = 0;
        rc = statvfs(path, &fs);
    }
    free(path);
    return rc == 0 ? (uint64_t)fs.f_bavail * fs.f_frsize : 0;
}

uint64_t srv_disk_room_bytes(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return (free_bytes(dir) + held_bytes(fd, 1)) / 2;
}
