/* SPDX-License-Identifier: Apache-2.0 */
/* spared.h: a fake lives in the process under test; its own allocations and jobs are no fault points. */
#ifndef TEST_FAKE_SPARED_H
#define TEST_FAKE_SPARED_H

#include "base/fault.h"

static inline void spare_cleanup(const bool *before)
{
	fault_spare(*before);
}
/* A declaration: from here to the end of the block. */
#define SPARED bool spared __attribute__((cleanup(spare_cleanup), unused)) = fault_spare(true)

#endif
