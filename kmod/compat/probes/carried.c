// SPDX-License-Identifier: GPL-2.0
#include <linux/hmm.h>

unsigned long probe(void);
unsigned long probe(void)
{
	return HMM_PFN_DMA_MAPPED | HMM_PFN_P2PDMA | HMM_PFN_P2PDMA_BUS;
}
