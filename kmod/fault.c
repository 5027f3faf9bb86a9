// SPDX-License-Identifier: GPL-2.0
/*
 * Device page faults: hmm_range_fault() and the entries that come of it.
 */
#include <linux/fs.h>
#include <linux/hmm.h>
#include <linux/magic.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "context.h"

/* Why a device walks the CPU page table of its mirror. */
enum dmirror_purpose {
	DMIRROR_FAULT,		/* to fault, with the mmap lock held throughout */
	DMIRROR_FAULT_UNLOCKED,	/* the fault handler may drop the mmap lock */
	DMIRROR_LOOK,		/* fault nothing, install own device pages only */
};

/*
 * The page behind an entry of hmm_range_fault(). For a device-private page
 * that is mapped by a PMD 7.2 and 7.3 report the first page of the folio for
 * every range that begins inside it, so the page is found by its address.
 */
struct page *dmirror_hmm_page(unsigned long hmm_pfn, unsigned long addr)
{
	struct page *page = hmm_pfn_to_page(hmm_pfn);

	if (is_device_private_page(page) &&
	    hmm_pfn_to_map_order(hmm_pfn) == HPAGE_PMD_ORDER)
		page = folio_page(page_folio(page),
				  (addr & ~PMD_MASK) >> PAGE_SHIFT);
	return page;
}

/*
 * Memory of memfd_secret() is in nobody's direct map, and for no device:
 * hmm_range_fault() reports it like any other.
 */
static bool dmirror_is_secret(struct page *page)
{
	struct folio *folio = page_folio(page);
	struct address_space *mapping;

	if (folio_test_anon(folio))
		return false;
	mapping = READ_ONCE(folio->mapping);
	return mapping && mapping->host->i_sb->s_magic == SECRETMEM_MAGIC;
}

/*
 * Install entries from @range->start on for what the walk found. Returns how
 * many pages were done; stops at a page of our own device that is read-only
 * and should be written: the core does not fault those for their owner.
 * -EFAULT when the first page is one that a device cannot have.
 */
static long dmirror_install(struct dmirror_context *ctx,
			    const struct hmm_range *range,
			    enum dmirror_purpose purpose, bool write)
{
	struct dmirror_leaf *leaf = dmirror_pt_leaf(ctx, range->start);
	unsigned long npages = (range->end - range->start) >> PAGE_SHIFT;
	unsigned long i;

	lockdep_assert_held(&ctx->lock);
	for (i = 0; i < npages; i++) {
		unsigned long addr = range->start + (i << PAGE_SHIFT);
		unsigned long pfn = range->hmm_pfns[i];
		unsigned long entry;
		struct page *page;
		bool own;

		if (!(pfn & HMM_PFN_VALID))
			continue;
		page = dmirror_hmm_page(pfn, addr);
		if (dmirror_is_secret(page))
			return i ? i : -EFAULT;
		own = dmirror_page_device(page) == ctx->dev;
		if (purpose == DMIRROR_LOOK && !own)
			continue;
		if (write && !(pfn & HMM_PFN_WRITE))
			break;
		/* Never the device page itself: it has no memory (D-01). */
		entry = (unsigned long)dmirror_backing(page);
		if (own)
			entry |= DMIRROR_PTE_DEVICE;
		if (pfn & HMM_PFN_WRITE)
			entry |= DMIRROR_PTE_WRITE;
		dmirror_pt_set(ctx, leaf, addr, entry);
	}
	return i;
}

/*
 * Walk [@start, @end) until the result is current, and install it. In @walker
 * how that went.
 */
static long dmirror_walk_and_install(struct dmirror_context *ctx,
				     struct dmirror_walker *walker,
				     enum dmirror_purpose purpose, bool write)
{
	unsigned long start = walker->range.start;
	long ret;

	for (;;) {
		ret = dmirror_pt_prepare(ctx, start);
		if (ret)
			return ret;
		ret = dmirror_walk_lock(ctx, walker);
		if (ret)
			return ret;
		if (dmirror_pt_leaf(ctx, start))
			break;
		/* Unmapped meanwhile, with its leaf. */
		mutex_unlock(&ctx->lock);
		walker->retries++;
	}
	dmirror_hold_at(ctx->dev, ctx->id, DMIRROR_HOLD_FAULT_INSTALL, start,
			walker->range.end);
	ret = dmirror_install(ctx, &walker->range, purpose, write);
	mutex_unlock(&ctx->lock);
	return ret;
}

