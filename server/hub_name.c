/* Names: of repositories, of files, and which file is meant. */
#include "server/hub.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- what a user writes ---- */

static bool part_ok(const char *s, size_t n)
{
    static const char also[] = "._-";
    if (n == 0 || n > HUB_PART_MAX || s[0] == '.' || s[0] == '-') {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (!isalnum((unsigned char)s[i]) && !memchr(also, s[i], sizeof also - 1)) {
            return false;
        }
    }
    return true;
}

static const char *skip_host(const char *s)
{
    static const char *const starts[] = {"https://", "http://", "hf.co/", "huggingface.co/",
                                         "www.huggingface.co/"};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        if (strncasecmp(s, starts[i], strlen(starts[i])) == 0) {
            s += strlen(starts[i]);
        }
    }
    return s;
}

enum err_code hub_name_parse(const char *text, struct hub_name *ret_n, struct err *e)
{
    const char *org = skip_host(text);
    const char *slash = strchr(org, '/');
    const char *colon = slash ? strchr(slash, ':') : NULL;
    const char *repo = slash ? slash + 1 : "";
    size_t n_repo = colon ? (size_t)(colon - repo) : strlen(repo);
    const char *quant = colon ? colon + 1 : "";
    if (!slash || !part_ok(org, (size_t)(slash - org)) || !part_ok(repo, n_repo) ||
        (colon && !part_ok(quant, strlen(quant)))) {
        return err_set(e, ERR_INVALID,
                       "'%.200s' does not name a model; it looks like hf.co/ORG/REPO or "
                       "hf.co/ORG/REPO:Q4_K_M",
                       text);
    }
    *ret_n = (struct hub_name){0};
    memcpy(ret_n->org, org, (size_t)(slash - org));
    memcpy(ret_n->repo, repo, n_repo);
    memcpy(ret_n->quant, quant, strlen(quant));
    return ERR_OK;
}

bool hub_file_name_ok(const char *name)
{
    size_t n = strlen(name);
    if (n == 0 || n > HUB_NAME_MAX || name[0] == '.') {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)name[i];
        if (c <= ' ' || c >= 0x7f || strchr("/\\:*?\"<>|'`$%#&;", c)) {
            return false;
        }
    }
    return true;
}

bool hub_has_quant(const char *name, const char *quant)
{
    size_t n = strlen(quant);
    for (const char *at = name; (at = strcasestr(at, quant)); at++) {
        bool starts = at == name || !(isalnum((unsigned char)at[-1]) || at[-1] == '_');
        bool ends = !(isalnum((unsigned char)at[n]) || at[n] == '_');
        if (starts && ends) {
            return true;
        }
    }
    return false;
}

/* ---- what the hub says ---- */

static void copy_hex(char *out, size_t n_digit, const cJSON *v)
{
    const char *s = cJSON_GetStringValue(v);
    if (s && strlen(s) == n_digit && strspn(s, "0123456789abcdef") == n_digit) {
        memcpy(out, s, n_digit + 1);
    }
}

/* Files of names that cannot be kept are left out; should one be needed, it is missing. */
static void take_file(struct hub_repo *r, const cJSON *item)
{
    const char *path = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "rfilename"));
    const cJSON *lfs = cJSON_GetObjectItemCaseSensitive(item, "lfs");
    const cJSON *size = cJSON_GetObjectItemCaseSensitive(item, "size");
    struct hub_file *f = &r->files[r->n_file];
    if (!path || strlen(path) >= sizeof f->path || strstr(path, "..") || path[0] == '/') {
        return;
    }
    for (const char *s = path; *s; s++) {
        if ((unsigned char)*s <= ' ' || (unsigned char)*s >= 0x7f || strchr("\\?#%&", *s)) {
            return;
        }
    }
    *f = (struct hub_file){0};
    memcpy(f->path, path, strlen(path) + 1);
    const char *slash = strrchr(f->path, '/');
    f->name = slash ? slash + 1 : f->path;
    double n = cJSON_IsNumber(size) ? size->valuedouble : -1;
    if (!hub_file_name_ok(f->name) || n < 0 || n > 0x1p50) {
        return;
    }
    f->n_byte = (uint64_t)n;
    copy_hex(f->sha256, 64, cJSON_GetObjectItemCaseSensitive(lfs, "sha256"));
    if (!lfs) { /* else it is the pointer's */
        copy_hex(f->git, 40, cJSON_GetObjectItemCaseSensitive(item, "blobId"));
    }
    r->n_file++;
}

enum err_code hub_repo_parse(const char *json, size_t n, struct hub_repo *ret_r, struct err *e)
{
    struct hub_repo r = {0};
    cJSON *root = cJSON_ParseWithLength(json, n);
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "siblings");
    enum err_code rc = ERR_OK;
    copy_hex(r.commit, 40, cJSON_GetObjectItemCaseSensitive(root, "sha"));
    if (!cJSON_IsArray(list) || !r.commit[0]) {
        rc = err_set(e, ERR_CORRUPT, "the hub's answer lists no files");
    } else if (cJSON_GetArraySize(list) > HUB_FILES_MAX) {
        rc = err_set(e, ERR_LIMIT, "the repository has more than %d files", HUB_FILES_MAX);
    } else if (!(r.files = calloc((size_t)cJSON_GetArraySize(list) + 1, sizeof *r.files))) {
        rc = err_set(e, ERR_NOMEM, "out of memory for a list of files");
    } else {
        const cJSON *item;
        cJSON_ArrayForEach(item, list)
        {
            take_file(&r, item);
        }
        *ret_r = r;
    }
    cJSON_Delete(root);
    return rc;
}

