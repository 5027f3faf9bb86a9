// SPDX-License-Identifier: GPL-2.0
/*
 * hmm_range_fault(), repeated until its result is current.
 */
#include <linux/hmm.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "context.h"

static int dmirror_walk_once(struct dmirror_walker *walker)
{
	struct hmm_range *range = &walker->range;
	struct mm_struct *mm = range->notifier->mm;
	int ret;

	if (walker->unlocked)
		return dmirror_hmm_fault_unlocked(range,
			msecs_to_jiffies(HMM_RANGE_DEFAULT_TIMEOUT));

	range->notifier_seq = mmu_interval_read_begin(range->notifier);
	ret = mmap_read_lock_killable(mm);
	if (ret)
		return ret;
	ret = hmm_range_fault(range);
	mmap_read_unlock(mm);
	return ret;
}

/* The flags of an entry are input too, so each walk begins with those (D-25). */
static void dmirror_walk_requests(const struct dmirror_walker *walker)
{
	const struct hmm_range *range = &walker->range;
	size_t bytes = ((range->end - range->start) >> PAGE_SHIFT) *
		sizeof(*range->hmm_pfns);

	if (walker->requests)
		memcpy(range->hmm_pfns, walker->requests, bytes);
	else
		memset(range->hmm_pfns, 0, bytes);
}

/*
 * Walk until the result is current. 0 with dmirror_context.lock held, for as
 * long as which it stays so; or an error without: -EBUSY after
 * HMM_RANGE_DEFAULT_TIMEOUT of invalidations, -EINTR on a fatal signal.
 */
int dmirror_walk_lock(struct dmirror_context *ctx,
		      struct dmirror_walker *walker)
{
	struct hmm_range *range = &walker->range;
	int ret;

	for (;;) {
		if (fatal_signal_pending(current))
			return -EINTR;
		if (walker->retries &&
		    (walker->once || time_after(jiffies, walker->deadline)))
			return -EBUSY;
		dmirror_walk_requests(walker);
		ret = dmirror_walk_once(walker);
		if (ret && ret != -EBUSY)
			return ret;
		if (!ret)
			walker->deadline +=
				dmirror_hold_at(ctx->dev, ctx->id,
						DMIRROR_HOLD_FAULT_CHECK,
						range->start, range->end);
		mutex_lock(&ctx->lock);
		if (!ret && !mmu_interval_read_retry(range->notifier,
						     range->notifier_seq))
			return 0;
		ctx->counters.fault_retries++;
		mutex_unlock(&ctx->lock);
		walker->retries++;
		/* The handler's own time is not the memory's fault. */
		if (!ret && walker->unlocked)
			walker->deadline = jiffies +
				msecs_to_jiffies(HMM_RANGE_DEFAULT_TIMEOUT);
		cond_resched();
	}
}

static unsigned long dmirror_request_bits(u32 flags)
{
	return (flags & DMIRROR_PAGE_REQ_FAULT ? HMM_PFN_REQ_FAULT : 0) |
		(flags & DMIRROR_PAGE_REQ_WRITE ? HMM_PFN_REQ_WRITE : 0);
}

static unsigned long dmirror_carried_bits(u32 flags)
{
	return (flags & DMIRROR_PAGE_DMA_MAPPED ? HMM_PFN_DMA_MAPPED : 0) |
		(flags & DMIRROR_PAGE_P2PDMA ? HMM_PFN_P2PDMA : 0) |
		(flags & DMIRROR_PAGE_P2PDMA_BUS ? HMM_PFN_P2PDMA_BUS : 0);
}

static u32 dmirror_carried_flags(unsigned long pfn)
{
	return (pfn & HMM_PFN_DMA_MAPPED ? DMIRROR_PAGE_DMA_MAPPED : 0) |
		(pfn & HMM_PFN_P2PDMA ? DMIRROR_PAGE_P2PDMA : 0) |
		(pfn & HMM_PFN_P2PDMA_BUS ? DMIRROR_PAGE_P2PDMA_BUS : 0);
}

