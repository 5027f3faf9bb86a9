/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints: what the log of a context has, for trace-cmd and perf.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM dmirror

#if !defined(DMIRROR_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define DMIRROR_TRACE_H

#include <linux/tracepoint.h>

#include "uapi/dmirror.h"

#define DMIRROR_TRACE_EVENTS \
	SYMBOL(DMIRROR_EVENT_UNMAP, "UNMAP") \
	SYMBOL(DMIRROR_EVENT_CLEAR, "CLEAR") \
	SYMBOL(DMIRROR_EVENT_PROTECTION_VMA, "PROTECTION_VMA") \
	SYMBOL(DMIRROR_EVENT_PROTECTION_PAGE, "PROTECTION_PAGE") \
	SYMBOL(DMIRROR_EVENT_SOFT_DIRTY, "SOFT_DIRTY") \
	SYMBOL(DMIRROR_EVENT_RELEASE, "RELEASE") \
	SYMBOL(DMIRROR_EVENT_MIGRATE, "MIGRATE") \
	SYMBOL(DMIRROR_EVENT_EXCLUSIVE, "EXCLUSIVE") \
	SYMBOL(DMIRROR_EVENT_FINISH, "FINISH") \
	LAST_SYMBOL(DMIRROR_EVENT_END, "END")

#define DMIRROR_TRACE_OWNERS \
	SYMBOL(DMIRROR_EVENT_OWNER_UNDEFINED, "undefined") \
	SYMBOL(DMIRROR_EVENT_OWNER_OWN, "own") \
	SYMBOL(DMIRROR_EVENT_OWNER_OTHER, "other") \
	LAST_SYMBOL(DMIRROR_EVENT_OWNER_NONE, "none")

#define DMIRROR_TRACE_ACTIONS \
	SYMBOL(DMIRROR_EVENT_FAULT, "FAULT") \
	SYMBOL(DMIRROR_EVENT_MIGRATE_BEGIN, "MIGRATE_BEGIN") \
	SYMBOL(DMIRROR_EVENT_MIGRATE_SETUP, "MIGRATE_SETUP") \
	SYMBOL(DMIRROR_EVENT_MIGRATE_COPIED, "MIGRATE_COPIED") \
	SYMBOL(DMIRROR_EVENT_MIGRATE_PAGES, "MIGRATE_PAGES") \
	SYMBOL(DMIRROR_EVENT_MIGRATE_MAPPED, "MIGRATE_MAPPED") \
	SYMBOL(DMIRROR_EVENT_MIGRATE_END, "MIGRATE_END") \
	SYMBOL(DMIRROR_EVENT_CPU_BEGIN, "CPU_BEGIN") \
	SYMBOL(DMIRROR_EVENT_CPU_SETUP, "CPU_SETUP") \
	SYMBOL(DMIRROR_EVENT_CPU_COPIED, "CPU_COPIED") \
	SYMBOL(DMIRROR_EVENT_CPU_PAGES, "CPU_PAGES") \
	SYMBOL(DMIRROR_EVENT_CPU_MAPPED, "CPU_MAPPED") \
	SYMBOL(DMIRROR_EVENT_CPU_END, "CPU_END") \
	SYMBOL(DMIRROR_EVENT_FREE, "FREE") \
	SYMBOL(DMIRROR_EVENT_SPLIT, "SPLIT") \
	SYMBOL(DMIRROR_EVENT_EVICT, "EVICT") \
	SYMBOL(DMIRROR_EVENT_RELEASE_DEVICE, "RELEASE_DEVICE") \
	LAST_SYMBOL(DMIRROR_EVENT_MADE_EXCLUSIVE, "MADE_EXCLUSIVE")

/*
 * The values go with the format: user space, which names them, has no enum.
 * Once more below, for __print_symbolic().
 */
#undef SYMBOL
#undef LAST_SYMBOL
#define SYMBOL(value, name)		TRACE_DEFINE_ENUM(value);
#define LAST_SYMBOL(value, name)	TRACE_DEFINE_ENUM(value);

DMIRROR_TRACE_EVENTS
DMIRROR_TRACE_OWNERS
DMIRROR_TRACE_ACTIONS

#undef SYMBOL
#undef LAST_SYMBOL
#define SYMBOL(value, name)		{ value, name },
#define LAST_SYMBOL(value, name)	{ value, name }

/* What the kernel told a mirror or a watch. */
TRACE_EVENT(dmirror_invalidate,
	TP_PROTO(unsigned int device, u32 context,
		 const struct dmirror_event *event),
	TP_ARGS(device, context, event),
	TP_STRUCT__entry(
		__field(unsigned int, device)
		__field(u32, context)
		__field(u16, watch)
		__field(u16, type)
		__field(u64, start)
		__field(u64, end)
		__field(u64, interval_seq)
		__field(u16, owner)
		__field(u16, flags)
		__field(u64, entries)
	),
	TP_fast_assign(
		__entry->device = device;
		__entry->context = context;
		__entry->watch = event->watch;
		__entry->type = event->type;
		__entry->start = event->start;
		__entry->end = event->end;
		__entry->interval_seq = event->interval_seq;
		__entry->owner = event->owner;
		__entry->flags = event->flags;
		__entry->entries = event->pages;
	),
	TP_printk("device=%u context=%u watch=%u %s [%#llx, %#llx) seq=%llu owner=%s %s%s entries=%llu",
		  __entry->device, __entry->context, __entry->watch,
		  __print_symbolic(__entry->type, DMIRROR_TRACE_EVENTS),
		  __entry->start, __entry->end, __entry->interval_seq,
		  __print_symbolic(__entry->owner, DMIRROR_TRACE_OWNERS),
		  __entry->flags & DMIRROR_EVENT_REFUSED ? "refused" :
		  __entry->flags & DMIRROR_EVENT_FILTERED ? "filtered" :
							    "obeyed",
		  __entry->flags & DMIRROR_EVENT_BLOCKABLE ? "" :
							     " nonblockable",
		  __entry->entries)
);

/* What the driver did for a context. */
TRACE_EVENT(dmirror_action,
	TP_PROTO(unsigned int device, u32 context,
		 const struct dmirror_event *event),
	TP_ARGS(device, context, event),
	TP_STRUCT__entry(
		__field(unsigned int, device)
		__field(u32, context)
		__field(u16, type)
		__field(u64, start)
		__field(u64, end)
		__field(u64, pages)
		__field(u64, index)
		__field(s32, result)
	),
	TP_fast_assign(
		__entry->device = device;
		__entry->context = context;
		__entry->type = event->type;
		__entry->start = event->start;
		__entry->end = event->end;
		__entry->pages = event->pages;
		__entry->index = event->index;
		__entry->result = event->result;
	),
	TP_printk("device=%u context=%u %s [%#llx, %#llx) pages=%llu index=%llu result=%d",
		  __entry->device, __entry->context,
		  __print_symbolic(__entry->type, DMIRROR_TRACE_ACTIONS),
		  __entry->start, __entry->end, __entry->pages, __entry->index,
		  __entry->result)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
