/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cond.h"

#include "base/util.h"

#include <assert.h>
#include <errno.h>

int cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;
	int r = pthread_condattr_init(&attr);

	if (r != 0)
		return -r;
	r = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	if (r == 0)
		r = pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
	return -r;
}

int cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t deadline_ns)
{
	struct timespec until = ns_to_timespec(deadline_ns > 0 ? deadline_ns : 0);
	int r = pthread_cond_timedwait(cond, lock, &until);

	assert(r == 0 || r == ETIMEDOUT);
	return r == ETIMEDOUT ? -ETIMEDOUT : 0;
}
