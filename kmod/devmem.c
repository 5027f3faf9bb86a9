// SPDX-License-Identifier: GPL-2.0
/*
 * Device memory: ZONE_DEVICE pages, the system pages that hold the data of
 * those that have no memory of their own, and the allocator of both.
 *
 * A device-private page points, through zone_device_data, to the system page
 * that holds its data, and to nothing else: no context can be left dangling in
 * it (D-03). The pages behind a huge folio are one allocation that is split
 * with the folio. A device-coherent page is its own memory and always small:
 * the core collects a huge one for migration as if it were system memory.
 */
#include <linux/mm.h>
#include <linux/string.h>

#include "steer.h"

/* The chunk of @page, one of ours. */
static struct dmirror_chunk *dmirror_chunk_of(const struct page *page)
{
	return container_of(dmirror_pagemap(page), struct dmirror_chunk,
			    pagemap);
}

/* The device whose memory @page, a ZONE_DEVICE page, is; or NULL. */
struct dmirror_device *dmirror_zone_page_device(struct page *page)
{
	struct dev_pagemap *pagemap;

	if (!is_device_private_page(page) && !is_device_coherent_page(page))
		return NULL;
	pagemap = dmirror_pagemap(page);
	if (pagemap->ops != &dmirror_pagemap_ops)
		return NULL;
	return container_of(pagemap, struct dmirror_chunk, pagemap)->dev;
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

/* The context that migrated what is on @page, a used one of ours, by its id. */
u32 dmirror_page_owner(struct page *page)
{
	struct dmirror_chunk *chunk = dmirror_chunk_of(page);
	struct dmirror_block *block;
	unsigned int index;

	block = dmirror_block_of(chunk, page, &index);
	return READ_ONCE(block->owner[index]);
}

/* The number of @page, one of ours, in the memory of its device. */
unsigned long dmirror_page_index(struct page *page)
{
	struct dmirror_chunk *chunk = dmirror_chunk_of(page);

	return chunk->first_index + page_to_pfn(page) -
		PHYS_PFN(chunk->pagemap.range.start);
}

unsigned long dmirror_block_pfn(const struct dmirror_block *block)
{
	struct dmirror_chunk *chunk = block->chunk;

	return PHYS_PFN(chunk->pagemap.range.start) +
		(block - chunk->blocks) * DMIRROR_BLOCK_PAGES;
}

/* Put a block where its use says; under dmirror_device.lock. */
void dmirror_block_file(struct dmirror_device *dev, struct dmirror_block *block)
{
	lockdep_assert_held(&dev->lock);
	list_del_init(&block->node);
	if (!block->nr_used)
		list_del_init(&block->lru);
	if (block->chunk->retired)
		return;
	if (!block->nr_used)
		list_add(&block->node, &dev->free_blocks);
	else if (block->nr_used < DMIRROR_BLOCK_PAGES)
		list_add(&block->node, &dev->partial_blocks);
}

/* Keep a backing page for the next small page, if there are not enough. */
static bool dmirror_keep_spare(struct dmirror_device *dev, struct page *backing)
{
	lockdep_assert_held(&dev->lock);
	if (dev->nr_spare >= DMIRROR_MAX_SPARE)
		return false;
	/* That the device wrote to it is of its last use. */
	ClearPageDirty(backing);
	list_add(&backing->lru, &dev->spare);
	dev->nr_spare++;
	return true;
}

static struct page *dmirror_take_spare(struct dmirror_device *dev)
{
	struct page *backing = list_first_entry_or_null(&dev->spare,
							struct page, lru);

