// SPDX-License-Identifier: GPL-2.0
/*
 * Migration between system and device memory: one engine for both directions,
 * CPU faults and eviction.
 *
 * Whatever fails on the way, migrate_vma_pages() (or migrate_device_pages())
 * and finalize run over the whole range: a destination that is 0 means that
 * the page stays, and the core restores it (D-05). A huge source gets either a
 * huge destination or all small ones, never some of them: the core takes every
 * destination of a huge folio it splits for granted.
 */
#include <linux/highmem.h>
#include <linux/hmm.h>
#include <linux/memcontrol.h>
#include <linux/migrate.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "context.h"

/*
 * Held for writing by who evicts, and for reading while a page of a coherent
 * device may have an exclusive entry, where the kernel cannot migrate those.
 * Taken before any mmap or folio lock.
 */
DECLARE_RWSEM(dmirror_evict_sem);

/* Source and destination words and system pages, for one leaf or less. */
struct dmirror_vectors {
	unsigned long *src;
	unsigned long *dst;
	struct page **pool;
};

/* For @npages at a time; all of them 0. Freed with kvfree(src). */
static int dmirror_vectors_get(struct dmirror_vectors *vec,
			       unsigned long npages)
{
	vec->src = kvcalloc(npages, sizeof(*vec->src) + sizeof(*vec->dst) +
			    sizeof(*vec->pool), GFP_KERNEL);
	vec->dst = vec->src + npages;
	vec->pool = (struct page **)(vec->dst + npages);
	return vec->src ? 0 : -ENOMEM;
}

/* Where destinations come from. */
struct dmirror_target {
	struct dmirror_grant *grant;	/* of a device, or NULL: the system */
	struct vm_area_struct *vma;	/* for the policy of system pages */
	unsigned long *fail_alloc;	/* FLAGS of the context, or NULL */
	/*
	 * A CPU fault or eviction: the source has a reference too many, or no
	 * page tables at hand, for the core to split it. One that is huge gets
	 * a huge destination or none.
	 */
	bool whole;
	bool cpu_waits;			/* for a page that must be had */
	struct page **pool;		/* system pages had at once */
	unsigned long nr_pool;		/* how many are left of them */
};

/*
 * Have a system page at hand for every small source: one by one they cost half
 * as much as the copy. On several nodes the memory's policy is asked for each.
 */
static void dmirror_fill_pool(struct dmirror_target *to,
			      const struct dmirror_vectors *vec,
			      unsigned long npages)
{
	unsigned long i, n = 0;

	for (i = 0; i < npages; i++)
		n += (vec->src[i] & (MIGRATE_PFN_VALID | MIGRATE_PFN_MIGRATE |
				     MIGRATE_PFN_COMPOUND)) ==
			(MIGRATE_PFN_VALID | MIGRATE_PFN_MIGRATE);
	if (n < 2 || num_online_nodes() > 1)
		return;
	/* Pages that an earlier leaf left in it would count as had. */
	memset(vec->pool, 0, n * sizeof(*vec->pool));
	to->pool = vec->pool;
	to->nr_pool = dmirror_alloc_bulk(GFP_HIGHUSER_MOVABLE | __GFP_NOWARN |
					 __GFP_RETRY_MAYFAIL, n, vec->pool);
}

static void dmirror_drain_pool(struct dmirror_target *to)
{
	while (to->nr_pool)
		__free_page(to->pool[--to->nr_pool]);
}

static struct page *dmirror_alloc_system(struct dmirror_target *to,
					 unsigned long addr, unsigned int order)
{
	struct vm_area_struct *vma = to->vma;
	gfp_t gfp = GFP_HIGHUSER_MOVABLE | __GFP_NOWARN;
	struct folio *folio;
	struct page *page;

	if (!order && to->nr_pool) {
		page = to->pool[--to->nr_pool];
	} else if (!order) {
		/* A failure is a page that stays: no reason to kill. */
		if (!to->cpu_waits)
			gfp |= __GFP_RETRY_MAYFAIL;
		page = vma ? alloc_page_vma(gfp, vma, addr) : alloc_page(gfp);
	} else {
		gfp |= __GFP_COMP |
			(to->whole ? __GFP_RETRY_MAYFAIL : __GFP_NORETRY);
		folio = vma ? dmirror_vma_alloc_folio(gfp, order, vma, addr) :
			      folio_alloc(gfp, order);
		page = folio ? folio_page(folio, 0) : NULL;
	}
	/* Nobody else has it yet. */
	if (page)
		__folio_set_locked(page_folio(page));
	return page;
}

