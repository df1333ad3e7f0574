/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cgroup.c: making a VM's cgroup and its limits, in v1, hybrid and v2.
 *
 * Source:    Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst of the kernel; the conversion of shares
 *            to weight is the one that OCI runtimes use.
 *
 * In a hybrid the leaf is made in the v2 tree as well, although no controller of ours is there: that gives
 * cgroup.kill.
 */
#include "vmm/cgroup_internal.h"

#include "base/util.h"

#include <ctype.h>

#define LEVELS_MAX 256 /* of a path of 512 bytes */

int cgr_check_path(const char *path, struct err *err)
{
	if (path[0] != '/' || path[1] == 0 || strlen(path) > 512 || strstr(path, "//") ||
	    strstr(path, "/../") || strstr(path, "/./") || str_ends(path, "/..") || str_ends(path, "/.") ||
	    str_ends(path, "/"))
		return err_set(err, -EINVAL, "cgroup path \"%s\" is not a plain absolute path below the root",
			       path);
	return 0;
}

const struct cgr_hierarchy *cgr_find(const struct cgr_tree *t, unsigned bits)
{
	for (size_t i = 0; i < t->n; i++) {
		if (t->h[i].has & bits)
			return &t->h[i];
	}
	return NULL;
}

/* ---- making -------------------------------------------------------------------------------------------- */

