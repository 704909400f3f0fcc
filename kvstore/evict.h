/* What stays and what goes. Greedy-Dual-Size-Frequency: a chunk's priority is the clock when it was
 * last used plus its uses times what getting it back would cost; the lowest goes first and sets the
 * clock, so that what is never used again ages. All chunks are equally large.
 * Uses are remembered beyond eviction (sketch.h).
 * Source: Cherkasova, "Improving WWW Proxies Performance with GDSF Caching Policy", 1998.
 *
 * Only leaves go, so a path is always whole from its root: in RAM a node without children in RAM,
 * on disk one without children on disk. Nothing in use, pinned or in I/O goes. Each tenant has a
 * floor below which others do not push it.
 *
 * Thread: the store's. */
#ifndef KVSTORE_EVICT_H
#define KVSTORE_EVICT_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct kv_store;

#define KV_TENANTS_MAX 1024 /* further ones share the floor of the first entry */

struct kv_tenant {
    uint8_t digest[32];
    uint32_t n_node;  /* 0: the entry is free */
    uint32_t n_frame; /* held by its nodes */
    uint32_t n_slot;
    uint32_t n_pin_frame; /* nodes with pins_ram */
    uint32_t n_pin_slot;
    uint32_t heap_ram; /* nodes that may go, lowest priority on top */
    uint32_t heap_disk;
};

/* The tenant's entry, made where it is not there yet. */
uint32_t kv_tenant_of(struct kv_store *s, const uint8_t digest[32]);

/* A use of a sealed node: raises its count and renews its priority. */
void kv_node_touch(struct kv_store *s, uint32_t node);
/* Renews the priority alone. */
void kv_node_renew(struct kv_store *s, uint32_t node);
/* To be called after any change of a node's fields: its parent's counts and the heaps follow. */
void kv_node_update(struct kv_store *s, uint32_t node);
/* Gives the node a frame or a slot, or takes it away (NONE). */
void kv_node_set_frame(struct kv_store *s, uint32_t node, uint32_t frame);
void kv_node_set_slot(struct kv_store *s, uint32_t node, uint32_t slot);
/* Takes RAM and reads away from all that hangs below the node, which is on disk, too. */
void kv_node_unload_below(struct kv_store *s, uint32_t node);
/* Removes the node, and then its parents, as far as nothing keeps them. */
void kv_node_collect(struct kv_store *s, uint32_t node);
/* Removes everything below and including the node; no live sequence may hold any of it. */
void kv_node_drop(struct kv_store *s, uint32_t node);

/* Frees one frame of the index; false when nothing may go. */
bool kv_evict_frame(struct kv_store *s);
/* Frees one slot of the disk; false when nothing may go. */
bool kv_evict_slot(struct kv_store *s);

/* Tenants with chunks. */
uint32_t kv_n_tenant(const struct kv_store *s);

enum err_code kv_evict_check(const struct kv_store *s, struct err *e);

#endif
