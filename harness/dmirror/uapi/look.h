/* SPDX-License-Identifier: GPL-2.0 */
/* What is looked at after each step of a scenario. */
#ifndef DMIRROR_LOOK_H
#define DMIRROR_LOOK_H

#include <stdint.h>

/**
 * struct dm_sight - a region as one page table has it
 * @addr: its first byte
 * @npages: its length
 * @to: room for an answer of each page
 * @last: as long, what was there at the last look; at the first, zeroes
 * @fd: a mirror's, or /proc/PID/pagemap
 * @walk: whether it is a mirror's: struct dmirror_page; else 8 bytes a page
 */
struct dm_sight {
	uint64_t addr;
	uint64_t npages;
	void *to;
	void *last;
	int fd;
	int walk;
};

#endif
