// SPDX-License-Identifier: GPL-2.0
/*
 * Device memory: ZONE_DEVICE pages, the system pages that hold their data, and
 * the allocator of both.
 *
 * A device-private page has no memory of its own. Ours points, through
 * zone_device_data, to the system page that holds its data, and to nothing
 * else: no context can be left dangling in it (D-03). The pages behind a huge
 * folio are one allocation that is split with the folio.
 */
#include <linux/ioport.h>
#include <linux/build_bug.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "device.h"

/* A chunk holds blocks of PMD_SIZE: not with pages of 64 KiB. */
static_assert(DMIRROR_CHUNK_BLOCKS > 0);

/* MiB of device memory that each device may grow to. */
unsigned int dmirror_devmem_mib = 1024;

static const struct dev_pagemap_ops dmirror_pagemap_ops;

/* The device whose memory @page is, or NULL for anybody else's page. */
struct dmirror_device *dmirror_page_device(struct page *page)
{
	struct dev_pagemap *pagemap;

	if (!is_device_private_page(page))
		return NULL;
	pagemap = dmirror_pagemap(page);
	if (pagemap->ops != &dmirror_pagemap_ops)
		return NULL;
	return container_of(pagemap, struct dmirror_chunk, pagemap)->dev;
}

/* The page that holds the data of @page: itself unless it is device-private. */
struct page *dmirror_backing(struct page *page)
{
	struct page *head;

	if (!dmirror_page_device(page))
		return page;
	/* Only the first page of a folio has room for zone_device_data. */
	head = folio_page(page_folio(page), 0);
	return (struct page *)head->zone_device_data +
		(page_to_pfn(page) - page_to_pfn(head));
}

static struct dmirror_block *dmirror_block_of(struct dmirror_chunk *chunk,
					      struct page *page,
					      unsigned int *index)
{
	unsigned long offset = page_to_pfn(page) -
		PHYS_PFN(chunk->pagemap.range.start);

	*index = offset % DMIRROR_BLOCK_PAGES;
	return &chunk->blocks[offset / DMIRROR_BLOCK_PAGES];
}

static unsigned long dmirror_block_pfn(const struct dmirror_block *block)
{
	struct dmirror_chunk *chunk = block->chunk;

	return PHYS_PFN(chunk->pagemap.range.start) +
		(block - chunk->blocks) * DMIRROR_BLOCK_PAGES;
}

/* Put a block where its use says; under dmirror_device.lock. */
static void dmirror_block_file(struct dmirror_device *dev,
			       struct dmirror_block *block)
{
	lockdep_assert_held(&dev->lock);
	list_del_init(&block->node);
	if (block->chunk->retired)
		return;
	if (!block->nr_used)
		list_add(&block->node, &dev->free_blocks);
	else if (block->nr_used < DMIRROR_BLOCK_PAGES)
		list_add(&block->node, &dev->partial_blocks);
}

static void dmirror_free_backing(struct page *backing, unsigned int npages,
				 bool whole)
{
	if (whole) {
		__free_pages(backing, HPAGE_PMD_ORDER);
		return;
	}
	while (npages--)
		__free_page(backing++);
}

/* Called by the core with the last reference of a folio, in any context. */
static void dmirror_folio_free(struct page *page, unsigned int order)
{
	struct dmirror_chunk *chunk = container_of(dmirror_pagemap(page),
						   struct dmirror_chunk,
						   pagemap);
	struct page *backing = page->zone_device_data;
	struct dmirror_device *dev = chunk->dev;
	unsigned int index, npages = 1U << order;
	struct dmirror_block *block;
	unsigned long flags;
	bool whole;

	page->zone_device_data = NULL;
	spin_lock_irqsave(&dev->lock, flags);
	block = dmirror_block_of(chunk, page, &index);
	whole = block->whole;
	block->whole = false;
	if (!whole)
		bitmap_clear(block->used, index, npages);
	block->nr_used -= npages;
	dmirror_block_file(dev, block);
	dev->pages_freed += npages;
	dev->pages_in_use -= npages;
	if (!dev->pages_in_use)
		wake_up_all(&dev->drained);
	spin_unlock_irqrestore(&dev->lock, flags);

	dmirror_free_backing(backing, npages, whole);
}

