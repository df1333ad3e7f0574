/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/container/cgroup.h"

#include "base/util.h"

#include <dirent.h>
#include <linux/magic.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define FILE_MAX   (1u << 20)
#define DEPTH_MAX  16
#define ROUNDS_MAX 8
#define MOUNT_BITS (MS_NOSUID | MS_NODEV | MS_NOEXEC)

static const char *const v2_wanted[] = {"cpuset", "cpu", "io", "memory", "hugetlb", "pids"};
static const char *const v1_wanted[] = {"cpuset",  "cpu",     "cpuacct", "blkio",      "memory",
					"devices", "freezer", "net_cls", "perf_event", "net_prio",
					"hugetlb", "pids",    "rdma"};

/* ---- paths --------------------------------------------------------------------------------------------- */

/* "/sys/fs/cgroup[/controller]<path>[/file]" */
static char *path_of(bool v2, const char *controller, const char *path, const char *file)
{
	return xasprintf("%s%s%s%s%s%s", CGROUP_ROOT, v2 ? "" : "/", v2 ? "" : controller, path,
			 file ? "/" : "", file ? file : "");
}

static int write_at(bool v2, const char *controller, const char *path, const char *file, const char *value)
{
	char *name CLEANUP_FREE = path_of(v2, controller, path, file);

	return name ? write_file(name, value, strlen(value), 0) : -ENOMEM;
}

static char *read_at(bool v2, const char *controller, const char *path, const char *file)
{
	char *name CLEANUP_FREE = path_of(v2, controller, path, file);
	char *text = NULL;

	if (!name || read_file(name, FILE_MAX, &text, NULL) < 0)
		return NULL;
	return text;
}

static uint64_t number_at(bool v2, const char *controller, const char *path, const char *file)
{
	char *text CLEANUP_FREE = read_at(v2, controller, path, file);
	uint64_t n = 0;

	if (text) {
		text[strcspn(text, "\n")] = 0;
		/* "max" and v1's nearly-endless limit both mean none. */
		if (parse_u64(text, &n) < 0 || n >= INT64_MAX / 4096 * 4096)
			n = 0;
	}
	return n;
}

char *cgroup_read(const char *path, const char *file)
{
	return read_at(true, "", path, file);
}

uint64_t cgroup_number(const char *path, const char *file)
{
	return number_at(true, "", path, file);
}

uint64_t cgroup_keyed(const char *text, const char *key)
{
	size_t len = strlen(key);

	for (const char *p = text; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : NULL) {
		if (strncmp(p, key, len) == 0 && p[len] == ' ')
			return strtoull(p + len + 1, NULL, 10);
	}
	return 0;
}

/* ---- set-up -------------------------------------------------------------------------------------------- */

static bool has_word(const char *text, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = text; p && (p = strstr(p, word)); p += len) {
		if ((p == text || p[-1] == ' ') && (p[len] == 0 || p[len] == ' ' || p[len] == '\n'))
			return true;
	}
	return false;
}

/*
 * Enables the wanted controllers that exist for the children of `path`; in one write, since each write costs
 * grace periods.
 */
static int enable_controllers(const char *path, struct err *err)
{
	char *have CLEANUP_FREE = read_at(true, "", path, "cgroup.controllers");
	char value[128] = "";
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(v2_wanted); i++) {
		size_t len = strlen(value);

		if (has_word(have, v2_wanted[i]))
			snprintf(value + len, sizeof(value) - len, "+%s ", v2_wanted[i]);
	}
	r = write_at(true, "", path, "cgroup.subtree_control", value);
	return r < 0 ? err_set_errno(err, r, "enable cgroup controllers %sbelow %s%s", value, CGROUP_ROOT,
				     path)
		     : 0;
}

static int make_leaf(const char *path, struct err *err)
{
	char *dir CLEANUP_FREE = path_of(true, "", path, NULL);

	if (!dir || (mkdir(dir, 0755) < 0 && errno != EEXIST))
		return err_set_errno(err, -errno, "make cgroup %s", path);
	return 0;
}

int cgroup_make(const char *path, struct err *err)
{
	return make_leaf(path, err);
}

void cgroup_remove_empty(const char *path)
{
	char *dir CLEANUP_FREE = path_of(true, "", path, NULL);

	if (dir)
		rmdir(dir);
}

void cgroup_each(const char *path, void (*fn)(void *arg, const char *name), void *arg)
{
	char *dir CLEANUP_FREE = path_of(true, "", path, NULL);
	DIR *d = dir ? opendir(dir) : NULL;
	const struct dirent *de;

	while (d && (de = readdir(d))) {
		if (de->d_type == DT_DIR && de->d_name[0] != '.')
			fn(arg, de->d_name);
	}
	if (d)
		closedir(d);
}

int cgroup_enable(bool v2, const char *parent, struct err *err)
{
	int r;

	if (!v2)
		return 0;
	r = make_leaf(parent, err);
	if (r == 0)
		r = enable_controllers("", err);
	return r == 0 ? enable_controllers(parent, err) : r;
}

