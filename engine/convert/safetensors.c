#include "engine/convert/safetensors.h"

#include "base/units.h"
#include "engine/convert/json_file.h"
#include "engine/quant/formats.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER_BYTES_MAX ((uint64_t)100 << 20) /* the format's own bound */
#define FILES_MAX        1024
#define TENSORS_MAX      200000

struct mapping {
    void *bytes;
    size_t n;
};

struct st_files {
    struct mapping maps[FILES_MAX];
    size_t n_map;
    struct st_tensor *tensors;
    size_t n_tensor;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct st_tensor *)a)->name, ((const struct st_tensor *)b)->name);
}

static int by_place(const void *a, const void *b)
{
    const char *x = ((const struct st_tensor *)a)->data;
    const char *y = ((const struct st_tensor *)b)->data;
    return (x > y) - (x < y);
}

/* ---- one tensor ---- */

static bool read_count(const cJSON *v, uint64_t *ret)
{
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= 0) || v->valuedouble > 0x1p53 ||
        v->valuedouble != (double)(uint64_t)v->valuedouble) {
        return false;
    }
    *ret = (uint64_t)v->valuedouble;
    return true;
}

static enum err_code read_type(const char *path, const cJSON *item, struct st_tensor *t,
                               struct err *e)
{
    static const struct {
        const char *name;
        enum gguf_type type;
    } types[] = {{"F32", GGUF_TYPE_F32}, {"F16", GGUF_TYPE_F16}, {"BF16", GGUF_TYPE_BF16}};
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "dtype"));
    for (size_t i = 0; name && i < sizeof types / sizeof *types; i++) {
        if (strcmp(types[i].name, name) == 0) {
            t->type = types[i].type;
            return ERR_OK;
        }
    }
    return err_set(e, ERR_UNSUPPORTED,
                   "%.200s: tensor %.100s has the type %.20s; F32, F16 and BF16 are supported",
                   path, item->string, name ? name : "(none)");
}

/* data: what follows the header, n_data bytes. */
static enum err_code read_tensor(const char *path, const cJSON *item, const char *data,
                                 uint64_t n_data, struct st_tensor *t, struct err *e)
{
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(item, "shape");
    const cJSON *span = cJSON_GetObjectItemCaseSensitive(item, "data_offsets");
    uint64_t from = 0;
    uint64_t to = 0;
    enum err_code rc = read_type(path, item, t, e);
    if (rc) {
        return rc;
    }
    t->n_elem = 1;
    bool ok = cJSON_IsArray(shape) && cJSON_GetArraySize(shape) <= GGUF_DIMS_MAX;
    for (int i = 0; i < GGUF_DIMS_MAX; i++) {
        t->shape[i] = 1;
    }
    for (int i = 0; ok && i < cJSON_GetArraySize(shape); i++) {
        ok = read_count(cJSON_GetArrayItem(shape, i), &t->shape[i]) &&
             units_mul(t->n_elem, t->shape[i], &t->n_elem);
    }
    t->n_dim = ok ? (uint32_t)cJSON_GetArraySize(shape) : 0;
    ok = ok && cJSON_GetArraySize(span) == 2 && read_count(cJSON_GetArrayItem(span, 0), &from) &&
         read_count(cJSON_GetArrayItem(span, 1), &to);
    if (!ok || from > to || to > n_data ||
        !units_mul(t->n_elem, quant_format_of(t->type)->n_block_byte, &t->n_byte) ||
        t->n_byte != to - from) {
        return err_set(e, ERR_CORRUPT,
                       "%.200s: tensor %.100s: its shape, type and data_offsets do not fit each "
                       "other and the file",
                       path, item->string);
    }
    t->data = data + from;
    t->name = strdup(item->string);
    return t->name ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for tensor names");
}

/* ---- one file ---- */

static enum err_code check_overlap(const char *path, struct st_tensor *t, size_t n, struct err *e)
{
    if (n > 1) {
        qsort(t, n, sizeof *t, by_place);
    }
    for (size_t i = 1; i < n; i++) {
        if ((const char *)t[i - 1].data + t[i - 1].n_byte > (const char *)t[i].data) {
            return err_set(e, ERR_CORRUPT, "%.200s: tensors %.90s and %.90s overlap", path,
                           t[i - 1].name, t[i].name);
        }
    }
    return ERR_OK;
}