#ifdef DMIRROR_HAVE_FOLIO_FREE
static void dmirror_core_free(struct folio *folio)
{
	dmirror_folio_free(folio_page(folio, 0), folio_order(folio));
}
#else
static void dmirror_core_free(struct page *page)
{
	dmirror_folio_free(page, 0);
}
#endif

#ifdef DMIRROR_HAVE_DEVICE_THP
/*
 * The core splits @head: once for every folio that leaves it, then with a NULL
 * @tail. The first call comes while no reference on any part can be dropped,
 * which is when the backing memory must come apart.
 */
static void dmirror_core_split(struct folio *head, struct folio *tail)
{
	struct page *page = folio_page(head, 0);
	struct dmirror_chunk *chunk;
	struct dmirror_device *dev;
	struct dmirror_block *block;
	unsigned long flags;
	unsigned int index;

	if (!tail)
		return;
	chunk = container_of(dmirror_pagemap(page), struct dmirror_chunk,
			     pagemap);
	dev = chunk->dev;

	spin_lock_irqsave(&dev->lock, flags);
	block = dmirror_block_of(chunk, page, &index);
	if (block->whole) {
		block->whole = false;
		bitmap_fill(block->used, DMIRROR_BLOCK_PAGES);
		dev->folios_split++;
		split_page(page->zone_device_data, HPAGE_PMD_ORDER);
	}
	spin_unlock_irqrestore(&dev->lock, flags);

	tail->pgmap = head->pgmap;
	tail->page.mapping = head->page.mapping;
	tail->page.zone_device_data = (struct page *)page->zone_device_data +
		(folio_pfn(tail) - folio_pfn(head));
}
#endif

static const struct dev_pagemap_ops dmirror_pagemap_ops = {
#ifdef DMIRROR_HAVE_FOLIO_FREE
	.folio_free = dmirror_core_free,
#else
	.page_free = dmirror_core_free,
#endif
#ifdef DMIRROR_HAVE_DEVICE_THP
	.folio_split = dmirror_core_split,
#endif
	.migrate_to_ram = dmirror_migrate_to_ram,
};

/*
 * Take 2^@order pages, 0 or PMD, off the lists. The block, and in @page the
 * first page; or NULL.
 */
static struct dmirror_block *dmirror_take(struct dmirror_device *dev,
					  unsigned int order,
					  struct page **page)
{
	struct dmirror_block *block;
	unsigned int index = 0;

	lockdep_assert_held(&dev->lock);
	block = order ? NULL : list_first_entry_or_null(&dev->partial_blocks,
							struct dmirror_block,
							node);
	if (!block)
		block = list_first_entry_or_null(&dev->free_blocks,
						 struct dmirror_block, node);
	if (!block)
		return NULL;

	if (order) {
		block->whole = true;
		dev->folios_huge++;
	} else {
		if (!block->nr_used)
			bitmap_zero(block->used, DMIRROR_BLOCK_PAGES);
		index = find_first_zero_bit(block->used, DMIRROR_BLOCK_PAGES);
		__set_bit(index, block->used);
	}
	block->nr_used += 1U << order;
	dmirror_block_file(dev, block);
	/*
	 * Counted before the page has a reference: while this is not 0 RELEASE
	 * does not kill the page map under it (D-10).
	 */
	dev->pages_in_use += 1UL << order;
	dev->pages_allocated += 1UL << order;
	*page = pfn_to_page(dmirror_block_pfn(block) + index);
	return block;
}

/*
 * A device folio of 2^@order pages, 0 or PMD, locked, with one reference, its
 * data undefined. NULL when the device or the system is out of memory. Does
 * not grow the device: the caller holds folio locks, see dmirror_devmem_grow().
 */
struct page *dmirror_devmem_alloc(struct dmirror_device *dev,
				  unsigned int order)
{
	/* A failure is a page that stays where it is: no reason to kill. */
	gfp_t gfp = GFP_HIGHUSER | __GFP_NOWARN |
		(order ? __GFP_NORETRY : __GFP_RETRY_MAYFAIL);
	struct page *backing, *page;
	struct dmirror_block *block;
	unsigned long flags;

	backing = alloc_pages(gfp, order);
	if (!backing)
		return NULL;
	spin_lock_irqsave(&dev->lock, flags);
	block = dmirror_take(dev, order, &page);
	spin_unlock_irqrestore(&dev->lock, flags);
	if (!block) {
		__free_pages(backing, order);
		return NULL;
	}
	dmirror_init_page(page, &block->chunk->pagemap, order);
	page->zone_device_data = backing;
	return page;
}

