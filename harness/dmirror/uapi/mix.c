// SPDX-License-Identifier: GPL-2.0
/*
 * One thread of the mix: calls of the device and changes to memory at random,
 * and after each whether the memory holds what the ledger says. In C and in one
 * call, because the interpreter lets only one thread run at a time and would
 * hold the others up whenever that one waits for the mmap lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "torture.h"

#define MIX_PAGE	4096UL
#define MIX_COLLAPSE	25	/* MADV_COLLAPSE */
#define MIX_ERRNOS	134
#define MIX_FRESH	16	/* pages of a mapping that is made and unmapped */

/* Rows of the results: the numbers of HMM_DMIRROR_*, and more. */
enum {
	MIX_READ,
	MIX_WRITE,
	MIX_TO_DEV,
	MIX_TO_SYS,
	MIX_SNAPSHOT,
	MIX_EXCLUSIVE,
	MIX_RELEASE = 7,
	MIX_MADVISE = 10,
	MIX_FORK,
	MIX_REFUSED,	/* a WRITE to memory that may not be written */
};

/* Some pages of a slice: their number in the memory, and their address. */
struct pages {
	uint64_t first;
	uint64_t n;
	uint64_t addr;
	struct dm_entry *entries;
};

static void fail(struct dm_worker *w, const char *format, ...)
{
	va_list arguments;

	__atomic_store_n(&w->mix->failed, 1, __ATOMIC_RELAXED);
	if (*w->failure)
		return;
	va_start(arguments, format);
	vsnprintf(w->failure, sizeof(w->failure), format, arguments);
	va_end(arguments);
}

/* Mostly few pages, and mostly where the others are too. */
static struct pages some_pages(struct dm_worker *w, uint64_t slice)
{
	static const uint16_t most[] = { 1, 1, 2, 4, 8, 16, 64 };
	uint64_t first = below(&w->random, below(&w->random, 8) ? w->mix->hot : DM_MIX_SLICE);
	struct pages p;

	p.n = below(&w->random, 32) ? PICK(&w->random, most) : DM_MIX_SLICE;
	if (p.n > DM_MIX_SLICE - first)
		p.n = DM_MIX_SLICE - first;
	p.first = slice * DM_MIX_SLICE + first;
	p.addr = w->mix->memory + p.first * MIX_PAGE;
	p.entries = w->mix->entries + p.first;
	return p;
}

/* Pages that this thread may access by the CPU: its own or everybody's. */
static struct pages our_pages(struct dm_worker *w)
{
	return some_pages(w, below(&w->random, 2) ? w->number : w->mix->threads);
}

static struct pages anybodys_pages(struct dm_worker *w)
{
	return some_pages(w, below(&w->random, w->mix->threads + 1));
}

static int is_own(const struct dm_worker *w, const struct pages *p)
{
	return p->first / DM_MIX_SLICE == w->number;
}

static void count(struct dm_worker *w, const struct pages *p, unsigned int kind, int error)
{
	uint32_t (*results)[MIX_ERRNOS] = is_own(w, p) ? w->own : w->others;

	results[kind][error < MIX_ERRNOS ? error : MIX_ERRNOS - 1]++;
}

static uint64_t call_as(struct dm_worker *w, const struct pages *p, unsigned int nr, unsigned int kind)
{
	struct hmm_dmirror_cmd cmd = { .addr = p->addr, .ptr = (uint64_t)w->data, .npages = p->n };

	count(w, p, kind, ioctl(w->fd, HMM_DMIRROR_READ + nr, &cmd) ? errno : 0);
	return cmd.cpages;
}

/* Make a call; returns how many pages it did. */
static uint64_t call(struct dm_worker *w, const struct pages *p, unsigned int nr)
{
	return call_as(w, p, nr, nr);
}

/* The first @n of @p as they stand at @addr, by @entries. */
static void check(struct dm_worker *w, const struct pages *p, const struct dm_entry *entries, const uint32_t *floor,
		  uint64_t addr, uint64_t n, const char *what)
{
	uint64_t found;
	long at = dm_ledger_check(entries, floor, addr, p->first, n, &found);

	if (at >= 0)
		fail(w, "%s: page %lu of slice %lu, word %lu, holds %#lx (page %ld, word %lu, writer %lu, value %lu); "
		     "complete %u, started %u, zeroed %u", what, (p->first + at / MIX_PAGE) % DM_MIX_SLICE,
		     p->first / DM_MIX_SLICE, at % MIX_PAGE / 8, found, (long)(found >> 48) - 1, found >> 39 & 511,
		     found >> 32 & 127, found & UINT32_MAX, floor[at / MIX_PAGE], entries[at / MIX_PAGE].started,
		     entries[at / MIX_PAGE].zeroed);
}

