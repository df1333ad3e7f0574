/*
 * cgroup.c: the pod's cgroup on the host, in v1, hybrid and v2.
 *
 * Facts: Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst of the kernel; the shares-to-weight line is
 *        the one that OCI
 * runtimes use. Plain files all through: libcgroup 2.0.2 knows v2's controllers only in part, caches the
 * mount table for the life of the process and has neither cgroup.kill nor subtree_control.
 * In a hybrid the leaf is made in the v2 tree as well, although no controller sits there: that gives
 * cgroup.kill.
 */
#include "vmm/vmm.h"

#include "vmm/driver.h"
#include "base/util.h"
#include "vmm/wait.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define HIERARCHIES_MAX 24
#define MOUNTINFO_MAX	(8 * 1024 * 1024)
#define FILE_MAX	(1024 * 1024)
#define CGROUP_PATH_MAX 1024
#define PIDS_AT_ONCE	1024
#define RMDIR_PAUSE_NS	(2 * NS_PER_MS)

enum {
	CPU = 1 << 0,
	CPUACCT = 1 << 1,
	CPUSET = 1 << 2,
	MEMORY = 1 << 3,
	PIDS = 1 << 4,
	FREEZER = 1 << 5,
	V2 = 1 << 8,
};

static const struct {
	const char *name;
	unsigned bit;
} controllers[] = {{"cpu", CPU},       {"cpuacct", CPUACCT}, {"cpuset", CPUSET},
		   {"memory", MEMORY}, {"pids", PIDS},	     {"freezer", FREEZER}};

struct hierarchy {
	char mount[256];
	unsigned has; /* controllers; with V2: those of the root's cgroup.controllers */
};

struct tree {
	struct hierarchy h[HIERARCHIES_MAX];
	size_t n;
};

/* ---- what this host has -------------------------------------------------------------------------------- */

static unsigned controllers_in(const char *words, const char *separators)
{
	char *copy CLEANUP_FREE = strdup(words);
	char *save = NULL;
	unsigned has = 0;

	for (char *w = copy ? strtok_r(copy, separators, &save) : NULL; w;
	     w = strtok_r(NULL, separators, &save)) {
		for (size_t i = 0; i < ARRAY_SIZE(controllers); i++) {
			if (str_eq(w, controllers[i].name))
				has |= controllers[i].bit;
		}
	}
	return has;
}

static unsigned v2_controllers(const char *mount)
{
	char path[CGROUP_PATH_MAX];
	char *data CLEANUP_FREE = NULL;

	snprintf(path, sizeof(path), "%s/cgroup.controllers", mount);
	if (read_file(path, 4096, &data, NULL) < 0)
		return V2;
	return V2 | controllers_in(data, " \n");
}

/*
 * One line of mountinfo (proc(5)): id parent dev root mountpoint options [optional…] - fstype source
 * superoptions.
 */
static void take_mount(struct tree *t, char *line)
{
	char mount[256], type[32], super[512];
	char *dash = strstr(line, " - ");
	unsigned has;

	if (!dash || sscanf(line, "%*s %*s %*s %*s %255s", mount) != 1 ||
	    sscanf(dash, " - %31s %*s %511s", type, super) != 2 || t->n == HIERARCHIES_MAX)
		return;
	if (str_eq(type, "cgroup2"))
		has = v2_controllers(mount);
	else if (str_eq(type, "cgroup"))
		has = controllers_in(super, ",");
	else
		return;
	for (size_t i = 0; i < t->n; i++) {
		if (t->h[i].has == has || (t->h[i].has & has & ~(unsigned)V2))
			return; /* mounted twice */
	}
	if (!has)
		return;
	snprintf(t->h[t->n].mount, sizeof(t->h[0].mount), "%s", mount);
	t->h[t->n++].has = has;
}

