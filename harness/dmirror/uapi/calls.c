// SPDX-License-Identifier: GPL-2.0
/*
 * Random calls: numbers and arguments of every kind, and whether what they
 * were to leave alone is as it was. WRITE is the only call that may change
 * what memory holds; a shadow follows what it stores.
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>

#include "torture.h"

#define CALLS_PAGE	4096UL
#define CALLS_MOST	513UL	/* pages for which the sink has room */
#define CALLS_NUMBERS	10	/* HMM_DMIRROR_*: 0 to 9 */
#define CALLS_ERRNOS	DM_CALL_ERRNOS
#define CALLS_TASK_SIZE	(1UL << 47)

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

/* Where data come from or go to; *@room is 1 where there is room for them in the sink. */
static uint64_t pick_ptr(struct dm_calls *c, unsigned int nr, int *room)
{
	uint64_t bytes = c->npages * (nr == 4 ? 1 : CALLS_PAGE); /* SNAPSHOT: a byte a page */

	*room = 0;
	if (!below(&c->random, 16))
		return pick_bad_pointer(c);
	if (nr == 1)
		return c->source + below(&c->random, c->source_bytes);
	if (!below(&c->random, 16))
		return c->read_only;
	if (c->npages > CALLS_MOST)
		return c->edge - below(&c->random, CALLS_PAGE);
	*room = 1;
	return c->sink + c->sink_bytes - bytes;
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
		return below(&c->random, 2) ? DMIRROR_QUERY ^ 1u << (16 + below(&c->random, 16)) :
			HMM_DMIRROR_READ + CALLS_NUMBERS + below(&c->random, 256 - CALLS_NUMBERS);
	}
}

static int is_call(uint32_t number)
{
	return number - HMM_DMIRROR_READ < CALLS_NUMBERS || number == DMIRROR_QUERY || number == DMIRROR_COUNTERS;
}

static void make_call(struct dm_calls *c, unsigned int kind, uint64_t arg)
{
	int fd = c->fds[below(&c->random, c->nr_fds)];
	uint64_t error;

	c->made++;
	c->result = ioctl(fd, c->number, arg) ? -errno : 0;
	error = -c->result;
	c->results[kind][error < CALLS_ERRNOS ? error : CALLS_ERRNOS - 1]++;
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

/* A structure that says its size: what is behind that stays as it is. */
static int call_own(struct dm_calls *c)
{
	const uint32_t sizes[] = {
		0, 4, 7, 8, 9, 16, 24, 31, 32, 33, 160, 168, 169, 256, 4096, 1U << 31, UINT32_MAX,
		draw(&c->random), below(&c->random, 256),
	};
	unsigned char data[512];
	uint32_t *head = (uint32_t *)data;
	uint64_t arg = (uint64_t)data;
	unsigned int i;

	memset(data, 0xa5, sizeof(data));
	c->addr = head[0] = PICK(&c->random, sizes);
	c->npages = head[1] = below(&c->random, 8) ? 0 : draw(&c->random);
	c->ptr = 0;
	c->number = below(&c->random, 2) ? DMIRROR_QUERY : DMIRROR_COUNTERS;
	if (!below(&c->random, 8))
		arg = pick_bad_pointer(c);
	make_call(c, DM_CALL_OWN, arg);
	i = c->addr < 8 ? 8 : c->addr;
	for (; i < sizeof(data); i++)
		if (data[i] != 0xa5)
			return 0;
	return 1;
}

/* The device read what the pages hold; those past the end of the arena are nobody's. */
static int read_right(const struct dm_calls *c, uint64_t done)
{
	uint64_t page = (c->addr - c->arena) / CALLS_PAGE;

	for (uint64_t i = 0; i < done; i++)
		if (memcmp((void *)c->ptr + i * CALLS_PAGE, (void *)c->shadow[page + i], CALLS_PAGE))
			return 0;
	return 1;
}

static int call_range(struct dm_calls *c, unsigned int nr)
{
	struct hmm_dmirror_cmd cmd = {};
	uint64_t arg = (uint64_t)&cmd;
	int room, in_arena;

	c->number = HMM_DMIRROR_READ + nr;
	c->addr = pick_addr(c);
	c->npages = nr == 8 ? below(&c->random, 4) : pick_npages(c);
	c->ptr = pick_ptr(c, nr, &room);
	cmd.addr = c->addr;
	cmd.npages = c->npages;
	cmd.ptr = c->ptr;
	if (!below(&c->random, 32))
		arg = pick_bad_pointer(c);
	make_call(c, nr, arg);
	if (arg != (uint64_t)&cmd || c->result == -ENOTTY)
		return 1;
	/* SNAPSHOT, CHECK_EXCLUSIVE, RELEASE and FLAGS move no data. */
	in_arena = c->addr >= c->arena && c->addr < c->arena + c->arena_pages * CALLS_PAGE;
	if (nr == 4 || (nr > 5 && nr != 9))
		return 1;
	if (cmd.cpages > c->npages || (cmd.cpages && !in_arena))
		return 0;
	if (nr == 1)
		for (uint64_t i = 0; i < cmd.cpages; i++)
			c->shadow[(c->addr - c->arena) / CALLS_PAGE + i] = c->ptr + i * CALLS_PAGE;
	/* MIGRATE_TO_SYS stores nothing. */
	return nr == 1 || nr == 3 || !room || read_right(c, cmd.cpages);
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

		if (kind < 15)
			right = call_unknown(c);
		else if (kind < 25)
			right = call_own(c);
		else
			right = call_range(c, below(&c->random, 5000) ? PICK(&c->random, often) : 7);
		if (!right)
			return -1;
	}
	return 0;
}

/* The first page of the arena that does not hold what it should, by the CPU; -1 when there is none. */
long dm_calls_check(const struct dm_calls *c)
{
	for (uint64_t i = 0; i < c->arena_pages; i++)
		if (c->shadow[i] && memcmp((void *)c->arena + i * CALLS_PAGE, (void *)c->shadow[i], CALLS_PAGE))
			return i;
	return -1;
}
