// SPDX-License-Identifier: GPL-2.0
/*
 * Pages whose every word says which page it belongs to, who wrote it and as
 * which value of that page, and the ledger of those values. Whoever writes a
 * page, by the CPU or a device, holds its entry; readers hold nothing. A word
 * that a reader finds is right when it is of that page and place and its value
 * is neither older than one that was complete before the reader looked, nor
 * newer than any that had been started after.
 */
#include <stdint.h>

#include "torture.h"

#define LEDGER_WORDS	512	/* of a page */

static uint64_t stamp(uint64_t page, uint64_t place, uint64_t writer, uint64_t value)
{
	return (page + 1) << 48 | place << 39 | writer << 32 | value;
}

/* Begin a new value of up to @n pages; returns how many before one that is being written. */
uint64_t dm_ledger_lock(struct dm_entry *entry, uint64_t n)
{
	uint64_t i;

	for (i = 0; i < n; i++) {
		if (__atomic_exchange_n(&entry[i].busy, 1, __ATOMIC_ACQUIRE))
			break;
		__atomic_store_n(&entry[i].started, entry[i].started + 1, __ATOMIC_SEQ_CST);
	}
	return i;
}

void dm_ledger_unlock(struct dm_entry *entry, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		__atomic_store_n(&entry[i].busy, 0, __ATOMIC_RELEASE);
}

/* The new value is zeroes; said before they are made. */
void dm_ledger_zero(struct dm_entry *entry, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		__atomic_store_n(&entry[i].zeroed, entry[i].started, __ATOMIC_SEQ_CST);
}

/* The new value is there as a whole. */
void dm_ledger_complete(struct dm_entry *entry, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		__atomic_store_n(&entry[i].complete, entry[i].started, __ATOMIC_SEQ_CST);
}

/* Store the new value of @n pages; the first has number @page. */
void dm_ledger_stamp(const struct dm_entry *entry, uint64_t addr, uint64_t page, uint64_t n, uint64_t writer)
{
	volatile uint64_t *words = (uint64_t *)addr;

	for (uint64_t i = 0; i < n; i++)
		for (uint64_t k = 0; k < LEDGER_WORDS; k++)
			*words++ = stamp(page + i, k, writer, entry[i].started);
}

/* What is complete now, before a reader looks. */
void dm_ledger_floor(const struct dm_entry *entry, uint32_t *complete, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		complete[i] = __atomic_load_n(&entry[i].complete, __ATOMIC_SEQ_CST);
}

static int stamp_right(const struct dm_entry *entry, uint32_t complete, uint64_t page, uint64_t place,
		       uint64_t found)
{
	uint32_t value = found;

	if (!found)
		return __atomic_load_n(&entry->zeroed, __ATOMIC_SEQ_CST) >= complete;
	return found >> 48 == page + 1 && (found >> 39 & 511) == place && (found >> 32 & 127) <= DM_MIX_WRITERS &&
		value >= complete && value <= __atomic_load_n(&entry->started, __ATOMIC_SEQ_CST);
}

/*
 * Check @n pages of data, or of memory that others write meanwhile. -1 when
 * all is right, else the offset in bytes of the first word that is not, and
 * that word in @found.
 */
long dm_ledger_check(const struct dm_entry *entry, const uint32_t *complete, uint64_t addr, uint64_t page,
		     uint64_t n, uint64_t *found)
{
	const volatile uint64_t *words = (uint64_t *)addr;

	for (uint64_t i = 0; i < n; i++)
		for (uint64_t k = 0; k < LEDGER_WORDS; k++) {
			*found = words[i * LEDGER_WORDS + k];
			if (!stamp_right(entry + i, complete[i], page + i, k, *found))
				return (i * LEDGER_WORDS + k) * sizeof(*words);
		}
	return -1;
}
