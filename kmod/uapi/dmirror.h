/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * dmirror's own calls, beside those of hmm_dmirror.h.
 *
 * Every structure begins with its size in bytes as the caller knows it and
 * with flags; a flag or value that the driver does not know is refused with
 * -EINVAL, and so is a size that is smaller than those two fields. What the
 * caller's structure has more than the driver's must be 0, or the call is
 * refused with -E2BIG; what it has less is taken for 0. The driver stores in
 * size how much both sides know. So an old program runs on a new driver and
 * the reverse. QUERY and COUNTERS only give: there nothing need be 0.
 */
#ifndef DMIRROR_UAPI_DMIRROR_H
#define DMIRROR_UAPI_DMIRROR_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define DMIRROR_IOC_TYPE	0xd5
#define DMIRROR_VERSION		2

#define DMIRROR_QUERY		_IO(DMIRROR_IOC_TYPE, 0x00)
#define DMIRROR_COUNTERS	_IO(DMIRROR_IOC_TYPE, 0x01)
#define DMIRROR_LOG		_IO(DMIRROR_IOC_TYPE, 0x02)
#define DMIRROR_HOLD		_IO(DMIRROR_IOC_TYPE, 0x03)
#define DMIRROR_INJECT		_IO(DMIRROR_IOC_TYPE, 0x04)
#define DMIRROR_MIGRATE		_IO(DMIRROR_IOC_TYPE, 0x05)
#define DMIRROR_WALK		_IO(DMIRROR_IOC_TYPE, 0x06)
#define DMIRROR_PEEK		_IO(DMIRROR_IOC_TYPE, 0x07)
#define DMIRROR_POKE		_IO(DMIRROR_IOC_TYPE, 0x08)
#define DMIRROR_WATCH		_IO(DMIRROR_IOC_TYPE, 0x09)
#define DMIRROR_UNWATCH		_IO(DMIRROR_IOC_TYPE, 0x0a)
#define DMIRROR_EXCLUSIVE	_IO(DMIRROR_IOC_TYPE, 0x0b)

/* Calls on the descriptor that DMIRROR_HOLD gives. */
#define DMIRROR_HOLD_STATE	_IO(DMIRROR_IOC_TYPE, 0x10)
#define DMIRROR_HOLD_RESUME	_IO(DMIRROR_IOC_TYPE, 0x11)

/* dmirror_query.capabilities */
#define DMIRROR_CAP_FLAGS		(1ULL << 0)	/* HMM_DMIRROR_FLAGS */
#define DMIRROR_CAP_READ_UNLOCKED	(1ULL << 1)	/* HMM_DMIRROR_READ_UNLOCKED */
#define DMIRROR_CAP_DEVICE_THP		(1ULL << 2)	/* huge device folios */
#define DMIRROR_CAP_COUNTERS		(1ULL << 3)	/* DMIRROR_COUNTERS */
#define DMIRROR_CAP_COHERENT		(1ULL << 4)	/* the CPU reaches its memory */
#define DMIRROR_CAP_EVICTION		(1ULL << 5)	/* a full device makes room */
#define DMIRROR_CAP_COHERENT_EXCLUSIVE	(1ULL << 6)	/* EXCLUSIVE on coherent pages */
#define DMIRROR_CAP_STEER		(1ULL << 7)	/* DMIRROR_LOG to DMIRROR_EXCLUSIVE */
#define DMIRROR_CAP_TWO_PASS		(1ULL << 8)	/* DMIRROR_WATCH_TWO_PASS */
#define DMIRROR_CAP_CARRIED		(1ULL << 9)	/* DMIRROR_PAGE_CARRIED */

/**
 * struct dmirror_query - what this driver can do on this kernel
 * @size: in and out: bytes of this structure
 * @flags: in: 0
 * @version: out: DMIRROR_VERSION of the driver
 * @device: out: number of the device, the N of /dev/hmm_dmirrorN
 * @capabilities: out: DMIRROR_CAP_* that hold
 * @devmem_pages: out: pages of device memory that the device may grow to
 */
struct dmirror_query {
	__u32 size;
	__u32 flags;
	__u32 version;
	__u32 device;
	__u64 capabilities;
	__u64 devmem_pages;
};

