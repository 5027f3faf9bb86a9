// SPDX-License-Identifier: GPL-2.0
/*
 * READ and WRITE: the device moves data through its page table and faults
 * where it has no entry.
 */
#include <linux/highmem.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "context.h"

/*
 * Data crosses between the caller and the mirror through a buffer of this many
 * pages, whatever the length of the call (D-19): user memory cannot be touched
 * under dmirror_context.lock.
 */
#define DMIRROR_BOUNCE_PAGES	64

/* Faults in a row for one page before the memory counts as too busy. */
#define DMIRROR_MAX_ROUNDS	1000

enum dmirror_access {
	DMIRROR_LOAD,
	DMIRROR_STORE,
};

/* Copy mapped pages from @addr on; returns how many before one was missing. */
static unsigned long dmirror_copy(struct dmirror_context *ctx,
				  unsigned long addr, unsigned long npages,
				  char *data, enum dmirror_access access)
{
	unsigned long i;

	mutex_lock(&ctx->lock);
	for (i = 0; i < npages; i++, addr += PAGE_SIZE, data += PAGE_SIZE) {
		unsigned long entry = dmirror_pt_get(ctx, addr);
		struct page *page = (void *)(entry & ~DMIRROR_PTE_FLAGS);

		if (!page)
			break;
		if (access == DMIRROR_LOAD) {
			memcpy_from_page(data, page, 0, PAGE_SIZE);
		} else {
			if (!(entry & DMIRROR_PTE_WRITE))
				break;
			memcpy_to_page(page, 0, data, PAGE_SIZE);
			/*
			 * A writable CPU entry may be clean, and reclaim drops
			 * a clean page that was swapped in or MADV_FREEd. The
			 * device entry holds off whoever would unmap it, as
			 * the page table lock does for zap. On a page of the
			 * device's memory this is a note for the way back.
			 */
			if (entry & DMIRROR_PTE_DEVICE)
				SetPageDirty(page);
			else
				folio_mark_dirty(page_folio(page));
		}
	}
	mutex_unlock(&ctx->lock);
	return i;
}

/*
 * Copy @npages at @addr, faulting to the end of the call what is missing.
 * Stores in @done how far it came, also on an error. A fault bounds its own
 * time; what is bounded here is how often one comes to nothing because its
 * page was taken again before it could be used.
 */
static int dmirror_copy_faulting(struct dmirror_context *ctx,
				 struct hmm_dmirror_cmd *cmd,
				 unsigned long addr, unsigned long npages,
				 char *data, enum dmirror_access access,
				 bool unlocked, unsigned long *done)
{
	unsigned long end = cmd->addr + (cmd->npages << PAGE_SHIFT);
	unsigned int rounds = 0;
	int ret = 0;

	for (*done = 0;;) {
		unsigned long n = dmirror_copy(ctx, addr + (*done << PAGE_SHIFT),
					       npages - *done,
					       data + (*done << PAGE_SHIFT),
					       access);

		*done += n;
		/* An error is final once what came before it is copied. */
		if (ret || *done == npages)
			return *done == npages ? 0 : ret;
		rounds = n ? 0 : rounds + 1;
		if (rounds > DMIRROR_MAX_ROUNDS)
			return -EBUSY;
		ret = dmirror_fault(ctx, addr + (*done << PAGE_SHIFT), end,
				    access == DMIRROR_STORE, unlocked);
		mutex_lock(&ctx->lock);
		ctx->counters.faults++;
		mutex_unlock(&ctx->lock);
		if (!ret)
			cmd->faults++;
	}
}

static long dmirror_access(struct dmirror_context *ctx,
			   struct hmm_dmirror_cmd *cmd,
			   enum dmirror_access access, bool unlocked)
{
	unsigned long chunk = min_t(u64, cmd->npages, DMIRROR_BOUNCE_PAGES);
	char __user *uptr = u64_to_user_ptr(cmd->ptr);
	char *data;
	long ret = 0;

	data = kvmalloc(chunk << PAGE_SHIFT, GFP_KERNEL_ACCOUNT);
	if (!data)
		return -ENOMEM;

	while (!ret && cmd->cpages < cmd->npages) {
		unsigned long offset = cmd->cpages << PAGE_SHIFT;
		unsigned long n, done;

		n = min_t(u64, cmd->npages - cmd->cpages, chunk);
		if (access == DMIRROR_STORE &&
		    copy_from_user(data, uptr + offset, n << PAGE_SHIFT)) {
			ret = -EFAULT;
			break;
		}
		ret = dmirror_copy_faulting(ctx, cmd, cmd->addr + offset, n,
					    data, access, unlocked, &done);
		if (access == DMIRROR_LOAD &&
		    copy_to_user(uptr + offset, data, done << PAGE_SHIFT)) {
			ret = -EFAULT;
			break;
		}
		cmd->cpages += done;
		if (fatal_signal_pending(current))
			ret = -EINTR;
		cond_resched();
	}
	kvfree(data);
	return ret;
}

long dmirror_read(struct dmirror_context *ctx, struct hmm_dmirror_cmd *cmd)
{
	return dmirror_access(ctx, cmd, DMIRROR_LOAD, false);
}

long dmirror_read_unlocked(struct dmirror_context *ctx,
			   struct hmm_dmirror_cmd *cmd)
{
	return dmirror_access(ctx, cmd, DMIRROR_LOAD, true);
}

long dmirror_write(struct dmirror_context *ctx, struct hmm_dmirror_cmd *cmd)
{
	return dmirror_access(ctx, cmd, DMIRROR_STORE, false);
}

/*
 * Give the caller the data of the first @cmd->cpages pages as the device sees
 * them, without a fault: that would revoke exclusive access. -ENOENT and the
 * pages done when an entry is gone in the meantime.
 */
int dmirror_copy_mapped(struct dmirror_context *ctx,
			struct hmm_dmirror_cmd *cmd)
{
	unsigned long npages = cmd->cpages;
	unsigned long chunk = min_t(unsigned long, npages,
				    DMIRROR_BOUNCE_PAGES);
	char __user *uptr = u64_to_user_ptr(cmd->ptr);
	unsigned long n, done;
	int ret = 0;
	char *data;

	if (!npages)
		return 0;
	data = kvmalloc(chunk << PAGE_SHIFT, GFP_KERNEL_ACCOUNT);
	if (!data)
		return -ENOMEM;

	for (cmd->cpages = 0; !ret && cmd->cpages < npages;
	     cmd->cpages += done) {
		unsigned long offset = cmd->cpages << PAGE_SHIFT;

		n = min(npages - (unsigned long)cmd->cpages, chunk);
		done = dmirror_copy(ctx, cmd->addr + offset, n, data,
				    DMIRROR_LOAD);
		if (copy_to_user(uptr + offset, data, done << PAGE_SHIFT)) {
			ret = -EFAULT;
			break;
		}
		if (done < n)
			ret = -ENOENT;
		else if (fatal_signal_pending(current))
			ret = -EINTR;
		cond_resched();
	}
	kvfree(data);
	return ret;
}
