/* SPDX-License-Identifier: Apache-2.0 */
/*
 * init_internal.h: what PID 1 does before it serves: environment, mounts, cgroups, sysctls, the share; and
 * the end of the VM.
 *
 * Threads: one. Everything before serving is synchronous and checked. Any failure is fatal (init_fatal): a VM
 *          that comes up only in part would fail later and less clearly.
 */
#ifndef GUEST_INIT_INIT_INTERNAL_H
#define GUEST_INIT_INIT_INTERNAL_H

#include "base/err.h"
#include "guest/core/agent.h"
#include "guest/init/config_internal.h"

/* /proc alone: the configuration lies there. */
int init_proc(struct err *err);
/* Opens the console for log lines and sends the log there. Again at SIGUSR1. */
void init_log(void);
int init_early(struct agent *agent, struct err *err);
int init_share(const struct config *config, struct err *err);
/*
 * What containers, devices and interfaces need, but the first answer to the host does not: lo, cgroup
 * controllers, the lesser mounts and sysctls, watches. For agent_ops.settle; a failure is fatal.
 */
void init_settle(struct agent *agent, const struct config *config);
/*
 * For agent_ops.release: unmounts file systems on devices and of the host, makes read-only what is in use,
 * and syncs.
 */
int init_release(struct agent *agent);
/*
 * Says why on the console, where the host finds it ("crivisor-agent: fatal: …"), syncs, and powers the
 * machine off.
 */
void init_fatal(const struct err *err) __attribute__((noreturn));
/* Powers off, without a sync. Ends the process if even that fails, which panics the kernel. */
void init_power_off(void) __attribute__((noreturn));

#endif
