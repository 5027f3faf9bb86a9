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

/* Bytes of an answer. */
static size_t look_size(const struct dm_sight *sight)
{
	return sight->npages * (sight->walk ? sizeof(struct dmirror_page) : sizeof(uint64_t));
}

static int look_walk(const struct dm_sight *sight, size_t size)
{
	struct dmirror_walk walk = {
		.size = sizeof(walk),
		.addr = sight->addr,
		.npages = sight->npages,
		.pages = (uintptr_t)sight->to,
	};

	/* Flags of pages are requests, too. */
	memset(sight->to, 0, size);
	return ioctl(sight->fd, DMIRROR_WALK, &walk) ? -errno : 0;
}

static int look_pagemap(const struct dm_sight *sight, size_t size)
{
	ssize_t ret = pread(sight->fd, sight->to, size, sight->addr / 4096 * sizeof(uint64_t));

	return ret < 0 ? -errno : (size_t)ret == size ? 0 : -ENODATA;
}

/* How many are not as they were at the last look, with their numbers in @changed; or a negative errno. */
int dm_look(const struct dm_sight *sights, int count, int *changed)
{
	int found = 0;

	for (int i = 0; i < count; i++) {
		const struct dm_sight *sight = &sights[i];
		size_t size = look_size(sight);
		int ret = sight->walk ? look_walk(sight, size) : look_pagemap(sight, size);

		if (ret)
			return ret;
		if (memcmp(sight->to, sight->last, size)) {
			memcpy(sight->last, sight->to, size);
			changed[found++] = i;
		}
	}
	return found;
}
