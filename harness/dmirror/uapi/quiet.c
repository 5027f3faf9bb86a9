// SPDX-License-Identifier: GPL-2.0
/*
 * Memory for an interpreter that is to map and unmap nothing for a while: all
 * of it from the heap, which is made large enough before.
 */
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* Let malloc() have @bytes now, keep what is freed, and map nothing by itself. */
void dm_quiet_reserve(uint64_t bytes)
{
	void *volatile heap;	/* the compiler drops a pair of calls that it sees through */

	mallopt(M_ARENA_MAX, 1);
	mallopt(M_MMAP_THRESHOLD, 32 << 20);	/* the most that glibc takes */
	mallopt(M_TRIM_THRESHOLD, -1);
	heap = malloc(bytes);
	free(heap);
}

/* What is mapped lies above the heap. */
static int in_heap(void *addr)
{
	return addr < sbrk(0);
}

/* PyObjectArenaAllocator.alloc: an address, or 0. */
uint64_t dm_quiet_alloc(void *ctx, size_t size)
{
	void *addr = malloc(size);

	(void)ctx;
	if (addr && in_heap(addr))
		return (uint64_t)addr;
	free(addr);
	addr = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return addr == MAP_FAILED ? 0 : (uint64_t)addr;
}

/* PyObjectArenaAllocator.free, also of what the allocator before this one mapped. */
void dm_quiet_free(void *ctx, void *addr, size_t size)
{
	(void)ctx;
	if (in_heap(addr))
		free(addr);
	else
		munmap(addr, size);
}
