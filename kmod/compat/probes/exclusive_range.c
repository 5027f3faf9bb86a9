// SPDX-License-Identifier: GPL-2.0
#include <linux/rmap.h>

int probe(struct mm_struct *mm, struct page **pages);
int probe(struct mm_struct *mm, struct page **pages)
{
	return make_device_exclusive_range(mm, 0, PAGE_SIZE, pages, NULL);
}
