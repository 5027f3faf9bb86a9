// SPDX-License-Identifier: GPL-2.0
/*
 * What the kernel tells a mirror: the invalidate callback and its filter.
 *
 * An event that a migration of this very context raises in the task that runs
 * it is filtered: entries for pages that stay where they are survive, and the
 * migration itself removes those that move (the MMU_NOTIFY_MIGRATE series of
 * 2020). Everything else is obeyed, also a MIGRATE event with our owner that
 * another context of the device or a CPU fault raised: nobody but us would
 * drop the entries of this context.
 */
#include <linux/sched.h>

#include "context.h"

bool dmirror_filter = true;

/*
 * Announce that the running task is about to map [@start, @end), at most one
 * leaf, and will raise @event for it. Waits until invalidations that are under
 * way have ended, so it is called without the mmap lock or a folio lock.
 */
void dmirror_claim(struct dmirror_context *ctx, struct dmirror_claim *claim,
		   enum mmu_notifier_event event, bool obey,
		   unsigned long start, unsigned long end)
{
	claim->task = current;
	claim->event = event;
	claim->obey = obey;
	claim->start = start;
	claim->end = end;
	bitmap_zero(claim->hit, DMIRROR_LEAF_PAGES);

	mutex_lock(&ctx->lock);
	list_add(&claim->node, &ctx->claims);
	mutex_unlock(&ctx->lock);
	/* Whatever begins after this is recorded in the claim. */
	mmu_interval_read_begin(&ctx->notifier);
}

void dmirror_unclaim(struct dmirror_context *ctx, struct dmirror_claim *claim)
{
	mutex_lock(&ctx->lock);
	list_del(&claim->node);
	mutex_unlock(&ctx->lock);
}

bool dmirror_claim_hit(const struct dmirror_claim *claim, unsigned long addr)
{
	return test_bit((addr - claim->start) >> PAGE_SHIFT, claim->hit);
}

/* DMIRROR_EVENT_* of an event, 0 for one that a later kernel may have. */
u16 dmirror_event_type(enum mmu_notifier_event event)
{
	static const u8 types[] = {
		[MMU_NOTIFY_UNMAP] = DMIRROR_EVENT_UNMAP,
		[MMU_NOTIFY_CLEAR] = DMIRROR_EVENT_CLEAR,
		[MMU_NOTIFY_PROTECTION_VMA] = DMIRROR_EVENT_PROTECTION_VMA,
		[MMU_NOTIFY_PROTECTION_PAGE] = DMIRROR_EVENT_PROTECTION_PAGE,
		[MMU_NOTIFY_SOFT_DIRTY] = DMIRROR_EVENT_SOFT_DIRTY,
		[MMU_NOTIFY_RELEASE] = DMIRROR_EVENT_RELEASE,
		[MMU_NOTIFY_MIGRATE] = DMIRROR_EVENT_MIGRATE,
		[MMU_NOTIFY_EXCLUSIVE] = DMIRROR_EVENT_EXCLUSIVE,
	};

	return event < ARRAY_SIZE(types) ? types[event] : 0;
}

/*
 * The owner says something only for MIGRATE and EXCLUSIVE and is uninitialised
 * otherwise (mmu_notifier_range_init() leaves it alone): look at the event
 * first, which the claim's own event does.
 */
static bool dmirror_own_event(struct dmirror_context *ctx,
			      const struct mmu_notifier_range *range)
{
	struct dmirror_claim *claim;

	if (range->event != MMU_NOTIFY_MIGRATE &&
	    range->event != MMU_NOTIFY_EXCLUSIVE)
		return false;
	if (range->owner != ctx->dev)
		return false;
	list_for_each_entry(claim, &ctx->claims, node)
		if (claim->task == current && claim->event == range->event)
			return !claim->obey;
	return false;
}

/*
 * A claim is hit by what other tasks do. What the claiming task raises itself,
 * on its way through the kernel, has ended when it comes to map the page.
 */
static void dmirror_mark_claims(struct dmirror_context *ctx,
				unsigned long start, unsigned long end)
{
	struct dmirror_claim *claim;

	list_for_each_entry(claim, &ctx->claims, node) {
		unsigned long first = max(start, claim->start);
		unsigned long last = min(end - 1, claim->end - 1);

		if (claim->task == current || first > last)
			continue;
		first = (first - claim->start) >> PAGE_SHIFT;
		last = (last - claim->start) >> PAGE_SHIFT;
		bitmap_set(claim->hit, first, last - first + 1);
	}
}

static bool dmirror_invalidate(struct mmu_interval_notifier *notifier,
			       const struct mmu_notifier_range *range,
			       unsigned long cur_seq)
{
	struct dmirror_context *ctx =
		container_of(notifier, struct dmirror_context, notifier);
	bool blockable = mmu_notifier_range_blockable(range);
	u16 type = dmirror_event_type(range->event);
	unsigned long entries;
	u16 flags = 0;

	if (blockable) {
		dmirror_hold_callback(ctx->dev, ctx->id, 0, type, range->start,
				      range->end);
		mutex_lock(&ctx->lock);
	} else if (!mutex_trylock(&ctx->lock)) {
		atomic64_inc(&ctx->events_refused);
		dmirror_log_notice(ctx->dev, ctx, range, type, 0, cur_seq,
				   DMIRROR_EVENT_REFUSED, 0);
		return false;
	}

	/*
	 * Also for an event that is filtered: a device fault that looked at
	 * the CPU page table before must look again (D-11).
	 */
	mmu_interval_set_seq(notifier, cur_seq);

	ctx->counters.events_seen++;
	ctx->counters.seen[type]++;
	if (READ_ONCE(dmirror_filter) && dmirror_own_event(ctx, range)) {
		ctx->counters.events_filtered++;
		ctx->counters.filtered[type]++;
		entries = dmirror_pt_count(ctx, range->start, range->end);
		ctx->counters.entries_kept += entries;
		flags = DMIRROR_EVENT_FILTERED;
	} else {
		ctx->counters.events_obeyed++;
		ctx->counters.obeyed[type]++;
		entries = dmirror_pt_drop(ctx, range->start, range->end,
					  range->event == MMU_NOTIFY_UNMAP ||
					  range->event == MMU_NOTIFY_RELEASE,
					  blockable);
	}
	dmirror_mark_claims(ctx, range->start, range->end);
	dmirror_log_notice(ctx->dev, ctx, range, type, 0, cur_seq, flags,
			   entries);

	mutex_unlock(&ctx->lock);
	return true;
}

const struct mmu_interval_notifier_ops dmirror_notifier_ops = {
	.invalidate = dmirror_invalidate,
};
