/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cgroup.h: a VM's cgroup on the host, in cgroup v1, hybrid and v2.
 *
 * A path names the cgroup in every hierarchy, relative to its root, e.g. "/kubepods/pod1/crivisor-<id>".
 *
 * Threads:   any. Calls into libcgroup are serialised inside; destroying waits outside of that lock.
 * Ownership: nothing is kept but libcgroup's table of mounts, which is read again when the host's mounts
 *            change.
 * Limits:    paths of at most 512 bytes, below the root, without "//", "." and "..".
 * Errors:    -EINVAL for such a path, -ENOENT where there is no such cgroup.
 */
#ifndef VMM_CGROUP_H
#define VMM_CGROUP_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct vmm_resources {
	uint64_t memory_limit_bytes; /* 0: none. The caller adds the VM's own overhead */
	uint64_t cpu_shares;	     /* 0: default; v1 scale, converted to cpu.weight on v2 */
	int64_t cpu_quota_us;	     /* <= 0: none */
	uint64_t cpu_period_us;	     /* 0: 100000 */
	uint64_t pids_max;	     /* 0: none */
	const char *cpuset_cpus;     /* NULL: inherited */
	const char *cpuset_mems;
};
/*
 * Makes the cgroup and its missing parents and applies the limits. Existing ones are reused. On failure
 * nothing new is left. -EOPNOTSUPP if a limit needs a controller that the host does not offer there.
 */
int vmm_cgroup_create(const char *path, const struct vmm_resources *res, struct err *err);
/* Applies other limits; a limit that is not set any more is lifted. */
int vmm_cgroup_update(const char *path, const struct vmm_resources *res, struct err *err);
/*
 * Kills every process in the cgroup, waits for them until the deadline (0: 30 s), and removes it; its parents
 * stay. A missing cgroup is success.
 */
int vmm_cgroup_destroy(const char *path, int64_t deadline_ns, struct err *err);
/* The processes in it: their number (at most max are stored), or a negative errno. Tests look by it. */
int vmm_cgroup_pids(const char *path, pid_t *pids, size_t max);

struct vmm_cgroup_stats {
	uint64_t cpu_usage_ns, memory_usage_bytes, memory_working_set_bytes, oom_kills;
	uint64_t memory_rss_bytes, page_faults, major_page_faults;
};
/* A figure whose controller is missing is 0. */
int vmm_cgroup_stats(const char *path, struct vmm_cgroup_stats *ret, struct err *err);
/* The cgroup's own memory limit; 0: none. -ENOENT also if there is no memory controller. */
int vmm_cgroup_memory_limit(const char *path, uint64_t *ret_bytes, struct err *err);

/* What this host offers. */
struct vmm_cgroups {
	const char *layout; /* static: "v1", "hybrid" or "v2" */
	bool cpu, memory, cpuset, pids;
	bool read_only;	   /* no cgroup can be made */
	char crowded[256]; /* v2: the mount whose top is not the root cgroup and holds processes, so that it
			      cannot pass controllers on; "": none */
};
int vmm_cgroup_look(struct vmm_cgroups *ret, struct err *err);

#endif
