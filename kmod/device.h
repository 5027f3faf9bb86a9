/* SPDX-License-Identifier: GPL-2.0 */
/*
 * One device: its node, its memory and the allocator of that memory.
 */
#ifndef DMIRROR_DEVICE_H
#define DMIRROR_DEVICE_H

#include <linux/atomic.h>
#include <linux/bitmap.h>
#include <linux/cdev.h>
#include <linux/device.h>
#include <linux/list.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>
#include <linux/sizes.h>
#include <linux/spinlock.h>
#include <linux/wait.h>

#include "compat/compat.h"

#define DMIRROR_NR_DEVICES	4	/* the last two only with coherent memory */
#define DMIRROR_CHUNK_BYTES	SZ_256M
#define DMIRROR_CHUNK_PAGES	(DMIRROR_CHUNK_BYTES >> PAGE_SHIFT)
#define DMIRROR_BLOCK_PAGES	HPAGE_PMD_NR
#define DMIRROR_CHUNK_BLOCKS	(DMIRROR_CHUNK_PAGES / DMIRROR_BLOCK_PAGES)
#define DMIRROR_MAX_CHUNKS	64

/*
 * Backing pages that a device keeps for its next small pages: the allocator
 * costs half as much as the copy. None where freed pages are watched.
 */
#define DMIRROR_MAX_SPARE \
	(IS_ENABLED(CONFIG_KASAN) || IS_ENABLED(CONFIG_DEBUG_PAGEALLOC) ? \
	 0 : SZ_64M >> PAGE_SHIFT)

struct dmirror_chunk;

/**
 * struct dmirror_block - PMD_SIZE of device memory
 * @chunk: what it is part of
 * @node: on dmirror_device.free_blocks when nothing of it is used, on
 *	partial_blocks when something is, on neither when all of it is
 * @lru: on dmirror_device.lru when something of it is used
 * @nr_used: pages handed out
 * @whole: handed out as one folio whose backing memory is one allocation
 * @evicting: somebody is bringing back what is in it, to make room
 * @call: dmirror_grant.call of the last page handed out
 * @passed: dmirror_grant.call of the last one that found nothing to evict here
 * @used: the pages handed out
 * @owner: for each of those the context that migrated it, dmirror_context.id
 *
 * The pages of a block come together again by counting: @nr_used at 0 makes
 * the block free as a whole, so small pages never eat up the huge ones (D-17).
 */
struct dmirror_block {
	struct dmirror_chunk *chunk;
	struct list_head node;
	struct list_head lru;
	unsigned int nr_used;
	bool whole;
	bool evicting;
	u64 call;
	u64 passed;
	DECLARE_BITMAP(used, DMIRROR_BLOCK_PAGES);
	u32 owner[DMIRROR_BLOCK_PAGES];
};

/**
 * struct dmirror_chunk - one range of ZONE_DEVICE pages
 * @pagemap: the range as memremap_pages() knows it
 * @dev: whose memory it is
 * @first_index: number of its first page in the memory of the device
 * @retired: nothing is handed out of it any more
 * @blocks: its memory in order of address
 */
struct dmirror_chunk {
	struct dev_pagemap pagemap;
	struct dmirror_device *dev;
	unsigned long first_index;
	bool retired;
	struct dmirror_block blocks[DMIRROR_CHUNK_BLOCKS];
};

/**
 * struct dmirror_grant - device memory set aside for a part of one call
 * @dev: whose
 * @owner: the context that migrates, dmirror_context.id
 * @call: the call, unique on the device: it evicts nothing that is its own
 * @pages: how many of them are left
 */
struct dmirror_grant {
	struct dmirror_device *dev;
	u32 owner;
	u64 call;
	unsigned long pages;
};

/* What became of device memory of one order, of all time; in folios. */
struct dmirror_tally {
	u64 allocated;
	u64 freed;
};

/**
 * struct dmirror_device - one /dev/hmm_dmirrorN
 * @cdev: the character device; opening it holds the module
 * @device: its place in sysfs; its address is the owner of @chunks
 * @id: its number
 * @coherent: physical address of memory that the CPU reaches too; 0: the
 *	memory is device-private
 * @neighbour: the other device of the same kind
 * @next_owner: gives contexts their ids
 * @open_mutex: held, beside @steer_lock, where @open changes; either is enough
 *	to read it
 * @steer_lock: protects what follows, and what steer.h says
 * @open: contexts, by dmirror_steer.node
 * @contexts: how many
 * @logs_on: contexts whose log is on; this and the next two are read without a
 *	lock, to find out that nobody watches
 * @holds: that are not over, of all contexts
 * @injections: that are set, of all contexts
 * @chunk_mutex: serialises whoever adds or removes a chunk
 * @lock: protects everything below it, and every block and @retired
 * @chunks: device memory, grown on demand up to dmirror_devmem_limit();
 *	changed only under @chunk_mutex too, which is enough to read it
 * @nr_chunks: how many of them exist
 * @free_blocks: blocks of which nothing is used
 * @partial_blocks: blocks of which something is used and something is not
 * @lru: blocks of which something is used, that with the oldest @call first
 * @spare: backing pages without a device page, up to DMIRROR_MAX_SPARE
 * @nr_spare: how many of them
 * @pages_free: in blocks that are not retired
 * @pages_granted: of these, set aside by a struct dmirror_grant
 * @pages_in_use: pages between alloc and the free callback
 * @evictors: tasks that look at pages of blocks in use
 * @calls: gives dmirror_grant.call
 * @small: folios of one page
 * @huge: folios of PMD_SIZE
 * @splits: huge folios that became small ones in use
 * @cpu_faults: migrate_to_ram calls
 * @pages_faulted: pages brought back by them
 * @pages_evicted: pages brought back by eviction, for whatever reason
 * @pages_displaced: of these, to make room for others
 * @fault_oom: CPU faults that found no memory
 * @fault_failed: CPU faults that failed otherwise
 * @releases: RELEASE calls
 * @drained: woken when @pages_in_use or @evictors reaches 0, or an eviction
 *	to make room ends
 *
 * Lock order: chunk_mutex is the outermost lock of the driver and is never
 * taken with the mmap lock or a folio lock held: eviction runs under it and
 * needs both (D-10). dmirror_evict_sem, where it is used, comes after it and
 * before the mmap lock. open_mutex is taken with nothing held, and no other
 * lock is waited for under it. lock, and within it steer_lock, are the innermost
 * and are taken with interrupts off, because the last reference of a page may be
 * dropped anywhere.
 *
 * A chunk goes when @pages_in_use and @evictors are 0 and all is retired: a
 * page handed out and an evictor each keep the struct pages from going.
 */
