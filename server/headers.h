/* Strict checks of a request's line and headers: what libmicrohttpd lets pass and a proxy in front
 * may read differently (request smuggling), and our own limits. Pure; any thread. */
#ifndef SERVER_HEADERS_H
#define SERVER_HEADERS_H

#include "server/error_reply.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SRV_HEADER_BYTES_MAX ((size_t)16 * 1024)
#define SRV_URI_BYTES_MAX    ((size_t)4 * 1024)

/* Fed each header once, in order; zero at first. */
struct srv_headers {
    size_t n_byte;
    unsigned n_host;
    unsigned n_content_length;
    unsigned n_transfer_encoding;
    uint64_t content_length; /* with n_content_length 1 */
    bool expects_continue;
    bool json_body; /* Content-Type is application/json */
    bool has_content_type;
    const char *authorization; /* values live as long as the request */
    const char *api_key;
    const char *request_id;
    const char *wrong_name; /* first header that is malformed, or NULL */
    bool bad_length;
    bool bad_encoding;
};

void srv_headers_take(struct srv_headers *h, const char *name, const char *value);

/* After the last header. False: *f says what; such a connection must be closed, since where its
 * next request begins is uncertain. */
bool srv_headers_check(const struct srv_headers *h, const char *version, struct srv_fail *f);
/* uri as it came, query included. */
bool srv_uri_check(const char *uri, struct srv_fail *f);
/* Whether a client may choose this x-request-id: 1 to 64 of [A-Za-z0-9._-]. */
bool srv_request_id_ok(const char *id);

#endif
