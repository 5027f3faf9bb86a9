/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Every difference between kernels, in one place. Which form a kernel has is
 * asked by compiling compat/probes/, never concluded from its version; the
 * answers are in compat/probes.h, made by compat/probe.sh.
 */
#ifndef DMIRROR_COMPAT_H
#define DMIRROR_COMPAT_H

#include <linux/err.h>
#include <linux/gfp.h>
#include <linux/hmm.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/rmap.h>

#include "probes.h"

/*
 * DMIRROR_HAVE_FOLIO_FREE: dev_pagemap_ops has folio_free instead of
 * page_free. "mm/zone_device: rename page_free callback to folio_free", 6.19.
 */

/*
 * DMIRROR_HAVE_DEVICE_THP: device-private folios of PMD size: migrate_vma
 * selects and reports them with *_COMPOUND and dev_pagemap_ops has folio_split.
 * "mm/zone_device: support large zone device private folios", 6.19.
 */
#ifndef DMIRROR_HAVE_DEVICE_THP
#define MIGRATE_PFN_COMPOUND		0UL
#define MIGRATE_VMA_SELECT_COMPOUND	0UL
#endif

/* The CPU fault is on a PMD, not on a PTE. */
static inline bool dmirror_fault_is_huge(const struct vm_fault *vmf)
{
#ifdef DMIRROR_HAVE_DEVICE_THP
	return !vmf->pte;
#else
	return false;
#endif
}

/*
 * A system folio of PMD size for a device folio of that size. Before there are
 * any nobody asks; vma_alloc_folio() had a fifth argument until 6.13.
 */
static inline struct folio *dmirror_vma_alloc_folio(gfp_t gfp,
						    unsigned int order,
						    struct vm_area_struct *vma,
						    unsigned long addr)
{
#ifdef DMIRROR_HAVE_DEVICE_THP
	return vma_alloc_folio(gfp, order, vma, addr);
#else
	return NULL;
#endif
}

/*
 * DMIRROR_HAVE_PAGE_PGMAP: the page map moved from struct page to the folio.
 * "mm: allow compound zone device pages", 6.15.
 */
static inline struct dev_pagemap *dmirror_pagemap(const struct page *page)
{
#ifdef DMIRROR_HAVE_PAGE_PGMAP
	return page_pgmap(page);
#else
	return page->pgmap;
#endif
}

/*
 * DMIRROR_HAVE_INIT_ORDER: zone_device_page_init() takes the page map and an
 * order. "mm/zone_device: reinitialize large zone device private folios", 7.0.
 */
static inline void dmirror_init_page(struct page *page,
				     struct dev_pagemap *pagemap,
				     unsigned int order)
{
#ifdef DMIRROR_HAVE_INIT_ORDER
	/* A free page: it may look like the tail of what it was part of. */
	zone_device_folio_init((struct folio *)page, pagemap, order);
#else
	zone_device_page_init(page);
#endif
}

/*
 * DMIRROR_HAVE_BULK_ALLOC: alloc_pages_bulk() fills an array; it was called
 * alloc_pages_bulk_array() until 6.14.
 */
static inline unsigned long dmirror_alloc_bulk(gfp_t gfp, unsigned long n,
					       struct page **pages)
{
#ifdef DMIRROR_HAVE_BULK_ALLOC
	return alloc_pages_bulk(gfp, n, pages);
#else
	return alloc_pages_bulk_array(gfp, n, pages);
#endif
}

/*
 * DMIRROR_HAVE_EXCLUSIVE_PAGE: make_device_exclusive() for one page replaced
 * make_device_exclusive_range(). "mm/rmap: convert
 * make_device_exclusive_range() to make_device_exclusive()", 6.15. With the old
 * form a page may come back NULL: it could not be locked, which passes, or is
 * part of a huge page or not anonymous, which does not.
 */
#ifdef DMIRROR_HAVE_EXCLUSIVE_PAGE
#define DMIRROR_EXCLUSIVE_MAY_MIGRATE	true
#else
/*
 * try_to_migrate() takes an exclusive entry for a present one until "mm/rmap:
 * handle device-exclusive entries correctly in try_to_migrate_one()" of the
 * same series: the page is never unmapped again.
 */
#define DMIRROR_EXCLUSIVE_MAY_MIGRATE	false
#endif

static inline struct page *dmirror_make_exclusive(struct mm_struct *mm,
						  unsigned long addr,
						  void *owner,
						  struct folio **folio)
{
#ifdef DMIRROR_HAVE_EXCLUSIVE_PAGE
	return make_device_exclusive(mm, addr, owner, folio);
#else
	struct page *page = NULL;
	int ret = make_device_exclusive_range(mm, addr, addr + PAGE_SIZE,
					      &page, owner);

	if (ret < 0)
		return ERR_PTR(ret);
	if (page)
		*folio = page_folio(page);
	return page;
#endif
}

/*
 * DMIRROR_HAVE_TWO_PASS: mmu_interval_notifier_ops has invalidate_start and
 * invalidate_finish. 7.2 has them, 6.12 has not.
 */

/*
 * DMIRROR_HAVE_CARRIED: flags that hmm_range_fault() leaves where they are, for
 * hmm_dma_map_pfn(). 7.2 has them, 6.12 has not.
 */
#ifndef DMIRROR_HAVE_CARRIED
#define HMM_PFN_DMA_MAPPED	0UL
#define HMM_PFN_P2PDMA		0UL
#define HMM_PFN_P2PDMA_BUS	0UL
#endif

/*
 * DMIRROR_HAVE_FAULT_UNLOCKED: hmm_range_fault_unlocked_timeout(), which lets
 * a fault handler drop the mmap lock. 7.3.
 */
static inline int dmirror_hmm_fault_unlocked(struct hmm_range *range,
					     unsigned long timeout)
{
#ifdef DMIRROR_HAVE_FAULT_UNLOCKED
	return hmm_range_fault_unlocked_timeout(range, timeout);
#else
	return -EOPNOTSUPP;
#endif
}

#endif