struct dmirror_device {
	struct cdev cdev;
	struct device device;
	unsigned int id;
	unsigned long coherent;
	struct dmirror_device *neighbour;
	atomic_t next_owner;

	struct mutex open_mutex;	/* changing open */
	spinlock_t steer_lock;	/* protects what follows up to chunk_mutex */
	struct list_head open;
	unsigned int contexts;
	unsigned int logs_on;
	unsigned int holds;
	unsigned int injections;

	struct mutex chunk_mutex;	/* adding and removing chunks */
	spinlock_t lock;	/* protects what follows, and blocks */
	struct dmirror_chunk *chunks[DMIRROR_MAX_CHUNKS];
	unsigned int nr_chunks;
	struct list_head free_blocks;
	struct list_head partial_blocks;
	struct list_head lru;
	struct list_head spare;
	unsigned int nr_spare;
	unsigned long pages_free;
	unsigned long pages_granted;
	unsigned long pages_in_use;
	unsigned int evictors;
	u64 calls;
	struct dmirror_tally small;
	struct dmirror_tally huge;
	u64 splits;
	u64 cpu_faults;
	u64 pages_faulted;
	u64 pages_evicted;
	u64 pages_displaced;
	u64 fault_oom;
	u64 fault_failed;
	u64 releases;

	wait_queue_head_t drained;
};

/* devmem.c: pages, and the allocator of them */
extern const struct dev_pagemap_ops dmirror_pagemap_ops;

unsigned long dmirror_block_pfn(const struct dmirror_block *block);
void dmirror_block_file(struct dmirror_device *dev,
			struct dmirror_block *block);
struct page *dmirror_devmem_alloc(struct dmirror_grant *grant,
				  unsigned int order);
void dmirror_free_spare(struct dmirror_device *dev);
struct dmirror_device *dmirror_zone_page_device(struct page *page);
u32 dmirror_page_owner(struct page *page);
unsigned long dmirror_page_index(struct page *page);

/* Where the data of @page are, which is ours if it is device-private. */
static inline struct page *dmirror_own_backing(struct page *page)
{
	struct page *head;

	if (!is_device_private_page(page))
		return page;
	/* Only the first page of a folio has room for zone_device_data. */
	head = folio_page(page_folio(page), 0);
	return (struct page *)head->zone_device_data +
		(page_to_pfn(page) - page_to_pfn(head));
}

/* The device whose memory @page is, or NULL for anybody else's page. */
static inline struct dmirror_device *dmirror_page_device(struct page *page)
{
	return is_zone_device_page(page) ? dmirror_zone_page_device(page) :
					   NULL;
}

/* The page that holds the data of @page: itself unless it is device-private. */
static inline struct page *dmirror_backing(struct page *page)
{
	return dmirror_page_device(page) ? dmirror_own_backing(page) : page;
}

/* chunk.c: the ranges that device memory consists of */
extern unsigned int dmirror_devmem_mib;

void dmirror_devmem_init(struct dmirror_device *dev);
unsigned long dmirror_devmem_limit(const struct dmirror_device *dev);
int dmirror_devmem_grow(struct dmirror_device *dev);
int dmirror_devmem_release(struct dmirror_device *dev);
void dmirror_devmem_exit(struct dmirror_device *dev);

/* evict.c: room for a call, and the way back of a context's pages */
void dmirror_call_begin(struct dmirror_grant *grant, struct dmirror_device *dev,
			u32 owner);
int dmirror_grant_get(struct dmirror_grant *grant, unsigned long npages);
void dmirror_grant_put(struct dmirror_grant *grant);
void dmirror_evict_all(struct dmirror_device *dev);
void dmirror_evict_owner(struct dmirror_device *dev, u32 owner);

/* back.c: what the page map and eviction call back into */
extern struct rw_semaphore dmirror_evict_sem;
vm_fault_t dmirror_migrate_to_ram(struct vm_fault *vmf);
unsigned long dmirror_evict(struct dmirror_device *dev, unsigned long pfn,
			    unsigned long npages);

#endif
