// SPDX-License-Identifier: GPL-2.0
/*
 * The device page table: which page the device uses for which address.
 *
 * Two levels: an xarray of leaves, one for each PMD_SIZE of addresses, and an
 * array of entries in each. A leaf is allocated before dmirror_context.lock is
 * taken (nothing may allocate under it) and freed, if nothing is left in it,
 * when its addresses are unmapped: the table is never larger than the memory
 * that a device has used asks for. A page that comes and goes leaves it alone.
 */
#include <linux/sched.h>
#include <linux/slab.h>

#include "context.h"

/* A leaf is a little over a page: a cache of its own packs it well. */
static struct kmem_cache *dmirror_leaf_cache;

int dmirror_pt_cache_init(void)
{
	dmirror_leaf_cache = KMEM_CACHE(dmirror_leaf, SLAB_ACCOUNT);
	return dmirror_leaf_cache ? 0 : -ENOMEM;
}

void dmirror_pt_cache_exit(void)
{
	kmem_cache_destroy(dmirror_leaf_cache);
}

/* Make sure that there is a leaf for @addr. May sleep; takes no lock. */
int dmirror_pt_prepare(struct dmirror_context *ctx, unsigned long addr)
{
	unsigned long index = addr >> PMD_SHIFT;
	struct dmirror_leaf *leaf;
	void *old;

	if (xa_load(&ctx->leaves, index))
		return 0;
	leaf = kmem_cache_zalloc(dmirror_leaf_cache, GFP_KERNEL);
	if (!leaf)
		return -ENOMEM;
	old = xa_cmpxchg(&ctx->leaves, index, NULL, leaf, GFP_KERNEL);
	if (old)
		kmem_cache_free(dmirror_leaf_cache, leaf);
	return xa_err(old);
}

/*
 * The leaf of @addr, good until dmirror_context.lock is dropped or one of its
 * entries is. NULL when there is none: one that was prepared may be gone again,
 * because a running invalidation took its last entry.
 */
struct dmirror_leaf *dmirror_pt_leaf(struct dmirror_context *ctx,
				     unsigned long addr)
{
	lockdep_assert_held(&ctx->lock);
	return xa_load(&ctx->leaves, addr >> PMD_SHIFT);
}

/*
 * The first leaf from @addr on, and in @addr where it begins to matter. NULL
 * and @end in @addr when there is none before @end.
 */
struct dmirror_leaf *dmirror_pt_leaf_from(struct dmirror_context *ctx,
					  unsigned long *addr,
					  unsigned long end)
{
	unsigned long index = *addr >> PMD_SHIFT;
	struct dmirror_leaf *leaf;

	lockdep_assert_held(&ctx->lock);
	leaf = xa_find(&ctx->leaves, &index, (end - 1) >> PMD_SHIFT,
		       XA_PRESENT);
	*addr = leaf ? max(*addr, index << PMD_SHIFT) : end;
	return leaf;
}

/* Install @entry in the leaf of @addr. */
void dmirror_pt_set(struct dmirror_context *ctx, struct dmirror_leaf *leaf,
		    unsigned long addr, unsigned long entry)
{
	unsigned long *slot = &leaf->entry[(addr & ~PMD_MASK) >> PAGE_SHIFT];

	lockdep_assert_held(&ctx->lock);
	if (!*slot) {
		leaf->nr_present++;
		ctx->counters.entries_present++;
	}
	*slot = entry;
	ctx->counters.entries_installed++;
}

/* The slots of leaf @index that [@start, @end) covers: first, and one past. */
static unsigned int dmirror_pt_first(unsigned long index, unsigned long start)
{
	return index > start >> PMD_SHIFT ? 0 : (start & ~PMD_MASK) >> PAGE_SHIFT;
}

static unsigned int dmirror_pt_last(unsigned long index, unsigned long end)
{
	/* The end is exclusive: a range up to a boundary stops before it (D-14). */
	return index < (end - 1) >> PMD_SHIFT ?
		DMIRROR_LEAF_PAGES : (((end - 1) & ~PMD_MASK) >> PAGE_SHIFT) + 1;
}

/* Free the leaf for @addr if it is empty. */
static void dmirror_pt_trim(struct dmirror_context *ctx, unsigned long addr)
{
	struct dmirror_leaf *leaf = xa_load(&ctx->leaves, addr >> PMD_SHIFT);

	lockdep_assert_held(&ctx->lock);
	if (!leaf || leaf->nr_present)
		return;
	xa_erase(&ctx->leaves, addr >> PMD_SHIFT);
	kmem_cache_free(dmirror_leaf_cache, leaf);
}

/* After dmirror_pt_prepare(), in case nothing came of it. */
void dmirror_pt_unprepare(struct dmirror_context *ctx, unsigned long addr)
{
	mutex_lock(&ctx->lock);
	dmirror_pt_trim(ctx, addr);
	mutex_unlock(&ctx->lock);
}

/*
 * Remove every entry of [@start, @end); visits only leaves that exist, and
 * frees empty ones when their addresses are @unmapped. Returns how many.
 */
unsigned long dmirror_pt_drop(struct dmirror_context *ctx, unsigned long start,
			      unsigned long end, bool unmapped, bool may_sleep)
{
	struct dmirror_leaf *leaf;
	unsigned long index, all = 0;

	lockdep_assert_held(&ctx->lock);
	xa_for_each_range(&ctx->leaves, index, leaf, start >> PMD_SHIFT,
			  (end - 1) >> PMD_SHIFT) {
		unsigned int last = dmirror_pt_last(index, end);
		unsigned int i, dropped = 0;

		for (i = dmirror_pt_first(index, start); i < last; i++) {
			dropped += !!leaf->entry[i];
			leaf->entry[i] = 0;
		}
		leaf->nr_present -= dropped;
		all += dropped;
		if (unmapped)
			dmirror_pt_trim(ctx, index << PMD_SHIFT);
		if (may_sleep)
			cond_resched();
	}
	ctx->counters.entries_present -= all;
	ctx->counters.entries_dropped += all;
	return all;
}

/* Entries of [@start, @end). */
unsigned long dmirror_pt_count(struct dmirror_context *ctx, unsigned long start,
			       unsigned long end)
{
	struct dmirror_leaf *leaf;
	unsigned long index, n = 0;

	lockdep_assert_held(&ctx->lock);
	xa_for_each_range(&ctx->leaves, index, leaf, start >> PMD_SHIFT,
			  (end - 1) >> PMD_SHIFT) {
		unsigned int i, last = dmirror_pt_last(index, end);

		for (i = dmirror_pt_first(index, start); i < last; i++)
			n += !!leaf->entry[i];
		cond_resched();
	}
	return n;
}

/* Free everything; the context is on its way out and has no users. */
void dmirror_pt_destroy(struct dmirror_context *ctx)
{
	struct dmirror_leaf *leaf;
	unsigned long index;

	xa_for_each(&ctx->leaves, index, leaf)
		kmem_cache_free(dmirror_leaf_cache, leaf);
	xa_destroy(&ctx->leaves);
}
