// SPDX-License-Identifier: GPL-2.0
/*
 * The event log of a context: a ring of fixed records that read(2) empties.
 *
 * Records come from anywhere, also from where the last reference of a page is
 * dropped, so writing one is a copy under a spin lock. A full ring loses what
 * comes: what led to a failure is at its beginning more often than at its end.
 */
#include <linux/fs.h>
#include <linux/log2.h>
#include <linux/poll.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>

#include "context.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

#define DMIRROR_LOG_RECORDS	4096
#define DMIRROR_LOG_MOST	SZ_64K
/* Records copied to user space at a time, by way of the stack. */
#define DMIRROR_LOG_BATCH	4

static void dmirror_ring_put(struct dmirror_ring *ring,
			     const struct dmirror_event *event)
{
	ring->records[ring->head++ & (ring->size - 1)] = *event;
}

/* Tell of what was lost, in its place. */
static noinline void dmirror_ring_confess(struct dmirror_ring *ring, u64 time)
{
	struct dmirror_event overrun = {
		.seq = ring->last_seq,
		.time = time,
		.pages = ring->unsaid,
		.type = DMIRROR_EVENT_OVERRUN,
	};

	dmirror_ring_put(ring, &overrun);
	ring->unsaid = 0;
}

static void dmirror_ring_write(struct dmirror_ring *ring,
			       struct dmirror_event *event)
{
	unsigned int room = ring->size - (ring->head - ring->tail);

	event->tid = current->pid;
	/* Under the lock, so that time goes as the numbers do. */
	event->time = ktime_get_ns();

	if (room < 1 + !!ring->unsaid) {
		ring->last_seq++;
		ring->lost++;
		ring->unsaid++;
		return;
	}
	if (unlikely(ring->unsaid))
		dmirror_ring_confess(ring, event->time);
	event->seq = ++ring->last_seq;
	dmirror_ring_put(ring, event);
}

/*
 * Write down @event, of which the caller has filled in what only he knows, in
 * the log of context @id, and show it to who traces.
 */
void dmirror_record(struct dmirror_device *dev, u32 id,
		    struct dmirror_event *event)
{
	struct dmirror_context *ctx;
	unsigned long flags;

	if (event->type < DMIRROR_EVENT_FAULT)
		trace_dmirror_invalidate(dev->id, id, event);
	else
		trace_dmirror_action(dev->id, id, event);
	if (!READ_ONCE(dev->logs_on))
		return;

	spin_lock_irqsave(&dev->steer_lock, flags);
	ctx = dmirror_find_context(dev, id);
	if (ctx && ctx->steer.log.on) {
		dmirror_ring_write(&ctx->steer.log, event);
		/* Who waits is on the queue before he looks, under the lock. */
		if (waitqueue_active(&ctx->steer.readable))
			wake_up(&ctx->steer.readable);
	}
	spin_unlock_irqrestore(&dev->steer_lock, flags);
}

/*
 * What the kernel told @ctx, or a watch of it. The owner of an event is looked
 * at only where there is one.
 */
void dmirror_record_notice(struct dmirror_context *ctx,
			   const struct mmu_notifier_range *range, u16 type,
			   u16 watch, u64 seq, u16 flags, u64 entries)
{
	struct dmirror_event event = {
		.type = type,
		.start = range->start,
		.end = range->end,
		.interval_seq = seq,
		.pages = entries,
		.flags = flags,
		.watch = watch,
	};

	if (mmu_notifier_range_blockable(range))
		event.flags |= DMIRROR_EVENT_BLOCKABLE;
	if (range->event == MMU_NOTIFY_MIGRATE ||
	    range->event == MMU_NOTIFY_EXCLUSIVE)
		event.owner = range->owner == ctx->dev ?
				      DMIRROR_EVENT_OWNER_OWN :
			      range->owner ? DMIRROR_EVENT_OWNER_OTHER :
					     DMIRROR_EVENT_OWNER_NONE;
	dmirror_record(ctx->dev, ctx->id, &event);
}

/* HMM_DMIRROR_RELEASE concerns every context of the device. */
void dmirror_log_release(struct dmirror_device *dev, int result)
{
	struct dmirror_context *ctx;

	mutex_lock(&dev->open_mutex);
	list_for_each_entry(ctx, &dev->open, steer.node)
		dmirror_log_action(dev, ctx->id, DMIRROR_EVENT_RELEASE_DEVICE,
				   0, 0, 0, 0, result);
	mutex_unlock(&dev->open_mutex);
}

/* Start the log with @records that are empty, or with NULL stop it. */
static void dmirror_log_switch(struct dmirror_context *ctx,
			       struct dmirror_event *records,
			       unsigned int size)
{
	struct dmirror_ring *ring = &ctx->steer.log;
	struct dmirror_event *old = NULL;
	unsigned long flags;

	mutex_lock(&ctx->steer.read_mutex);
	spin_lock_irqsave(&ctx->dev->steer_lock, flags);
	ctx->dev->logs_on += !!records - ring->on;
	ring->on = records;
	if (records) {
		old = ring->records;
		*ring = (struct dmirror_ring){
			.records = records,
			.size = size,
			.on = true,
		};
	}
	spin_unlock_irqrestore(&ctx->dev->steer_lock, flags);
	mutex_unlock(&ctx->steer.read_mutex);
	kvfree(old);
	wake_up_all(&ctx->steer.readable);
}