static void call_and_check(struct dm_worker *w, const struct pages *p, unsigned int nr, const char *what)
{
	uint32_t floor[DM_MIX_SLICE];
	uint64_t done;

	dm_ledger_floor(p->entries, floor, p->n);
	done = call(w, p, nr);
	check(w, p, p->entries, floor, (uint64_t)w->data, done, what);
}

static void device_reads(struct dm_worker *w)
{
	struct pages p = anybodys_pages(w);

	call_and_check(w, &p, MIX_READ, "READ");
}

static void to_device(struct dm_worker *w)
{
	struct pages p = anybodys_pages(w);

	call_and_check(w, &p, MIX_TO_DEV, "MIGRATE_TO_DEV");
}

static void exclusive(struct dm_worker *w)
{
	struct pages p = anybodys_pages(w);

	if (p.n > 16)
		p.n = 16;
	call_and_check(w, &p, MIX_EXCLUSIVE, "EXCLUSIVE");
}

static void to_system(struct dm_worker *w)
{
	struct pages p = anybodys_pages(w);

	call(w, &p, MIX_TO_SYS);
}

static void snapshot(struct dm_worker *w)
{
	struct pages p = anybodys_pages(w);

	call(w, &p, MIX_SNAPSHOT);
}

static void release(struct dm_worker *w)
{
	struct pages p = anybodys_pages(w);

	call(w, &p, MIX_RELEASE);
}

/* A mirror of its own, where somebody may be held, or one that other threads use too. */
static void open_device(struct dm_worker *w)
{
	uint64_t device = below(&w->random, w->mix->nr_nodes);
	int own = below(&w->random, 2);

	w->fd = own ? open(w->mix->nodes[device], O_RDWR) : dup(w->mix->fds[device]);
	if (w->fd < 0)
		fail(w, "open: %s", strerror(errno));
	w->hold = own && w->mix->steered ? steer_arm(w->fd, &w->random, 0, 0, 0) : -1;
}

static void close_device(struct dm_worker *w)
{
	int hold_first = below(&w->random, 2);

	if (w->hold >= 0 && hold_first)
		close(w->hold);
	close(w->fd);
	if (w->hold >= 0 && !hold_first)
		close(w->hold);
}

static void reopen(struct dm_worker *w)
{
	close_device(w);
	open_device(w);
}

/* A copy to the device fails. Nobody else's CPU needs the pages, should one on the way back fail instead. */
static void to_device_badly(struct dm_worker *w)
{
	struct pages p = some_pages(w, w->number);
	struct dmirror_inject inject = {
		.size = sizeof(inject), .what = DMIRROR_INJECT_COPY, .nth = 1 + below(&w->random, p.n),
	};

	close_device(w);
	w->hold = -1;
	w->fd = open(w->mix->nodes[below(&w->random, w->mix->nr_nodes)], O_RDWR);
	if (ioctl(w->fd, DMIRROR_INJECT, &inject))
		fail(w, "INJECT: %s", strerror(errno));
	call_and_check(w, &p, MIX_TO_DEV, "MIGRATE_TO_DEV with a copy that fails");
	inject.nth = 0;
	if (ioctl(w->fd, DMIRROR_INJECT, &inject))
		fail(w, "INJECT: %s", strerror(errno));
	reopen(w);
}

/* Pages of which this thread is the one to write a new value; there may be none. */
static struct pages lock(struct dm_worker *w)
{
	struct pages p = our_pages(w);

	p.n = dm_ledger_lock(p.entries, p.n);
	return p;
}

static void unlock(const struct pages *p, uint64_t complete)
{
	dm_ledger_complete(p->entries, complete);
	dm_ledger_unlock(p->entries, p->n);
}

static void device_writes(struct dm_worker *w)
{
	struct pages p = lock(w);

	dm_ledger_stamp(p.entries, (uint64_t)w->data, p.first, p.n, w->number);
	unlock(&p, p.n ? call(w, &p, MIX_WRITE) : 0);
}

static void cpu_stores(struct dm_worker *w)
{
	struct pages p = lock(w);

	dm_ledger_stamp(p.entries, p.addr, p.first, p.n, w->number);
	unlock(&p, p.n);
}

static void cpu_loads(struct dm_worker *w)
{
	struct pages p = our_pages(w);
	uint32_t floor[DM_MIX_SLICE];

	dm_ledger_floor(p.entries, floor, p.n);
	check(w, &p, p.entries, floor, p.addr, p.n, "CPU load");
}