static struct page *dmirror_alloc_target(struct dmirror_target *to,
					 unsigned long addr, unsigned int order)
{
	if (to->fail_alloc && test_and_clear_bit(0, to->fail_alloc))
		return NULL;
	if (to->grant)
		return dmirror_devmem_alloc(to->grant, order);
	return dmirror_alloc_system(to, addr, order);
}

/* Undo the allocation of @n small destinations that hold nothing yet. */
static void dmirror_free_targets(unsigned long *dst, unsigned long n)
{
	while (n--) {
		struct page *page = migrate_pfn_to_page(dst[n]);

		dst[n] = 0;
		unlock_page(page);
		put_page(page);
	}
}

/*
 * Eviction finds pages by their number, so also one that a CPU fault has just
 * migrated and is about to drop: its charge has gone to the copy, and a copy of
 * that would be on the LRU without one, where the core looks for it for ever.
 */
static bool dmirror_left_behind(struct page *page)
{
	return !mem_cgroup_disabled() && !folio_memcg(page_folio(page));
}

/* @nr destinations for one source folio or hole; false when it stays. */
static bool dmirror_get_targets(struct dmirror_target *to,
				unsigned long addr, unsigned long *dst,
				unsigned long nr)
{
	struct page *page = dmirror_alloc_target(to, addr, ilog2(nr));
	unsigned long i;

	if (page) {
		dst[0] = migrate_pfn(page_to_pfn(page));
		if (nr > 1)
			dst[0] |= MIGRATE_PFN_COMPOUND;
		return true;
	}
	if (nr == 1 || to->whole)
		return false;
	for (i = 0; i < nr; i++) {
		page = dmirror_alloc_target(to, addr + (i << PAGE_SHIFT), 0);
		if (!page) {
			dmirror_free_targets(dst, i);
			return false;
		}
		dst[i] = migrate_pfn(page_to_pfn(page));
	}
	return true;
}

/* Where the data of page @i of the folio of @page are. */
static struct page *dmirror_nth_backing(struct page *page, unsigned long i)
{
	return dmirror_own_backing(folio_page(page_folio(page), i));
}

static struct page *dmirror_nth_target(const unsigned long *dst,
				       unsigned long i)
{
	if (dst[0] & MIGRATE_PFN_COMPOUND)
		return dmirror_nth_backing(migrate_pfn_to_page(dst[0]), i);
	return dmirror_own_backing(migrate_pfn_to_page(dst[i]));
}

/*
 * The alloc-and-copy step. The sources are locked and unmapped, and no device
 * entry for them is left. Returns the index of the first page for which there
 * was no destination, @npages when all have one.
 */
static unsigned long dmirror_alloc_and_copy(struct dmirror_target *to,
					    const unsigned long *src,
					    unsigned long *dst,
					    unsigned long start,
					    unsigned long npages)
{
	unsigned long i, j, nr, stays = npages;

	for (i = 0; i < npages; i += nr) {
		struct page *page = migrate_pfn_to_page(src[i]);

		nr = 1;
		if (!(src[i] & MIGRATE_PFN_MIGRATE))
			continue;
		/* A hole or the zero page: only a device fills it. */
		if (!page && !to->grant)
			continue;
		if (page && !to->vma && dmirror_left_behind(page))
			continue;
		/* The core refuses it later; it may not even be readable. */
		if (page && to->grant && !PageAnon(page))
			continue;
		if (src[i] & MIGRATE_PFN_COMPOUND)
			nr = page ? folio_nr_pages(page_folio(page)) :
				    HPAGE_PMD_NR;
		if (!dmirror_get_targets(to, start + (i << PAGE_SHIFT),
					 dst + i, nr)) {
			stays = min(stays, i);
			continue;
		}
		for (j = 0; j < nr; j++) {
			struct page *target = dmirror_nth_target(dst + i, j);
			struct page *source;

			if (!page) {
				clear_highpage(target);
				continue;
			}
			source = dmirror_nth_backing(page, j);
			copy_highpage(target, source);
			/* What the device wrote must not come back clean. */
			if (!to->grant && PageDirty(source))
				SetPageDirty(target);
		}
	}
	return stays;
}

/*
 * The device entries of sources that move, before their data is copied: those
 * from one page that stays to the next at a time.
 */
