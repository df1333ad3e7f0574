/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gate.h: the limit on boots: a few at a time, the others in order of arrival.
 *
 * Purpose:   boots share the host's CPUs. When many run at once, each takes many times as long, misses its
 *            time limit and is begun again. Behind a gate the first ones are ready early. A lane of the
 *            workers does not do this: a pod that waits has reserved its name already, can be cancelled, and
 *            leaves the gate when its boot is over while its other steps go on.
 * Threads:   every function from any thread; gate_enter blocks until the call's end at the longest.
 * Ownership: the gate outlives those that wait at it.
 * Errors:    -ETIMEDOUT (DeadlineExceeded), -ECANCELED (Cancelled).
 */
#ifndef CRI_CORE_GATE_H
#define CRI_CORE_GATE_H

#include "base/err.h"
#include "cri/core/call.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct gate {
	pthread_mutex_t lock;
	pthread_cond_t moved;
	unsigned int slots; /* at most this many inside */
	unsigned int inside;
	struct gate_waiter *first, **last; /* who waits, in order of arrival */
};

void gate_init(struct gate *gate, unsigned int slots);
/*
 * Waits, first come first served, until there is a slot, and takes it. Ends with the call at the latest: with
 * -ETIMEDOUT at its deadline, with -ECANCELED when it is cancelled.
 */
int gate_enter(struct gate *gate, struct call *call, struct err *err);
/* Gives the slot back: by whoever entered. */
void gate_leave(struct gate *gate);
/* How many are inside and how many wait. */
void gate_load(struct gate *gate, unsigned int *ret_inside, unsigned int *ret_waiting);

#endif
