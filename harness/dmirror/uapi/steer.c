// SPDX-License-Identifier: GPL-2.0
/*
 * A thread that gets in the way of others: it holds them where the driver
 * passes, for 2 ms at most, reads the log of what they do, watches, and lets
 * allocations fail.
 */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "torture.h"

#define STEER_HOLDS	4
#define STEER_WATCHES	4
#define STEER_RECORDS	64	/* read at a time */

/* What it has of a device: a log and watches. */
struct steered {
	int fd;
	uint64_t seq;
	uint64_t time;
	uint32_t watches[STEER_WATCHES];
	unsigned int nr_watches;
};

struct steering {
	struct dm_steerer *s;
	struct steered of[8];
	int holds[STEER_HOLDS];
};

static void steer_fail(struct dm_steerer *s, const char *format, ...)
{
	va_list arguments;

	if (*s->failure)
		return;
	va_start(arguments, format);
	vsnprintf(s->failure, sizeof(s->failure), format, arguments);
	va_end(arguments);
}

static void steer_own(struct dm_steerer *s, int fd, uint64_t number, void *arg)
{
	if (ioctl(fd, number, arg))
		steer_fail(s, "own call %lu: %s", number - DMIRROR_QUERY, strerror(errno));
}

/* A hold of somebody who comes by somewhere, or -1; @watches are those that may be held. */
static int steer_arm(int fd, uint64_t *random, uint32_t watches, uint64_t start, uint64_t end)
{
	struct dmirror_hold hold = {
		.size = sizeof(hold),
		.point = below(random, DMIRROR_HOLD_CPU_END + 1),
		.limit = 1 + below(random, 2),
		.nth = 1 + below(random, 4),
	};

	if (hold.point == DMIRROR_HOLD_INVALIDATE)
		hold.watch = below(random, watches + 1);
	if (below(random, 2)) {
		hold.start = start;
		hold.end = end;
	}
	return ioctl(fd, DMIRROR_HOLD, &hold) ? -1 : hold.fd;
}

/* Arm a hold where there is none, else look at it and, perhaps, end it. */
static void steer_hold(struct steering *all, struct steered *of)
{
	struct dm_steerer *s = all->s;
	int *hold = &all->holds[below(&s->random, STEER_HOLDS)];
	struct dmirror_hold_state state = { .size = sizeof(state) };
	struct pollfd ready = { .fd = *hold, .events = POLLIN };

	if (*hold < 0) {
		*hold = steer_arm(of->fd, &s->random, of->nr_watches ? of->watches[of->nr_watches - 1] : 0,
				  s->start, s->end);
		if (*hold < 0)
			steer_fail(s, "HOLD: %s", strerror(errno));
		return;
	}
	poll(&ready, 1, below(&s->random, 2));
	if (ioctl(*hold, DMIRROR_HOLD_STATE, &state))
		steer_fail(s, "HOLD_STATE: %s", strerror(errno));
	if (state.state == DMIRROR_HOLD_ARMED && below(&s->random, 4))
		return;
	/* CLOSED says nothing of whether anybody came. */
	if (state.state != DMIRROR_HOLD_CLOSED &&
	    !state.tid != (state.state == DMIRROR_HOLD_ARMED || state.state == DMIRROR_HOLD_UNUSED))
		steer_fail(s, "state %u of a hold with thread %u", state.state, state.tid);
	s->held += !!state.tid;
	if (below(&s->random, 2))
		ioctl(*hold, DMIRROR_HOLD_RESUME, NULL);
	close(*hold);
	*hold = -1;
}

static void steer_log(struct steering *all, struct steered *of)
{
	struct dmirror_event events[STEER_RECORDS];
	struct dm_steerer *s = all->s;
	uint64_t number;
	ssize_t n;

	n = read(of->fd, events, sizeof(events));
	if (n < 0 && errno != EAGAIN)
		steer_fail(s, "read: %s", strerror(errno));
	if (n <= 0)
		return;
	n /= sizeof(*events);
	number = of->seq;
	if (!log_right(events, n, &of->seq, &of->time))
		steer_fail(s, "log: number %lu is followed by what is not the next, or comes before", number);
	s->records += n;
	for (ssize_t i = 0; i < n; i++)
		if (events[i].type == DMIRROR_EVENT_OVERRUN)
			s->lost += events[i].pages;
}

/* From number 1 on, with not much room. */
static void steer_restart(struct steering *all, struct steered *of)
{
	struct dmirror_log log = { .size = sizeof(log), .flags = DMIRROR_LOG_START };

	log.records = 1 << below(&all->s->random, 12);
	steer_own(all->s, of->fd, DMIRROR_LOG, &log);
	of->seq = 0;
}

