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

/* The part of a permission that the flags of an entry say. */
static u8 dmirror_access_bits(unsigned long pfn)
{
	unsigned int order = hmm_pfn_to_map_order(pfn);
	u8 perm;

	if (pfn & HMM_PFN_ERROR)
		return HMM_DMIRROR_PROT_ERROR;
	if (!(pfn & HMM_PFN_VALID))
		return HMM_DMIRROR_PROT_NONE;
	perm = pfn & HMM_PFN_WRITE ? HMM_DMIRROR_PROT_WRITE :
				     HMM_DMIRROR_PROT_READ;
	if (order == HPAGE_PMD_ORDER)
		perm |= HMM_DMIRROR_PROT_PMD;
	else if (order == PUD_SHIFT - PAGE_SHIFT)
		perm |= HMM_DMIRROR_PROT_PUD;
	return perm;
}

/* The part that its page says. */
static u8 dmirror_place_bits(struct dmirror_context *ctx, unsigned long pfn)
{
	struct page *page = hmm_pfn_to_page(pfn);
	struct dmirror_device *owner = dmirror_page_device(page);

	if (!owner)
		return is_zero_pfn(page_to_pfn(page)) ?
			HMM_DMIRROR_PROT_ZERO : HMM_DMIRROR_PROT_NONE;
	if (owner->coherent)
		return owner == ctx->dev ?
			HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL :
			HMM_DMIRROR_PROT_DEV_COHERENT_REMOTE;
	return owner == ctx->dev ? HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL :
				   HMM_DMIRROR_PROT_DEV_PRIVATE_REMOTE;
}

/*
 * The HMM_DMIRROR_PROT_* bytes of entries of hmm_range_fault(). Neighbours are
 * mostly alike, and the next page of one huge mapping is as the one before.
 */
static void dmirror_permissions(struct dmirror_context *ctx,
				const unsigned long *pfns,
				unsigned long npages, u8 *perm)
{
	unsigned long i, before = 0;
	u8 access = HMM_DMIRROR_PROT_NONE;

	for (i = 0; i < npages; before = pfns[i++]) {
		if (i && hmm_pfn_to_map_order(before) && pfns[i] == before + 1) {
			perm[i] = perm[i - 1];
			continue;
		}
		if ((pfns[i] ^ before) & HMM_PFN_FLAGS)
			access = dmirror_access_bits(pfns[i]);
		perm[i] = access;
		if (pfns[i] & HMM_PFN_VALID)
			perm[i] |= dmirror_place_bits(ctx, pfns[i]);
	}
}

static int dmirror_snapshot_leaf(struct dmirror_context *ctx,
				 unsigned long start, unsigned long end,
				 unsigned long *pfns, u8 *perm)
{
	struct dmirror_walker walker;
	int ret;

	dmirror_walker_init(&walker, ctx, start, end, pfns);
	ret = dmirror_walk_lock(ctx, &walker);
	if (ret)
		return ret;
	/* The pages are only ours to look at while nothing can invalidate. */
	dmirror_permissions(ctx, pfns, (end - start) >> PAGE_SHIFT, perm);
	mutex_unlock(&ctx->lock);
	return 0;
}

long dmirror_snapshot(struct dmirror_context *ctx, struct hmm_dmirror_cmd *cmd)
{
	unsigned long addr = cmd->addr;
	unsigned long end = addr + (cmd->npages << PAGE_SHIFT);
	u8 __user *uptr = u64_to_user_ptr(cmd->ptr);
	unsigned long most = min_t(u64, cmd->npages, DMIRROR_LEAF_PAGES);
	unsigned long *pfns;
	u8 *perm;
	int ret = 0;

	pfns = kmalloc_array(most, sizeof(*pfns) + sizeof(*perm), GFP_KERNEL);
	if (!pfns)
		return -ENOMEM;
	perm = (u8 *)(pfns + most);

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
	kfree(pfns);
	return ret;
}