static enum err_code read_header(struct st_files *s, const char *path, const char *bytes,
                                 uint64_t n_byte, struct err *e)
{
    uint64_t n_head = 0;
    for (int i = 0; i < 8 && n_byte >= 8; i++) {
        n_head |= (uint64_t)(unsigned char)bytes[i] << (8 * i);
    }
    if (n_byte < 8 || n_head > n_byte - 8 || n_head > HEADER_BYTES_MAX) {
        return err_set(e, ERR_CORRUPT, "%.300s: its header of %llu bytes does not fit the file",
                       path, (unsigned long long)n_head);
    }
    cJSON *head = cJSON_ParseWithLength(bytes + 8, (size_t)n_head);
    int n = cJSON_IsObject(head) ? cJSON_GetArraySize(head) : -1;
    enum err_code rc = ERR_OK;
    struct st_tensor *grown = NULL;
    if (n < 0) {
        rc = err_set(e, ERR_CORRUPT, "%.300s: its header is no JSON object", path);
    } else if ((size_t)n > TENSORS_MAX - s->n_tensor) {
        rc = err_set(e, ERR_LIMIT, "%.300s: more than %d tensors", path, TENSORS_MAX);
    } else if (!(grown = realloc(s->tensors, (s->n_tensor + (size_t)n + 1) * sizeof *grown))) {
        rc = err_set(e, ERR_NOMEM, "out of memory for a list of tensors");
    } else {
        size_t first = s->n_tensor;
        const cJSON *item;
        s->tensors = grown;
        cJSON_ArrayForEach(item, head)
        {
            if (rc || strcmp(item->string, "__metadata__") == 0) {
                continue;
            }
            struct st_tensor t = {0};
            rc = read_tensor(path, item, bytes + 8 + n_head, n_byte - 8 - n_head, &t, e);
            if (!rc) {
                s->tensors[s->n_tensor++] = t;
            }
        }
        rc = rc ? rc : check_overlap(path, s->tensors + first, s->n_tensor - first, e);
    }
    cJSON_Delete(head);
    return rc;
}

static enum err_code add_file(struct st_files *s, const char *dir, const char *name, struct err *e)
{
    char path[4096];
    struct stat st;
    enum err_code rc = ERR_OK;
    if (s->n_map == FILES_MAX || strchr(name, '/') ||
        snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path) {
        return err_set(e, ERR_CORRUPT, "%.200s: '%.100s' cannot be one of its files", dir, name);
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        rc = err_errno(e, ERR_NOT_FOUND, errno, "cannot open %.400s", path);
    } else if (st.st_size < 8) {
        rc = err_set(e, ERR_CORRUPT, "%.400s is too short", path);
    } else {
        size_t n = (size_t)st.st_size;
        void *bytes = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes == MAP_FAILED) {
            rc = err_errno(e, ERR_NOMEM, errno, "cannot map %.400s", path);
        } else {
            s->maps[s->n_map++] = (struct mapping){bytes, n};
            rc = read_header(s, path, bytes, n, e);
        }
    }
    if (fd >= 0) {
        (void)close(fd);
    }
    return rc;
}

/* ---- all ---- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The files that the index names, each once; all its tensors must be there. */
static enum err_code add_indexed(struct st_files *s, const char *dir, const cJSON *index,
                                 struct err *e)
{
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(index, "weight_map");
    int n = cJSON_GetArraySize(map);
    const char **names = calloc((size_t)n + 1, sizeof *names);
    enum err_code rc = names ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for file names");
    size_t n_name = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, map)
    {
        if (names && cJSON_IsString(item)) {
            names[n_name++] = item->valuestring;
        }
    }
    if (n_name > 1) {
        qsort(names, n_name, sizeof *names, by_text);
    }
    for (size_t i = 0; !rc && i < n_name; i++) {
        if (i == 0 || strcmp(names[i], names[i - 1]) != 0) {
            rc = add_file(s, dir, names[i], e);
        }
    }
    if (!rc && n_name == 0) {
        rc = err_set(e, ERR_CORRUPT, "%.300s: model.safetensors.index.json names no files", dir);
    }
    free(names);
    return rc;
}

enum err_code st_open(const char *dir, struct st_files **ret_s, struct err *e)
{
    struct st_files *s = calloc(1, sizeof *s);
    cJSON *index = NULL;
    if (!s) {
        return err_set(e, ERR_NOMEM, "out of memory for a model's files");
    }
    enum err_code rc = json_file_read(dir, "model.safetensors.index.json", false, &index, e);
    if (!rc) {
        rc = index ? add_indexed(s, dir, index, e) : add_file(s, dir, "model.safetensors", e);
    }
    if (!rc && s->n_tensor > 1) {
        qsort(s->tensors, s->n_tensor, sizeof *s->tensors, by_name);
    }
    for (size_t i = 1; !rc && i < s->n_tensor; i++) {
        if (by_name(&s->tensors[i - 1], &s->tensors[i]) == 0) {
            rc = err_set(e, ERR_CORRUPT, "%.300s: two tensors are called %.100s", dir,
                         s->tensors[i].name);
        }
    }
    const cJSON *item;
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(index, "weight_map"))
    {
        if (!rc && !st_find(s, item->string)) {
            rc = err_set(e, ERR_CORRUPT, "%.300s: tensor %.100s of the index is in no file", dir,
                         item->string);
        }
    }
    cJSON_Delete(index);
    if (rc) {
        st_close(s);
        return rc;
    }
    *ret_s = s;
    return ERR_OK;
}

void st_close(struct st_files *s)
{
    if (!s) {
        return;
    }
    for (size_t i = 0; i < s->n_map; i++) {
        (void)munmap(s->maps[i].bytes, s->maps[i].n);
    }
    for (size_t i = 0; i < s->n_tensor; i++) {
        free(s->tensors[i].name);
    }
    free(s->tensors);
    free(s);
}

size_t st_n_tensor(const struct st_files *s)
{
    return s->n_tensor;
}

const struct st_tensor *st_tensor_at(const struct st_files *s, size_t i)
{
    return &s->tensors[i];
}

const struct st_tensor *st_find(const struct st_files *s, const char *name)
{
    struct st_tensor key = {.name = (char *)name};
    return s->n_tensor ? bsearch(&key, s->tensors, s->n_tensor, sizeof key, by_name) : NULL;
}
