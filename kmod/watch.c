// SPDX-License-Identifier: GPL-2.0
/*
 * Watches: further subscriptions of a context to the same address space, which
 * write down what they are told and do nothing else.
 */
#include <linux/mmu_notifier.h>
#include <linux/slab.h>

#include "context.h"

/**
 * struct dmirror_watcher - one watch
 * @ctx: whose; it ends its watches before it goes
 * @id: dmirror_watch.id
 * @kind: DMIRROR_WATCH_*
 * @interval: the subscription, unless @kind is PLAIN
 * @plain: the subscription if it is
 * @node: on dmirror_context.watches, under watch_mutex
 */
struct dmirror_watcher {
	struct dmirror_context *ctx;
	u32 id;
	u32 kind;
	struct mmu_interval_notifier interval;
	struct mmu_notifier plain;
	struct list_head node;
};

static void dmirror_watched(struct dmirror_watcher *watcher, u16 type,
			    const struct mmu_notifier_range *range, u64 seq)
{
	struct dmirror_context *ctx = watcher->ctx;

	dmirror_log_notice(ctx->dev, ctx, range, type, watcher->id, seq, 0, 0);
	/* After the record, so that a test finds it when a thread is held. */
	if (type < DMIRROR_NR_EVENTS && mmu_notifier_range_blockable(range))
		dmirror_hold_callback(ctx->dev, ctx->id, watcher->id, type,
				      range->start, range->end);
}

static bool dmirror_watch_invalidate(struct mmu_interval_notifier *interval,
				     const struct mmu_notifier_range *range,
				     unsigned long cur_seq)
{
	struct dmirror_watcher *watcher =
		container_of(interval, struct dmirror_watcher, interval);

	mmu_interval_set_seq(interval, cur_seq);
	dmirror_watched(watcher, dmirror_event_type(range->event), range,
			cur_seq);
	return true;
}

static const struct mmu_interval_notifier_ops dmirror_watch_ops = {
	.invalidate = dmirror_watch_invalidate,
};

#ifdef DMIRROR_HAVE_TWO_PASS
/* The second pass of one event. */
struct dmirror_second_pass {
	struct mmu_interval_notifier_finish finish;
	struct mmu_notifier_range range;
	unsigned long seq;
};

static bool dmirror_watch_start(struct mmu_interval_notifier *interval,
				const struct mmu_notifier_range *range,
				unsigned long cur_seq,
				struct mmu_interval_notifier_finish **finish)
{
	struct dmirror_watcher *watcher =
		container_of(interval, struct dmirror_watcher, interval);
	struct dmirror_second_pass *pass = NULL;

	/* Reclaim may be what calls this. */
	if (watcher->kind == DMIRROR_WATCH_TWO_PASS)
		pass = kmalloc(sizeof(*pass), GFP_NOWAIT | __GFP_NOWARN);
	dmirror_watch_invalidate(interval, range, cur_seq);
	if (pass) {
		pass->range = *range;
		pass->seq = cur_seq;
		*finish = &pass->finish;
	}
	return true;
}

static void dmirror_watch_finish(struct mmu_interval_notifier_finish *finish)
{
	struct dmirror_second_pass *pass =
		container_of(finish, struct dmirror_second_pass, finish);
	struct dmirror_watcher *watcher =
		container_of(finish->notifier, struct dmirror_watcher,
			     interval);

	dmirror_watched(watcher, DMIRROR_EVENT_FINISH, &pass->range, pass->seq);
	kfree(pass);
}

static const struct mmu_interval_notifier_ops dmirror_two_pass_ops = {
	.invalidate_start = dmirror_watch_start,
	.invalidate_finish = dmirror_watch_finish,
};

/* What the core should warn of. */
static const struct mmu_interval_notifier_ops dmirror_unfinished_ops = {
	.invalidate_start = dmirror_watch_start,
};
#endif

static int dmirror_plain_start(struct mmu_notifier *plain,
			       const struct mmu_notifier_range *range)
{
	dmirror_watched(container_of(plain, struct dmirror_watcher, plain),
			dmirror_event_type(range->event), range, 0);
	return 0;
}

static void dmirror_plain_end(struct mmu_notifier *plain,
			      const struct mmu_notifier_range *range)
{
	dmirror_watched(container_of(plain, struct dmirror_watcher, plain),
			DMIRROR_EVENT_END, range, 0);
}

