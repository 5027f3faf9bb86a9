// SPDX-License-Identifier: GPL-2.0
/*
 * Eviction: room for a migration on a device that is full, and the way back of
 * the pages of a context that closes.
 *
 * A part of a call, at most one leaf, is granted its device memory before it
 * takes the mmap lock, because room is made by migrating other pages back,
 * which needs folio locks. Blocks go in the order in which they were last
 * migrated to. A call never evicts what it brought itself: one that is larger
 * than the device fails with what fits.
 */
#include <linux/jiffies.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>

#include "device.h"

/* Somebody else may be making room: how long to wait for that. */
#define DMIRROR_ROOM_TIMEOUT	(5 * HZ)

/* Begin a call of context @owner that migrates to @dev; nothing is granted. */
void dmirror_call_begin(struct dmirror_grant *grant, struct dmirror_device *dev,
			u32 owner)
{
	unsigned long flags;

	*grant = (struct dmirror_grant){ .dev = dev, .owner = owner };
	spin_lock_irqsave(&dev->lock, flags);
	grant->call = ++dev->calls;
	spin_unlock_irqrestore(&dev->lock, flags);
}

static bool dmirror_has_room(const struct dmirror_grant *grant,
			     unsigned long npages)
{
	return READ_ONCE(grant->dev->pages_free) >=
		READ_ONCE(grant->dev->pages_granted) + npages;
}

/* Set aside up to @npages if there are at least @least. */
static bool dmirror_grant_now(struct dmirror_grant *grant, unsigned long least,
			      unsigned long npages)
{
	struct dmirror_device *dev = grant->dev;
	unsigned long flags, available = 0;

	spin_lock_irqsave(&dev->lock, flags);
	if (dev->pages_free > dev->pages_granted)
		available = dev->pages_free - dev->pages_granted;
	if (available >= least) {
		grant->pages = min(available, npages);
		dev->pages_granted += grant->pages;
	}
	spin_unlock_irqrestore(&dev->lock, flags);
	return available >= least;
}

/* A block in use, or NULL; it and its pages stay until dmirror_unhold(). */
static struct dmirror_block *dmirror_hold(struct dmirror_device *dev,
					  unsigned int chunk,
					  unsigned int index)
{
	struct dmirror_block *block = NULL;
	unsigned long flags;

	spin_lock_irqsave(&dev->lock, flags);
	if (chunk < dev->nr_chunks && dev->chunks[chunk]->blocks[index].nr_used)
		block = &dev->chunks[chunk]->blocks[index];
	dev->evictors += !!block;
	spin_unlock_irqrestore(&dev->lock, flags);
	return block;
}

static void dmirror_unhold(struct dmirror_device *dev)
{
	unsigned long flags;

	spin_lock_irqsave(&dev->lock, flags);
	if (!--dev->evictors)
		wake_up_all(&dev->drained);
	spin_unlock_irqrestore(&dev->lock, flags);
}

enum dmirror_room {
	DMIRROR_ROOM_MADE,	/* or at least tried */
	DMIRROR_ROOM_COMING,	/* another task is at it */
	DMIRROR_ROOM_NONE,
};

/* Bring back the least recently migrated block that is not of this call. */
static enum dmirror_room dmirror_make_room(const struct dmirror_grant *grant)
{
	struct dmirror_device *dev = grant->dev;
	enum dmirror_room room = DMIRROR_ROOM_NONE;
	struct dmirror_block *block;
	unsigned long flags, moved;

	spin_lock_irqsave(&dev->lock, flags);
	list_for_each_entry(block, &dev->lru, lru) {
		if (block->evicting)
			room = DMIRROR_ROOM_COMING;
		else if (block->call != grant->call &&
			 block->passed != grant->call)
			goto found;
	}
	spin_unlock_irqrestore(&dev->lock, flags);
	return room;
found:
	block->evicting = true;
	dev->evictors++;
	spin_unlock_irqrestore(&dev->lock, flags);

	moved = dmirror_evict(dev, dmirror_block_pfn(block),
			      DMIRROR_BLOCK_PAGES);

