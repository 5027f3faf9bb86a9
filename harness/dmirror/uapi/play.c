// SPDX-License-Identifier: GPL-2.0
/*
 * Plays steps of a scenario and looks at its memory after each. Where a guest
 * is emulated, to have Python do it takes three times as long.
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "play.h"

#define PLAY_PAGE	4096UL
#define PLAY_WORDS	(PLAY_PAGE / sizeof(uint64_t))

/* A negative errno: -EAGAIN after the channel's time limit, and the next call waits for the answer again. */
static int play_order(struct dm_play *play, const struct dm_step *step, struct dm_ended *ended)
{
	int channel = play->who[step->who];
	struct iovec parts[] = {
		{ &ended->reply, sizeof(ended->reply) },
		{ ended + 1, AGENT_VALUES * sizeof(uint64_t) },
	};
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };
	ssize_t ret;

	if (!play->told && send(channel, &step->order, sizeof(step->order), MSG_NOSIGNAL) < 0)
		return -errno;
	play->told = 1;
	do {
		ret = recvmsg(channel, &message, 0);
	} while (ret < 0 && errno == EINTR);
	if (ret < 0)
		return -errno;
	if ((size_t)ret != sizeof(ended->reply) + ended->reply.count * sizeof(uint64_t))
		return -EPROTO;
	play->told = 0;
	return 0;
}

/* The pages that a device writes: a number in front of each, zeroes behind it. */
static void play_number(uint64_t *words, const uint64_t *args)
{
	memset(words, 0, args[1] * PLAY_PAGE);
	for (uint64_t page = 0; page < args[1]; page++)
		words[page * PLAY_WORDS] = args[2] + page * args[3];
}

static void play_values(const uint64_t *words, uint64_t pages, struct dm_ended *ended)
{
	uint64_t *values = (uint64_t *)(ended + 1);

	for (uint64_t page = 0; page < pages; page++)
		values[page] = words[page * PLAY_WORDS];
	ended->reply.count = pages;
}

static void play_peek(struct dm_play *play, const struct dm_step *step, struct dm_ended *ended)
{
	const uint64_t *args = step->order.args;
	struct dmirror_peek peek = {
		.size = sizeof(peek),
		.addr = args[0],
		.npages = args[1],
		.ptr = (uintptr_t)play->pages,
	};

	if (ioctl(play->who[step->who], DMIRROR_PEEK, &peek)) {
		ended->error = errno;
		ended->reply.result = peek.done;
		return;
	}
	ended->reply.result = args[1];
	play_values(play->pages, args[1], ended);
}

static void play_device(struct dm_play *play, const struct dm_step *step, struct dm_ended *ended)
{
	static const unsigned long calls[] = {
		[STEP_READ] = HMM_DMIRROR_READ,
		[STEP_WRITE] = HMM_DMIRROR_WRITE,
		[STEP_TO_DEVICE] = HMM_DMIRROR_MIGRATE_TO_DEV,
		[STEP_TO_SYSTEM] = HMM_DMIRROR_MIGRATE_TO_SYS,
		[STEP_EXCLUSIVE] = HMM_DMIRROR_EXCLUSIVE,
		[STEP_SNAPSHOT] = HMM_DMIRROR_SNAPSHOT,
	};
	const uint64_t *args = step->order.args;
	struct hmm_dmirror_cmd cmd = {
		.addr = args[0],
		.npages = args[1],
		.ptr = (uintptr_t)play->pages,
	};

	if (step->what == STEP_WRITE)
		play_number(play->pages, args);
	if (ioctl(play->who[step->who], calls[step->what], &cmd))
		ended->error = errno;
	ended->reply.result = cmd.cpages;
	if (!ended->error && step->what == STEP_READ)
		play_values(play->pages, cmd.cpages, ended);
	/* Permissions are said of all pages or of none. */
	if (!ended->error && step->what == STEP_SNAPSHOT)
		ended->reply.result = args[1];
}

static int play_look(struct dm_play *play, struct dm_ended *ended)
{
	int changed = dm_look(play->look);

	if (changed < 0)
		return changed;
	for (int i = 0; i < changed; i++) {
		const struct dm_part *part = &play->look->parts[play->look->changed[i]];
		uint32_t *head = (void *)(play->tape + play->used);

		head[0] = play->look->changed[i];
		head[1] = part->size;
		memcpy(head + 2, play->look->now + part->offset, part->size);
		play->used += 2 * sizeof(*head) + part->size;
	}
	ended->changed = changed;
	return 0;
}

/*
 * 0 when all are done; -ENOBUFS when the tape is full and -EAGAIN when an
 * agent is late, to be called again with an empty tape; or another negative
 * errno. What is on the tape is whole.
 */
int dm_play(struct dm_play *play)
{
	for (; play->at < play->count; play->at++) {
		const struct dm_step *step = &play->steps[play->at];
		struct dm_ended *ended = (void *)(play->tape + play->used);
		size_t before = play->used;
		int ret = 0;

		if (play->room - play->used < play->longest)
			return -ENOBUFS;
		memset(ended, 0, sizeof(*ended));
		ended->what = step->what;
		ended->more = step->more;
		if (step->what == STEP_ACCESS || step->what == STEP_CALL)
			ret = play_order(play, step, ended);
		else if (step->what == STEP_PEEK)
			play_peek(play, step, ended);
		else
			play_device(play, step, ended);
		if (ret)
			return ret;
		play->used += sizeof(*ended) + ended->reply.count * sizeof(uint64_t);
		if (!step->more)
			ret = play_look(play, ended);
		if (ret) {
			play->used = before;
			return ret;
		}
	}
	return 0;
}
