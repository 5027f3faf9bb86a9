/* SPDX-License-Identifier: GPL-2.0 */
/* What the processes of a scenario are told, and what they answer. */
#ifndef DMIRROR_AGENT_H
#define DMIRROR_AGENT_H

#include <stdint.h>

#define AGENT_CHANNELS	32
#define AGENT_VALUES	1024	/* of an answer */
#define AGENT_SCRATCH	0x200000000000	/* where every agent has the memory for arguments */

#define AGENT_LOAD	1	/* address, pages: the first word of each */
#define AGENT_STORE	2	/* address, pages, value, what it grows by from page to page */
#define AGENT_ADD	3	/* the same; gives what was there */
#define AGENT_CALL	4	/* number of a system call, its six arguments */
#define AGENT_OPEN	5	/* number of a device: its descriptor comes with the answer */
#define AGENT_FORK	6	/* channel of the child */
#define AGENT_THREAD	7	/* channel of the thread */
#define AGENT_EXEC	8
#define AGENT_TID	9
#define AGENT_STOP	10	/* the end of a thread */

struct dm_agent_order {
	uint64_t what;
	uint64_t args[7];
};

/*
 * @result: of a call, or a negative errno; of accesses: how many pages
 * @fault: where an access raised a signal
 * @signal: which one, or 0
 * @count: values that follow
 */
struct dm_agent_reply {
	int64_t result;
	uint64_t fault;
	uint32_t signal;
	uint32_t count;
};

#endif
