// SPDX-License-Identifier: GPL-2.0
/*
 * Migration between system and device memory, as a context calls for it.
 *
 * Whatever fails on the way, migrate_vma_pages() and finalize run over the whole
 * range: a destination that is 0 means that the page stays, and the core
 * restores it (D-05).
 */
#include <linux/hmm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "migrate.h"

/* Pages that may move after setup, that have a destination, that moved. */
static unsigned long dmirror_count_phase(const struct migrate_vma *args,
					 enum dmirror_phase phase)
{
	unsigned long i, nr, n = 0;

	if (phase == DMIRROR_PHASE_BEGIN)
		return 0;
	for (i = 0; i < args->npages; i += nr) {
		unsigned long word = phase == DMIRROR_PHASE_SETUP ?
			args->src[i] : args->dst[i];

		nr = word & MIGRATE_PFN_COMPOUND ? HPAGE_PMD_NR : 1;
		if (args->src[i] & MIGRATE_PFN_MIGRATE && word)
			n += nr;
	}
	return n;
}

void dmirror_tell_phase(const struct dmirror_pass *pass,
			const struct migrate_vma *args,
			enum dmirror_phase phase)
{
	dmirror_log_action(pass->dev, pass->id, pass->event + phase,
			   args->start, args->end,
			   dmirror_count_phase(args, phase), 0, 0);
}

/*
 * The device entries of sources that move, before their data is copied: those
 * from one page that stays to the next at a time. Counts the latter.
 */
static void dmirror_unmap_sources(struct dmirror_context *ctx,
				  const struct migrate_vma *args,
				  struct dmirror_target *to)
{
	unsigned long i, nr, first = 0;

	mutex_lock(&ctx->lock);
	for (i = 0; i <= args->npages; i += nr) {
		bool moves = i < args->npages &&
			args->src[i] & MIGRATE_PFN_MIGRATE;

		nr = moves && args->src[i] & MIGRATE_PFN_COMPOUND ?
			HPAGE_PMD_NR : 1;
		if (moves)
			continue;
		if (i < args->npages)
			dmirror_stays(to, DMIRROR_STAYED_ABSENT, 1);
		if (first < i)
			dmirror_pt_drop(ctx, args->start + (first << PAGE_SHIFT),
					args->start + (i << PAGE_SHIFT), false,
					false);
		first = i + 1;
	}
	mutex_unlock(&ctx->lock);
}

/*
 * Point the device at its new pages, while they are locked. A page that was
 * invalidated since the claim gets no entry, and loses one that a device fault
 * of another thread made of the zero page that was there before (D-13). The
 * leaf may have gone with its last entry: then later faults fill it.
 */
static void dmirror_map_targets(struct dmirror_context *ctx,
				const struct dmirror_claim *claim,
				const struct migrate_vma *args)
{
	bool vma_write = args->vma->vm_flags & VM_WRITE;
	struct dmirror_leaf *leaf;
	unsigned long i, j, nr;

	mutex_lock(&ctx->lock);
	leaf = dmirror_pt_leaf(ctx, args->start);
	for (i = 0; i < args->npages; i += nr) {
		unsigned long flags = DMIRROR_PTE_DEVICE;

		nr = 1;
		if (!(args->src[i] & MIGRATE_PFN_MIGRATE) ||
		    !migrate_pfn_to_page(args->dst[i]))
			continue;
		if (args->dst[i] & MIGRATE_PFN_COMPOUND)
			nr = HPAGE_PMD_NR;
		/* A hole becomes what a CPU store would have made of it. */
		if (migrate_pfn_to_page(args->src[i]) ?
		    args->src[i] & MIGRATE_PFN_WRITE : vma_write)
			flags |= DMIRROR_PTE_WRITE;
		for (j = 0; j < nr; j++) {
			unsigned long addr = args->start +
				((i + j) << PAGE_SHIFT);
			struct page *page = dmirror_nth_target(args->dst + i,
							       j);

			if (leaf && !dmirror_claim_hit(claim, addr)) {
				dmirror_pt_set(ctx, leaf, addr,
					       (unsigned long)page | flags);
				continue;
			}
			dmirror_pt_drop(ctx, addr, addr + PAGE_SIZE, false,
					false);
		}
	}
	mutex_unlock(&ctx->lock);
}

