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

static int look_walk(int fd, const struct dm_region *region, void *to, size_t size)
{
	struct dmirror_walk walk = {
		.size = sizeof(walk),
		.addr = region->addr,
		.npages = region->npages,
		.pages = (uintptr_t)to,
	};

	/* Flags of pages are requests, too. */
	memset(to, 0, size);
	return ioctl(fd, DMIRROR_WALK, &walk) ? -errno : 0;
}

static int look_pagemap(int fd, const struct dm_region *region, void *to, size_t size)
{
	ssize_t ret = pread(fd, to, size, region->addr / 4096 * sizeof(uint64_t));

	return ret < 0 ? -errno : (size_t)ret == size ? 0 : -ENODATA;
}

/* How many parts are not as they were at the last look; or a negative errno. */
int dm_look(struct dm_look *look)
{
	uint64_t offset = 0;
	int found = 0;

	for (int i = 0; i < look->fds_count * look->regions_count; i++) {
		const struct dm_region *region = &look->regions[i % look->regions_count];
		int who = i / look->regions_count;
		int mirror = who < look->mirrors;
		size_t size = region->npages * (mirror ? sizeof(struct dmirror_page) : sizeof(uint64_t));
		char *now = look->now + offset, *last = look->last + offset;
		int ret = mirror ? look_walk(look->fds[who], region, now, size) :
				   look_pagemap(look->fds[who], region, now, size);

		if (ret)
			return ret;
		look->parts[i].offset = offset;
		look->parts[i].size = size;
		if (memcmp(now, last, size)) {
			memcpy(last, now, size);
			look->parts[i].touched = 1;
			look->changed[found++] = i;
		}
		offset += size;
	}
	return found;
}