/**
 * struct dmirror_counters - what happened since the context was opened and
 * since the module was loaded
 * @size: in and out: bytes of this structure
 * @flags: in: 0
 * @events_seen: context: notifier callbacks
 * @events_filtered: context: of these, MIGRATE or EXCLUSIVE events of its own
 * @events_obeyed: context: of these, those that drop what entries there are
 * @entries_kept: context: device entries that filtered events left in place
 * @entries_installed: context: device entries written
 * @entries_dropped: context: device entries removed
 * @entries_present: context: device entries now
 * @faults: context: device page faults
 * @fault_retries: context: walks repeated after an invalidation, for whatever call
 * @pages_to_device: context: pages its calls migrated to the device
 * @pages_to_system: context: pages its calls migrated to system memory
 * @dev_pages_in_use: device: device pages handed out now
 * @dev_small_allocated: device: folios of one page ever handed out
 * @dev_small_freed: device: folios of one page ever given back
 * @dev_huge_allocated: device: folios of PMD_SIZE ever handed out
 * @dev_huge_freed: device: folios of PMD_SIZE ever given back
 * @dev_huge_split: device: folios of PMD_SIZE that were split in use; their
 *	pages count as small from then on
 * @dev_cpu_faults: device: migrate_to_ram calls
 * @dev_pages_faulted: device: pages that CPU faults brought back
 * @dev_pages_evicted: device: pages that the driver brought back unasked: for
 *	RELEASE, to make room, at a close
 * @dev_pages_displaced: device: of these, to make room
 * @dev_contexts: device: contexts open now
 * @events_refused: context: callbacks that might not sleep and had to
 * @seen: context: @events_seen by DMIRROR_EVENT_* of the kernel, 0 for one that
 *	this driver does not know; the same for the next two
 * @filtered: context: @events_filtered
 * @obeyed: context: @events_obeyed
 * @huge_to_device: context: folios of PMD_SIZE among @pages_to_device
 * @huge_to_system: context: folios of PMD_SIZE among @pages_to_system
 * @stayed: context: pages that its calls wanted to migrate and could not, by
 *	DMIRROR_STAYED_*
 * @dev_fault_oom: device: CPU faults that failed for want of memory
 * @dev_fault_failed: device: CPU faults that failed otherwise
 * @dev_releases: device: RELEASE calls
 */
struct dmirror_counters {
	__u32 size;
	__u32 flags;
	__u64 events_seen;
	__u64 events_filtered;
	__u64 events_obeyed;
	__u64 entries_kept;
	__u64 entries_installed;
	__u64 entries_dropped;
	__u64 entries_present;
	__u64 faults;
	__u64 fault_retries;
	__u64 pages_to_device;
	__u64 pages_to_system;
	__u64 dev_pages_in_use;
	__u64 dev_small_allocated;
	__u64 dev_small_freed;
	__u64 dev_huge_allocated;
	__u64 dev_huge_freed;
	__u64 dev_huge_split;
	__u64 dev_cpu_faults;
	__u64 dev_pages_faulted;
	__u64 dev_pages_evicted;
	__u64 dev_pages_displaced;
	__u64 dev_contexts;
	__u64 events_refused;
	__u64 seen[9];
	__u64 filtered[9];
	__u64 obeyed[9];
	__u64 huge_to_device;
	__u64 huge_to_system;
	__u64 stayed[6];
	__u64 dev_fault_oom;
	__u64 dev_fault_failed;
	__u64 dev_releases;
};

/*
 * dmirror_counters.stayed: why a page did not migrate. Of a page that it cannot
 * have, locked, pinned or isolated, migrate_vma_setup() says no more than of one
 * that is not there.
 */
enum {
	DMIRROR_STAYED_ABSENT		= 0,	/* not offered by setup */
	DMIRROR_STAYED_MEMORY		= 1,	/* no destination */
	DMIRROR_STAYED_COPY		= 2,	/* the copy failed (INJECT) */
	DMIRROR_STAYED_SKIPPED		= 3,	/* DMIRROR_HOW_SKIP */
	DMIRROR_STAYED_KIND		= 4,	/* not anonymous memory */
	DMIRROR_STAYED_CORE		= 5,	/* refused by migrate_vma_pages() */
};

