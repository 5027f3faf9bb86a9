// SPDX-License-Identifier: GPL-2.0
/*
 * The way back to system memory that no call asks for: CPU faults and eviction.
 */
#include <linux/migrate.h>
#include <linux/slab.h>

#include "migrate.h"

/*
 * Held for writing by who evicts, and for reading while a page of a coherent
 * device may have an exclusive entry, where the kernel cannot migrate those.
 * Taken before any mmap or folio lock.
 */
DECLARE_RWSEM(dmirror_evict_sem);

/*
 * A CPU touched a page of ours. No context is involved and none is looked for:
 * each one that mirrors the page, in whatever process, obeys the event that
 * the migration raises.
 */
vm_fault_t dmirror_migrate_to_ram(struct vm_fault *vmf)
{
	struct dmirror_device *dev = dmirror_page_device(vmf->page);
	const bool steered = dmirror_is_steered(dev);
	const struct dmirror_pass pass = {
		.dev = dev,
		.steered = steered,
		.id = steered ? dmirror_page_owner(vmf->page) : 0,
		.event = DMIRROR_EVENT_CPU_BEGIN,
		.point = DMIRROR_HOLD_CPU_BEGIN,
	};
	struct dmirror_target to = {
		.dev = dev,
		.id = pass.id,
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
	u64 huge = 0;

	/* The address space stays as it is for all of what follows. */
	WARN_ON_ONCE(!rwsem_is_locked(&vmf->vma->vm_mm->mmap_lock));
	/* Mapped by a PMD: the folio comes back as a whole. */
	if (dmirror_fault_is_huge(vmf)) {
		npages = HPAGE_PMD_NR;
		args.start &= PMD_MASK;
		args.flags |= MIGRATE_VMA_SELECT_COMPOUND;
	}
	args.end = args.start + (npages << PAGE_SHIFT);

	args.src = npages == 1 ? one :
		kcalloc(2 * npages, sizeof(*args.src), GFP_KERNEL);
	if (!args.src) {
		ret = VM_FAULT_OOM;
		goto out;
	}
	args.dst = args.src + npages;

	dmirror_enter(&pass, &args, DMIRROR_PHASE_BEGIN);
	if (migrate_vma_setup(&args)) {
		ret = VM_FAULT_SIGBUS;
		goto out;
	}
	dmirror_enter(&pass, &args, DMIRROR_PHASE_SETUP);
	stays = dmirror_alloc_and_copy(&to, args.src, args.dst, args.start,
				       args.npages);
	dmirror_enter(&pass, &args, DMIRROR_PHASE_COPIED);
	migrate_vma_pages(&args);
	dmirror_enter(&pass, &args, DMIRROR_PHASE_PAGES);
	moved = dmirror_count_moved(&to, args.src, args.dst, args.npages,
				    &huge);
	dmirror_enter(&pass, &args, DMIRROR_PHASE_MAPPED);
	migrate_vma_finalize(&args);
	if (stays < args.npages)
		ret = to.error == -ENOMEM ? VM_FAULT_OOM : VM_FAULT_SIGBUS;
	dmirror_enter(&pass, &args, DMIRROR_PHASE_END);
out:
	if (args.src != one)
		kfree(args.src);
	spin_lock_irqsave(&dev->lock, flags);
	dev->cpu_faults++;
	dev->pages_faulted += moved;
	if (unlikely(ret)) {
		dev->fault_oom += !!(ret & VM_FAULT_OOM);
		dev->fault_failed += !!(ret & VM_FAULT_SIGBUS);
	}
	spin_unlock_irqrestore(&dev->lock, flags);
	return ret;
}

/* A record for each folio that moves, in the log of who migrated it. */
static void dmirror_log_evicted(struct dmirror_device *dev,
				const struct dmirror_vectors *vec,
				unsigned long npages)
{
	unsigned long i, nr;

	if (!dmirror_is_observed(dev))
		return;
	for (i = 0; i < npages; i += nr) {
		struct page *page = migrate_pfn_to_page(vec->src[i]);

		nr = vec->dst[i] & MIGRATE_PFN_COMPOUND ? HPAGE_PMD_NR : 1;
		if (page && vec->dst[i] && vec->src[i] & MIGRATE_PFN_MIGRATE)
			dmirror_log_action(dev, dmirror_page_owner(page),
					   DMIRROR_EVENT_EVICT, 0, 0, nr,
					   dmirror_page_index(page), 0);
	}
}

/*
 * Bring back what is in use of @npages device pages from @pfn on, at most a
 * block, whoever maps them. Returns how many came; those that are locked or
 * busy stay. The caller sees to it that the page map stays.
 */
unsigned long dmirror_evict(struct dmirror_device *dev, unsigned long pfn,
			    unsigned long npages)
{
	struct dmirror_target to = { .dev = dev, .whole = true };
	struct dmirror_vectors vec;
	unsigned long flags, moved;
	u64 huge = 0;

	if (dmirror_vectors_get(&vec, npages))
		return 0;
	if (!DMIRROR_EXCLUSIVE_MAY_MIGRATE)
		down_write(&dmirror_evict_sem);
	migrate_device_range(vec.src, pfn, npages);
	dmirror_fill_pool(&to, &vec, npages);
	dmirror_alloc_and_copy(&to, vec.src, vec.dst, 0, npages);
	dmirror_drain_pool(&to);
	migrate_device_pages(vec.src, vec.dst, npages);
	moved = dmirror_count_moved(&to, vec.src, vec.dst, npages, &huge);
	dmirror_log_evicted(dev, &vec, npages);
	migrate_device_finalize(vec.src, vec.dst, npages);
	if (!DMIRROR_EXCLUSIVE_MAY_MIGRATE)
		up_write(&dmirror_evict_sem);
	dmirror_vectors_put(&vec);

	spin_lock_irqsave(&dev->lock, flags);
	dev->pages_evicted += moved;
	spin_unlock_irqrestore(&dev->lock, flags);
	return moved;
}
