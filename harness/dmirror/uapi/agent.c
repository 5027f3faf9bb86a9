// SPDX-License-Identifier: GPL-2.0
/*
 * The processes of a scenario: each, and each thread of one, does what it is
 * told over a channel of its own, and nothing else. A program by itself, so
 * its memory is little more than what it was told to map: a fork copies all
 * of it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"

#define AGENT_PAGE	4096UL
#define AGENT_STACK	65536UL

struct agent_reply_full {
	struct dm_agent_reply head;
	uint64_t values[AGENT_VALUES];
};

/* Where an access that raises a signal goes on, and what it was. */
static _Thread_local sigjmp_buf agent_escape;
static _Thread_local volatile sig_atomic_t agent_accessing;
static _Thread_local volatile uintptr_t agent_fault;

/* The ends that agents listen to, by number; inherited by all of them. */
static int agent_channels[AGENT_CHANNELS];

static void agent_signal(int number, siginfo_t *info, void *context)
{
	(void)context;
	if (!agent_accessing)
		_exit(128 + number);
	agent_fault = (uintptr_t)info->si_addr;
	siglongjmp(agent_escape, number);
}

static uint64_t agent_access(const struct dm_agent_order *order, uint64_t page)
{
	volatile uint64_t *word = (uint64_t *)(order->args[0] + page * AGENT_PAGE);
	uint64_t value = order->args[2] + page * order->args[3];

	switch (order->what) {
	case AGENT_LOAD:
		return *word;
	case AGENT_STORE:
		*word = value;
		return value;
	default:
		return __atomic_fetch_add(word, value, __ATOMIC_SEQ_CST);
	}
}

/* One access a page, until one raises a signal. */
static void agent_touch(const struct dm_agent_order *order, struct agent_reply_full *reply)
{
	volatile uint64_t page = 0;
	int number = sigsetjmp(agent_escape, 0);

	if (!number) {
		agent_accessing = 1;
		for (; page < order->args[1]; page++) {
			uint64_t value = agent_access(order, page);

			if (page < AGENT_VALUES)
				reply->values[page] = value;
		}
	} else {
		reply->head.fault = agent_fault;
	}
	agent_accessing = 0;
	reply->head.signal = number;
	reply->head.result = page;
	reply->head.count = page < AGENT_VALUES ? page : AGENT_VALUES;
}

static void agent_answer(int channel, const struct agent_reply_full *reply, int fd)
{
	union {
		char buffer[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {};
	struct iovec data = { (void *)reply, sizeof(reply->head) + reply->head.count * sizeof(uint64_t) };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1 };

	if (fd >= 0) {
		struct cmsghdr *head = &control.align;

		message.msg_control = control.buffer;
		message.msg_controllen = sizeof(control.buffer);
		head->cmsg_level = SOL_SOCKET;
		head->cmsg_type = SCM_RIGHTS;
		head->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(head), &fd, sizeof(int));
	}
	if (sendmsg(channel, &message, MSG_NOSIGNAL) < 0)
		_exit(1);
}

static int agent_open(uint64_t device)
{
	char node[32];

	snprintf(node, sizeof(node), "/dev/hmm_dmirror%lu", (unsigned long)device);
	return open(node, O_RDWR | O_CLOEXEC);
}

/* Another program, which says that it runs, and ends when nobody listens any more. */
static void agent_exec(int channel)
{
	dup2(channel, STDIN_FILENO);
	dup2(channel, STDOUT_FILENO);
	execl("/bin/sh", "sh", "-c", "echo; exec cat >/dev/null", (char *)NULL);
	_exit(127);
}

static void agent_loop(int channel);

static void *agent_thread(void *channel)
{
	agent_loop((intptr_t)channel);
	return NULL;
}

static long agent_start(int channel)
{
	pthread_attr_t attr;
	pthread_t thread;
	int ret;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, AGENT_STACK);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	ret = pthread_create(&thread, &attr, agent_thread, (void *)(intptr_t)channel);
	pthread_attr_destroy(&attr);
	return -ret;
}

static long agent_fork(int channel)
{
	long pid = fork();

	if (pid)
		return pid < 0 ? -errno : pid;
	agent_loop(channel);
	_exit(0);
}

static void agent_loop(int channel)
{
	struct agent_reply_full reply;
	struct dm_agent_order order;

	while (recv(channel, &order, sizeof(order), 0) == sizeof(order)) {
		const uint64_t *args = order.args;
		int fd = -1;
		long ret = 0;

		memset(&reply.head, 0, sizeof(reply.head));
		switch (order.what) {
		case AGENT_LOAD:
		case AGENT_STORE:
		case AGENT_ADD:
			agent_touch(&order, &reply);
			agent_answer(channel, &reply, -1);
			continue;
		case AGENT_CALL:
			ret = syscall(args[0], args[1], args[2], args[3], args[4], args[5], args[6]);
			break;
		case AGENT_OPEN:
			ret = fd = agent_open(args[0]);
			break;
		case AGENT_FORK:
			ret = agent_fork(agent_channels[args[0]]);
			break;
		case AGENT_THREAD:
			ret = agent_start(agent_channels[args[0]]);
			break;
		case AGENT_TID:
			ret = gettid();
			break;
		case AGENT_STOP:
			agent_answer(channel, &reply, -1);
			return;
		case AGENT_EXEC:
			agent_exec(channel);
			break;
		default:
			ret = -1;
			errno = EINVAL;
		}
		reply.head.result = ret == -1 ? -errno : ret;
		agent_answer(channel, &reply, fd);
		if (fd >= 0) {
			/* Its close ends every hold of the mirror: whoever has the other one waits for that. */
			close(fd);
			agent_answer(channel, &reply, -1);
		}
	}
}

static void agent_map_scratch(int fd)
{
	struct stat stat;

	if (fstat(fd, &stat) || mmap((void *)AGENT_SCRATCH, stat.st_size, PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0) != (void *)AGENT_SCRATCH)
		_exit(1);
	close(fd);
}

/* PARENT SCRATCH CHANNEL...: obey what comes from the first channel until it is closed. */
int main(int argc, char **argv)
{
	static const int signals[] = { SIGSEGV, SIGBUS };
	struct sigaction action = { .sa_sigaction = agent_signal, .sa_flags = SA_SIGINFO | SA_NODEFER };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (argc < 4 || argc > 3 + AGENT_CHANNELS || getppid() != atoi(argv[1]))
		return 1;
	agent_map_scratch(atoi(argv[2]));
	for (int i = 3; i < argc; i++)
		agent_channels[i - 3] = atoi(argv[i]);
	for (unsigned int i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		sigaction(signals[i], &action, NULL);
	/* A child that ended is gone at once: nobody here waits for it. */
	signal(SIGCHLD, SIG_IGN);
	agent_loop(agent_channels[0]);
	return 0;
}