/*
 * What a record of the log is about. Up to DMIRROR_EVENT_EXCLUSIVE: what the
 * kernel tells a mirror, MMU_NOTIFY_* in its order.
 */
enum {
	DMIRROR_EVENT_UNMAP		= 1,
	DMIRROR_EVENT_CLEAR		= 2,
	DMIRROR_EVENT_PROTECTION_VMA	= 3,
	DMIRROR_EVENT_PROTECTION_PAGE	= 4,
	DMIRROR_EVENT_SOFT_DIRTY	= 5,
	DMIRROR_EVENT_RELEASE		= 6,
	DMIRROR_EVENT_MIGRATE		= 7,
	DMIRROR_EVENT_EXCLUSIVE		= 8,
	/* The rest of a notification, told to watches only. */
	DMIRROR_EVENT_FINISH		= 16,	/* second pass of a two-pass watch */
	DMIRROR_EVENT_END		= 17,	/* invalidate_range_end of a plain one */
	/* What the driver did. */
	DMIRROR_EVENT_FAULT		= 32,	/* device fault, at most PMD_SIZE */
	DMIRROR_EVENT_MIGRATE_BEGIN	= 33,	/* before migrate_vma_setup() */
	DMIRROR_EVENT_MIGRATE_SETUP	= 34,	/* it returned */
	DMIRROR_EVENT_MIGRATE_COPIED	= 35,
	DMIRROR_EVENT_MIGRATE_PAGES	= 36,	/* migrate_vma_pages() returned */
	DMIRROR_EVENT_MIGRATE_MAPPED	= 37,	/* the device has its entries */
	DMIRROR_EVENT_MIGRATE_END	= 38,	/* migrate_vma_finalize() returned */
	DMIRROR_EVENT_CPU_BEGIN		= 39,	/* the same for a CPU fault */
	DMIRROR_EVENT_CPU_SETUP		= 40,
	DMIRROR_EVENT_CPU_COPIED	= 41,
	DMIRROR_EVENT_CPU_PAGES		= 42,
	DMIRROR_EVENT_CPU_MAPPED	= 43,
	DMIRROR_EVENT_CPU_END		= 44,
	DMIRROR_EVENT_FREE		= 45,	/* the core gave a device folio back */
	DMIRROR_EVENT_SPLIT		= 46,	/* the core splits one */
	DMIRROR_EVENT_EVICT		= 47,	/* the driver brought one back unasked */
	DMIRROR_EVENT_RELEASE_DEVICE	= 48,	/* HMM_DMIRROR_RELEASE by anybody */
	DMIRROR_EVENT_MADE_EXCLUSIVE	= 49,
	DMIRROR_EVENT_OVERRUN		= 64,	/* records were lost: pages says how many */
};

/* dmirror_event.flags */
#define DMIRROR_EVENT_BLOCKABLE	(1 << 0)	/* the callback might sleep */
#define DMIRROR_EVENT_FILTERED	(1 << 1)	/* entries were left as they were */
#define DMIRROR_EVENT_REFUSED	(1 << 2)	/* might not sleep and would have to */

/* dmirror_event.owner: what the event says, which only two kinds of it do */
enum {
	DMIRROR_EVENT_OWNER_UNDEFINED	= 0,	/* not MIGRATE, not EXCLUSIVE */
	DMIRROR_EVENT_OWNER_OWN		= 1,	/* the device of this context */
	DMIRROR_EVENT_OWNER_OTHER	= 2,
	DMIRROR_EVENT_OWNER_NONE	= 3,	/* NULL */
};

/**
 * struct dmirror_event - one record of the log, as read(2) gives them
 * @seq: number of the record since the log was started, from 1
 * @time: CLOCK_MONOTONIC, in ns
 * @start: first byte of what it is about; 0 with @end 0: no addresses
 * @end: byte past the last
 * @interval_seq: of an event of the kernel: the interval sequence that it sets;
 *	of a device fault: the one that it was checked against
 * @pages: of an event of the kernel: device entries dropped, or with FILTERED
 *	those left; of an action: pages done so far; of OVERRUN: records lost
 * @index: FREE, SPLIT, EVICT: number of the first page in the device's memory;
 *	FAULT: how often the walk was repeated
 * @result: 0 or a negative errno, of an action
 * @tid: thread in which it happened
 * @type: DMIRROR_EVENT_*
 * @flags: DMIRROR_EVENT_BLOCKABLE and so on
 * @owner: DMIRROR_EVENT_OWNER_*
 * @watch: the watch that was told, 0 for the mirror itself
 */
