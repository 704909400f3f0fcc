#include "golden.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define PATH_MAX_BYTES 4096

static void path_of(const char *name, char *out)
{
    const char *shared = getenv("KVASIR_SHARED");
    (void)snprintf(out, PATH_MAX_BYTES, "%s/data/%s", shared ? shared : ".", name);
}

bool golden_present(void)
{
    char path[PATH_MAX_BYTES];
    path_of("vocab", path);
    if (access(path, R_OK) == 0) {
        return true;
    }
    print_message("skipped: no golden data at %s\n", path);
    return false;
}

struct buf golden_read(const char *name)
{
    char path[PATH_MAX_BYTES];
    path_of(name, path);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    struct buf b = {0};
    char part[4096];
    size_t n;
    while ((n = fread(part, 1, sizeof part, f)) > 0) {
        buf_append(&b, part, n);
    }
    (void)fclose(f);
    assert_true(buf_ok(&b));
    return b;
}

struct vocab *golden_vocab(const char *name)
{
    char path[PATH_MAX_BYTES];
    path_of(name, path);
    struct gguf *f = NULL;
    struct vocab *v = NULL;
    struct err e = {0};
    if (gguf_open(path, &f, &e) || vocab_load(f, &v, &e)) {
        fail_msg("%s: %s", path, e.msg);
    }
    gguf_close(f);
    return v;
}

struct eng_ids golden_ids(const struct vocab *v, const char *text, size_t n, unsigned flags)
{
    struct eng_ids ids = {0};
    struct err e = {0};
    if (vocab_tokenize(v, text, n, flags, &ids, &e)) {
        fail_msg("%.40s: %s", text, e.msg);
    }
    return ids;
}

struct buf golden_text(const struct vocab *v, const int32_t *ids, size_t n)
{
    struct eng_detok state = {0};
    struct buf text = {0};
    for (size_t i = 0; i < n; i++) {
        vocab_detokenize(v, &state, ids[i], false, &text);
    }
    assert_true(buf_ok(&text));
    return text;
}
