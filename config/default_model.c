#include "config/default_model.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

enum err_code cfg_default_model(const char *exe_path, struct buf *out, struct err *e)
{
    static const char *const places[] = {"/../models/", "/models/", "/../share/kvasir/models/"};
    char self[PATH_MAX];
    if (!exe_path) {
        ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
        if (n < 0) {
            return err_errno(e, ERR_IO, errno, "cannot tell where this program lies");
        }
        self[n] = '\0';
        exe_path = self;
    }
    const char *slash = strrchr(exe_path, '/');
    int n_dir = slash ? (int)(slash - exe_path) : 1;
    const char *dir = slash ? exe_path : ".";
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        struct buf path = {0};
        buf_printf(&path, "%.*s%s%s", n_dir, dir, places[i], CFG_DEFAULT_MODEL);
        bool found = buf_ok(&path) && access(buf_str(&path), R_OK) == 0;
        if (found) {
            buf_append(out, path.data, path.len);
        }
        buf_free(&path);
        if (found) {
            return buf_ok(out) ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a path");
        }
    }
    return err_set(e, ERR_NOT_FOUND, "no %s in models/ or share/kvasir/models/ beside %.*s",
                   CFG_DEFAULT_MODEL, n_dir, dir);
}
