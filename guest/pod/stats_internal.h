/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats_internal.h: use of resources of the VM, or of the pod's cgroup beside the VMs.
 *
 * Threads:   the loop's; reads a few files of cgroupfs and /proc.
 */
#ifndef GUEST_POD_STATS_INTERNAL_H
#define GUEST_POD_STATS_INTERNAL_H

#include "api/agent/agent.pb-c.h"

#include <stdbool.h>
#include <stdint.h>

/* The agent's own resident memory in bytes, from /proc. */
uint64_t stats_own_rss(void);
/*
 * One line of /proc/net/dev: its name (16 bytes), and bytes, packets, errors and drops received, then sent;
 * false for the two headings. For tests too.
 */
bool stats_parse_netdev(const char *line, char *name, uint64_t counters[8]);

#endif
