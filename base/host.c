#include "base/host.h"

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* First whitespace-separated word after `key` in a small file (the first word when key is NULL). */
static bool read_word(const char *path, const char *key, char *out, size_t out_cap)
{
    FILE *f = fopen(path, "re");
    if (!f) {
        return false;
    }
    char line[256];
    bool found = false;
    while (!found && fgets(line, sizeof line, f)) {
        const char *at = line;
        if (key) {
            if (strncmp(line, key, strlen(key)) != 0) {
                continue;
            }
            at += strlen(key);
        }
        at += strspn(at, " \t");
        size_t n = strcspn(at, " \t\n");
        if (n && n < out_cap) {
            memcpy(out, at, n);
            out[n] = 0;
            found = true;
        }
    }
    (void)fclose(f);
    return found;
}

static bool read_u64(const char *path, const char *key, uint64_t *ret)
{
    char word[64];
    char *end = NULL;
    if (!read_word(path, key, word, sizeof word)) {
        return false;
    }
    unsigned long long v = strtoull(word, &end, 10);
    if (end == word || *end) {
        return false;
    }
    *ret = v;
    return true;
}

/* The cgroup v2 directory of this process under /sys/fs/cgroup; also right inside a container,
 * where the path reads "/". */
static bool cgroup_path(const char *file, char *out, size_t out_cap)
{
    char word[160];
    if (!read_word("/proc/self/cgroup", "0::", word, sizeof word)) {
        return false;
    }
    int n = snprintf(out, out_cap, "/sys/fs/cgroup%s/%s", strcmp(word, "/") == 0 ? "" : word, file);
    return n > 0 && (size_t)n < out_cap && access(out, R_OK) == 0;
}

uint64_t host_free_bytes(void)
{
    uint64_t free_kib = 0;
    uint64_t free_bytes = 0;
    if (read_u64("/proc/meminfo", "MemAvailable:", &free_kib)) {
        free_bytes = free_kib * 1024;
    }
    char path[256];
    uint64_t limit = 0;
    uint64_t used = 0;
    uint64_t file_cache = 0;
    const char *const limits[] = {"memory.max", "memory.high"}; /* beyond the second all is slow */
    for (int i = 0; i < 2; i++) {
        if (!cgroup_path(limits[i], path, sizeof path) || !read_u64(path, NULL, &limit) ||
            !cgroup_path("memory.current", path, sizeof path) || !read_u64(path, NULL, &used)) {
            continue; /* there is no such limit */
        }
        if (cgroup_path("memory.stat", path, sizeof path) &&
            read_u64(path, "inactive_file", &file_cache)) {
            used -= file_cache < used ? file_cache : used;
        }
        uint64_t left = limit > used ? limit - used : 0;
        if (left < free_bytes) {
            free_bytes = left;
        }
    }
    return free_bytes;
}

/* Whether cpu is the first of its SMT siblings that the mask allows. */
static bool leads_its_core(int cpu, const cpu_set_t *allowed)
{
    char path[96];
    char list[64];
    (void)snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
                   cpu);
    if (!read_word(path, NULL, list, sizeof list)) {
        return true;
    }
    const char *at = list;
    while (*at) {
        char *end = NULL;
        long lo = strtol(at, &end, 10);
        long hi = lo;
        if (end == at) {
            return true;
        }
        if (*end == '-') {
            at = end + 1;
            hi = strtol(at, &end, 10);
        }
        for (long i = lo; i <= hi && i < cpu; i++) {
            if (CPU_ISSET((size_t)i, allowed)) {
                return false;
            }
        }
        at = *end == ',' ? end + 1 : end;
        if (*end && *end != ',') {
            return true;
        }
    }
    return true;
}

/* cgroup v2 cpu.max: "QUOTA PERIOD" or "max PERIOD". */
static uint32_t quota_cores(void)
{
    char path[256];
    char quota[32];
    uint64_t period = 100000;
    if (!cgroup_path("cpu.max", path, sizeof path) || !read_word(path, NULL, quota, sizeof quota) ||
        strcmp(quota, "max") == 0) {
        return UINT32_MAX;
    }
    char with_quota[40];
    (void)snprintf(with_quota, sizeof with_quota, "%s", quota);
    (void)read_u64(path, with_quota, &period);
    uint64_t q = strtoull(quota, NULL, 10);
    uint64_t cores = period ? q / period : 0;
    return cores ? (uint32_t)cores : 1;
}

uint32_t host_cores(void)
{
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
        return 1;
    }
    uint32_t n = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET((size_t)cpu, &allowed) && leads_its_core(cpu, &allowed)) {
            n++;
        }
    }
    uint32_t quota = quota_cores();
    if (n > quota) {
        n = quota;
    }
    return n ? n : 1;
}

uint64_t host_rss_bytes(void)
{
    uint64_t kib = 0;
    return read_u64("/proc/self/status", "VmRSS:", &kib) ? kib * 1024 : 0;
}
