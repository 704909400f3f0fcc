/* What this machine, cgroup and affinity mask give the process. Reads /proc and /sys; any thread.
 */
#ifndef BASE_HOST_H
#define BASE_HOST_H

#include <stdint.h>

/* Memory that can still be taken: the smaller of MemAvailable and what the cgroup leaves. */
uint64_t host_free_bytes(void);
/* Physical cores this process may use at once: affinity, SMT siblings counted once, cgroup quota.
 */
uint32_t host_cores(void);
/* Resident set of this process. */
uint64_t host_rss_bytes(void);

#endif
