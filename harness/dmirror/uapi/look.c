// SPDX-License-Identifier: GPL-2.0
/*
 * All page tables of a scenario in one call: it is made after each step.
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "look.h"

static int look_walk(const struct dm_sight *sight)
{
	struct dmirror_walk walk = {
		.size = sizeof(walk),
		.addr = sight->addr,
		.npages = sight->npages,
		.pages = (uintptr_t)sight->to,
	};

	/* Flags of pages are requests, too. */
	memset(sight->to, 0, sight->npages * sizeof(struct dmirror_page));
	return ioctl(sight->fd, DMIRROR_WALK, &walk) ? -errno : 0;
}

static int look_pagemap(const struct dm_sight *sight)
{
	size_t size = sight->npages * sizeof(uint64_t);
	ssize_t ret = pread(sight->fd, sight->to, size, sight->addr / 4096 * sizeof(uint64_t));

	return ret < 0 ? -errno : (size_t)ret == size ? 0 : -ENODATA;
}

/* A negative errno, of the first that failed; 0 if none did. */
int dm_look(const struct dm_sight *sights, int count)
{
	int ret = 0;

	for (; count-- && !ret; sights++)
		ret = sights->walk ? look_walk(sights) : look_pagemap(sights);
	return ret;
}
