// SPDX-License-Identifier: GPL-2.0
/*
 * Counters: for programs in one call, for people in debugfs.
 */
#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include "context.h"

static void dmirror_device_counters(struct dmirror_device *dev,
				    struct dmirror_counters *counters)
{
	unsigned long flags;

	spin_lock_irqsave(&dev->lock, flags);
	counters->dev_pages_in_use = dev->pages_in_use;
	counters->dev_small_allocated = dev->small.allocated;
	counters->dev_small_freed = dev->small.freed;
	counters->dev_huge_allocated = dev->huge.allocated;
	counters->dev_huge_freed = dev->huge.freed;
	counters->dev_huge_split = dev->splits;
	counters->dev_cpu_faults = dev->cpu_faults;
	counters->dev_pages_faulted = dev->pages_faulted;
	counters->dev_pages_evicted = dev->pages_evicted;
	counters->dev_pages_displaced = dev->pages_displaced;
	counters->dev_fault_oom = dev->fault_oom;
	counters->dev_fault_failed = dev->fault_failed;
	counters->dev_releases = dev->releases;
	spin_unlock_irqrestore(&dev->lock, flags);

	spin_lock_irqsave(&dev->steer_lock, flags);
	counters->dev_contexts = dev->contexts;
	spin_unlock_irqrestore(&dev->steer_lock, flags);
}

/* DMIRROR_COUNTERS */
void dmirror_counters(struct dmirror_context *ctx,
		      struct dmirror_counters *counters)
{
	mutex_lock(&ctx->lock);
	*counters = ctx->counters;
	mutex_unlock(&ctx->lock);
	counters->events_refused = atomic64_read(&ctx->events_refused);
	dmirror_device_counters(ctx->dev, counters);
}

static const char * const dmirror_event_names[DMIRROR_NR_EVENTS] = {
	"unknown", "UNMAP", "CLEAR", "PROTECTION_VMA", "PROTECTION_PAGE",
	"SOFT_DIRTY", "RELEASE", "MIGRATE", "EXCLUSIVE",
};

static const char * const dmirror_stayed_names[] = {
	"absent", "memory", "copy", "skipped", "kind", "core",
};

static void dmirror_show_device(struct seq_file *file,
				const struct dmirror_counters *c)
{
	seq_printf(file, "pages in use      %llu\n", c->dev_pages_in_use);
	seq_printf(file, "small folios      %llu allocated, %llu freed\n",
		   c->dev_small_allocated, c->dev_small_freed);
	seq_printf(file, "huge folios       %llu allocated, %llu freed, %llu split\n",
		   c->dev_huge_allocated, c->dev_huge_freed, c->dev_huge_split);
	seq_printf(file, "CPU faults        %llu, %llu pages brought back, %llu without memory, %llu failed\n",
		   c->dev_cpu_faults, c->dev_pages_faulted, c->dev_fault_oom,
		   c->dev_fault_failed);
	seq_printf(file, "evicted           %llu pages, %llu to make room, %llu releases\n",
		   c->dev_pages_evicted, c->dev_pages_displaced,
		   c->dev_releases);
	seq_printf(file, "contexts          %llu\n", c->dev_contexts);
}

static void dmirror_show_context(struct seq_file *file,
				 struct dmirror_context *ctx)
{
	const struct dmirror_counters *c = &ctx->counters;
	unsigned int i;

	seq_printf(file, "\ncontext %u of process %d\n", ctx->id, ctx->opener);
	/* Somebody may be held with the lock. */
	if (!mutex_trylock(&ctx->lock)) {
		seq_puts(file, "  busy\n");
		return;
	}
	seq_printf(file, "  events          %llu seen, %llu filtered, %llu obeyed, %llu refused\n",
		   c->events_seen, c->events_filtered, c->events_obeyed,
		   (u64)atomic64_read(&ctx->events_refused));
	for (i = 0; i < DMIRROR_NR_EVENTS; i++)
		if (c->seen[i])
			seq_printf(file, "    %-15s %llu seen, %llu filtered, %llu obeyed\n",
				   dmirror_event_names[i], c->seen[i],
				   c->filtered[i], c->obeyed[i]);
	seq_printf(file, "  entries         %llu present, %llu installed, %llu dropped, %llu kept\n",
		   c->entries_present, c->entries_installed,
		   c->entries_dropped, c->entries_kept);
	seq_printf(file, "  faults          %llu, %llu walks repeated\n",
		   c->faults, c->fault_retries);
	seq_printf(file, "  to the device   %llu pages, %llu huge folios\n",
		   c->pages_to_device, c->huge_to_device);
	seq_printf(file, "  to the system   %llu pages, %llu huge folios\n",
		   c->pages_to_system, c->huge_to_system);
	for (i = 0; i < ARRAY_SIZE(dmirror_stayed_names); i++)
		if (c->stayed[i])
			seq_printf(file, "  stayed          %llu %s\n",
				   c->stayed[i], dmirror_stayed_names[i]);
	mutex_unlock(&ctx->lock);
}

static int dmirror_status_show(struct seq_file *file, void *unused)
{
	struct dmirror_device *dev = file->private;
	struct dmirror_counters counters = {};
	struct dmirror_context *ctx;

	dmirror_device_counters(dev, &counters);
	dmirror_show_device(file, &counters);
	mutex_lock(&dev->open_mutex);
	list_for_each_entry(ctx, &dev->open, steer.node)
		dmirror_show_context(file, ctx);
	mutex_unlock(&dev->open_mutex);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(dmirror_status);

/* A file for @dev in @folder. Without debugfs there is none, which is no error. */
void dmirror_debugfs_add(struct dmirror_device *dev, struct dentry *folder)
{
	debugfs_create_file(dev_name(&dev->device), 0444, folder, dev,
			    &dmirror_status_fops);
}
