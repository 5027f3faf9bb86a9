// SPDX-License-Identifier: GPL-2.0
/*
 * Chunks: the ranges of ZONE_DEVICE pages that device memory consists of.
 *
 * Device-private ranges are wherever physical addresses are free. The one of a
 * coherent device is memory that was set aside from the kernel's own, such as
 * with memmap=512M$4G: whoever named it may be wrong, so it is looked at first.
 */
#include <linux/build_bug.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "device.h"

/* A chunk holds blocks of PMD_SIZE: not with pages of 64 KiB. */
static_assert(DMIRROR_CHUNK_BLOCKS > 0);

/* MiB of device memory that each device-private device may grow to. */
unsigned int dmirror_devmem_mib = 1024;

/* Whether something is there that keeps what is stored to it. */
static bool dmirror_memory_answers(unsigned long pfn, unsigned long npages)
{
	unsigned long i;

	for (i = 0; i < npages; i++) {
		unsigned long *word = page_address(pfn_to_page(pfn + i));
		unsigned long pattern = pfn + i;

		WRITE_ONCE(*word, pattern);
		mb(); /* both stores go to the memory, not into each other */
		if (READ_ONCE(*word) != pattern)
			return false;
		WRITE_ONCE(*word, ~pattern);
		mb(); /* as above */
		if (READ_ONCE(*word) != ~pattern)
			return false;
		WRITE_ONCE(*word, 0);
		if (i % DMIRROR_BLOCK_PAGES == 0)
			cond_resched();
	}
	return true;
}

/*
 * Whether the range is reserved memory or not in /proc/iomem at all. Elsewhere
 * memremap_pages() warns, or takes what belongs to another device.
 */
static bool dmirror_is_set_aside(unsigned long start)
{
	static const unsigned long descs[] = {
		IORES_DESC_RESERVED, IORES_DESC_SOFT_RESERVED };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(descs); i++)
		if (region_intersects(start, DMIRROR_CHUNK_BYTES,
				      IORESOURCE_MEM, descs[i]) ==
		    REGION_INTERSECTS)
			return true;
	return region_intersects(start, DMIRROR_CHUNK_BYTES, IORESOURCE_MEM,
				 IORES_DESC_NONE) == REGION_DISJOINT;
}

static struct resource *dmirror_claim_coherent(struct dmirror_device *dev)
{
	struct resource *res = NULL;

	if (dmirror_is_set_aside(dev->coherent))
		res = request_mem_region(dev->coherent, DMIRROR_CHUNK_BYTES,
					 "hmm_dmirror");
	return res ? res : ERR_PTR(-EBUSY);
}

/* A wrong address is the caller's; in a sentence, see dmesg. */
static int dmirror_coherent_error(const struct dmirror_device *dev, int error)
{
	const char *why = "cannot be used";

	if (error == -EBUSY)
		why = "are not set aside (see memmap= and /proc/iomem)";
	else if (error == -ENXIO)
		why = "have no memory behind them";
	pr_err("dmirror: spm_addr_dev%u=%#lx: the %u MiB from there on %s (error %d)\n",
	       dev->id - 2, dev->coherent, DMIRROR_CHUNK_BYTES >> 20, why,
	       error);
	return error;
}

static int dmirror_chunk_map(struct dmirror_chunk *chunk)
{
	struct dmirror_device *dev = chunk->dev;
	struct dev_pagemap *pagemap = &chunk->pagemap;
	struct resource *res;
	void *ptr;
	int ret = 0;

	res = dev->coherent ? dmirror_claim_coherent(dev) :
		request_free_mem_region(&iomem_resource, DMIRROR_CHUNK_BYTES,
					"hmm_dmirror");
	if (IS_ERR(res))
		return dev->coherent ?
			dmirror_coherent_error(dev, PTR_ERR(res)) :
			PTR_ERR(res);
	pagemap->type = dev->coherent ? MEMORY_DEVICE_COHERENT :
					MEMORY_DEVICE_PRIVATE;
	pagemap->range.start = res->start;
	pagemap->range.end = res->end;
	pagemap->nr_range = 1;
	pagemap->ops = &dmirror_pagemap_ops;
	pagemap->owner = dev;
	ptr = memremap_pages(pagemap, NUMA_NO_NODE);
	if (IS_ERR(ptr)) {
		ret = PTR_ERR(ptr);
	} else if (dev->coherent &&
		   !dmirror_memory_answers(PHYS_PFN(res->start),
					   DMIRROR_CHUNK_PAGES)) {
		memunmap_pages(pagemap);
		ret = -ENXIO;
	}
	if (!ret)
		return 0;
	release_mem_region(pagemap->range.start, DMIRROR_CHUNK_BYTES);
	return dev->coherent ? dmirror_coherent_error(dev, ret) : ret;
}

static int dmirror_chunk_add(struct dmirror_device *dev)
{
	struct dmirror_chunk *chunk;
	unsigned long flags;
	unsigned int i;
	int ret;

	chunk = kvzalloc(sizeof(*chunk), GFP_KERNEL);
	if (!chunk)
		return -ENOMEM;
	chunk->dev = dev;
	ret = dmirror_chunk_map(chunk);
	if (ret) {
		kvfree(chunk);
		return ret;
	}

	spin_lock_irqsave(&dev->lock, flags);
	chunk->first_index = dev->nr_chunks * DMIRROR_CHUNK_PAGES;
	dev->chunks[dev->nr_chunks++] = chunk;
	dev->pages_free += DMIRROR_CHUNK_PAGES;
	for (i = 0; i < DMIRROR_CHUNK_BLOCKS; i++) {
		chunk->blocks[i].chunk = chunk;
		INIT_LIST_HEAD(&chunk->blocks[i].node);
		INIT_LIST_HEAD(&chunk->blocks[i].lru);
		dmirror_block_file(dev, &chunk->blocks[i]);
	}
	spin_unlock_irqrestore(&dev->lock, flags);
	return 0;
}

