/* cgroup_member.c: who is in the pod's cgroup, killing them, and the cgroup's figures. */
#include "vmm/cgroup_internal.h"

#include "base/util.h"
#include "vmm/wait_internal.h"

#include <signal.h>
#include <sys/pidfd.h>

#define PIDS_AT_ONCE   1024
#define RMDIR_PAUSE_NS (2 * NS_PER_MS)

/* ---- members and killing ------------------------------------------------------------------------------- */

static int read_pids(const struct cgroup_hierarchy *h, const char *path, pid_t *pids, size_t max)
{
	char *data CLEANUP_FREE = NULL;
	char *save = NULL;
	size_t n = 0;
	int r = cgroup_get(h, path, "cgroup.procs", &data);

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
	struct cgroup_tree t;
	int best = -ENOENT;
	int r = cgroup_check_path(path, NULL);

	if (r == 0)
		r = cgroup_find_tree(&t, NULL);
	if (r < 0)
		return r;
	for (size_t i = 0; i < t.n && best <= 0; i++) {
		r = read_pids(&t.h[i], path, pids, max);
		if (r > best)
			best = r;
	}
	return best;
}

/*
 * Signals every member once; the v1 freezer keeps them from forking meanwhile. Returns a pidfd of one of
 * them, or -1.
 */
static int kill_members(const struct cgroup_hierarchy *h, const char *path, pid_t *pids)
{
	bool freeze = (h->has & CGROUP_FREEZER) && !(h->has & CGROUP_V2);
	int watch = -1, n;

	if (freeze)
		cgroup_put(h, path, "freezer.state", "FROZEN", NULL);
	n = read_pids(h, path, pids, PIDS_AT_ONCE);
	for (int i = 0; i < n; i++) {
		int fd = pids[i] == getpid() ? -1 : pidfd_open(pids[i], 0);

		if (fd < 0)
			continue;
		/*
		 * A recycled number would be somebody else's process; inside the cgroup it is fair game, so
		 * look again.
		 */
		pidfd_send_signal(fd, SIGKILL, NULL, 0);
		close_fd(watch);
		watch = fd;
	}
	if (freeze)
		cgroup_put(h, path, "freezer.state", "THAWED", NULL);
	return watch;
}

/* One hierarchy's leaf: emptied and removed. */
static int destroy_in(const struct cgroup_hierarchy *h, const char *path, pid_t *pids, int64_t deadline_ns,
		      struct err *err)
{
	char full[CGROUP_PATH_MAX];

	if ((size_t)snprintf(full, sizeof(full), "%s%s", h->mount, path) >= sizeof(full))
		return err_set(err, -ENAMETOOLONG, "cgroup path %s is too long", path);
	for (;;) {
		int watch CLEANUP_CLOSE = -1;

		if (rmdir(full) == 0 || errno == ENOENT)
			return 0;
		if (errno != EBUSY)
			return err_set_errno(err, -errno, "removing cgroup %s", full);
		if (h->has & CGROUP_V2)
			cgroup_put(h, path, "cgroup.kill", "1", NULL);
		watch = kill_members(h, path, pids);
		if (now_monotonic_ns() >= deadline_ns)
			return err_set(err, -ETIMEDOUT, "cgroup %s is still in use", full);
		/* The pidfd tells of one death; the last moments of a dead process's cgroup have no event. */
		if (watch >= 0)
			wait_fd(watch, POLLIN, deadline_ns);
		else
			wait_pause(-1, RMDIR_PAUSE_NS, deadline_ns);
	}
}