static void dmirror_plain_release(struct mmu_notifier *plain,
				  struct mm_struct *mm)
{
	const struct mmu_notifier_range range = {
		.mm = mm,
		.end = ULONG_MAX,
		.flags = MMU_NOTIFIER_RANGE_BLOCKABLE,
		.event = MMU_NOTIFY_RELEASE,
	};

	dmirror_watched(container_of(plain, struct dmirror_watcher, plain),
			DMIRROR_EVENT_RELEASE, &range, 0);
}

static const struct mmu_notifier_ops dmirror_plain_ops = {
	.invalidate_range_start = dmirror_plain_start,
	.invalidate_range_end = dmirror_plain_end,
	.release = dmirror_plain_release,
};

static int dmirror_subscribe(struct dmirror_watcher *watcher,
			     const struct dmirror_watch *watch)
{
	const struct mmu_interval_notifier_ops *ops = &dmirror_watch_ops;
	struct mm_struct *mm = watcher->ctx->notifier.mm;

	switch (watch->kind) {
	case DMIRROR_WATCH_PLAIN:
		watcher->plain.ops = &dmirror_plain_ops;
		return mmu_notifier_register(&watcher->plain, mm);
	case DMIRROR_WATCH_INTERVAL:
		break;
#ifdef DMIRROR_HAVE_TWO_PASS
	case DMIRROR_WATCH_TWO_PASS:
		ops = &dmirror_two_pass_ops;
		break;
	case DMIRROR_WATCH_UNFINISHED:
		ops = &dmirror_unfinished_ops;
		break;
#endif
	default:
		return -EOPNOTSUPP;
	}
	return mmu_interval_notifier_insert(&watcher->interval, mm,
					    watch->start, watch->length, ops);
}

/* DMIRROR_WATCH */
long dmirror_watch(struct dmirror_context *ctx, struct dmirror_watch *watch)
{
	struct dmirror_watcher *watcher;
	int ret;

	if (watch->flags || watch->id || watch->kind > DMIRROR_WATCH_PLAIN ||
	    (watch->kind == DMIRROR_WATCH_PLAIN &&
	     (watch->start || watch->length)))
		return -EINVAL;
	watcher = kzalloc(sizeof(*watcher), GFP_KERNEL_ACCOUNT);
	if (!watcher)
		return -ENOMEM;
	watcher->ctx = ctx;
	watcher->kind = watch->kind;

	mutex_lock(&ctx->watch_mutex);
	/* A record has room for so many. */
	ret = ctx->last_watch == U16_MAX ? -ENOSPC : 0;
	if (!ret) {
		watcher->id = ctx->last_watch + 1;
		ret = dmirror_subscribe(watcher, watch);
	}
	if (!ret) {
		ctx->last_watch = watcher->id;
		watch->id = watcher->id;
		list_add_tail(&watcher->node, &ctx->watches);
	}
	mutex_unlock(&ctx->watch_mutex);
	if (ret)
		kfree(watcher);
	return ret;
}

/* Returns when no callback of it runs any more. */
static void dmirror_watcher_end(struct dmirror_watcher *watcher)
{
	if (watcher->kind == DMIRROR_WATCH_PLAIN)
		mmu_notifier_unregister(&watcher->plain,
					watcher->ctx->notifier.mm);
	else
		mmu_interval_notifier_remove(&watcher->interval);
	kfree(watcher);
}

/* DMIRROR_UNWATCH */
long dmirror_unwatch(struct dmirror_context *ctx, struct dmirror_watch *watch)
{
	struct dmirror_watcher *watcher;
	bool found = false;

	if (watch->flags || watch->kind || watch->start || watch->length)
		return -EINVAL;
	mutex_lock(&ctx->watch_mutex);
	list_for_each_entry(watcher, &ctx->watches, node) {
		found = watcher->id == watch->id;
		if (found)
			break;
	}
	if (found)
		list_del(&watcher->node);
	mutex_unlock(&ctx->watch_mutex);
	if (!found)
		return -ENOENT;
	dmirror_watcher_end(watcher);
	return 0;
}

/* The context goes, and has no users. */
void dmirror_watches_end(struct dmirror_context *ctx)
{
	struct dmirror_watcher *watcher, *next;

	list_for_each_entry_safe(watcher, next, &ctx->watches, node)
		dmirror_watcher_end(watcher);
}
