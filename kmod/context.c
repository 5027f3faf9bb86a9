// SPDX-License-Identifier: GPL-2.0
/*
 * The file of a device: opening it mirrors the address space of the opener,
 * calls act on that address space whoever makes them, closing it ends it.
 */
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "context.h"

static int dmirror_open(struct inode *inode, struct file *file)
{
	struct dmirror_context *ctx;
	int ret;

	if (!current->mm)
		return -EINVAL;
	ctx = kzalloc(sizeof(*ctx), GFP_KERNEL_ACCOUNT);
	if (!ctx)
		return -ENOMEM;
	ctx->dev = container_of(inode->i_cdev, struct dmirror_device, cdev);
	ctx->id = atomic_inc_return(&ctx->dev->next_owner);
	mutex_init(&ctx->lock);
	xa_init_flags(&ctx->leaves, XA_FLAGS_ACCOUNT);
	INIT_LIST_HEAD(&ctx->claims);
	mutex_init(&ctx->watch_mutex);
	INIT_LIST_HEAD(&ctx->watches);
	ctx->opener = task_tgid_nr(current);
	ctx->files = current->files;

	ret = mmu_interval_notifier_insert(&ctx->notifier, current->mm, 0,
					   ULONG_MAX & PAGE_MASK,
					   &dmirror_notifier_ops);
	if (ret) {
		kfree(ctx);
		return ret;
	}
	dmirror_steer_open(ctx);
	file->private_data = ctx;
	/* The log has no positions. */
	return stream_open(inode, file);
}

/*
 * The process that opened the file closes a descriptor of it: nobody stays
 * held. A child that inherited it may close its own as it likes.
 */
static int dmirror_flush(struct file *file, fl_owner_t files)
{
	struct dmirror_context *ctx = file->private_data;

	if (files == ctx->files)
		dmirror_holds_close(ctx);
	return 0;
}

/*
 * The last reference of the file is gone, so no call is running: the file is
 * what counts the users of a context. Pages that it migrated go back to system
 * memory, and no others (D-09). One that is busy stays, for it needs no context
 * to come back later (D-03).
 */
static int dmirror_release(struct inode *inode, struct file *file)
{
	struct dmirror_context *ctx = file->private_data;

	dmirror_holds_close(ctx);
	dmirror_watches_end(ctx);
	/* Waits for callbacks that are running; none runs after it. */
	mmu_interval_notifier_remove(&ctx->notifier);
	dmirror_pt_destroy(ctx);
	if (ctx->counters.pages_to_device)
		dmirror_evict_owner(ctx->dev, ctx->id);
	dmirror_steer_close(ctx);
	kfree(ctx);
	return 0;
}

/* System pages in a VM_MIXEDMAP mapping: what a mirror of a driver meets. */
static int dmirror_mmap(struct file *file, struct vm_area_struct *vma)
{
	unsigned long addr;

	for (addr = vma->vm_start; addr < vma->vm_end; addr += PAGE_SIZE) {
		struct page *page;
		int ret;

		if (fatal_signal_pending(current))
			return -EINTR;
		page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
		if (!page)
			return -ENOMEM;
		ret = vm_insert_page(vma, addr, page);
		/* The mapping has its own reference, or there is none. */
		put_page(page);
		if (ret)
			return ret;
		cond_resched();
	}
	return 0;
}

const struct file_operations dmirror_fops = {
	.owner = THIS_MODULE,
	.open = dmirror_open,
	.release = dmirror_release,
	.flush = dmirror_flush,
	.read = dmirror_log_read,
	.poll = dmirror_log_poll,
	.mmap = dmirror_mmap,
	.unlocked_ioctl = dmirror_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};
