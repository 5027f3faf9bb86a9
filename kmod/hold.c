// SPDX-License-Identifier: GPL-2.0
/*
 * Hold points: a thread that comes by waits until it is let go.
 *
 * What holds it is a file of its own, so that it ends with the process that
 * armed it. A wait is killable and has a limit: nothing stays held for ever.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/refcount.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "context.h"

#define DMIRROR_HOLD_LIMIT	10000	/* ms */
#define DMIRROR_HOLD_LONGEST	60000

/**
 * struct dmirror_holder - one hold
 * @refs: the file, and who is held
 * @dev: of its context, which may be gone
 * @how: as it was asked for
 * @wait: woken with every change of @now.state
 * @node: on dmirror_steer.holds until it is over; under
 *	dmirror_device.steer_lock, as is what follows
 * @now: what DMIRROR_HOLD_STATE says
 */
struct dmirror_holder {
	refcount_t refs;
	struct dmirror_device *dev;
	struct dmirror_hold how;
	wait_queue_head_t wait;
	struct list_head node;
	struct dmirror_hold_state now;
};

static void dmirror_holder_put(struct dmirror_holder *holder)
{
	if (refcount_dec_and_test(&holder->refs))
		kfree(holder);
}

/* It ends, unless it has. Who is held goes on. */
static void dmirror_hold_end(struct dmirror_holder *holder, u32 state)
{
	lockdep_assert_held(&holder->dev->steer_lock);
	if (list_empty(&holder->node))
		return;
	list_del_init(&holder->node);
	holder->dev->holds--;
	WRITE_ONCE(holder->now.state, state);
	wake_up_all(&holder->wait);
}

static bool dmirror_hold_wants(const struct dmirror_hold *how, u32 point,
			       u32 watch, u32 event, u64 start, u64 end)
{
	if (how->point != point || how->watch != watch)
		return false;
	if (how->events && !(how->events & BIT(event)))
		return false;
	return !how->end || (start < how->end && how->start < end);
}

/*
 * Called where a thread of context @id passes @point, which may be held there:
 * for as many jiffies as this returns.
 */
unsigned long dmirror_stop_at(struct dmirror_device *dev, u32 id, u32 point,
			      u32 watch, u32 event, u64 start, u64 end)
{
	unsigned long since = jiffies;
	struct dmirror_holder *holder, *held = NULL;
	struct dmirror_context *ctx;
	unsigned long flags;
	long left;

	spin_lock_irqsave(&dev->steer_lock, flags);
	ctx = dmirror_find_context(dev, id);
	if (ctx) {
		list_for_each_entry(holder, &ctx->steer.holds, node) {
			if (!dmirror_hold_wants(&holder->how, point, watch,
						event, start, end))
				continue;
			if (++holder->now.passages != holder->how.nth || held)
				continue;
			held = holder;
			refcount_inc(&held->refs);
			held->now.tid = task_pid_nr(current);
			held->now.start = start;
			held->now.end = end;
			WRITE_ONCE(held->now.state, DMIRROR_HOLD_HELD);
			wake_up_all(&held->wait);
		}
	}
	spin_unlock_irqrestore(&dev->steer_lock, flags);
	if (!held)
		return 0;

	left = wait_event_killable_timeout(held->wait,
					   READ_ONCE(held->now.state) !=
						DMIRROR_HOLD_HELD,
					   msecs_to_jiffies(held->how.limit));
	spin_lock_irqsave(&dev->steer_lock, flags);
	dmirror_hold_end(held, left < 0 ? DMIRROR_HOLD_KILLED :
					  DMIRROR_HOLD_EXPIRED);
	spin_unlock_irqrestore(&dev->steer_lock, flags);
	dmirror_holder_put(held);
	return jiffies - since;
}

/* All holds of @ctx end. */
void dmirror_holds_close(struct dmirror_context *ctx)
{
	struct dmirror_holder *holder, *next;
	unsigned long flags;

	spin_lock_irqsave(&ctx->dev->steer_lock, flags);
	list_for_each_entry_safe(holder, next, &ctx->steer.holds, node)
		dmirror_hold_end(holder, DMIRROR_HOLD_CLOSED);
	spin_unlock_irqrestore(&ctx->dev->steer_lock, flags);
}

