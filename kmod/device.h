/* SPDX-License-Identifier: GPL-2.0 */
/*
 * One device: its node, its memory and the allocator of that memory.
 */
#ifndef DMIRROR_DEVICE_H
#define DMIRROR_DEVICE_H

#include <linux/bitmap.h>
#include <linux/cdev.h>
#include <linux/device.h>
#include <linux/list.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/sizes.h>
#include <linux/spinlock.h>
#include <linux/wait.h>

#include "compat/compat.h"

#define DMIRROR_NR_DEVICES	2
#define DMIRROR_CHUNK_BYTES	SZ_256M
#define DMIRROR_CHUNK_PAGES	(DMIRROR_CHUNK_BYTES >> PAGE_SHIFT)
#define DMIRROR_BLOCK_PAGES	HPAGE_PMD_NR
#define DMIRROR_CHUNK_BLOCKS	(DMIRROR_CHUNK_PAGES / DMIRROR_BLOCK_PAGES)
#define DMIRROR_MAX_CHUNKS	64

struct dmirror_chunk;

/**
 * struct dmirror_block - PMD_SIZE of device memory
 * @chunk: what it is part of
 * @node: on dmirror_device.free_blocks when nothing of it is used, on
 *	partial_blocks when something is, on neither when all of it is
 * @nr_used: pages handed out
 * @whole: handed out as one folio whose backing memory is one allocation
 * @used: the pages handed out, valid while not @whole
 *
 * The pages of a block come together again by counting: @nr_used at 0 makes
 * the block free as a whole, so small pages never eat up the huge ones (D-17).
 */
struct dmirror_block {
	struct dmirror_chunk *chunk;
	struct list_head node;
	unsigned int nr_used;
	bool whole;
	DECLARE_BITMAP(used, DMIRROR_BLOCK_PAGES);
};

/**
 * struct dmirror_chunk - one range of ZONE_DEVICE pages
 * @pagemap: the range as memremap_pages() knows it
 * @dev: whose memory it is
 * @retired: nothing is handed out of it any more
 * @blocks: its memory in order of address
 */
struct dmirror_chunk {
	struct dev_pagemap pagemap;
	struct dmirror_device *dev;
	bool retired;
	struct dmirror_block blocks[DMIRROR_CHUNK_BLOCKS];
};

/**
 * struct dmirror_device - one /dev/hmm_dmirrorN
 * @cdev: the character device; opening it holds the module
 * @device: its place in sysfs; its address is the owner of @chunks
 * @id: its number
 * @chunk_mutex: protects @chunks and @nr_chunks
 * @chunks: device memory, grown on demand up to the devmem_mib parameter
 * @nr_chunks: how many of them exist
 * @lock: protects everything below it, and every block and @retired
 * @free_blocks: blocks of which nothing is used
 * @partial_blocks: blocks of which something is used and something is not
 * @pages_in_use: pages between alloc and the free callback
 * @pages_allocated: of all time, as are the counters that follow
 * @pages_freed: given back
 * @folios_huge: huge folios handed out
 * @folios_split: huge folios split in use
 * @cpu_faults: migrate_to_ram calls
 * @pages_faulted: pages brought back by them
 * @pages_evicted: pages brought back by eviction
 * @contexts: open contexts
 * @drained: woken when @pages_in_use reaches 0
 *
 * Lock order: chunk_mutex is the outermost lock of the driver and is never
 * taken with the mmap lock or a folio lock held: eviction runs under it and
 * needs both (D-10). lock is the innermost and is taken with interrupts off,
 * because the last reference of a page may be dropped anywhere.
 */
struct dmirror_device {
	struct cdev cdev;
	struct device device;
	unsigned int id;

	struct mutex chunk_mutex;	/* protects chunks, nr_chunks */
	struct dmirror_chunk *chunks[DMIRROR_MAX_CHUNKS];
	unsigned int nr_chunks;

	spinlock_t lock;	/* protects what follows, and blocks */
	struct list_head free_blocks;
	struct list_head partial_blocks;
	unsigned long pages_in_use;
	u64 pages_allocated;
	u64 pages_freed;
	u64 folios_huge;
	u64 folios_split;
	u64 cpu_faults;
	u64 pages_faulted;
	u64 pages_evicted;
	unsigned int contexts;

	wait_queue_head_t drained;
};

/* devmem.c: device memory */
extern unsigned int dmirror_devmem_mib;

void dmirror_devmem_init(struct dmirror_device *dev);
unsigned long dmirror_devmem_limit(void);
int dmirror_devmem_grow(struct dmirror_device *dev);
struct page *dmirror_devmem_alloc(struct dmirror_device *dev,
				  unsigned int order);
int dmirror_devmem_release(struct dmirror_device *dev);
void dmirror_devmem_exit(struct dmirror_device *dev);
struct page *dmirror_backing(struct page *page);
struct dmirror_device *dmirror_page_device(struct page *page);

/* migrate.c: what the page map calls back into */
vm_fault_t dmirror_migrate_to_ram(struct vm_fault *vmf);
void dmirror_evict(struct dmirror_device *dev, unsigned long pfn,
		   unsigned long npages);

#endif
