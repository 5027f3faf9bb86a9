/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The ioctl interface of the kernel's own HMM test driver.
 *
 * Numbers, layouts and names are those of lib/test_hmm_uapi.h (facts that
 * existing programs rely on); meanings are described as dmirror keeps them.
 */
#ifndef DMIRROR_UAPI_HMM_DMIRROR_H
#define DMIRROR_UAPI_HMM_DMIRROR_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct hmm_dmirror_cmd - argument of every call of this interface
 * @addr: in: first byte of the range in the mirrored process, page aligned
 * @ptr: in: where data or permissions go to or come from, in the caller
 * @npages: in: length of the range in pages; for FLAGS the new flags
 * @cpages: out: pages done from @addr on, also when the call failed
 * @faults: out: device page faults taken
 */
struct hmm_dmirror_cmd {
	__u64 addr;
	__u64 ptr;
	__u64 npages;
	__u64 cpages;
	__u64 faults;
};

#define HMM_DMIRROR_READ		_IOWR('H', 0x00, struct hmm_dmirror_cmd)
#define HMM_DMIRROR_WRITE		_IOWR('H', 0x01, struct hmm_dmirror_cmd)
#define HMM_DMIRROR_MIGRATE_TO_DEV	_IOWR('H', 0x02, struct hmm_dmirror_cmd)
#define HMM_DMIRROR_MIGRATE_TO_SYS	_IOWR('H', 0x03, struct hmm_dmirror_cmd)
#define HMM_DMIRROR_SNAPSHOT		_IOWR('H', 0x04, struct hmm_dmirror_cmd)
#define HMM_DMIRROR_EXCLUSIVE		_IOWR('H', 0x05, struct hmm_dmirror_cmd)
#define HMM_DMIRROR_CHECK_EXCLUSIVE	_IOWR('H', 0x06, struct hmm_dmirror_cmd)
#define HMM_DMIRROR_RELEASE		_IOWR('H', 0x07, struct hmm_dmirror_cmd)
#define HMM_DMIRROR_FLAGS		_IOWR('H', 0x08, struct hmm_dmirror_cmd)
#define HMM_DMIRROR_READ_UNLOCKED	_IOWR('H', 0x09, struct hmm_dmirror_cmd)

/* FLAGS: the next allocation of a migration by this context fails. */
#define HMM_DMIRROR_FLAG_FAIL_ALLOC	(1ULL << 0)

/* SNAPSHOT stores one byte a page: a permission, or'ed with where and how. */
enum {
	HMM_DMIRROR_PROT_NONE			= 0x00,	/* nothing there, faultable */
	HMM_DMIRROR_PROT_READ			= 0x01,
	HMM_DMIRROR_PROT_WRITE			= 0x02,
	HMM_DMIRROR_PROT_PMD			= 0x04,	/* mapped by a PMD */
	HMM_DMIRROR_PROT_PUD			= 0x08,	/* mapped by a PUD */
	HMM_DMIRROR_PROT_ZERO			= 0x10,	/* the zero page */
	HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL	= 0x20,
	HMM_DMIRROR_PROT_DEV_PRIVATE_REMOTE	= 0x30,
	HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL	= 0x40,
	HMM_DMIRROR_PROT_DEV_COHERENT_REMOTE	= 0x50,
	HMM_DMIRROR_PROT_ERROR			= 0xff,	/* no access possible */
};

#endif
