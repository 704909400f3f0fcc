/* What identifies a model's KV: its weights and the metadata that shapes them. Tensors are hashed
 * in blocks, side by side, so that it costs little beside packing. */
#include "engine/load.h"

#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES ((size_t)1 << 20)

struct hash_job {
    const uint8_t *bytes;
    size_t n_byte;
    uint8_t (*digests)[SHA256_BYTES];
};

static void hash_block(void *arg, uint32_t item, uint32_t worker)
{
    (void)worker;
    const struct hash_job *j = arg;
    size_t at = item * BLOCK_BYTES;
    size_t n = j->n_byte - at < BLOCK_BYTES ? j->n_byte - at : BLOCK_BYTES;
    hash_sha256(j->bytes + at, n, j->digests[item]);
}

void load_hash(struct loader *L, const struct gguf_tensor *t)
{
    size_t n_block = (t->n_byte + BLOCK_BYTES - 1) / BLOCK_BYTES;
    struct hash_job j = {.bytes = t->data, .n_byte = t->n_byte};
    j.digests = malloc((n_block + 1) * sizeof *j.digests);
    if (!j.digests) {
        L->code = L->code ? L->code : err_set(L->e, ERR_NOMEM, "out of memory for a digest");
        return;
    }
    eng_pool_run(L->pool, (uint32_t)n_block, hash_block, &j);
    hash_sha256(j.digests, n_block * sizeof *j.digests, L->digests[t - gguf_tensor_at(L->f, 0)]);
    free(j.digests);
}

static void put_u64(struct buf *b, uint64_t v)
{
    buf_append(b, &v, sizeof v);
}

static void put_str(struct buf *b, struct gguf_str s)
{
    put_u64(b, s.n);
    buf_append(b, s.s, s.n);
}

/* One key: its name, and its value as numbers or text. */
static void put_key(struct buf *b, const struct gguf *f, const struct gguf_kv *kv)
{
    char key[256];
    uint64_t u = 0;
    double d = 0;
    bool flag = false;
    size_t n = kv->key.n < sizeof key ? kv->key.n : sizeof key - 1;
    memcpy(key, kv->key.s, n);
    key[n] = 0;
    put_str(b, kv->key);
    put_u64(b, kv->type);
    if (kv->type == GGUF_STRING) {
        put_str(b, kv->str);
    } else if (kv->type == GGUF_ARRAY) {
        put_u64(b, kv->array.n);
        for (uint64_t i = 0; i < kv->array.n && !kv->array.strings; i++) {
            d = gguf_array_f64(&kv->array, i);
            buf_append(b, &d, sizeof d);
        }
    } else if (gguf_get_u64(f, key, &u) || gguf_get_bool(f, key, &flag)) {
        put_u64(b, u + flag);
    } else if (gguf_get_f64(f, key, &d)) {
        buf_append(b, &d, sizeof d);
    }
}

void load_digest(struct loader *L)
{
    struct buf all = {0};
    struct gguf_str arch = {0};
    gguf_get_str(L->f, "general.architecture", &arch);
    put_str(&all, arch);
    for (uint64_t i = 0; i < gguf_n_kv(L->f); i++) {
        const struct gguf_kv *kv = gguf_kv_at(L->f, i);
        if (kv->key.n > arch.n && kv->key.s[arch.n] == '.' &&
            memcmp(kv->key.s, arch.s, arch.n) == 0) {
            put_key(&all, L->f, kv);
        }
    }
    for (uint64_t i = 0; i < gguf_n_tensor(L->f); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(L->f, i);
        put_str(&all, t->name);
        put_u64(&all, t->type);
        buf_append(&all, t->ne, sizeof t->ne);
        buf_append(&all, L->digests[i], SHA256_BYTES);
    }
    if (!buf_ok(&all)) {
        L->code = L->code ? L->code : err_set(L->e, ERR_NOMEM, "out of memory for a digest");
    } else {
        hash_sha256(all.data, all.len, L->m->digest);
    }
    buf_free(&all);
}
