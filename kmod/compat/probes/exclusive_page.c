// SPDX-License-Identifier: GPL-2.0
#include <linux/rmap.h>

void *probe(struct mm_struct *mm, struct folio **folio);
void *probe(struct mm_struct *mm, struct folio **folio)
{
	return make_device_exclusive(mm, 0, NULL, folio);
}