void hub_repo_free(struct hub_repo *r)
{
    free(r->files);
    *r = (struct hub_repo){0};
}

/* ---- which files ---- */

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s);
    size_t n_end = strlen(end);
    return n >= n_end && strcasecmp(s + n - n_end, end) == 0;
}

/* "-00002-of-00003.gguf": 2 and 3, and where it begins. */
static bool split_of(const char *name, unsigned *ret_i, unsigned *ret_n, size_t *ret_at)
{
    static const size_t n_tail = sizeof "-00001-of-00003.gguf" - 1;
    size_t n = strlen(name);
    int end = 0;
    if (n <= n_tail) {
        return false;
    }
    *ret_at = n - n_tail;
    return sscanf(name + *ret_at, "-%5u-of-%5u.gguf%n", ret_i, ret_n, &end) == 2 &&
           (size_t)end == n_tail;
}

static bool is_model(const struct hub_file *f)
{
    unsigned i = 1;
    unsigned n = 1;
    size_t at;
    return ends_with(f->name, ".gguf") && !strcasestr(f->name, "mmproj") &&
           !strcasestr(f->name, "imatrix") && (!split_of(f->name, &i, &n, &at) || i == 1);
}

/* Marks f and its other parts; false when one of them is not there. */
static bool want_all_parts(struct hub_repo *r, size_t first)
{
    unsigned i = 0;
    unsigned n = 1;
    size_t at = 0;
    const char *name = r->files[first].name;
    r->files[first].wanted = true;
    if (!split_of(name, &i, &n, &at)) {
        return true;
    }
    unsigned n_found = 0;
    size_t n_before = (size_t)(name - r->files[first].path) + at;
    for (size_t k = 0; k < r->n_file; k++) {
        struct hub_file *f = &r->files[k];
        unsigned other_i = 0;
        unsigned other_n = 0;
        size_t other_at = 0;
        if (split_of(f->name, &other_i, &other_n, &other_at) && other_n == n && other_i <= n &&
            (size_t)(f->name - f->path) + other_at == n_before &&
            memcmp(f->path, r->files[first].path, n_before) == 0) {
            f->wanted = true;
            n_found++;
        }
    }
    return n_found == n;
}

static bool want_folder(struct hub_repo *r, size_t *ret_first)
{
    static const char *const names[] = {"config.json",           "tokenizer.json",
                                        "tokenizer_config.json", "generation_config.json",
                                        "chat_template.jinja",   "special_tokens_map.json",
                                        "tokenizer.model"};
    bool config = false;
    bool weights = false;
    for (size_t k = 0; k < r->n_file; k++) {
        struct hub_file *f = &r->files[k];
        if (f->name != f->path) {
            continue;
        }
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            f->wanted |= strcmp(f->name, names[i]) == 0;
        }
        if (strcmp(f->name, "config.json") == 0) {
            config = true;
            *ret_first = k;
        }
        if (ends_with(f->name, ".safetensors") || ends_with(f->name, ".safetensors.index.json")) {
            f->wanted = true;
            weights = true;
        }
    }
    return config && weights;
}

static void list_models(const struct hub_repo *r, struct buf *out)
{
    for (size_t k = 0; k < r->n_file && out->len < 300; k++) {
        if (is_model(&r->files[k])) {
            buf_printf(out, "%s%s", out->len ? ", " : "", r->files[k].name);
        }
    }
}

enum err_code hub_repo_choose(struct hub_repo *r, const struct hub_name *n, size_t *ret_first,
                              bool *ret_folder, struct err *e)
{
    static const char *const usual[] = {"Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q8_0",
                                        "Q6_K",   "F16",    "BF16", "F32"};
    size_t n_model = 0;
    size_t found = SIZE_MAX;
    *ret_folder = false;
    for (size_t k = 0; k < r->n_file; k++) {
        if (is_model(&r->files[k])) {
            n_model++;
            found = n->quant[0] == 0 || hub_has_quant(r->files[k].path, n->quant) ? k : found;
        }
    }
    for (size_t q = 0; n->quant[0] == 0 && n_model > 1 && q < sizeof usual / sizeof *usual; q++) {
        for (size_t k = 0; k < r->n_file; k++) {
            if (is_model(&r->files[k]) && hub_has_quant(r->files[k].path, usual[q])) {
                *ret_first = k;
                found = k;
                q = sizeof usual / sizeof *usual;
                break;
            }
        }
    }
    if (n_model == 0 && n->quant[0] == 0 && want_folder(r, ret_first)) {
        *ret_folder = true;
        return ERR_OK;
    }
    if (found == SIZE_MAX) {
        struct buf names = {0};
        list_models(r, &names);
        err_set(e, ERR_NOT_FOUND, "%s/%s has no GGUF file%s%s%s%s", n->org, n->repo,
                n->quant[0] ? " of type " : "", n->quant, names.len ? "; it has " : "",
                buf_str(&names));
        buf_free(&names);
        return ERR_NOT_FOUND;
    }
    *ret_first = found;
    if (!want_all_parts(r, found)) {
        return err_set(e, ERR_NOT_FOUND, "%s/%s lacks parts of %s", n->org, n->repo,
                       r->files[found].name);
    }
    return ERR_OK;
}