/* The pgmap_owner and flags of a call: as it was told, or its direction needs. */
static void dmirror_select(const struct dmirror_job *job,
			   struct migrate_vma *args)
{
	struct dmirror_device *dev = job->ctx->dev;
	u32 select = job->told ? job->told->call->select : 0;

	args->pgmap_owner = dev;
	if (job->told)
		args->pgmap_owner = dmirror_owner(dev, job->told->call->owner);
	if (!select)
		select = DMIRROR_SELECT_COMPOUND |
			(job->grant    ? DMIRROR_SELECT_SYSTEM :
			 dev->coherent ? DMIRROR_SELECT_COHERENT :
					 DMIRROR_SELECT_PRIVATE);
	if (select & DMIRROR_SELECT_SYSTEM)
		args->flags |= MIGRATE_VMA_SELECT_SYSTEM;
	if (select & DMIRROR_SELECT_PRIVATE)
		args->flags |= MIGRATE_VMA_SELECT_DEVICE_PRIVATE;
	if (select & DMIRROR_SELECT_COHERENT)
		args->flags |= MIGRATE_VMA_SELECT_DEVICE_COHERENT;
	if (select & DMIRROR_SELECT_COMPOUND)
		args->flags |= MIGRATE_VMA_SELECT_COMPOUND;
}

/*
 * Migrate [@start, @end) of @vma, at most one leaf. Returns where a page stayed
 * that should not have, @end when none did, or an error.
 */
static long dmirror_migrate_vma(struct dmirror_job *job,
				struct vm_area_struct *vma, unsigned long start,
				unsigned long end)
{
	struct dmirror_context *ctx = job->ctx;
	struct dmirror_told *told = job->told;
	const struct dmirror_pass pass = {
		.dev = ctx->dev,
		.steered = dmirror_is_steered(ctx->dev),
		.id = ctx->id,
		.event = DMIRROR_EVENT_MIGRATE_BEGIN,
		.point = DMIRROR_HOLD_MIGRATE_BEGIN,
	};
	struct dmirror_target to = {
		.dev = ctx->dev,
		.id = ctx->id,
		.grant = job->grant,
		.vma = vma,
		.fail_alloc = &ctx->fail_alloc,
		.how = told && told->how ?
			told->how + ((start - told->start) >> PAGE_SHIFT) :
			NULL,
		.order = told ? told->call->order : DMIRROR_ORDER_SOURCE,
		.stayed = job->stayed,
	};
	struct migrate_vma args = {
		.vma = vma,
		.src = job->vec.src,
		.dst = job->vec.dst,
		.start = start,
		.end = end,
	};
	unsigned long stays;
	int ret;

	dmirror_select(job, &args);
	dmirror_enter(&pass, &args, DMIRROR_PHASE_BEGIN);
	ret = migrate_vma_setup(&args);
	if (ret)
		return ret;
	if (told)
		dmirror_told_setup(told, &args);
	dmirror_enter(&pass, &args, DMIRROR_PHASE_SETUP);

	dmirror_unmap_sources(ctx, &args, &to);
	if (!job->grant)
		dmirror_fill_pool(&to, &job->vec, args.npages);
	stays = dmirror_alloc_and_copy(&to, args.src, args.dst, args.start,
				       args.npages);
	dmirror_drain_pool(&to);
	if (told)
		dmirror_note_words(told, &args, DMIRROR_PHASE_COPIED);
	dmirror_enter(&pass, &args, DMIRROR_PHASE_COPIED);

	migrate_vma_pages(&args);
	if (told)
		dmirror_note_words(told, &args, DMIRROR_PHASE_PAGES);
	dmirror_enter(&pass, &args, DMIRROR_PHASE_PAGES);

	job->moved += dmirror_count_moved(&to, args.src, args.dst, args.npages,
					  &job->huge);
	if (job->grant)
		dmirror_map_targets(ctx, &job->claim, &args);
	dmirror_enter(&pass, &args, DMIRROR_PHASE_MAPPED);

	migrate_vma_finalize(&args);
	if (told)
		dmirror_told_end(told, &args);
	dmirror_enter(&pass, &args, DMIRROR_PHASE_END);
	job->error = to.error;
	return start + (stays << PAGE_SHIFT);
}

