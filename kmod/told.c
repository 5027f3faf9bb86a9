// SPDX-License-Identifier: GPL-2.0
/*
 * DMIRROR_MIGRATE: a migration with every choice the caller's, and the vectors
 * of each phase for answer.
 */
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "migrate.h"

static u64 dmirror_word(unsigned long word)
{
	return (word & MIGRATE_PFN_VALID ? DMIRROR_WORD_VALID : 0) |
		(word & MIGRATE_PFN_MIGRATE ? DMIRROR_WORD_MIGRATE : 0) |
		(word & MIGRATE_PFN_WRITE ? DMIRROR_WORD_WRITE : 0) |
		(word & MIGRATE_PFN_COMPOUND ? DMIRROR_WORD_COMPOUND : 0) |
		(u64)(word >> MIGRATE_PFN_SHIFT) << DMIRROR_WORD_PFN_SHIFT;
}

/* Write down the vectors as they are after @phase. */
void dmirror_note_words(const struct dmirror_told *told,
			const struct migrate_vma *args,
			enum dmirror_phase phase)
{
	struct dmirror_words *words;
	unsigned long i;

	if (!told->words)
		return;
	words = told->words + ((args->start - told->start) >> PAGE_SHIFT);
	for (i = 0; i < args->npages; i++, words++) {
		u64 src = dmirror_word(args->src[i]);
		u64 dst = dmirror_word(args->dst[i]);

		switch (phase) {
		case DMIRROR_PHASE_SETUP:
			words->setup_src = src;
			break;
		case DMIRROR_PHASE_COPIED:
			words->copied_dst = dst;
			break;
		case DMIRROR_PHASE_PAGES:
			words->pages_src = src;
			words->pages_dst = dst;
			break;
		default:
			words->final_src = src;
			words->final_dst = dst;
		}
	}
}

/* The reference too many that DMIRROR_HOW_REFERENCE asks for. */
static void dmirror_take_references(struct dmirror_told *told,
				    const struct migrate_vma *args)
{
	unsigned long first, i;

	if (!told->how)
		return;
	first = (args->start - told->start) >> PAGE_SHIFT;
	for (i = 0; i < args->npages; i++) {
		struct page *page = migrate_pfn_to_page(args->src[i]);

		if (!page || !(told->how[first + i] & DMIRROR_HOW_REFERENCE))
			continue;
		get_page(page);
		told->referenced[first + i] = page;
	}
}

static void dmirror_drop_references(struct dmirror_told *told,
				    const struct migrate_vma *args)
{
	unsigned long first, i;

	if (!told->how)
		return;
	first = (args->start - told->start) >> PAGE_SHIFT;
	for (i = first; i < first + args->npages; i++) {
		if (told->referenced[i])
			put_page(told->referenced[i]);
		told->referenced[i] = NULL;
	}
}

/* After migrate_vma_setup() */
void dmirror_told_setup(struct dmirror_told *told,
			const struct migrate_vma *args)
{
	told->call->collected += args->cpages;
	dmirror_note_words(told, args, DMIRROR_PHASE_SETUP);
	dmirror_take_references(told, args);
}

/* After migrate_vma_finalize() */
void dmirror_told_end(struct dmirror_told *told, const struct migrate_vma *args)
{
	dmirror_drop_references(told, args);
	dmirror_note_words(told, args, DMIRROR_PHASE_END);
}

/* What to do with @npages pages from page @first of the call on. */
static int dmirror_get_choices(struct dmirror_told *told, unsigned long first,
			       unsigned long npages)
{
	unsigned long i;

	if (copy_from_user(told->how, u64_to_user_ptr(told->call->how) + first,
			   npages))
		return -EFAULT;
	for (i = 0; i < npages; i++)
		if (told->how[i] & ~(DMIRROR_HOW_SKIP | DMIRROR_HOW_REFERENCE))
			return -EINVAL;
	return 0;
}

