/* HTTP with libcurl: proxies, redirects and TLS are its affair. The token goes to the hub alone:
 * libcurl drops it where a redirect leads to another host. */
#include "base/clock.h"
#include "base/units.h"
#include "server/hub.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define REDIRECTS_MAX   8L
#define CONNECT_S       20L
#define STALL_S         30L /* below STALL_BYTES a second for so long: try again */
#define STALL_BYTES     1024L
#define BAR_INTERVAL_US 200000
#define BAR_CELLS       24

struct transfer {
    const struct hub_fetch *f;
    CURL *curl;
    struct buf *text; /* or */
    int fd;
    uint64_t from;
    uint64_t n_total; /* limit of text; exact length of a file */
    uint64_t n_got;
    uint64_t began_us;
    uint64_t bar_us;
    struct err *e;
    char range[32];
    bool failed; /* e says why */
};

static bool fail(struct transfer *t, enum err_code code, const char *what)
{
    t->failed = true;
    err_set(t->e, code, "%s: %s", t->f->label, what);
    return false;
}

static void draw_bar(struct transfer *t, bool last)
{
    uint64_t now = clock_mono_us();
    uint64_t at = t->from + t->n_got;
    if (!t->f->progress || t->n_total == 0 || (!last && now - t->bar_us < BAR_INTERVAL_US)) {
        return;
    }
    t->bar_us = now;
    char size[32];
    char speed[32];
    char cells[BAR_CELLS + 1];
    uint64_t us = now - t->began_us;
    int n_full = (int)(at * BAR_CELLS / t->n_total);
    memset(cells, '.', BAR_CELLS);
    memset(cells, '#', (size_t)(n_full < BAR_CELLS ? n_full : BAR_CELLS));
    cells[BAR_CELLS] = 0;
    (void)fprintf(stderr, "\r%.40s [%s] %3d %% of %s, %s/s   ", t->f->label, cells,
                  (int)(at * 100 / t->n_total), units_format_bytes(t->n_total, size, sizeof size),
                  units_format_bytes(us ? t->n_got * 1000000 / us : 0, speed, sizeof speed));
    if (last) {
        (void)fputc('\n', stderr);
    }
}

static bool write_all(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t got = write(fd, bytes, n);
        if (got < 0 && errno != EINTR) {
            return false;
        }
        bytes += got > 0 ? got : 0;
        n -= got > 0 ? (size_t)got : 0;
    }
    return true;
}

/* Before a file's first byte: 206 goes on where we are, 200 sends it all again. */
static bool begin_file(struct transfer *t)
{
    long status = 0;
    (void)curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    if (t->from > 0 && status == 200) {
        if (ftruncate(t->fd, 0) != 0 || lseek(t->fd, 0, SEEK_SET) != 0) {
            return fail(t, ERR_IO, strerror(errno));
        }
        t->from = 0;
    }
    return true;
}

static size_t on_bytes(char *bytes, size_t size, size_t n, void *arg)
{
    struct transfer *t = arg;
    n *= size;
    if (t->text) {
        if (t->text->len + n > t->n_total) {
            (void)fail(t, ERR_LIMIT, "the hub's answer is too long");
            return 0;
        }
        buf_append(t->text, bytes, n);
        return buf_ok(t->text) ? n : 0;
    }
    if (t->n_got == 0 && !begin_file(t)) {
        return 0;
    }
    if (n > t->n_total - t->from - t->n_got) {
        (void)fail(t, ERR_CORRUPT, "the hub sends more bytes than the file has");
        return 0;
    }
    if (!write_all(t->fd, bytes, n)) {
        (void)fail(t, ERR_IO, strerror(errno));
        return 0;
    }
    t->n_got += n;
    draw_bar(t, false);
    return n;
}

