/* Opening: mapping files, putting the parts of a split together. */
#include "engine/gguf.h"

#include "base/buf.h"
#include "engine/gguf_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* "-00001-of-00003.gguf" ends the name of the first of three parts. */
#define SPLIT_SUFFIX_BYTES 20
#define SPLIT_PARTS_MAX    99999u

static enum err_code map_file(const char *path, struct gguf_part *p, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return err_errno(e, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, errno, "cannot open %s",
                         path);
    }
    struct stat st;
    enum err_code rc = ERR_OK;
    if (fstat(fd, &st) != 0) {
        rc = err_errno(e, ERR_IO, errno, "cannot stat %s", path);
    } else if (!S_ISREG(st.st_mode)) {
        rc = err_set(e, ERR_INVALID, "%s is not a regular file", path);
    } else if (st.st_size == 0) {
        rc = err_set(e, ERR_CORRUPT, "%s is empty", path);
    }
    if (!rc) {
        void *at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (at == MAP_FAILED) {
            rc = err_errno(e, ERR_NOMEM, errno, "cannot map %s", path);
        } else {
            *p = (struct gguf_part){.bytes = at, .n_byte = (size_t)st.st_size, .mapped = true};
        }
    }
    (void)close(fd);
    return rc;
}

/* Puts the file's name in front of a message about its contents. */
static enum err_code name_file(const char *path, enum err_code rc, struct err *e)
{
    if (rc && e) {
        const char *slash = strrchr(path, '/');
        struct err inner = *e;
        return err_set(e, rc, "%s: %s", slash ? slash + 1 : path, inner.msg);
    }
    return rc;
}

static enum err_code open_part(const char *path, struct gguf_part *p, struct err *e)
{
    enum err_code rc = map_file(path, p, e);
    return rc ? rc : name_file(path, gguf_part_read(p, e), e);
}

/* The value of a split.* key, or the given default when it is absent or odd. */
static uint64_t split_value(const struct gguf_part *p, const char *key, uint64_t absent)
{
    const struct gguf_kv *kv = gguf_part_find(p, key);
    uint64_t v;
    return kv && gguf_kv_u64(kv, &v) ? v : absent;
}

/* Checks that part i of a split is the file its name says. */
static enum err_code check_part(const struct gguf_part *p, uint32_t i, uint32_t n_part,
                                struct err *e)
{
    uint64_t no = split_value(p, "split.no", UINT64_MAX);
    uint64_t count = split_value(p, "split.count", UINT64_MAX);
    if (no != i || count != n_part) {
        return err_set(e, ERR_CORRUPT,
                       "keys 'split.no' and 'split.count' should be %u and %u for this part of the "
                       "split, but are %lld and %lld",
                       i, n_part, (long long)no, (long long)count);
    }
    return ERR_OK;
}

/* Opens parts 2…n beside the first, whose path ends in -00001-of-0000N.gguf. */
static enum err_code open_other_parts(const char *path, struct gguf *f, struct err *e)
{
    uint64_t count = split_value(&f->parts[0], "split.count", 0);
    if (count <= 1) {
        return ERR_OK;
    }
    if (count > SPLIT_PARTS_MAX) {
        return err_set(e, ERR_CORRUPT, "key 'split.count': %llu parts, at most %u allowed",
                       (unsigned long long)count, SPLIT_PARTS_MAX);
    }
    uint32_t n_part = (uint32_t)count;
    size_t n_path = strlen(path);
    size_t n_stem = n_path < SPLIT_SUFFIX_BYTES ? 0 : n_path - SPLIT_SUFFIX_BYTES;
    char suffix[40];
    (void)snprintf(suffix, sizeof suffix, "-%05u-of-%05u.gguf", 1u, n_part);
    if (strcmp(path + n_stem, suffix) != 0) {
        return err_set(e, ERR_INVALID,
                       "one of %u parts of a split model: open the first, whose name ends in %s",
                       n_part, suffix);
    }
    struct gguf_part *parts = calloc(n_part, sizeof *parts);
    if (!parts) {
        return err_set(e, ERR_NOMEM, "out of memory for %u parts", n_part);
    }
    parts[0] = f->parts[0];
    free(f->parts);
    f->parts = parts;
    f->n_part = n_part;
    enum err_code rc = check_part(&parts[0], 0, n_part, e);
    for (uint32_t i = 1; !rc && i < n_part; i++) {
        struct buf name = {0};
        buf_append(&name, path, n_stem);
        buf_printf(&name, "-%05u-of-%05u.gguf", i + 1, n_part);
        rc = buf_ok(&name) ? open_part(buf_str(&name), &parts[i], e)
                           : err_set(e, ERR_NOMEM, "out of memory for a path");
        if (!rc) {
            rc = name_file(buf_str(&name), check_part(&parts[i], i, n_part, e), e);
        }
        buf_free(&name);
    }
    return rc;
}

