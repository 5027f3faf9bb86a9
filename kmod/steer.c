// SPDX-License-Identifier: GPL-2.0
/*
 * The contexts of a device, to be found by the id that their pages carry.
 */
#include "context.h"

/* The open context with this id, or NULL; good under dmirror_device.steer_lock. */
struct dmirror_context *dmirror_find_context(struct dmirror_device *dev, u32 id)
{
	struct dmirror_context *ctx;

	lockdep_assert_held(&dev->steer_lock);
	list_for_each_entry(ctx, &dev->open, steer.node)
		if (ctx->id == id)
			return ctx;
	return NULL;
}

/* @ctx is complete but for what follows here. */
void dmirror_steer_open(struct dmirror_context *ctx)
{
	struct dmirror_device *dev = ctx->dev;
	unsigned long flags;

	mutex_init(&ctx->steer.read_mutex);
	init_waitqueue_head(&ctx->steer.readable);
	INIT_LIST_HEAD(&ctx->steer.holds);
	mutex_lock(&dev->open_mutex);
	spin_lock_irqsave(&dev->steer_lock, flags);
	list_add_tail(&ctx->steer.node, &dev->open);
	dev->contexts++;
	spin_unlock_irqrestore(&dev->steer_lock, flags);
	mutex_unlock(&dev->open_mutex);
}

/* From here on nobody finds @ctx, of which all holds have ended. */
void dmirror_steer_close(struct dmirror_context *ctx)
{
	struct dmirror_device *dev = ctx->dev;
	unsigned long flags;
	unsigned int i;

	mutex_lock(&dev->open_mutex);
	spin_lock_irqsave(&dev->steer_lock, flags);
	list_del(&ctx->steer.node);
	dev->contexts--;
	dev->logs_on -= ctx->steer.log.on;
	for (i = 0; i < DMIRROR_NR_INJECTIONS; i++)
		dev->injections -= !!ctx->steer.injection[i].nth;
	spin_unlock_irqrestore(&dev->steer_lock, flags);
	mutex_unlock(&dev->open_mutex);
	dmirror_log_free(ctx);
}
