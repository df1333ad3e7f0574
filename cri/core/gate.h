/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gate.h: a few at a time, the others in their order.
 *
 * Purpose:   boots share the host's CPUs. Many at once each take many times as long, so that they miss their
 *            time limits and are begun again. Behind a gate the first are ready early. A lane of the workers
 *            would not do: who waits has its name reserved already, can be cancelled, and goes on with its
 *            other steps when its boot is over.
 * Threads:   every function from any thread; gate_enter blocks.
 * Ownership: the gate must outlive those that wait at it.
 */
#ifndef CRI_CORE_GATE_H
#define CRI_CORE_GATE_H

#include "base/err.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct gate {
	pthread_mutex_t lock;
	pthread_cond_t moved;
	unsigned int slots; /* at most that many inside */
	unsigned int inside;
	struct gate_waiter *first, **last; /* who waits, in order of arrival */
};

void gate_init(struct gate *gate, unsigned int slots);
/*
 * Waits, first come first served, until there is a place, and takes it. 0, or what there was instead:
 * -ETIMEDOUT at `deadline_ns` (monotonic), -ECANCELED soon after `given_up`, which may be NULL, says true
 * (asked about every 100 ms, from this thread, with no lock held).
 */
int gate_enter(struct gate *gate, int64_t deadline_ns, bool (*given_up)(void *arg), void *arg,
	       struct err *err);
/* By whoever entered. */
void gate_leave(struct gate *gate);
/* How many are inside and how many wait. */
void gate_load(struct gate *gate, unsigned int *ret_inside, unsigned int *ret_waiting);

#endif
