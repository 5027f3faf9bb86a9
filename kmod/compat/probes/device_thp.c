// SPDX-License-Identifier: GPL-2.0
#include <linux/memremap.h>
#include <linux/migrate.h>

static void core_split(struct folio *head, struct folio *tail)
{
	tail->pgmap = head->pgmap;
}

extern const struct dev_pagemap_ops probe;
const struct dev_pagemap_ops probe = { .folio_split = core_split };

extern unsigned long words[];
unsigned long words[] = { MIGRATE_PFN_COMPOUND, MIGRATE_VMA_SELECT_COMPOUND };
