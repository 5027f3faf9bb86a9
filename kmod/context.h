/* SPDX-License-Identifier: GPL-2.0 */
/*
 * One open file: the mirror of one address space on one device.
 */
#ifndef DMIRROR_CONTEXT_H
#define DMIRROR_CONTEXT_H

#include <linux/bitmap.h>
#include <linux/fs.h>
#include <linux/hmm.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/mutex.h>
#include <linux/xarray.h>

#include "device.h"
#include "steer.h"
#include "uapi/dmirror.h"
#include "uapi/hmm_dmirror.h"

/* Pages that one leaf of the device page table and one claim can cover. */
#define DMIRROR_LEAF_PAGES	HPAGE_PMD_NR

/*
 * A device page table entry: the page that holds the data, and these bits in
 * the alignment of its address. 0 is no entry.
 */
#define DMIRROR_PTE_WRITE	BIT(0)
#define DMIRROR_PTE_ATOMIC	BIT(1)	/* exclusive, see exclusive.c */
#define DMIRROR_PTE_DEVICE	BIT(2)	/* the data is in memory of this device */
#define DMIRROR_PTE_FLAGS	GENMASK(2, 0)

/**
 * struct dmirror_leaf - the device page table for PMD_SIZE of addresses
 * @nr_present: entries that are not 0
 * @entry: in order of address
 */
struct dmirror_leaf {
	unsigned int nr_present;
	unsigned long entry[DMIRROR_LEAF_PAGES];
};

/**
 * struct dmirror_claim - a range that the running task is about to map
 * @node: on dmirror_context.claims
 * @task: who
 * @event: the event that its own call into the kernel will raise
 * @obey: and which it will obey nevertheless
 * @start: first byte, at least page aligned
 * @end: byte past the last
 * @hit: pages that another task invalidated since the claim was made
 *
 * Between migrate_vma_setup() or make_device_exclusive() and the entry that
 * the driver installs for it, MADV_DONTNEED and others may zap the page table
 * with only a read lock held (D-13). Waiting for them is impossible there,
 * folio locks are held. So a claim is made first, running invalidations are
 * waited for, and pages hit from then on are not installed: a later device
 * fault finds out what became of them.
 */
struct dmirror_claim {
	struct list_head node;
	struct task_struct *task;
	enum mmu_notifier_event event;
	bool obey;
	unsigned long start;
	unsigned long end;
	DECLARE_BITMAP(hit, DMIRROR_LEAF_PAGES);
};

/**
 * struct dmirror_context - a mirrored address space
 * @dev: the device that mirrors it
 * @id: what its pages are marked with; comes round after 2^32 contexts, and
 *	then a close may evict pages of another
 * @notifier: on the whole address space of the process that opened the file;
 *	holds a reference on the mm_struct, not on the address space in it
 * @fail_alloc: bit 0: the next allocation of a migration fails (FLAGS)
 * @opener: process that opened the file
 * @files: its descriptors, to compare with: when it closes one of ours, holds end
 * @events_refused: part of what DMIRROR_COUNTERS reports
 * @steer: how others find the context, and what they find
 * @watch_mutex: protects @watches and @last_watch; the locks that subscribing
 *	takes come after it
 * @watches: struct dmirror_watcher
 * @last_watch: id of the last one made
 * @lock: protects everything below it
 * @leaves: the device page table: leaves by address >> PMD_SHIFT
 * @claims: ranges about to be mapped
 * @counters: the context part of what DMIRROR_COUNTERS reports
 *
 * Lock order: mmap lock, folio locks, the notifier's own, @lock, then
 * dmirror_device.lock and steer_lock. @lock is taken inside invalidate
 * callbacks, so inside reclaim: nothing under it may allocate with reclaim,
 * touch user memory or take any of the locks before it. Every access through the device page table
 * and every removal from it happens under @lock, so that once an entry is
 * gone nobody uses its page any more (D-11, D-12).
 */
struct dmirror_context {
	struct dmirror_device *dev;
	u32 id;
	struct mmu_interval_notifier notifier;
	unsigned long fail_alloc;
	pid_t opener;
	fl_owner_t files;
	atomic64_t events_refused;
	struct dmirror_steer steer;

	struct mutex watch_mutex;	/* protects watches */
	struct list_head watches;
	u32 last_watch;

	struct mutex lock;	/* protects what follows */
	struct xarray leaves;
	struct list_head claims;
	struct dmirror_counters counters;
};

/* pagetable.c */
int dmirror_pt_cache_init(void);
void dmirror_pt_cache_exit(void);
int dmirror_pt_prepare(struct dmirror_context *ctx, unsigned long addr);
void dmirror_pt_unprepare(struct dmirror_context *ctx, unsigned long addr);
struct dmirror_leaf *dmirror_pt_leaf(struct dmirror_context *ctx,
				     unsigned long addr);
struct dmirror_leaf *dmirror_pt_leaf_from(struct dmirror_context *ctx,
					  unsigned long *addr,
					  unsigned long end);
void dmirror_pt_set(struct dmirror_context *ctx, struct dmirror_leaf *leaf,
		    unsigned long addr, unsigned long entry);
unsigned long dmirror_pt_drop(struct dmirror_context *ctx, unsigned long start,
			      unsigned long end, bool unmapped, bool may_sleep);
unsigned long dmirror_pt_count(struct dmirror_context *ctx, unsigned long start,
			       unsigned long end);
void dmirror_pt_destroy(struct dmirror_context *ctx);

