#include "base/file.h"

#include <errno.h>
#include <stdio.h>

#define READ_STEP ((size_t)64 << 10)

enum err_code file_read(const char *path, const char *what, size_t n_byte_max, struct buf *out,
                        struct err *e)
{
    const char *gap = *what ? " " : "";
    FILE *f = fopen(path, "rbe");
    if (!f) {
        return err_errno(e, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, errno, "cannot open %s%s%s",
                         what, gap, path);
    }
    enum err_code code = ERR_OK;
    size_t n_total = 0;
    size_t n = READ_STEP;
    while (!code && n == READ_STEP) {
        char *at = buf_reserve(out, READ_STEP);
        if (!at) {
            code = err_set(e, ERR_NOMEM, "out of memory for %s%s%s", what, gap, path);
            break;
        }
        n = fread(at, 1, READ_STEP, f);
        at[n] = 0;
        out->len += n;
        n_total += n;
        if (ferror(f)) {
            code = err_errno(e, ERR_IO, errno, "cannot read %s%s%s", what, gap, path);
        } else if (n_total > n_byte_max) {
            code = err_set(e, ERR_LIMIT, "%s%s%s is longer than %zu bytes", what, gap, path,
                           n_byte_max);
        }
    }
    (void)fclose(f);
    return code;
}
