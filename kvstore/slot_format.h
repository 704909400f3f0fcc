/* The store on disk. One directory per model fingerprint:
 *
 *   lock        empty; flock'ed by the one process that writes
 *   super       two superblocks, A at 0 and B at 4096, written in turn
 *   seg-00000…  segments of n_slot_segment slots: first all headers, 4 KiB each, then all payloads
 *
 * A slot is written payload first, header after, and believed only when everything agrees: the
 * header's own CRC, fingerprint, slot number, key = SHA-256(parent ‖ tokens), and one CRC-32C per
 * 256 KiB stripe of the payload (as it lies on disk). So a torn, stale, misplaced or flipped slot
 * is a miss, and nothing rests on the order in which the disk keeps its writes. Which slots are
 * free is never stored.
 *
 * All numbers are little-endian; all unused bytes are zero.
 *
 * Superblock                         Slot header
 *     0  8  magic "KVASIRS1"             0  8  magic "KVASIRH1"
 *     8  4  version                      8  4  version
 *    12  4  tokens per chunk            12  4  slot number, over all segments
 *    16  8  chunk bytes                 16  8  generation: grows with every slot written
 *    24  8  generation                  24  8  chunk bytes
 *    32  4  slots per segment           32 32  fingerprint
 *    36  4  1: encrypted                64 32  key
 *    40 32  fingerprint                 96 32  parent's key
 *    72 16  what tells the key        128 32  root's key
 *    88 4004 zero
 *  4092  4  CRC-32C of [0, 4092)       160 32  tenant
 *                                      192  4  tokens, 1…256
 *                                      196  4  depth: index of the chunk in its sequence
 *                                      200  4  uses when written
 *                                      204  4  zero
 *                                      208  8  unix time when written, seconds
 *                                      216  4  pinned until, unix time; 2^32 - 1: for good
 *                                      220  4  forgotten after, unix time; 0: never
 *                                      224 1024  token ids
 *                                     1248 2816  CRC-32C of each stripe of the payload
 *                                     4064 12  nonce, where encrypted (crypt.h)
 *                                     4076 16  tag of the payload
 *                                     4092  4  CRC-32C of [0, 4092) */
#ifndef KVSTORE_SLOT_FORMAT_H
#define KVSTORE_SLOT_FORMAT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define KV_DISK_VERSION      1u
#define KV_DISK_BLOCK        4096u
#define KV_STRIPE_BYTES      262144u
#define KV_SLOT_TOKENS_MAX   256u
#define KV_CRYPT_CHECK_BYTES 16
#define KV_SLOT_STRIPES_MAX  704u /* chunks of up to 176 MiB */

struct kv_superblock {
    char magic[8];
    uint32_t version;
    uint32_t chunk_tok;
    uint64_t chunk_bytes;
    uint64_t generation;
    uint32_t n_slot_segment;
    uint32_t is_encrypted;
    uint8_t fingerprint[32];
    uint8_t crypt_check[KV_CRYPT_CHECK_BYTES];
    uint8_t zero_88[4004];
    uint32_t crc;
};
static_assert(sizeof(struct kv_superblock) == KV_DISK_BLOCK, "superblock");
static_assert(offsetof(struct kv_superblock, chunk_bytes) == 16, "superblock");
static_assert(offsetof(struct kv_superblock, n_slot_segment) == 32, "superblock");
static_assert(offsetof(struct kv_superblock, fingerprint) == 40, "superblock");
static_assert(offsetof(struct kv_superblock, crc) == 4092, "superblock");

struct kv_slot_header {
    char magic[8];
    uint32_t version;
    uint32_t slot;
    uint64_t generation;
    uint64_t chunk_bytes;
    uint8_t fingerprint[32];
    uint8_t key[32];
    uint8_t parent[32];
    uint8_t root[32];
    uint8_t tenant[32];
    uint32_t n_tok;
    uint32_t depth;
    uint32_t freq;
    uint32_t zero_204;
    int64_t written_unix_s;
    uint32_t kept_until_s;
    uint32_t expires_s;
    int32_t tokens[KV_SLOT_TOKENS_MAX];
    uint32_t stripe_crc[KV_SLOT_STRIPES_MAX];
    uint8_t nonce[12];
    uint8_t tag[16];
    uint32_t crc;
};
static_assert(sizeof(struct kv_slot_header) == KV_DISK_BLOCK, "slot header");
static_assert(offsetof(struct kv_slot_header, fingerprint) == 32, "slot header");
static_assert(offsetof(struct kv_slot_header, key) == 64, "slot header");
static_assert(offsetof(struct kv_slot_header, tenant) == 160, "slot header");
static_assert(offsetof(struct kv_slot_header, n_tok) == 192, "slot header");
static_assert(offsetof(struct kv_slot_header, written_unix_s) == 208, "slot header");
static_assert(offsetof(struct kv_slot_header, tokens) == 224, "slot header");
static_assert(offsetof(struct kv_slot_header, stripe_crc) == 1248, "slot header");
static_assert(offsetof(struct kv_slot_header, crc) == 4092, "slot header");

#define KV_SUPER_MAGIC "KVASIRS1"
#define KV_SLOT_MAGIC  "KVASIRH1"

#endif
