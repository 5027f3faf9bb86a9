// SPDX-License-Identifier: GPL-2.0
/*
 * Races that need more of the processors at once than Python gives: many
 * threads that fault on the same device memory, and a file that is closed
 * while the process whose memory it mirrors exits.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define RACE_PAGE	4096UL
#define RACE_STACK	65536UL

/* Threads that fault together: each waits for the round to begin, loads one word, and waits for its end. */
struct gathering {
	pthread_barrier_t barrier;
	uint64_t addr;
	uint64_t npages;
	uint64_t round;		/* what every page holds; 0: it is over */
	unsigned long wrong;
};

struct visitor {
	struct gathering *at;
	pthread_t thread;
	uint64_t addr;
};

static void *visit(void *arg)
{
	struct visitor *visitor = arg;
	struct gathering *at = visitor->at;

	for (;;) {
		pthread_barrier_wait(&at->barrier);
		if (!at->round)
			return NULL;
		if (*(volatile uint64_t *)visitor->addr != at->round)
			__atomic_fetch_add(&at->wrong, 1, __ATOMIC_RELAXED);
		pthread_barrier_wait(&at->barrier);
	}
}

static int meet(struct gathering *at, int fd, uint64_t rounds, void *data)
{
	for (uint64_t round = 1; round <= rounds; round++) {
		struct hmm_dmirror_cmd cmd = { .addr = at->addr, .ptr = (uint64_t)data, .npages = at->npages };

		for (uint64_t i = 0; i < at->npages; i++)
			*(volatile uint64_t *)(at->addr + i * RACE_PAGE) = round;
		if (ioctl(fd, HMM_DMIRROR_MIGRATE_TO_DEV, &cmd))
			return -errno;
		at->round = round;
		pthread_barrier_wait(&at->barrier);
		pthread_barrier_wait(&at->barrier);
	}
	return 0;
}

/*
 * @rounds times migrate @npages pages and have @threads threads load from them
 * at once, each from one page of theirs. The number of loads that found
 * something else than was stored, or a negative errno.
 */
long dm_fault_together(int fd, uint64_t addr, uint64_t npages, uint64_t threads, uint64_t rounds)
{
	struct gathering at = { .addr = addr, .npages = npages };
	struct visitor *visitors = calloc(threads, sizeof(*visitors));
	void *data = malloc(npages * RACE_PAGE);
	uint64_t started = 0;
	pthread_attr_t attr;
	int ret = -ENOMEM;

	if (!visitors || !data)
		goto out;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, RACE_STACK);
	pthread_barrier_init(&at.barrier, NULL, threads + 1);
	for (; started < threads; started++) {
		visitors[started].at = &at;
		visitors[started].addr = addr + started % npages * RACE_PAGE;
		if (pthread_create(&visitors[started].thread, &attr, visit, &visitors[started]))
			abort(); /* those that run wait for a barrier that never fills */
	}
	ret = meet(&at, fd, rounds, data);
	at.round = 0;
	pthread_barrier_wait(&at.barrier);
	while (started--)
		pthread_join(visitors[started].thread, NULL);
	pthread_barrier_destroy(&at.barrier);
	pthread_attr_destroy(&attr);
out:
	free(data);
	free(visitors);
	return ret ? ret : (long)at.wrong;
}

static void spin(uint64_t rounds)
{
	while (rounds--)
		__asm__ volatile("" ::: "memory");
}

/* What the two processes of a round share. */
struct meeting_place {
	char node[64];
	volatile int fd;	/* the open file, or a negative errno; 0: not there yet */
};

/*
 * The child of one round: opens, migrates a page of its own, says so, and
 * after a while in or outside of a call exits, its address space with it. It
 * has the parent's file table, so that its exit closes nothing.
 */
static void open_and_exit(struct meeting_place *place, uint64_t delay)
{
	struct hmm_dmirror_cmd cmd = { .npages = 1 };
	char data[RACE_PAGE], *page;
	int fd = open(place->node, O_RDWR);

	page = mmap(NULL, RACE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*page = 1;
	cmd.addr = (uint64_t)page;
	cmd.ptr = (uint64_t)data;
	ioctl(fd, HMM_DMIRROR_MIGRATE_TO_DEV, &cmd);
	place->fd = fd < 0 ? -errno : fd;
	/* The parent may have closed it by now: that is the race. */
	if (delay & 1)
		for (uint64_t calls = delay >> 12; calls; calls--)
			ioctl(fd, HMM_DMIRROR_READ, &cmd);
	else
		spin(delay);
	syscall(SYS_exit_group, 0);
}

/* Whether the child has exited; it is still to be waited for. */
static int gone(pid_t pid)
{
	siginfo_t info = { 0 };

	waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT);
	return info.si_pid == pid;
}

/* Start a child, and wait until it has the file. Its process id, or a negative errno. */
static pid_t start(struct meeting_place *place, uint64_t delay)
{
	pid_t pid;

	place->fd = 0;
	/* fork() without the interpreter's handlers, and with one file table. */
	pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
	if (pid < 0)
		return -errno;
	if (!pid)
		open_and_exit(place, delay);
	while (!place->fd && !gone(pid))
		sched_yield();
	if (place->fd > 0)
		return pid;
	waitpid(pid, NULL, 0);
	return place->fd ? place->fd : -ESRCH;
}

/* 1 when the child had exited before the file was closed, else 0, or a negative errno. */
static int close_and_exit(struct meeting_place *place, uint64_t delay_ns, uint64_t childs_delay)
{
	pid_t pid = start(place, childs_delay);
	uint64_t end = now() + delay_ns;
	int exited;

	if (pid < 0)
		return pid;
	while (now() < end)
		;
	exited = gone(pid);
	close(place->fd);
	waitpid(pid, NULL, 0);
	return exited;
}

/* How many ns a child takes to exit that does nothing else: a debug kernel's takes ten times as long. */
static int64_t exit_ns(struct meeting_place *place)
{
	pid_t pid = start(place, 0);
	uint64_t began = now();

	if (pid < 0)
		return pid;
	while (!gone(pid))
		;
	close(place->fd);
	waitpid(pid, NULL, 0);
	return now() - began;
}

/*
 * @rounds times let a process open @node and exit, and close the file for it,
 * both after a while that @seed decides. How often it had exited first, or a
 * negative errno.
 */
long dm_close_against_exit(const char *node, uint64_t rounds, uint64_t seed)
{
	struct meeting_place *place = mmap(NULL, RACE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	long exited = 0;
	int64_t longest;

	if (place == MAP_FAILED)
		return -errno;
	strncpy(place->node, node, sizeof(place->node) - 1);
	longest = exit_ns(place);
	if (longest < 0)
		exited = longest;
	while (rounds-- && exited >= 0) {
		/* Of all lengths up to some times that of an exit. */
		uint64_t delay_ns = draw(&seed) >> (64 - 1 - draw(&seed) % (64 - __builtin_clzl(longest | 1) + 2));
		uint64_t childs_delay = draw(&seed) >> (64 - 1 - draw(&seed) % 18);
		int ret = close_and_exit(place, delay_ns, childs_delay);

		exited = ret < 0 ? ret : exited + ret;
	}
	munmap(place, RACE_PAGE);
	return exited;
}
