/* SPDX-License-Identifier: Apache-2.0 */
/*
 * init_internal.h: what PID 1 does before it serves: environment, mounts, cgroups, sysctls, the share; and the end of
 * the guest.
 *
 * Threads: none yet; everything is synchronous and checked. Any failure is fatal (init_fatal): a guest that
 *          came up only in part would fail later and less clearly.
 */
#ifndef GUEST_INIT_INIT_INTERNAL_H
#define GUEST_INIT_INIT_INTERNAL_H

#include "base/err.h"
#include "guest/core/agent.h"

/* /proc alone: the configuration lies there. */
int init_proc(struct err *err);
/* Opens the console for log lines and sends the log there. Again at SIGUSR1. */
void init_log(void);
int init_early(struct agent *agent, struct err *err);
int init_share(const struct agent *agent, struct err *err);
int init_late(struct agent *agent, struct err *err);
/*
 * What containers, devices and interfaces need, but the first answer to the host does not: lo, cgroup
 * controllers, the lesser mounts and sysctls, watches. Done once: after the first Check, or before the first
 * request that needs it, or when nobody asks.
 */
void init_settle(struct agent *agent);
/*
 * Says why on the console, where the host finds it ("crivisor-agent: fatal: …"), and powers the machine off.
 */
void init_fatal(const struct err *err) __attribute__((noreturn));
/* Unmounts the share, syncs, powers off. Ends the process if even that fails, which panics the kernel. */
void init_power_off(void) __attribute__((noreturn));

#endif