struct dmirror_event {
	__u64 seq;
	__u64 time;
	__u64 start;
	__u64 end;
	__u64 interval_seq;
	__u64 pages;
	__u64 index;
	__s32 result;
	__u32 tid;
	__u16 type;
	__u16 flags;
	__u16 owner;
	__u16 watch;
};

#define DMIRROR_LOG_START	(1 << 0)	/* empty, and on; without it: off */

/**
 * struct dmirror_log - start or stop the log of the context
 * @size: in and out: bytes of this structure
 * @flags: in: DMIRROR_LOG_START, or 0 to stop: what is in it can still be read
 * @records: in: how many it holds, a power of two up to 2^16; 0: 4096
 * @lost: out: records lost for want of room since it was started
 * @next_seq: out: dmirror_event.seq of the next record
 *
 * read(2) gives whole records, and blocks while there are none; 0 is the end of
 * a log that was stopped. -EINVAL: the log was never started, or there is no
 * room for a record. poll(2) says when there are some. A full log loses what
 * comes, and says so by an OVERRUN record where that is missing.
 */
struct dmirror_log {
	__u32 size;
	__u32 flags;
	__u64 records;
	__u64 lost;
	__u64 next_seq;
};

/*
 * Where a thread can be held, of a context: its own calls, or a CPU fault on a
 * page that it migrated, or a callback.
 */
enum {
	DMIRROR_HOLD_FAULT_CHECK	= 0,	/* hmm_range_fault() done, not checked */
	DMIRROR_HOLD_FAULT_INSTALL	= 1,	/* checked, the context lock is held */
	DMIRROR_HOLD_MIGRATE_BEGIN	= 2,	/* the mmap lock is held from here on */
	DMIRROR_HOLD_MIGRATE_SETUP	= 3,	/* and folio locks from here on */
	DMIRROR_HOLD_MIGRATE_COPIED	= 4,
	DMIRROR_HOLD_MIGRATE_PAGES	= 5,
	DMIRROR_HOLD_MIGRATE_MAPPED	= 6,	/* before migrate_vma_finalize() */
	DMIRROR_HOLD_CPU_BEGIN		= 7,	/* the same in migrate_to_ram */
	DMIRROR_HOLD_CPU_SETUP		= 8,
	DMIRROR_HOLD_CPU_COPIED		= 9,
	DMIRROR_HOLD_CPU_PAGES		= 10,
	DMIRROR_HOLD_CPU_MAPPED		= 11,
	DMIRROR_HOLD_INVALIDATE		= 12,	/* no lock of the driver is held yet */
	DMIRROR_HOLD_EXCLUSIVE		= 13,	/* made exclusive, folio lock held */
	DMIRROR_HOLD_CPU_END		= 14,	/* finalized: the fault has the page still */
};

/**
 * struct dmirror_hold - hold the thread that comes by
 * @size: in and out: bytes of this structure
 * @flags: in: 0
 * @point: in: DMIRROR_HOLD_*
 * @watch: in: INVALIDATE: of this watch; 0: of the mirror itself
 * @events: in: INVALIDATE: only for these, bits by DMIRROR_EVENT_*; 0: all
 * @limit: in: ms after which it goes on by itself, up to 60000; 0: 10000
 * @nth: in: which passage is held, from 1; the others pass
 * @start: in: only passages that overlap [@start, @end)
 * @end: in: 0 with @start 0: all of them
 * @fd: out: a descriptor for it, close-on-exec
 *
 * poll(2) on the descriptor: POLLIN when a thread is held, POLLHUP when it is
 * over. Closing it, DMIRROR_HOLD_RESUME, the limit, a fatal signal, and the
 * opener's closing of the context, each let the thread go on.
 */
struct dmirror_hold {
	__u32 size;
	__u32 flags;
	__u32 point;
	__u32 watch;
	__u32 events;
	__u32 limit;
	__u64 nth;
	__u64 start;
	__u64 end;
	__s32 fd;
	__u32 reserved;
};