static void dmirror_unmap_sources(struct dmirror_context *ctx,
				  const struct migrate_vma *args)
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
		ctx->counters.pages_to_device += nr;
	}
	mutex_unlock(&ctx->lock);
}

/* Pages of @src that moved; a huge folio counts all of its pages (D-08). */
static unsigned long dmirror_count_moved(const unsigned long *src,
					 const unsigned long *dst,
					 unsigned long npages)
{
	unsigned long i, nr, moved = 0;

	for (i = 0; i < npages; i += nr) {
		nr = 1;
		if (!(src[i] & MIGRATE_PFN_MIGRATE) ||
		    !(src[i] & MIGRATE_PFN_VALID))
			continue;
		if (dst[i] & MIGRATE_PFN_COMPOUND)
			nr = HPAGE_PMD_NR;
		moved += nr;
	}
	return moved;
}

/*
 * One call of a context and what it has at hand, for one leaf after the other.
 * @grant is part of a call that begins with dmirror_call_begin(), or NULL on
 * the way to system memory, where no entries are installed either.
 */
struct dmirror_job {
	struct dmirror_context *ctx;
	struct dmirror_grant *grant;
	struct dmirror_vectors vec;
	struct dmirror_claim claim;
	unsigned long moved;
	unsigned long stopped;	/* with an error: the first address not done */
};

/*
 * Migrate [@start, @end) of @vma, at most one leaf. Returns where a page stayed
 * for want of memory, @end when none did, or an error.
 */
static long dmirror_migrate_vma(struct dmirror_job *job,
				struct vm_area_struct *vma, unsigned long start,
				unsigned long end)
{
	struct dmirror_context *ctx = job->ctx;
	struct dmirror_target to = {
		.grant = job->grant,
		.vma = vma,
		.fail_alloc = &ctx->fail_alloc,
	};
	struct migrate_vma args = {
		.vma = vma,
		.src = job->vec.src,
		.dst = job->vec.dst,
		.start = start,
		.end = end,
		.pgmap_owner = ctx->dev,
		.flags = MIGRATE_VMA_SELECT_COMPOUND,
	};
	unsigned long stays;
	int ret;

	if (job->grant)
		args.flags |= MIGRATE_VMA_SELECT_SYSTEM;
	else if (ctx->dev->coherent)
		args.flags |= MIGRATE_VMA_SELECT_DEVICE_COHERENT;
	else
		args.flags |= MIGRATE_VMA_SELECT_DEVICE_PRIVATE;
	ret = migrate_vma_setup(&args);
	if (ret)
		return ret;
	dmirror_unmap_sources(ctx, &args);
	if (!job->grant)
		dmirror_fill_pool(&to, &job->vec, args.npages);
	stays = dmirror_alloc_and_copy(&to, args.src, args.dst, args.start,
				       args.npages);
	dmirror_drain_pool(&to);
	migrate_vma_pages(&args);
	job->moved += dmirror_count_moved(args.src, args.dst, args.npages);
	if (job->grant)
		dmirror_map_targets(ctx, &job->claim, &args);
	migrate_vma_finalize(&args);
	return start + (stays << PAGE_SHIFT);
}

/*
 * [@start, @end), at most one leaf, under one hold of the mmap lock; it may
 * span several VMAs. Stores in @stopped where it ended: at @end, where a page
 * stayed for want of memory, or, with an error, where it could not begin.
 */