/* notifier.c */
extern bool dmirror_filter;
extern const struct mmu_interval_notifier_ops dmirror_notifier_ops;
u16 dmirror_event_type(enum mmu_notifier_event event);
void dmirror_claim(struct dmirror_context *ctx, struct dmirror_claim *claim,
		   enum mmu_notifier_event event, bool obey,
		   unsigned long start, unsigned long end);
void dmirror_unclaim(struct dmirror_context *ctx, struct dmirror_claim *claim);
bool dmirror_claim_hit(const struct dmirror_claim *claim, unsigned long addr);

/**
 * struct dmirror_walker - a walk of the CPU page table and how it is done
 * @range: where, with what flags, and whither
 * @requests: flags for each page that hmm_range_fault() is given, or NULL: none
 * @unlocked: the fault handler may drop the mmap lock
 * @once: walked again by nobody
 * @retries: how often it was
 * @deadline: jiffies, after which it is not
 */
struct dmirror_walker {
	struct hmm_range range;
	const unsigned long *requests;
	bool unlocked;
	bool once;
	unsigned int retries;
	unsigned long deadline;
};

/* walk.c */
int dmirror_walk_lock(struct dmirror_context *ctx,
		      struct dmirror_walker *walker);
long dmirror_walk(struct dmirror_context *ctx, struct dmirror_walk *walk);

/* fault.c */
struct page *dmirror_hmm_page(unsigned long hmm_pfn, unsigned long addr);
int dmirror_fault(struct dmirror_context *ctx, unsigned long start,
		  unsigned long end, bool write, bool unlocked);
int dmirror_map_resident(struct dmirror_context *ctx, unsigned long start,
			 unsigned long end);

/* access.c */
long dmirror_read(struct dmirror_context *ctx, struct hmm_dmirror_cmd *cmd);
long dmirror_read_unlocked(struct dmirror_context *ctx,
			   struct hmm_dmirror_cmd *cmd);
long dmirror_write(struct dmirror_context *ctx, struct hmm_dmirror_cmd *cmd);
long dmirror_give_data(struct dmirror_context *ctx, struct hmm_dmirror_cmd *cmd,
		       long ret);
long dmirror_peek(struct dmirror_context *ctx, struct dmirror_peek *peek,
		  bool poke);

/* snapshot.c */
long dmirror_snapshot(struct dmirror_context *ctx, struct hmm_dmirror_cmd *cmd);

/* migrate.c */
long dmirror_migrate_to_device(struct dmirror_context *ctx,
			       struct hmm_dmirror_cmd *cmd);
long dmirror_migrate_to_system(struct dmirror_context *ctx,
			       struct hmm_dmirror_cmd *cmd);

/* told.c */
long dmirror_migrate_as_told(struct dmirror_context *ctx,
			     struct dmirror_migrate *call);

/* exclusive.c */
long dmirror_exclusive(struct dmirror_context *ctx,
		       struct hmm_dmirror_cmd *cmd);
long dmirror_check_exclusive(struct dmirror_context *ctx,
			     struct hmm_dmirror_cmd *cmd);
long dmirror_exclusive_as_told(struct dmirror_context *ctx,
			       struct dmirror_exclusive *told);

/* watch.c */
long dmirror_watch(struct dmirror_context *ctx, struct dmirror_watch *watch);
long dmirror_unwatch(struct dmirror_context *ctx, struct dmirror_watch *watch);
void dmirror_watches_end(struct dmirror_context *ctx);

/* counters.c */
void dmirror_counters(struct dmirror_context *ctx,
		      struct dmirror_counters *counters);
void dmirror_debugfs_add(struct dmirror_device *dev, struct dentry *folder);

/* own.c */
long dmirror_own_ioctl(struct dmirror_context *ctx, unsigned int number,
		       void __user *uarg);

/* ioctl.c */
bool dmirror_range_valid(u64 addr, u64 npages);
long dmirror_ioctl(struct file *file, unsigned int number, unsigned long arg);

/* context.c */
extern const struct file_operations dmirror_fops;

/* Walk [@start, @end), at most one leaf, into @pfns; the clock runs from now. */
static inline void dmirror_walker_init(struct dmirror_walker *walker,
				       struct dmirror_context *ctx,
				       unsigned long start, unsigned long end,
				       unsigned long *pfns)
{
	*walker = (struct dmirror_walker){
		.range = {
			.notifier = &ctx->notifier,
			.start = start,
			.end = end,
			.hmm_pfns = pfns,
			.dev_private_owner = ctx->dev,
		},
		.deadline = jiffies +
			msecs_to_jiffies(HMM_RANGE_DEFAULT_TIMEOUT),
	};
}

/* What @which, DMIRROR_OWNER_*, gives the core as owner. */
static inline void *dmirror_owner(struct dmirror_device *dev, u32 which)
{
	return which == DMIRROR_OWNER_OWN ? dev :
	       which == DMIRROR_OWNER_OTHER ? dev->neighbour : NULL;
}

/* The end of the leaf that holds @addr, or @end where that comes first. */
static inline unsigned long dmirror_leaf_end(unsigned long addr,
					     unsigned long end)
{
	return min((addr | ~PMD_MASK) + 1, end);
}

/* The entry of @addr in its leaf, 0 when there is no leaf. */
static inline unsigned long dmirror_pt_entry(const struct dmirror_leaf *leaf,
					     unsigned long addr)
{
	return leaf ? leaf->entry[(addr & ~PMD_MASK) >> PAGE_SHIFT] : 0;
}

#endif
