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
#include <linux/migrate.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "context.h"

/* The source and destination words of one leaf. */
struct dmirror_vectors {
	unsigned long src[DMIRROR_LEAF_PAGES];
	unsigned long dst[DMIRROR_LEAF_PAGES];
};

/* Where destinations come from. */
struct dmirror_target {
	struct dmirror_device *dev;	/* to this device, or to the system */
	struct vm_area_struct *vma;	/* for the policy of system pages */
	unsigned long *fail_alloc;	/* FLAGS of the context, or NULL */
	/*
	 * A CPU fault or eviction: the source has a reference too many, or no
	 * page tables at hand, for the core to split it. One that is huge gets
	 * a huge destination or none.
	 */
	bool whole;
	bool cpu_waits;			/* for a page that must be had */
};

static struct page *dmirror_alloc_system(const struct dmirror_target *to,
					 unsigned long addr, unsigned int order)
{
	struct vm_area_struct *vma = to->vma;
	gfp_t gfp = GFP_HIGHUSER_MOVABLE | __GFP_NOWARN;
	struct folio *folio;
	struct page *page;

	if (!order) {
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
	if (page)
		lock_page(page);
	return page;
}

static struct page *dmirror_alloc_target(const struct dmirror_target *to,
					 unsigned long addr, unsigned int order)
{
	if (to->fail_alloc && test_and_clear_bit(0, to->fail_alloc))
		return NULL;
	if (to->dev)
		return dmirror_devmem_alloc(to->dev, order);
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

/* @nr destinations for one source folio or hole; false when it stays. */
static bool dmirror_get_targets(const struct dmirror_target *to,
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
	return dmirror_backing(folio_page(page_folio(page), i));
}

static struct page *dmirror_nth_target(const unsigned long *dst,
				       unsigned long i)
{
	if (dst[0] & MIGRATE_PFN_COMPOUND)
		return dmirror_nth_backing(migrate_pfn_to_page(dst[0]), i);
	return dmirror_backing(migrate_pfn_to_page(dst[i]));
}

/*
 * The alloc-and-copy step. The sources are locked and unmapped, and no device
 * entry for them is left. Returns pages that have no destination.
 */
static unsigned long dmirror_alloc_and_copy(const struct dmirror_target *to,
					    const unsigned long *src,
					    unsigned long *dst,
					    unsigned long start,
					    unsigned long npages)
{
	unsigned long i, j, nr, stay = 0;

	for (i = 0; i < npages; i += nr) {
		struct page *page = migrate_pfn_to_page(src[i]);

		nr = 1;
		if (!(src[i] & MIGRATE_PFN_MIGRATE))
			continue;
		/* A hole or the zero page: only a device fills it. */
		if (!page && !to->dev)
			continue;
		/* The core refuses it later; it may not even be readable. */
		if (page && to->dev && !PageAnon(page))
			continue;
		if (src[i] & MIGRATE_PFN_COMPOUND)
			nr = page ? folio_nr_pages(page_folio(page)) :
				    HPAGE_PMD_NR;
		if (!dmirror_get_targets(to, start + (i << PAGE_SHIFT),
					 dst + i, nr)) {
			stay += nr;
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
			if (!to->dev && PageDirty(source))
				SetPageDirty(target);
		}
	}
	return stay;
}

/* The device entries of sources that move; before their data is copied. */
static void dmirror_unmap_sources(struct dmirror_context *ctx,
				  const struct migrate_vma *args)
{
	unsigned long i, nr;

	mutex_lock(&ctx->lock);
	for (i = 0; i < args->npages; i += nr) {
		unsigned long addr = args->start + (i << PAGE_SHIFT);

		nr = args->src[i] & MIGRATE_PFN_COMPOUND ? HPAGE_PMD_NR : 1;
		if (args->src[i] & MIGRATE_PFN_MIGRATE)
			dmirror_pt_drop(ctx, addr, addr + (nr << PAGE_SHIFT),
					false);
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
	unsigned long i, j, nr;

	mutex_lock(&ctx->lock);
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

			if (!dmirror_claim_hit(claim, addr) &&
			    dmirror_pt_ready(ctx, addr))
				dmirror_pt_set(ctx, addr,
					       (unsigned long)page | flags);
			else
				dmirror_pt_drop(ctx, addr, addr + PAGE_SIZE,
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
		struct page *target = migrate_pfn_to_page(dst[i]);

		nr = 1;
		if (!(src[i] & MIGRATE_PFN_MIGRATE) ||
		    !migrate_pfn_to_page(src[i]))
			continue;
		if (dst[i] & MIGRATE_PFN_COMPOUND)
			nr = folio_nr_pages(page_folio(target));
		moved += nr;
	}
	return moved;
}

/*
 * Migrate [@start, @end) of @vma, at most one leaf, as an act of @ctx.
 * @claim is NULL on the way to system memory, where nothing is mapped after.
 */
static int dmirror_migrate_vma(struct dmirror_context *ctx,
			       const struct dmirror_claim *claim,
			       struct vm_area_struct *vma, unsigned long start,
			       unsigned long end, struct dmirror_vectors *vec,
			       bool to_device, unsigned long *moved)
{
	struct dmirror_target to = {
		.dev = to_device ? ctx->dev : NULL,
		.vma = vma,
		.fail_alloc = &ctx->fail_alloc,
	};
	struct migrate_vma args = {
		.vma = vma,
		.src = vec->src,
		.dst = vec->dst,
		.start = start,
		.end = end,
		.pgmap_owner = ctx->dev,
		.flags = MIGRATE_VMA_SELECT_COMPOUND |
			(to_device ? MIGRATE_VMA_SELECT_SYSTEM :
				     MIGRATE_VMA_SELECT_DEVICE_PRIVATE),
	};
	unsigned long stay;
	int ret;

	ret = migrate_vma_setup(&args);
	if (ret)
		return ret;
	dmirror_unmap_sources(ctx, &args);
	stay = dmirror_alloc_and_copy(&to, args.src, args.dst, args.start,
				      args.npages);
	migrate_vma_pages(&args);
	*moved += dmirror_count_moved(args.src, args.dst, args.npages);
	if (to_device)
		dmirror_map_targets(ctx, claim, &args);
	migrate_vma_finalize(&args);
	return stay && !to_device ? -ENOMEM : 0;
}

/* At most one leaf under one hold of the mmap lock; it may span several VMAs. */
static int dmirror_migrate_leaf(struct dmirror_context *ctx,
				unsigned long start, unsigned long end,
				struct dmirror_vectors *vec, bool to_device,
				unsigned long *moved)
{
	struct mm_struct *mm = ctx->notifier.mm;
	struct dmirror_claim claim;
	unsigned long addr, next;
	int ret;

	if (to_device) {
		ret = dmirror_devmem_grow(ctx->dev);
		if (ret)
			return ret;
		ret = dmirror_pt_prepare(ctx, start);
		if (ret)
			return ret;
	}
	dmirror_claim(ctx, &claim, MMU_NOTIFY_MIGRATE, start, end);
	ret = mmap_read_lock_killable(mm);
	if (!ret) {
		for (addr = start; !ret && addr < end; addr = next) {
			struct vm_area_struct *vma = vma_lookup(mm, addr);

			if (!vma || !(vma->vm_flags & VM_READ)) {
				ret = -EINVAL;
				break;
			}
			next = min(end, vma->vm_end);
			ret = dmirror_migrate_vma(ctx, &claim, vma, addr, next,
						  vec, to_device, moved);
		}
		mmap_read_unlock(mm);
	}
	dmirror_unclaim(ctx, &claim);
	return ret;
}

static int dmirror_migrate(struct dmirror_context *ctx,
			   const struct hmm_dmirror_cmd *cmd, bool to_device,
			   unsigned long *moved)
{
	unsigned long end = cmd->addr + (cmd->npages << PAGE_SHIFT);
	struct dmirror_vectors *vec;
	unsigned long addr, next;
	int ret = 0;

	vec = kvmalloc(sizeof(*vec), GFP_KERNEL);
	if (!vec)
		return -ENOMEM;
	for (addr = cmd->addr; !ret && addr < end; addr = next) {
		next = dmirror_leaf_end(addr, end);
		ret = dmirror_migrate_leaf(ctx, addr, next, vec, to_device,
					   moved);
		if (!ret && fatal_signal_pending(current))
			ret = -EINTR;
		cond_resched();
	}
	kvfree(vec);
	return ret;
}

/* Pages from @addr on that the device page table says are on the device. */
static unsigned long dmirror_resident_prefix(struct dmirror_context *ctx,
					     unsigned long addr,
					     unsigned long npages)
{
	unsigned long n;

	for (n = 0; n < npages; n++) {
		unsigned long entry;

		if (n % DMIRROR_LEAF_PAGES == 0)
			cond_resched();
		mutex_lock(&ctx->lock);
		entry = dmirror_pt_get(ctx, addr + (n << PAGE_SHIFT));
		mutex_unlock(&ctx->lock);
		if (!(entry & DMIRROR_PTE_DEVICE))
			break;
	}
	return n;
}

/*
 * Pages that are on the device already count as done. Those have an entry
 * unless something dropped it while the page stayed, mprotect() for one: then
 * the CPU page table knows. So what is reported is where the pages are, not
 * what the mirror happens to hold (D-07).
 */
static int dmirror_count_resident(struct dmirror_context *ctx,
				  struct hmm_dmirror_cmd *cmd)
{
	int ret = 0;

	cmd->cpages = dmirror_resident_prefix(ctx, cmd->addr, cmd->npages);
	if (cmd->cpages < cmd->npages) {
		unsigned long addr = cmd->addr + (cmd->cpages << PAGE_SHIFT);

		ret = dmirror_map_resident(ctx, addr, cmd->addr +
					   (cmd->npages << PAGE_SHIFT));
		cmd->cpages += dmirror_resident_prefix(ctx, addr, cmd->npages -
						       cmd->cpages);
	}
	return ret;
}

/*
 * -ENOENT when a page did not get to the device; cpages then says where the
 * first such page is. The caller gets the data of the pages before it.
 */
long dmirror_migrate_to_device(struct dmirror_context *ctx,
			       struct hmm_dmirror_cmd *cmd)
{
	unsigned long moved = 0;
	int ret, err;

	if (!mmget_not_zero(ctx->notifier.mm))
		return -EINVAL;
	ret = dmirror_migrate(ctx, cmd, true, &moved);
	err = dmirror_count_resident(ctx, cmd);
	mmput(ctx->notifier.mm);
	if (!ret)
		ret = err;
	if (!ret && cmd->cpages < cmd->npages)
		ret = -ENOENT;
	err = dmirror_copy_mapped(ctx, cmd);
	return ret ? ret : err;
}

/* cpages is how many pages came back; those that were not there do not count. */
long dmirror_migrate_to_system(struct dmirror_context *ctx,
			       struct hmm_dmirror_cmd *cmd)
{
	unsigned long moved = 0;
	int ret;

	if (!mmget_not_zero(ctx->notifier.mm))
		return -EINVAL;
	ret = dmirror_migrate(ctx, cmd, false, &moved);
	mmput(ctx->notifier.mm);
	cmd->cpages = moved;
	mutex_lock(&ctx->lock);
	ctx->counters.pages_to_system += moved;
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
	unsigned long flags, moved = 0, npages = 1, stay = 0;
	vm_fault_t ret = 0;

	/* Mapped by a PMD: the folio comes back as a whole. */
	if (dmirror_fault_is_huge(vmf)) {
		npages = HPAGE_PMD_NR;
		args.start &= PMD_MASK;
		args.flags |= MIGRATE_VMA_SELECT_COMPOUND;
	}
	args.end = args.start + (npages << PAGE_SHIFT);

	args.src = kcalloc(2 * npages, sizeof(*args.src), GFP_KERNEL);
	if (!args.src)
		return VM_FAULT_OOM;
	args.dst = args.src + npages;

	if (migrate_vma_setup(&args)) {
		ret = VM_FAULT_SIGBUS;
		goto out;
	}
	stay = dmirror_alloc_and_copy(&to, args.src, args.dst, args.start,
				      args.npages);
	migrate_vma_pages(&args);
	moved = dmirror_count_moved(args.src, args.dst, args.npages);
	migrate_vma_finalize(&args);
	if (stay)
		ret = VM_FAULT_OOM;
out:
	kfree(args.src);
	spin_lock_irqsave(&dev->lock, flags);
	dev->cpu_faults++;
	dev->pages_faulted += moved;
	spin_unlock_irqrestore(&dev->lock, flags);
	return ret;
}

/*
 * Bring back what is in use of @npages device pages from @pfn on, a block,
 * whoever maps them. Pages that are locked or busy stay: call again.
 */
void dmirror_evict(struct dmirror_device *dev, unsigned long pfn,
		   unsigned long npages)
{
	struct dmirror_target to = { .whole = true };
	struct dmirror_vectors *vec;
	unsigned long flags, moved;

	vec = kvzalloc(sizeof(*vec), GFP_KERNEL);
	if (!vec)
		return;
	migrate_device_range(vec->src, pfn, npages);
	dmirror_alloc_and_copy(&to, vec->src, vec->dst, 0, npages);
	migrate_device_pages(vec->src, vec->dst, npages);
	moved = dmirror_count_moved(vec->src, vec->dst, npages);
	migrate_device_finalize(vec->src, vec->dst, npages);
	kvfree(vec);

	spin_lock_irqsave(&dev->lock, flags);
	dev->pages_evicted += moved;
	spin_unlock_irqrestore(&dev->lock, flags);
}