static void dmirror_hold_resume(struct dmirror_holder *holder)
{
	unsigned long flags;

	spin_lock_irqsave(&holder->dev->steer_lock, flags);
	dmirror_hold_end(holder, holder->now.state == DMIRROR_HOLD_HELD ?
					 DMIRROR_HOLD_RESUMED :
					 DMIRROR_HOLD_UNUSED);
	spin_unlock_irqrestore(&holder->dev->steer_lock, flags);
}

static int dmirror_hold_release(struct inode *inode, struct file *file)
{
	dmirror_hold_resume(file->private_data);
	dmirror_holder_put(file->private_data);
	return 0;
}

static __poll_t dmirror_hold_poll(struct file *file,
				  struct poll_table_struct *table)
{
	struct dmirror_holder *holder = file->private_data;

	poll_wait(file, &holder->wait, table);
	switch (READ_ONCE(holder->now.state)) {
	case DMIRROR_HOLD_ARMED:
		return 0;
	case DMIRROR_HOLD_HELD:
		return EPOLLIN | EPOLLRDNORM;
	default:
		return EPOLLHUP;
	}
}

static long dmirror_hold_ioctl(struct file *file, unsigned int number,
			       unsigned long arg)
{
	struct dmirror_holder *holder = file->private_data;
	struct dmirror_hold_state __user *uarg = (void __user *)arg;
	struct dmirror_hold_state state;
	u32 head[2];
	unsigned long flags;

	switch (number) {
	case DMIRROR_HOLD_RESUME:
		dmirror_hold_resume(holder);
		return 0;
	case DMIRROR_HOLD_STATE:
		if (copy_from_user(head, uarg, sizeof(head)))
			return -EFAULT;
		if (head[0] < sizeof(head) || head[1])
			return -EINVAL;
		spin_lock_irqsave(&holder->dev->steer_lock, flags);
		state = holder->now;
		spin_unlock_irqrestore(&holder->dev->steer_lock, flags);
		state.size = min_t(u32, head[0], sizeof(state));
		return copy_to_user(uarg, &state, state.size) ? -EFAULT : 0;
	default:
		return -ENOTTY;
	}
}

static const struct file_operations dmirror_hold_fops = {
	.owner = THIS_MODULE,
	.release = dmirror_hold_release,
	.poll = dmirror_hold_poll,
	.unlocked_ioctl = dmirror_hold_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

/* DMIRROR_HOLD. The caller installs @file at the descriptor, or drops both. */
long dmirror_hold(struct dmirror_context *ctx, struct dmirror_hold *hold,
		  struct file **file)
{
	struct dmirror_holder *holder;
	unsigned long flags;
	int fd;

	if (hold->flags || hold->reserved ||
	    hold->point > DMIRROR_HOLD_CPU_END || !hold->nth ||
	    hold->events >= BIT(DMIRROR_NR_EVENTS) ||
	    hold->limit > DMIRROR_HOLD_LONGEST ||
	    (hold->end && hold->start >= hold->end) ||
	    (!hold->end && hold->start))
		return -EINVAL;
	if (hold->point != DMIRROR_HOLD_INVALIDATE &&
	    (hold->watch || hold->events))
		return -EINVAL;
	if (!hold->limit)
		hold->limit = DMIRROR_HOLD_LIMIT;

	holder = kzalloc(sizeof(*holder), GFP_KERNEL_ACCOUNT);
	if (!holder)
		return -ENOMEM;
	refcount_set(&holder->refs, 1);
	holder->dev = ctx->dev;
	holder->how = *hold;
	init_waitqueue_head(&holder->wait);
	INIT_LIST_HEAD(&holder->node);

	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0) {
		kfree(holder);
		return fd;
	}
	*file = anon_inode_getfile("[dmirror-hold]", &dmirror_hold_fops, holder,
				   O_RDWR);
	if (IS_ERR(*file)) {
		put_unused_fd(fd);
		kfree(holder);
		fd = PTR_ERR(*file);
		*file = NULL;
		return fd;
	}
	hold->fd = fd;
	spin_lock_irqsave(&ctx->dev->steer_lock, flags);
	list_add_tail(&holder->node, &ctx->steer.holds);
	ctx->dev->holds++;
	spin_unlock_irqrestore(&ctx->dev->steer_lock, flags);
	return 0;
}
