/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clock_internal.h: guests keep the host's time.
 *
 * Purpose:   a guest takes the host's wall clock once, when it boots, and then counts by itself. It is set
 *            anew when the host's clock was set (by hand, by NTP, after a suspend), when a pod is adopted or
 *            comes back from a snapshot, and where the two have drifted apart.
 * Threads:   the loop's thread.
 * Limits:    a guest that is off by less than 100 ms is left alone, for its clock is read over a connection
 *            that takes its own time. Nothing that a guest says about its time reaches anything but that
 *            guest's own clock.
 */
#ifndef CRI_SANDBOX_CLOCK_INTERNAL_H
#define CRI_SANDBOX_CLOCK_INTERNAL_H

#include "cri/agent/agent.h"
#include "cri/core/loop.h"

#include <stdbool.h>

struct clock_watch;

/* jumped(arg) runs whenever the host's wall clock was set by 100 ms or more. */
int clock_watch(struct loop *loop, void (*jumped)(void *arg), void *arg, struct clock_watch **ret_watch,
		struct err *err);
/* Also once the loop has ended. Returns NULL. NULL-safe. */
struct clock_watch *clock_unwatch(struct clock_watch *watch);
/*
 * Compares a guest's clock with the host's and sets it if it is off; what goes wrong is logged under `name`.
 * done (may be NULL) runs once, perhaps before this returns; `again`: the answer took too long to tell, so
 * that another try is worth it.
 */
void clock_sync(struct agent *agent, const char *name, void (*done)(void *arg, bool again), void *arg);

#endif
