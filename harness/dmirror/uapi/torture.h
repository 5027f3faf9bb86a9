/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the helpers of tests/device/torture share with Python.
 */
#ifndef DMIRROR_TORTURE_H
#define DMIRROR_TORTURE_H

#include <stdint.h>

#define DM_MIX_WRITERS		64	/* a higher number writes nothing that may be seen */
#define DM_MIX_SLICE		512UL	/* pages; what a huge page has */

/**
 * struct dm_entry - what is known of the values of one page
 * @busy: somebody is writing
 * @started: number of the newest value that somebody began to write
 * @complete: number of the newest value that was written as a whole
 * @zeroed: number of the newest value that is zeroes
 */
struct dm_entry {
	uint32_t busy;
	uint32_t started;
	uint32_t complete;
	uint32_t zeroed;
};

/* Kinds of random calls; below: HMM_DMIRROR_* */
#define DM_CALL_OWN		10	/* DMIRROR_*, twelve of them */
#define DM_CALL_READ		22	/* read(2) and poll(2) */
#define DM_CALL_HOLD		23	/* of what DMIRROR_HOLD gave */
#define DM_CALL_UNKNOWN		24	/* numbers that are no call */
#define DM_CALL_KINDS		25
#define DM_CALL_ERRNOS		134

/**
 * struct dm_calls - where random calls may act, and what came of them
 * @arena: first byte of memory of several kinds, where the calls act
 * @arena_pages: its length
 * @shadow: for every page of the arena the address of what it holds, 0 where it cannot be read
 * @source: what WRITE takes its data from
 * @source_bytes: its length
 * @sink: where data go to; nothing is to be stored behind it
 * @sink_bytes: its length
 * @edge: memory is mapped before it and nothing at it or after
 * @read_only: a page that can only be read
 * @pen: a page that can be written
 * @paper: the same page, only to be read
 * @fds: open devices, that do not block
 * @nr_fds: how many
 * @watches: the last watch of each
 * @holds: holds that are open
 * @nr_holds: how many
 * @no_huge: no huge folio for small pages
 * @random: state of the random numbers
 * @made: calls so far
 * @number: the last call
 * @device: on which of @fds
 * @words: of one of DMIRROR_*: the beginning of its structure
 * @addr: its arguments
 * @npages: as given
 * @ptr: as given
 * @result: 0 or the negative errno of the last call
 * @results: how often which kind of call ended with which errno
 */
struct dm_calls {
	uint64_t arena;
	uint64_t arena_pages;
	uint64_t *shadow;
	uint64_t source;
	uint64_t source_bytes;
	uint64_t sink;
	uint64_t sink_bytes;
	uint64_t edge;
	uint64_t read_only;
	uint64_t pen;
	uint64_t paper;
	int32_t fds[8];
	uint64_t nr_fds;
	uint32_t watches[8];
	int32_t holds[4];
	uint64_t nr_holds;
	uint64_t no_huge;
	uint64_t random;
	uint64_t made;
	uint64_t number;
	uint64_t device;
	uint32_t words[16];
	uint64_t addr;
	uint64_t npages;
	uint64_t ptr;
	int64_t result;
	uint32_t results[25][134];
};

/**
 * struct dm_steerer - a thread that holds others, and lets calls fail
 * @fds: open devices that others use, that do not block
 * @nr_fds: how many
 * @start: first byte of the memory that it is about
 * @end: byte past the last
 * @random: state of its random numbers
 * @pause: most µs between two acts
 * @logs: it starts and reads logs too, and has watches
 * @fails: it injects failures too, of allocations
 * @stop: it shall end
 * @held: how many threads were held
 * @records: of logs
 * @lost: records of logs
 * @failed: how many allocations failed
 * @failure: what went wrong, in words
 */
struct dm_steerer {
	int32_t fds[8];
	uint64_t nr_fds;
	uint64_t start;
	uint64_t end;
	uint64_t random;
	uint64_t pause;
	uint32_t logs;
	uint32_t fails;
	uint32_t stop;
	uint64_t held;
	uint64_t records;
	uint64_t lost;
	uint64_t failed;
	char failure[256];
};

/**
 * struct dm_mix - memory that many threads work on
 * @memory: first byte of its slices, each of DM_MIX_SLICE pages, one for each
 *	thread and a last one that is everybody's
 * @threads: how many
 * @entries: the ledger, in memory that is shared with forked processes
 * @nodes: the device nodes
 * @nr_nodes: how many
 * @fds: open devices that threads share, one for each node
 * @hot: pages at the beginning of a slice where most is done
 * @calm: no changes to the mappings, which hold up everything else
 * @until: CLOCK_MONOTONIC in ns
 * @steered: threads hold each other, and copies to a device fail
 * @failed: a thread has failed and all come to their end
 */
struct dm_mix {
	uint64_t memory;
	uint64_t threads;
	struct dm_entry *entries;
	char nodes[8][32];
	uint64_t nr_nodes;
	int32_t fds[8];
	uint64_t hot;
	uint32_t calm;
	uint64_t until;
	uint32_t steered;
	uint32_t failed;
};

#define DM_MIX_KINDS		16

/**
 * struct dm_worker - one of the threads
 * @mix: what they have in common
 * @number: which; also its slice and the writer of its values
 * @random: state of its random numbers
 * @data: room for the data of a slice
 * @scratch: address space of a slice that is only its own
 * @fd: its open device
 * @hold: a hold of that, or -1
 * @own: how often which kind of call on its own slice ended with which errno
 * @others: the same where others change the memory meanwhile
 * @failure: what went wrong, in words
 */
struct dm_worker {
	struct dm_mix *mix;
	uint64_t number;
	uint64_t random;
	char *data;
	uint64_t scratch;
	int32_t fd;
	int32_t hold;
	uint32_t own[16][134];
	uint32_t others[16][134];
	char failure[256];
};

#endif
