// SPDX-License-Identifier: GPL-2.0
#include <linux/memremap.h>

static void core_free(struct page *page)
{
}

extern const struct dev_pagemap_ops probe;
const struct dev_pagemap_ops probe = { .page_free = core_free };
