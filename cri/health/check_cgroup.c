/* SPDX-License-Identifier: Apache-2.0 */
/* check_cgroup.c: whether pods can be limited and ended here. */
#include "cri/health/check.h"

#include "base/util.h"

/* What brings a controller back, by layout. */
static char *fix_controllers(const char *layout, const char *names)
{
	if (str_eq(layout, "v2"))
		return xasprintf(
			"enable %s in the kernel (memory: boot without cgroup_disable=memory), and do not "
			"mount it as a v1 hierarchy",
			names);
	return xasprintf(
		"for each: mkdir /sys/fs/cgroup/NAME && mount -t cgroup -o NAME cgroup /sys/fs/cgroup/NAME "
		"(%s), or boot with systemd.unified_cgroup_hierarchy=1",
		names);
}

static void check_controllers(struct check *check, const char *layout, const char *id,
			      enum check_status status, const char *names, const char *why)
{
	char *fix CLEANUP_FREE = fix_controllers(layout, names);

	if (fix)
		check_add(check, id, status, fix, "cgroup %s without %s: %s", layout, names, why);
	else
		check->oom = true;
}

/* "a", "b" or "a and b", of those that are lacking; false if none is. */
static bool lacking(bool has_a, const char *a, bool has_b, const char *b, char *out, size_t size)
{
	snprintf(out, size, "%s%s%s", has_a ? "" : a, has_a || has_b ? "" : " and ", has_b ? "" : b);
	return !has_a || !has_b;
}

void check_cgroups(struct check *check, const struct vmm_cgroups *cgroups, const struct err *err)
{
	char names[64];

	if (err) {
		check_add(check, "cgroups", CHECK_MISSING, "mount -t cgroup2 cgroup2 /sys/fs/cgroup", "%s",
			  err->msg);
		return;
	}
	/* Limits of processor and memory are in every pod that kubelet sends; pods with one would not start.
	 */
	if (lacking(cgroups->cpu, "cpu", cgroups->memory, "memory", names, sizeof(names)))
		check_controllers(check, cgroups->layout, "cgroups", CHECK_MISSING, names,
				  "pods with limits cannot start");
	else if (cgroups->read_only)
		check_add(check, "cgroups", CHECK_MISSING,
			  "mount -o remount,rw on it; in a container, a privileged one",
			  "cgroup %s is mounted read-only: pods cannot have theirs", cgroups->layout);
	else if (cgroups->crowded[0])
		check_add(check, "cgroups", CHECK_MISSING,
			  "run it outside of that container, or move the container's processes into a child "
			  "cgroup and write \"+cpu +memory\" to cgroup.subtree_control",
			  "%s is not the root cgroup and holds processes, so that no controller can be "
			  "passed on",
			  cgroups->crowded);
	else
		check_ok(check, "cgroups", "%s, with cpu and memory", cgroups->layout);
	/* The server limits by pids nowhere and by cpuset where a pod asks for it; kubelet wants both. */
	if (lacking(cgroups->cpuset, "cpuset", cgroups->pids, "pids", names, sizeof(names)))
		check_controllers(
			check, cgroups->layout, "cgroup-controllers", CHECK_NOTE, names,
			cgroups->cpuset
				? "kubelet wants it"
				: "kubelet wants it, and pods that are bound to processors cannot start");
	else
		check_ok(check, "cgroup-controllers", "cpuset and pids, which kubelet wants, are there too");
}