/* Pages that a device may grow to. */
unsigned long dmirror_devmem_limit(const struct dmirror_device *dev)
{
	return dev->coherent ? DMIRROR_CHUNK_PAGES :
		(unsigned long)dmirror_devmem_mib << (20 - PAGE_SHIFT);
}

/*
 * Add a chunk unless there is a free block, where the limit allows it. Called
 * with no lock held: this waits for memory and for dmirror_device.chunk_mutex.
 */
int dmirror_devmem_grow(struct dmirror_device *dev)
{
	int ret;

	if (!list_empty_careful(&dev->free_blocks) ||
	    (READ_ONCE(dev->nr_chunks) + 1) * DMIRROR_CHUNK_PAGES >
	    dmirror_devmem_limit(dev))
		return 0;
	ret = mutex_lock_killable(&dev->chunk_mutex);
	if (ret)
		return ret;
	if (list_empty_careful(&dev->free_blocks) &&
	    (dev->nr_chunks + 1) * DMIRROR_CHUNK_PAGES <=
	    dmirror_devmem_limit(dev))
		ret = dmirror_chunk_add(dev);
	mutex_unlock(&dev->chunk_mutex);
	return ret;
}

/* Stop or resume handing out pages of any chunk. */
static void dmirror_retire(struct dmirror_device *dev, bool retired)
{
	unsigned long flags;
	unsigned int i, j;

	for (i = 0; i < dev->nr_chunks; i++) {
		struct dmirror_chunk *chunk = dev->chunks[i];
		unsigned long nr_free = 0;

		spin_lock_irqsave(&dev->lock, flags);
		chunk->retired = retired;
		for (j = 0; j < DMIRROR_CHUNK_BLOCKS; j++) {
			struct dmirror_block *block = &chunk->blocks[j];

			nr_free += DMIRROR_BLOCK_PAGES - block->nr_used;
			dmirror_block_file(dev, block);
		}
		if (retired)
			dev->pages_free -= nr_free;
		else
			dev->pages_free += nr_free;
		spin_unlock_irqrestore(&dev->lock, flags);
	}
}

static bool dmirror_drained(struct dmirror_device *dev)
{
	unsigned long flags;
	bool drained;

	spin_lock_irqsave(&dev->lock, flags);
	drained = !dev->pages_in_use && !dev->evictors;
	spin_unlock_irqrestore(&dev->lock, flags);
	return drained;
}

static void dmirror_remove_chunks(struct dmirror_device *dev)
{
	dmirror_free_spare(dev);
	while (dev->nr_chunks) {
		struct dmirror_chunk *chunk;
		unsigned long flags;

		spin_lock_irqsave(&dev->lock, flags);
		chunk = dev->chunks[--dev->nr_chunks];
		dev->chunks[dev->nr_chunks] = NULL;
		spin_unlock_irqrestore(&dev->lock, flags);

		memunmap_pages(&chunk->pagemap);
		release_mem_region(chunk->pagemap.range.start,
				   DMIRROR_CHUNK_BYTES);
		kvfree(chunk);
	}
}

/*
 * Bring every page back to system memory and give the device memory back. The
 * page maps are only taken down when no page is in use, because that wait
 * could not be interrupted (D-10). -EBUSY when pages are held for 5 s, -EINTR
 * on a fatal signal; the device then has its memory as before.
 */
int dmirror_devmem_release(struct dmirror_device *dev)
{
	unsigned long deadline;
	int ret;

	ret = mutex_lock_killable(&dev->chunk_mutex);
	if (ret)
		return ret;
	deadline = jiffies + 5 * HZ;
	dmirror_retire(dev, true);
	for (;;) {
		dmirror_evict_all(dev);
		if (dmirror_drained(dev))
			break;
		if (wait_event_killable_timeout(dev->drained,
						dmirror_drained(dev),
						HZ / 20) < 0)
			ret = -EINTR;
		else if (time_after(jiffies, deadline))
			ret = -EBUSY;
		if (ret)
			break;
	}
	if (ret)
		dmirror_retire(dev, false);
	else
		dmirror_remove_chunks(dev);
	mutex_unlock(&dev->chunk_mutex);
	return ret;
}

void dmirror_devmem_init(struct dmirror_device *dev)
{
	mutex_init(&dev->chunk_mutex);
	spin_lock_init(&dev->lock);
	INIT_LIST_HEAD(&dev->free_blocks);
	INIT_LIST_HEAD(&dev->partial_blocks);
	INIT_LIST_HEAD(&dev->lru);
	INIT_LIST_HEAD(&dev->spare);
	init_waitqueue_head(&dev->drained);
}

/*
 * The module goes: nobody can open the device any more and unloading cannot
 * fail, so this waits as long as it takes. Device-private pages cannot be
 * pinned; what holds one is a fault that is about to finish, or a huge folio
 * for which the system has no huge page: nothing that a module may call splits
 * one without its page tables. A device-coherent page may be held by whoever
 * can hold a page, vmsplice() for one.
 */
void dmirror_devmem_exit(struct dmirror_device *dev)
{
	while (dmirror_devmem_release(dev)) {
		pr_warn_ratelimited("hmm_dmirror%u: %lu pages still held\n",
				    dev->id, READ_ONCE(dev->pages_in_use));
		/* With a signal pending the release itself does not wait. */
		schedule_timeout_uninterruptible(HZ / 20);
	}
}