static int find_tree(struct tree *t, struct err *err)
{
	char *data CLEANUP_FREE = NULL;
	char *save = NULL;
	int r = read_file("/proc/self/mountinfo", MOUNTINFO_MAX, &data, NULL);

	t->n = 0;
	if (r < 0)
		return err_set_errno(err, r, "reading the mount table");
	for (char *line = strtok_r(data, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		take_mount(t, line);
	if (t->n == 0)
		return err_set_status(err, -ENOENT, ERR_FAILED_PRECONDITION,
				      "no cgroup hierarchy is mounted");
	return 0;
}

static int check_path(const char *path, struct err *err)
{
	if (path[0] != '/' || path[1] == 0 || strlen(path) > 512 || strstr(path, "//") ||
	    strstr(path, "/../") || strstr(path, "/./") || str_ends(path, "/..") || str_ends(path, "/.") ||
	    str_ends(path, "/"))
		return err_set(err, -EINVAL, "cgroup path \"%s\" is no plain absolute path below the root",
			       path);
	return 0;
}

/* ---- files --------------------------------------------------------------------------------------------- */

static int put(const struct hierarchy *h, const char *path, const char *file, const char *value,
	       struct err *err)
{
	char full[CGROUP_PATH_MAX];
	int r;

	if ((size_t)snprintf(full, sizeof(full), "%s%s/%s", h->mount, path, file) >= sizeof(full))
		return err_set(err, -ENAMETOOLONG, "cgroup path %s is too long", path);
	r = write_file(full, value, strlen(value), 0);
	return r < 0 ? err_set_errno(err, r, "writing \"%s\" to %s", value, full) : 0;
}

static int get(const struct hierarchy *h, const char *path, const char *file, char **ret_data)
{
	char full[CGROUP_PATH_MAX];

	if ((size_t)snprintf(full, sizeof(full), "%s%s/%s", h->mount, path, file) >= sizeof(full))
		return -ENAMETOOLONG;
	return read_file(full, FILE_MAX, ret_data, NULL);
}

static bool exists(const struct hierarchy *h, const char *path)
{
	char full[CGROUP_PATH_MAX];
	struct stat st;

	return (size_t)snprintf(full, sizeof(full), "%s%s", h->mount, path) < sizeof(full) &&
	       stat(full, &st) == 0;
}

/* ---- making -------------------------------------------------------------------------------------------- */

/* A fresh v1 cpuset is empty, and nothing can join it. */
static int fill_cpuset(const struct hierarchy *h, const char *parent, const char *path, struct err *err)
{
	static const char *const files[] = {"cpuset.cpus", "cpuset.mems"};

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		char *mine CLEANUP_FREE = NULL, *theirs CLEANUP_FREE = NULL;
		int r;

		if (get(h, path, files[i], &mine) < 0 || !isspace((unsigned char)mine[0]))
			continue;
		if (get(h, parent, files[i], &theirs) < 0)
			continue;
		theirs[strcspn(theirs, "\n")] = 0;
		r = put(h, path, files[i], theirs, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/*
 * Passes each controller that `path` has on to its children; those that cannot be are left out and missed
 * when needed.
 */
static void pass_on(const struct hierarchy *h, const char *path)
{
	static const char *const names[] = {"cpu", "memory", "pids", "cpuset", "io"};
	char *has CLEANUP_FREE = NULL, *on CLEANUP_FREE = NULL;

	if (get(h, path, "cgroup.controllers", &has) < 0 || get(h, path, "cgroup.subtree_control", &on) < 0)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		unsigned bit = controllers_in(names[i], " ");
		char word[16];

		if (bit ? !(controllers_in(has, " \n") & bit) || (controllers_in(on, " \n") & bit)
			: !strstr(has, names[i]) || strstr(on, names[i]))
			continue;
		snprintf(word, sizeof(word), "+%s", names[i]);
		put(h, path, "cgroup.subtree_control", word, NULL); /* EBUSY: it holds processes itself */
	}
}

/* Makes path in one hierarchy, level by level; *ret_made counts the levels that were new. */
static int make_levels(const struct hierarchy *h, const char *path, int *ret_made, struct err *err)
{
	char level[CGROUP_PATH_MAX], parent[CGROUP_PATH_MAX] = "";
	const char *end = path;

	*ret_made = 0;
	while (*end) {
		char full[CGROUP_PATH_MAX];
		int r;

		end = strchrnul(end + 1, '/');
		snprintf(level, sizeof(level), "%.*s", (int)(end - path), path);
		if ((size_t)snprintf(full, sizeof(full), "%s%s", h->mount, level) >= sizeof(full))
			return err_set(err, -ENAMETOOLONG, "cgroup path %s is too long", path);
		if (h->has & V2)
			pass_on(h, parent);
		if (mkdir(full, 0755) == 0)
			++*ret_made;
		else if (errno != EEXIST)
			return err_set_errno(err, -errno, "making cgroup %s", full);
		r = (h->has & CPUSET) && !(h->has & V2) ? fill_cpuset(h, parent, level, err) : 0;
		if (r < 0)
			return r;
		memcpy(parent, level, sizeof(parent));
	}
	return 0;
}

/* Removes the last `levels` levels of path. */
static void unmake_levels(const struct hierarchy *h, const char *path, int levels)
{
	char full[CGROUP_PATH_MAX];

	if ((size_t)snprintf(full, sizeof(full), "%s%s", h->mount, path) >= sizeof(full))
		return;
	while (levels-- > 0 && rmdir(full) == 0)
		*strrchr(full, '/') = 0;
}

/* ---- limits -------------------------------------------------------------------------------------------- */

static const struct hierarchy *find_controller(const struct tree *t, unsigned bit)
{
	for (size_t i = 0; i < t->n; i++) {
		if (t->h[i].has & bit)
			return &t->h[i];
	}
	return NULL;
}

/*
 * Writes one limit. `set` is false for the default, which is written too (an update may take a limit back),
 * but whose lack of a controller is no error.
 */
static int limit(const struct tree *t, const char *path, unsigned bit, const char *v1, const char *v2,
		 bool set, const char *value, struct err *err)
{
	const struct hierarchy *h = find_controller(t, bit);
	struct err e = ERR_INIT;
	int r = -ENOENT;

	if (h)
		r = put(h, path, h->has & V2 ? v2 : v1, value, &e);
	if (r == 0 || !set)
		return 0;
	if (r == -ENOENT)
		return err_set_status(
			err, -EOPNOTSUPP, ERR_FAILED_PRECONDITION,
			"cgroup %s has no controller for %s: it is not mounted, or not passed on by a parent",
			path, h && (h->has & V2) ? v2 : v1);
	return err_copy(err, &e);
}

static int limit_memory(const struct tree *t, const char *path, const struct vmm_resources *res,
			struct err *err)
{
	const struct hierarchy *h = find_controller(t, MEMORY);
	char value[32] = "max";

	if (res->memory_limit_bytes)
		snprintf(value, sizeof(value), "%llu", (unsigned long long)res->memory_limit_bytes);
	else if (h && !(h->has & V2))
		strcpy(value, "-1");
	return limit(t, path, MEMORY, "memory.limit_in_bytes", "memory.max", res->memory_limit_bytes != 0,
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

static int limit_cpu(const struct tree *t, const char *path, const struct vmm_resources *res, struct err *err)
{
	const struct hierarchy *h = find_controller(t, CPU);
	uint64_t period = res->cpu_period_us ? res->cpu_period_us : 100000;
	bool v2 = h && (h->has & V2), quota = res->cpu_quota_us > 0;
	char value[64];
	int r;

	if (v2)
		snprintf(value, sizeof(value), "%llu",
			 (unsigned long long)(res->cpu_shares ? weight_of_shares(res->cpu_shares) : 100));
	else
		snprintf(value, sizeof(value), "%llu",
			 (unsigned long long)(res->cpu_shares ? res->cpu_shares : 1024));
	r = limit(t, path, CPU, "cpu.shares", "cpu.weight", res->cpu_shares != 0, value, err);
	if (r < 0)
		return r;
	if (v2) {
		if (quota)
			snprintf(value, sizeof(value), "%lld %llu", (long long)res->cpu_quota_us,
				 (unsigned long long)period);
		else
			snprintf(value, sizeof(value), "max %llu", (unsigned long long)period);
		return limit(t, path, CPU, "", "cpu.max", quota, value, err);
	}
	/* The old quota must not be refused against the new period: lift it first. */
	limit(t, path, CPU, "cpu.cfs_quota_us", "", false, "-1", NULL);
	snprintf(value, sizeof(value), "%llu", (unsigned long long)period);
	r = limit(t, path, CPU, "cpu.cfs_period_us", "", quota, value, err);
	if (r == 0 && quota) {
		snprintf(value, sizeof(value), "%lld", (long long)res->cpu_quota_us);
		r = limit(t, path, CPU, "cpu.cfs_quota_us", "", true, value, err);
	}
	return r;
}

static int apply(const struct tree *t, const char *path, const struct vmm_resources *res, struct err *err)
{
	char value[32] = "max";
	int r = limit_memory(t, path, res, err);

	if (r == 0)
		r = limit_cpu(t, path, res, err);
	if (res->pids_max)
		snprintf(value, sizeof(value), "%llu", (unsigned long long)res->pids_max);
	if (r == 0)
		r = limit(t, path, PIDS, "pids.max", "pids.max", res->pids_max != 0, value, err);
	if (r == 0 && !str_empty(res->cpuset_cpus))
		r = limit(t, path, CPUSET, "cpuset.cpus", "cpuset.cpus", true, res->cpuset_cpus, err);
	if (r == 0 && !str_empty(res->cpuset_mems))
		r = limit(t, path, CPUSET, "cpuset.mems", "cpuset.mems", true, res->cpuset_mems, err);
	return r;
}

int vmm_cgroup_create(const char *path, const struct vmm_resources *res, struct err *err)
{
	int made[HIERARCHIES_MAX] = {0};
	struct tree t;
	size_t i;
	int r = check_path(path, err);

	if (r == 0)
		r = find_tree(&t, err);
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
	struct tree t;
	int r = check_path(path, err);

	if (r == 0)
		r = find_tree(&t, err);
	if (r == 0 && !exists(&t.h[0], path))
		r = err_set(err, -ENOENT, "there is no cgroup %s", path);
	return r < 0 ? r : apply(&t, path, res, err);
}

int cgroup_procs_files(const char *path, char ***ret_files, struct err *err)
{
	char **files CLEANUP_STRV = NULL;
	struct tree t;
	int r = check_path(path, err);

	if (r == 0)
		r = find_tree(&t, err);
	for (size_t i = 0; r == 0 && i < t.n; i++) {
		if (!exists(&t.h[i], path))
			continue;
		r = strv_addf(&files, "%s%s/cgroup.procs", t.h[i].mount, path);
		if (r < 0)
			err_set(err, r, "out of memory");
	}
	if (r == 0 && !files)
		r = err_set(err, -ENOENT, "there is no cgroup %s", path);
	if (r == 0)
		*ret_files = move_ptr(files);
	return r;
}

/* ---- members and killing ------------------------------------------------------------------------------- */

static int read_pids(const struct hierarchy *h, const char *path, pid_t *pids, size_t max)
{
	char *data CLEANUP_FREE = NULL;
	char *save = NULL;
	size_t n = 0;
	int r = get(h, path, "cgroup.procs", &data);

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
	struct tree t;
	int best = -ENOENT;
	int r = check_path(path, NULL);

	if (r == 0)
		r = find_tree(&t, NULL);
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
static int kill_members(const struct hierarchy *h, const char *path, pid_t *pids)
{
	bool freeze = (h->has & FREEZER) && !(h->has & V2);
	int watch = -1, n;

	if (freeze)
		put(h, path, "freezer.state", "FROZEN", NULL);
	n = read_pids(h, path, pids, PIDS_AT_ONCE);
	for (int i = 0; i < n; i++) {
		int fd = pids[i] == getpid() ? -1 : (int)syscall(SYS_pidfd_open, pids[i], 0);

		if (fd < 0)
			continue;
		/*
		 * A recycled number would be somebody else's process; inside the cgroup it is fair game, so
		 * look again.
		 */
		syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
		close_fd(watch);
		watch = fd;
	}
	if (freeze)
		put(h, path, "freezer.state", "THAWED", NULL);
	return watch;
}

/* One hierarchy's leaf: emptied and removed. */
static int destroy_in(const struct hierarchy *h, const char *path, pid_t *pids, int64_t deadline_ns,
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
		if (h->has & V2)
			put(h, path, "cgroup.kill", "1", NULL);
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
	struct tree t;
	int r = check_path(path, err);

	if (r == 0 && !pids)
		r = err_set(err, -ENOMEM, "out of memory");
	if (r == 0)
		r = find_tree(&t, err);
	if (r < 0)
		return r;
	deadline_ns = wait_deadline(deadline_ns);
	/* All at once where the kernel can. */
	for (size_t i = 0; i < t.n; i++) {
		if (t.h[i].has & V2)
			put(&t.h[i], path, "cgroup.kill", "1", NULL);
	}
	for (size_t i = 0; i < t.n; i++) {
		int k = destroy_in(&t.h[i], path, pids, deadline_ns, r == 0 ? err : NULL);

		if (k < 0 && r == 0)
			r = k;
	}
	return r;
}

/* ---- stats --------------------------------------------------------------------------------------------- */

static uint64_t number(const struct hierarchy *h, const char *path, const char *file)
{
	char *data CLEANUP_FREE = NULL;

	return h && get(h, path, file, &data) == 0 ? strtoull(data, NULL, 10) : 0;
}

/* The value behind `key` in a flat keyed file. */
static uint64_t keyed(const struct hierarchy *h, const char *path, const char *file, const char *key)
{
	char *data CLEANUP_FREE = NULL;
	size_t len = strlen(key);

	if (!h || get(h, path, file, &data) < 0)
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
	const struct hierarchy *cpu, *mem;
	uint64_t inactive;
	struct tree t;
	int r = check_path(path, err);

	if (r == 0)
		r = find_tree(&t, err);
	if (r < 0)
		return r;
	cpu = find_controller(&t, CPUACCT);
	if (!cpu)
		cpu = find_controller(&t, V2);
	mem = find_controller(&t, MEMORY);
	if (!exists(&t.h[0], path))
		return err_set(err, -ENOENT, "there is no cgroup %s", path);
	if (cpu && (cpu->has & V2))
		s.cpu_usage_ns = keyed(cpu, path, "cpu.stat", "usage_usec") * 1000;
	else
		s.cpu_usage_ns = number(cpu, path, "cpuacct.usage");
	if (mem && (mem->has & V2)) {
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
