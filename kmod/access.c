// SPDX-License-Identifier: GPL-2.0
/*
 * READ and WRITE: the device moves data through its page table and faults
 * where it has no entry.
 *
 * The caller's buffer is pinned, as a driver does for DMA, because user memory
 * cannot be touched under dmirror_context.lock; a few pages at a time, whatever
 * the length of the call (D-19), and never while a fault is waited for.
 */
#include <linux/highmem.h>
#include <linux/sched/signal.h>

#include "context.h"

/* Pages of data copied under one hold of the lock. */
#define DMIRROR_BATCH_PAGES	64

/* Faults in a row for one page before the memory counts as too busy. */
#define DMIRROR_MAX_ROUNDS	1000

enum dmirror_access {
	DMIRROR_LOAD,
	DMIRROR_STORE,
};

/* Copy between @page and a page's worth of the buffer, @offset into @buffer. */
static void dmirror_copy_page(struct page *page, struct page **buffer,
			      unsigned int offset, enum dmirror_access access)
{
	unsigned int first = PAGE_SIZE - offset;

	if (access == DMIRROR_LOAD) {
		memcpy_page(buffer[0], offset, page, 0, first);
		if (offset)
			memcpy_page(buffer[1], 0, page, first, offset);
	} else {
		memcpy_page(page, 0, buffer[0], offset, first);
		if (offset)
			memcpy_page(page, first, buffer[1], 0, offset);
	}
}

/* Copy mapped pages from @addr on; returns how many before one was missing. */
static unsigned long dmirror_copy_pinned(struct dmirror_context *ctx,
					 unsigned long addr,
					 unsigned long npages,
					 struct page **buffer,
					 unsigned int offset,
					 enum dmirror_access access)
{
	struct dmirror_leaf *leaf;
	unsigned long i;

	mutex_lock(&ctx->lock);
	leaf = dmirror_pt_leaf(ctx, addr);
	for (i = 0; i < npages; i++, addr += PAGE_SIZE) {
		unsigned long entry;
		struct page *page;

		if (i && IS_ALIGNED(addr, PMD_SIZE))
			leaf = dmirror_pt_leaf(ctx, addr);
		entry = dmirror_pt_entry(leaf, addr);
		page = (void *)(entry & ~DMIRROR_PTE_FLAGS);
		if (!page)
			break;
		if (access == DMIRROR_STORE && !(entry & DMIRROR_PTE_WRITE))
			break;
		dmirror_copy_page(page, buffer + i, offset, access);
		if (access == DMIRROR_LOAD)
			continue;
		/*
		 * A writable CPU entry may be clean, and reclaim drops a clean
		 * page that was swapped in or MADV_FREEd. The device entry
		 * holds off whoever would unmap it, as the page table lock
		 * does for zap. On the page behind a device-private one this
		 * is a note for the way back.
		 */
		if (entry & DMIRROR_PTE_DEVICE && !ctx->dev->coherent)
			SetPageDirty(page);
		else
			folio_mark_dirty(page_folio(page));
	}
	mutex_unlock(&ctx->lock);
	return i;
}

/*
 * The same with the buffer at @uptr, at most a batch. An error when not even
 * the first page of the buffer can be had.
 */
static long dmirror_copy(struct dmirror_context *ctx, unsigned long addr,
			 unsigned long npages, unsigned long uptr,
			 enum dmirror_access access)
{
	/* One more when the buffer does not begin with a page. */
	struct page *buffer[DMIRROR_BATCH_PAGES + 1];
	unsigned int offset = offset_in_page(uptr);
	unsigned int flags = access == DMIRROR_LOAD ? FOLL_WRITE : 0;
	unsigned long done = 0;
	int pinned;

	npages = min_t(unsigned long, npages, DMIRROR_BATCH_PAGES);
	pinned = pin_user_pages_fast(uptr - offset, npages + !!offset, flags,
				     buffer);
	/* 0 is what 6.1 says of an address that wraps. */
	if (pinned <= 0)
		return fatal_signal_pending(current) ? -EINTR : -EFAULT;
	npages = min(npages, (unsigned long)pinned - !!offset);
	if (npages)
		done = dmirror_copy_pinned(ctx, addr, npages, buffer, offset,
					   access);
	unpin_user_pages_dirty_lock(buffer, pinned,
				    done && access == DMIRROR_LOAD);
	return npages ? done : -EFAULT;
}