/* dmirror_hold_state.state */
enum {
	DMIRROR_HOLD_ARMED	= 0,	/* nobody came yet */
	DMIRROR_HOLD_HELD	= 1,
	DMIRROR_HOLD_RESUMED	= 2,	/* held, and let go by DMIRROR_HOLD_RESUME */
	DMIRROR_HOLD_EXPIRED	= 3,	/* held until its limit */
	DMIRROR_HOLD_KILLED	= 4,	/* held until a fatal signal */
	DMIRROR_HOLD_CLOSED	= 5,	/* the context closed */
	DMIRROR_HOLD_UNUSED	= 6,	/* nobody came before DMIRROR_HOLD_RESUME */
};

/**
 * struct dmirror_hold_state - how a hold stands
 * @size: in and out: bytes of this structure
 * @flags: in: 0
 * @state: out: DMIRROR_HOLD_ARMED and so on
 * @tid: out: the thread that is or was held
 * @passages: out: how often the point was passed since it was armed, the held
 *	passage included
 * @start: out: the range of the held passage
 * @end: out: byte past it
 */
struct dmirror_hold_state {
	__u32 size;
	__u32 flags;
	__u32 state;
	__u32 tid;
	__u64 passages;
	__u64 start;
	__u64 end;
};

/* dmirror_inject.what */
enum {
	DMIRROR_INJECT_DEVICE_ALLOC	= 0,	/* of a device folio */
	DMIRROR_INJECT_SYSTEM_ALLOC	= 1,	/* of a system folio to migrate to */
	DMIRROR_INJECT_COPY		= 2,	/* of a folio's data */
};

#define DMIRROR_INJECT_EVERY	(1 << 0)	/* the nth, the 2nth, ... */
#define DMIRROR_INJECT_READ	(1 << 1)	/* change nothing, only give counts */

/**
 * struct dmirror_inject - fail what the context's calls do, and CPU faults and
 * evictions for pages that it migrated
 * @size: in and out: bytes of this structure
 * @flags: in: DMIRROR_INJECT_EVERY, DMIRROR_INJECT_READ
 * @what: in: DMIRROR_INJECT_*
 * @reserved: in: 0
 * @nth: in: which one fails, from 1 on from now; 0: none from now on
 * @passed: out: how often it came by since it was set the time before
 * @failed: out: how often of these it failed
 */
struct dmirror_inject {
	__u32 size;
	__u32 flags;
	__u32 what;
	__u32 reserved;
	__u64 nth;
	__u64 passed;
	__u64 failed;
};

/* What a call gives the core as its pgmap_owner or owner. */
enum {
	DMIRROR_OWNER_OWN	= 0,	/* the device of the context */
	DMIRROR_OWNER_OTHER	= 1,	/* its neighbour: device number with bit 0 flipped */
	DMIRROR_OWNER_NONE	= 2,	/* NULL */
};

/* dmirror_migrate.flags */
#define DMIRROR_MIGRATE_TO_DEVICE	(1 << 0)	/* else to the system */
#define DMIRROR_MIGRATE_OBEY		(1 << 1)	/* its own events: no filter */

/* dmirror_migrate.select, MIGRATE_VMA_SELECT_*; 0 is what the direction needs */
#define DMIRROR_SELECT_SYSTEM	(1 << 0)
#define DMIRROR_SELECT_PRIVATE	(1 << 1)
#define DMIRROR_SELECT_COHERENT	(1 << 2)
#define DMIRROR_SELECT_COMPOUND	(1 << 3)

/* dmirror_migrate.order */
enum {
	DMIRROR_ORDER_SOURCE	= 0,	/* as the source, or small pages for it */
	DMIRROR_ORDER_SMALL	= 1,	/* small pages for a huge source */
	DMIRROR_ORDER_HUGE	= 2,	/* a huge folio also for a small source */
};

/* dmirror_migrate.how: what to do with each page */
#define DMIRROR_HOW_SKIP	(1 << 0)	/* destination 0 */
#define DMIRROR_HOW_REFERENCE	(1 << 1)	/* one more from setup to finalize */

