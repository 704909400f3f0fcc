/* One model into the cache. */
#include "base/clock.h"
#include "base/hash.h"
#include "server/hub.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LIST_BYTES_MAX ((size_t)32 << 20)
#define TRIES          5
#define FIRST_PAUSE_US 200000

static enum err_code make_dir(const char *path, struct err *e)
{
    char *copy = strdup(path);
    enum err_code rc = copy ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a path");
    for (char *s = copy; !rc && s;) {
        s = strchr(s + 1, '/');
        if (s) {
            *s = 0;
        }
        if (mkdir(copy, 0755) != 0 && errno != EEXIST) {
            rc = err_errno(e, ERR_IO, errno, "cannot make the folder %.300s", copy);
        }
        if (s) {
            *s = '/';
        }
    }
    free(copy);
    return rc;
}

/* ---- digests ---- */

/* Adds what fd holds from its start to h; leaves fd at its end. */
static enum err_code digest_file(int fd, struct hash_stream *h, struct err *e)
{
    char *chunk = malloc(1 << 20);
    ssize_t n = chunk && lseek(fd, 0, SEEK_SET) == 0 ? 1 : -1;
    while (n > 0) {
        n = read(fd, chunk, 1 << 20);
        if (n > 0) {
            hash_stream_add(h, chunk, (size_t)n);
        }
    }
    free(chunk);
    return n < 0 ? err_errno(e, ERR_IO, errno, "cannot read a download back") : ERR_OK;
}

static enum err_code verify(int fd, const struct hub_file *f, struct err *e)
{
    bool sha256 = f->sha256[0] != 0;
    const char *want = sha256 ? f->sha256 : f->git;
    struct hash_stream *h = hash_stream_create(sha256 ? HASH_SHA256 : HASH_SHA1);
    uint8_t digest[SHA256_BYTES];
    char hex[2 * SHA256_BYTES + 1] = "";
    if (!h) {
        return err_set(e, ERR_NOMEM, "out of memory for a digest");
    }
    if (!sha256) {
        char head[64];
        int n = snprintf(head, sizeof head, "blob %llu", (unsigned long long)f->n_byte);
        hash_stream_add(h, head, (size_t)n + 1);
    }
    enum err_code rc = digest_file(fd, h, e);
    size_t n = hash_stream_end(h, digest);
    for (size_t i = 0; i < n; i++) {
        (void)snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    }
    if (!rc && strcmp(hex, want) != 0) {
        rc = err_set(e, ERR_CORRUPT,
                     "%s: what arrived has another digest than the hub says; it was thrown away",
                     f->name);
    }
    return rc;
}

/* ---- one file ---- */

/* Opens PATH.part for this process alone. */
static enum err_code open_part(const char *part, int *ret_fd, struct err *e)
{
    int fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0) {
        return err_errno(e, ERR_IO, errno, "cannot create %.300s", part);
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        (void)close(fd);
        return err_set(e, ERR_FULL, "%.300s is being fetched by another kvasir", part);
    }
    *ret_fd = fd;
    return ERR_OK;
}

static enum err_code fetch_rest(const struct hub_fetch *h, const struct hub_file *f, int fd,
                                struct err *e)
{
    enum err_code rc = ERR_TIMEOUT;
    for (int i = 0; rc == ERR_TIMEOUT && i < TRIES; i++) {
        off_t at = lseek(fd, 0, SEEK_END);
        if (at >= 0 && (uint64_t)at > f->n_byte) {
            at = ftruncate(fd, 0) == 0 ? lseek(fd, 0, SEEK_SET) : -1;
        }
        if (at < 0) {
            return err_errno(e, ERR_IO, errno, "cannot write %s", f->name);
        }
        if ((uint64_t)at == f->n_byte) {
            return ERR_OK;
        }
        if (i > 0) {
            clock_sleep_us(FIRST_PAUSE_US << (i - 1));
        }
        rc = hub_fetch_file(h, fd, (uint64_t)at, f->n_byte, e);
    }
    return rc;
}

/* The hub may have another file of this name and length by now. */
static bool is_there(const char *path, const struct hub_file *f)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool same = fd >= 0 && fstat(fd, &st) == 0 && (uint64_t)st.st_size == f->n_byte &&
                verify(fd, f, NULL) == ERR_OK;
    if (fd >= 0) {
        (void)close(fd);
    }
    return same;
}

