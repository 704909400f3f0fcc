#include "server/headers.h"

#include "server/job.h"

#include <string.h>
#include <strings.h>

/* RFC 9110 §5.6.2 token characters. */
static bool is_token(const char *s)
{
    static const char others[] = "!#$%&'*+-.^_`|~";
    if (!*s) {
        return false;
    }
    for (; *s; s++) {
        bool alnum =
            (*s >= '0' && *s <= '9') || (*s >= 'A' && *s <= 'Z') || (*s >= 'a' && *s <= 'z');
        if (!alnum && !strchr(others, *s)) {
            return false;
        }
    }
    return true;
}

static bool is_field_text(const char *s)
{
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if ((c < 0x20 && c != '\t') || c == 0x7f) {
            return false;
        }
    }
    return true;
}

static bool parse_length(const char *s, uint64_t *ret_n)
{
    uint64_t n = 0;
    if (!*s) {
        return false;
    }
    for (; *s; s++) {
        if (*s < '0' || *s > '9' || n > (UINT64_MAX - 9) / 10) {
            return false;
        }
        n = n * 10 + (uint64_t)(*s - '0');
    }
    *ret_n = n;
    return true;
}

static bool is_json_type(const char *value)
{
    static const char json[] = "application/json";
    size_t n = sizeof json - 1;
    return strncasecmp(value, json, n) == 0 &&
           (!value[n] || value[n] == ';' || value[n] == ' ' || value[n] == '\t');
}

void srv_headers_take(struct srv_headers *h, const char *name, const char *value)
{
    h->n_byte += strlen(name) + strlen(value) + 4; /* ": " and the line's end */
    if (!h->wrong_name && (!is_token(name) || !is_field_text(value))) {
        h->wrong_name = name;
    }
    if (strcasecmp(name, "Host") == 0) {
        h->n_host++;
    } else if (strcasecmp(name, "Content-Length") == 0) {
        h->n_content_length++;
        h->bad_length = h->bad_length || !parse_length(value, &h->content_length);
    } else if (strcasecmp(name, "Transfer-Encoding") == 0) {
        h->n_transfer_encoding++;
        h->bad_encoding = h->bad_encoding || strcasecmp(value, "chunked") != 0;
    } else if (strcasecmp(name, "Expect") == 0) {
        h->expects_continue = true;
    } else if (strcasecmp(name, "Content-Type") == 0) {
        h->has_content_type = true;
        h->json_body = is_json_type(value);
    } else if (strcasecmp(name, "Authorization") == 0) {
        h->authorization = value;
    } else if (strcasecmp(name, "X-Api-Key") == 0) {
        h->api_key = value;
    } else if (strcasecmp(name, "X-Request-Id") == 0) {
        h->request_id = value;
    }
}

bool srv_headers_check(const struct srv_headers *h, const char *version, struct srv_fail *f)
{
    bool http_1_0 = strcmp(version, "HTTP/1.0") == 0;
    if (h->n_byte > SRV_HEADER_BYTES_MAX) {
        return srv_fail(f, 431, "headers_too_large", NULL,
                        "the headers have %zu bytes; at most %zu are accepted", h->n_byte,
                        SRV_HEADER_BYTES_MAX);
    }
    if (h->wrong_name) {
        return srv_fail(f, 400, "invalid_header", NULL,
                        "a header name or value holds a character that is not allowed there");
    }
    if (h->n_host > 1 || (h->n_host == 0 && !http_1_0)) {
        return srv_fail(f, 400, "invalid_header", NULL, "a request needs one Host header, not %u",
                        h->n_host);
    }
    if (h->n_content_length > 1 || h->bad_length) {
        return srv_fail(f, 400, "invalid_header", NULL,
                        h->bad_length ? "Content-Length is not a number"
                                      : "Content-Length is given more than once");
    }
    if (h->n_transfer_encoding && h->n_content_length) {
        return srv_fail(f, 400, "invalid_header", NULL,
                        "Content-Length and Transfer-Encoding exclude each other");
    }
    if (h->n_transfer_encoding > 1 || h->bad_encoding || (h->n_transfer_encoding && http_1_0)) {
        return srv_fail(f, 400, "invalid_header", NULL,
                        "the only Transfer-Encoding accepted is one 'chunked', with HTTP/1.1");
    }
    return true;
}

bool srv_uri_check(const char *uri, struct srv_fail *f)
{
    size_t n = strlen(uri);
    if (n > SRV_URI_BYTES_MAX) {
        return srv_fail(f, 414, "uri_too_long", NULL,
                        "the path has %zu bytes; at most %zu are accepted", n, SRV_URI_BYTES_MAX);
    }
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)uri[i];
        if (c <= 0x20 || c >= 0x7f) {
            return srv_fail(f, 400, "invalid_path", NULL,
                            "the path holds a byte that must be percent-encoded");
        }
    }
    if (uri[0] != '/') {
        return srv_fail(f, 400, "invalid_path", NULL, "the path must begin with '/'");
    }
    return true;
}

bool srv_request_id_ok(const char *id)
{
    size_t n = strlen(id);
    return n >= 1 && n <= SRV_REQUEST_ID_MAX &&
           strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}
