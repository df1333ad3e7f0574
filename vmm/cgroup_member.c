/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup_member.c: the processes of a VM's cgroup, killing them, and the cgroup's figures. */
#include "vmm/cgroup_internal.h"

#include "base/util.h"
#include "vmm/wait_internal.h"

#include <signal.h>
#include <sys/pidfd.h>

#define PIDS_AT_ONCE   CGR_PIDS_AT_ONCE
#define KILL_AT_ONCE   64
#define RMDIR_PAUSE_NS (2 * NS_PER_MS)

/* ---- members and killing ------------------------------------------------------------------------------- */

static int read_pids(const struct cgr_hierarchy *h, const char *path, pid_t *pids, size_t max)
{
	char *data CLEANUP_FREE = NULL;
	char *save = NULL;
	size_t n = 0;
	int r = cgr_get(h, path, "cgroup.procs", &data);

	if (r < 0)
		return r;
	for (char *w = strtok_r(data, "\n", &save); w && n < max; w = strtok_r(NULL, "\n", &save)) {
		uint64_t pid;

		if (parse_u64(w, &pid) == 0 && pid > 0 && pid <= INT32_MAX)
			pids[n++] = (pid_t)pid;
	}
	return (int)n;
}

int vmm_cgroup_pids(const char *path, pid_t *pids, size_t max)
{
	struct cgr_tree t;
	int best = -ENOENT;
	int r = cgr_check_path(path, NULL);

	if (r == 0)
		r = cgr_tree(&t, NULL);
	if (r < 0)
		return r;
	for (size_t i = 0; i < t.n && best <= 0; i++) {
		r = read_pids(&t.h[i], path, pids, max);
		if (r > best)
			best = r;
	}
	return best;
}

static bool is_member(const pid_t *pids, int n, pid_t pid)
{
	for (int i = 0; i < n; i++) {
		if (pids[i] == pid)
			return true;
	}
	return false;
}

int cgr_signal_members(const struct cgr_hierarchy *h, const char *path, pid_t *pids)
{
	pid_t first[KILL_AT_ONCE];
	int fds[KILL_AT_ONCE];
	int watch = -1, n = read_pids(h, path, first, KILL_AT_ONCE), still;

	for (int i = 0; i < n; i++)
		fds[i] = first[i] == getpid() ? -1 : pidfd_open(first[i], 0);
	still = read_pids(h, path, pids, PIDS_AT_ONCE);
	for (int i = 0; i < n; i++) {
		if (fds[i] < 0)
			continue;
		if (!is_member(pids, still, first[i]) || pidfd_send_signal(fds[i], SIGKILL, NULL, 0) < 0) {
			close_fd(fds[i]);
			continue;
		}
		close_fd(watch);
		watch = fds[i];
	}
	return watch;
}

/* As cgr_signal_members; the v1 freezer keeps the members from forking meanwhile. */
static int kill_members(const struct cgr_hierarchy *h, const char *path, pid_t *pids)
{
	bool freeze = (h->has & CGR_FREEZER) && !h->v2;
	int watch;

	if (freeze)
		cgr_set(h, path, "freezer.state", "FROZEN", NULL);
	watch = cgr_signal_members(h, path, pids);
	if (freeze)
		cgr_set(h, path, "freezer.state", "THAWED", NULL);
	return watch;
}

/* One hierarchy's leaf: emptied and removed. */
static int destroy_in(const struct cgr_hierarchy *h, const char *path, pid_t *pids, int64_t deadline_ns,
		      struct err *err)
{
	for (;;) {
		int watch CLEANUP_CLOSE = -1;
		int r = cgr_remove(h, path);

		if (r == 0)
			return 0;
		if (r != -EBUSY)
			return err_set_errno(err, r, "removing cgroup %s%s", h->mount, path);
		if (h->v2)
			cgr_set(h, path, "cgroup.kill", "1", NULL);
		watch = kill_members(h, path, pids);
		if (now_monotonic_ns() >= deadline_ns)
			return err_set(err, -ETIMEDOUT, "cgroup %s%s is still in use", h->mount, path);
		/*
		 * The pidfd tells of one exit. For a moment after it the cgroup is still busy; there is no
		 * event for that.
		 */
		if (watch >= 0)
			wait_fd(watch, POLLIN, deadline_ns);
		else
			wait_pause(-1, RMDIR_PAUSE_NS, deadline_ns);
	}
}

