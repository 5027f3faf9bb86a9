// SPDX-License-Identifier: GPL-2.0
/* What every supported kernel has; when this fails nothing else is asked. */
#include <linux/hmm.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/rmap.h>

int probe(struct migrate_vma *args, struct hmm_range *range);
int probe(struct migrate_vma *args, struct hmm_range *range)
{
	args->flags = MIGRATE_VMA_SELECT_SYSTEM;
	args->fault_page = NULL;
	range->notifier_seq = mmu_interval_read_begin(range->notifier);
	return migrate_vma_setup(args) + hmm_range_fault(range) +
		migrate_device_range(args->src, 0, 1);
}