static enum err_code pull_file(const struct hub_options *o, const struct hub_repo *r,
                               const struct hub_name *n, const struct hub_file *f, const char *path,
                               struct err *e)
{
    struct buf url = {0};
    struct buf part = {0};
    int fd = -1;
    if (is_there(path, f)) {
        return ERR_OK;
    }
    if (!f->sha256[0] && !f->git[0]) {
        return err_set(e, ERR_CORRUPT, "%s: the hub tells no digest", f->name);
    }
    buf_printf(&url, "%s/%s/%s/resolve/%s/%s", o->url, n->org, n->repo, r->commit, f->path);
    buf_printf(&part, "%s.part", path);
    struct hub_fetch h = {
        .url = buf_str(&url), .token = o->token, .progress = o->progress, .label = f->name};
    enum err_code rc = buf_ok(&url) && buf_ok(&part)
                           ? open_part(buf_str(&part), &fd, e)
                           : err_set(e, ERR_NOMEM, "out of memory for a path");
    rc = rc ? rc : fetch_rest(&h, f, fd, e);
    if (!rc) {
        rc = verify(fd, f, e);
        if (!rc && (fsync(fd) != 0 || rename(buf_str(&part), path) != 0)) {
            rc = err_errno(e, ERR_IO, errno, "cannot finish %.300s", path);
        }
    }
    if (rc == ERR_CORRUPT) {
        (void)unlink(buf_str(&part));
    }
    if (fd >= 0) {
        (void)close(fd);
    }
    buf_free(&url);
    buf_free(&part);
    return rc;
}

/* ---- a model ---- */

static enum err_code read_repo(const struct hub_options *o, const struct hub_name *n,
                               struct hub_repo *ret_r, struct err *e)
{
    struct buf url = {0};
    struct buf text = {0};
    struct buf label = {0};
    buf_printf(&label, "%s/%s", n->org, n->repo);
    buf_printf(&url, "%s/api/models/%s/%s/revision/main?blobs=true", o->url, n->org, n->repo);
    struct hub_fetch h = {.url = buf_str(&url), .token = o->token, .label = buf_str(&label)};
    enum err_code rc = ERR_TIMEOUT;
    for (int i = 0; rc == ERR_TIMEOUT && i < TRIES; i++) {
        if (i > 0) {
            clock_sleep_us(FIRST_PAUSE_US << (i - 1));
        }
        buf_clear(&text);
        rc = hub_fetch_text(&h, LIST_BYTES_MAX, &text, e);
    }
    rc = rc ? rc : hub_repo_parse(buf_str(&text), text.len, ret_r, e);
    buf_free(&url);
    buf_free(&text);
    buf_free(&label);
    return rc;
}

static enum err_code pull_files(const struct hub_options *o, const struct hub_repo *r,
                                const struct hub_name *n, const char *dir, struct err *e)
{
    enum err_code rc = make_dir(dir, e);
    for (size_t i = 0; !rc && i < r->n_file; i++) {
        struct buf path = {0};
        if (r->files[i].wanted) {
            buf_printf(&path, "%s/%s", dir, r->files[i].name);
            rc = buf_ok(&path) ? pull_file(o, r, n, &r->files[i], buf_str(&path), e)
                               : err_set(e, ERR_NOMEM, "out of memory for a path");
        }
        buf_free(&path);
    }
    return rc;
}

enum err_code hub_pull(const struct hub_options *o, const struct hub_name *n, struct buf *ret_path,
                       struct err *e)
{
    struct hub_repo r = {0};
    struct buf dir = {0};
    size_t first = 0;
    bool folder = false;
    buf_printf(&dir, "%s/%s/%s", o->cache_dir, n->org, n->repo);
    if (o->offline) {
        struct buf name = {0};
        buf_printf(&name, "%s/%s%s%s", n->org, n->repo, n->quant[0] ? ":" : "", n->quant);
        enum err_code rc = hub_cache_find(o->cache_dir, buf_str(&name), ret_path, e);
        buf_free(&name);
        buf_free(&dir);
        return rc;
    }
    enum err_code rc = read_repo(o, n, &r, e);
    rc = rc ? rc : hub_repo_choose(&r, n, &first, &folder, e);
    rc = rc ? rc : pull_files(o, &r, n, buf_str(&dir), e);
    if (!rc) {
        buf_puts(ret_path, buf_str(&dir));
        if (!folder) {
            buf_printf(ret_path, "/%s", r.files[first].name);
        }
    }
    buf_free(&dir);
    hub_repo_free(&r);
    return rc;
}
