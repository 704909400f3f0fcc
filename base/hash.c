#include "base/hash.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

void hash_sha256(const void *bytes, size_t n, uint8_t ret_digest[SHA256_BYTES])
{
    (void)SHA256(bytes, n, ret_digest);
}

bool hash_equal(const void *a, const void *b, size_t n)
{
    return CRYPTO_memcmp(a, b, n) == 0;
}

uint64_t hash_fnv1a(const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    uint64_t h = 0xcbf29ce484222325U;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ p[i]) * 0x100000001b3U;
    }
    return h ^ h >> 32;
}