/*
 * [@start, @end), at most one leaf, under one hold of the mmap lock; it may
 * span several VMAs. Stores in @stopped where it ended: at @end, where a page
 * stayed for want of memory, or, with an error, where it could not begin.
 */
int dmirror_migrate_range(struct dmirror_job *job, unsigned long start,
			  unsigned long end, unsigned long *stopped)
{
	struct mm_struct *mm = job->ctx->notifier.mm;
	unsigned long addr = start, next;
	long ret = 0;

	*stopped = start;
	if (job->grant) {
		ret = dmirror_pt_prepare(job->ctx, start);
		if (ret)
			return ret;
	}
	dmirror_claim(job->ctx, &job->claim, MMU_NOTIFY_MIGRATE,
		      job->told && job->told->call->flags & DMIRROR_MIGRATE_OBEY,
		      start, end);
	ret = mmap_read_lock_killable(mm);
	if (ret)
		goto out;
	*stopped = end;
	for (; addr < end; addr = next) {
		struct vm_area_struct *vma = vma_lookup(mm, addr);

		ret = -EINVAL;
		if (vma && vma->vm_flags & VM_READ) {
			next = min(end, vma->vm_end);
			ret = dmirror_migrate_vma(job, vma, addr, next);
		}
		if (ret < 0) {
			*stopped = min(*stopped, addr);
			break;
		}
		if (ret < next)
			*stopped = min(*stopped, (unsigned long)ret);
	}
	mmap_read_unlock(mm);
out:
	dmirror_unclaim(job->ctx, &job->claim);
	if (job->grant)
		dmirror_pt_unprepare(job->ctx, start);
	return ret < 0 ? ret : 0;
}

/* To the device: pages that stay are counted later, by where all of them are. */
int dmirror_leaf_to_device(struct dmirror_job *job, unsigned long start,
			   unsigned long end, unsigned long *next)
{
	unsigned long stopped;
	int ret;

	ret = dmirror_grant_get(job->grant, (end - start) >> PAGE_SHIFT);
	if (ret)
		return ret;
	*next = start + (job->grant->pages << PAGE_SHIFT);
	ret = dmirror_migrate_range(job, start, *next, &stopped);
	if (ret)
		*next = stopped;
	dmirror_grant_put(job->grant);
	return ret;
}

/*
 * To the system: a page for which there was no memory is tried once more, with
 * no folio lock held by then that reclaim may have wanted.
 */
static int dmirror_leaf_to_system(struct dmirror_job *job, unsigned long start,
				  unsigned long end, unsigned long *next)
{
	int ret;

	ret = dmirror_migrate_range(job, start, end, next);
	if (ret || *next == end)
		return ret;
	start = *next;
	ret = dmirror_migrate_range(job, start, end, next);
	return !ret && *next == start ? job->error : ret;
}

