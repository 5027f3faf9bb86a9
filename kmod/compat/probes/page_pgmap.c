// SPDX-License-Identifier: GPL-2.0
#include <linux/memremap.h>
#include <linux/mm.h>

void *probe(struct page *page);
void *probe(struct page *page)
{
	return page_pgmap(page)->owner;
}