static enum err_code status_error(const struct transfer *t, long status)
{
    const char *label = t->f->label;
    if (status == 401 || status == 403) {
        return err_set(t->e, ERR_INVALID,
                       "%s: the hub refuses (HTTP %ld): no such model, or it needs a token that "
                       "may read it (HF_TOKEN or --token-file)",
                       label, status);
    }
    if (status == 404) {
        return err_set(t->e, ERR_NOT_FOUND, "%s: not on the hub (HTTP 404)", label);
    }
    if (status == 416) {
        return err_set(t->e, ERR_CORRUPT, "%s: the hub's file has another length", label);
    }
    /* Worth another try. */
    return err_set(t->e, status == 429 || status >= 500 ? ERR_TIMEOUT : ERR_INVALID,
                   "%s: the hub answers HTTP %ld", label, status);
}

static void set_options(struct transfer *t, char *curl_error)
{
    CURL *c = t->curl;
    bool https = strncmp(t->f->url, "https:", 6) == 0;
    (void)curl_easy_setopt(c, CURLOPT_URL, t->f->url);
    (void)curl_easy_setopt(c, CURLOPT_ERRORBUFFER, curl_error);
    (void)curl_easy_setopt(c, CURLOPT_USERAGENT, "kvasir/" KVASIR_VERSION);
    (void)curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    (void)curl_easy_setopt(c, CURLOPT_MAXREDIRS, REDIRECTS_MAX);
    (void)curl_easy_setopt(c, CURLOPT_FAILONERROR, 1L);
    (void)curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, CONNECT_S);
    (void)curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, STALL_S);
    (void)curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, STALL_BYTES);
    (void)curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_bytes);
    (void)curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
#if LIBCURL_VERSION_NUM >= 0x075500
    (void)curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, https ? "https" : "http,https");
#else
    (void)curl_easy_setopt(c, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
    (void)curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS,
                           (long)(https ? CURLPROTO_HTTPS : CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
    if (t->f->token) {
        (void)curl_easy_setopt(c, CURLOPT_HTTPAUTH, CURLAUTH_BEARER);
        (void)curl_easy_setopt(c, CURLOPT_XOAUTH2_BEARER, t->f->token);
    }
    if (t->from > 0) {
        /* Not curl's own resuming: that fails where a server sends all of it again. */
        (void)snprintf(t->range, sizeof t->range, "%llu-", (unsigned long long)t->from);
        (void)curl_easy_setopt(c, CURLOPT_RANGE, t->range);
    }
}

static enum err_code run(struct transfer *t)
{
    char curl_error[CURL_ERROR_SIZE] = "";
    long status = 0;
    t->curl = curl_easy_init();
    if (!t->curl) {
        return err_set(t->e, ERR_NOMEM, "out of memory for a download");
    }
    t->began_us = clock_mono_us();
    set_options(t, curl_error);
    CURLcode code = curl_easy_perform(t->curl);
    (void)curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(t->curl);
    if (t->failed) {
        return t->e->code;
    }
    if (code == CURLE_HTTP_RETURNED_ERROR) {
        return status_error(t, status);
    }
    if (code != CURLE_OK) {
        return err_set(t->e, ERR_TIMEOUT, "%s: %s", t->f->label,
                       curl_error[0] ? curl_error : curl_easy_strerror(code));
    }
    return ERR_OK;
}

enum err_code hub_fetch_text(const struct hub_fetch *f, size_t n_max, struct buf *out,
                             struct err *e)
{
    struct transfer t = {.f = f, .text = out, .n_total = n_max, .e = e};
    return run(&t);
}

enum err_code hub_fetch_file(const struct hub_fetch *f, int fd, uint64_t from, uint64_t n_total,
                             struct err *e)
{
    struct transfer t = {.f = f, .fd = fd, .from = from, .n_total = n_total, .e = e};
    enum err_code rc = run(&t);
    if (!rc && t.from + t.n_got != n_total) {
        rc = err_set(e, ERR_TIMEOUT, "%s: the hub sent %llu of %llu bytes", f->label,
                     (unsigned long long)(t.from + t.n_got), (unsigned long long)n_total);
    }
    draw_bar(&t, true);
    return rc;
}