static void dmirror_log_fault(struct dmirror_context *ctx,
			      const struct dmirror_walker *walker, long ret)
{
	struct dmirror_event event = {
		.type = DMIRROR_EVENT_FAULT,
		.start = walker->range.start,
		.end = walker->range.end,
		.interval_seq = walker->range.notifier_seq,
		.pages = max(ret, 0L),
		.index = walker->retries,
		.result = min(ret, 0L),
	};

	if (dmirror_is_observed(ctx->dev))
		dmirror_record(ctx->dev, ctx->id, &event);
}

/*
 * At most one leaf. Returns the pages done or an error; ends after
 * HMM_RANGE_DEFAULT_TIMEOUT of invalidations or a fatal signal.
 */
static long dmirror_fault_leaf(struct dmirror_context *ctx, unsigned long start,
			       unsigned long end, enum dmirror_purpose purpose,
			       bool write, void *owner, unsigned long *pfns)
{
	struct dmirror_walker walker;
	long ret;

	dmirror_walker_init(&walker, ctx, start, end, pfns);
	walker.unlocked = purpose == DMIRROR_FAULT_UNLOCKED;
	walker.range.dev_private_owner = owner;
	if (purpose != DMIRROR_LOOK)
		walker.range.default_flags = HMM_PFN_REQ_FAULT;
	if (write)
		walker.range.default_flags |= HMM_PFN_REQ_WRITE;

	ret = dmirror_walk_and_install(ctx, &walker, purpose, write);
	dmirror_pt_unprepare(ctx, start);
	dmirror_log_fault(ctx, &walker, ret);
	return ret;
}

/*
 * Fault [@start, @end) for the device, readable or writable. On an error the
 * pages before the first one that cannot be faulted are mapped.
 */
int dmirror_fault(struct dmirror_context *ctx, unsigned long start,
		  unsigned long end, bool write, bool unlocked)
{
	enum dmirror_purpose purpose = unlocked ? DMIRROR_FAULT_UNLOCKED :
						  DMIRROR_FAULT;
	unsigned long addr = start, single_until = start;
	unsigned long *pfns;
	long done = 0;

	pfns = kmalloc_array(DMIRROR_LEAF_PAGES, sizeof(*pfns), GFP_KERNEL);
	if (!pfns)
		return -ENOMEM;

	while (addr < end) {
		unsigned long next = addr < single_until ? addr + PAGE_SIZE :
						dmirror_leaf_end(addr, end);

		done = dmirror_fault_leaf(ctx, addr, next, purpose, write,
					  ctx->dev, pfns);
		if (!done)
			/*
			 * A read-only page of our own device, shared after
			 * fork() or made read-only by mprotect(): as a
			 * stranger the core brings it back and gives us a
			 * page that may be written, or says why not.
			 */
			done = dmirror_fault_leaf(ctx, addr, addr + PAGE_SIZE,
						  purpose, write, NULL, pfns);
		if (done >= 0) {
			addr += done << PAGE_SHIFT;
			continue;
		}
		/* One bad page fails the walk: page by page to find it. */
		if (next - addr == PAGE_SIZE || done == -EINTR || done == -EBUSY)
			break;
		single_until = next;
	}
	kfree(pfns);
	return done < 0 ? done : 0;
}

/*
 * Install entries for the pages of our own device in [@start, @end), at most
 * one leaf.
 */
int dmirror_map_resident(struct dmirror_context *ctx, unsigned long start,
			 unsigned long end)
{
	unsigned long *pfns;
	long ret;

	pfns = kmalloc_array(DMIRROR_LEAF_PAGES, sizeof(*pfns), GFP_KERNEL);
	if (!pfns)
		return -ENOMEM;
	ret = dmirror_fault_leaf(ctx, start, end, DMIRROR_LOOK, false,
				 ctx->dev, pfns);
	kfree(pfns);
	return ret < 0 ? ret : 0;
}
