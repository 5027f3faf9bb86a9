// SPDX-License-Identifier: GPL-2.0
/*
 * Calls: numbers to functions, arguments checked before anything is done.
 */
#include <linux/fs.h>
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
} dmirror_calls[] = {
	[_IOC_NR(HMM_DMIRROR_READ)] = { dmirror_read, true },
	[_IOC_NR(HMM_DMIRROR_WRITE)] = { dmirror_write, true },
	[_IOC_NR(HMM_DMIRROR_MIGRATE_TO_DEV)] = {
		dmirror_migrate_to_device, true },
	[_IOC_NR(HMM_DMIRROR_MIGRATE_TO_SYS)] = {
		dmirror_migrate_to_system, true },
	[_IOC_NR(HMM_DMIRROR_SNAPSHOT)] = { dmirror_snapshot, true },
	[_IOC_NR(HMM_DMIRROR_EXCLUSIVE)] = { dmirror_exclusive, true },
	[_IOC_NR(HMM_DMIRROR_CHECK_EXCLUSIVE)] = {
		dmirror_check_exclusive, true },
	[_IOC_NR(HMM_DMIRROR_RELEASE)] = { dmirror_release_memory, false },
	[_IOC_NR(HMM_DMIRROR_FLAGS)] = { dmirror_set_flags, false },
#ifdef DMIRROR_HAVE_FAULT_UNLOCKED
	[_IOC_NR(HMM_DMIRROR_READ_UNLOCKED)] = { dmirror_read_unlocked, true },
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
	if (dmirror_calls[nr].has_range && !dmirror_range_valid(&cmd))
		return -EINVAL;

	ret = dmirror_calls[nr].run(ctx, &cmd);
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
	query->capabilities = DMIRROR_CAP_FLAGS | DMIRROR_CAP_COUNTERS;
#ifdef DMIRROR_HAVE_FAULT_UNLOCKED
	query->capabilities |= DMIRROR_CAP_READ_UNLOCKED;
#endif
#ifdef DMIRROR_HAVE_DEVICE_THP
	query->capabilities |= DMIRROR_CAP_DEVICE_THP;
#endif
	query->devmem_pages = dmirror_devmem_limit();
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
	counters->dev_pages_allocated = dev->pages_allocated;
	counters->dev_pages_freed = dev->pages_freed;
	counters->dev_folios_huge = dev->folios_huge;
	counters->dev_folios_split = dev->folios_split;
	counters->dev_cpu_faults = dev->cpu_faults;
	counters->dev_pages_faulted = dev->pages_faulted;
	counters->dev_pages_evicted = dev->pages_evicted;
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