/*
 * Copy the range of a call, faulting to its end what is missing; how far it
 * came is in cpages, also on an error. A fault bounds its own time; what is
 * bounded here is how often one comes to nothing because its page was taken
 * again before it could be used.
 */
static long dmirror_access(struct dmirror_context *ctx,
			   struct hmm_dmirror_cmd *cmd,
			   enum dmirror_access access, bool unlocked)
{
	unsigned long end = cmd->addr + (cmd->npages << PAGE_SHIFT);
	unsigned int rounds = 0;
	int ret = 0;

	for (;;) {
		unsigned long offset = cmd->cpages << PAGE_SHIFT;
		long done = dmirror_copy(ctx, cmd->addr + offset,
					 cmd->npages - cmd->cpages,
					 cmd->ptr + offset, access);

		if (done < 0)
			return done;
		cmd->cpages += done;
		if (cmd->cpages == cmd->npages)
			return 0;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
		if (done) {
			rounds = 0;
			continue;
		}
		/* An error is final once what came before it is copied. */
		if (ret)
			return ret;
		if (rounds++ == DMIRROR_MAX_ROUNDS)
			return -EBUSY;
		offset = cmd->cpages << PAGE_SHIFT;
		ret = dmirror_fault(ctx, cmd->addr + offset, end,
				    access == DMIRROR_STORE, unlocked);
		mutex_lock(&ctx->lock);
		ctx->counters.faults++;
		mutex_unlock(&ctx->lock);
		if (!ret)
			cmd->faults++;
	}
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
 * Copy @npages without a fault; in @copied how many. -ENOENT at a page for
 * which the device has no entry that allows it.
 */
static int dmirror_copy_present(struct dmirror_context *ctx, u64 addr,
				u64 npages, u64 ptr,
				enum dmirror_access access, u64 *copied)
{
	long done;

	for (*copied = 0; *copied < npages; *copied += done) {
		u64 offset = *copied << PAGE_SHIFT;

		done = dmirror_copy(ctx, addr + offset, npages - *copied,
				    ptr + offset, access);
		if (done <= 0)
			return done ? done : -ENOENT;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

/*
 * The end of a call that came to @cmd->cpages pages and to @ret: the caller
 * gets the data of those pages as the device sees them, without a fault, which
 * would revoke exclusive access. A page is done when its data are there:
 * -ENOENT, unless there was an error already, when an entry is gone meanwhile.
 */
long dmirror_give_data(struct dmirror_context *ctx, struct hmm_dmirror_cmd *cmd,
		       long ret)
{
	u64 copied;
	int err = dmirror_copy_present(ctx, cmd->addr, cmd->cpages, cmd->ptr,
				       DMIRROR_LOAD, &copied);

	cmd->cpages = copied;
	return ret ? ret : err;
}

/* Whether the device has @addr, and only to read. */
static bool dmirror_is_read_only(struct dmirror_context *ctx,
				 unsigned long addr)
{
	unsigned long entry;

	mutex_lock(&ctx->lock);
	entry = dmirror_pt_entry(dmirror_pt_leaf(ctx, addr), addr);
	mutex_unlock(&ctx->lock);
	return entry && !(entry & DMIRROR_PTE_WRITE);
}

/* DMIRROR_PEEK and DMIRROR_POKE */
long dmirror_peek(struct dmirror_context *ctx, struct dmirror_peek *peek,
		  bool poke)
{
	int ret;

	peek->done = 0;
	if (peek->flags)
		return -EINVAL;
	ret = dmirror_copy_present(ctx, peek->addr, peek->npages, peek->ptr,
				   poke ? DMIRROR_STORE : DMIRROR_LOAD,
				   &peek->done);
	if (ret == -ENOENT && poke &&
	    dmirror_is_read_only(ctx, peek->addr + (peek->done << PAGE_SHIFT)))
		ret = -EPERM;
	return ret;
}
