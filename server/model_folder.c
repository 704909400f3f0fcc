#include "server/model_folder.h"

#include "base/log.h"
#include "engine/convert/convert.h"
#include "engine/quant/mix.h"
#include "engine/requantize.h"
#include "server/hub.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum err_code srv_folder_to_gguf(const char *dir, const char *out_path, const char *type,
                                 struct err *e)
{
    const struct quant_mix *mix = type ? quant_mix_by_name(type) : NULL;
    struct buf whole = {0};
    if (type && !mix) {
        return err_set(e, ERR_INVALID, "no weight type '%.40s'; kvasir quantize --help lists them",
                       type);
    }
    buf_printf(&whole, "%s%s", out_path, mix ? ".whole" : "");
    enum err_code rc = buf_ok(&whole) ? convert_folder(dir, buf_str(&whole), e)
                                      : err_set(e, ERR_NOMEM, "out of memory for a path");
    if (!rc && mix) {
        struct eng_requantize_options o = {
            .in_path = buf_str(&whole), .out_path = out_path, .mix = mix};
        rc = eng_requantize(&o, e);
        (void)unlink(buf_str(&whole));
    }
    buf_free(&whole);
    return rc;
}

enum err_code srv_folder_for_serving(const char *dir, const char *type, struct buf *ret_path,
                                     struct err *e)
{
    struct buf path = {0};
    if (!hub_cache_dir(&path)) {
        buf_clear(&path);
        buf_puts(&path, "/tmp");
    }
    if (mkdir(buf_str(&path), 0755) != 0 && errno != EEXIST) {
        buf_clear(&path);
        buf_puts(&path, "/tmp");
    }
    /* A name of its own: two servers may do this at once. */
    buf_puts(&path, "/.serve-XXXXXX");
    int fd = buf_ok(&path) ? mkstemp(path.data) : -1;
    if (fd < 0) {
        buf_free(&path);
        return err_errno(e, ERR_IO, errno, "cannot create a file for the converted model");
    }
    (void)close(fd);
    log_info("converting %s%s%s", dir, type ? " to " : "", type ? type : "");
    enum err_code rc = srv_folder_to_gguf(dir, buf_str(&path), type, e);
    if (rc) {
        (void)unlink(buf_str(&path));
    } else {
        buf_puts(ret_path, buf_str(&path));
    }
    buf_free(&path);
    return rc;
}