int vmm_cgroup_destroy(const char *path, int64_t deadline_ns, struct err *err)
{
	pid_t *pids CLEANUP_FREE = malloc(PIDS_AT_ONCE * sizeof(*pids));
	struct cgr_tree t;
	int r = cgr_check_path(path, err);

	if (r == 0 && !pids)
		r = err_oom(err);
	if (r == 0)
		r = cgr_tree(&t, err);
	if (r < 0)
		return r;
	deadline_ns = wait_deadline(deadline_ns);
	/* All at once where the kernel can. */
	for (size_t i = 0; i < t.n; i++) {
		if (t.h[i].v2)
			cgr_set(&t.h[i], path, "cgroup.kill", "1", NULL);
	}
	for (size_t i = 0; i < t.n; i++) {
		int k = destroy_in(&t.h[i], path, pids, deadline_ns, r == 0 ? err : NULL);

		if (k < 0 && r == 0)
			r = k;
	}
	return r;
}

/* ---- stats --------------------------------------------------------------------------------------------- */

static uint64_t number(const struct cgr_hierarchy *h, const char *path, const char *file)
{
	char *data CLEANUP_FREE = NULL;

	return h && cgr_get(h, path, file, &data) == 0 ? strtoull(data, NULL, 10) : 0;
}

/* The value behind `key` in a flat keyed file. */
static uint64_t keyed(const struct cgr_hierarchy *h, const char *path, const char *file, const char *key)
{
	char *data CLEANUP_FREE = NULL;
	size_t len = strlen(key);

	if (!h || cgr_get(h, path, file, &data) < 0)
		return 0;
	for (char *line = data; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		if (strncmp(line, key, len) == 0 && line[len] == ' ')
			return strtoull(line + len + 1, NULL, 10);
	}
	return 0;
}

int vmm_cgroup_stats(const char *path, struct vmm_cgroup_stats *ret, struct err *err)
{
	struct vmm_cgroup_stats s = {0};
	const struct cgr_hierarchy *cpu, *mem;
	uint64_t inactive;
	struct cgr_tree t;
	int r = cgr_check_path(path, err);

	if (r == 0)
		r = cgr_tree(&t, err);
	if (r < 0)
		return r;
	/* On v2 every cgroup has cpu.stat, with or without the controller. */
	cpu = cgr_find(&t, CGR_CPUACCT);
	for (size_t i = 0; i < t.n && !cpu; i++)
		cpu = t.h[i].v2 ? &t.h[i] : NULL;
	mem = cgr_find(&t, CGR_MEMORY);
	if (!cgr_exists(&t.h[0], path))
		return err_set(err, -ENOENT, "there is no cgroup %s", path);
	if (cpu && cpu->v2)
		s.cpu_usage_ns = keyed(cpu, path, "cpu.stat", "usage_usec") * 1000;
	else
		s.cpu_usage_ns = number(cpu, path, "cpuacct.usage");
	if (mem && mem->v2) {
		s.memory_usage_bytes = number(mem, path, "memory.current");
		inactive = keyed(mem, path, "memory.stat", "inactive_file");
		s.oom_kills = keyed(mem, path, "memory.events", "oom_kill");
		s.memory_rss_bytes = keyed(mem, path, "memory.stat", "anon");
		s.page_faults = keyed(mem, path, "memory.stat", "pgfault");
		s.major_page_faults = keyed(mem, path, "memory.stat", "pgmajfault");
	} else {
		s.memory_usage_bytes = number(mem, path, "memory.usage_in_bytes");
		inactive = keyed(mem, path, "memory.stat", "total_inactive_file");
		s.oom_kills = keyed(mem, path, "memory.oom_control", "oom_kill");
		s.memory_rss_bytes = keyed(mem, path, "memory.stat", "total_rss");
		s.page_faults = keyed(mem, path, "memory.stat", "total_pgfault");
		s.major_page_faults = keyed(mem, path, "memory.stat", "total_pgmajfault");
	}
	s.memory_working_set_bytes = s.memory_usage_bytes > inactive ? s.memory_usage_bytes - inactive : 0;
	*ret = s;
	return 0;
}

/* Version 1 expresses "no limit" as nearly the largest number, rounded down to pages (PAGE_COUNTER_MAX). */
#define V1_NO_LIMIT ((uint64_t)INT64_MAX / 2)

int vmm_cgroup_memory_limit(const char *path, uint64_t *ret_bytes, struct err *err)
{
	const struct cgr_hierarchy *mem;
	struct cgr_tree t;
	uint64_t limit;
	int r = cgr_check_path(path, err);

	if (r == 0)
		r = cgr_tree(&t, err);
	if (r < 0)
		return r;
	mem = cgr_find(&t, CGR_MEMORY);
	if (!mem || !cgr_exists(mem, path))
		return err_set(err, -ENOENT, "there is no cgroup %s of the memory controller", path);
	/* "max" reads as 0. */
	limit = number(mem, path, mem->v2 ? "memory.max" : "memory.limit_in_bytes");
	*ret_bytes = limit < V1_NO_LIMIT ? limit : 0;
	return 0;
}
