// SPDX-License-Identifier: GPL-2.0
/*
 * System calls and memory accesses for the client. cffi drops the interpreter
 * lock around each, so a thread that waits in the kernel keeps no other thread
 * from running. Those that can fail return a negative errno. Those that a
 * benchmark measures note their time, which the interpreter's is no part of.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define RESULT(call) ({ long ret_ = (call); ret_ == -1 ? -errno : ret_; })

static _Thread_local uint64_t elapsed;

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * UINT64_C(1000000000) + time.tv_nsec;
}

/* Nanoseconds that this thread's last dm_ioctl(), dm_touch() or dm_copy() took. */
uint64_t dm_elapsed(void)
{
	return elapsed;
}

int dm_ioctl(int fd, uint64_t number, void *arg)
{
	uint64_t start = now();
	int ret = RESULT(ioctl(fd, number, arg));

	elapsed = now() - start;
	return ret;
}

long dm_mmap(uint64_t addr, uint64_t length, int prot, int flags, int fd, uint64_t offset)
{
	return RESULT((long)mmap((void *)addr, length, prot, flags, fd, offset));
}

int dm_munmap(uint64_t addr, uint64_t length)
{
	return RESULT(munmap((void *)addr, length));
}

int dm_mprotect(uint64_t addr, uint64_t length, int prot)
{
	return RESULT(mprotect((void *)addr, length, prot));
}

int dm_madvise(uint64_t addr, uint64_t length, int advice)
{
	return RESULT(madvise((void *)addr, length, advice));
}

long dm_mremap(uint64_t addr, uint64_t old_length, uint64_t new_length, int flags, uint64_t new_addr)
{
	return RESULT((long)mremap((void *)addr, old_length, new_length, flags, (void *)new_addr));
}

long dm_vmsplice(int pipe, uint64_t addr, uint64_t length)
{
	struct iovec vector = { (void *)addr, length };

	return RESULT(vmsplice(pipe, &vector, 1, 0));
}

uint64_t dm_load(uint64_t addr)
{
	return *(volatile uint64_t *)addr;
}

void dm_store(uint64_t addr, uint64_t value)
{
	*(volatile uint64_t *)addr = value;
}

void dm_touch(uint64_t addr, uint64_t npages)
{
	uint64_t start = now(), page = getpagesize();

	for (; npages--; addr += page)
		*(volatile char *)addr;
	elapsed = now() - start;
}

void dm_copy(uint64_t to, uint64_t from, uint64_t bytes)
{
	uint64_t start = now();

	memcpy((void *)to, (void *)from, bytes);
	elapsed = now() - start;
}

/* Word @index of a region filled with @seed: no two words of one or of two seeds are alike by accident. */
static uint64_t word(uint64_t seed, uint64_t index)
{
	return (seed << 40) ^ (index * UINT64_C(0x9e3779b97f4a7c15));
}

void dm_fill(void *data, uint64_t bytes, uint64_t seed, uint64_t first)
{
	uint64_t *words = data;

	for (uint64_t i = 0; i < bytes / sizeof(*words); i++)
		words[i] = word(seed, first + i);
}

/* The offset in bytes of the first word that differs, or -1. */
long dm_check(const void *data, uint64_t bytes, uint64_t seed, uint64_t first)
{
	const volatile uint64_t *words = data;

	for (uint64_t i = 0; i < bytes / sizeof(*words); i++)
		if (words[i] != word(seed, first + i))
			return i * sizeof(*words);
	return -1;
}
