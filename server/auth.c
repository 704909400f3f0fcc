#include "server/auth.h"

#include "base/hash.h"
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#define LINE_MAX_BYTES 1024
#define KEY_BYTES_MAX  512
#define ENTRY_MAX      65536
#define N_NAME_BYTE    12 /* of a digest, in a name: no two keys have the same */

struct entry {
    uint8_t digest[SHA256_BYTES];
    char tenant[SRV_TENANT_MAX + 1];
};

struct srv_auth {
    char *path; /* NULL: open to all */
    pthread_rwlock_t lock;
    struct entry *entries; /* guarded by lock */
    size_t n_entry;        /* guarded by lock */
};

struct parsing {
    const char *path;
    size_t line;
    struct entry *entries;
    size_t n;
    size_t cap;
    struct err *e;
};

static bool is_hex_digest(const char *s)
{
    return strlen(s) == 2 * SHA256_BYTES && strspn(s, "0123456789abcdefABCDEF") == 2 * SHA256_BYTES;
}

static void read_digest(const char *hex, uint8_t ret_digest[SHA256_BYTES])
{
    for (size_t i = 0; i < SHA256_BYTES; i++) {
        char two[3] = {hex[2 * i], hex[2 * i + 1], 0};
        ret_digest[i] = (uint8_t)strtoul(two, NULL, 16);
    }
}

static enum err_code wrong_line(const struct parsing *p, const char *what)
{
    return err_set(p->e, ERR_INVALID, "%.120s line %zu: %s", p->path, p->line, what);
}

static enum err_code set_tenant(const struct parsing *p, struct entry *entry, const char *name,
                                size_t n)
{
    if (n == 0) { /* nameless: the digest's first digits */
        int at = snprintf(entry->tenant, sizeof entry->tenant, "key-");
        for (int i = 0; i < N_NAME_BYTE; i++) {
            at += snprintf(entry->tenant + at, sizeof entry->tenant - (size_t)at, "%02x",
                           entry->digest[i]);
        }
        return ERR_OK;
    }
    if (n > SRV_TENANT_MAX ||
        strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") < n) {
        return wrong_line(p, "a key's name has 1 to 64 of A-Z a-z 0-9 . _ -");
    }
    memcpy(entry->tenant, name, n);
    entry->tenant[n] = 0;
    return ERR_OK;
}

static enum err_code add_line(struct parsing *p, char *line)
{
    struct entry entry = {0};
    line += strspn(line, " \t");
    size_t n = strlen(line);
    while (n && strchr(" \t\r\n", line[n - 1])) {
        line[--n] = 0;
    }
    if (!n || line[0] == '#') {
        return ERR_OK;
    }
    char *colon = strchr(line, ':');
    const char *key = colon ? colon + 1 : line;
    if (strncmp(line, "sha256:", 7) == 0) { /* a digest without a name */
        key = line;
        colon = NULL;
    }
    if (strncmp(key, "sha256:", 7) == 0) {
        if (!is_hex_digest(key + 7)) {
            return wrong_line(p, "sha256: needs 64 hex digits");
        }
        read_digest(key + 7, entry.digest);
    } else if (!*key || strlen(key) > KEY_BYTES_MAX || strpbrk(key, " \t")) {
        return wrong_line(p, "a key has 1 to 512 bytes and no space");
    } else {
        hash_sha256(key, strlen(key), entry.digest);
    }
    enum err_code code = set_tenant(p, &entry, line, colon ? (size_t)(colon - line) : 0);
    if (code != ERR_OK) {
        return code;
    }
    if (p->n == ENTRY_MAX) {
        return wrong_line(p, "more than 65536 keys");
    }
    if (p->n == p->cap) {
        size_t cap = p->cap ? 2 * p->cap : 16;
        struct entry *grown = realloc(p->entries, cap * sizeof *grown);
        if (!grown) {
            return err_set(p->e, ERR_NOMEM, "out of memory for the API keys");
        }
        p->entries = grown;
        p->cap = cap;
    }
    p->entries[p->n++] = entry;
    return ERR_OK;
}

