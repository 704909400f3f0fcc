/* Hashes. SHA-256 (OpenSSL) where identity or secrecy depends on it; FNV-1a for hash tables that
 * are bounded by a limit anyway. Pure; any thread. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHA256_BYTES 32

void hash_sha256(const void *bytes, size_t n, uint8_t ret_digest[SHA256_BYTES]);
/* The same piece by piece; SHA-1 is for git's object names alone. NULL when memory is out. */
struct hash_stream;
enum hash_kind { HASH_SHA256, HASH_SHA1 };
struct hash_stream *hash_stream_create(enum hash_kind kind);
void hash_stream_add(struct hash_stream *h, const void *bytes, size_t n);
/* Frees h; returns the digest's length. */
size_t hash_stream_end(struct hash_stream *h, uint8_t ret_digest[SHA256_BYTES]);
/* Constant-time comparison of secrets. */
bool hash_equal(const void *a, const void *b, size_t n);
uint64_t hash_fnv1a(const void *bytes, size_t n);

#endif
