// SPDX-License-Identifier: GPL-2.0
/*
 * The alloc-and-copy step of a migration: where destinations come from, and
 * their data.
 *
 * A huge source gets either a huge destination or all small ones, never some of
 * them, unless a test wants it: the core takes every destination of a huge folio
 * it splits for granted.
 */
#include <linux/highmem.h>
#include <linux/memcontrol.h>
#include <linux/pagemap.h>
#include <linux/slab.h>

#include "migrate.h"

/* For @npages at a time; all of them 0. */
int dmirror_vectors_get(struct dmirror_vectors *vec, unsigned long npages)
{
	if (npages == 1) {
		/* The allocator costs as much as the copy of a page. */
		memset(vec->one, 0, sizeof(vec->one));
		vec->src = vec->one;
	} else {
		vec->src = kvcalloc(npages, sizeof(vec->one), GFP_KERNEL);
	}
	vec->dst = vec->src + npages;
	vec->pool = (struct page **)(vec->dst + npages);
	return vec->src ? 0 : -ENOMEM;
}

void dmirror_vectors_put(struct dmirror_vectors *vec)
{
	if (vec->src != vec->one)
		kvfree(vec->src);
}

/*
 * Have a system page at hand for every small source: one by one they cost half
 * as much as the copy. On several nodes the memory's policy is asked for each.
 */
void dmirror_fill_pool(struct dmirror_target *to,
		       const struct dmirror_vectors *vec, unsigned long npages)
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

void dmirror_drain_pool(struct dmirror_target *to)
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

/* @id: the context for which it is. */
static struct page *dmirror_alloc_target(struct dmirror_target *to, u32 id,
					 unsigned long addr, unsigned int order)
{
	if (to->fail_alloc && test_and_clear_bit(0, to->fail_alloc))
		return NULL;
	if (dmirror_injected(to->dev, id, to->grant ?
			     DMIRROR_INJECT_DEVICE_ALLOC :
			     DMIRROR_INJECT_SYSTEM_ALLOC))
		return NULL;
	if (to->grant)
		return dmirror_devmem_alloc(to->grant, order);
	return dmirror_alloc_system(to, addr, order);
}

