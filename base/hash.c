#include "base/hash.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/sha.h>

void hash_sha256(const void *bytes, size_t n, uint8_t ret_digest[SHA256_BYTES])
{
    (void)SHA256(bytes, n, ret_digest);
}

/* The struct is EVP_MD_CTX by another name, so that OpenSSL stays in this file. */
struct hash_stream *hash_stream_create(enum hash_kind kind)
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    if (c && EVP_DigestInit_ex(c, kind == HASH_SHA1 ? EVP_sha1() : EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(c);
        c = NULL;
    }
    return (struct hash_stream *)c;
}

void hash_stream_add(struct hash_stream *h, const void *bytes, size_t n)
{
    (void)EVP_DigestUpdate((EVP_MD_CTX *)h, bytes, n);
}

size_t hash_stream_end(struct hash_stream *h, uint8_t ret_digest[SHA256_BYTES])
{
    unsigned n = 0;
    (void)EVP_DigestFinal_ex((EVP_MD_CTX *)h, ret_digest, &n);
    EVP_MD_CTX_free((EVP_MD_CTX *)h);
    return n;
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
