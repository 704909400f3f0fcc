#include "kvstore/disk_share.h"

#include "base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_WAIT_US  2000000
#define LOCK_RETRY_US 5000
#define NAME_DIGITS   32

/* Calls visit for the entries of a directory, whose file descriptor stays the caller's. */
static void each_entry(int dir_fd, void (*visit)(void *arg, int dir_fd, const char *name),
                       void *arg)
{
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (fd >= 0) {
            (void)close(fd);
        }
        return;
    }
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) { /* NOLINT(concurrency-mt-unsafe): our own stream */
        visit(arg, dir_fd, entry->d_name);
    }
    (void)closedir(dir);
}

static bool is_store_name(const char *name)
{
    return strlen(name) == NAME_DIGITS && strspn(name, "0123456789abcdef") == NAME_DIGITS;
}

static int store_open(int parent_fd, const char *name)
{
    return is_store_name(name)
               ? openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
               : -1;
}

struct files {
    uint64_t n_byte;
    uint64_t n_seg; /* one more than the highest number */
};

static void visit_file(void *arg, int dir_fd, const char *name)
{
    struct files *f = arg;
    struct stat st;
    bool is_segment = strncmp(name, "seg-", 4) == 0;
    if ((!is_segment && strcmp(name, "super") != 0) ||
        fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode)) {
        return;
    }
    f->n_byte += (uint64_t)st.st_size;
    if (is_segment) {
        uint64_t n = strtoul(name + 4, NULL, 10) + 1;
        f->n_seg = n > f->n_seg ? n : f->n_seg;
    }
}

static void visit_store_bytes(void *arg, int parent_fd, const char *name)
{
    uint64_t *n_byte = arg;
    int fd = store_open(parent_fd, name);
    if (fd >= 0) {
        struct files f = {0};
        each_entry(fd, visit_file, &f);
        *n_byte += f.n_byte;
        (void)close(fd);
    }
}

uint64_t kv_share_bytes(int parent_fd)
{
    uint64_t n_byte = 0;
    each_entry(parent_fd, visit_store_bytes, &n_byte);
    return n_byte;
}

/* The store with segments that nobody has open and that was opened longest ago. */
struct idle {
    int dir_fd; /* -1: none */
    int lock_fd;
    uint64_t n_seg;
    struct timespec used;
};

static void idle_close(struct idle *i)
{
    if (i->dir_fd >= 0) {
        (void)close(i->lock_fd);
        (void)close(i->dir_fd);
    }
}

static void visit_store_idle(void *arg, int parent_fd, const char *name)
{
    struct idle *best = arg;
    struct idle i = {.dir_fd = store_open(parent_fd, name), .lock_fd = -1};
    struct files f = {0};
    struct stat st;
    if (i.dir_fd < 0) {
        return;
    }
    i.lock_fd = openat(i.dir_fd, "lock", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (i.lock_fd < 0 || flock(i.lock_fd, LOCK_EX | LOCK_NB) != 0 ||
        fstatat(i.dir_fd, "super", &st, AT_SYMLINK_NOFOLLOW) != 0) {
        if (i.lock_fd >= 0) {
            (void)close(i.lock_fd);
        }
        (void)close(i.dir_fd);
        return;
    }
    i.used = st.st_mtim;
    each_entry(i.dir_fd, visit_file, &f);
    i.n_seg = f.n_seg;
    bool is_older = best->dir_fd < 0 || i.used.tv_sec < best->used.tv_sec ||
                    (i.used.tv_sec == best->used.tv_sec && i.used.tv_nsec < best->used.tv_nsec);
    if (f.n_seg > 0 && is_older) {
        idle_close(best);
        *best = i;
    } else {
        idle_close(&i);
    }
}

bool kv_share_make_room(int parent_fd, uint64_t n_byte, uint64_t cap_bytes)
{
    for (;;) {
        uint64_t used = kv_share_bytes(parent_fd);
        if (used <= cap_bytes && n_byte <= cap_bytes - used) {
            return true;
        }
        struct idle i = {.dir_fd = -1, .lock_fd = -1};
        each_entry(parent_fd, visit_store_idle, &i);
        char name[32];
        (void)snprintf(name, sizeof name, "seg-%05u", (unsigned)(i.n_seg - 1));
        bool has_more = i.dir_fd >= 0 && unlinkat(i.dir_fd, name, 0) == 0;
        idle_close(&i);
        if (!has_more) {
            return false;
        }
    }
}

int kv_share_lock(int parent_fd)
{
    int fd = openat(parent_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    uint64_t until_us = clock_mono_us() + LOCK_WAIT_US;
    while (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (clock_mono_us() >= until_us) {
            (void)close(fd);
            errno = EAGAIN;
            return -1;
        }
        clock_sleep_us(LOCK_RETRY_US);
    }
    return fd;
}