/* MADV_DONTNEED, or munmap() and mmap() in one so that nobody finds nothing there. */
static void zero(struct dm_worker *w)
{
	struct pages p = lock(w);
	uint64_t bytes = p.n * MIX_PAGE;

	if (!p.n)
		return;
	dm_ledger_zero(p.entries, p.n);
	if (below(&w->random, 2)) {
		if (madvise((void *)p.addr, bytes, MADV_DONTNEED))
			fail(w, "MADV_DONTNEED: %s", strerror(errno));
	} else if (mmap((void *)p.addr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
			-1, 0) == MAP_FAILED) {
		fail(w, "mmap: %s", strerror(errno));
	}
	unlock(&p, p.n);
}

/* Memory that may not be written, or not even read: the device obeys, the values stay. */
static void protect(struct dm_worker *w)
{
	struct pages p = lock(w);
	uint64_t bytes = p.n * MIX_PAGE;
	uint32_t floor[DM_MIX_SLICE];
	int prot = is_own(w, &p) && below(&w->random, 2) ? PROT_NONE : PROT_READ;

	if (!p.n)
		return;
	dm_ledger_floor(p.entries, floor, p.n);
	if (mprotect((void *)p.addr, bytes, prot))
		fail(w, "mprotect: %s", strerror(errno));
	memset(w->data, 0xff, bytes);
	if (call_as(w, &p, MIX_WRITE, MIX_REFUSED))
		fail(w, "WRITE wrote to memory of protection %d", prot);
	if (prot == PROT_READ)
		check(w, &p, p.entries, floor, p.addr, p.n, "CPU load of read-only memory");
	if (mprotect((void *)p.addr, bytes, PROT_READ | PROT_WRITE))
		fail(w, "mprotect: %s", strerror(errno));
	check(w, &p, p.entries, floor, p.addr, p.n, "CPU load after mprotect");
	unlock(&p, 0);
}

static void remap(struct dm_worker *w, uint64_t from, uint64_t to, uint64_t bytes)
{
	/* What is left behind stays mapped, so that nobody else gets the address. */
	void *result = mremap((void *)from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to);

	if (result == MAP_FAILED)
		fail(w, "mremap: %s", strerror(errno));
}

/* There and back; left behind are zeroes, for the devices of others to see. */
static void move(struct dm_worker *w)
{
	struct pages p = some_pages(w, w->number), there = p;
	struct dm_entry before[DM_MIX_SLICE];
	uint64_t bytes = p.n * MIX_PAGE;
	uint32_t floor[DM_MIX_SLICE];

	there.addr = w->scratch;
	dm_ledger_lock(p.entries, p.n);
	memcpy(before, p.entries, p.n * sizeof(*before));
	dm_ledger_floor(p.entries, floor, p.n);
	dm_ledger_zero(p.entries, p.n);
	remap(w, p.addr, there.addr, bytes);
	if (below(&w->random, 2))
		call(w, &there, MIX_TO_DEV);
	check(w, &p, before, floor, (uint64_t)w->data, call(w, &there, MIX_READ), "READ after mremap");
	check(w, &p, before, floor, there.addr, p.n, "CPU load after mremap");
	remap(w, there.addr, p.addr, bytes);
	check(w, &p, before, floor, p.addr, p.n, "CPU load after mremap back");
	/* Until there is a new value zeroes would do. */
	dm_ledger_stamp(p.entries, p.addr, p.first, p.n, w->number);
	unlock(&p, p.n);
}

/* Memory that is new and goes away on the device, half of it faulted back. */
static void map_and_unmap(struct dm_worker *w)
{
	uint64_t bytes = MIX_FRESH * MIX_PAGE, seed = below(&w->random, 1 << 20);
	struct pages p = { .first = w->number * DM_MIX_SLICE, .n = MIX_FRESH };
	void *fresh = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t done;

	if (fresh == MAP_FAILED)
		return fail(w, "mmap: %s", strerror(errno));
	p.addr = (uint64_t)fresh;
	dm_fill(fresh, bytes, seed, 0);
	done = call(w, &p, MIX_TO_DEV);
	if (dm_check(w->data, done * MIX_PAGE, seed, 0) >= 0 || dm_check(fresh, bytes / 2, seed, 0) >= 0)
		fail(w, "memory that only this thread knows has changed");
	munmap(fresh, bytes);
}

