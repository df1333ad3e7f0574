/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qos.c: how dear a pod is to its host.
 *
 * kubelet puts pods of the classes BestEffort and Burstable below cgroups of these names, Guaranteed ones
 * right below "kubepods", and scores their processes so (pkg/kubelet/qos/policy.go,
 * GetContainerOOMScoreAdjust). Its scores come with containers; a VM runs before the first of them.
 */
#include "cri/sandbox/sandbox_internal.h"

#define GUARANTEED    (-997)
#define BURSTABLE_MIN 3
#define BURSTABLE_MAX 999
#define BEST_EFFORT   1000

/*
 * The `n` bytes at `part` are `name` as the cgroupfs driver has it, or end with "-<name>.slice" as systemd's
 * does.
 */
static bool names_class(const char *part, size_t n, const char *name)
{
	size_t len = strlen(name);
	size_t slice = strlen(".slice");

	if (n == len && memcmp(part, name, n) == 0)
		return true;
	if (n < len + slice || memcmp(part + n - slice, ".slice", slice) != 0)
		return false;
	n -= slice;
	return memcmp(part + n - len, name, len) == 0 && (n == len || part[n - len - 1] == '-');
}

static bool below_class(const char *cgroup, const char *name)
{
	while (*cgroup) {
		size_t n = strcspn(cgroup, "/");

		if (n > 0 && names_class(cgroup, n, name))
			return true;
		cgroup += n + (cgroup[n] == '/');
	}
	return false;
}

int sandbox_oom_score(const char *cgroup, uint64_t memory_bytes, uint64_t host_bytes)
{
	int64_t score;

	if (below_class(cgroup, "besteffort"))
		return BEST_EFFORT;
	if (!below_class(cgroup, "kubepods"))
		return 0;
	if (!below_class(cgroup, "burstable"))
		return GUARANTEED;
	/* In KiB, so that no product overflows. */
	score = host_bytes >= 1024 ? 1000 - (int64_t)(memory_bytes / 1024 * 1000 / (host_bytes / 1024)) : 0;
	return (int)(score < BURSTABLE_MIN ? BURSTABLE_MIN : score > BURSTABLE_MAX ? BURSTABLE_MAX : score);
}
