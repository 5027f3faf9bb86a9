// SPDX-License-Identifier: GPL-2.0
/*
 * SNAPSHOT: what the CPU page table says, seen by the device without a fault.
 */
#include <linux/hmm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "context.h"

/* The HMM_DMIRROR_PROT_* byte of one entry of hmm_range_fault(). */
static u8 dmirror_permission(struct dmirror_context *ctx, unsigned long pfn)
{
	unsigned int order = hmm_pfn_to_map_order(pfn);
	struct dmirror_device *owner;
	struct page *page;
	u8 perm = HMM_DMIRROR_PROT_NONE;

	if (pfn & HMM_PFN_ERROR)
		return HMM_DMIRROR_PROT_ERROR;
	if (!(pfn & HMM_PFN_VALID))
		return HMM_DMIRROR_PROT_NONE;

	page = hmm_pfn_to_page(pfn);
	owner = dmirror_page_device(page);
	if (owner && owner->coherent)
		perm = owner == ctx->dev ?
			HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL :
			HMM_DMIRROR_PROT_DEV_COHERENT_REMOTE;
	else if (owner)
		perm = owner == ctx->dev ?
			HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL :
			HMM_DMIRROR_PROT_DEV_PRIVATE_REMOTE;
	else if (is_zero_pfn(page_to_pfn(page)))
		perm = HMM_DMIRROR_PROT_ZERO;

	perm |= pfn & HMM_PFN_WRITE ? HMM_DMIRROR_PROT_WRITE :
				      HMM_DMIRROR_PROT_READ;
	if (order == HPAGE_PMD_ORDER)
		perm |= HMM_DMIRROR_PROT_PMD;
	else if (order == PUD_SHIFT - PAGE_SHIFT)
		perm |= HMM_DMIRROR_PROT_PUD;
	return perm;
}

/* At most one leaf; the same bounds on time as a device fault. */
static int dmirror_snapshot_leaf(struct dmirror_context *ctx,
				 unsigned long start, unsigned long end,
				 unsigned long *pfns, u8 *perm)
{
	unsigned long deadline =
		jiffies + msecs_to_jiffies(HMM_RANGE_DEFAULT_TIMEOUT);
	unsigned long i, npages = (end - start) >> PAGE_SHIFT;
	struct mm_struct *mm = ctx->notifier.mm;
	struct hmm_range range = {
		.notifier = &ctx->notifier,
		.start = start,
		.end = end,
		.hmm_pfns = pfns,
		.dev_private_owner = ctx->dev,
	};
	int ret;

	for (;;) {
		if (fatal_signal_pending(current))
			return -EINTR;
		memset(pfns, 0, npages * sizeof(*pfns));
		range.notifier_seq = mmu_interval_read_begin(range.notifier);
		ret = mmap_read_lock_killable(mm);
		if (ret)
			return ret;
		ret = hmm_range_fault(&range);
		mmap_read_unlock(mm);
		if (ret && ret != -EBUSY)
			return ret;
		if (!ret) {
			mutex_lock(&ctx->lock);
			if (!mmu_interval_read_retry(range.notifier,
						     range.notifier_seq))
				break;
			mutex_unlock(&ctx->lock);
		}
		if (time_after(jiffies, deadline))
			return -EBUSY;
		cond_resched();
	}
	/* The pages are only ours to look at while nothing can invalidate. */
	for (i = 0; i < npages; i++)
		perm[i] = dmirror_permission(ctx, pfns[i]);
	mutex_unlock(&ctx->lock);
	return 0;
}

long dmirror_snapshot(struct dmirror_context *ctx, struct hmm_dmirror_cmd *cmd)
{
	unsigned long addr = cmd->addr;
	unsigned long end = addr + (cmd->npages << PAGE_SHIFT);
	u8 __user *uptr = u64_to_user_ptr(cmd->ptr);
	unsigned long *pfns;
	u8 *perm;
	int ret = 0;

	pfns = kmalloc_array(DMIRROR_LEAF_PAGES, sizeof(*pfns), GFP_KERNEL);
	perm = kmalloc(DMIRROR_LEAF_PAGES, GFP_KERNEL);
	if (!pfns || !perm)
		ret = -ENOMEM;

	while (!ret && addr < end) {
		unsigned long next = dmirror_leaf_end(addr, end);
		unsigned long n = (next - addr) >> PAGE_SHIFT;

		ret = dmirror_snapshot_leaf(ctx, addr, next, pfns, perm);
		if (ret)
			break;
		if (copy_to_user(uptr + cmd->cpages, perm, n)) {
			ret = -EFAULT;
			break;
		}
		cmd->cpages += n;
		addr = next;
	}
	kfree(perm);
	kfree(pfns);
	return ret;
}