static void collapse(struct dm_worker *w)
{
	struct pages p = our_pages(w);
	uint64_t slice = p.addr & -(DM_MIX_SLICE * MIX_PAGE);

	count(w, &p, MIX_MADVISE, madvise((void *)slice, DM_MIX_SLICE * MIX_PAGE, MIX_COLLAPSE) ? errno : 0);
}

/* What a child process finds, and what it makes of its own copy; the exit status. */
static int live_as_child(struct dm_worker *w, const struct pages *slices, uint32_t (*floors)[DM_MIX_SLICE])
{
	struct pages p = some_pages(w, w->mix->threads);
	uint64_t bytes = p.n * MIX_PAGE;

	*w->failure = 0;
	for (int i = 0; i < 2; i++)
		check(w, &slices[i], slices[i].entries, floors[i], slices[i].addr, DM_MIX_SLICE, "child's CPU load");
	/* What was inherited acts on the parent's memory. */
	call_and_check(w, &p, MIX_READ, "child's READ of its parent");
	/* Nobody else may see this; another thread may just have made it read-only. */
	mprotect((void *)p.addr, bytes, PROT_READ | PROT_WRITE);
	dm_fill((void *)p.addr, bytes, 1, 0);
	w->fd = open(w->mix->nodes[below(&w->random, w->mix->nr_nodes)], O_RDWR);
	if (dm_check(w->data, call(w, &p, MIX_TO_DEV) * MIX_PAGE, 1, 0) >= 0 ||
	    dm_check(w->data, call(w, &p, MIX_READ) * MIX_PAGE, 1, 0) >= 0 || dm_check((void *)p.addr, bytes, 1, 0) >= 0)
		fail(w, "child's own values");
	if (!*w->failure)
		return 0;
	fprintf(stderr, "%s\n", w->failure);
	return 1;
}

static void fork_child(struct dm_worker *w)
{
	uint32_t floors[2][DM_MIX_SLICE];
	struct pages slices[2];
	int status;
	pid_t pid;

	for (int i = 0; i < 2; i++) {
		slices[i].first = (i ? w->number : w->mix->threads) * DM_MIX_SLICE;
		slices[i].n = DM_MIX_SLICE;
		slices[i].addr = w->mix->memory + slices[i].first * MIX_PAGE;
		slices[i].entries = w->mix->entries + slices[i].first;
		dm_ledger_floor(slices[i].entries, floors[i], DM_MIX_SLICE);
	}
	pid = fork();
	if (!pid)
		_exit(live_as_child(w, slices, floors));
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return fail(w, "fork: %s", strerror(errno));
	count(w, &slices[1], MIX_FORK, 0);
	if (status)
		fail(w, "child ended with status %#x", status);
}

static const struct {
	void (*act)(struct dm_worker *w);
	unsigned int weight;
	int maps;	/* takes the mmap lock for writing */
	int steers;
} mix_acts[] = {
	{ device_reads, 100, 0 },
	{ device_writes, 100, 0 },
	{ to_device, 200, 0 },
	{ to_system, 60, 0 },
	{ exclusive, 60, 0 },
	{ snapshot, 30, 0 },
	{ release, 4, 0 },
	{ reopen, 20, 0 },
	{ cpu_loads, 100, 0 },
	{ cpu_stores, 100, 0 },
	{ zero, 40, 1 },
	{ protect, 30, 1 },
	{ move, 30, 1 },
	{ map_and_unmap, 20, 1 },
	{ collapse, 4, 1 },
	{ fork_child, 4, 1 },
	{ to_device_badly, 20, 0, 1 },
};

#define MIX_ACTS	(sizeof(mix_acts) / sizeof(mix_acts[0]))

static unsigned int weight(const struct dm_worker *w, unsigned int i)
{
	if ((mix_acts[i].maps && w->mix->calm) || (mix_acts[i].steers && !w->mix->steered))
		return 0;
	return mix_acts[i].weight;
}

static void act(struct dm_worker *w)
{
	uint64_t total = 0, chosen;
	unsigned int i;

	for (i = 0; i < MIX_ACTS; i++)
		total += weight(w, i);
	chosen = below(&w->random, total);
	for (i = 0; chosen >= weight(w, i); i++)
		chosen -= weight(w, i);
	mix_acts[i].act(w);
}

static int over(const struct dm_mix *mix)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * UINT64_C(1000000000) + now.tv_nsec >= mix->until ||
		__atomic_load_n(&mix->failed, __ATOMIC_RELAXED);
}

/* Act until the time is over or somebody has failed. */
void dm_mix_work(struct dm_worker *w)
{
	open_device(w);
	while (!over(w->mix))
		act(w);
	close_device(w);
}
