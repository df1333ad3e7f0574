/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clock.h: guests keep the host's time.
 *
 * Purpose:   a guest takes the host's wall clock once, when it boots, and then counts by itself. It is set
 *            anew when the host's clock was set (by hand, by NTP, after a suspend), when a pod is adopted,
 *            and where the two have drifted apart.
 * Threads:   the loop's thread.
 * Limits:    a guest that is off by less than 100 ms is left alone, for its clock is read over a connection
 *            that takes its own time. Nothing that a guest says about its time reaches anything but that
 *            guest's own clock.
 */
#ifndef CRI_SANDBOX_CLOCK_H
#define CRI_SANDBOX_CLOCK_H

#include "cri/command/server.h"

struct pod;

/*
 * Watches the host's wall clock for the life of the process: once. Where that cannot be had, the drift check
 * still works.
 */
int clock_watch(struct server *server, struct err *err);
/*
 * Compares a ready pod's clock with the host's and sets it if it is off. What goes wrong is logged and tried
 * again later.
 */
void clock_sync(struct pod *pod);

#endif
