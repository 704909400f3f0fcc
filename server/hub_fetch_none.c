/* A build without libcurl. */
#include "server/hub.h"

enum err_code hub_fetch_text(const struct hub_fetch *f, size_t n_max, struct buf *out,
                             struct err *e)
{
    return err_set(e, ERR_UNSUPPORTED, "this build has no libcurl: it cannot fetch models");
}

enum err_code hub_fetch_file(const struct hub_fetch *f, int fd, uint64_t from, uint64_t n_total,
                             struct err *e)
{
    return err_set(e, ERR_UNSUPPORTED, "this build has no libcurl: it cannot fetch models");
}