static enum err_code read_file(const char *path, struct entry **ret_entries, size_t *ret_n,
                               struct err *e)
{
    struct parsing p = {.path = path, .e = e};
    char line[LINE_MAX_BYTES];
    struct stat st;
    enum err_code code = ERR_OK;
    FILE *file = fopen(path, "re");
    if (!file) {
        return err_errno(e, ERR_IO, errno, "api-key-file: cannot open %.120s", path);
    }
    if (fstat(fileno(file), &st) == 0 && st.st_mode & (S_IRWXG | S_IRWXO)) {
        log_warn("api-key-file: others may read %s; chmod 600 it", path);
    }
    while (code == ERR_OK && fgets(line, sizeof line, file)) {
        p.line++;
        code =
            strchr(line, '\n') || feof(file) ? add_line(&p, line) : wrong_line(&p, "line too long");
    }
    if (code == ERR_OK && ferror(file)) {
        code = err_errno(e, ERR_IO, errno, "api-key-file: cannot read %.120s", path);
    }
    if (code == ERR_OK && !p.n) {
        code = err_set(e, ERR_INVALID, "api-key-file: %.120s holds no key", path);
    }
    (void)fclose(file);
    explicit_bzero(line, sizeof line);
    if (code != ERR_OK) {
        free(p.entries);
        return code;
    }
    *ret_entries = p.entries;
    *ret_n = p.n;
    return ERR_OK;
}

enum err_code srv_auth_create(const char *path, struct srv_auth **ret_a, struct err *e)
{
    struct srv_auth *a = calloc(1, sizeof *a);
    enum err_code code = ERR_OK;
    if (a && path) {
        a->path = strdup(path);
    }
    if (!a || (path && !a->path)) {
        free(a);
        return err_set(e, ERR_NOMEM, "out of memory for the API keys");
    }
    (void)pthread_rwlock_init(&a->lock, NULL);
    if (path) {
        code = read_file(path, &a->entries, &a->n_entry, e);
    }
    if (code != ERR_OK) {
        srv_auth_destroy(a);
        return code;
    }
    *ret_a = a;
    return ERR_OK;
}

void srv_auth_destroy(struct srv_auth *a)
{
    if (!a) {
        return;
    }
    (void)pthread_rwlock_destroy(&a->lock);
    free(a->entries);
    free(a->path);
    free(a);
}

enum err_code srv_auth_reload(struct srv_auth *a, struct err *e)
{
    struct entry *entries = NULL;
    size_t n = 0;
    if (!a->path) {
        return ERR_OK;
    }
    enum err_code code = read_file(a->path, &entries, &n, e);
    if (code != ERR_OK) {
        return code;
    }
    (void)pthread_rwlock_wrlock(&a->lock);
    struct entry *old = a->entries;
    a->entries = entries;
    a->n_entry = n;
    (void)pthread_rwlock_unlock(&a->lock);
    free(old);
    return ERR_OK;
}

bool srv_auth_check(struct srv_auth *a, const char *authorization, const char *api_key,
                    char ret_tenant[SRV_TENANT_MAX + 1])
{
    static const char bearer[] = "Bearer ";
    uint8_t digest[SHA256_BYTES];
    const char *key = api_key;
    if (!a->path) {
        ret_tenant[0] = 0;
        return true;
    }
    if (authorization && strncasecmp(authorization, bearer, sizeof bearer - 1) == 0) {
        key = authorization + sizeof bearer - 1;
        key += strspn(key, " ");
    }
    if (!key || !*key) {
        return false;
    }
    hash_sha256(key, strlen(key), digest);
    size_t found = SIZE_MAX;
    (void)pthread_rwlock_rdlock(&a->lock);
    for (size_t i = 0; i < a->n_entry; i++) { /* all of them, whichever matches */
        found = hash_equal(digest, a->entries[i].digest, sizeof digest) ? i : found;
    }
    if (found != SIZE_MAX) {
        memcpy(ret_tenant, a->entries[found].tenant, SRV_TENANT_MAX + 1);
    }
    (void)pthread_rwlock_unlock(&a->lock);
    return found != SIZE_MAX;
}
