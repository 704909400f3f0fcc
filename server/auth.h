/* API keys: which tenant, if any, a request belongs to. Only digests are kept, every entry is
 * compared in constant time, and the file can be read again while requests run. Any thread. */
#ifndef SERVER_AUTH_H
#define SERVER_AUTH_H

#include "base/err.h"
#include "server/job.h"

#include <stdbool.h>

struct srv_auth;

/* One key per line: KEY, NAME:KEY, or NAME:sha256:HEX (64 digits); # begins a comment. NAME is
 * the tenant; a key without one has a name made of its digest. path NULL: everyone is let in, as
 * tenant "". ERR_IO, or ERR_INVALID naming the line. */
enum err_code srv_auth_create(const char *path, struct srv_auth **ret_a, struct err *e);
void srv_auth_destroy(struct srv_auth *a); /* NULL is legal */
/* Reads the file again; on an error the keys stay as they were. */
enum err_code srv_auth_reload(struct srv_auth *a, struct err *e);

/* Headers' values, NULL where there is none: "Bearer KEY", or the key itself in api_key. */
bool srv_auth_check(struct srv_auth *a, const char *authorization, const char *api_key,
                    char ret_tenant[SRV_TENANT_MAX + 1]);

#endif
