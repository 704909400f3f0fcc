#include "kvstore/crypt.h"

#include "base/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define TAG_BYTES 16
#define STEP      ((size_t)1 << 30) /* OpenSSL counts in int */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static bool key_parse(const uint8_t *text, size_t n, uint8_t key[KV_CRYPT_KEY_BYTES])
{
    if (n == KV_CRYPT_KEY_BYTES) {
        memcpy(key, text, n);
        return true;
    }
    if (n != 2 * KV_CRYPT_KEY_BYTES && !(n == 2 * KV_CRYPT_KEY_BYTES + 1 && text[n - 1] == '\n')) {
        return false;
    }
    for (size_t i = 0; i < KV_CRYPT_KEY_BYTES; i++) {
        int high = hex_digit((char)text[2 * i]);
        int low = hex_digit((char)text[2 * i + 1]);
        if (high < 0 || low < 0) {
            return false;
        }
        key[i] = (uint8_t)(16 * high + low);
    }
    return true;
}

enum err_code kv_crypt_read_key(const char *file, struct kv_crypt *ret_c, struct err *e)
{
    uint8_t text[2 * KV_CRYPT_KEY_BYTES + 2];
    struct kv_crypt c;
    struct stat st;
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        enum err_code code = err_errno(e, ERR_NOT_FOUND, errno, "cannot read the KV key %s", file);
        if (fd >= 0) {
            (void)close(fd);
        }
        return code;
    }
    ssize_t n = read(fd, text, sizeof text);
    (void)close(fd);
    if (st.st_mode & 077) {
        return err_set(e, ERR_INVALID, "others may read the KV key %s: chmod 600 it", file);
    }
    if (n < 0 || !key_parse(text, (size_t)n, c.key)) {
        return err_set(e, ERR_INVALID, "the KV key %s is not 32 bytes or 64 hex digits", file);
    }
    uint8_t message[4 + KV_CRYPT_KEY_BYTES];
    uint8_t digest[32];
    memcpy(message, "kvck", 4);
    memcpy(message + 4, c.key, sizeof c.key);
    hash_sha256(message, sizeof message, digest);
    memcpy(c.check, digest, sizeof c.check);
    explicit_bzero(message, sizeof message);
    explicit_bzero(text, sizeof text);
    *ret_c = c;
    explicit_bzero(&c, sizeof c);
    return ERR_OK;
}

/* From the key on to the tokens' count and depth: what a payload is bound to. */
static bool aad_take(EVP_CIPHER_CTX *x, const struct kv_slot_header *h)
{
    const size_t from = offsetof(struct kv_slot_header, fingerprint);
    const size_t to = offsetof(struct kv_slot_header, freq);
    int n;
    return EVP_CipherUpdate(x, NULL, &n, (const uint8_t *)h + from, (int)(to - from)) == 1;
}

static bool update(EVP_CIPHER_CTX *x, const uint8_t *from, uint8_t *to, size_t n_byte)
{
    bool done = true;
    for (size_t at = 0; at < n_byte && done; at += STEP) {
        int n;
        size_t k = n_byte - at < STEP ? n_byte - at : STEP;
        done = EVP_CipherUpdate(x, to + at, &n, from + at, (int)k) == 1;
    }
    return done;
}

bool kv_crypt_tokens(const struct kv_crypt *c, struct kv_slot_header *h)
{
    uint8_t nonce[sizeof h->nonce];
    EVP_CIPHER_CTX *x = EVP_CIPHER_CTX_new();
    memcpy(nonce, h->nonce, sizeof nonce);
    nonce[sizeof nonce - 1] ^= 1;
    /* Encryption of GCM is a key stream: doing it twice undoes it. */
    bool done = x && EVP_CipherInit_ex(x, EVP_aes_256_gcm(), NULL, c->key, nonce, 1) == 1 &&
                update(x, (const uint8_t *)h->tokens, (uint8_t *)h->tokens, sizeof h->tokens);
    EVP_CIPHER_CTX_free(x);
    return done;
}

bool kv_crypt_seal(const struct kv_crypt *c, const uint8_t *payload, size_t n_byte, uint8_t *to,
                   struct kv_slot_header *h)
{
    int n;
    if (getrandom(h->nonce, sizeof h->nonce, 0) != (ssize_t)sizeof h->nonce) {
        return false;
    }
    h->nonce[sizeof h->nonce - 1] &= 0xfe; /* so that no payload's nonce is another's tokens' */
    EVP_CIPHER_CTX *x = EVP_CIPHER_CTX_new();
    bool done = x && EVP_CipherInit_ex(x, EVP_aes_256_gcm(), NULL, c->key, h->nonce, 1) == 1 &&
                aad_take(x, h) && update(x, payload, to, n_byte) &&
                EVP_CipherFinal_ex(x, to + n_byte, &n) == 1 &&
                EVP_CIPHER_CTX_ctrl(x, EVP_CTRL_GCM_GET_TAG, TAG_BYTES, h->tag) == 1;
    EVP_CIPHER_CTX_free(x);
    return done && kv_crypt_tokens(c, h);
}

bool kv_crypt_open(const struct kv_crypt *c, uint8_t *payload, size_t n_byte,
                   const struct kv_slot_header *h)
{
    int n;
    uint8_t tag[TAG_BYTES];
    uint8_t end[16];
    memcpy(tag, h->tag, sizeof tag);
    EVP_CIPHER_CTX *x = EVP_CIPHER_CTX_new();
    bool done = x && EVP_CipherInit_ex(x, EVP_aes_256_gcm(), NULL, c->key, h->nonce, 0) == 1 &&
                aad_take(x, h) && update(x, payload, payload, n_byte) &&
                EVP_CIPHER_CTX_ctrl(x, EVP_CTRL_GCM_SET_TAG, TAG_BYTES, tag) == 1 &&
                EVP_CipherFinal_ex(x, end, &n) == 1;
    EVP_CIPHER_CTX_free(x);
    return done;
}