static void steer_watch(struct steering *all, struct steered *of)
{
	static const uint32_t kinds[] = { DMIRROR_WATCH_INTERVAL, DMIRROR_WATCH_TWO_PASS, DMIRROR_WATCH_PLAIN };
	struct dm_steerer *s = all->s;
	struct dmirror_watch watch = { .size = sizeof(watch) };
	uint64_t page = 4096, npages = (s->end - s->start) / page;

	if (of->nr_watches == STEER_WATCHES || (of->nr_watches && below(&s->random, 2))) {
		unsigned int i = below(&s->random, of->nr_watches);

		watch.id = of->watches[i];
		of->watches[i] = of->watches[--of->nr_watches];
		return steer_own(s, of->fd, DMIRROR_UNWATCH, &watch);
	}
	watch.kind = PICK(&s->random, kinds);
	if (watch.kind != DMIRROR_WATCH_PLAIN) {
		watch.length = 1 + below(&s->random, npages);
		watch.start = s->start + below(&s->random, npages - watch.length + 1) * page;
		watch.length *= page;
	}
	if (!ioctl(of->fd, DMIRROR_WATCH, &watch))
		of->watches[of->nr_watches++] = watch.id;
	else if (errno != EOPNOTSUPP)
		steer_fail(s, "WATCH: %s", strerror(errno));
}

/* No copies: to a CPU that needs the page that would be fatal. Not every allocation: it would try for ever. */
static void steer_inject(struct steering *all, struct steered *of)
{
	struct dm_steerer *s = all->s;
	struct dmirror_inject inject = {
		.size = sizeof(inject),
		.flags = below(&s->random, 2) ? DMIRROR_INJECT_EVERY : 0,
		.what = below(&s->random, DMIRROR_INJECT_SYSTEM_ALLOC + 1),
		.nth = 2 + below(&s->random, 16),
	};

	if (!below(&s->random, 4))
		inject.nth = 0;
	steer_own(s, of->fd, DMIRROR_INJECT, &inject);
	s->failed += inject.failed;
}

static void steer_end(struct steering *all, struct steered *of)
{
	struct dmirror_inject inject = { .size = sizeof(inject) };
	struct dmirror_log log = { .size = sizeof(log) };
	struct dmirror_watch watch = { .size = sizeof(watch) };

	for (; all->s->fails && inject.what <= DMIRROR_INJECT_SYSTEM_ALLOC; inject.what++) {
		steer_own(all->s, of->fd, DMIRROR_INJECT, &inject);
		all->s->failed += inject.failed;
	}
	while (of->nr_watches) {
		watch = (struct dmirror_watch){ .size = sizeof(watch), .id = of->watches[--of->nr_watches] };
		steer_own(all->s, of->fd, DMIRROR_UNWATCH, &watch);
	}
	if (all->s->logs)
		steer_own(all->s, of->fd, DMIRROR_LOG, &log);
}

static void steer_act(struct steering *all)
{
	struct dm_steerer *s = all->s;
	struct steered *of = &all->of[below(&s->random, s->nr_fds)];
	uint64_t chosen = below(&s->random, 100);

	if (s->logs && chosen < 40)
		steer_log(all, of);
	else if (s->logs && chosen < 42)
		steer_restart(all, of);
	else if (s->logs && chosen < 50)
		steer_watch(all, of);
	else if (s->fails && chosen < 60)
		steer_inject(all, of);
	else
		steer_hold(all, of);
}

/* Until it shall stop, or something is wrong. */
void dm_steer(struct dm_steerer *s)
{
	struct steering all = { .s = s, .holds = { -1, -1, -1, -1 } };
	struct timespec pause = {};

	for (uint64_t i = 0; i < s->nr_fds; i++) {
		all.of[i].fd = s->fds[i];
		if (s->logs)
			steer_restart(&all, &all.of[i]);
	}
	while (!__atomic_load_n(&s->stop, __ATOMIC_RELAXED) && !*s->failure) {
		steer_act(&all);
		pause.tv_nsec = below(&s->random, s->pause) * 1000;
		nanosleep(&pause, NULL);
	}
	for (unsigned int i = 0; i < STEER_HOLDS; i++)
		if (all.holds[i] >= 0)
			close(all.holds[i]);
	for (uint64_t i = 0; i < s->nr_fds; i++)
		steer_end(&all, &all.of[i]);
}
