/* SPDX-License-Identifier: Apache-2.0 */
/*
 * setup_internal.h: what makes the agent's place the pod's: hostname, sysctls, the shared /dev/shm and PID
 * namespace, DNS.
 *
 * Threads:   the loop's. Everything may be asked for again with the same result. Beside a VM a hostname and
 *            sysctls are refused: they are the host's.
 * Errors:    name what failed, such as an unknown sysctl.
 */
#ifndef GUEST_POD_SETUP_INTERNAL_H
#define GUEST_POD_SETUP_INTERNAL_H

#include "api/agent/agent.pb-c.h"
#include "guest/core/agent.h"

int pod_setup(struct agent *agent, const Crivisor__Agent__V1__Sandbox *sb, struct err *err);
/*
 * The path below /proc/sys of a sysctl name, dots or slashes between its parts (a slash-separated part may
 * hold dots, as "net/ipv4/conf/eth0.1/…"); NULL if the path could lead elsewhere.
 */
char *pod_sysctl_path(const char *name);

#endif
