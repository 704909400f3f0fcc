/* Any bytes as a GGUF file: opened, and everything it gives is walked, so that a sanitizer sees
 * each byte that a caller could see. */
#include "engine/gguf.h"
#include "engine/quant/formats.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK_ELEM_MAX  256
#define BLOCKS_READ_MAX 64

static unsigned touch(struct gguf_str s)
{
    unsigned sum = 0;
    for (size_t i = 0; i < s.n; i++) {
        sum += (unsigned char)s.s[i];
    }
    return sum;
}

static void walk_array(const struct gguf_array *a)
{
    for (uint64_t i = 0; i < a->n; i++) {
        fuzz_use(a->type == GGUF_STRING
                     ? touch(a->strings[i])
                     : (unsigned)gguf_array_i64(a, i) + (gguf_array_f64(a, i) > 0));
    }
}

static void walk_kv(const struct gguf *f, const struct gguf_kv *kv)
{
    uint64_t u;
    int64_t i;
    double d;
    bool b;
    char *key = strndup(kv->key.s, kv->key.n);
    if (!key) {
        return;
    }
    fuzz_use(gguf_get_u64(f, key, &u) + gguf_get_i64(f, key, &i) + gguf_get_f64(f, key, &d) +
             gguf_get_bool(f, key, &b));
    free(key);
    if (kv->type == GGUF_STRING) {
        fuzz_use(touch(kv->str));
    } else if (kv->type == GGUF_ARRAY) {
        walk_array(&kv->array);
    }
}

static void walk_tensor(const struct gguf_tensor *t)
{
    const struct quant_format *fmt = quant_format_of(t->type);
    float block[BLOCK_ELEM_MAX];
    fuzz_use(touch((struct gguf_str){t->data, t->n_byte}));
    for (uint64_t k = 0; fmt->dequant && k < t->n_elem / fmt->n_block_elem && k < BLOCKS_READ_MAX;
         k++) {
        fmt->dequant((const char *)t->data + k * fmt->n_block_byte, block, fmt->n_block_elem);
        fuzz_use(block[0] > 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct gguf *f = NULL;
    struct err e;
    if (gguf_open_memory(bytes, n, &f, &e)) {
        return 0;
    }
    for (uint64_t i = 0; i < gguf_n_kv(f); i++) {
        walk_kv(f, gguf_kv_at(f, i));
    }
    for (uint64_t i = 0; i < gguf_n_tensor(f); i++) {
        walk_tensor(gguf_tensor_at(f, i));
    }
    gguf_close(f);
    return 0;
}