/* Undo the allocation of what is in @n destinations, which holds nothing yet. */
static void dmirror_free_targets(unsigned long *dst, unsigned long n)
{
	while (n--) {
		struct page *page = migrate_pfn_to_page(dst[n]);

		dst[n] = 0;
		if (!page)
			continue;
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
	bool charged;

	/* It may be reparented, but not to none. */
	rcu_read_lock();
	charged = mem_cgroup_disabled() || folio_memcg(page_folio(page));
	rcu_read_unlock();
	return !charged;
}

/* Pages of @nr that the caller wants to stay. */
static unsigned long dmirror_count_skipped(const u8 *how, unsigned long nr)
{
	unsigned long i, n = 0;

	if (!how)
		return 0;
	for (i = 0; i < nr; i++)
		n += !!(how[i] & DMIRROR_HOW_SKIP);
	return n;
}

/* The order of what is to become of one source of @nr pages at @addr. */
static unsigned int dmirror_target_order(const struct dmirror_target *to,
					 unsigned long addr, unsigned long nr,
					 bool skips)
{
	if (to->order == DMIRROR_ORDER_HUGE && IS_ALIGNED(addr, PMD_SIZE))
		return HPAGE_PMD_ORDER;
	if (to->order == DMIRROR_ORDER_SMALL || skips)
		return 0;
	return ilog2(nr);
}

/*
 * @nr destinations for one source folio or hole; false when it stays. What is
 * skipped has none: of a huge source the core does not expect that.
 */
static bool dmirror_get_targets(struct dmirror_target *to, u32 id,
				unsigned long addr, unsigned long *dst,
				unsigned long nr, const u8 *how)
{
	bool skips = dmirror_count_skipped(how, nr);
	struct page *page = NULL;
	unsigned int order = 0;
	unsigned long i;

	if (nr > 1 || to->order != DMIRROR_ORDER_SOURCE)
		order = dmirror_target_order(to, addr, nr, skips);
	if (order || nr == 1)
		page = dmirror_alloc_target(to, id, addr, order);
	if (page) {
		dst[0] = migrate_pfn(page_to_pfn(page)) |
			(order ? MIGRATE_PFN_COMPOUND : 0);
		return true;
	}
	if (nr == 1 || to->whole)
		return false;
	for (i = 0; i < nr; i++) {
		if (skips && how[i] & DMIRROR_HOW_SKIP)
			continue;
		page = dmirror_alloc_target(to, id, addr + (i << PAGE_SHIFT),
					    0);
		if (!page) {
			dmirror_free_targets(dst, i);
			return false;
		}
		dst[i] = migrate_pfn(page_to_pfn(page));
	}
	return true;
}

/* Fill the destinations of one source folio of @nr pages, or of a hole. */
static void dmirror_copy_folio(const struct dmirror_target *to,
			       struct page *page, const unsigned long *dst,
			       unsigned long nr)
{
	unsigned long i;

	for (i = 0; i < nr; i++) {
		struct page *target, *source;

		if (!(dst[0] & MIGRATE_PFN_COMPOUND) && !dst[i])
			continue;
		target = dmirror_nth_target(dst, i);
		if (!page) {
			clear_highpage(target);
			continue;
		}
		source = dmirror_nth_backing(page, i);
		copy_highpage(target, source);
		/* What the device wrote must not come back clean. */
		if (!to->grant && PageDirty(source))
			SetPageDirty(target);
	}
}

/*
 * Why a source that setup offers stays where it is without having been tried:
 * DMIRROR_STAYED_*, or -1 when it shall move. For eviction, which finds pages
 * without a VMA, nobody counts the reasons.
 */
static int dmirror_reason_to_stay(const struct dmirror_target *to,
				  struct page *page, const u8 *how,
				  unsigned long nr)
{
	/* A hole or the zero page: only a device fills it. */
	if (!page && !to->grant)
		return DMIRROR_STAYED_KIND;
	if (page && !to->vma && dmirror_left_behind(page))
		return DMIRROR_STAYED_KIND;
	/* The core refuses it later; it may not even be readable. */
	if (page && to->grant && !PageAnon(page))
		return DMIRROR_STAYED_KIND;
	if (dmirror_count_skipped(how, nr) == nr)
		return DMIRROR_STAYED_SKIPPED;
	return -1;
}

/*
 * Destinations with the data of one source at @addr: a folio of @nr pages, or
 * without a @page a hole. An error when it should move and cannot.
 */
static int dmirror_copy_source(struct dmirror_target *to, struct page *page,
			       unsigned long *dst, unsigned long addr,
			       unsigned long nr, const u8 *how)
{
	int reason = dmirror_reason_to_stay(to, page, how, nr);
	u32 id = to->id;

	if (reason >= 0) {
		dmirror_stays(to, reason, nr);
		return 0;
	}
	if (!id && dmirror_is_steered(to->dev))
		id = dmirror_page_owner(page);
	if (!dmirror_get_targets(to, id, addr, dst, nr, how)) {
		dmirror_stays(to, DMIRROR_STAYED_MEMORY, nr);
		return -ENOMEM;
	}
	if (dmirror_injected(to->dev, id, DMIRROR_INJECT_COPY)) {
		dmirror_free_targets(dst, nr);
		dmirror_stays(to, DMIRROR_STAYED_COPY, nr);
		return -EIO;
	}
	if (how)
		dmirror_stays(to, DMIRROR_STAYED_SKIPPED,
			      dmirror_count_skipped(how, nr));
	dmirror_copy_folio(to, page, dst, nr);
	return 0;
}

/*
 * The alloc-and-copy step. The sources are locked and unmapped, and no device
 * entry for them is left. Returns the index of the first page that should move
 * and got no copy, @npages when all have one; the last error is in @to.
 */
unsigned long dmirror_alloc_and_copy(struct dmirror_target *to,
				     const unsigned long *src,
				     unsigned long *dst, unsigned long start,
				     unsigned long npages)
{
	unsigned long i, nr, stays = npages;
	int error;

	for (i = 0; i < npages; i += nr) {
		struct page *page = migrate_pfn_to_page(src[i]);

		nr = 1;
		if (!(src[i] & MIGRATE_PFN_MIGRATE))
			continue;
		if (src[i] & MIGRATE_PFN_COMPOUND)
			nr = page ? folio_nr_pages(page_folio(page)) :
				    HPAGE_PMD_NR;
		error = dmirror_copy_source(to, page, dst + i,
					    start + (i << PAGE_SHIFT), nr,
					    to->how ? to->how + i : NULL);
		if (error) {
			to->error = error;
			stays = min(stays, i);
		}
	}
	return stays;
}

/*
 * Pages that moved, holes that were filled among them; a huge folio counts all
 * of its pages (D-08). Adds to @huge how many of those there were.
 */
unsigned long dmirror_count_moved(struct dmirror_target *to,
				  const unsigned long *src,
				  const unsigned long *dst,
				  unsigned long npages, u64 *huge)
{
	unsigned long i, nr, moved = 0;

	for (i = 0; i < npages; i += nr) {
		nr = 1;
		if (!dst[i])
			continue;
		if (dst[i] & MIGRATE_PFN_COMPOUND)
			nr = HPAGE_PMD_NR;
		if (!(src[i] & MIGRATE_PFN_MIGRATE)) {
			/* A huge destination was no use to a small source. */
			dmirror_stays(to, DMIRROR_STAYED_CORE,
				      src[i] & MIGRATE_PFN_COMPOUND ? nr : 1);
			continue;
		}
		moved += nr;
		*huge += nr > 1;
	}
	return moved;
}
