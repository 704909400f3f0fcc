/* Builds without liburing. */
#include "kvstore/io.h"

enum err_code kv_io_uring_create(uint32_t depth, uint32_t n_file, struct kv_io **ret_io,
                                 struct err *e)
{
    (void)depth;
    (void)n_file;
    (void)ret_io;
    return err_set(e, ERR_UNSUPPORTED, "this build has no io_uring");
}
