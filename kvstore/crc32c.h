/* CRC-32C (Castagnoli), as iSCSI and ext4 use it. Pure; any thread. Source: RFC 3720, B.4. */
#ifndef KVSTORE_CRC32C_H
#define KVSTORE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t kv_crc32c(const void *bytes, size_t n);
/* The same for each of n_stripe stripes of stripe_bytes lying one after another, the last one
 * shorter where n_byte ends inside; several at a time. ret_crcs: [⌈n_byte / stripe_bytes⌉]. */
void kv_crc32c_stripes(const void *bytes, size_t n_byte, size_t stripe_bytes, uint32_t *ret_crcs);

#endif
