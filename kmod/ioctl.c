// SPDX-License-Identifier: GPL-2.0
/*
 * Calls: numbers to functions, arguments checked before anything is done.
 */
#include <linux/fs.h>
#include <linux/sched/mm.h>
#include <linux/uaccess.h>

#include "context.h"

static long dmirror_release_memory(struct dmirror_context *ctx,
				   struct hmm_dmirror_cmd *cmd)
{
	return dmirror_devmem_release(ctx->dev);
}

/* The value travels in npages and may be 0, which clears (D-15). */
static long dmirror_set_flags(struct dmirror_context *ctx,
			      struct hmm_dmirror_cmd *cmd)
{
	if (cmd->npages & ~HMM_DMIRROR_FLAG_FAIL_ALLOC)
		return -EINVAL;
	if (cmd->npages & HMM_DMIRROR_FLAG_FAIL_ALLOC)
		set_bit(0, &ctx->fail_alloc);
	else
		clear_bit(0, &ctx->fail_alloc);
	return 0;
}

/* The calls of the kernel's own test driver, by number. */
static const struct {
	long (*run)(struct dmirror_context *ctx, struct hmm_dmirror_cmd *cmd);
	bool has_range;
	int no_mm;	/* the errno once the address space is gone */
} dmirror_calls[] = {
	[_IOC_NR(HMM_DMIRROR_READ)] = { dmirror_read, true, -EFAULT },
	[_IOC_NR(HMM_DMIRROR_WRITE)] = { dmirror_write, true, -EFAULT },
	[_IOC_NR(HMM_DMIRROR_MIGRATE_TO_DEV)] = {
		dmirror_migrate_to_device, true, -EINVAL },
	[_IOC_NR(HMM_DMIRROR_MIGRATE_TO_SYS)] = {
		dmirror_migrate_to_system, true, -EINVAL },
	[_IOC_NR(HMM_DMIRROR_SNAPSHOT)] = { dmirror_snapshot, true, -EINVAL },
	[_IOC_NR(HMM_DMIRROR_EXCLUSIVE)] = { dmirror_exclusive, true, -EINVAL },
	[_IOC_NR(HMM_DMIRROR_CHECK_EXCLUSIVE)] = {
		dmirror_check_exclusive, true, -EINVAL },
	[_IOC_NR(HMM_DMIRROR_RELEASE)] = {
		dmirror_release_memory, false, -EINVAL },
	[_IOC_NR(HMM_DMIRROR_FLAGS)] = { dmirror_set_flags, false, -EINVAL },
#ifdef DMIRROR_HAVE_FAULT_UNLOCKED
	[_IOC_NR(HMM_DMIRROR_READ_UNLOCKED)] = {
		dmirror_read_unlocked, true, -EFAULT },
#endif
};

/*
 * Before anything is allocated or looped over: a length in pages that as bytes
 * does not wrap, at an address that a user can have (D-18, D-19).
 */
static bool dmirror_range_valid(const struct hmm_dmirror_cmd *cmd)
{
	return IS_ALIGNED(cmd->addr, PAGE_SIZE) && cmd->npages &&
		cmd->addr < TASK_SIZE_MAX &&
		cmd->npages <= (TASK_SIZE_MAX - cmd->addr) >> PAGE_SHIFT;
}

static long dmirror_call(struct dmirror_context *ctx, unsigned int number,
			 void __user *arg)
{
	unsigned int nr = _IOC_NR(number);
	struct hmm_dmirror_cmd cmd;
	long ret;

	if (nr >= ARRAY_SIZE(dmirror_calls) || !dmirror_calls[nr].run ||
	    number != _IOWR('H', nr, struct hmm_dmirror_cmd))
		return -ENOTTY;
	if (copy_from_user(&cmd, arg, sizeof(cmd)))
		return -EFAULT;
	cmd.cpages = 0;
	cmd.faults = 0;
	if (dmirror_calls[nr].has_range && !dmirror_range_valid(&cmd)) {
		ret = -EINVAL;
	} else if (!mmget_not_zero(ctx->notifier.mm)) {
		ret = dmirror_calls[nr].no_mm;
	} else {
		/*
		 * The mirrored address space stays for as long as the call
		 * runs; this may be what ends it. It need not be the caller's.
		 */
		ret = dmirror_calls[nr].run(ctx, &cmd);
		mmput(ctx->notifier.mm);
	}
	/* How far it came matters most when it failed. */
	if (copy_to_user(arg, &cmd, sizeof(cmd)))
		return -EFAULT;
	return ret;
}