/* As DMIRROR_MIGRATE says: once; a page that stays is left there. */
int dmirror_leaf_as_told(struct dmirror_job *job, unsigned long start,
			 unsigned long end, unsigned long *next)
{
	struct dmirror_told *told = job->told;
	unsigned long first = (start - told->call->addr) >> PAGE_SHIFT;
	unsigned long npages = (end - start) >> PAGE_SHIFT;
	unsigned long stopped;
	int ret;

	told->start = start;
	if (told->how) {
		ret = dmirror_get_choices(told, first, npages);
		if (ret)
			return ret;
	}
	if (told->words)
		memset(told->words, 0, npages * sizeof(*told->words));
	if (job->grant) {
		ret = dmirror_leaf_to_device(job, start, end, next);
	} else {
		ret = dmirror_migrate_range(job, start, end, &stopped);
		*next = ret ? stopped : end;
	}
	if (!ret && told->words &&
	    copy_to_user((struct dmirror_words __user *)
			 u64_to_user_ptr(told->call->words) + first,
			 told->words,
			 ((*next - start) >> PAGE_SHIFT) *
				sizeof(*told->words)))
		ret = -EFAULT;
	return ret;
}

/* Room for the choices and answers of one leaf of @call. */
static int dmirror_told_get(struct dmirror_told *told,
			    struct dmirror_migrate *call)
{
	unsigned long npages = min_t(u64, call->npages, DMIRROR_LEAF_PAGES);
	int ret = 0;

	*told = (struct dmirror_told){ .call = call };
	if (call->how) {
		told->how = kvmalloc(npages, GFP_KERNEL);
		told->referenced = kvcalloc(npages, sizeof(*told->referenced),
					    GFP_KERNEL);
		if (!told->how || !told->referenced)
			ret = -ENOMEM;
	}
	if (call->words) {
		told->words = kvmalloc_array(npages, sizeof(*told->words),
					     GFP_KERNEL);
		if (!told->words)
			ret = -ENOMEM;
	}
	return ret;
}

static void dmirror_told_put(struct dmirror_told *told)
{
	kvfree(told->how);
	kvfree(told->referenced);
	kvfree(told->words);
}

/* DMIRROR_MIGRATE */
long dmirror_migrate_as_told(struct dmirror_context *ctx,
			     struct dmirror_migrate *call)
{
	const u32 selects = DMIRROR_SELECT_SYSTEM | DMIRROR_SELECT_PRIVATE |
		DMIRROR_SELECT_COHERENT | DMIRROR_SELECT_COMPOUND;
	struct dmirror_told told;
	struct dmirror_grant grant;
	struct dmirror_job job = { .ctx = ctx, .told = &told };
	int ret;

	call->done = 0;
	call->collected = 0;
	call->moved = 0;
	if (call->flags & ~(DMIRROR_MIGRATE_TO_DEVICE | DMIRROR_MIGRATE_OBEY) ||
	    call->owner > DMIRROR_OWNER_NONE || call->select & ~selects ||
	    call->order > DMIRROR_ORDER_HUGE || call->reserved)
		return -EINVAL;
	/* Before there are huge device folios the core leaks what it is given. */
	if (call->order == DMIRROR_ORDER_HUGE && !MIGRATE_PFN_COMPOUND)
		return -EOPNOTSUPP;
	if (call->flags & DMIRROR_MIGRATE_TO_DEVICE) {
		dmirror_call_begin(&grant, ctx->dev, ctx->id);
		job.grant = &grant;
	}
	ret = dmirror_told_get(&told, call);
	if (!ret) {
		ret = dmirror_migrate(&job, call->addr,
				      call->addr + (call->npages << PAGE_SHIFT));
		call->done = (job.stopped - call->addr) >> PAGE_SHIFT;
	}
	call->moved = job.moved;
	dmirror_told_put(&told);
	return ret;
}
