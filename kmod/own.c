// SPDX-License-Identifier: GPL-2.0
/*
 * dmirror's own calls: structures that say their size, see uapi/dmirror.h.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/sched/mm.h>
#include <linux/uaccess.h>

#include "context.h"

/* What every structure begins with, and those with a range after it. */
struct dmirror_head {
	u32 size;
	u32 flags;
	u64 addr;
	u64 npages;
};

#define DMIRROR_HEAD_SIZE	offsetof(struct dmirror_head, addr)

union dmirror_argument {
	struct dmirror_head head;
	struct dmirror_query query;
	struct dmirror_counters counters;
	struct dmirror_log log;
	struct dmirror_hold hold;
	struct dmirror_inject inject;
	struct dmirror_migrate migrate;
	struct dmirror_walk walk;
	struct dmirror_peek peek;
	struct dmirror_watch watch;
	struct dmirror_exclusive exclusive;
};

static void dmirror_fill_query(struct dmirror_context *ctx,
			       struct dmirror_query *query)
{
	query->version = DMIRROR_VERSION;
	query->device = ctx->dev->id;
	query->capabilities = DMIRROR_CAP_FLAGS | DMIRROR_CAP_COUNTERS |
		DMIRROR_CAP_EVICTION | DMIRROR_CAP_STEER;
#ifdef DMIRROR_HAVE_FAULT_UNLOCKED
	query->capabilities |= DMIRROR_CAP_READ_UNLOCKED;
#endif
#ifdef DMIRROR_HAVE_CARRIED
	query->capabilities |= DMIRROR_CAP_CARRIED;
#endif
#ifdef DMIRROR_HAVE_TWO_PASS
	query->capabilities |= DMIRROR_CAP_TWO_PASS;
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

static long dmirror_call(struct dmirror_context *ctx, unsigned int number,
			 union dmirror_argument *arg, struct file **file)
{
	switch (number) {
	case DMIRROR_QUERY:
		if (arg->query.flags)
			return -EINVAL;
		dmirror_fill_query(ctx, &arg->query);
		return 0;
	case DMIRROR_COUNTERS:
		if (arg->counters.flags)
			return -EINVAL;
		dmirror_counters(ctx, &arg->counters);
		return 0;
	case DMIRROR_LOG:
		return dmirror_log(ctx, &arg->log);
	case DMIRROR_HOLD:
		return dmirror_hold(ctx, &arg->hold, file);
	case DMIRROR_INJECT:
		return dmirror_inject(ctx, &arg->inject);
	case DMIRROR_MIGRATE:
		return dmirror_migrate_as_told(ctx, &arg->migrate);
	case DMIRROR_WALK:
		return dmirror_walk(ctx, &arg->walk);
	case DMIRROR_PEEK:
		return dmirror_peek(ctx, &arg->peek, false);
	case DMIRROR_POKE:
		return dmirror_peek(ctx, &arg->peek, true);
	case DMIRROR_WATCH:
		return dmirror_watch(ctx, &arg->watch);
	case DMIRROR_UNWATCH:
		return dmirror_unwatch(ctx, &arg->watch);
	case DMIRROR_EXCLUSIVE:
		return dmirror_exclusive_as_told(ctx, &arg->exclusive);
	default:
		return -ENOTTY;
	}
}

/* By number: how large the argument is, and what the call needs. */
static const struct {
	u32 size;
	u32 least;	/* what of it the caller has to have, for the answer */
	bool only_gives;
	bool has_range;
	bool needs_mm;
} dmirror_own_calls[] = {
	[_IOC_NR(DMIRROR_QUERY)] = {
		sizeof(struct dmirror_query), .only_gives = true },
	[_IOC_NR(DMIRROR_COUNTERS)] = {
		sizeof(struct dmirror_counters), .only_gives = true },
	[_IOC_NR(DMIRROR_LOG)] = { sizeof(struct dmirror_log) },
	[_IOC_NR(DMIRROR_HOLD)] = { sizeof(struct dmirror_hold),
		.least = offsetofend(struct dmirror_hold, fd) },
	[_IOC_NR(DMIRROR_INJECT)] = { sizeof(struct dmirror_inject) },
	[_IOC_NR(DMIRROR_MIGRATE)] = { sizeof(struct dmirror_migrate),
		.has_range = true, .needs_mm = true },
	[_IOC_NR(DMIRROR_WALK)] = { sizeof(struct dmirror_walk),
		.has_range = true, .needs_mm = true },
	[_IOC_NR(DMIRROR_PEEK)] = { sizeof(struct dmirror_peek),
		.has_range = true },
	[_IOC_NR(DMIRROR_POKE)] = { sizeof(struct dmirror_peek),
		.has_range = true },
	[_IOC_NR(DMIRROR_WATCH)] = { sizeof(struct dmirror_watch),
		.needs_mm = true },
	[_IOC_NR(DMIRROR_UNWATCH)] = { sizeof(struct dmirror_watch) },
	[_IOC_NR(DMIRROR_EXCLUSIVE)] = { sizeof(struct dmirror_exclusive),
		.has_range = true, .needs_mm = true },
};

/* The caller's structure, as far as both sides know it; the rest is 0. */
static int dmirror_get_argument(union dmirror_argument *arg, unsigned int nr,
				void __user *uarg)
{
	u32 size;
	int ret;

	if (get_user(size, (u32 __user *)uarg))
		return -EFAULT;
	if (size < max_t(u32, DMIRROR_HEAD_SIZE, dmirror_own_calls[nr].least))
		return -EINVAL;
	if (dmirror_own_calls[nr].only_gives) {
		ret = copy_from_user(arg, uarg, DMIRROR_HEAD_SIZE) ?
			-EFAULT : 0;
	} else {
		if (size > PAGE_SIZE)
			return -E2BIG;
		ret = copy_struct_from_user(arg, dmirror_own_calls[nr].size,
					    uarg, size);
	}
	/* Read twice: the first one counts. */
	arg->head.size = min(size, dmirror_own_calls[nr].size);
	return ret;
}

long dmirror_own_ioctl(struct dmirror_context *ctx, unsigned int number,
		       void __user *uarg)
{
	unsigned int nr = _IOC_NR(number);
	union dmirror_argument arg = {};
	struct file *file = NULL;
	u32 size;
	long ret;

	if (nr >= ARRAY_SIZE(dmirror_own_calls) ||
	    number != _IO(DMIRROR_IOC_TYPE, nr))
		return -ENOTTY;
	ret = dmirror_get_argument(&arg, nr, uarg);
	if (ret)
		return ret;
	size = arg.head.size;
	if (dmirror_own_calls[nr].has_range &&
	    !dmirror_range_valid(arg.head.addr, arg.head.npages))
		return -EINVAL;
	if (!dmirror_own_calls[nr].needs_mm) {
		ret = dmirror_call(ctx, number, &arg, &file);
	} else if (mmget_not_zero(ctx->notifier.mm)) {
		ret = dmirror_call(ctx, number, &arg, &file);
		mmput(ctx->notifier.mm);
	} else {
		ret = -ESRCH;
	}

	/* How far it came matters most when it failed. */
	arg.head.size = size;
	if (copy_to_user(uarg, &arg, size))
		ret = -EFAULT;
	if (file && ret < 0) {
		put_unused_fd(arg.hold.fd);
		fput(file);
	} else if (file) {
		fd_install(arg.hold.fd, file);
	}
	return ret;
}
