/* The cache folder: what is in it, what a name means there. */
#include "config/options.h"
#include "server/hub.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

bool hub_cache_dir(struct buf *out)
{
    const char *own = cfg_process_env(NULL, "KVASIR_CACHE");
    const char *xdg = cfg_process_env(NULL, "XDG_CACHE_HOME");
    const char *home = cfg_process_env(NULL, "HOME");
    if (own && own[0]) {
        buf_puts(out, own);
    } else if (xdg && xdg[0] == '/') {
        buf_printf(out, "%s/kvasir", xdg);
    } else if (home && home[0]) {
        buf_printf(out, "%s/.cache/kvasir", home);
    }
    return out->len > 0 && buf_ok(out);
}

/* ---- listing ---- */

static char *join(const char *a, const char *b)
{
    char *s = NULL;
    return asprintf(&s, "%s/%s", a, b) < 0 ? NULL : s;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s);
    return n > strlen(end) && strcmp(s + n - strlen(end), end) == 0;
}

/* Bytes up to "-00002-of-00003.gguf", or all. */
static size_t stem_of(const char *name, unsigned *ret_i)
{
    size_t n = strlen(name);
    size_t n_tail = sizeof "-00001-of-00003.gguf" - 1;
    unsigned n_part;
    *ret_i = 1;
    if (n > n_tail && sscanf(name + n - n_tail, "-%5u-of-%5u.gguf", ret_i, &n_part) == 2) {
        return n - n_tail;
    }
    *ret_i = 1;
    return n;
}

/* The entry of the same split model, if there is one already. */
static struct hub_cached *same_model(struct hub_list *l, const char *name)
{
    unsigned i;
    unsigned other;
    size_t n = stem_of(name, &i);
    for (size_t k = 0; k < l->n && n < strlen(name); k++) {
        struct hub_cached *c = &l->items[k];
        if (stem_of(c->name, &other) == n && strlen(c->name) == strlen(name) &&
            memcmp(c->name, name, n) == 0) {
            if (i == 1) { /* the part that is opened gives the name */
                (void)memcpy(c->name, name, strlen(name));
            }
            return c;
        }
    }
    return NULL;
}

static enum err_code put(struct hub_list *l, const char *name, const char *path,
                         const struct stat *st, bool partial, struct err *e)
{
    struct hub_cached *c = partial ? NULL : same_model(l, name);
    if (c) {
        c->n_byte += (uint64_t)st->st_size;
        c->used = st->st_atime > c->used ? st->st_atime : c->used;
        if (strcmp(c->name, name) == 0) {
            (void)memcpy(c->path, path, strlen(path)); /* as long as the other part's */
        }
        return ERR_OK;
    }
    struct hub_cached *items = realloc(l->items, (l->n + 1) * sizeof *items);
    if (!items) {
        return err_set(e, ERR_NOMEM, "out of memory for a list of models");
    }
    l->items = items;
    c = &items[l->n];
    *c = (struct hub_cached){.name = strdup(name),
                             .path = strdup(path),
                             .n_byte = (uint64_t)st->st_size,
                             .used = st->st_atime,
                             .partial = partial};
    l->n++;
    return c->name && c->path ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a name");
}

/* Files of one repository. `repo` is "org/repo". A folder with a config.json is one model. */
static enum err_code list_repo(const char *dir, const char *repo, struct hub_list *l, struct err *e)
{
    DIR *d = opendir(dir);
    enum err_code rc = ERR_OK;
    struct stat folder = {0};
    bool has_config = false;
    for (struct dirent *item; d && !rc && (item = readdir(d));) {
        struct stat st;
        char *path = item->d_name[0] == '.' ? NULL : join(dir, item->d_name);
        char *name = path ? join(repo, item->d_name) : NULL;
        if (name && lstat(path, &st) == 0 && S_ISREG(st.st_mode)) {
            bool partial = ends_with(name, ".part");
            if (partial || ends_with(name, ".gguf")) {
                rc = put(l, name, path, &st, partial, e);
            } else {
                has_config |= strcmp(item->d_name, "config.json") == 0;
                folder.st_size += st.st_size;
                folder.st_atime = st.st_atime > folder.st_atime ? st.st_atime : folder.st_atime;
            }
        }
        free(path);
        free(name);
    }
    if (d) {
        (void)closedir(d);
    }
    return !rc && has_config ? put(l, repo, dir, &folder, false, e) : rc;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct hub_cached *)a)->name, ((const struct hub_cached *)b)->name);
}