	spin_lock_irqsave(&dev->lock, flags);
	dev->pages_displaced += moved;
	block->evicting = false;
	/* Held by somebody: not again in this call. */
	if (!moved)
		block->passed = grant->call;
	dev->evictors--;
	wake_up_all(&dev->drained);
	spin_unlock_irqrestore(&dev->lock, flags);
	return DMIRROR_ROOM_MADE;
}

/*
 * Set aside @npages, at most one leaf, or what there is once nothing can be
 * evicted any more; called with no lock held. -ENOMEM when there is not one
 * page, -EINTR on a fatal signal.
 */
int dmirror_grant_get(struct dmirror_grant *grant, unsigned long npages)
{
	struct dmirror_device *dev = grant->dev;
	unsigned long deadline = jiffies + DMIRROR_ROOM_TIMEOUT;
	enum dmirror_room room = DMIRROR_ROOM_MADE;
	int ret;

	for (;;) {
		/* In the first round so that there is a block for a huge folio. */
		ret = dmirror_devmem_grow(dev);
		if (dmirror_grant_now(grant, npages, npages))
			return 0;
		if (ret == -EINTR || fatal_signal_pending(current))
			return -EINTR;
		if (room == DMIRROR_ROOM_NONE || time_after(jiffies, deadline)) {
			if (dmirror_grant_now(grant, 1, npages))
				return 0;
			/* Otherwise RELEASE, or a grant, has what is missing. */
			if (ret || time_after(jiffies, deadline) ||
			    READ_ONCE(dev->pages_in_use) >=
			    dmirror_devmem_limit(dev))
				return ret ? ret : -ENOMEM;
			schedule_timeout_killable(1);
		}
		room = dmirror_make_room(grant);
		/* A signal that ends this is seen above. */
		if (room == DMIRROR_ROOM_COMING)
			wait_event_killable_timeout(dev->drained,
						    dmirror_has_room(grant, npages),
						    HZ / 20);
		cond_resched();
	}
}

/* Give back what the part of the call did not need. */
void dmirror_grant_put(struct dmirror_grant *grant)
{
	struct dmirror_device *dev = grant->dev;
	unsigned long flags;

	spin_lock_irqsave(&dev->lock, flags);
	dev->pages_granted -= grant->pages;
	spin_unlock_irqrestore(&dev->lock, flags);
	grant->pages = 0;
}

/* The pages of @block that are in use; with @owner those that it migrated. */
static void dmirror_pages_of(struct dmirror_device *dev,
			     const struct dmirror_block *block,
			     const u32 *owner, unsigned long *pages)
{
	unsigned long flags;
	unsigned int i;

	spin_lock_irqsave(&dev->lock, flags);
	bitmap_copy(pages, block->used, DMIRROR_BLOCK_PAGES);
	if (owner)
		for_each_set_bit(i, block->used, DMIRROR_BLOCK_PAGES)
			if (block->owner[i] != *owner)
				__clear_bit(i, pages);
	spin_unlock_irqrestore(&dev->lock, flags);
}

static void dmirror_evict_pages(struct dmirror_device *dev, const u32 *owner)
{
	DECLARE_BITMAP(pages, DMIRROR_BLOCK_PAGES);
	unsigned int i, j, first, past;

	for (i = 0; i < READ_ONCE(dev->nr_chunks); i++) {
		for (j = 0; j < DMIRROR_CHUNK_BLOCKS; j++) {
			struct dmirror_block *block = dmirror_hold(dev, i, j);

			if (!block)
				continue;
			dmirror_pages_of(dev, block, owner, pages);
			for_each_set_bitrange(first, past, pages,
					      DMIRROR_BLOCK_PAGES)
				dmirror_evict(dev,
					      dmirror_block_pfn(block) + first,
					      past - first);
			dmirror_unhold(dev);
			cond_resched();
		}
	}
}

/* Bring back every page of the device; those that are busy stay. */
void dmirror_evict_all(struct dmirror_device *dev)
{
	dmirror_evict_pages(dev, NULL);
}

/* Bring back what @owner migrated and is still there (D-09); busy pages stay. */
void dmirror_evict_owner(struct dmirror_device *dev, u32 owner)
{
	dmirror_evict_pages(dev, &owner);
}
