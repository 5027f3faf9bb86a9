/* SPDX-License-Identifier: GPL-2.0 */
/* What is looked at after each step of a scenario. */
#ifndef DMIRROR_LOOK_H
#define DMIRROR_LOOK_H

#include <stdint.h>

/* A region: its first byte, its length. */
struct dm_region {
	uint64_t addr;
	uint64_t npages;
};

/**
 * struct dm_part - a region as one page table has it
 * @offset: where that stands in dm_look.now and dm_look.last
 * @size: how many bytes
 * @touched: it has changed since somebody set this to 0
 */
struct dm_part {
	uint64_t offset;
	uint32_t size;
	uint32_t touched;
};

/**
 * struct dm_look - all regions as all page tables have them
 * @regions: what is looked at
 * @regions_count: how many
 * @fds: mirrors, then /proc/PID/pagemap of processes
 * @fds_count: how many
 * @mirrors: how many of them are mirrors
 * @now: room for struct dmirror_page of each page by a mirror, for 8 bytes by a process
 * @last: as much, what was there at the last look; at the first, zeroes
 * @parts: room for each region of the first descriptor, and so on
 * @changed: room for as many numbers of parts
 */
struct dm_look {
	const struct dm_region *regions;
	int regions_count;
	const int *fds;
	int fds_count;
	int mirrors;
	char *now;
	char *last;
	struct dm_part *parts;
	int *changed;
};

#endif