/* Words of struct dmirror_words: MIGRATE_PFN_*, and the page frame above them */
#define DMIRROR_WORD_VALID	(1ULL << 0)
#define DMIRROR_WORD_MIGRATE	(1ULL << 1)
#define DMIRROR_WORD_WRITE	(1ULL << 2)
#define DMIRROR_WORD_COMPOUND	(1ULL << 3)
#define DMIRROR_WORD_PFN_SHIFT	8

/**
 * struct dmirror_words - what the vectors of migrate_vma said of one page
 * @setup_src: after migrate_vma_setup()
 * @copied_dst: as the driver chose it
 * @pages_src: after migrate_vma_pages()
 * @pages_dst: the same
 * @final_src: after migrate_vma_finalize()
 * @final_dst: the same
 */
struct dmirror_words {
	__u64 setup_src;
	__u64 copied_dst;
	__u64 pages_src;
	__u64 pages_dst;
	__u64 final_src;
	__u64 final_dst;
};

/**
 * struct dmirror_migrate - migrate_vma_*() once over the range, as told
 * @size: in and out: bytes of this structure
 * @flags: in: DMIRROR_MIGRATE_*
 * @addr: in: first byte, page aligned
 * @npages: in: length in pages
 * @owner: in: DMIRROR_OWNER_*, the pgmap_owner
 * @select: in: DMIRROR_SELECT_*
 * @order: in: DMIRROR_ORDER_*, of destinations; -EOPNOTSUPP for HUGE where the
 *	kernel has no huge device folios
 * @reserved: in: 0
 * @how: in: address of @npages bytes, DMIRROR_HOW_*; 0: none
 * @words: in: address of @npages struct dmirror_words to fill; 0: none
 * @done: out: pages from @addr on that it came to, also on an error
 * @collected: out: cpages of migrate_vma after setup, summed up; see there
 *	whether a huge folio is one
 * @moved: out: pages that moved
 *
 * PMD_SIZE of addresses and one VMA at a time. A page that stays is no error.
 */
struct dmirror_migrate {
	__u32 size;
	__u32 flags;
	__u64 addr;
	__u64 npages;
	__u32 owner;
	__u32 select;
	__u32 order;
	__u32 reserved;
	__u64 how;
	__u64 words;
	__u64 done;
	__u64 collected;
	__u64 moved;
};

/* dmirror_page.flags: asked for */
#define DMIRROR_PAGE_REQ_FAULT	(1 << 0)
#define DMIRROR_PAGE_REQ_WRITE	(1 << 1)
/* what hmm_range_fault() said */
#define DMIRROR_PAGE_VALID	(1 << 2)
#define DMIRROR_PAGE_WRITE	(1 << 3)
#define DMIRROR_PAGE_ERROR	(1 << 4)
#define DMIRROR_PAGE_ZERO	(1 << 5)	/* the zero page of small pages */
#define DMIRROR_PAGE_DEVICE	(1 << 6)	/* memory of the device of number device */
/* what the device page table says */
#define DMIRROR_PAGE_MAPPED	(1 << 8)
#define DMIRROR_PAGE_MAPPED_WRITE	(1 << 9)
#define DMIRROR_PAGE_MAPPED_ATOMIC	(1 << 10)	/* exclusive */
#define DMIRROR_PAGE_MAPPED_DEVICE	(1 << 11)	/* in memory of this device */
/* in: HMM_PFN_* that hmm_range_fault() is given; out: what is left of them */
#define DMIRROR_PAGE_DMA_MAPPED	(1 << 12)
#define DMIRROR_PAGE_P2PDMA	(1 << 13)
#define DMIRROR_PAGE_P2PDMA_BUS	(1 << 14)
#define DMIRROR_PAGE_CARRIED	(DMIRROR_PAGE_DMA_MAPPED | \
				 DMIRROR_PAGE_P2PDMA | DMIRROR_PAGE_P2PDMA_BUS)

/**
 * struct dmirror_page - one page as the CPU page table and the device's have it
 * @pfn: page frame as hmm_range_fault() gave it, or 0
 * @backing: page frame that holds its data: @pfn unless it is device-private,
 *	or 0
 * @mapped: page frame in the device page table, or 0; as long as both are
 *	there it is @backing
 * @flags: in: DMIRROR_PAGE_REQ_* and, with the capability, DMIRROR_PAGE_CARRIED;
 *	out: all but the requests
 * @order: of the CPU's mapping
 * @device: with DMIRROR_PAGE_DEVICE: the device's number
 * @index: with DMIRROR_PAGE_DEVICE: the page's number in its memory
 */
