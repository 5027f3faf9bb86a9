/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the parts of migration share: copy.c has the destinations, migrate.c the
 * calls of a context, told.c what DMIRROR_MIGRATE adds to them, back.c the way
 * back that nobody called for.
 */
#ifndef DMIRROR_MIGRATE_H
#define DMIRROR_MIGRATE_H

#include <linux/migrate.h>

#include "context.h"

/* Source and destination words and system pages, for one leaf or less. */
struct dmirror_vectors {
	unsigned long *src;
	unsigned long *dst;
	struct page **pool;
	unsigned long one[3];	/* of a single page */
};

/* Where destinations come from, and what becomes of that. */
struct dmirror_target {
	struct dmirror_device *dev;	/* which one migrates */
	u32 id;				/* for which context; 0: that of each page */
	struct dmirror_grant *grant;	/* of a device, or NULL: the system */
	struct vm_area_struct *vma;	/* for the policy of system pages */
	unsigned long *fail_alloc;	/* FLAGS of the context, or NULL */
	const u8 *how;			/* DMIRROR_HOW_* of each page, or NULL */
	u32 order;			/* DMIRROR_ORDER_* */
	/*
	 * A CPU fault or eviction: the source has a reference too many, or no
	 * page tables at hand, for the core to split it. One that is huge gets
	 * a huge destination or none.
	 */
	bool whole;
	bool cpu_waits;			/* for a page that must be had */
	struct page **pool;		/* system pages had at once */
	unsigned long nr_pool;		/* how many are left of them */
	int error;			/* why a page stays that need not */
	u64 *stayed;			/* pages by DMIRROR_STAYED_*, or NULL */
};

static inline void dmirror_stays(struct dmirror_target *to, unsigned int reason,
				 unsigned long npages)
{
	if (to->stayed)
		to->stayed[reason] += npages;
}

/* One migration of the core's, and where it is. */
struct dmirror_pass {
	struct dmirror_device *dev;
	bool steered;	/* somebody watched or steered the device as it began */
	u32 id;		/* of the context that it is done for */
	u16 event;	/* DMIRROR_EVENT_MIGRATE_BEGIN or DMIRROR_EVENT_CPU_BEGIN */
	u32 point;	/* DMIRROR_HOLD_MIGRATE_BEGIN or DMIRROR_HOLD_CPU_BEGIN */
};

/*
 * Events are in this order, and hold points but for the last, where a CPU fault
 * alone is held.
 */
enum dmirror_phase {
	DMIRROR_PHASE_BEGIN,
	DMIRROR_PHASE_SETUP,
	DMIRROR_PHASE_COPIED,
	DMIRROR_PHASE_PAGES,
	DMIRROR_PHASE_MAPPED,
	DMIRROR_PHASE_END,
};

/*
 * What DMIRROR_MIGRATE adds to a call: choices and answers for each page of the
 * part of it that is under way.
 */
struct dmirror_told {
	struct dmirror_migrate *call;
	unsigned long start;	/* the address that the arrays begin with */
	u8 *how;		/* DMIRROR_HOW_*, or NULL */
	struct page **referenced;	/* with how: what has a reference more */
	struct dmirror_words *words;	/* or NULL */
};

/*
 * One call of a context and what it has at hand, for one leaf after the other.
 * @grant is part of a call that begins with dmirror_call_begin(), or NULL on
 * the way to system memory, where no entries are installed either.
 */
struct dmirror_job {
	struct dmirror_context *ctx;
	struct dmirror_grant *grant;
	struct dmirror_told *told;	/* or NULL */
	struct dmirror_vectors vec;
	struct dmirror_claim claim;
	u64 moved;
	u64 huge;		/* folios of PMD_SIZE that moved */
	u64 stayed[DMIRROR_STAYED_CORE + 1];
	int error;		/* why the last page stayed that need not */
	unsigned long stopped;	/* with an error: the first address not done */
};

/* copy.c */
int dmirror_vectors_get(struct dmirror_vectors *vec, unsigned long npages);
void dmirror_vectors_put(struct dmirror_vectors *vec);
void dmirror_fill_pool(struct dmirror_target *to,
		       const struct dmirror_vectors *vec, unsigned long npages);
void dmirror_drain_pool(struct dmirror_target *to);
unsigned long dmirror_alloc_and_copy(struct dmirror_target *to,
				     const unsigned long *src,
				     unsigned long *dst, unsigned long start,
				     unsigned long npages);
unsigned long dmirror_count_moved(struct dmirror_target *to,
				  const unsigned long *src,
				  const unsigned long *dst,
				  unsigned long npages, u64 *huge);

/* migrate.c */
void dmirror_tell_phase(const struct dmirror_pass *pass,
			const struct migrate_vma *args,
			enum dmirror_phase phase);
int dmirror_migrate_range(struct dmirror_job *job, unsigned long start,
			  unsigned long end, unsigned long *stopped);
int dmirror_leaf_to_device(struct dmirror_job *job, unsigned long start,
			   unsigned long end, unsigned long *next);
int dmirror_migrate(struct dmirror_job *job, unsigned long addr,
		    unsigned long end);

/* Where the data of page @i of the folio of @page are. */
static inline struct page *dmirror_nth_backing(struct page *page,
					       unsigned long i)
{
	return dmirror_own_backing(folio_page(page_folio(page), i));
}

/* Where those of page @i of a folio that moves to @dst shall be. */
static inline struct page *dmirror_nth_target(const unsigned long *dst,
					      unsigned long i)
{
	if (dst[0] & MIGRATE_PFN_COMPOUND)
		return dmirror_nth_backing(migrate_pfn_to_page(dst[0]), i);
	return dmirror_own_backing(migrate_pfn_to_page(dst[i]));
}

/* @args has come to @phase: it is told, and waits where somebody wants that. */
static inline void dmirror_enter(const struct dmirror_pass *pass,
				 const struct migrate_vma *args,
				 enum dmirror_phase phase)
{
	if (likely(!pass->steered))
		return;
	if (dmirror_is_observed(pass->dev))
		dmirror_tell_phase(pass, args, phase);
	if (phase != DMIRROR_PHASE_END)
		dmirror_hold_at(pass->dev, pass->id, pass->point + phase,
				args->start, args->end);
	else if (pass->point == DMIRROR_HOLD_CPU_BEGIN)
		dmirror_hold_at(pass->dev, pass->id, DMIRROR_HOLD_CPU_END,
				args->start, args->end);
}

/* told.c */
int dmirror_leaf_as_told(struct dmirror_job *job, unsigned long start,
			 unsigned long end, unsigned long *next);
void dmirror_note_words(const struct dmirror_told *told,
			const struct migrate_vma *args,
			enum dmirror_phase phase);
void dmirror_told_setup(struct dmirror_told *told,
			const struct migrate_vma *args);
void dmirror_told_end(struct dmirror_told *told,
		      const struct migrate_vma *args);

#endif
