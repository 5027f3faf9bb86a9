/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a test sees and steers: the log, hold points and injected failures of
 * a context.
 *
 * A page knows the id of the context that migrated it and no more, so all of
 * these find their context by device and id. Where nobody watches a device and
 * no tracepoint is on, each costs a load and a branch.
 */
#ifndef DMIRROR_STEER_H
#define DMIRROR_STEER_H

#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/wait.h>

#include "device.h"
#include "trace.h"
#include "uapi/dmirror.h"

/* Events of the kernel that have a name: counters are arrays of so many. */
#define DMIRROR_NR_EVENTS	(DMIRROR_EVENT_EXCLUSIVE + 1)
#define DMIRROR_NR_INJECTIONS	(DMIRROR_INJECT_COPY + 1)

struct dmirror_context;
struct mmu_notifier_range;

/**
 * struct dmirror_ring - the log of a context
 * @records: @size of them, or NULL: never started
 * @size: a power of two
 * @head: records written since the start, modulo 2^32
 * @tail: records read
 * @on: records are written
 * @last_seq: dmirror_event.seq of the last record, written or lost
 * @lost: records lost since the start
 * @unsaid: of these, those of which no OVERRUN record tells yet
 */
struct dmirror_ring {
	struct dmirror_event *records;
	unsigned int size;
	unsigned int head;
	unsigned int tail;
	bool on;
	u64 last_seq;
	u64 lost;
	u64 unsaid;
};

/* A failure that is to happen; nth 0: none. */
struct dmirror_injection {
	u64 nth;
	bool every;
	u64 passed;
	u64 failed;
};

/**
 * struct dmirror_steer - the part of a context that others find by its id
 * @node: on dmirror_device.open
 * @read_mutex: serialises readers of the log with each other and its restart
 * @readable: woken when there is a record, or no more will come
 * @log: under dmirror_device.steer_lock, as is all that follows
 * @holds: struct dmirror_holder that are not over
 * @injection: by DMIRROR_INJECT_*
 *
 * Lock order: read_mutex is taken with nothing held, and user memory is touched
 * under it; steer_lock is innermost, with interrupts off.
 */
struct dmirror_steer {
	struct list_head node;
	struct mutex read_mutex;	/* one reader of the log */
	wait_queue_head_t readable;
	struct dmirror_ring log;
	struct list_head holds;
	struct dmirror_injection injection[DMIRROR_NR_INJECTIONS];
};

/* steer.c: the contexts of a device */
struct dmirror_context *dmirror_find_context(struct dmirror_device *dev,
					     u32 id);
void dmirror_steer_open(struct dmirror_context *ctx);
void dmirror_steer_close(struct dmirror_context *ctx);

/* log.c */
void dmirror_record(struct dmirror_device *dev, u32 id,
		    struct dmirror_event *event);
void dmirror_record_notice(struct dmirror_context *ctx,
			   const struct mmu_notifier_range *range, u16 type,
			   u16 watch, u64 seq, u16 flags, u64 entries);
void dmirror_log_release(struct dmirror_device *dev, int result);
long dmirror_log(struct dmirror_context *ctx, struct dmirror_log *log);
ssize_t dmirror_log_read(struct file *file, char __user *buffer, size_t count,
			 loff_t *offset);
__poll_t dmirror_log_poll(struct file *file, struct poll_table_struct *table);
void dmirror_log_free(struct dmirror_context *ctx);

/* hold.c */
unsigned long dmirror_stop_at(struct dmirror_device *dev, u32 id, u32 point,
			      u32 watch, u32 event, u64 start, u64 end);
long dmirror_hold(struct dmirror_context *ctx, struct dmirror_hold *hold,
		  struct file **file);
void dmirror_holds_close(struct dmirror_context *ctx);

/* inject.c */
bool dmirror_fails(struct dmirror_device *dev, u32 id, u32 what);
long dmirror_inject(struct dmirror_context *ctx, struct dmirror_inject *inject);

/*
 * A thread of context @id is at @point, with [@start, @end). Returns the jiffies
 * for which it was held: no call may be short of time for that.
 */
static inline unsigned long dmirror_hold_at(struct dmirror_device *dev, u32 id,
					    u32 point, u64 start, u64 end)
{
	if (unlikely(READ_ONCE(dev->holds)))
		return dmirror_stop_at(dev, id, point, 0, 0, start, end);
	return 0;
}

/* And inside a callback, of the mirror itself or of a watch. */
static inline void dmirror_hold_callback(struct dmirror_device *dev, u32 id,
					 u32 watch, u32 event, u64 start,
					 u64 end)
{
	if (unlikely(READ_ONCE(dev->holds)))
		dmirror_stop_at(dev, id, DMIRROR_HOLD_INVALIDATE, watch, event,
				start, end);
}

static inline bool dmirror_injected(struct dmirror_device *dev, u32 id, u32 what)
{
	return unlikely(READ_ONCE(dev->injections)) &&
		dmirror_fails(dev, id, what);
}

/* Whether there is a point in finding out what to record. */
static inline bool dmirror_is_observed(const struct dmirror_device *dev)
{
	return unlikely(READ_ONCE(dev->logs_on)) ||
		trace_dmirror_action_enabled();
}

/* Whether it matters for which context something is done. */
static inline bool dmirror_is_steered(const struct dmirror_device *dev)
{
	return dmirror_is_observed(dev) || READ_ONCE(dev->holds) ||
		READ_ONCE(dev->injections);
}

/* Record what the kernel told @ctx, or its watch of number @watch. */
static inline void dmirror_log_notice(struct dmirror_device *dev,
				      struct dmirror_context *ctx,
				      const struct mmu_notifier_range *range,
				      u16 type, u16 watch, u64 seq, u16 flags,
				      u64 entries)
{
	if (unlikely(READ_ONCE(dev->logs_on)) ||
	    trace_dmirror_invalidate_enabled())
		dmirror_record_notice(ctx, range, type, watch, seq, flags,
				      entries);
}

/* Record what the driver did for context @id. */
static inline void dmirror_log_action(struct dmirror_device *dev, u32 id,
				      u16 type, u64 start, u64 end, u64 pages,
				      u64 index, int result)
{
	if (dmirror_is_observed(dev)) {
		struct dmirror_event event = {
			.type = type,
			.start = start,
			.end = end,
			.pages = pages,
			.index = index,
			.result = result,
		};

		dmirror_record(dev, id, &event);
	}
}

#endif