/* Migrate [@addr, @end) leaf by leaf. */
int dmirror_migrate(struct dmirror_job *job, unsigned long addr,
		    unsigned long end)
{
	struct dmirror_counters *counters = &job->ctx->counters;
	unsigned long next;
	unsigned int i;
	int ret;

	ret = dmirror_vectors_get(&job->vec,
				  min_t(unsigned long,
					(end - addr) >> PAGE_SHIFT,
					DMIRROR_LEAF_PAGES));
	while (!ret && addr < end) {
		unsigned long leaf_end = dmirror_leaf_end(addr, end);

		next = addr;
		if (job->told)
			ret = dmirror_leaf_as_told(job, addr, leaf_end, &next);
		else if (job->grant)
			ret = dmirror_leaf_to_device(job, addr, leaf_end,
						     &next);
		else
			ret = dmirror_leaf_to_system(job, addr, leaf_end,
						     &next);
		addr = next;
		if (!ret && addr < end && fatal_signal_pending(current))
			ret = -EINTR;
		cond_resched();
	}
	dmirror_vectors_put(&job->vec);
	job->stopped = addr;

	mutex_lock(&job->ctx->lock);
	if (job->grant) {
		counters->pages_to_device += job->moved;
		counters->huge_to_device += job->huge;
	} else {
		counters->pages_to_system += job->moved;
		counters->huge_to_system += job->huge;
	}
	for (i = 0; i < ARRAY_SIZE(job->stayed); i++)
		counters->stayed[i] += job->stayed[i];
	mutex_unlock(&job->ctx->lock);
	return ret;
}

/* Pages from @addr on, at most a leaf, that have entries for this device. */
static unsigned long dmirror_resident_prefix(struct dmirror_context *ctx,
					     unsigned long addr,
					     unsigned long end)
{
	struct dmirror_leaf *leaf;
	unsigned long n = 0;

	mutex_lock(&ctx->lock);
	leaf = dmirror_pt_leaf(ctx, addr);
	for (; addr < end; addr += PAGE_SIZE, n++)
		if (!(dmirror_pt_entry(leaf, addr) & DMIRROR_PTE_DEVICE))
			break;
	mutex_unlock(&ctx->lock);
	return n;
}

/*
 * Pages that are on the device already count as done. Those have an entry
 * unless something dropped it while the page stayed, mprotect() for one: then
 * the CPU page table knows. So what is reported is where the pages are, not
 * what the mirror happens to hold (D-07). Goes no further than the first page
 * that is elsewhere.
 */
static int dmirror_count_resident(struct dmirror_context *ctx,
				  struct hmm_dmirror_cmd *cmd)
{
	unsigned long end = cmd->addr + (cmd->npages << PAGE_SHIFT);
	unsigned long addr, next;
	int ret = 0;

	for (addr = cmd->addr; addr < end; addr = next) {
		next = dmirror_leaf_end(addr, end);
		addr += dmirror_resident_prefix(ctx, addr, next) << PAGE_SHIFT;
		if (addr < next) {
			ret = dmirror_map_resident(ctx, addr, next);
			addr += dmirror_resident_prefix(ctx, addr, next) <<
				PAGE_SHIFT;
		}
		if (ret || addr < next)
			break;
		cond_resched();
	}
	cmd->cpages = (addr - cmd->addr) >> PAGE_SHIFT;
	return ret;
}

/*
 * -ENOENT when a page did not get to the device; cpages then says where the
 * first such page is. The caller gets the data of the pages before it.
 */
long dmirror_migrate_to_device(struct dmirror_context *ctx,
			       struct hmm_dmirror_cmd *cmd)
{
	struct dmirror_grant grant;
	struct dmirror_job job = { .ctx = ctx, .grant = &grant };
	int ret, err;

	dmirror_call_begin(&grant, ctx->dev, ctx->id);
	ret = dmirror_migrate(&job, cmd->addr,
			      cmd->addr + (cmd->npages << PAGE_SHIFT));
	err = dmirror_count_resident(ctx, cmd);
	if (!ret)
		ret = err;
	if (!ret && cmd->cpages < cmd->npages)
		ret = -ENOENT;
	return dmirror_give_data(ctx, cmd, ret);
}

/*
 * cpages is how many pages came back; those that were not there do not count.
 * On an error it is how many from the beginning on are not there any more.
 */
long dmirror_migrate_to_system(struct dmirror_context *ctx,
			       struct hmm_dmirror_cmd *cmd)
{
	struct dmirror_job job = { .ctx = ctx };
	int ret;

	ret = dmirror_migrate(&job, cmd->addr,
			      cmd->addr + (cmd->npages << PAGE_SHIFT));
	cmd->cpages = ret ? (job.stopped - cmd->addr) >> PAGE_SHIFT : job.moved;
	return ret;
}
