/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * dmirror's own calls, beside those of hmm_dmirror.h.
 *
 * Every structure begins with its size in bytes as the caller knows it and
 * with flags that must be 0. The driver fills what both sides know, stores in
 * size how much that was, and refuses with -EINVAL a size that is smaller
 * than the two leading fields, or a flag it does not know. So an old program
 * runs on a new driver and the reverse.
 */
#ifndef DMIRROR_UAPI_DMIRROR_H
#define DMIRROR_UAPI_DMIRROR_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define DMIRROR_IOC_TYPE	0xd5
#define DMIRROR_VERSION		1

#define DMIRROR_QUERY		_IO(DMIRROR_IOC_TYPE, 0x00)
#define DMIRROR_COUNTERS	_IO(DMIRROR_IOC_TYPE, 0x01)

/* dmirror_query.capabilities */
#define DMIRROR_CAP_FLAGS		(1ULL << 0)	/* HMM_DMIRROR_FLAGS */
#define DMIRROR_CAP_READ_UNLOCKED	(1ULL << 1)	/* HMM_DMIRROR_READ_UNLOCKED */
#define DMIRROR_CAP_DEVICE_THP		(1ULL << 2)	/* huge device folios */
#define DMIRROR_CAP_COUNTERS		(1ULL << 3)	/* DMIRROR_COUNTERS */
#define DMIRROR_CAP_COHERENT		(1ULL << 4)	/* the CPU reaches its memory */
#define DMIRROR_CAP_EVICTION		(1ULL << 5)	/* a full device makes room */
#define DMIRROR_CAP_COHERENT_EXCLUSIVE	(1ULL << 6)	/* EXCLUSIVE on coherent pages */

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
 * @events_obeyed: context: of these, those that dropped device entries
 * @entries_kept: context: device entries that filtered events left in place
 * @entries_installed: context: device entries written
 * @entries_dropped: context: device entries removed
 * @entries_present: context: device entries now
 * @faults: context: device page faults
 * @fault_retries: context: of these, walks repeated after an invalidation
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
};

#endif