int cgroup_enter_leaf(bool v2, struct err *err)
{
	int r = v2 ? make_leaf(CGROUP_AGENT, err) : 0;

	if (r == 0 && v2)
		r = write_at(true, "", CGROUP_AGENT, "cgroup.procs", "0");
	return r < 0 ? err_set_errno(err, r, "enter cgroup %s", CGROUP_AGENT) : 0;
}

static int setup_v1(struct err *err)
{
	unsigned int mounted = 0;

	if (mount("tmpfs", CGROUP_ROOT, "tmpfs", MOUNT_BITS, "mode=755") < 0)
		return err_set_errno(err, -errno, "mount tmpfs at %s", CGROUP_ROOT);
	for (size_t i = 0; i < ARRAY_SIZE(v1_wanted); i++) {
		char *dir CLEANUP_FREE = path_of(false, v1_wanted[i], "", NULL);

		if (!dir || mkdir(dir, 0755) < 0)
			return err_set_errno(err, -errno, "make %s/%s", CGROUP_ROOT, v1_wanted[i]);
		if (mount("cgroup", dir, "cgroup", MOUNT_BITS, v1_wanted[i]) < 0) {
			rmdir(dir); /* a controller that this kernel lacks */
			continue;
		}
		mounted++;
	}
	if (mounted == 0)
		return err_set(err, -ENODEV, "the kernel has neither cgroup v2 nor any v1 controller");
	write_at(false, "memory", "", "memory.use_hierarchy", "1");
	return 0;
}