	lockdep_assert_held(&dev->lock);
	if (backing) {
		list_del(&backing->lru);
		dev->nr_spare--;
	}
	return backing;
}

/* Give the spare pages back to the system. */
void dmirror_free_spare(struct dmirror_device *dev)
{
	struct page *backing, *next;
	LIST_HEAD(spare);

	spin_lock_irq(&dev->lock);
	list_splice_init(&dev->spare, &spare);
	dev->nr_spare = 0;
	spin_unlock_irq(&dev->lock);
	list_for_each_entry_safe(backing, next, &spare, lru)
		__free_page(backing);
}

/* Called by the core with the last reference of a folio, in any context. */
static void dmirror_folio_free(struct page *page, unsigned int order)
{
	struct dmirror_chunk *chunk = dmirror_chunk_of(page);
	struct page *backing = page->zone_device_data;
	struct dmirror_device *dev = chunk->dev;
	unsigned int index, npages = 1U << order;
	struct dmirror_block *block;
	unsigned long flags;
	bool whole, kept;

	page->zone_device_data = NULL;
	spin_lock_irqsave(&dev->lock, flags);
	block = dmirror_block_of(chunk, page, &index);
	/* Before it is handed out again. */
	if (dmirror_is_observed(dev))
		dmirror_log_action(dev, block->owner[index], DMIRROR_EVENT_FREE,
				   0, 0, npages, dmirror_page_index(page), 0);
	whole = block->whole;
	block->whole = false;
	if (order)
		bitmap_zero(block->used, DMIRROR_BLOCK_PAGES);
	else
		__clear_bit(index, block->used);
	block->nr_used -= npages;
	/* Only on its first page and on its last does a block change its list. */
	if (!block->nr_used || block->nr_used + npages == DMIRROR_BLOCK_PAGES)
		dmirror_block_file(dev, block);
	if (order)
		dev->huge.freed++;
	else
		dev->small.freed++;
	if (!chunk->retired)
		dev->pages_free += npages;
	dev->pages_in_use -= npages;
	if (!dev->pages_in_use)
		wake_up_all(&dev->drained);
	kept = !order && backing && dmirror_keep_spare(dev, backing);
	spin_unlock_irqrestore(&dev->lock, flags);

	if (!backing || kept)
		return;
	if (whole)
		__free_pages(backing, order);
	else
		while (npages--)
			__free_page(backing++);
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
	bool first;

	if (!tail)
		return;
	chunk = dmirror_chunk_of(page);
	dev = chunk->dev;

	spin_lock_irqsave(&dev->lock, flags);
	block = dmirror_block_of(chunk, page, &index);
	first = block->whole;
	if (first) {
		block->whole = false;
		dev->splits++;
		split_page(page->zone_device_data, HPAGE_PMD_ORDER);
	}
	spin_unlock_irqrestore(&dev->lock, flags);
	if (first && dmirror_is_observed(dev))
		dmirror_log_action(dev, dmirror_page_owner(page),
				   DMIRROR_EVENT_SPLIT, 0, 0, HPAGE_PMD_NR,
				   dmirror_page_index(page), 0);

	tail->pgmap = head->pgmap;
	tail->page.mapping = head->page.mapping;
	tail->page.zone_device_data = (struct page *)page->zone_device_data +
		(folio_pfn(tail) - folio_pfn(head));
}
#endif

const struct dev_pagemap_ops dmirror_pagemap_ops = {
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
 * first page; or NULL, which with order 0 means that the grant was overtaken
 * by RELEASE. Without a @backing it takes a spare one, if that is there.
 */
static struct dmirror_block *dmirror_take(struct dmirror_grant *grant,
					  unsigned int order,
					  struct page **page,
					  struct page **backing)
{
	struct dmirror_device *dev = grant->dev;
	unsigned int index = 0, npages = 1U << order;
	struct dmirror_block *block;

	lockdep_assert_held(&dev->lock);
	if (!dev->coherent && !*backing && !dev->nr_spare)
		return NULL;
	block = order ? NULL : list_first_entry_or_null(&dev->partial_blocks,
							struct dmirror_block,
							node);
	if (!block)
		block = list_first_entry_or_null(&dev->free_blocks,
						 struct dmirror_block, node);
	if (!block)
		return NULL;
	if (!dev->coherent && !*backing)
		*backing = dmirror_take_spare(dev);

	if (order) {
		block->whole = true;
		bitmap_fill(block->used, DMIRROR_BLOCK_PAGES);
		memset32(block->owner, grant->owner, DMIRROR_BLOCK_PAGES);
		dev->huge.allocated++;
	} else {
		index = find_first_zero_bit(block->used, DMIRROR_BLOCK_PAGES);
		__set_bit(index, block->used);
		block->owner[index] = grant->owner;
		dev->small.allocated++;
	}
	block->nr_used += npages;
	if (block->nr_used == npages || block->nr_used == DMIRROR_BLOCK_PAGES)
		dmirror_block_file(dev, block);
	if (block->call != grant->call || block->nr_used == npages) {
		block->call = grant->call;
		list_move_tail(&block->lru, &dev->lru);
	}
	/*
	 * Counted before the page has a reference: while this is not 0 RELEASE
	 * does not kill the page map under it (D-10).
	 */
	dev->pages_in_use += npages;
	dev->pages_free -= npages;
	dev->pages_granted -= npages;
	grant->pages -= npages;
	*page = pfn_to_page(dmirror_block_pfn(block) + index);
	return block;
}

/*
 * What a migration would hand on is of the last use of a folio that was freed
 * without one. 7.0 clears some of it in zone_device_page_init().
 */
static void dmirror_forget(struct folio *folio)
{
	folio_clear_dirty(folio);
	folio_clear_referenced(folio);
	folio_clear_active(folio);
	folio_clear_workingset(folio);
	folio_clear_unevictable(folio);
}

/*
 * A device folio of 2^@order pages, 0 or PMD, out of what was granted: locked,
 * with one reference, its data undefined. NULL when there is none of that
 * order, or no system memory for its data.
 */
struct page *dmirror_devmem_alloc(struct dmirror_grant *grant,
				  unsigned int order)
{
	struct dmirror_device *dev = grant->dev;
	/* A failure is a page that stays where it is: no reason to kill. */
	gfp_t gfp = GFP_HIGHUSER | __GFP_NOWARN |
		(order ? __GFP_NORETRY : __GFP_RETRY_MAYFAIL);
	struct page *page, *backing = NULL;
	struct dmirror_block *block;
	unsigned long flags;

	if (grant->pages < 1UL << order || (order && dev->coherent))
		return NULL;
	if (!dev->coherent && (order || !READ_ONCE(dev->nr_spare))) {
		backing = alloc_pages(gfp, order);
		if (!backing)
			return NULL;
	}
	for (;;) {
		spin_lock_irqsave(&dev->lock, flags);
		block = dmirror_take(grant, order, &page, &backing);
		spin_unlock_irqrestore(&dev->lock, flags);
		if (block)
			break;
		if (dev->coherent)
			return NULL;
		if (backing) {
			__free_pages(backing, order);
			return NULL;
		}
		/* Others took what was spare. */
		backing = alloc_pages(gfp, order);
		if (!backing)
			return NULL;
	}
	dmirror_init_page(page, &block->chunk->pagemap, order);
	dmirror_forget(page_folio(page));
	page->zone_device_data = backing;
	return page;
}