/* What @pfn, an entry of hmm_range_fault(), and the device say of @addr. */
static struct dmirror_page dmirror_describe(struct dmirror_context *ctx,
					    unsigned long addr,
					    unsigned long pfn)
{
	unsigned long entry = dmirror_pt_entry(dmirror_pt_leaf(ctx, addr),
					       addr);
	struct dmirror_page info = { .flags = dmirror_carried_flags(pfn) };
	struct dmirror_device *dev;
	struct page *page;

	if (entry) {
		info.mapped = page_to_pfn((struct page *)(entry &
							   ~DMIRROR_PTE_FLAGS));
		info.flags |= DMIRROR_PAGE_MAPPED;
	}
	if (entry & DMIRROR_PTE_WRITE)
		info.flags |= DMIRROR_PAGE_MAPPED_WRITE;
	if (entry & DMIRROR_PTE_ATOMIC)
		info.flags |= DMIRROR_PAGE_MAPPED_ATOMIC;
	if (entry & DMIRROR_PTE_DEVICE)
		info.flags |= DMIRROR_PAGE_MAPPED_DEVICE;
	if (pfn & HMM_PFN_ERROR)
		info.flags |= DMIRROR_PAGE_ERROR;
	if (!(pfn & HMM_PFN_VALID))
		return info;

	page = hmm_pfn_to_page(pfn);
	info.pfn = page_to_pfn(page);
	info.order = hmm_pfn_to_map_order(pfn);
	info.flags |= DMIRROR_PAGE_VALID;
	if (pfn & HMM_PFN_WRITE)
		info.flags |= DMIRROR_PAGE_WRITE;
	if (is_zero_pfn(info.pfn))
		info.flags |= DMIRROR_PAGE_ZERO;
	dev = dmirror_page_device(page);
	if (dev) {
		info.flags |= DMIRROR_PAGE_DEVICE;
		info.device = dev->id;
		info.index = dmirror_page_index(page);
	}
	info.backing = page_to_pfn(dmirror_backing(dmirror_hmm_page(pfn, addr)));
	return info;
}

/* At most one leaf; @pages is in and out, @pfns room for requests and results. */
static int dmirror_walk_leaf(struct dmirror_context *ctx,
			     struct dmirror_walk *walk, unsigned long start,
			     unsigned long end, struct dmirror_page *pages,
			     unsigned long *pfns)
{
	unsigned long i, npages = (end - start) >> PAGE_SHIFT;
	unsigned long *requests = pfns + npages;
	struct dmirror_walker walker;
	int ret;

	dmirror_walker_init(&walker, ctx, start, end, pfns);
	walker.requests = requests;
	walker.once = walk->flags & DMIRROR_WALK_ONCE;
	walker.range.default_flags = dmirror_request_bits(walk->default_flags);
	walker.range.pfn_flags_mask = dmirror_request_bits(walk->mask);
	walker.range.dev_private_owner = dmirror_owner(ctx->dev, walk->owner);
	for (i = 0; i < npages; i++)
		requests[i] = dmirror_request_bits(pages[i].flags) |
			dmirror_carried_bits(pages[i].flags);

	ret = dmirror_walk_lock(ctx, &walker);
	walk->retries += walker.retries;
	if (ret)
		return ret;
	for (i = 0; i < npages; i++)
		pages[i] = dmirror_describe(ctx, start + (i << PAGE_SHIFT),
					    pfns[i]);
	mutex_unlock(&ctx->lock);
	return 0;
}

/* DMIRROR_WALK */
long dmirror_walk(struct dmirror_context *ctx, struct dmirror_walk *walk)
{
	const u32 requests = DMIRROR_PAGE_REQ_FAULT | DMIRROR_PAGE_REQ_WRITE;
	struct dmirror_page __user *upages = u64_to_user_ptr(walk->pages);
	unsigned long most = min_t(u64, walk->npages, DMIRROR_LEAF_PAGES);
	unsigned long addr = walk->addr, next, n;
	unsigned long end = addr + (walk->npages << PAGE_SHIFT);
	struct dmirror_page *pages;
	unsigned long *pfns;
	int ret = 0;

	walk->done = 0;
	walk->retries = 0;
	if (walk->flags & ~DMIRROR_WALK_ONCE || walk->reserved ||
	    (walk->default_flags | walk->mask) & ~requests ||
	    walk->owner > DMIRROR_OWNER_NONE)
		return -EINVAL;
	pages = kvmalloc_array(most, sizeof(*pages) + 2 * sizeof(*pfns),
			       GFP_KERNEL);
	if (!pages)
		return -ENOMEM;
	pfns = (unsigned long *)(pages + most);

	for (; addr < end; addr = next) {
		next = dmirror_leaf_end(addr, end);
		n = (next - addr) >> PAGE_SHIFT;
		ret = copy_from_user(pages, upages + walk->done,
				     n * sizeof(*pages)) ? -EFAULT : 0;
		if (!ret)
			ret = dmirror_walk_leaf(ctx, walk, addr, next, pages,
						pfns);
		if (!ret && copy_to_user(upages + walk->done, pages,
					 n * sizeof(*pages)))
			ret = -EFAULT;
		if (ret)
			break;
		walk->done += n;
		cond_resched();
	}
	kvfree(pages);
	return ret;
}