/* One table of all parts' tensors, each name once. */
static enum err_code join_tensors(struct gguf *f, struct err *e)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < f->n_part; i++) {
        n += f->parts[i].n_tensor;
    }
    uint64_t told = split_value(&f->parts[0], "split.tensors.count", n);
    if (told != n) {
        return err_set(e, ERR_CORRUPT,
                       "key 'split.tensors.count' says %llu, but the parts hold %llu tensors",
                       (unsigned long long)told, (unsigned long long)n);
    }
    if (n > UINT32_MAX) {
        return err_set(e, ERR_LIMIT, "%llu tensors", (unsigned long long)n);
    }
    f->tensors = malloc((n ? (size_t)n : 1) * sizeof *f->tensors);
    if (!f->tensors) {
        return err_set(e, ERR_NOMEM, "out of memory for %llu tensors", (unsigned long long)n);
    }
    enum err_code rc = smap_init(&f->tensor_map, (size_t)n, e);
    for (uint32_t i = 0; !rc && i < f->n_part; i++) {
        for (uint64_t k = 0; !rc && k < f->parts[i].n_tensor; k++) {
            struct gguf_tensor *t = &f->tensors[f->n_tensor];
            *t = f->parts[i].tensors[k];
            t->part = i;
            bool is_new = true;
            rc =
                smap_put(&f->tensor_map, t->name.s, t->name.n, (uint32_t)f->n_tensor++, &is_new, e);
            if (!rc && !is_new) {
                char shown[GGUF_SHOWN_BYTES];
                rc = err_set(e, ERR_CORRUPT,
                             "tensor '%s' appears twice, the second time with data at offset %llu",
                             gguf_shown(t->name, shown), (unsigned long long)t->offset);
            }
        }
    }
    return rc;
}

static struct gguf *new_gguf(struct err *e)
{
    struct gguf *f = calloc(1, sizeof *f);
    struct gguf_part *parts = calloc(1, sizeof *parts);
    if (!f || !parts) {
        free(f);
        free(parts);
        (void)err_set(e, ERR_NOMEM, "out of memory for a model file");
        return NULL;
    }
    f->parts = parts;
    f->n_part = 1;
    return f;
}

enum err_code gguf_open(const char *path, struct gguf **ret_f, struct err *e)
{
    struct gguf *f = new_gguf(e);
    if (!f) {
        return ERR_NOMEM;
    }
    enum err_code rc = open_part(path, &f->parts[0], e);
    if (!rc) {
        rc = open_other_parts(path, f, e);
    }
    if (!rc) {
        rc = name_file(path, join_tensors(f, e), e);
    }
    if (rc) {
        gguf_close(f);
        return rc;
    }
    *ret_f = f;
    return ERR_OK;
}

enum err_code gguf_open_memory(const void *bytes, size_t n_byte, struct gguf **ret_f, struct err *e)
{
    struct gguf *f = new_gguf(e);
    if (!f) {
        return ERR_NOMEM;
    }
    f->parts[0] = (struct gguf_part){.bytes = bytes, .n_byte = n_byte};
    enum err_code rc = gguf_part_read(&f->parts[0], e);
    if (!rc && split_value(&f->parts[0], "split.count", 0) > 1) {
        rc = err_set(e, ERR_INVALID, "one part of a split model, which memory cannot hold");
    }
    if (!rc) {
        rc = join_tensors(f, e);
    }
    if (rc) {
        gguf_close(f);
        return rc;
    }
    *ret_f = f;
    return ERR_OK;
}

void gguf_close(struct gguf *f)
{
    if (!f) {
        return;
    }
    for (uint32_t i = 0; i < f->n_part; i++) {
        struct gguf_part *p = &f->parts[i];
        gguf_part_forget(p);
        if (p->mapped) {
            (void)munmap((void *)p->bytes, p->n_byte);
        }
    }
    smap_finish(&f->tensor_map);
    free(f->tensors);
    free(f->parts);
    free(f);
}

uint64_t gguf_n_tensor(const struct gguf *f)
{
    return f->n_tensor;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *f, uint64_t i)
{
    return &f->tensors[i];
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *f, const char *name)
{
    uint32_t idx;
    return smap_get(&f->tensor_map, name, strlen(name), &idx) ? &f->tensors[idx] : NULL;
}

uint32_t gguf_version(const struct gguf *f)
{
    return f->parts[0].version;
}

uint64_t gguf_file_bytes(const struct gguf *f)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < f->n_part; i++) {
        n += f->parts[i].n_byte;
    }
    return n;
}

void gguf_release_pages(const struct gguf *f, const struct gguf_tensor *t)
{
    if (!f->parts[t->part].mapped) {
        return;
    }
    /* Whole pages alone: the first and last are shared with neighbours not yet packed. */
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = ((uintptr_t)t->data + page - 1) & ~(page - 1);
    uintptr_t to = ((uintptr_t)t->data + t->n_byte) & ~(page - 1);
    if (from < to) {
        (void)madvise((void *)from, to - from, MADV_DONTNEED);
    }
}
