// SPDX-License-Identifier: GPL-2.0
/*
 * Failures on demand: the n-th of a kind since it was asked for.
 */
#include "context.h"

/* Whether this one of @what, done for context @id, is to fail. */
bool dmirror_fails(struct dmirror_device *dev, u32 id, u32 what)
{
	struct dmirror_injection *injection;
	struct dmirror_context *ctx;
	unsigned long flags;
	bool fails = false;

	spin_lock_irqsave(&dev->steer_lock, flags);
	ctx = dmirror_find_context(dev, id);
	if (ctx && ctx->steer.injection[what].nth) {
		injection = &ctx->steer.injection[what];
		injection->passed++;
		fails = injection->every ?
			!(injection->passed % injection->nth) :
			injection->passed == injection->nth;
		injection->failed += fails;
	}
	spin_unlock_irqrestore(&dev->steer_lock, flags);
	return fails;
}

/* DMIRROR_INJECT */
long dmirror_inject(struct dmirror_context *ctx, struct dmirror_inject *inject)
{
	struct dmirror_injection *injection;
	unsigned long flags;

	if (inject->flags & ~(DMIRROR_INJECT_EVERY | DMIRROR_INJECT_READ) ||
	    inject->what >= DMIRROR_NR_INJECTIONS || inject->reserved)
		return -EINVAL;

	injection = &ctx->steer.injection[inject->what];
	spin_lock_irqsave(&ctx->dev->steer_lock, flags);
	inject->passed = injection->passed;
	inject->failed = injection->failed;
	if (!(inject->flags & DMIRROR_INJECT_READ)) {
		ctx->dev->injections += !!inject->nth - !!injection->nth;
		*injection = (struct dmirror_injection){
			.nth = inject->nth,
			.every = inject->flags & DMIRROR_INJECT_EVERY,
		};
	}
	spin_unlock_irqrestore(&ctx->dev->steer_lock, flags);
	return 0;
}