static int dmirror_migrate_range(struct dmirror_job *job, unsigned long start,
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
	dmirror_claim(job->ctx, &job->claim, MMU_NOTIFY_MIGRATE, start, end);
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
static int dmirror_leaf_to_device(struct dmirror_job *job, unsigned long start,
				  unsigned long end, unsigned long *next)
{
	unsigned long stopped;
	int ret;

	ret = dmirror_grant_get(job->grant, (end - start) >> PAGE_SHIFT);
	if (ret)
		return ret;
	*next = start + (job->grant->pages << PAGE_SHIFT);
	ret = dmirror_migrate_range(job, start, *next, &stopped);
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
	return !ret && *next == start ? -ENOMEM : ret;
}

/* Migrate the range of a call leaf by leaf. */
static int dmirror_migrate(struct dmirror_job *job,
			   const struct hmm_dmirror_cmd *cmd)
{
	unsigned long end = cmd->addr + (cmd->npages << PAGE_SHIFT);
	unsigned long addr = cmd->addr, next;
	int ret;

	ret = dmirror_vectors_get(&job->vec, min_t(u64, cmd->npages,
						   DMIRROR_LEAF_PAGES));
	while (!ret && addr < end) {
		next = addr;
		ret = job->grant ?
			dmirror_leaf_to_device(job, addr,
					       dmirror_leaf_end(addr, end),
					       &next) :
			dmirror_leaf_to_system(job, addr,
					       dmirror_leaf_end(addr, end),
					       &next);
		addr = next;
		if (!ret && addr < end && fatal_signal_pending(current))
			ret = -EINTR;
		cond_resched();
	}
	kvfree(job->vec.src);
	job->stopped = addr;
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
	ret = dmirror_migrate(&job, cmd);
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

	ret = dmirror_migrate(&job, cmd);
	cmd->cpages = ret ? (job.stopped - cmd->addr) >> PAGE_SHIFT : job.moved;
	mutex_lock(&ctx->lock);
	ctx->counters.pages_to_system += job.moved;
	mutex_unlock(&ctx->lock);
	return ret;
}

/*
 * A CPU touched a page of ours. No context is involved and none is looked for:
 * each one that mirrors the page, in whatever process, obeys the event that
 * the migration raises.
 */
vm_fault_t dmirror_migrate_to_ram(struct vm_fault *vmf)
{
	struct dmirror_device *dev = dmirror_page_device(vmf->page);
	struct dmirror_target to = {
		.vma = vmf->vma,
		.whole = true,
		.cpu_waits = true,
	};
	struct migrate_vma args = {
		.vma = vmf->vma,
		.start = vmf->address & PAGE_MASK,
		.pgmap_owner = dev,
		.flags = MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
		.fault_page = vmf->page,
	};
	unsigned long flags, stays, moved = 0, npages = 1;
	unsigned long one[2];
	vm_fault_t ret = 0;

	/* Mapped by a PMD: the folio comes back as a whole. */
	if (dmirror_fault_is_huge(vmf)) {
		npages = HPAGE_PMD_NR;
		args.start &= PMD_MASK;
		args.flags |= MIGRATE_VMA_SELECT_COMPOUND;
	}
	args.end = args.start + (npages << PAGE_SHIFT);

	args.src = npages == 1 ? one :
		kcalloc(2 * npages, sizeof(*args.src), GFP_KERNEL);
	if (!args.src)
		return VM_FAULT_OOM;
	args.dst = args.src + npages;

	if (migrate_vma_setup(&args)) {
		ret = VM_FAULT_SIGBUS;
		goto out;
	}
	stays = dmirror_alloc_and_copy(&to, args.src, args.dst, args.start,
				       args.npages);
	migrate_vma_pages(&args);
	moved = dmirror_count_moved(args.src, args.dst, args.npages);
	migrate_vma_finalize(&args);
	if (stays < args.npages)
		ret = VM_FAULT_OOM;
out:
	if (args.src != one)
		kfree(args.src);
	spin_lock_irqsave(&dev->lock, flags);
	dev->cpu_faults++;
	dev->pages_faulted += moved;
	spin_unlock_irqrestore(&dev->lock, flags);
	return ret;
}

/*
 * Bring back what is in use of @npages device pages from @pfn on, at most a
 * block, whoever maps them. Returns how many came; those that are locked or
 * busy stay. The caller sees to it that the page map stays.
 */
unsigned long dmirror_evict(struct dmirror_device *dev, unsigned long pfn,
			    unsigned long npages)
{
	struct dmirror_target to = { .whole = true };
	struct dmirror_vectors vec;
	unsigned long flags, moved;

	if (dmirror_vectors_get(&vec, npages))
		return 0;
	if (!DMIRROR_EXCLUSIVE_MAY_MIGRATE)
		down_write(&dmirror_evict_sem);
	migrate_device_range(vec.src, pfn, npages);
	dmirror_fill_pool(&to, &vec, npages);
	dmirror_alloc_and_copy(&to, vec.src, vec.dst, 0, npages);
	dmirror_drain_pool(&to);
	migrate_device_pages(vec.src, vec.dst, npages);
	moved = dmirror_count_moved(vec.src, vec.dst, npages);
	migrate_device_finalize(vec.src, vec.dst, npages);
	if (!DMIRROR_EXCLUSIVE_MAY_MIGRATE)
		up_write(&dmirror_evict_sem);
	kvfree(vec.src);

	spin_lock_irqsave(&dev->lock, flags);
	dev->pages_evicted += moved;
	spin_unlock_irqrestore(&dev->lock, flags);
	return moved;
}