int vmm_cgroup_destroy(const char *path, int64_t deadline_ns, struct err *err)
{
	pid_t *pids CLEANUP_FREE = malloc(PIDS_AT_ONCE * sizeof(*pids));
	struct cgroup_tree t;
	int r = cgroup_check_path(path, err);

	if (r == 0 && !pids)
		r = err_set(err, -ENOMEM, "out of memory");
	if (r == 0)
		r = cgroup_find_tree(&t, err);
	if (r < 0)
		return r;
	deadline_ns = wait_deadline(deadline_ns);
	/* All at once where the kernel can. */
	for (size_t i = 0; i < t.n; i++) {
		if (t.h[i].has & CGROUP_V2)
			cgroup_put(&t.h[i], path, "cgroup.kill", "1", NULL);
	}
	for (size_t i = 0; i < t.n; i++) {
		int k = destroy_in(&t.h[i], path, pids, deadline_ns, r == 0 ? err : NULL);

		if (k < 0 && r == 0)
			r = k;
	}
	return r;
}

/* ---- stats --------------------------------------------------------------------------------------------- */

static uint64_t number(const struct cgroup_hierarchy *h, const char *path, const char *file)
{
	char *data CLEANUP_FREE = NULL;

	return h && cgroup_get(h, path, file, &data) == 0 ? strtoull(data, NULL, 10) : 0;
}

/* The value behind `key` in a flat keyed file. */
static uint64_t keyed(const struct cgroup_hierarchy *h, const char *path, const char *file, const char *key)
{
	char *data CLEANUP_FREE = NULL;
	size_t len = strlen(key);

	if (!h || cgroup_get(h, path, file, &data) < 0)
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
	const struct cgroup_hierarchy *cpu, *mem;
	uint64_t inactive;
	struct cgroup_tree t;
	int r = cgroup_check_path(path, err);

	if (r == 0)
		r = cgroup_find_tree(&t, err);
	if (r < 0)
		return r;
	cpu = cgroup_find_controller(&t, CGROUP_CPUACCT);
	if (!cpu)
		cpu = cgroup_find_controller(&t, CGROUP_V2);
	mem = cgroup_find_controller(&t, CGROUP_MEMORY);
	if (!cgroup_exists(&t.h[0], path))
		return err_set(err, -ENOENT, "there is no cgroup %s", path);
	if (cpu && (cpu->has & CGROUP_V2))
		s.cpu_usage_ns = keyed(cpu, path, "cpu.stat", "usage_usec") * 1000;
	else
		s.cpu_usage_ns = number(cpu, path, "cpuacct.usage");
	if (mem && (mem->has & CGROUP_V2)) {
		s.memory_usage_bytes = number(mem, path, "memory.current");
		inactive = keyed(mem, path, "memory.stat", "inactive_file");
		s.oom_kills = keyed(mem, path, "memory.events", "oom_kill");
	} else {
		s.memory_usage_bytes = number(mem, path, "memory.usage_in_bytes");
		inactive = keyed(mem, path, "memory.stat", "total_inactive_file");
		s.oom_kills = keyed(mem, path, "memory.oom_control", "oom_kill");
	}
	s.memory_working_set_bytes = s.memory_usage_bytes > inactive ? s.memory_usage_bytes - inactive : 0;
	*ret = s;
	return 0;
}

/* Version 1 says "none" by a number that is nearly the largest, rounded down to pages (PAGE_COUNTER_MAX). */
#define V1_NO_LIMIT ((uint64_t)INT64_MAX / 2)

int vmm_cgroup_memory_limit(const char *path, uint64_t *ret_bytes, struct err *err)
{
	const struct cgroup_hierarchy *mem;
	struct cgroup_tree t;
	uint64_t limit;
	int r = cgroup_check_path(path, err);

	if (r == 0)
		r = cgroup_find_tree(&t, err);
	if (r < 0)
		return r;
	mem = cgroup_find_controller(&t, CGROUP_MEMORY);
	if (!mem || !cgroup_exists(mem, path))
		return err_set(err, -ENOENT, "there is no cgroup %s of the memory controller", path);
	/* "max" is no number, and reads as 0. */
	limit = number(mem, path, mem->has & CGROUP_V2 ? "memory.max" : "memory.limit_in_bytes");
	*ret_bytes = limit < V1_NO_LIMIT ? limit : 0;
	return 0;
}
