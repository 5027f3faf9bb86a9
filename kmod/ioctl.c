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
	long ret = dmirror_devmem_release(ctx->dev);
	unsigned long flags;

	spin_lock_irqsave(&ctx->dev->lock, flags);
	ctx->dev->releases++;
	spin_unlock_irqrestore(&ctx->dev->lock, flags);
	dmirror_log_release(ctx->dev, ret);
	return ret;
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
bool dmirror_range_valid(u64 addr, u64 npages)
{
	return IS_ALIGNED(addr, PAGE_SIZE) && npages && addr < TASK_SIZE_MAX &&
		npages <= (TASK_SIZE_MAX - addr) >> PAGE_SHIFT;
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
	if (dmirror_calls[nr].has_range &&
	    !dmirror_range_valid(cmd.addr, cmd.npages)) {
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

long dmirror_ioctl(struct file *file, unsigned int number, unsigned long arg)
{
	struct dmirror_context *ctx = file->private_data;
	void __user *uarg = (void __user *)arg;

	switch (_IOC_TYPE(number)) {
	case 'H':
		return dmirror_call(ctx, number, uarg);
	case DMIRROR_IOC_TYPE:
		return dmirror_own_ioctl(ctx, number, uarg);
	default:
		return -ENOTTY;
	}
}