/* A new v1 cpuset is empty, and no process can join it. */
static int fill_cpuset(const struct cgr_hierarchy *h, const char *parent, const char *path, struct err *err)
{
	static const char *const files[] = {"cpuset.cpus", "cpuset.mems"};

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		char *mine CLEANUP_FREE = NULL, *theirs CLEANUP_FREE = NULL;
		int r;

		if (cgr_get(h, path, files[i], &mine) < 0 || (mine[0] && !isspace((unsigned char)mine[0])))
			continue;
		if (cgr_get(h, parent, files[i], &theirs) < 0)
			continue;
		theirs[strcspn(theirs, "\n")] = 0;
		r = cgr_set(h, path, files[i], theirs, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/*
 * Ends of the levels of a path: "/a/b" has the levels "/a" and "/a/b". Their number; cgr_check_path bounds
 * it.
 */
static int split(const char *path, size_t ends[LEVELS_MAX])
{
	int n = 0;

	for (const char *end = path; *end && n < LEVELS_MAX;) {
		end = strchrnul(end + 1, '/');
		ends[n++] = (size_t)(end - path);
	}
	return n;
}

static int existing_levels(const struct cgr_hierarchy *h, const char *path, const size_t *ends, int n)
{
	char level[CGR_PATH_MAX];

	for (; n > 0; n--) {
		snprintf(level, sizeof(level), "%.*s", (int)ends[n - 1], path);
		if (cgr_exists(h, level))
			break;
	}
	return n;
}

/*
 * Makes the levels of path that are missing in one hierarchy; *ret_made counts them, on failure too. On v1
 * one call makes all of them, except for cpusets, which are filled one by one. On v2 each level may need
 * controllers passed on to it.
 */
static int make_levels(const struct cgr_hierarchy *h, const char *path, int *ret_made, struct err *err)
{
	char level[CGR_PATH_MAX], parent[CGR_PATH_MAX] = "";
	bool cpuset = !h->v2 && (h->has & CGR_CPUSET), each = h->v2 || cpuset;
	size_t ends[LEVELS_MAX];
	int n = split(path, ends), have = existing_levels(h, path, ends, n), r = 0;

	for (int i = each ? 0 : n - 1; r == 0 && i < n; i++) {
		snprintf(level, sizeof(level), "%.*s", (int)ends[i], path);
		if (h->v2 || i >= have)
			r = cgr_make(h, parent, level, err);
		if (r == 0 && cpuset)
			r = fill_cpuset(h, parent, level, err);
		memcpy(parent, level, sizeof(parent));
	}
	*ret_made = (r < 0 ? existing_levels(h, path, ends, n) : n) - have;
	return r;
}

/* Removes the last `levels` levels of path, up to the first that is in use. */
static void unmake_levels(const struct cgr_hierarchy *h, const char *path, int levels)
{
	char level[CGR_PATH_MAX];

	snprintf(level, sizeof(level), "%s", path);
	while (levels-- > 0 && cgr_remove(h, level) == 0)
		*strrchr(level, '/') = 0;
}

/* ---- limits -------------------------------------------------------------------------------------------- */

/*
 * Writes one limit. `set` is false for the default: it is written too, since an update may lift a limit, but
 * a missing controller is no error then.
 */
static int limit(const struct cgr_tree *t, const char *path, unsigned bit, const char *v1, const char *v2,
		 bool set, const char *value, struct err *err)
{
	const struct cgr_hierarchy *h = cgr_find(t, bit);
	struct err e = ERR_INIT;
	int r = -ENOENT;

	if (h)
		r = cgr_set(h, path, h->v2 ? v2 : v1, value, &e);
	if (r == 0 || !set)
		return 0;
	if (r == -ENOENT)
		return err_set_status(
			err, -EOPNOTSUPP, ERR_FAILED_PRECONDITION,
			"cgroup %s has no controller for %s: it is not mounted, or not passed on by a parent",
			path, (h ? h : &t->h[0])->v2 ? v2 : v1);
	return err_copy(err, &e);
}

static int limit_memory(const struct cgr_tree *t, const char *path, const struct vmm_resources *res,
			struct err *err)
{
	const struct cgr_hierarchy *h = cgr_find(t, CGR_MEMORY);
	char value[32] = "max";

	if (res->memory_limit_bytes)
		snprintf(value, sizeof(value), "%llu", (unsigned long long)res->memory_limit_bytes);
	else if (h && !h->v2)
		strcpy(value, "-1");
	return limit(t, path, CGR_MEMORY, "memory.limit_in_bytes", "memory.max", res->memory_limit_bytes != 0,
		     value, err);
}

static uint64_t weight_of_shares(uint64_t shares)
{
	if (shares < 2)
		shares = 2;
	if (shares > 262144)
		shares = 262144;
	return 1 + (shares - 2) * 9999 / 262142;
}

static int limit_cpu(const struct cgr_tree *t, const char *path, const struct vmm_resources *res,
		     struct err *err)
{
	const struct cgr_hierarchy *h = cgr_find(t, CGR_CPU);
	uint64_t period = res->cpu_period_us ? res->cpu_period_us : 100000;
	bool v2 = h && h->v2, quota = res->cpu_quota_us > 0;
	char value[64];
	int r;

	if (v2)
		snprintf(value, sizeof(value), "%llu",
			 (unsigned long long)(res->cpu_shares ? weight_of_shares(res->cpu_shares) : 100));
	else
		snprintf(value, sizeof(value), "%llu",
			 (unsigned long long)(res->cpu_shares ? res->cpu_shares : 1024));
	r = limit(t, path, CGR_CPU, "cpu.shares", "cpu.weight", res->cpu_shares != 0, value, err);
	if (r < 0)
		return r;
	if (v2) {
		if (quota)
			snprintf(value, sizeof(value), "%lld %llu", (long long)res->cpu_quota_us,
				 (unsigned long long)period);
		else
			snprintf(value, sizeof(value), "max %llu", (unsigned long long)period);
		return limit(t, path, CGR_CPU, "", "cpu.max", quota, value, err);
	}
	/* The kernel checks the old quota against the new period and could refuse it: lift it first. */
	limit(t, path, CGR_CPU, "cpu.cfs_quota_us", "", false, "-1", NULL);
	snprintf(value, sizeof(value), "%llu", (unsigned long long)period);
	r = limit(t, path, CGR_CPU, "cpu.cfs_period_us", "", quota, value, err);
	if (r == 0 && quota) {
		snprintf(value, sizeof(value), "%lld", (long long)res->cpu_quota_us);
		r = limit(t, path, CGR_CPU, "cpu.cfs_quota_us", "", true, value, err);
	}
	return r;
}

static int apply(const struct cgr_tree *t, const char *path, const struct vmm_resources *res, struct err *err)
{
	char value[32] = "max";
	int r = limit_memory(t, path, res, err);

	if (r == 0)
		r = limit_cpu(t, path, res, err);
	if (res->pids_max)
		snprintf(value, sizeof(value), "%llu", (unsigned long long)res->pids_max);
	if (r == 0)
		r = limit(t, path, CGR_PIDS, "pids.max", "pids.max", res->pids_max != 0, value, err);
	if (r == 0 && !str_empty(res->cpuset_cpus))
		r = limit(t, path, CGR_CPUSET, "cpuset.cpus", "cpuset.cpus", true, res->cpuset_cpus, err);
	if (r == 0 && !str_empty(res->cpuset_mems))
		r = limit(t, path, CGR_CPUSET, "cpuset.mems", "cpuset.mems", true, res->cpuset_mems, err);
	return r;
}

int vmm_cgroup_create(const char *path, const struct vmm_resources *res, struct err *err)
{
	int made[CGR_HIERARCHIES_MAX] = {0};
	struct cgr_tree t;
	size_t i;
	int r = cgr_check_path(path, err);

	if (r == 0)
		r = cgr_tree(&t, err);
	if (r < 0)
		return r;
	for (i = 0; r == 0 && i < t.n; i++)
		r = make_levels(&t.h[i], path, &made[i], err);
	if (r == 0)
		r = apply(&t, path, res, err);
	while (r < 0 && i-- > 0)
		unmake_levels(&t.h[i], path, made[i]);
	return r;
}

int vmm_cgroup_update(const char *path, const struct vmm_resources *res, struct err *err)
{
	struct cgr_tree t;
	int r = cgr_check_path(path, err);

	if (r == 0)
		r = cgr_tree(&t, err);
	if (r == 0 && !cgr_exists(&t.h[0], path))
		r = err_set(err, -ENOENT, "there is no cgroup %s", path);
	return r < 0 ? r : apply(&t, path, res, err);
}
