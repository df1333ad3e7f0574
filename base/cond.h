/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cond.h: condition variables on the monotonic clock, waited for until a deadline in nanoseconds.
 *
 * Purpose:   every timed wait of the project measures CLOCK_MONOTONIC, so that setting the clock ends none
 *            early or late.
 * Threads:   as pthread_cond_t: any, with the mutex held.
 * Ownership: the condition is the caller's; pthread_cond_destroy ends it.
 * Units:     deadlines are what now_monotonic_ns() counts. INT64_MAX: none.
 * Errors:    0 or a negative errno.
 */
#ifndef BASE_COND_H
#define BASE_COND_H

#include <pthread.h>
#include <stdint.h>

/* A condition on CLOCK_MONOTONIC; 0, -ENOMEM or -EAGAIN. */
int cond_init(pthread_cond_t *cond);
/*
 * Waits until the condition is signalled or the deadline passes: 0 or -ETIMEDOUT. As with pthread_cond_wait,
 * 0 may also come for no reason: the caller looks at its state again.
 */
int cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t deadline_ns);

#endif