enum err_code hub_cache_list(const char *cache_dir, struct hub_list *ret_l, struct err *e)
{
    struct hub_list l = {0};
    enum err_code rc = ERR_OK;
    DIR *d = opendir(cache_dir);
    if (!d && errno != ENOENT) {
        return err_errno(e, ERR_IO, errno, "cannot read %.300s", cache_dir);
    }
    for (struct dirent *org; d && !rc && (org = readdir(d));) {
        char *org_dir = org->d_name[0] == '.' ? NULL : join(cache_dir, org->d_name);
        DIR *in_org = org_dir ? opendir(org_dir) : NULL;
        for (struct dirent *repo; in_org && !rc && (repo = readdir(in_org));) {
            char *dir = repo->d_name[0] == '.' ? NULL : join(org_dir, repo->d_name);
            char *name = dir ? join(org->d_name, repo->d_name) : NULL;
            rc = name ? list_repo(dir, name, &l, e) : ERR_OK;
            free(dir);
            free(name);
        }
        if (in_org) {
            (void)closedir(in_org);
        }
        free(org_dir);
    }
    if (d) {
        (void)closedir(d);
    }
    if (rc) {
        hub_cache_list_free(&l);
        return rc;
    }
    if (l.n > 1) {
        qsort(l.items, l.n, sizeof *l.items, by_name);
    }
    *ret_l = l;
    return ERR_OK;
}

void hub_cache_list_free(struct hub_list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        free(l->items[i].name);
        free(l->items[i].path);
    }
    free(l->items);
    *l = (struct hub_list){0};
}

/* ---- finding ---- */

static bool matches(const struct hub_cached *c, const char *name, const struct hub_name *n,
                    bool is_repo)
{
    const char *slash = strrchr(c->name, '/');
    const char *file = slash ? slash + 1 : c->name;
    size_t n_name = strlen(name);
    if (c->partial) {
        return false;
    }
    if (strcmp(c->name, name) == 0 || strcmp(file, name) == 0 ||
        (strncmp(file, name, n_name) == 0 && strcmp(file + n_name, ".gguf") == 0)) {
        return true;
    }
    char repo[2 * HUB_PART_MAX + 3];
    int len = snprintf(repo, sizeof repo, "%s/%s", n->org, n->repo);
    bool of_repo = is_repo && strncasecmp(c->name, repo, (size_t)len) == 0 &&
                   (c->name[len] == '/' || c->name[len] == 0);
    return of_repo && (n->quant[0] == 0 || hub_has_quant(file, n->quant));
}

enum err_code hub_cache_find(const char *cache_dir, const char *name, struct buf *ret_path,
                             struct err *e)
{
    struct hub_list l = {0};
    struct hub_name n = {0};
    bool is_repo = hub_name_parse(name, &n, NULL) == ERR_OK;
    enum err_code rc = hub_cache_list(cache_dir, &l, e);
    const struct hub_cached *found = NULL;
    for (size_t i = 0; !rc && i < l.n; i++) {
        const struct hub_cached *c = &l.items[i];
        if (matches(c, name, &n, is_repo)) {
            if (found) {
                rc = err_set(e, ERR_INVALID, "'%.100s' may be %.150s or %.150s: say which", name,
                             found->name, c->name);
            }
            found = c;
        }
    }
    if (!rc && !found) {
        rc = err_set(e, ERR_NOT_FOUND, "no model '%.200s' in %.200s; 'kvasir pull' fetches one",
                     name, cache_dir);
    }
    if (!rc) {
        /* What is used last is what `prune` keeps longest; a failure costs no more than that. */
        (void)utimensat(AT_FDCWD, found->path,
                        (struct timespec[]){{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_OMIT}}, 0);
        buf_puts(ret_path, found->path);
    }
    hub_cache_list_free(&l);
    return rc;
}

/* ---- removing ---- */

/* The files of c: parts of a split one, all files of a folder but GGUF ones. */
static bool belongs(const struct hub_cached *c, const char *file, bool folder)
{
    unsigned i;
    const char *own = strrchr(c->path, '/') + 1;
    size_t n = stem_of(own, &i);
    if (folder) {
        return file[0] != '.' && !ends_with(file, ".gguf");
    }
    return strcmp(file, own) == 0 || (n < strlen(own) && stem_of(file, &i) == n &&
                                      strlen(file) == strlen(own) && memcmp(file, own, n) == 0);
}

enum err_code hub_cache_remove(const char *cache_dir, const struct hub_cached *c, struct err *e)
{
    struct stat st;
    bool folder = stat(c->path, &st) == 0 && S_ISDIR(st.st_mode);
    char *dir = strdup(c->path);
    enum err_code rc = dir ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a path");
    if (dir && !folder) {
        *strrchr(dir, '/') = 0;
    }
    DIR *d = dir ? opendir(dir) : NULL;
    for (struct dirent *item; d && !rc && (item = readdir(d));) {
        if (strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0 &&
            belongs(c, item->d_name, folder) && unlinkat(dirfd(d), item->d_name, 0) != 0) {
            rc = err_errno(e, ERR_IO, errno, "cannot remove %.200s/%.200s", dir, item->d_name);
        }
    }
    if (d) {
        (void)closedir(d);
    }
    /* Folders that are empty now; others stay. */
    for (int i = 0; !rc && i < 2 && strlen(dir) > strlen(cache_dir); i++) {
        if (rmdir(dir) != 0) {
            break;
        }
        *strrchr(dir, '/') = 0;
    }
    free(dir);
    return rc;
}