struct dmirror_page {
	__u64 pfn;
	__u64 backing;
	__u64 mapped;
	__u32 flags;
	__u32 order;
	__u32 device;
	__u32 index;
};

/* dmirror_walk.flags: give up with -EBUSY where a driver would walk again */
#define DMIRROR_WALK_ONCE	(1 << 0)

/**
 * struct dmirror_walk - hmm_range_fault() as told, which installs nothing
 * @size: in and out: bytes of this structure
 * @flags: in: DMIRROR_WALK_*
 * @addr: in: first byte, page aligned
 * @npages: in: length in pages
 * @default_flags: in: DMIRROR_PAGE_REQ_*: hmm_range.default_flags
 * @mask: in: DMIRROR_PAGE_REQ_*: hmm_range.pfn_flags_mask
 * @owner: in: DMIRROR_OWNER_*: hmm_range.dev_private_owner
 * @reserved: in: 0
 * @pages: in: address of @npages struct dmirror_page: in and out
 * @done: out: pages filled, also on an error
 * @retries: out: how often it was repeated
 *
 * PMD_SIZE of addresses at a time. Without a request it faults nothing: it
 * says which page is where, and what the device has for it.
 */
struct dmirror_walk {
	__u32 size;
	__u32 flags;
	__u64 addr;
	__u64 npages;
	__u32 default_flags;
	__u32 mask;
	__u32 owner;
	__u32 reserved;
	__u64 pages;
	__u64 done;
	__u64 retries;
};

/**
 * struct dmirror_peek - PEEK, POKE: what the device has, without a fault
 * @size: in and out: bytes of this structure
 * @flags: in: 0
 * @addr: in: first byte, page aligned
 * @npages: in: length in pages
 * @ptr: in: @npages pages of the caller's, to or from which the data go
 * @done: out: pages done, also on an error
 *
 * -ENOENT where the device has no entry, for POKE -EPERM where that is
 * read-only.
 */
struct dmirror_peek {
	__u32 size;
	__u32 flags;
	__u64 addr;
	__u64 npages;
	__u64 ptr;
	__u64 done;
};

/* dmirror_watch.kind */
enum {
	DMIRROR_WATCH_INTERVAL		= 0,	/* mmu_interval_notifier */
	DMIRROR_WATCH_TWO_PASS		= 1,	/* with invalidate_start and _finish */
	DMIRROR_WATCH_UNFINISHED	= 2,	/* the same without invalidate_finish */
	DMIRROR_WATCH_PLAIN		= 3,	/* mmu_notifier, of all addresses */
};

/**
 * struct dmirror_watch - WATCH: a further subscription, which only logs
 * @size: in and out: bytes of this structure
 * @flags: in: 0
 * @kind: in: DMIRROR_WATCH_*; -EOPNOTSUPP where the kernel has none of it
 * @id: WATCH: out: its number, from 1 on; UNWATCH: in: which one ends
 * @start: in: first byte, as mmu_interval_notifier_insert() takes it
 * @length: in: bytes; not for PLAIN
 *
 * UNWATCH returns when none of its callbacks runs any more. Watches end with
 * the context.
 */
struct dmirror_watch {
	__u32 size;
	__u32 flags;
	__u32 kind;
	__u32 id;
	__u64 start;
	__u64 length;
};

/**
 * struct dmirror_exclusive - HMM_DMIRROR_EXCLUSIVE with a choice of owner
 * @size: in and out: bytes of this structure
 * @flags: in: 0
 * @addr: in: first byte, page aligned
 * @npages: in: length in pages
 * @owner: in: DMIRROR_OWNER_*
 * @reserved: in: 0
 * @done: out: pages that became exclusive, also on an error
 */
struct dmirror_exclusive {
	__u32 size;
	__u32 flags;
	__u64 addr;
	__u64 npages;
	__u32 owner;
	__u32 reserved;
	__u64 done;
};

#endif