static void dmirror_fill_query(struct dmirror_context *ctx,
			       struct dmirror_query *query)
{
	query->version = DMIRROR_VERSION;
	query->device = ctx->dev->id;
	query->capabilities = DMIRROR_CAP_FLAGS | DMIRROR_CAP_COUNTERS |
		DMIRROR_CAP_EVICTION;
#ifdef DMIRROR_HAVE_FAULT_UNLOCKED
	query->capabilities |= DMIRROR_CAP_READ_UNLOCKED;
#endif
#ifdef DMIRROR_HAVE_DEVICE_THP
	if (!ctx->dev->coherent)
		query->capabilities |= DMIRROR_CAP_DEVICE_THP;
#endif
	if (ctx->dev->coherent)
		query->capabilities |= DMIRROR_CAP_COHERENT;
	if (DMIRROR_EXCLUSIVE_MAY_MIGRATE)
		query->capabilities |= DMIRROR_CAP_COHERENT_EXCLUSIVE;
	query->devmem_pages = dmirror_devmem_limit(ctx->dev);
}

static void dmirror_fill_counters(struct dmirror_context *ctx,
				  struct dmirror_counters *counters)
{
	struct dmirror_device *dev = ctx->dev;
	unsigned long flags;

	mutex_lock(&ctx->lock);
	*counters = ctx->counters;
	mutex_unlock(&ctx->lock);

	spin_lock_irqsave(&dev->lock, flags);
	counters->dev_pages_in_use = dev->pages_in_use;
	counters->dev_small_allocated = dev->small.allocated;
	counters->dev_small_freed = dev->small.freed;
	counters->dev_huge_allocated = dev->huge.allocated;
	counters->dev_huge_freed = dev->huge.freed;
	counters->dev_huge_split = dev->splits;
	counters->dev_cpu_faults = dev->cpu_faults;
	counters->dev_pages_faulted = dev->pages_faulted;
	counters->dev_pages_evicted = dev->pages_evicted;
	counters->dev_pages_displaced = dev->pages_displaced;
	counters->dev_contexts = dev->contexts;
	spin_unlock_irqrestore(&dev->lock, flags);
}

/* dmirror's own calls: structures that say their size, see uapi/dmirror.h. */
static long dmirror_own_call(struct dmirror_context *ctx, unsigned int number,
			     void __user *arg)
{
	struct {
		u32 size;
		u32 flags;
	} head;
	union {
		struct dmirror_query query;
		struct dmirror_counters counters;
	} out = {};
	u32 known;

	switch (number) {
	case DMIRROR_QUERY:
		known = sizeof(out.query);
		break;
	case DMIRROR_COUNTERS:
		known = sizeof(out.counters);
		break;
	default:
		return -ENOTTY;
	}
	if (copy_from_user(&head, arg, sizeof(head)))
		return -EFAULT;
	if (head.size < sizeof(head) || head.flags)
		return -EINVAL;

	if (number == DMIRROR_QUERY)
		dmirror_fill_query(ctx, &out.query);
	else
		dmirror_fill_counters(ctx, &out.counters);
	known = min(known, head.size);
	/* size and flags lead every structure. */
	out.query.size = known;
	out.query.flags = 0;
	return copy_to_user(arg, &out, known) ? -EFAULT : 0;
}

long dmirror_ioctl(struct file *file, unsigned int number, unsigned long arg)
{
	struct dmirror_context *ctx = file->private_data;
	void __user *uarg = (void __user *)arg;

	switch (_IOC_TYPE(number)) {
	case 'H':
		return dmirror_call(ctx, number, uarg);
	case DMIRROR_IOC_TYPE:
		return dmirror_own_call(ctx, number, uarg);
	default:
		return -ENOTTY;
	}
}
