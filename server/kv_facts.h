/* GET /v1/kv: what the KV store holds and where, for whoever runs the server. Read-only. */
#ifndef SERVER_KV_FACTS_H
#define SERVER_KV_FACTS_H

#include "server/job.h"

/* Only for the key named "admin", or for all where there are no keys. False: *f says so. */
bool srv_kv_facts(const struct srv_job *j, struct buf *out, struct srv_fail *f);

#endif
