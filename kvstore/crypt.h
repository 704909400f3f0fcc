/* The store at rest under a key: AES-256-GCM over each payload and its tokens, by OpenSSL.
 *
 * A slot's nonce is random, 96 bits; the payload is bound to what its header says (key, parent,
 * root, tenant, count, depth) as associated data. Token ids lie encrypted in the header, under the
 * nonce with its last bit flipped; that they are the right ones shows in the slot's key, which is a
 * hash of them. Keys of chunks, times, uses and sizes stay readable.
 *
 * Thread: any; a struct kv_crypt is not changed once made. */
#ifndef KVSTORE_CRYPT_H
#define KVSTORE_CRYPT_H

#include "base/err.h"
#include "kvstore/slot_format.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KV_CRYPT_KEY_BYTES 32

struct kv_crypt {
    uint8_t key[KV_CRYPT_KEY_BYTES];
    uint8_t check[KV_CRYPT_CHECK_BYTES]; /* tells this key from others, and nothing more */
};

/* From a file of 32 bytes or 64 hex digits and a newline that nobody else may read. */
enum err_code kv_crypt_read_key(const char *file, struct kv_crypt *ret_c, struct err *e);
/* Encrypts the payload into `to` and the header's tokens in place; sets nonce and tag. False when
 * the kernel or OpenSSL failed. */
bool kv_crypt_seal(const struct kv_crypt *c, const uint8_t *payload, size_t n_byte, uint8_t *to,
                   struct kv_slot_header *h);
/* The header's tokens in place, either way; their own inverse. */
bool kv_crypt_tokens(const struct kv_crypt *c, struct kv_slot_header *h);
/* Decrypts the payload in place; the header's tokens may be in either form. False when it is not
 * what was sealed with this header. */
bool kv_crypt_open(const struct kv_crypt *c, uint8_t *payload, size_t n_byte,
                   const struct kv_slot_header *h);

#endif