bool cgroup_is_v2(void)
{
	struct statfs fs;

	return statfs(CGROUP_ROOT, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC;
}

int cgroup_setup(bool *ret_v2, struct err *err)
{
	if (mount("cgroup2", CGROUP_ROOT, "cgroup2", MOUNT_BITS, NULL) == 0) {
		*ret_v2 = true;
		return 0;
	}
	if (errno != ENODEV)
		return err_set_errno(err, -errno, "mount cgroup2 at %s", CGROUP_ROOT);
	*ret_v2 = false;
	return setup_v1(err);
}

/* ---- containers ---------------------------------------------------------------------------------------- */

int cgroup_parse(bool v2, const char *text, char **ret_path)
{
	/* "<hierarchy>:<controllers>:<path>\n"; the v2 line is "0::<path>" (cgroups(7)). */
	for (const char *p = text; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : NULL) {
		const char *controllers = strchr(p, ':');
		const char *path = controllers ? strchr(controllers + 1, ':') : NULL;
		size_t len;
		bool ours;

		if (!path)
			return -EBADMSG;
		controllers++;
		len = (size_t)(path - controllers);
		if (v2)
			ours = len == 0;
		else
			ours = len == strlen("memory") && strncmp(controllers, "memory", len) == 0;
		if (!ours)
			continue;
		path++;
		*ret_path = strndup(path, strcspn(path, "\n"));
		return *ret_path ? 0 : -ENOMEM;
	}
	return -ENOENT;
}

int cgroup_of(bool v2, pid_t pid, char **ret_path, struct err *err)
{
	char name[64];
	char *text CLEANUP_FREE = NULL;
	int r;

	snprintf(name, sizeof(name), "/proc/%d/cgroup", pid);
	r = read_file(name, FILE_MAX, &text, NULL);
	if (r == 0)
		r = cgroup_parse(v2, text, ret_path);
	return r < 0 ? err_set_errno(err, r, "cgroup of process %d", pid) : 0;
}

static int pids_of(const char *dir, pid_t *pids, size_t max, size_t *n, unsigned int depth)
{
	char *procs CLEANUP_FREE = xasprintf("%s/cgroup.procs", dir);
	char *text CLEANUP_FREE = NULL;
	DIR *d;
	const struct dirent *de;
	int r;

	r = procs ? read_file(procs, FILE_MAX, &text, NULL) : -ENOMEM;
	if (r < 0)
		return r;
	for (char *p = text; *p && *n < max; p += strspn(p, "\n"))
		pids[(*n)++] = (pid_t)strtol(p, &p, 10);
	d = depth < DEPTH_MAX ? opendir(dir) : NULL;
	while (d && (de = readdir(d))) {
		char *sub CLEANUP_FREE = NULL;

		if (de->d_type != DT_DIR || de->d_name[0] == '.')
			continue;
		sub = xasprintf("%s/%s", dir, de->d_name);
		if (sub)
			(void)pids_of(sub, pids, max, n, depth + 1);
	}
	if (d)
		closedir(d);
	return 0;
}

int cgroup_pids(bool v2, const char *path, pid_t *pids, size_t max)
{
	char *dir CLEANUP_FREE = path_of(v2, "memory", path, NULL);
	size_t n = 0;
	int r = dir ? pids_of(dir, pids, max, &n, 0) : -ENOMEM;

	return r < 0 ? r : (int)n;
}

/* v1 has no cgroup.kill: pids are read and killed again and again, until a round finds no new one. */
static int kill_v1(const char *path)
{
	pid_t *pids CLEANUP_FREE = calloc(CGROUP_PIDS_MAX, sizeof(*pids));
	int before = -1, n = pids ? 0 : -ENOMEM;

	for (int round = 0; n >= 0 && n != before && round < ROUNDS_MAX; round++) {
		before = round > 0 ? n : -1;
		n = cgroup_pids(false, path, pids, CGROUP_PIDS_MAX);
		for (int i = 0; i < n; i++)
			kill(pids[i], SIGKILL);
	}
	return n < 0 ? n : 0;
}

int cgroup_kill(bool v2, const char *path, struct err *err)
{
	int r = v2 ? write_at(true, "", path, "cgroup.kill", "1") : kill_v1(path);

	return r < 0 ? err_set_errno(err, r, "kill cgroup %s", path) : 0;
}

int cgroup_freeze(bool v2, const char *path, bool freeze, struct err *err)
{
	int r = v2 ? write_at(true, "", path, "cgroup.freeze", freeze ? "1" : "0")
		   : write_at(false, "freezer", path, "freezer.state", freeze ? "FROZEN" : "THAWED");

	return r < 0 ? err_set_errno(err, r, "%s cgroup %s", freeze ? "freeze" : "thaw", path) : 0;
}

static void remove_dirs(const char *dir, unsigned int depth)
{
	DIR *d = depth < DEPTH_MAX ? opendir(dir) : NULL;
	const struct dirent *de;

	while (d && (de = readdir(d))) {
		char *sub CLEANUP_FREE = NULL;

		if (de->d_type != DT_DIR || de->d_name[0] == '.')
			continue;
		sub = xasprintf("%s/%s", dir, de->d_name);
		if (sub)
			remove_dirs(sub, depth + 1);
	}
	if (d)
		closedir(d);
	rmdir(dir);
}

void cgroup_remove(bool v2, const char *path)
{
	DIR *d = v2 ? NULL : opendir(CGROUP_ROOT);
	const struct dirent *de;

	(void)cgroup_kill(v2, path, NULL);
	if (v2) {
		char *dir CLEANUP_FREE = path_of(true, "", path, NULL);

		if (dir)
			remove_dirs(dir, 0);
	}
	/* Every hierarchy that is mounted, named ones included: the runtime makes it in all of them. */
	while (d && (de = readdir(d))) {
		char *dir CLEANUP_FREE = de->d_name[0] == '.' ? NULL : path_of(false, de->d_name, path, NULL);

		if (dir)
			remove_dirs(dir, 0);
	}
	if (d)
		closedir(d);
}

/* ---- figures ------------------------------------------------------------------------------------------- */

uint64_t cgroup_oom_kills(bool v2, const char *path)
{
	char *text CLEANUP_FREE = v2 ? read_at(true, "", path, "memory.events")
				     : read_at(false, "memory", path, "memory.oom_control");

	return cgroup_keyed(text, "oom_kill");
}

static void stats_v2(const char *path, struct cgroup_stats *s)
{
	char *cpu CLEANUP_FREE = read_at(true, "", path, "cpu.stat");
	char *mem CLEANUP_FREE = read_at(true, "", path, "memory.stat");
	uint64_t cache;

	s->cpu_usage_ns = cgroup_keyed(cpu, "usage_usec") * 1000;
	s->memory_usage = number_at(true, "", path, "memory.current");
	s->memory_limit = number_at(true, "", path, "memory.max");
	s->swap_usage = number_at(true, "", path, "memory.swap.current");
	s->pids = number_at(true, "", path, "pids.current");
	s->memory_rss = cgroup_keyed(mem, "anon");
	s->memory_page_faults = cgroup_keyed(mem, "pgfault");
	s->memory_major_page_faults = cgroup_keyed(mem, "pgmajfault");
	cache = cgroup_keyed(mem, "inactive_file");
	s->memory_working_set = s->memory_usage > cache ? s->memory_usage - cache : 0;
}

static void stats_v1(const char *path, struct cgroup_stats *s)
{
	char *mem CLEANUP_FREE = read_at(false, "memory", path, "memory.stat");
	uint64_t cache;

	s->cpu_usage_ns = number_at(false, "cpuacct", path, "cpuacct.usage");
	s->memory_usage = number_at(false, "memory", path, "memory.usage_in_bytes");
	s->memory_limit = number_at(false, "memory", path, "memory.limit_in_bytes");
	s->pids = number_at(false, "pids", path, "pids.current");
	s->memory_rss = cgroup_keyed(mem, "total_rss");
	s->memory_page_faults = cgroup_keyed(mem, "total_pgfault");
	s->memory_major_page_faults = cgroup_keyed(mem, "total_pgmajfault");
	s->swap_usage = cgroup_keyed(mem, "total_swap");
	cache = cgroup_keyed(mem, "total_inactive_file");
	s->memory_working_set = s->memory_usage > cache ? s->memory_usage - cache : 0;
}

void cgroup_stats(bool v2, const char *path, struct cgroup_stats *ret)
{
	*ret = (struct cgroup_stats){.oom_kills = cgroup_oom_kills(v2, path)};
	if (v2)
		stats_v2(path, ret);
	else
		stats_v1(path, ret);
}