/* DMIRROR_LOG */
long dmirror_log(struct dmirror_context *ctx, struct dmirror_log *log)
{
	struct dmirror_ring *ring = &ctx->steer.log;
	struct dmirror_event *records = NULL;
	u64 size = log->records ? log->records : DMIRROR_LOG_RECORDS;
	unsigned long flags;

	if (log->flags & ~DMIRROR_LOG_START || !is_power_of_2(size) ||
	    size > DMIRROR_LOG_MOST)
		return -EINVAL;
	if (log->flags & DMIRROR_LOG_START) {
		records = kvcalloc(size, sizeof(*records), GFP_KERNEL_ACCOUNT);
		if (!records)
			return -ENOMEM;
	}
	dmirror_log_switch(ctx, records, size);

	spin_lock_irqsave(&ctx->dev->steer_lock, flags);
	log->records = ring->size;
	log->lost = ring->lost;
	log->next_seq = ring->last_seq + 1;
	spin_unlock_irqrestore(&ctx->dev->steer_lock, flags);
	return 0;
}

void dmirror_log_free(struct dmirror_context *ctx)
{
	kvfree(ctx->steer.log.records);
}

/* The oldest records, at most @most, which stay there. */
static unsigned int dmirror_log_look(struct dmirror_context *ctx,
				     struct dmirror_event *batch,
				     unsigned int most)
{
	struct dmirror_ring *ring = &ctx->steer.log;
	unsigned long flags;
	unsigned int i;

	lockdep_assert_held(&ctx->steer.read_mutex);
	spin_lock_irqsave(&ctx->dev->steer_lock, flags);
	if (ring->head == ring->tail && ring->unsaid)
		dmirror_ring_confess(ring, ktime_get_ns());
	for (i = 0; i < most && ring->tail + i != ring->head; i++)
		batch[i] = ring->records[(ring->tail + i) & (ring->size - 1)];
	spin_unlock_irqrestore(&ctx->dev->steer_lock, flags);
	return i;
}

static void dmirror_log_forget(struct dmirror_context *ctx, unsigned int n)
{
	unsigned long flags;

	spin_lock_irqsave(&ctx->dev->steer_lock, flags);
	ctx->steer.log.tail += n;
	spin_unlock_irqrestore(&ctx->dev->steer_lock, flags);
}

/* Whether read(2) would not wait. */
static bool dmirror_log_ready(struct dmirror_context *ctx)
{
	struct dmirror_ring *ring = &ctx->steer.log;
	unsigned long flags;
	bool ready;

	spin_lock_irqsave(&ctx->dev->steer_lock, flags);
	ready = !ring->on || ring->head != ring->tail || ring->unsaid;
	spin_unlock_irqrestore(&ctx->dev->steer_lock, flags);
	return ready;
}

/* What is there and fits; 0 when that is nothing, or an error. */
static ssize_t dmirror_log_take(struct dmirror_context *ctx,
				char __user *buffer, size_t count)
{
	struct dmirror_event batch[DMIRROR_LOG_BATCH];
	size_t room, done = 0;
	unsigned int n;

	lockdep_assert_held(&ctx->steer.read_mutex);
	while ((room = (count - done) / sizeof(*batch))) {
		n = dmirror_log_look(ctx, batch,
				     min_t(size_t, room, DMIRROR_LOG_BATCH));
		if (!n)
			break;
		/* A record is gone from the log only when the reader has it. */
		if (copy_to_user(buffer + done, batch, n * sizeof(*batch)))
			return done ? done : -EFAULT;
		dmirror_log_forget(ctx, n);
		done += n * sizeof(*batch);
		cond_resched();
	}
	return done;
}

ssize_t dmirror_log_read(struct file *file, char __user *buffer, size_t count,
			 loff_t *offset)
{
	struct dmirror_context *ctx = file->private_data;
	ssize_t ret;

	if (count < sizeof(struct dmirror_event))
		return -EINVAL;
	for (;;) {
		if (mutex_lock_interruptible(&ctx->steer.read_mutex))
			return -ERESTARTSYS;
		ret = ctx->steer.log.records ?
			dmirror_log_take(ctx, buffer, count) : -EINVAL;
		mutex_unlock(&ctx->steer.read_mutex);
		if (ret || !READ_ONCE(ctx->steer.log.on))
			return ret;
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		if (wait_event_interruptible(ctx->steer.readable,
					     dmirror_log_ready(ctx)))
			return -ERESTARTSYS;
	}
}

__poll_t dmirror_log_poll(struct file *file, struct poll_table_struct *table)
{
	struct dmirror_context *ctx = file->private_data;

	poll_wait(file, &ctx->steer.readable, table);
	return dmirror_log_ready(ctx) ? EPOLLIN | EPOLLRDNORM : 0;
}
