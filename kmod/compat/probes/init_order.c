// SPDX-License-Identifier: GPL-2.0
#include <linux/memremap.h>

void probe(struct folio *folio, struct dev_pagemap *pagemap);
void probe(struct folio *folio, struct dev_pagemap *pagemap)
{
	zone_device_folio_init(folio, pagemap, 0);
}