static int dmirror_chunk_add(struct dmirror_device *dev)
{
	struct dmirror_chunk *chunk;
	struct resource *res;
	unsigned long flags;
	unsigned int i;
	void *ptr;

	chunk = kvzalloc(sizeof(*chunk), GFP_KERNEL);
	if (!chunk)
		return -ENOMEM;
	res = request_free_mem_region(&iomem_resource, DMIRROR_CHUNK_BYTES,
				      "hmm_dmirror");
	if (IS_ERR(res)) {
		kvfree(chunk);
		return PTR_ERR(res);
	}
	chunk->dev = dev;
	chunk->pagemap.type = MEMORY_DEVICE_PRIVATE;
	chunk->pagemap.range.start = res->start;
	chunk->pagemap.range.end = res->end;
	chunk->pagemap.nr_range = 1;
	chunk->pagemap.ops = &dmirror_pagemap_ops;
	chunk->pagemap.owner = dev;
	ptr = memremap_pages(&chunk->pagemap, NUMA_NO_NODE);
	if (IS_ERR(ptr)) {
		release_mem_region(res->start, DMIRROR_CHUNK_BYTES);
		kvfree(chunk);
		return PTR_ERR(ptr);
	}

	dev->chunks[dev->nr_chunks++] = chunk;
	spin_lock_irqsave(&dev->lock, flags);
	for (i = 0; i < DMIRROR_CHUNK_BLOCKS; i++) {
		chunk->blocks[i].chunk = chunk;
		INIT_LIST_HEAD(&chunk->blocks[i].node);
		dmirror_block_file(dev, &chunk->blocks[i]);
	}
	spin_unlock_irqrestore(&dev->lock, flags);
	return 0;
}

/* Pages that a device may grow to. */
unsigned long dmirror_devmem_limit(void)
{
	return (unsigned long)dmirror_devmem_mib << (20 - PAGE_SHIFT);
}

/*
 * Have a free block, so that the next leaf can be migrated, where the limit
 * allows it. Called with no lock held: adding a chunk waits for memory and for
 * dmirror_device.chunk_mutex.
 */
int dmirror_devmem_grow(struct dmirror_device *dev)
{
	int ret;

	if (!list_empty_careful(&dev->free_blocks))
		return 0;
	ret = mutex_lock_killable(&dev->chunk_mutex);
	if (ret)
		return ret;
	if (list_empty_careful(&dev->free_blocks) &&
	    (dev->nr_chunks + 1) * DMIRROR_CHUNK_PAGES <= dmirror_devmem_limit())
		ret = dmirror_chunk_add(dev);
	/* What is left of broken blocks will do for small pages. */
	if (ret && !list_empty_careful(&dev->partial_blocks))
		ret = 0;
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

		spin_lock_irqsave(&dev->lock, flags);
		chunk->retired = retired;
		for (j = 0; j < DMIRROR_CHUNK_BLOCKS; j++)
			dmirror_block_file(dev, &chunk->blocks[j]);
		spin_unlock_irqrestore(&dev->lock, flags);
	}
}

static void dmirror_evict_all(struct dmirror_device *dev)
{
	unsigned int i, j;

	for (i = 0; i < dev->nr_chunks; i++) {
		for (j = 0; j < DMIRROR_CHUNK_BLOCKS; j++) {
			struct dmirror_block *block = &dev->chunks[i]->blocks[j];

			if (READ_ONCE(block->nr_used))
				dmirror_evict(dev, dmirror_block_pfn(block),
					      DMIRROR_BLOCK_PAGES);
			cond_resched();
		}
	}
}

static void dmirror_remove_chunks(struct dmirror_device *dev)
{
	while (dev->nr_chunks) {
		struct dmirror_chunk *chunk = dev->chunks[--dev->nr_chunks];

		dev->chunks[dev->nr_chunks] = NULL;
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
		if (!READ_ONCE(dev->pages_in_use))
			break;
		if (wait_event_killable_timeout(dev->drained,
						!READ_ONCE(dev->pages_in_use),
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
	init_waitqueue_head(&dev->drained);
}

/*
 * The module goes: nobody can open the device any more and unloading cannot
 * fail, so this waits as long as it takes. Device-private pages cannot be
 * pinned; what holds one is a fault that is about to finish, or a huge folio
 * for which the system has no huge page: nothing that a module may call splits
 * one without its page tables.
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
