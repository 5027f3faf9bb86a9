// SPDX-License-Identifier: GPL-2.0
/*
 * EXCLUSIVE: pages that the CPU cannot reach while the device has them.
 *
 * The device entry is marked atomic. A CPU access faults, the kernel tells the
 * mirror, and the entry goes.
 */
#include <linux/hmm.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>

#include "context.h"

/*
 * One page. 1 when it is exclusive and mapped, 0 when it was busy or an
 * invalidation came in between and it must be tried again, or an error.
 */
static int dmirror_exclusive_page(struct dmirror_context *ctx,
				  struct dmirror_claim *claim, void *owner,
				  unsigned long addr, unsigned long *deadline)
{
	struct dmirror_leaf *leaf;
	struct folio *folio;
	struct page *page;
	int ret = 0;

	page = dmirror_make_exclusive(ctx->notifier.mm, addr, owner, &folio);
	if (!page)
		return 0;
	if (IS_ERR(page))
		return PTR_ERR(page);
	if (!DMIRROR_EXCLUSIVE_MAY_MIGRATE && is_device_coherent_page(page)) {
		folio_unlock(folio);
		folio_put(folio);
		/* The CPU gets it back before anybody can evict it. */
		fixup_user_fault(ctx->notifier.mm, addr, 0, NULL);
		return -EOPNOTSUPP;
	}

	dmirror_log_action(ctx->dev, ctx->id, DMIRROR_EVENT_MADE_EXCLUSIVE,
			   addr, addr + PAGE_SIZE, 1, 0, 0);
	*deadline += dmirror_hold_at(ctx->dev, ctx->id, DMIRROR_HOLD_EXCLUSIVE,
				     addr, addr + PAGE_SIZE);
	/* The folio lock keeps a CPU fault from revoking it before this. */
	mutex_lock(&ctx->lock);
	leaf = dmirror_pt_leaf(ctx, addr);
	if (leaf && !dmirror_claim_hit(claim, addr)) {
		dmirror_pt_set(ctx, leaf, addr,
			       (unsigned long)page | DMIRROR_PTE_ATOMIC);
		ret = 1;
	} else {
		/* Our own event left the entry of the page as it was. */
		dmirror_pt_drop(ctx, addr, addr + PAGE_SIZE, false, false);
	}
	mutex_unlock(&ctx->lock);
	folio_unlock(folio);
	folio_put(folio);
	return ret;
}

/*
 * At most one leaf under one hold of the mmap lock. Returns how many pages
 * became exclusive, or an error when not even the first did.
 */
static long dmirror_exclusive_leaf(struct dmirror_context *ctx, void *owner,
				   unsigned long start, unsigned long end,
				   unsigned long *deadline)
{
	struct mm_struct *mm = ctx->notifier.mm;
	struct dmirror_claim claim;
	unsigned long addr = start;
	long ret;

	ret = dmirror_pt_prepare(ctx, start);
	if (ret)
		return ret;
	if (!DMIRROR_EXCLUSIVE_MAY_MIGRATE)
		down_read(&dmirror_evict_sem);
	dmirror_claim(ctx, &claim, MMU_NOTIFY_EXCLUSIVE, false, start,
		      end);
	ret = mmap_read_lock_killable(mm);
	if (!ret) {
		for (; addr < end; addr += PAGE_SIZE) {
			ret = fatal_signal_pending(current) ? -EINTR :
				dmirror_exclusive_page(ctx, &claim, owner,
						       addr, deadline);
			if (ret != 1)
				break;
			cond_resched();
		}
		mmap_read_unlock(mm);
	}
	dmirror_unclaim(ctx, &claim);
	if (!DMIRROR_EXCLUSIVE_MAY_MIGRATE)
		up_read(&dmirror_evict_sem);
	dmirror_pt_unprepare(ctx, start);
	return addr > start ? (addr - start) >> PAGE_SHIFT : ret;
}

/*
 * Make [@addr, @end) exclusive; stores in @npages how far it came. -EBUSY when
 * a page was busy for HMM_RANGE_DEFAULT_TIMEOUT.
 */
static int dmirror_exclusive_range(struct dmirror_context *ctx, void *owner,
				   unsigned long addr, unsigned long end,
				   u64 *npages)
{
	unsigned long timeout = msecs_to_jiffies(HMM_RANGE_DEFAULT_TIMEOUT);
	unsigned long deadline = jiffies + timeout;
	unsigned long start = addr;
	long done = 0;

	while (addr < end) {
		done = dmirror_exclusive_leaf(ctx, owner, addr,
					      dmirror_leaf_end(addr, end),
					      &deadline);
		if (done < 0)
			break;
		if (done) {
			deadline = jiffies + timeout;
		} else if (time_after(jiffies, deadline)) {
			done = -EBUSY;
			break;
		}
		addr += done << PAGE_SHIFT;
		cond_resched();
	}
	*npages = (addr - start) >> PAGE_SHIFT;
	return min(done, 0L);
}

long dmirror_exclusive(struct dmirror_context *ctx, struct hmm_dmirror_cmd *cmd)
{
	unsigned long end = cmd->addr + (cmd->npages << PAGE_SHIFT);
	int ret;

	ret = dmirror_exclusive_range(ctx, ctx->dev, cmd->addr, end,
				      &cmd->cpages);
	return dmirror_give_data(ctx, cmd, ret);
}

/* DMIRROR_EXCLUSIVE */
long dmirror_exclusive_as_told(struct dmirror_context *ctx,
			       struct dmirror_exclusive *told)
{
	unsigned long end = told->addr + (told->npages << PAGE_SHIFT);

	told->done = 0;
	if (told->flags || told->reserved || told->owner > DMIRROR_OWNER_NONE)
		return -EINVAL;
	return dmirror_exclusive_range(ctx, dmirror_owner(ctx->dev, told->owner),
				       told->addr, end, &told->done);
}

/* -EPERM while any page of the range is exclusive; cpages are before it. */
long dmirror_check_exclusive(struct dmirror_context *ctx,
			     struct hmm_dmirror_cmd *cmd)
{
	unsigned long end = cmd->addr + (cmd->npages << PAGE_SHIFT);
	unsigned long addr = cmd->addr, next;
	struct dmirror_leaf *leaf;
	int ret = 0;

	for (; !ret && addr < end; addr = next) {
		mutex_lock(&ctx->lock);
		leaf = dmirror_pt_leaf_from(ctx, &addr, end);
		next = dmirror_leaf_end(addr, end);
		for (; leaf && addr < next; addr += PAGE_SIZE) {
			if (dmirror_pt_entry(leaf, addr) & DMIRROR_PTE_ATOMIC) {
				ret = -EPERM;
				break;
			}
		}
		mutex_unlock(&ctx->lock);
		if (!ret && fatal_signal_pending(current))
			ret = -EINTR;
		if (ret)
			next = addr;
		cond_resched();
	}
	cmd->cpages = (addr - cmd->addr) >> PAGE_SHIFT;
	return ret;
}
