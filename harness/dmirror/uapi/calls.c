// SPDX-License-Identifier: GPL-2.0
/*
 * Random calls: numbers and arguments of every kind, and whether what they
 * were to leave alone is as it was. WRITE and POKE are the only calls that may
 * change what memory holds; a shadow follows what they store.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "torture.h"

#define CALLS_PAGE	4096UL
#define CALLS_MOST	513UL	/* pages for which the sink has room */
#define CALLS_NUMBERS	10	/* HMM_DMIRROR_*: 0 to 9 */
#define CALLS_OWN	12	/* DMIRROR_*: 0 to 11 */
#define CALLS_ERRNOS	DM_CALL_ERRNOS
#define CALLS_TASK_SIZE	(1UL << 47)
#define CALLS_HUGE	512UL	/* pages; the arena begins with as many that may be a huge page */
#define CALLS_ARGUMENT	1024	/* bytes: more than any structure has */
#define CALLS_LONGEST	3	/* ms that anybody is held */

#define PICK(state, array) ((array)[below(state, sizeof(array) / sizeof((array)[0]))])

/* splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014) */
static uint64_t draw(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static uint64_t below(uint64_t *state, uint64_t bound)
{
	return draw(state) % bound;
}

static uint64_t pick_addr(struct dm_calls *c)
{
	const uint64_t odd[] = {
		0, 1, CALLS_PAGE, 0x10000,
		CALLS_TASK_SIZE, CALLS_TASK_SIZE - CALLS_PAGE, CALLS_TASK_SIZE - 2 * CALLS_PAGE,
		1UL << 56, (1UL << 56) - CALLS_PAGE, 1UL << 63, -CALLS_PAGE, UINT64_MAX,
		0xffff888000000000, c->edge, c->arena + below(&c->random, c->arena_pages * CALLS_PAGE),
		draw(&c->random) & ~(CALLS_TASK_SIZE - 1), /* never an address of this process */
	};

	if (!below(&c->random, 5))
		return PICK(&c->random, odd);
	return c->arena + below(&c->random, c->arena_pages) * CALLS_PAGE;
}

static uint64_t pick_npages(struct dm_calls *c)
{
	const uint64_t odd[] = {
		0, CALLS_MOST - 1, CALLS_MOST, CALLS_MOST + 1, 1UL << 20, 1UL << 34, 1UL << 35, 1UL << 40,
		1UL << 52, (1UL << 52) + 1, 1UL << 63, UINT64_MAX, draw(&c->random),
	};

	switch (below(&c->random, 32)) {
	case 0:
		return PICK(&c->random, odd);
	case 1:
		return 1 + below(&c->random, 64);
	default:
		return 1 + below(&c->random, 4);
	}
}

static uint64_t pick_bad_pointer(struct dm_calls *c)
{
	const uint64_t bad[] = {
		0, 1, CALLS_TASK_SIZE, 0xffff888000000000, UINT64_MAX, UINT64_MAX - 7, c->edge, c->edge - 1,
	};

	return PICK(&c->random, bad);
}

/* Where @unit bytes for each page go to; *@room is 1 where there is room for them in the sink. */
static uint64_t pick_sink(struct dm_calls *c, uint64_t unit, int *room)
{
	*room = 0;
	if (!below(&c->random, 16))
		return pick_bad_pointer(c);
	if (!below(&c->random, 16))
		return c->read_only;
	if (c->npages > CALLS_MOST)
		return c->edge - below(&c->random, CALLS_PAGE);
	*room = 1;
	return c->sink + c->sink_bytes - c->npages * unit;
}

static uint64_t pick_source(struct dm_calls *c)
{
	return below(&c->random, 16) ? c->source + below(&c->random, c->source_bytes) : pick_bad_pointer(c);
}

static uint32_t pick_unknown(struct dm_calls *c)
{
	uint32_t random = draw(&c->random);

	switch (below(&c->random, 4)) {
	case 0:	/* wholly random; not a number of the kernel's own for every file */
		return random;
	case 1:	/* of our types, with random numbers, sizes and directions */
		return (random & 0xffff00ff) | (below(&c->random, 2) ? 'H' : DMIRROR_IOC_TYPE) << 8;
	case 2:	/* a call with another size or direction */
		return (HMM_DMIRROR_READ + below(&c->random, CALLS_NUMBERS)) ^ 1u << (16 + below(&c->random, 16));
	default:
		return below(&c->random, 2) ?
			(DMIRROR_QUERY + below(&c->random, CALLS_OWN)) ^ 1u << (16 + below(&c->random, 16)) :
			HMM_DMIRROR_READ + CALLS_NUMBERS + below(&c->random, 256 - CALLS_NUMBERS);
	}
}

static int is_call(uint32_t number)
{
	return number - HMM_DMIRROR_READ < CALLS_NUMBERS || number - DMIRROR_QUERY < CALLS_OWN;
}

static void note(struct dm_calls *c, unsigned int kind, int64_t result)
{
	uint64_t error = result < 0 ? (uint64_t)-result : 0;

	c->made++;
	c->result = result;
	c->results[kind][error < CALLS_ERRNOS ? error : CALLS_ERRNOS - 1]++;
}

static void make_call(struct dm_calls *c, unsigned int kind, uint64_t arg)
{
	c->device = below(&c->random, c->nr_fds);
	note(c, kind, ioctl(c->fds[c->device], c->number, arg) ? -errno : 0);
}

static int call_unknown(struct dm_calls *c)
{
	uint64_t words[8];
	unsigned int i;

	for (i = 0; i < 8; i++)
		words[i] = draw(&c->random);
	do {
		c->number = pick_unknown(c);
	} while (is_call(c->number));
	c->addr = c->npages = c->ptr = 0;
	make_call(c, DM_CALL_UNKNOWN, below(&c->random, 2) ? (uint64_t)words : pick_bad_pointer(c));
	return 1;
}

union own {
	uint32_t words[CALLS_ARGUMENT / 4];
	struct dmirror_query query;
	struct dmirror_counters counters;
	struct dmirror_log log;
	struct dmirror_hold hold;
	struct dmirror_inject inject;
	struct dmirror_migrate migrate;
	struct dmirror_walk walk;
	struct dmirror_peek peek;
	struct dmirror_watch watch;
	struct dmirror_exclusive exclusive;
};

/*
 * DMIRROR_* by number: the size of the structure, and by bits those of its
 * words that may hold anything. No addresses: these may be somebody's.
 */
static const struct {
	uint32_t size;
	uint32_t any;
} calls_own[CALLS_OWN] = {
	{ sizeof(struct dmirror_query), 0x00ff },
	{ sizeof(struct dmirror_counters), 0xffff },
	{ sizeof(struct dmirror_log), 0x00ff },
	{ sizeof(struct dmirror_hold), 0x3fdf },	/* but limit */
	{ sizeof(struct dmirror_inject), 0x03ff },
	{ sizeof(struct dmirror_migrate), 0x03c3 },
	{ sizeof(struct dmirror_walk), 0x03c3 },
	{ sizeof(struct dmirror_peek), 0x0003 },
	{ sizeof(struct dmirror_peek), 0x0003 },
	{ sizeof(struct dmirror_watch), 0x00ff },
	{ sizeof(struct dmirror_watch), 0x00ff },
	{ sizeof(struct dmirror_exclusive), 0x00c3 },
};

static void fill_log(struct dm_calls *c, struct dmirror_log *log)
{
	log->flags = below(&c->random, 4) ? DMIRROR_LOG_START : 0;
	log->records = below(&c->random, 4) ? 1UL << below(&c->random, 10) : below(&c->random, 20);
}

static void fill_hold(struct dm_calls *c, struct dmirror_hold *hold)
{
	const uint32_t odd[] = { 0, 60000, 60001, UINT32_MAX };

	hold->point = below(&c->random, DMIRROR_HOLD_CPU_END + 1);
	if (hold->point == DMIRROR_HOLD_INVALIDATE) {
		hold->watch = below(&c->random, 4);
		hold->events = below(&c->random, 512);
	}
	hold->limit = below(&c->random, 8) ? 1 + below(&c->random, CALLS_LONGEST) : PICK(&c->random, odd);
	hold->nth = 1 + below(&c->random, 8);
	if (below(&c->random, 2)) {
		hold->start = c->addr;
		hold->end = c->addr + c->npages * CALLS_PAGE;
	}
}

static void fill_inject(struct dm_calls *c, struct dmirror_inject *inject)
{
	inject->flags = below(&c->random, 4);
	inject->what = below(&c->random, DMIRROR_INJECT_COPY + 1);
	inject->nth = below(&c->random, 16);
}

static void fill_migrate(struct dm_calls *c, struct dmirror_migrate *migrate, int *room)
{
	migrate->flags = below(&c->random, 4);
	migrate->owner = below(&c->random, DMIRROR_OWNER_NONE + 1);
	migrate->select = below(&c->random, 2) ? 0 : below(&c->random, 16);
	migrate->order = below(&c->random, DMIRROR_ORDER_HUGE + 1);
	migrate->how = below(&c->random, 2) ? 0 : pick_source(c);
	migrate->words = c->ptr = below(&c->random, 2) ? 0 : pick_sink(c, sizeof(struct dmirror_words), room);
	if (*room)
		memset((void *)c->ptr, 0, c->npages * sizeof(struct dmirror_words));
}

static void fill_walk(struct dm_calls *c, struct dmirror_walk *walk, int *room)
{
	struct dmirror_page *pages;

	walk->flags = below(&c->random, 2);
	walk->default_flags = below(&c->random, 2) ? 0 : below(&c->random, 4);
	walk->mask = below(&c->random, 2) ? 0 : below(&c->random, 4);
	walk->owner = below(&c->random, DMIRROR_OWNER_NONE + 1);
	walk->pages = c->ptr = pick_sink(c, sizeof(*pages), room);
	pages = (void *)c->ptr;
	for (uint64_t i = 0; *room && i < c->npages; i++)
		pages[i] = (struct dmirror_page){ .flags = below(&c->random, 4) ? 0 : below(&c->random, 4) };
}

static void fill_watch(struct dm_calls *c, struct dmirror_watch *watch)
{
	const uint32_t kinds[] = { DMIRROR_WATCH_INTERVAL, DMIRROR_WATCH_TWO_PASS, DMIRROR_WATCH_PLAIN };

	watch->kind = PICK(&c->random, kinds);
	if (watch->kind == DMIRROR_WATCH_PLAIN)
		return;
	watch->start = c->addr;
	watch->length = c->npages * CALLS_PAGE;
}

static void fill_unwatch(struct dm_calls *c, struct dmirror_watch *watch)
{
	uint32_t last = 0;

	for (uint64_t i = 0; i < c->nr_fds; i++)
		last = last > c->watches[i] ? last : c->watches[i];
	watch->id = below(&c->random, last + 2);
}

/* A structure that may be right; *@room as of pick_sink(). */
static void fill_own(struct dm_calls *c, uint32_t number, union own *own, int *room)
{
	c->addr = pick_addr(c);
	c->npages = pick_npages(c);
	if (!below(&c->random, 16)) {
		c->addr = c->arena;
		c->npages = CALLS_HUGE;
	}
	c->ptr = 0;
	switch (number) {
	case DMIRROR_LOG:
		return fill_log(c, &own->log);
	case DMIRROR_HOLD:
		return fill_hold(c, &own->hold);
	case DMIRROR_INJECT:
		return fill_inject(c, &own->inject);
	case DMIRROR_WATCH:
		return fill_watch(c, &own->watch);
	case DMIRROR_UNWATCH:
		return fill_unwatch(c, &own->watch);
	case DMIRROR_MIGRATE:
		fill_migrate(c, &own->migrate, room);
		break;
	case DMIRROR_WALK:
		fill_walk(c, &own->walk, room);
		break;
	case DMIRROR_EXCLUSIVE:
		own->exclusive.owner = below(&c->random, DMIRROR_OWNER_NONE + 1);
		break;
	case DMIRROR_PEEK:
		own->peek.ptr = c->ptr = pick_sink(c, CALLS_PAGE, room);
		break;
	case DMIRROR_POKE:
		own->peek.ptr = c->ptr = pick_source(c);
		break;
	default:
		return;
	}
	/* All that have a range have it here. */
	own->walk.addr = c->addr;
	own->walk.npages = c->npages;
}

/* One word is not what it should be. */
static void spoil(struct dm_calls *c, uint32_t any, union own *own)
{
	const uint32_t odd[] = {
		0, 1, 2, 3, 4, 5, 8, 16, 1U << 16, 1U << 31, UINT32_MAX, draw(&c->random),
		1U << below(&c->random, 32),
	};
	unsigned int i;

	do {
		i = below(&c->random, 16);
	} while (!(any >> i & 1));
	own->words[i] = PICK(&c->random, odd);
}

/*
 * A size cuts no address in two: what is left could be one. POKE has to say
 * what it did.
 */
static uint32_t pick_size(struct dm_calls *c, uint32_t size)
{
	const uint32_t odd[] = {
		0, 4, 7, 8, 9, 16, 24, 8 * below(&c->random, size / 8 + 1), size + below(&c->random, 64), 512, 4096, 4097,
		1U << 31, UINT32_MAX,
	};
	uint32_t picked = below(&c->random, 4) ? size : PICK(&c->random, odd);

	if (c->number == DMIRROR_POKE && picked < size && picked > offsetof(struct dmirror_peek, ptr))
		picked = size;
	return picked;
}

/*
 * What would take for ever, and what the kernel is to warn of, is asked for
 * elsewhere, and T-03 of docs/findings.md nowhere.
 */
static void tame(const struct dm_calls *c, union own *own)
{
	if (c->number == DMIRROR_INJECT && own->inject.flags & DMIRROR_INJECT_EVERY && own->inject.nth == 1)
		own->inject.nth = 2;
	if (c->number == DMIRROR_WATCH && own->watch.kind == DMIRROR_WATCH_UNFINISHED)
		own->watch.kind = DMIRROR_WATCH_PLAIN + 1;
	if (c->number == DMIRROR_MIGRATE && own->migrate.order == DMIRROR_ORDER_HUGE && c->no_huge)
		own->migrate.order = DMIRROR_ORDER_SMALL;
}

/* The device read what the pages hold. */
static int read_right(const struct dm_calls *c, uint64_t done)
{
	uint64_t page = (c->addr - c->arena) / CALLS_PAGE;

	for (uint64_t i = 0; i < done; i++)
		if (memcmp((void *)c->ptr + i * CALLS_PAGE, (void *)c->shadow[page + i], CALLS_PAGE))
			return 0;
	return 1;
}

/* @done pages of the arena; those past its end are nobody's. */
static int done_right(const struct dm_calls *c, uint64_t done)
{
	uint64_t end = c->arena + c->arena_pages * CALLS_PAGE;

	return !done || (done <= c->npages && c->addr >= c->arena && c->addr + done * CALLS_PAGE <= end);
}

/* The device stored @done pages from c->ptr, or read them to there if there is @room. */
static int data_right(struct dm_calls *c, uint64_t done, int room, int stored)
{
	if (!done_right(c, done))
		return 0;
	for (uint64_t i = 0; stored && i < done; i++)
		c->shadow[(c->addr - c->arena) / CALLS_PAGE + i] = c->ptr + i * CALLS_PAGE;
	return !room || read_right(c, done);
}

static int words_right(const struct dm_calls *c, uint64_t done)
{
	const uint64_t *word = (void *)c->ptr;

	for (uint64_t i = 0; i < done * (sizeof(struct dmirror_words) / sizeof(*word)); i++)
		if (word[i] & 0xf0 ||
		    (word[i] & DMIRROR_WORD_MIGRATE && !(word[i] & DMIRROR_WORD_VALID)))
			return 0;
	return 1;
}

static int pages_right(const struct dm_calls *c, uint64_t done)
{
	const struct dmirror_page *page = (void *)c->ptr;

	for (uint64_t i = 0; i < done; i++, page++) {
		uint32_t flags = page->flags;

		if (flags & ~0xf7c || !(flags & DMIRROR_PAGE_VALID) != !page->pfn ||
		    !(flags & DMIRROR_PAGE_MAPPED) != !page->mapped || (flags & DMIRROR_PAGE_DEVICE && page->device > 3))
			return 0;
		if (page->mapped && page->backing && page->mapped != page->backing)
			return 0;
	}
	return 1;
}

/* A descriptor that must be closed. */
static int hold_right(struct dm_calls *c, const struct dmirror_hold *hold, uint32_t size)
{
	if (size < offsetof(struct dmirror_hold, reserved) || fcntl(hold->fd, F_GETFD) != FD_CLOEXEC)
		return 0;
	if (hold->limit - 1 >= CALLS_LONGEST) {
		close(hold->fd);
		return 1;
	}
	if (c->nr_holds == 4)
		close(c->holds[--c->nr_holds]);
	c->holds[c->nr_holds++] = hold->fd;
	return 1;
}

/* What the call says. What has failed may have failed before it wrote anything. */
static int own_right(struct dm_calls *c, const union own *own, uint32_t size, int room)
{
	/* Where a structure was cut, done is 0 as it was before. */
	switch (c->number) {
	case DMIRROR_MIGRATE:
		return done_right(c, own->migrate.done) && own->migrate.moved <= c->npages && own->migrate.collected <= c->npages &&
			(!room || words_right(c, own->migrate.done));
	case DMIRROR_WALK:
		return own->walk.done <= c->npages && (!room || pages_right(c, own->walk.done));
	case DMIRROR_PEEK:
		return data_right(c, own->peek.done, room, 0);
	case DMIRROR_POKE:
		return data_right(c, own->peek.done, 0, 1);
	case DMIRROR_EXCLUSIVE:
		return done_right(c, own->exclusive.done);
	}
	if (c->result)
		return 1;
	switch (c->number) {
	case DMIRROR_HOLD:
		return hold_right(c, &own->hold, size);
	case DMIRROR_INJECT:
		return size < sizeof(own->inject) || own->inject.failed <= own->inject.passed;
	case DMIRROR_LOG:
		return size < sizeof(own->log) || (own->log.next_seq && !(own->log.records & (own->log.records - 1)));
	case DMIRROR_WATCH:
		c->watches[c->device] = own->watch.id;
		return size < offsetof(struct dmirror_watch, start) || own->watch.id;
	}
	return 1;
}

/* A structure that says its size: what is behind that stays as it is. */
static int call_own(struct dm_calls *c)
{
	uint64_t nr = below(&c->random, CALLS_OWN), arg;
	uint32_t known = calls_own[nr].size, size;
	unsigned char data[CALLS_ARGUMENT], given[CALLS_ARGUMENT];
	union own *own = (union own *)data;
	int room = 0;

	c->number = DMIRROR_QUERY + nr;
	memset(data, below(&c->random, 2) ? 0 : 0xa5, sizeof(data));
	memset(data, 0, known);
	fill_own(c, c->number, own, &room);
	size = own->words[0] = pick_size(c, known);
	if (!below(&c->random, 6))
		spoil(c, calls_own[nr].any & ~1, own);
	tame(c, own);
	memcpy(given, data, sizeof(data));
	memcpy(c->words, data, sizeof(c->words));

	arg = (uint64_t)data;
	switch (below(&c->random, 16)) {
	case 0:
		arg = pick_bad_pointer(c);
		break;
	case 1:	/* it may do what it is to and cannot say so */
		if (c->number == DMIRROR_POKE)
			break;
		memcpy((void *)c->pen, data, sizeof(data));
		arg = c->paper;
		break;
	case 2:	/* nothing is mapped behind it, nor does data go there */
		if (size > sizeof(data) || c->edge - c->ptr <= CALLS_PAGE)
			break;
		arg = c->edge - size;
		memcpy((void *)arg, data, size);
		break;
	}
	make_call(c, DM_CALL_OWN + nr, arg);
	if (arg == c->edge - size && size <= sizeof(data))
		memcpy(data, (void *)arg, size);
	known = size < 8 ? 0 : size < known ? size : known;
	return !memcmp(data + known, given + known, sizeof(data) - known) && own_right(c, own, size, room);
}

/* Records that came one after the other; @seq is the number of the one before, or 0 where nobody knows. */
static int log_right(const struct dmirror_event *event, uint64_t n, uint64_t *seq, uint64_t *time)
{
	for (; n--; event++) {
		uint64_t lost = event->type == DMIRROR_EVENT_OVERRUN ? event->pages : 1;

		if ((*seq && event->seq != *seq + lost) || event->time < *time || event->type > DMIRROR_EVENT_OVERRUN ||
		    event->owner > DMIRROR_EVENT_OWNER_NONE || event->start > event->end)
			return 0;
		*seq = event->seq;
		*time = event->time;
	}
	return 1;
}

/* read(2) gives whole records, poll(2) knows. */
static int call_read(struct dm_calls *c)
{
	const uint64_t odd[] = {
		0, 1, sizeof(struct dmirror_event) - 1, sizeof(struct dmirror_event) + 1, CALLS_PAGE,
	};
	uint64_t seq = 0, time = 0, event = sizeof(struct dmirror_event);
	int fd = c->fds[below(&c->random, c->nr_fds)];
	struct pollfd ready = { .fd = fd, .events = POLLIN };
	int room, polled = below(&c->random, 2) ? poll(&ready, 1, 0) : 1;
	ssize_t n;

	c->npages = below(&c->random, 4) ? event * (1 + below(&c->random, 50)) : PICK(&c->random, odd);
	c->addr = 0;
	c->ptr = pick_sink(c, 1, &room);
	c->number = DM_CALL_READ;
	n = read(fd, (void *)c->ptr, c->npages);
	note(c, DM_CALL_READ, n < 0 ? -errno : n);
	if (c->result == -EAGAIN && polled && ready.revents)
		return 0;
	return n <= 0 || (!(n % event) && (uint64_t)n <= c->npages &&
			  (!room || log_right((void *)c->ptr, n / event, &seq, &time)));
}

/* What a hold gave. */
static int call_hold(struct dm_calls *c)
{
	const uint32_t sizes[] = { 0, 7, 8, 12, 16, 39, 40, 41, 4096, UINT32_MAX };
	unsigned char data[CALLS_ARGUMENT];
	struct dmirror_hold_state *state = (void *)data;
	struct pollfd ready = { .events = POLLIN };
	uint64_t i, arg = (uint64_t)data;
	uint32_t size;

	if (!c->nr_holds)
		return 1;
	i = below(&c->random, c->nr_holds);
	ready.fd = c->holds[i];
	switch (below(&c->random, 4)) {
	case 0:
		close(ready.fd);
		c->holds[i] = c->holds[--c->nr_holds];
		return 1;
	case 1:
		return poll(&ready, 1, below(&c->random, 2)) >= 0 && !(ready.revents & ~(POLLIN | POLLHUP));
	case 2:
		c->number = below(&c->random, 2) ? DMIRROR_HOLD_RESUME : pick_unknown(c);
		break;
	default:
		c->number = DMIRROR_HOLD_STATE;
	}
	memset(data, 0xa5, sizeof(data));
	size = state->size = PICK(&c->random, sizes);
	state->flags = !below(&c->random, 8);
	if (!below(&c->random, 8))
		arg = pick_bad_pointer(c);
	note(c, DM_CALL_HOLD, ioctl(ready.fd, c->number, arg) ? -errno : 0);
	if (c->number != DMIRROR_HOLD_STATE || c->result)
		return 1;
	for (i = size; i < sizeof(data); i++)
		if (data[i] != 0xa5)
			return 0;
	return size < sizeof(*state) || state->state <= DMIRROR_HOLD_UNUSED;
}

static int call_range(struct dm_calls *c, unsigned int nr)
{
	struct hmm_dmirror_cmd cmd = {};
	uint64_t arg = (uint64_t)&cmd;
	int room = 0;

	c->number = HMM_DMIRROR_READ + nr;
	c->addr = pick_addr(c);
	c->npages = nr == 8 ? below(&c->random, 4) : pick_npages(c);
	/* SNAPSHOT: a byte a page. */
	c->ptr = nr == 1 ? pick_source(c) : pick_sink(c, nr == 4 ? 1 : CALLS_PAGE, &room);
	cmd.addr = c->addr;
	cmd.npages = c->npages;
	cmd.ptr = c->ptr;
	if (!below(&c->random, 32))
		arg = pick_bad_pointer(c);
	make_call(c, nr, arg);
	/* SNAPSHOT, CHECK_EXCLUSIVE, RELEASE and FLAGS move no data. */
	if (arg != (uint64_t)&cmd || c->result == -ENOTTY || nr == 4 || (nr > 5 && nr != 9))
		return 1;
	/* MIGRATE_TO_SYS stores nothing. */
	return data_right(c, cmd.cpages, room && nr != 3, nr == 1);
}

/*
 * Make @count calls. 0, or -1 when the last one, which @c describes, did what
 * it should not.
 */
int dm_calls_make(struct dm_calls *c, uint64_t count)
{
	/* RELEASE, 7, takes as long as thousands of the others. */
	static const unsigned char often[] = { 0, 0, 1, 1, 2, 2, 2, 3, 4, 5, 6, 8, 9 };

	while (count--) {
		uint64_t kind = below(&c->random, 100);
		int right;

		if (kind < 10)
			right = call_unknown(c);
		else if (kind < 45)
			right = call_own(c);
		else if (kind < 48)
			right = call_read(c);
		else if (kind < 52)
			right = call_hold(c);
		else
			right = call_range(c, below(&c->random, 5000) ? PICK(&c->random, often) : 7);
		if (!right)
			return -1;
	}
	return 0;
}

/* Nobody is held and nothing fails from here on. */
void dm_calls_end(struct dm_calls *c)
{
	struct dmirror_inject inject = { .size = sizeof(inject) };

	while (c->nr_holds)
		close(c->holds[--c->nr_holds]);
	for (uint64_t i = 0; i < c->nr_fds; i++)
		for (inject.what = 0; inject.what <= DMIRROR_INJECT_COPY; inject.what++)
			ioctl(c->fds[i], DMIRROR_INJECT, &inject);
}

/* The first page of the arena that does not hold what it should, by the CPU; -1 when there is none. */
long dm_calls_check(const struct dm_calls *c)
{
	for (uint64_t i = 0; i < c->arena_pages; i++)
		if (c->shadow[i] && memcmp((void *)c->arena + i * CALLS_PAGE, (void *)c->shadow[i], CALLS_PAGE))
			return i;
	return -1;
}
