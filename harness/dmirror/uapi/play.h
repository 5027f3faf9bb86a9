/* SPDX-License-Identifier: GPL-2.0 */
/* Steps of a scenario that follow each other without anything that others have to do, in one call. */
#ifndef DMIRROR_PLAY_H
#define DMIRROR_PLAY_H

#include <stdint.h>

#include "agent.h"
#include "look.h"

/* dm_step.what: an agent's order, or a device's call with the arguments of an order. */
#define STEP_ACCESS	1	/* AGENT_LOAD, _STORE, _ADD */
#define STEP_CALL	2	/* AGENT_CALL */
#define STEP_READ	3	/* address, pages */
#define STEP_WRITE	4	/* address, pages, value, what it grows by from page to page */
#define STEP_PEEK	5	/* as STEP_READ, and all below */
#define STEP_TO_DEVICE	6
#define STEP_TO_SYSTEM	7
#define STEP_EXCLUSIVE	8
#define STEP_SNAPSHOT	9

/**
 * struct dm_step - one step, or one of several orders that are one
 * @what: STEP_*
 * @who: its place in dm_play.who
 * @more: the next one belongs to it, nothing is looked at before that
 * @unused: 0
 * @order: what an agent is told; of a device, the arguments
 */
struct dm_step {
	uint32_t what;
	uint32_t who;
	uint32_t more;
	uint32_t unused;
	struct dm_agent_order order;
};

/**
 * struct dm_ended - how a step ended
 * @reply: as an agent's; of a device the pages that were done, and values
 * @what: that of the step
 * @error: errno of a device's call, or 0
 * @more: that of the step
 * @changed: parts of the look that are not as they were
 *
 * Behind it are the values, and for each of those parts its number and its size, 4 bytes each, and what is there now.
 */
struct dm_ended {
	struct dm_agent_reply reply;
	uint32_t what;
	uint32_t error;
	uint32_t more;
	uint32_t changed;
};

/**
 * struct dm_play - steps under way
 * @steps: all of them
 * @count: how many
 * @at: the one that is next
 * @told: it was sent, and was not answered yet
 * @who: descriptors: the channels of agents, and mirrors
 * @look: what is looked at after each
 * @pages: room for as many pages as a device reads or writes at once
 * @tape: room for what comes of them
 * @room: its size in bytes
 * @longest: what the longest step may take of it
 * @used: what is on it
 */
struct dm_play {
	const struct dm_step *steps;
	int count;
	int at;
	int told;
	const int *who;
	struct dm_look *look;
	void *pages;
	char *tape;
	size_t room;
	size_t longest;
	size_t used;
};

#endif
